"""`train`: prepare what is missing, make the base model if asked, train, resume by itself."""

import dataclasses
import hashlib
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

import ccl_jax
from ccl_jax.config import Config, MeshSettings, TrainingPart
from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import Plan
from ccl_jax.data.tokenization import end_of_turn_id, load_tokenizer, train_tokenizer
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import check_checkpoint, init_decoder, load_decoder, save_decoder
from ccl_jax.pipeline.prepare import Prepared, prepare_corpus, prepare_examples, tokenizer_hash
from ccl_jax.pipeline.workdir import claim_workdir, on_process_zero, say
from ccl_jax.tasks.prompts import document_example, span_example
from ccl_jax.tasks.settings import TaskSettings
from ccl_jax.training.checkpoints import restore_parameters
from ccl_jax.training.loop import Run, fit
from ccl_jax.training.mesh import batch_sharding, make_mesh, sharding_for


def train(config: Config, workdir: Path) -> Prepared:
    """Runs everything up to the last checkpoint; what is done already is not done again."""
    mesh = open_mesh(config.mesh)
    _check_model(config)
    claim_workdir(workdir, config)
    prepared = prepare_corpus(config, workdir)
    if config.base.enabled:
        make_base(config, workdir, prepared, mesh)
    model_folder = initial_model(config, workdir)
    tokenizer = load_tokenizer(model_folder)
    store, plan = prepare_examples(
        config.tasks, config.training, config.seed, prepared, tokenizer, workdir / 'data' / 'examples'
    )
    say(_describe('training', store, plan))
    _run_training(config, config.training, workdir, model_folder, tokenizer, store, plan, mesh)
    return prepared


def prepare(config: Config, workdir: Path) -> dict[str, tuple[ExampleStore, Plan]]:
    """`prepare`: everything before the first step: corpus, tokenizer, examples, plan.

    Returns examples and plan of the `training`, and before it those of the `base model`
    where the config makes its own.
    """
    _check_model(config)
    claim_workdir(workdir, config)
    prepared = prepare_corpus(config, workdir)
    runs = {}
    if config.base.enabled:
        _init_base(config, workdir, prepared)
        runs['base model'] = _base_examples(config, workdir, prepared)
        tokenizer = load_tokenizer(_base_init(workdir))
    else:
        tokenizer = load_tokenizer(config.model.path)
    runs['training'] = prepare_examples(
        config.tasks, config.training, config.seed, prepared, tokenizer, workdir / 'data' / 'examples'
    )
    for what, (store, plan) in runs.items():
        say(_describe(what, store, plan))
    return runs


def initial_model(config: Config, workdir: Path) -> Path:
    """The Hugging Face folder that training starts from."""
    return workdir / 'base' / 'hf' if config.base.enabled else Path(config.model.path)


def open_mesh(settings: MeshSettings) -> Mesh:
    return make_mesh(settings.replica, settings.fsdp, settings.tensor)


def load_trained(config: Config, workdir: Path, mesh: Mesh) -> tuple[int, Decoder, PreTrainedTokenizerBase]:
    """Returns (steps done, decoder, tokenizer) of the newest checkpoint in `workdir`.

    Raises:
        UserError: there is no checkpoint, or the folder that training began from is gone.
    """
    if not (workdir / 'checkpoints').is_dir():
        raise UserError(f'{workdir} holds no checkpoint yet; run "ccl-jax train" on it to the end first')
    folder = initial_model(config, workdir)
    tokenizer = load_tokenizer(folder)
    decoder = _load(config, folder, mesh)
    step, restored = _restore(decoder, workdir)
    return step, restored, tokenizer


