"""The batch plan: properties over random examples, hand-worked cases, and sums by brute force."""

import collections
import concurrent.futures
import dataclasses
import json
import math
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.data import plan as plan_module
from ccl_jax.data.packing import assign_rows
from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.errors import UserError
from ccl_jax.tasks import TASKS

BUCKETS = (16, 24, 48)
examples_lists = st.lists(
    st.tuples(st.integers(2, 48), st.sampled_from([0, 1, 2]), st.floats(0, 1)).map(
        lambda e: (e[0], e[1], 1 + int(e[2] * (e[0] - 2)))
    ),
    min_size=1,
    max_size=60,
)
settings_of_plans = st.builds(
    PlanSettings,
    buckets=st.just(BUCKETS),
    tokens_per_step=st.integers(1, 200),
    row_multiple=st.integers(1, 3),
    max_segments=st.integers(2, 6),
    seed=st.integers(0, 3),
    epochs=st.sampled_from([1, 2, 3]),
    normalization=st.sampled_from(['token', 'example']),
    window=st.sampled_from([1, 7, 25, 1000]),
)


def columns(examples):
    """(lengths, task ids, target starts) of a list of such triples."""
    return tuple(np.array(column, np.int32) for column in zip(*examples, strict=True))


def plan_of(examples, **kwargs):
    given = {'buckets': (8, 16), 'tokens_per_step': 16, 'epochs': 1, **kwargs}
    return make_plan(*columns(examples), PlanSettings(**given))


def spans(*lengths):
    return [(length, 1, 1) for length in lengths]


def rows_of(plan):
    return [(plan.shape(step), [row.tolist() for row in plan.rows(step)]) for step in range(plan.steps)]


def placed(plan):
    """All examples of the plan, as often as it holds them."""
    return [int(i) for step in range(plan.steps) for row in plan.rows(step) for i in row]


def same(a, b):
    return a.hash == b.hash and rows_of(a) == rows_of(b) and a.task_constants == b.task_constants


@settings(max_examples=150, deadline=None)
@given(examples=examples_lists, plan_settings=settings_of_plans)
def test_properties_of_every_plan(examples, plan_settings):
    lengths = [length for length, _, _ in examples]
    plan = make_plan(*columns(examples), plan_settings)
    seen = collections.Counter()
    finished = 0
    for (count, row_length), rows in rows_of(plan):
        nearest = min(
            (abs(k * plan_settings.row_multiple - plan_settings.tokens_per_step / row_length), -k)
            for k in range(1, 202)
        )
        assert count == len(rows) == -nearest[1] * plan_settings.row_multiple
        assert row_length in BUCKETS
        for row in rows:
            assert sum(lengths[i] for i in row) <= row_length
            assert len(row) <= plan_settings.max_segments - 1
        seen.update(i for row in rows for i in row)
        if len(seen) == len(examples) and len(set(seen.values())) == 1:
            finished += 1  # an epoch ends here
        else:
            assert all(rows), 'only the last step of an epoch may have empty rows'
    assert seen == dict.fromkeys(range(len(examples)), plan_settings.epochs)
    assert finished == plan_settings.epochs


@settings(max_examples=80, deadline=None)
@given(examples=examples_lists, plan_settings=settings_of_plans)
def test_task_constants_are_mean_weights_per_step(examples, plan_settings):
    plan = make_plan(*columns(examples), plan_settings)
    sums = collections.Counter()
    for _, rows in rows_of(plan):
        for i in (i for row in rows for i in row):
            length, task, start = examples[i]
            for _ in range(start, length):
                sums[TASKS[task]] += 1 if plan_settings.normalization == 'token' else 1 / (length - start)
    assert set(plan.task_constants) == {TASKS[task] for _, task, _ in examples}
    for task, constant in plan.task_constants.items():
        assert constant == pytest.approx(sums[task] / plan.steps)


@settings(max_examples=50, deadline=None)
@given(examples=examples_lists, plan_settings=settings_of_plans)
def test_a_plan_is_a_function_of_its_inputs(examples, plan_settings):
    lengths, task_ids, target_starts = columns(examples)
    plan = make_plan(lengths, task_ids, target_starts, plan_settings)
    np.random.seed(1)
    assert same(plan, make_plan(lengths.tolist(), task_ids.astype(np.int64), target_starts, plan_settings))
    longer = make_plan(lengths, task_ids, target_starts, dataclasses.replace(plan_settings, epochs=4))
    assert rows_of(longer)[: plan.steps] == rows_of(plan)


