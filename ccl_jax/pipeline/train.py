"""`train` and `pretrain`: prepare what is missing, make the base model if asked, train, resume by itself."""

import dataclasses
import shutil
from pathlib import Path

import numpy as np
from jax.sharding import Mesh
from transformers import PreTrainedTokenizerBase

import ccl_jax
from ccl_jax.config import Config, TrainingPart
from ccl_jax.data.examples import ExampleStore
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import Plan
from ccl_jax.data.tokenization import load_tokenizer, train_tokenizer
from ccl_jax.errors import UserError
from ccl_jax.expansion.held_out import held_out_to_json, read_held_out
from ccl_jax.icd.release import open_release
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, read_architecture
from ccl_jax.model.lora import split_trained
from ccl_jax.model.settings import LoraSettings
from ccl_jax.pipeline.coding import allowed_codes
from ccl_jax.pipeline.cost import record_dev_loss, record_expansion, record_training
from ccl_jax.pipeline.files import write_text
from ccl_jax.pipeline.models import check_model, initial_model, load_start, model_hash, open_mesh, restore, save_model
from ccl_jax.pipeline.on_the_way import scoring
from ccl_jax.pipeline.prepare import Prepared, prepare_corpus, prepare_examples, tokenizer_hash
from ccl_jax.pipeline.workdir import await_file, claim_workdir, join_processes, on_process_zero, only_run, say
from ccl_jax.tasks.prompts import document_example, span_example
from ccl_jax.tasks.settings import TaskSettings
from ccl_jax.training.compilation import use_compilation_cache
from ccl_jax.training.dev_loss import DevSet
from ccl_jax.training.loop import Run, fit
from ccl_jax.training.mesh import batch_sharding
from ccl_jax.training.scoring import Scoring
from ccl_jax.training.step_costs import Cost, StepCosts

# Beside the folder of a base model: the codes that were kept out of its texts.
_HELD_OUT = 'held_out.json'


def train(config: Config, workdir: Path) -> Prepared:
    """Runs everything up to the last checkpoint; what is done already is not done again.

    Raises:
        UserError: something in the config, the data, the workdir or the cluster does not fit.
        Interrupted: there was a SIGTERM, and the state is saved.
    """
    join_processes()
    use_compilation_cache(config.training.train.compilation_cache)
    mesh = open_mesh(config.mesh)
    check_model(config)
    if config.eval.label_space:
        # A mistyped path must not show up only after the training.
        allowed_codes(config.eval.label_space, open_release(config.release))
    with only_run(workdir):
        claim_workdir(workdir, config)
        prepared = prepare_corpus(config, workdir)
        record_expansion(workdir, prepared.expansion)
        if config.base.enabled:
            make_base(config, workdir, prepared, mesh)
        else:
            _warn_of_read_terms(config, prepared)
        folder = initial_model(config, workdir)
        tokenizer = load_tokenizer(folder)
        store, plan = prepare_examples(
            config.tasks, config.training, config.seed, prepared, tokenizer, workdir / 'data' / 'examples'
        )
        say(_describe('training', store, plan))
        costs = StepCosts(store, plan, read_architecture(folder), config.lora)
        dev, dev_cost = _dev_set(config, workdir, prepared, tokenizer, plan, mesh)
        scores = scoring(config, prepared, tokenizer, costs)
        try:
            _run_training(
                config, config.training, config.lora, workdir, folder, tokenizer, store, plan, costs, mesh, dev, scores
            )
        finally:
            record_training(workdir, 'training', workdir, costs)
            if dev_cost is not None:
                record_dev_loss(workdir, config.eval.loss_split, dev_cost)
    return prepared


def pretrain(config: Config, workdir: Path) -> str:
    """`pretrain`: makes only the base model, and returns how other runs start from it.

    Writes, beside what `make_base` does, `<workdir>/base/held_out.json`: the codes whose terms the base model has not
    read. Runs that start from it must hold out no others; they do so by themselves where `expansion.seed`,
    `expansion.held_out_share`, the release and the training documents are the same, whatever their `seed`.
    `train` warns where they do not.

    Raises:
        UserError: `base.enabled` is False, or as `train`.
        Interrupted: there was a SIGTERM, and the state is saved.
    """
    if not config.base.enabled:
        raise UserError('base.enabled is False; set it to True for a base model to be made')
    join_processes()
    use_compilation_cache(config.training.train.compilation_cache)
    mesh = open_mesh(config.mesh)
    folder, held_out = workdir / 'base' / 'hf', workdir / 'base' / _HELD_OUT
    with only_run(workdir):
        claim_workdir(workdir, config)
        prepared = prepare_corpus(config, workdir)
        record_expansion(workdir, prepared.expansion)
        listed = held_out_to_json(prepared.held_out, config.expansion.held_out_share, config.expansion.seed)
        on_process_zero(lambda: write_text(held_out, listed), held_out)
        make_base(config, workdir, prepared, mesh)
    lines = [f'base model: {folder}', f'start from it by --config.base.enabled=False --config.model.path={folder}']
    if not prepared.synthetic:
        # The synthetic source holds out codes itself, by its own seed.
        lines += [f'and keep to its held-out codes by --config.expansion.held_out_file={held_out}']
    return '\n'.join(lines)


def _warn_of_read_terms(config: Config, prepared: Prepared) -> None:
    """Says so where the run holds out codes whose terms its base model, made by `pretrain`, may have read."""
    listed = Path(config.model.path).parent / _HELD_OUT
    if listed.exists() and (read := prepared.held_out - read_held_out(listed)):
        say(
            f'warning: {len(read):,} codes that this run holds out were not held out of the base model; '
            f'set expansion.held_out_file={listed}'
        )


