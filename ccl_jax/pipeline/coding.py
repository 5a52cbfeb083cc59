"""A model that codes documents, with all that it needs: from a workdir, or from an exported folder."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from transformers import PreTrainedTokenizerBase

from ccl_jax.config import Config, MeshSettings
from ccl_jax.data.tokenization import load_tokenizer
from ccl_jax.decoding.predict import DecodingReport, predict_documents
from ccl_jax.decoding.settings import CONSTRAINTS, DecodingSettings, check_choices
from ccl_jax.errors import UserError
from ccl_jax.evaluation.label_space import read_label_space
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.icd.release import Release, open_release
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import load_decoder, read_architecture
from ccl_jax.pipeline.files import write_text
from ccl_jax.pipeline.models import load_trained, open_mesh
from ccl_jax.pipeline.workdir import workdir_config
from ccl_jax.records import Document, Prediction
from ccl_jax.training.mesh import sharding_for

# In an exported folder: how its model writes answers.
CODING_FILE = 'ccl_jax.json'
# Prompt lengths for a folder that does not say what it was trained with.
_LONGEST_PROMPT = 8192
_NEW_TOKENS = 512


@dataclasses.dataclass(frozen=True)
class Coder:
    """A decoder that codes documents.

    Attributes:
        release: gives titles, and the codes that an answer may have.
        codes: those codes.
        synthetic: whether the model only ever saw synthetic notes.
        step: of the checkpoint; None for an exported folder.
    """

    decoder: Decoder
    tokenizer: PreTrainedTokenizerBase
    settings: DecodingSettings
    release: Release
    codes: Sequence[str]
    synthetic: bool
    step: int | None = None

    def changed(self, *, constrain: str | None, recheck: bool, label_space: str | None) -> 'Coder':
        """Returns the coder with what the command line says.

        Args:
            constrain: names of `CONSTRAINTS`, separated by commas, or 'none'; None for what the run says.
            recheck: whether to code quotes again, whatever the run says.
            label_space: see `allowed_codes`; None for what the run says.

        Raises:
            UserError: a name is unknown, or the label space cannot be read.
        """
        settings = dataclasses.replace(self.settings, recheck=self.settings.recheck or recheck)
        if constrain is not None:
            names = () if constrain == 'none' else tuple(filter(None, constrain.split(',')))
            check_choices(names, settings.overlong, settings.max_new_tokens)
            settings = dataclasses.replace(settings, constrain=names)
        codes = self.codes if label_space is None else allowed_codes(label_space, self.release)
        return dataclasses.replace(self, settings=settings, codes=codes)

    def predict(self, documents: Sequence[Document]) -> tuple[list[Prediction], DecodingReport]:
        return predict_documents(self.decoder, self.tokenizer, documents, self.settings, codes=self.codes)


def coder_of_run(workdir: Path, config: Config | None = None) -> Coder:
    """Returns the coder of the checkpoint that `eval.checkpoint` names.

    Args:
        config: that of the workdir where it is known, perhaps with other settings of `eval`.

    Raises:
        UserError: the workdir holds no finished checkpoint, or the label space cannot be read.
    """
    config = config or workdir_config(workdir)
    step, decoder, tokenizer = load_trained(config, workdir, open_mesh(config.mesh))
    release = open_release(config.release)
    return Coder(
        decoder=decoder,
        tokenizer=tokenizer,
        settings=decoding_settings(config),
        release=release,
        codes=allowed_codes(config.eval.label_space, release),
        synthetic=config.sources.name == 'synthetic_notes',
        step=step,
    )


def coder_of_folder(folder: Path, release: str = '') -> Coder:
    """Returns the coder of a Hugging Face folder.

    What `export` left beside the weights says how its model writes answers; a folder of another origin is
    taken to write `pairs`.

    Raises:
        UserError: the folder is no checkpoint that can be read.
    """
    saved = _read_coding(folder / CODING_FILE)
    positions = read_architecture(folder).max_position_embeddings
    mesh = open_mesh(MeshSettings())
    settings = DecodingSettings(
        output_format=saved.get('output_format', 'pairs'),
        buckets=tuple(saved.get('buckets') or _halves(min(_LONGEST_PROMPT, positions // 2))),
        max_new_tokens=saved.get('max_new_tokens', min(_NEW_TOKENS, positions // 2)),
        batch_rows=saved.get('batch_rows', 8),
        constrain=tuple(saved.get('constrain', CONSTRAINTS)),
        overlong=saved.get('overlong', 'windows'),
        window_overlap=saved.get('window_overlap', 400),
        recheck=saved.get('recheck', False),
    )
    opened = open_release(release or saved.get('release', ''))
    decoder = load_decoder(
        folder,
        sharding_for=lambda path, shape: sharding_for(mesh, path, shape),
        param_dtype=jnp.dtype(saved.get('param_dtype', 'float32')),
        compute_dtype=jnp.dtype(saved.get('compute_dtype', 'float32')),
        mesh=mesh,
    )
    return Coder(
        decoder=decoder,
        tokenizer=load_tokenizer(folder),
        settings=settings,
        release=opened,
        codes=opened.codes(),
        synthetic=saved.get('synthetic', False),
    )


def decoding_settings(config: Config) -> DecodingSettings:
    """What the config says of decoding."""
    return DecodingSettings(
        output_format=config.tasks.output_format,
        buckets=config.training.plan.prompt_lengths,
        max_new_tokens=config.eval.max_new_tokens,
        batch_rows=config.eval.batch_rows,
        constrain=config.eval.constrain,
        overlong=config.eval.overlong,
        window_overlap=config.tasks.window_overlap,
        recheck=config.eval.recheck,
    )


def allowed_codes(label_space: str, release: Release) -> Sequence[str]:
    """Returns the ICD-10-CM codes that an answer may have: those of a file, see `read_label_space`, or the release's.

    Raises:
        UserError: the file cannot be read, or names no code of ICD-10-CM.
    """
    if not label_space:
        return release.codes()
    codes = sorted(code for system, code in read_label_space(label_space) if system == ICD10CM)
    if not codes:
        raise UserError(
            f'{label_space} holds no code of ICD-10-CM, and answers have no others; give another label space'
        )
    return codes


def save_coding(config: Config, folder: Path) -> None:
    """Writes how the model of this config writes answers into its exported folder."""
    settings = decoding_settings(config)
    record = {
        'format': 1,
        **dataclasses.asdict(settings),
        'param_dtype': config.model.param_dtype,
        'compute_dtype': config.model.compute_dtype,
        'release': config.release,
        'synthetic': config.sources.name == 'synthetic_notes',
    }
    write_text(folder / CODING_FILE, json.dumps(record, indent=2) + '\n')


def _read_coding(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        saved = json.loads(path.read_text(encoding='utf-8'))
    except (OSError, ValueError):
        saved = None
    if not isinstance(saved, dict) or saved.get('format') != 1:
        raise UserError(f'{path} cannot be read; export the model again, or remove the file to use defaults')
    return saved


def _halves(longest: int) -> list[int]:
    lengths = [longest]
    while lengths[-1] >= 256:
        lengths.append(lengths[-1] // 2)
    return lengths[::-1]