def save_model(decoder: Decoder, tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Writes a Hugging Face folder whose generation ends where an answer of ours ends."""
    save_decoder(
        decoder,
        folder,
        tokenizer=tokenizer,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=end_of_turn_id(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
    )


def _check_model(config: Config) -> None:
    """Refuses an unusable model before any work is done.

    Raises:
        UserError: the folder is no checkpoint that can be read, its tokenizer has more
            ids than the model, or the model has fewer positions than the longest bucket.
    """
    if config.base.enabled:
        positions = config.base.max_position_embeddings
    else:
        architecture = check_checkpoint(config.model.path)
        positions = architecture.max_position_embeddings
        ids = len(load_tokenizer(config.model.path))
        if ids > architecture.vocab_size:
            raise UserError(
                f'{config.model.path}: the tokenizer has {ids} ids and the model {architecture.vocab_size}; '
                'use the tokenizer that belongs to the model'
            )
    longest = config.training.plan.longest_row
    if longest > positions:
        raise UserError(
            f'the longest bucket of {longest} tokens exceeds the model of {positions} positions; shorten data.buckets'
        )


def make_base(config: Config, workdir: Path, prepared: Prepared, mesh: Mesh) -> None:
    """Makes the stand-in for pretraining in `<workdir>/base/hf`: a tokenizer trained on the corpus,
    a small decoder from random weights, trained on the source's unlabelled texts."""
    target = workdir / 'base' / 'hf'
    if (target / 'config.json').exists():
        return
    say(
        'making a tiny base model: a stand-in for pretraining, which only replaces the pretrained checkpoint that '
        'model.path would name'
    )
    _init_base(config, workdir, prepared)
    store, plan = _base_examples(config, workdir, prepared)
    say(_describe('base model', store, plan))
    tokenizer = load_tokenizer(_base_init(workdir))
    _run_training(config, config.base_training, workdir / 'base', _base_init(workdir), tokenizer, store, plan, mesh)
    _, decoder = _restore(_load(config, _base_init(workdir), mesh), workdir / 'base')
    on_process_zero(lambda: save_model(decoder, tokenizer, target), target / 'config.json')


def _base_init(workdir: Path) -> Path:
    return workdir / 'base' / 'init'


def _base_examples(config: Config, workdir: Path, prepared: Prepared) -> tuple[ExampleStore, Plan]:
    tokenizer = load_tokenizer(_base_init(workdir))
    tasks = TaskSettings(names=('lm',), processes=config.tasks.processes)
    return prepare_examples(
        tasks, config.base_training, config.seed, prepared, tokenizer, workdir / 'base' / 'data' / 'examples'
    )


def _init_base(config: Config, workdir: Path, prepared: Prepared) -> None:
    """Trains the tokenizer on the training text, spans and targets, and draws random weights for it."""

    def write() -> None:
        if (_base_init(workdir) / 'config.json').exists():
            return
        documents, spans = prepared.documents('train'), prepared.spans()
        texts = [text for _, text in prepared.texts()]
        for document in documents:
            example = document_example(document, config.tasks.output_format, config.tasks.unevidenced)
            texts.append(example.prompt + example.target)
        for span in spans:
            example = span_example([span], 'single', config.tasks.output_format)
            texts.append(example.prompt + example.target)
        folder = workdir / 'base' / 'tokenizer'
        tokenizer = train_tokenizer(texts, config.base.vocab_size, folder)
        base = config.base
        architecture = Architecture(
            vocab_size=len(tokenizer),
            hidden_size=base.hidden_size,
            intermediate_size=base.intermediate_size,
            num_hidden_layers=base.num_hidden_layers,
            num_attention_heads=base.num_attention_heads,
            num_key_value_heads=base.num_key_value_heads,
            head_dim=base.hidden_size // base.num_attention_heads,
            max_position_embeddings=base.max_position_embeddings,
            rope_theta=base.rope_theta,
            initializer_range=base.initializer_range,
            tie_word_embeddings=True,
        )
        say(f'base model: {architecture.parameter_count():,} parameters, {len(tokenizer)} token ids')
        decoder = init_decoder(architecture, seed=config.seed)
        save_model(decoder, tokenizer, _base_init(workdir))
        shutil.rmtree(folder)

    on_process_zero(write, _base_init(workdir) / 'config.json')


def _run_training(
    config: Config,
    part: TrainingPart,
    workdir: Path,
    model_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    store: ExampleStore,
    plan: Plan,
    mesh: Mesh,
) -> None:
    decoder = _load(config, model_folder, mesh)
    graphdef, params = nnx.split(decoder, nnx.Param)
    del decoder
    run = Run.from_plan(plan)
    fit(
        graphdef,
        params,
        mesh=mesh,
        run=run,
        batches=lambda start: make_loader(
            store,
            plan,
            batch_sharding(mesh),
            start_step=start,
            threads=part.loader.threads,
            prefetch=part.loader.prefetch,
            workers=part.loader.workers,
        ),
        optimizer=part.optimizer,
        settings=part.train,
        fingerprint={
            'ccl_jax': ccl_jax.__version__,
            'plan': plan.hash,
            'examples': store.fingerprint,
            'tokenizer': tokenizer_hash(tokenizer),
            'model': _model_hash(model_folder),
            'optimizer': dataclasses.asdict(part.optimizer),
            'task_weights': dict(part.train.task_weights),
            'accumulation': part.train.accumulation,
            'dtypes': [config.model.param_dtype, config.model.compute_dtype],
        },
        workdir=workdir,
    )


def _load(config: Config, folder: Path, mesh: Mesh) -> Decoder:
    return load_decoder(
        folder,
        sharding_for=lambda path, shape: sharding_for(mesh, path, shape),
        param_dtype=jnp.dtype(config.model.param_dtype),
        compute_dtype=jnp.dtype(config.model.compute_dtype),
        remat=config.model.remat,
    )


def _restore(decoder: Decoder, workdir: Path) -> tuple[int, Decoder]:
    """Replaces the parameters by those of the newest checkpoint in `workdir`."""
    graphdef, params = nnx.split(decoder, nnx.Param)
    pure = nnx.to_pure_dict(params)
    abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), pure)
    step, restored = restore_parameters(workdir / 'checkpoints', abstract)
    nnx.replace_by_pure_dict(params, restored)
    return step, nnx.merge(graphdef, params)


def _model_hash(folder: Path) -> str:
    """SHA-256 of the config and of each weight file's header and size: cheap for any model, and
    different for any two models that a mix-up could confuse."""
    digest = hashlib.sha256((folder / 'config.json').read_bytes())
    for path in sorted(folder.glob('*.safetensors')):
        with open(path, 'rb') as file:
            header = file.read(8)
            digest.update(header + file.read(int.from_bytes(header, 'little')))
        digest.update(f'{path.name} {path.stat().st_size}'.encode())
    return digest.hexdigest()


def _describe(what: str, store: ExampleStore, plan: Plan) -> str:
    report = plan.report
    steps = ', '.join(f'{count} of {length} tokens' for length, count in report['steps_per_bucket'].items())
    mix = ', '.join(f'{task} {share:.0%}' for task, share in report['mix'].items())
    return (
        f'plan of the {what}: {len(store):,} examples, {plan.steps:,} steps ({steps}); {report["fill"]:.0%} of the '
        f'positions hold tokens, modelled cost {report["modelled_cost"]:.2f} x the unpadded; target tokens: {mix}'
    )
