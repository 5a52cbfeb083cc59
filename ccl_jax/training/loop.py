"""The training loop: restore, compile, run the plan's steps, record each one, save.

Interrupted anywhere, the same call goes on from the latest checkpoint and gives the
losses that an uninterrupted run would have given, bit for bit on the same machine.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
from flax import nnx
from jax.sharding import Mesh

from ccl_jax.errors import Interrupted, UserError
from ccl_jax.training.checkpoints import Checkpoints
from ccl_jax.training.compilation import compile_shapes
from ccl_jax.training.console import say
from ccl_jax.training.dev_loss import LOSS, DevSet, dev_losses, make_loss_step
from ccl_jax.training.energy import EnergyMeter
from ccl_jax.training.goodput import Goodput, sentence
from ccl_jax.training.interrupt import Interrupt
from ccl_jax.training.objective import task_coefficients
from ccl_jax.training.profiling import ProfileWindow
from ccl_jax.training.recorder import Recorder
from ccl_jax.training.run import Run
from ccl_jax.training.scoring import Scoring
from ccl_jax.training.settings import OptimizerSettings, TrainingSettings
from ccl_jax.training.step import Batch, TrainState, abstract_state, init_state, make_train_step

GOODPUT = 'goodput.json'


def fit(
    graphdef: nnx.GraphDef,
    params: Any,
    *,
    mesh: Mesh,
    run: Run,
    batches: Callable[[int], Iterator[tuple[int, Batch]]],
    optimizer: OptimizerSettings,
    settings: TrainingSettings,
    fingerprint: Mapping[str, Any],
    workdir: str | Path,
    frozen: Any = None,
    dropout_seed: int | None = None,
    dev: DevSet | None = None,
    scoring: Scoring | None = None,
) -> TrainState:
    """Trains to the end of the run and returns the last state.

    Writes `checkpoints/`, `goodput.json` and what `Recorder` writes in `workdir`;
    continues from the latest checkpoint there.

    Args:
        graphdef, params: of the decoder, see `make_train_step`; parameters lie on
            the mesh already. They are used up: do not use them afterwards.
            Only they are trained and saved.
        batches: start step -> iterator of (step, batch), every step once, in order.
        fingerprint: what must be the same on resume, see `Checkpoints`.
        frozen: the decoder's other weights, on the mesh already; None for none. They stay as they are.
        dropout_seed: see `make_train_step`.
        dev: what else to measure the loss of; the checkpoints with the lowest are kept too.
        scoring: what to decode and score on the way.

    Raises:
        UserError: a setting does not fit, a checkpoint differs, is damaged or cannot be
            written, or the loss is not finite for many steps in a row.
        Interrupted: there was a SIGTERM, and the state is saved.
    """
    workdir = Path(workdir)
    goodput = Goodput(workdir / GOODPUT, jax.device_count())
    params, frozen = (nnx.to_pure_dict(x) if isinstance(x, nnx.State) else x for x in (params, frozen or {}))
    _check_rows(run, mesh, settings.accumulation)
    coefficients = task_coefficients(settings.task_weights, run.task_constants)

    with contextlib.ExitStack() as stack:
        checkpoints = stack.enter_context(_open_checkpoints(workdir, settings, fingerprint, dev))
        interrupt = stack.enter_context(Interrupt())
        abstract = abstract_state(params, optimizer, mesh)
        start, state = _first_state(checkpoints, params, abstract, optimizer, mesh)
        if start >= run.total_steps:
            return state
        if start:
            say(f'resuming from the checkpoint at step {start} of {run.total_steps}')
        goodput.spent('start')

        train_step = make_train_step(
            graphdef,
            abstract,
            frozen,
            optimizer,
            mesh,
            coefficients=coefficients,
            total_steps=run.total_steps,
            tile_tokens=settings.tile_tokens,
            accumulation=settings.accumulation,
            dropout_seed=dropout_seed,
        )
        train_step = compile_shapes(train_step, (abstract, frozen), run.shapes, mesh, 'the step')
        measure = _compile_dev_losses(graphdef, abstract.params, frozen, mesh, settings, dev)
        goodput.spent('compile')

        recorder = stack.enter_context(Recorder(workdir, start, run, settings))
        profile = stack.enter_context(_profile_window(workdir, settings))
        upcoming = stack.enter_context(contextlib.closing(_expect_steps(batches(start), start, run.total_steps)))
        goodput.lose(recorder.dropped)
        goodput.spent('start')
        energy = EnergyMeter()
        checkpoint_wait = 0.0
        for step, batch in upcoming:
            data_wait = goodput.spent('data_wait')
            profile.before(step, state)
            state, metrics = train_step(state, frozen, batch)
            rows, length = batch['tokens'].shape
            recorder.add(step, (rows, length), metrics, data_wait, checkpoint_wait)

            done = step + 1
            stop, last = interrupt.agreed(), done == run.total_steps
            losses = {}
            if dev is not None and (done % dev.every == 0 or last):
                recorder.drain()
                goodput.spent('steps')
                with energy.paused():
                    losses = measure(state.params)
                recorder.evaluated(done, losses, goodput.spent('evaluation'))
            if scoring is not None and (done % scoring.every == 0 or last):
                recorder.drain()
                goodput.spent('steps')
                with energy.paused():
                    cost = {**scoring.cost(done), 'device_seconds': goodput.device_seconds}
                    scores = scoring.measure(nnx.merge(graphdef, state.params, frozen))
                recorder.scored(done, scores, cost, goodput.spent('scoring'))
            checkpoint_wait = 0.0
            if checkpoints.due(done) or losses or stop or last:
                # The lines of all steps up to here must be on disk before a resumed run may begin after them.
                recorder.drain()
                _write(goodput, done, energy)
                checkpoints.save(done, _to_save(state), losses)
                if stop or last:
                    checkpoints.wait()
                checkpoint_wait = goodput.spent('checkpoint_wait')
            if stop or last:
                break
            goodput.spent('steps')
        profile.finish(state)
        say(sentence(_write(goodput, done, energy)))
    if stop:
        raise Interrupted(f'SIGTERM: saved after step {done} of {run.total_steps}; the same command goes on from there')
    return state


def checkpoint_directory(workdir: Path, settings: TrainingSettings) -> str:
    """Where the checkpoints of the run in `workdir` lie."""
    return settings.checkpoint_directory or str(workdir / 'checkpoints')


def _open_checkpoints(
    workdir: Path, settings: TrainingSettings, fingerprint: Mapping[str, Any], dev: DevSet | None
) -> Checkpoints:
    return Checkpoints(
        checkpoint_directory(workdir, settings),
        keep=settings.keep,
        fingerprint=fingerprint,
        every_steps=settings.checkpoint_every or None,
        every_seconds=60 * settings.checkpoint_minutes or None,
        keep_best=settings.keep_best if dev is not None else 0,
        best_metric=LOSS,
    )


def _first_state(
    checkpoints: Checkpoints, params: Any, abstract: TrainState, optimizer: OptimizerSettings, mesh: Mesh
) -> tuple[int, TrainState]:
    """Returns the steps done and the state after them: of the newest checkpoint, or a new one."""
    start = checkpoints.newest()
    if start is None:
        return 0, init_state(params, optimizer, mesh)
    # Room for the parameters that come instead.
    jax.tree.map(lambda x: x.delete(), params)
    trees = checkpoints.load(start, _to_save(abstract))
    return start, TrainState(params=trees['params'], **trees['optimizer'])


def _compile_dev_losses(
    graphdef: nnx.GraphDef, params: Any, frozen: Any, mesh: Mesh, settings: TrainingSettings, dev: DevSet | None
) -> Callable[[Any], dict[str, float]]:
    """Returns the function of the parameters that gives the losses on the dev set; of no set, no losses."""
    if dev is None:
        return lambda params: {}
    loss_step = make_loss_step(graphdef, params, frozen, mesh, tile_tokens=settings.tile_tokens)
    loss_step = compile_shapes(loss_step, (params, frozen), dev.shapes, mesh, 'the dev loss')
    return lambda params: dev_losses(loss_step, params, frozen, dev.batches(), settings.task_weights)


def _profile_window(workdir: Path, settings: TrainingSettings) -> ProfileWindow:
    return ProfileWindow(workdir / 'tensorboard', settings.profile_start, settings.profile_steps)


def _to_save(state: TrainState) -> dict[str, Any]:
    """Parameters apart, so that they can be read without knowing the optimizer."""
    return {
        'params': state.params,
        'optimizer': {'step': state.step, 'skipped': state.skipped, 'opt_state': state.opt_state},
    }


def _write(goodput: Goodput, done: int, energy: EnergyMeter) -> dict[str, Any]:
    """Writes the ledger on process 0 and returns what it says; every process calls it."""
    joules = energy.joules()
    report = goodput.report(done, joules, energy.reason)
    if jax.process_index() == 0:
        goodput.write(report)
    return report


def _check_rows(run: Run, mesh: Mesh, accumulation: int) -> None:
    needed = mesh.shape['replica'] * mesh.shape['fsdp'] * accumulation
    for rows, length in run.shapes:
        if rows % needed:
            raise UserError(
                f'{rows} rows of {length} tokens cannot be divided by replica x fsdp x accumulation = {needed}; '
                f'make row_multiple of the plan a multiple of {needed}'
            )


def _expect_steps(
    batches: Iterator[tuple[int, Batch]], start: int, stop: int
) -> Generator[tuple[int, Batch], None, None]:
    """Yields the batches of steps start..stop-1 and makes sure that it is these."""
    for expected in range(start, stop):
        step, batch = next(batches, (None, {}))
        if step != expected:
            raise ValueError(f'the loader gave step {step} where step {expected} was due')
        yield expected, batch