def test_spans_fill_the_slack_of_documents_by_best_fit():
    # Whichever span comes first, 2 fits the room of 6 in 8 exactly, and 3 that of 13 in 16.
    for seed in range(5):
        plan = plan_of([(13, 0, 4), (6, 0, 2), (2, 1, 1), (3, 1, 1)], seed=seed)
        rows = sorted(row for _, rows in rows_of(plan) for row in rows if row)
        assert rows == [[0, 3], [1, 2]]


def test_long_examples_take_the_smallest_bucket_that_holds_them_or_the_room_of_a_longer_one():
    plan = plan_of(spans(8, 9, 5, 6, 16), tokens_per_step=1)
    assert sorted((shape[1], row) for shape, rows in rows_of(plan) for row in rows) == [
        (8, [0]),
        (8, [2]),
        (16, [1, 3]),
        (16, [4]),
    ]


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, 40), min_size=1, max_size=60),
    max_segments=st.integers(2, 8),
    seed=st.integers(0, 3),
)
def test_rows_are_those_of_best_fit_written_out(lengths, max_segments, seed):
    plan_settings = PlanSettings((10, 25, 40), 40, max_segments=max_segments, epochs=1)
    order, row_of, row_lengths = assign_rows(np.array(lengths), plan_settings, np.random.default_rng(seed))
    assert sorted(order.tolist()) == list(range(len(lengths)))
    placed_lengths = [lengths[i] for i in order]
    long_ones = [length for length in placed_lengths if length > 5]
    assert placed_lengths[: len(long_ones)] == sorted(long_ones, reverse=True)
    rows = []
    for length, row in zip(placed_lengths, row_of.tolist(), strict=True):
        rooms = [size - sum(own) for size, own in rows]
        fitting = [
            room for room, (_, own) in zip(rooms, rows, strict=True) if room >= length and len(own) < max_segments - 1
        ]
        if row == len(rows):
            assert not fitting
            rows.append((min(size for size in (10, 25, 40) if size >= length), []))
        else:
            assert rooms[row] == min(fitting)
        rows[row][1].append(length)
    assert [size for size, _ in rows] == row_lengths.tolist()


def test_rows_that_are_left_over_move_to_a_longer_bucket():
    # Two rows a step of 16 tokens, four of 8: five short rows leave one, which completes the step of the long one.
    plan = plan_of(spans(7, 7, 7, 7, 7, 15), tokens_per_step=32)
    assert sorted(shape for shape, _ in rows_of(plan)) == [(2, 16), (4, 8)]
    assert plan.report['empty_rows'] == 0
    # Without the long one the rest is padded, in its own bucket, as the last step.
    plan = plan_of(spans(7, 7, 7, 7, 7), tokens_per_step=32)
    assert [shape for shape, _ in rows_of(plan)] == [(4, 8), (4, 8)]
    assert [len([row for row in rows if row]) for _, rows in rows_of(plan)] == [4, 1]


@pytest.mark.parametrize(
    ('tokens_per_step', 'row_multiple', 'rows'),
    [(64, 1, (8, 4)), (60, 1, (8, 4)), (59, 4, (8, 4)), (100, 4, (12, 8)), (1, 3, (3, 3)), (96, 8, (16, 8))],
)
def test_rows_per_step(tokens_per_step, row_multiple, rows):
    made = PlanSettings((8, 16), tokens_per_step, row_multiple, epochs=1)
    assert (made.rows_per_step(8), made.rows_per_step(16)) == rows


def test_length_in_steps_and_in_parts_of_an_epoch():
    examples = spans(*range(2, 16))
    one = plan_of(examples, epochs=1)
    three = plan_of(examples, epochs=3)
    for steps in (1, one.steps, one.steps + 1, three.steps):
        plan = plan_of(examples, epochs=None, steps=steps)
        assert plan.steps == steps
        assert rows_of(plan) == rows_of(three)[:steps]
    plan = plan_of(examples, epochs=1.5)
    assert abs(plan.steps - 1.5 * one.steps) <= 0.5
    assert rows_of(plan) == rows_of(three)[: plan.steps]
    assert rows_of(three)[: one.steps] != rows_of(three)[one.steps : 2 * one.steps]


