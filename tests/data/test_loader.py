"""The loader: rows assembled token by token, resumption, and shares of the rows against the whole."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest
from absl import flags
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding

from ccl_jax.data.examples import TokenizedExample, write_examples
from ccl_jax.data.loader import assemble_rows, make_loader
from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS

SETTINGS = PlanSettings((16, 32), 64, row_multiple=4, epochs=2, normalization='example')
FIELDS = {'tokens', 'positions', 'segment_ids', 'loss_weights', 'task_ids'}


def some_examples():
    rng = np.random.default_rng(0)
    for i in range(61):
        tokens = rng.integers(1, 500, rng.integers(2, 30)).astype(np.int32)
        yield TokenizedExample(f'id:{i}', TASKS[i % 3], tokens, int(rng.integers(1, len(tokens))))


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    return write_examples(some_examples(), tmp_path_factory.mktemp('loader') / 'store', {})


@pytest.fixture(scope='module')
def plan(store):
    return make_plan(store.lengths, store.task_ids, store.target_starts, SETTINGS)


@pytest.fixture
def sharding():
    return SingleDeviceSharding(jax.devices()[0])


def token_by_token(rows, row_length, normalization):
    """The batch of rows of (tokens, target start, task) triples, by the definition of every field."""
    batch = {name: [] for name in FIELDS}
    for row in rows:
        cells = []
        for segment, (tokens, target_start, task) in enumerate(row, start=1):
            for position, token in enumerate(tokens):
                predicted = position + 1
                has_loss = target_start <= predicted < len(tokens)
                weight = (1 if normalization == 'token' else 1 / (len(tokens) - target_start)) if has_loss else 0
                cells.append((token, position, segment, weight, task))
        padding = row_length - len(cells)
        cells += [(0, position, len(row) + 1, 0, 0) for position in range(padding)]
        for name, column in zip(
            ('tokens', 'positions', 'segment_ids', 'loss_weights', 'task_ids'), zip(*cells, strict=True), strict=True
        ):
            batch[name].append(column)
    dtypes = {name: np.float32 if name == 'loss_weights' else np.int32 for name in FIELDS}
    return {name: np.array(rows, dtypes[name]) for name, rows in batch.items()}


def expected_batch(plan, step):
    examples = list(some_examples())
    rows = [[(examples[i].tokens, examples[i].target_start, TASKS.index(examples[i].task)) for i in row]
            for row in plan.rows(step)]  # fmt: skip
    return token_by_token(rows, plan.shape(step)[1], plan.settings.normalization)


def assert_same(batch, expected):
    assert set(batch) == FIELDS
    for name, array in expected.items():
        assert batch[name].dtype == array.dtype
        np.testing.assert_array_equal(np.asarray(batch[name]), array, err_msg=name)


segments = st.integers(2, 6).flatmap(
    lambda n: st.tuples(
        st.lists(st.integers(0, 9), min_size=n, max_size=n).map(lambda t: np.array(t, np.int32)),
        st.integers(1, n - 1),
        st.integers(0, 2),
    )
)


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.lists(segments, max_size=3), min_size=1, max_size=4),
    row_length=st.integers(18, 20),
    normalization=st.sampled_from(['token', 'example']),
)
def test_rows_are_assembled_token_by_token(rows, row_length, normalization):
    tokens, starts, tasks = ([[segment[i] for segment in row] for row in rows] for i in range(3))
    batch = assemble_rows(tokens, row_length, starts, tasks, normalization)
    assert_same(batch, token_by_token(rows, row_length, normalization))


def test_a_row_by_hand():
    batch = assemble_rows([[np.array([5, 6, 7, 8]), np.array([9, 4])], []], 8, [[2, 1], []], [[1, 2], []], 'example')
    assert batch['tokens'].tolist() == [[5, 6, 7, 8, 9, 4, 0, 0], [0] * 8]
    assert batch['positions'].tolist() == [[0, 1, 2, 3, 0, 1, 0, 1], [0, 1, 2, 3, 4, 5, 6, 7]]
    assert batch['segment_ids'].tolist() == [[1, 1, 1, 1, 2, 2, 3, 3], [1] * 8]
    assert batch['task_ids'].tolist() == [[1, 1, 1, 1, 2, 2, 0, 0], [0] * 8]
    assert batch['loss_weights'].tolist() == [[0, 0.5, 0.5, 0, 1, 0, 0, 0], [0] * 8]


@pytest.mark.parametrize('threads', [0, 3])
def test_batches_are_those_of_the_plan(store, plan, sharding, threads):
    steps = []
    for step, batch in make_loader(store, plan, sharding, threads=threads, prefetch=2):
        assert_same(batch, expected_batch(plan, step))
        assert all(array.shape == plan.shape(step) and array.sharding == sharding for array in batch.values())
        steps.append(step)
    assert steps == list(range(plan.steps))


def test_weights_of_an_epoch_add_up_to_the_task_constants(store, plan, sharding):
    sums = np.zeros(len(TASKS))
    for _, batch in make_loader(store, plan, sharding):
        sums += np.bincount(np.ravel(batch['task_ids']), np.ravel(batch['loss_weights']), minlength=len(TASKS))
    expected = [plan.task_constants[task] * plan.steps for task in TASKS]
    np.testing.assert_allclose(sums, expected, rtol=1e-6)


def test_resuming_at_a_step_gives_the_batches_of_that_step(store, plan, sharding):
    start, end = 3, plan.steps - 1
    skipped = itertools.islice(make_loader(store, plan, sharding), start, end)
    resumed = list(make_loader(store, plan, sharding, start_step=start, end_step=end))
    assert [step for step, _ in resumed] == list(range(start, end))
    for (step, batch), (other_step, other) in zip(resumed, skipped, strict=True):
        assert step == other_step
        assert_same(batch, {name: np.asarray(array) for name, array in other.items()})
    assert list(make_loader(store, plan, sharding, start_step=plan.steps)) == []


class ShareOfRows:
    """Stands for the sharding of one process: which devices it has and the rows they hold, every other block."""

    def __init__(self, process, processes):
        self.process, self.processes = process, processes

    def addressable_devices_indices_map(self, shape):
        blocks = np.arange(shape[0]).reshape(2, self.processes, -1)[:, self.process]
        return {device: (slice(rows[0], rows[-1] + 1), slice(None)) for device, rows in enumerate(blocks)}


@pytest.mark.parametrize('threads', [0, 2])
def test_one_two_and_four_processes_hold_the_same_rows(store, monkeypatch, threads):
    plan = make_plan(
        store.lengths, store.task_ids, store.target_starts, dataclasses.replace(SETTINGS, row_multiple=8, epochs=1)
    )
    monkeypatch.setattr(jax, 'make_array_from_process_local_data', lambda _, array, shape: array)
    # The run begins on one process, goes on on four, and ends on two.
    first, second = plan.steps // 3, 2 * plan.steps // 3
    for processes, start, end in ((1, 0, first), (4, first, second), (2, second, plan.steps)):
        loaders = [
            make_loader(store, plan, ShareOfRows(i, processes), start_step=start, end_step=end, threads=threads)
            for i in range(processes)
        ]
        for expected_step, batches in zip(range(start, end), zip(*loaders, strict=True), strict=True):
            steps, shares = zip(*batches, strict=True)
            assert set(steps) == {expected_step}
            whole = {}
            for name in FIELDS:
                # Share i has the blocks i and processes + i of 2 x processes.
                halves = [np.split(share[name], 2) for share in shares]
                whole[name] = np.concatenate([half[i] for i in range(2) for half in halves])
            assert_same(whole, expected_batch(plan, expected_step))


@pytest.mark.slow
def test_worker_processes_change_nothing(store, plan, sharding):
    # All batches are kept, so that one that a worker's buffer is reused for would show.
    batches = list(make_loader(store, plan, sharding, start_step=1, end_step=6, workers=2, threads=1, prefetch=1))
    assert [step for step, _ in batches] == [1, 2, 3, 4, 5]
    for step, batch in batches:
        assert_same(batch, expected_batch(plan, step))


@pytest.mark.parametrize('parsed', [False, True])
def test_absl_flags_need_not_be_parsed(store, plan, sharding, parsed):
    was_parsed = flags.FLAGS.is_parsed()
    try:
        flags.FLAGS.mark_as_parsed() if parsed else flags.FLAGS.unparse_flags()
        step, _ = next(make_loader(store, plan, sharding))
        assert step == 0
        assert flags.FLAGS.is_parsed()
    finally:
        flags.FLAGS.mark_as_parsed() if was_parsed else flags.FLAGS.unparse_flags()


def test_what_does_not_fit_is_refused_before_the_first_batch(store, plan, sharding):
    other = make_plan(store.lengths[:-1], store.task_ids[:-1], store.target_starts[:-1], SETTINGS)
    with pytest.raises(UserError, match=r'60 examples and the store .* has 61'):
        make_loader(store, other, sharding)
    for start, end in ((-1, None), (0, plan.steps + 1), (5, 4)):
        with pytest.raises(ValueError, match='do not lie in a plan'):
            make_loader(store, plan, sharding, start_step=start, end_step=end)