def prepare(config: Config, workdir: Path) -> dict[str, tuple[ExampleStore, Plan]]:
    """`prepare`: everything before the first step: corpus, tokenizer, examples, plan.

    Returns examples and plan of the `training`, and before it those of the `base model`
    where the config makes its own.
    """
    check_model(config)
    with only_run(workdir):
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


def make_base(config: Config, workdir: Path, prepared: Prepared, mesh: Mesh) -> None:
    """Makes the stand-in for pretraining in `<workdir>/base/hf`: a tokenizer trained on the corpus,
    a small decoder from random weights, trained on the texts of `base_texts`."""
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
    init, all_weights = _base_init(workdir), LoraSettings()
    costs = StepCosts(store, plan, read_architecture(init), all_weights)
    try:
        _run_training(
            config, config.base_training, all_weights, workdir / 'base', init, tokenizer, store, plan, costs, mesh
        )
    finally:
        record_training(workdir, 'base', workdir / 'base', costs)
    decoder = load_start(config, init, mesh, all_weights)
    restore(decoder, config.base_training, workdir / 'base', mesh)
    save_model(decoder, tokenizer, target)
    await_file(target / 'config.json')


def _base_init(workdir: Path) -> Path:
    return workdir / 'base' / 'init'


def _base_examples(config: Config, workdir: Path, prepared: Prepared) -> tuple[ExampleStore, Plan]:
    tokenizer = load_tokenizer(_base_init(workdir))
    tasks = TaskSettings(names=('lm',), processes=config.tasks.processes)
    return prepare_examples(
        tasks, config.base_training, config.seed, prepared, tokenizer, workdir / 'base' / 'data' / 'examples'
    )


def _init_base(config: Config, workdir: Path, prepared: Prepared) -> None:
    """Trains the tokenizer on the texts, spans and documents with their targets, and draws random weights for it.

    The documents are whole here, with held-out terms where they have them: how a word is cut tells nothing of a code.
    """

    def write() -> None:
        if (_base_init(workdir) / 'config.json').exists():
            return
        documents, spans = prepared.documents('train'), prepared.spans()
        # With evidence whatever tasks.evidence says: with and without it, the base model is the same.
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
    lora: LoraSettings,
    workdir: Path,
    model_folder: Path,
    tokenizer: PreTrainedTokenizerBase,
    store: ExampleStore,
    plan: Plan,
    costs: StepCosts,
    mesh: Mesh,
    dev: DevSet | None = None,
    scores: Scoring | None = None,
) -> None:
    decoder = load_start(config, model_folder, mesh, lora)
    graphdef, trained, frozen = split_trained(decoder)
    del decoder
    fit(
        graphdef,
        trained,
        frozen=frozen,
        dropout_seed=config.seed if lora.enabled and lora.dropout else None,
        mesh=mesh,
        run=Run.from_plan(plan, flops=costs.flops_of, example_ids=lambda step: _example_ids(store, plan, step)),
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
            'model': model_hash(model_folder),
            'optimizer': dataclasses.asdict(part.optimizer),
            'task_weights': dict(part.train.task_weights),
            'accumulation': part.train.accumulation,
            'dtypes': [config.model.param_dtype, config.model.compute_dtype],
            'lora': dataclasses.asdict(lora) if lora.enabled else None,
        },
        workdir=workdir,
        dev=dev,
        scoring=scores,
    )


def _dev_set(
    config: Config, workdir: Path, prepared: Prepared, tokenizer: PreTrainedTokenizerBase, plan: Plan, mesh: Mesh
) -> tuple[DevSet | None, Cost | None]:
    """The documents of `eval.loss_split` in rows like those of the training, and what one pass over them costs.

    None where no dev loss is asked for.
    """
    if not config.eval.loss_every:
        return None, None
    tasks = dataclasses.replace(config.tasks, names=('document',))
    settings = dataclasses.replace(
        config.training.plan, buckets=plan.buckets, longest=0, steps=None, epochs=1.0, mix={}, mix_end={}
    )
    store, dev_plan = prepare_examples(
        tasks,
        dataclasses.replace(config.training, plan=settings),
        config.seed,
        prepared,
        tokenizer,
        workdir / 'data' / 'dev-examples',
        split=config.eval.loss_split,
        most_documents=config.eval.loss_documents,
    )
    say(_describe('dev loss', store, dev_plan))
    loader = config.training.loader
    dev = DevSet(
        every=config.eval.loss_every,
        shapes=tuple(sorted(dev_plan.shapes)),
        batches=lambda: (
            batch
            for _, batch in make_loader(
                store, dev_plan, batch_sharding(mesh), threads=loader.threads, prefetch=loader.prefetch
            )
        ),
    )
    architecture = read_architecture(initial_model(config, workdir))
    return dev, StepCosts(store, dev_plan, architecture, config.lora).up_to(dev_plan.steps)


def _example_ids(store: ExampleStore, plan: Plan, step: int) -> list[str]:
    return [example.example_id for example in store.examples(np.concatenate(plan.rows(step)))]


def _describe(what: str, store: ExampleStore, plan: Plan) -> str:
    report = plan.report
    steps = ', '.join(f'{count} of {length} tokens' for length, count in report['steps_per_bucket'].items())
    mix = ', '.join(f'{task} {share:.0%}' for task, share in report['mix'].items())
    return (
        f'plan of the {what}: {len(store):,} examples, {plan.steps:,} steps ({steps}); {report["fill"]:.0%} of the '
        f'positions hold tokens, modelled cost {report["modelled_cost"]:.2f} x the unpadded; target tokens: {mix}'
    )
