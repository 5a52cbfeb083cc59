"""The decoder of a run: from the folder that training starts from, and from its checkpoints."""

import hashlib
from pathlib import Path

import jax
import jax.numpy as jnp
from etils import epath
from flax import nnx
from jax.sharding import Mesh, NamedSharding
from transformers import PreTrainedTokenizerBase

from ccl_jax.config import BEST, Config, MeshSettings, TrainingPart
from ccl_jax.data.tokenization import end_of_turn_id, load_tokenizer
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import check_checkpoint, load_decoder, read_architecture, save_decoder
from ccl_jax.model.lora import add_lora, split_trained
from ccl_jax.model.settings import LoraSettings
from ccl_jax.training.checkpoints import restore_parameters
from ccl_jax.training.dev_loss import LOSS
from ccl_jax.training.loop import checkpoint_directory
from ccl_jax.training.mesh import make_mesh, sharding_for, tree_shardings


def initial_model(config: Config, workdir: Path) -> Path:
    """The Hugging Face folder that training starts from."""
    return workdir / 'base' / 'hf' if config.base.enabled else Path(config.model.path)


def open_mesh(settings: MeshSettings) -> Mesh:
    return make_mesh(settings.replica, settings.fsdp, settings.tensor)


def check_model(config: Config) -> None:
    """Refuses an unusable model before any work is done.

    Raises:
        UserError: the folder is no checkpoint that can be read, its tokenizer has more
            ids than the model, or the model has fewer positions than the longest bucket.
    """
    if config.base.enabled:
        positions = config.base.max_position_embeddings
    else:
        positions = check_folder(config.model.path).max_position_embeddings
    longest = config.training.plan.longest_row
    if longest > positions:
        raise UserError(
            f'the longest bucket of {longest} tokens exceeds the model of {positions} positions; shorten data.buckets'
        )


def check_folder(folder: str | Path) -> Architecture:
    """Checks that weights and tokenizer can be read and belong together, from headers alone; returns the architecture.

    Raises:
        UserError: the folder is no checkpoint that can be read, or its tokenizer has more ids than the model.
    """
    architecture = check_checkpoint(folder)
    ids = len(load_tokenizer(folder))
    if ids > architecture.vocab_size:
        raise UserError(
            f'{folder}: the tokenizer has {ids} ids and the model {architecture.vocab_size}; '
            'use the tokenizer that belongs to the model'
        )
    return architecture


def load_start(config: Config, folder: Path, mesh: Mesh, lora: LoraSettings) -> Decoder:
    """Returns the decoder in `folder`, with new adapters where `lora` asks for them; for rows of either plan."""

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        return sharding_for(mesh, path, shape)

    decoder = load_decoder(
        folder,
        sharding_for=sharding,
        param_dtype=jnp.dtype(config.model.param_dtype),
        compute_dtype=jnp.dtype(config.model.compute_dtype),
        remat=config.model.remat,
        mesh=mesh,
        max_segments=max(part.plan.max_segments for part in (config.training, config.base_training)),
    )
    if lora.enabled:
        add_lora(decoder, lora, config.seed, sharding_for=sharding)
    return decoder


def load_trained(config: Config, workdir: Path, mesh: Mesh) -> tuple[int, Decoder, PreTrainedTokenizerBase]:
    """Returns (steps done, decoder, tokenizer) of the run's checkpoint that `eval.checkpoint` names.

    The adapters of a LoRA run are in the decoder, beside the weights that it started from.

    Raises:
        UserError: there is no checkpoint, or the folder that training began from is gone or, under
            adapters, another model.
    """
    _check_trained(config, workdir)
    folder = initial_model(config, workdir)
    tokenizer = load_tokenizer(folder)
    decoder = load_start(config, folder, mesh, config.lora)
    return _restore_trained(config, decoder, folder, workdir, mesh), decoder, tokenizer


def load_adapters(config: Config, workdir: Path, mesh: Mesh) -> tuple[int, Decoder]:
    """Returns (steps done, decoder) of a LoRA run, where only the adapters are there: of the weights only shapes.

    Raises:
        UserError: as `load_trained`.
    """
    _check_trained(config, workdir)
    folder = initial_model(config, workdir)
    architecture = read_architecture(folder)

    def build() -> Decoder:
        decoder = Decoder(architecture, rngs=nnx.Rngs(0))
        add_lora(decoder, config.lora, config.seed)
        return decoder

    decoder = nnx.eval_shape(build)
    return _restore_trained(config, decoder, folder, workdir, mesh), decoder


def restore(
    decoder: Decoder,
    part: TrainingPart,
    workdir: Path,
    mesh: Mesh,
    *,
    fingerprint: dict[str, str] | None = None,
    best_metric: str | None = None,
) -> int:
    """Replaces what is trained by a checkpoint of the run in `workdir`; returns the steps done.

    Args:
        fingerprint, best_metric: see `restore_parameters`.
    """
    _, trained, _ = split_trained(decoder)
    pure = nnx.to_pure_dict(trained)
    abstract = jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), pure, tree_shardings(mesh, pure)
    )
    directory = checkpoint_directory(workdir, part.train)
    step, restored = restore_parameters(directory, abstract, fingerprint=fingerprint, best_metric=best_metric)
    nnx.replace_by_pure_dict(trained, restored)
    nnx.update(decoder, trained)
    return step


def save_model(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a Hugging Face folder whose generation ends where an answer of ours ends.

    Every process that holds a part of the decoder calls this, and process 0 writes.
    """
    save_decoder(
        decoder,
        folder,
        tokenizer=tokenizer,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_of_turn_id(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )


def model_hash(folder: Path) -> str:
    """SHA-256 of the config and of each weight file's header and size: cheap for any model, and
    different for any two models that a mix-up could confuse."""
    digest = hashlib.sha256((folder / 'config.json').read_bytes())
    for path in sorted(folder.glob('*.safetensors')):
        with open(path, 'rb') as file:
            header = file.read(8)
            digest.update(header + file.read(int.from_bytes(header, 'little')))
        digest.update(f'{path.name} {path.stat().st_size}'.encode())
    return digest.hexdigest()


def _restore_trained(config: Config, decoder: Decoder, folder: Path, workdir: Path, mesh: Mesh) -> int:
    return restore(
        decoder,
        config.training,
        workdir,
        mesh,
        # Adapters mean nothing beside other weights than those that they were trained beside.
        fingerprint={'model': model_hash(folder)} if config.lora.enabled else None,
        best_metric=LOSS if config.eval.checkpoint == BEST else None,
    )


def _check_trained(config: Config, workdir: Path) -> None:
    if not epath.Path(checkpoint_directory(workdir, config.training.train)).is_dir():
        raise UserError(f'{workdir} holds no checkpoint yet; run "ccl-jax train" on it to the end first')
