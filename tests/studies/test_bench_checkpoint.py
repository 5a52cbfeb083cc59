from ccl_jax.studies import bench_checkpoint


def test_every_way_is_measured_and_shares_refer_to_the_synchronous_save():
    table = bench_checkpoint.bench_checkpoint(size=400_000, repeats=2)
    title, head, *rows = table.splitlines()
    assert title.startswith('0.00 GB of random float32 in 24 arrays')
    assert head.split()[:3] == ['call', 's', 'share']
    assert [row.split()[0] for row in rows] == ['synchronous,', 'synchronous,', 'asynchronous,']
    numbers = [row[32:].replace('%', '').split() for row in rows]
    calls, shares = ([float(row[column]) for row in numbers] for column in (0, 1))
    assert shares[0] == 100
    assert min(calls) > 0


def test_the_state_has_the_size_that_was_asked_for():
    state = bench_checkpoint._random_state(4_000_000)
    assert 3_600_000 < sum(x.nbytes for x in state.values()) <= 4_000_000
    assert len({float(x.sum()) for x in state.values()}) == 24
