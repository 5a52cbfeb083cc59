"""The bench of the plan in miniature: every table is made, and the columns say what they should."""

import re

import numpy as np
import pytest

from ccl_jax.studies import bench_plan as bench
from ccl_jax.studies.plan_scale import lognormal_examples, write_columns


@pytest.mark.slow
def test_tables(monkeypatch):
    monkeypatch.setattr(bench, '_TIMED', 8000)
    text = bench.bench_plan(documents=250, scale=4000)
    rows = dict(re.findall(r'^(ours.*?|Grain.*?|powers.*?)  +(\d+ .*)$', text, re.MULTILINE))
    costs = {name: float(values.split()[2]) for name, values in rows.items()}
    shapes = {name: int(values.split()[0]) for name, values in rows.items()}
    assert len(rows) == 8
    chosen = costs.pop('ours, at most 8 row lengths')
    assert 1 < chosen < min(costs.values())
    assert max(costs, key=costs.get) == 'powers of two, one example a row'
    assert {name for name, count in shapes.items() if count == 1} == {
        name for name in rows if 'Grain' in name or 'long row' in name
    }
    assert '8,000 examples planned in' in text
    assert '4,000 examples, 2 epochs' in text


def test_grain_packs_every_token():
    lengths = lognormal_examples(800).lengths
    for name in ('FirstFit', 'BestFit'):
        shapes, packed = bench._grain(name, 8, lengths, 8192)
        assert shapes == 1
        assert set(packed.row_lengths) == {8192}
        assert lengths.sum() <= packed.row_lengths.sum() <= 2 * lengths.sum()


def test_columns_in_parts_are_documents_first(tmp_path, monkeypatch):
    monkeypatch.setattr('ccl_jax.studies.plan_scale._PART', 160)
    write_columns(1000, tmp_path)
    lengths, task_ids, starts = (np.load(tmp_path / f'{name}.npy') for name in ('lengths', 'task_ids', 'target_starts'))
    assert task_ids.tolist() == sorted(task_ids.tolist())
    assert ((starts >= 1) & (starts < lengths)).all()
    assert lengths.min() >= 12
    assert abs((task_ids == 0).sum() - 1000 / 16) <= 2