def test_hash_covers_all_that_determines_the_plan():
    examples = [(12, 0, 5), (3, 1, 1), (4, 1, 2), (5, 2, 1)] * 4
    base = {'mix': {'document': 1, 'span': 2, 'lm': 1}}
    variants = [
        base,
        {},
        *({**base, **change} for change in (
            {'seed': 1}, {'buckets': (8, 12)}, {'tokens_per_step': 48}, {'row_multiple': 3}, {'max_segments': 3},
            {'epochs': 2}, {'normalization': 'example'}, {'mix': {'document': 1, 'span': 1, 'lm': 1}},
            {'window': 5}, {'mix_by': 'tokens'}, {'mix_end': {'document': 1, 'span': 1, 'lm': 1}},
        )),
    ]  # fmt: skip
    hashes = [plan_of(examples, **variant).hash for variant in variants]
    for third in ((5, 1, 2), (4, 0, 2), (4, 1, 1)):
        hashes.append(plan_of([*examples[:2], third, *examples[3:]], **base).hash)
    assert len(set(hashes)) == len(hashes)
    other_order = {'mix': {'lm': 1.0, 'span': 2.0, 'document': 1.0}, 'buckets': [np.int64(8), 16]}
    assert same(plan_of(examples, **base), plan_of(examples, **other_order))


def test_mix_repeats_and_thins_out_to_the_shares_of_target_tokens():
    rng = np.random.default_rng(0)
    documents = [(int(n), 0, 3) for n in rng.integers(10, 16, 40)]
    one_span_each = [(int(n), 1, 1) for n in rng.integers(2, 8, 300)]
    examples = documents + one_span_each
    plan = plan_of(examples, mix={'document': 3, 'span': 1}, epochs=2)
    targets = {
        task: sum(examples[i][0] - examples[i][2] for i in placed(plan) if examples[i][1] == t)
        for t, task in enumerate(('document', 'span'))
    }
    total = sum(targets.values())
    assert total == pytest.approx(2 * sum(n - start for n, _, start in examples), rel=0.01)
    assert targets['document'] / total == pytest.approx(0.75, abs=0.01)
    assert plan.report['mix'] == {task: n / total for task, n in targets.items()}
    one = plan_of(examples, mix={'document': 3, 'span': 1})
    times = collections.Counter(placed(one))
    for members in (range(40), range(40, 340)):
        counts = [times[i] for i in members]
        assert max(counts) - min(counts) <= 1
    assert plan.report['repeats']['span'] == pytest.approx(plan.report['examples']['span'] / 300)
    without = plan_of(examples, mix={'document': 0, 'span': 1})
    assert set(without.task_constants) == {'span'}
    assert without.report['examples']['document'] == 0


def test_a_mix_of_the_natural_shares_takes_every_example_once():
    examples = [(12, 0, 5)] * 3 + [(3, 1, 1)] * 7
    plan = plan_of(examples, mix={'document': 21, 'span': 14})
    assert sorted(placed(plan)) == list(range(10))


def test_report():
    plan = plan_of([(16, 0, 6), (8, 1, 1), (8, 2, 1)], tokens_per_step=16)
    assert plan.report['fill'] == 1
    assert plan.report['modelled_cost'] == pytest.approx(1)
    assert plan.report['steps_per_bucket'] == {'8': 1, '16': 1}
    assert plan.report['target_tokens'] == {'document': 10, 'span': 7, 'lm': 7}
    assert plan.report['examples'] == plan.report['repeats'] == {'document': 1, 'span': 1, 'lm': 1}
    assert json.loads(json.dumps(plan.report)) == plan.report
    # Two rows of 8,192, one of them empty, against one document of 5,000: linear work 1, attention n / 57,000.
    plan = plan_of([(5000, 0, 1)], buckets=(8192,), tokens_per_step=16384)
    assert (plan.report['rows'], plan.report['empty_rows'], plan.report['positions']) == (2, 1, 16384)
    cost = 2 * 8192 * (1 + 8192 / 57_000) / (5000 * (1 + 5000 / 57_000))
    assert plan.report['modelled_cost'] == pytest.approx(cost)
    assert plan.report['fill'] == 5000 / 16384


