"""The measurement of the loader runs, and its numbers hang together; how fast a machine is, no test can say."""

import re

import pytest

from ccl_jax.studies import bench_loader as study


@pytest.mark.slow
def test_every_way_of_reading_is_measured():
    table = study.bench_loader(documents=60, seconds=0.2)
    assert table.startswith(f'{60 * 16} examples')
    rows = re.findall(r'^ +(\d+) +(\d+) +([\d,]+)$', table, re.MULTILINE)
    assert [(int(threads), int(workers)) for threads, workers, _ in rows] == [(0, 0), (2, 0), (4, 0), (2, 1), (2, 2)]
    assert all(int(speed.replace(',', '')) > 0 for *_, speed in rows)
    shares = [int(share) for share in re.findall(r'(\d+)%$', table, re.MULTILINE)]
    assert len(shares) == 4
    assert sum(shares) == pytest.approx(100, abs=2)