def test_examples_that_cannot_be_planned():
    with pytest.raises(UserError, match='no examples'):
        make_plan([], [], [], PlanSettings((8,), 8, epochs=1))
    with pytest.raises(UserError, match=r'2 of 3 examples are longer than .* 16 tokens, the longest has 40'):
        plan_of(spans(17, 40, 16))
    for start in (0, 5):
        with pytest.raises(ValueError, match='target_start'):
            plan_of([(5, 0, start)])
    with pytest.raises(UserError, match="no share to the task 'span'"):
        plan_of([(5, 0, 1), (5, 1, 1)], mix={'document': 1})
    with pytest.raises(UserError, match="the task 'lm', of which there are no"):
        plan_of([(5, 0, 1)], mix={'document': 1, 'lm': 1})
    assert plan_of([(5, 0, 1)], mix={'document': 1, 'lm': 0}).steps == 1


def mixed_examples(documents=400, spans=2000, seed=0):
    rng = np.random.default_rng(seed)
    return [
        *((int(n), 0, int(n) - 3) for n in rng.integers(10, 48, documents)),
        *((int(n), 1, int(n) - 1) for n in rng.integers(2, 8, spans)),
    ]


def test_windows_are_random_samples_and_leave_no_step_short():
    examples = mixed_examples()
    kwargs = {'buckets': BUCKETS, 'tokens_per_step': 96}
    plan = plan_of(examples, window=300, **kwargs)
    assert plan.report['windows'] == 8
    assert plan.report['carried'] > 0
    # Nothing is lost, nothing twice, and only the last step may be padded.
    assert sorted(placed(plan)) == list(range(len(examples)))
    rows = rows_of(plan)
    assert all(row for _, rows_of_step in rows[:-1] for row in rows_of_step)
    # The first half of the steps holds about half of either task.
    first = [i for _, rows_of_step in rows[: plan.steps // 2] for row in rows_of_step for i in row]
    assert sum(i < 400 for i in first) == pytest.approx(200, abs=40)
    assert sum(i >= 400 for i in first) == pytest.approx(1000, abs=150)
    # Small windows cost little: their leftovers are not padded.
    assert plan.report['fill'] > plan_of(examples, **kwargs).report['fill'] - 0.03


def test_any_step_comes_from_its_window_alone(monkeypatch):
    examples = mixed_examples()
    plan = plan_of(examples, buckets=BUCKETS, tokens_per_step=96, window=300, epochs=2)
    in_order = rows_of(plan)
    planned = []
    inner = plan_module.pack
    monkeypatch.setattr(plan_module, 'pack', lambda *args, **kwargs: planned.append(1) or inner(*args, **kwargs))
    for step in np.random.default_rng(0).permutation(plan.steps).tolist():
        before = len(planned)
        fresh = pickle.loads(pickle.dumps(plan))
        assert (fresh.shape(step), [row.tolist() for row in fresh.rows(step)]) == in_order[step]
        assert len(planned) == before + 1
    assert plan.rows(-1)[0].tolist() == in_order[-1][1][0]
    with pytest.raises(IndexError):
        plan.rows(plan.steps)


def test_threads_get_the_rows_of_their_steps():
    plan = plan_of(mixed_examples(), buckets=BUCKETS, tokens_per_step=96, window=100)
    expected = rows_of(plan)
    steps = np.random.default_rng(0).integers(0, plan.steps, 300).tolist()
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for step, rows in zip(steps, pool.map(plan.rows, steps), strict=True):
            assert [row.tolist() for row in rows] == expected[step][1]


def test_columns_may_be_memory_maps_which_are_not_sent_along(tmp_path):
    arrays = columns(mixed_examples(20_000, 100_000))
    maps = []
    for number, array in enumerate(arrays):
        np.save(tmp_path / f'{number}.npy', array)
        maps.append(np.load(tmp_path / f'{number}.npy', mmap_mode='r'))
    settings = PlanSettings(BUCKETS, 4096, epochs=1, window=20_000)
    plan = make_plan(*maps, settings)
    assert plan.hash == make_plan(*arrays, settings).hash
    sent = pickle.dumps(plan)
    assert len(sent) < 100_000 < arrays[0].nbytes
    there = pickle.loads(sent)
    assert [row.tolist() for row in there.rows(3)] == [row.tolist() for row in plan.rows(3)]
    # A part of a map is no file that can be opened by name: it goes as it is.
    part = make_plan(*(column[1000:] for column in maps), settings)
    assert [row.tolist() for row in pickle.loads(pickle.dumps(part)).rows(3)] == [r.tolist() for r in part.rows(3)]


@pytest.mark.parametrize('window', [50, 1000])
@pytest.mark.parametrize(('unit', 'measure'), [
    ('target_tokens', lambda e: e[0] - e[2]), ('tokens', lambda e: e[0]), ('examples', lambda e: 1),
])  # fmt: skip
def test_mix_by_each_unit(unit, measure, window):
    examples = mixed_examples(40, 300)
    plan = plan_of(examples, buckets=BUCKETS, mix={'document': 3, 'span': 1}, mix_by=unit, window=window, epochs=3)
    amounts = [0, 0]
    for i in placed(plan):
        amounts[examples[i][1]] += measure(examples[i])
    assert sum(amounts) == pytest.approx(3 * sum(map(measure, examples)), rel=0.02)
    assert amounts[0] / sum(amounts) == pytest.approx(0.75, abs=0.01)
    assert plan.report['mix_by'][unit]['document'] == pytest.approx(amounts[0] / sum(amounts))
    # Over all epochs, no example of a task is repeated more than once more than another.
    times = collections.Counter(placed(plan))
    for members in (range(40), range(40, 340)):
        counts = [times[i] for i in members]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize('length', [{'epochs': 1}, {'epochs': 2.5}, {'epochs': None, 'steps': 900}])
def test_the_mix_goes_in_a_straight_line(length):
    examples = mixed_examples(400, 2000)
    plan = plan_of(
        examples, buckets=(16, 48), tokens_per_step=48, mix_by='tokens',
        mix={'document': 1, 'span': 9}, mix_end={'document': 9, 'span': 1}, **length,
    )  # fmt: skip
    shares = []
    for part in np.array_split(np.arange(plan.steps), 5):
        tokens = collections.Counter()
        for step in part.tolist():
            for i in (i for row in plan.rows(step) for i in row):
                tokens[examples[i][1]] += examples[i][0]
        shares.append(tokens[0] / tokens.total())
    # The middle of each fifth, on the line from 0.1 to 0.9.
    assert shares == pytest.approx([0.18, 0.34, 0.5, 0.66, 0.82], abs=0.06)
    assert [part['document'] for part in plan.report['mix_course']] == pytest.approx(shares)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'buckets': ()}, 'buckets'),
        ({'buckets': (8, 8)}, 'buckets'),
        ({'buckets': (16, 8)}, 'buckets'),
        ({'buckets': (1, 8)}, 'buckets'),
        ({'tokens_per_step': 0}, 'tokens_per_step'),
        ({'row_multiple': 0}, 'row_multiple'),
        ({'max_segments': 1}, 'max_segments'),
        ({'epochs': None}, 'one of the two'),
        ({'steps': 3}, 'one of the two'),
        ({'epochs': 0}, 'above 0'),
        ({'epochs': math.inf}, 'above 0'),
        ({'normalization': 'none'}, 'normalization'),
        ({'mix': {'notes': 1}}, "unknown task 'notes'"),
        ({'mix': {'span': -1, 'lm': 2}}, 'shares'),
        ({'mix': {'span': 0}}, 'shares'),
        ({'mix_by': 'words'}, 'mix_by'),
        ({'mix_end': {'span': 1}}, 'mix is empty'),
        ({'mix': {'span': 1}, 'mix_end': {'notes': 1}}, "mix_end names the unknown task 'notes'"),
        ({'window': 0}, 'window'),
        ({'longest': 8}, 'longest'),
        ({'buckets': (), 'longest': 100}, 'no multiple of 128'),
        ({'max_buckets': 0}, 'max_buckets'),
    ],
)
def test_settings_out_of_range(change, message):
    with pytest.raises(UserError, match=message):
        plan_of(spans(3), **change)
