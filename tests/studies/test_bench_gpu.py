"""The parts of the GPU bench, tiny and on the CPU: the same code, so that it runs where there is a GPU."""

import dataclasses
import importlib.util
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ccl_jax.cli import main
from ccl_jax.data.plan_settings import PlanSettings
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.attention import BACKENDS, Backend
from ccl_jax.model.counts import flops_per_token
from ccl_jax.studies import bench_attention, bench_gpu
from ccl_jax.studies.step_ours import OurJob
from ccl_jax.studies.step_process import Measured
from ccl_jax.studies.training_mix import write_mix

TINY = {
    'model_type': 'llama',
    'vocab_size': 48,
    'hidden_size': 16,
    'intermediate_size': 24,
    'num_hidden_layers': 2,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 4,
    'max_position_embeddings': 256,
    'rope_theta': 10000.0,
    'tie_word_embeddings': True,
}
ATTENTION = bench_attention.AttentionJob(
    lengths=(128,), tokens=256, heads=4, kv_heads=2, head_dim=8, dtype='float32', checked_rows=2, shrink=32
)


def tiny(part):
    return dataclasses.replace(
        bench_gpu.TRAININGS[part],
        architecture=TINY,
        buckets=(64, 128),
        tokens_per_step=512,
        tile_tokens=128,
        documents=8,
        shrink=64,
        seconds=0.0,
    )


def test_every_backend_of_the_cpu_is_right_and_timed():
    records = bench_attention.measure(ATTENTION)
    assert [(r['length'], r['rows'], r['backend']) for r in records] == [
        (128, 2, name) for name in ('reference', 'dot_product', 'splash_interpret')
    ]
    text = bench_attention.report(ATTENTION, records)
    assert text.count(' yes ') == len(records)
    assert all(record['segments'] > 2 and record['forward'] > 0 and record['backward'] > 0 for record in records)


def test_a_backend_that_ignores_segments_is_found(monkeypatch):
    def blind(query, key, value, queries, keys, call):
        causal = jnp.tril(jnp.ones((query.shape[1],) * 2, bool))
        return jax.nn.dot_product_attention(query, key, value, mask=causal[None, None], scale=call.scale)

    def broken(*_):
        raise RuntimeError('no such kernel')

    backends = (Backend('blind', lambda call: True, blind), Backend('broken', lambda call: True, broken))
    monkeypatch.setattr(bench_attention, 'BACKENDS', backends)
    monkeypatch.setattr('ccl_jax.model.attention.BACKENDS', backends)
    first, second = bench_attention.report(ATTENTION, bench_attention.measure(ATTENTION)).splitlines()[-2:]
    assert ' NO ' in first
    assert second.endswith('failed: RuntimeError: no such kernel')
    assert len(BACKENDS) > 2


def test_the_plain_attention_is_that_of_jax():
    query, key, value, cotangent = bench_attention._random_arrays(ATTENTION, 1, 24)

    def attention(query, key, value):
        return jax.nn.dot_product_attention(query, key, value, is_causal=True)

    attended, pull = jax.vjp(attention, query, key, value)
    plain = bench_attention._plain(query[0], key[0], value[0], cotangent[0])
    for expected, given in zip((attended, *pull(cotangent)), plain, strict=True):
        np.testing.assert_allclose(given, expected[0], atol=1e-5)


def test_rows_of_the_full_size_hold_documents_and_spans():
    for length in (1024, 2048, 8192):
        segments = bench_attention._segments(length, 1, 0)
        assert 0.9 * length < sum(segments) < length
        assert len(segments) <= 63
        assert min(segments) < 60
    assert max(segments) > 1000


@pytest.mark.slow
@pytest.mark.parametrize('part', ['lora', 'full'])
def test_every_way_of_training_is_measured(part):
    text = bench_gpu.run_training(tiny(part), 'NVIDIA H200')
    needed = ('torch', 'peft') if part == 'lora' else ('torch',)
    beside = ['transformers, random batches', 'transformers, batches of like lengths']
    beside = beside if all(map(importlib.util.find_spec, needed)) else []
    rows = re.findall(r'^(\w+, .*?) {2,}([\d,]+) +(\S+) +([\d.]+)% +([\d.]+)%', text, re.MULTILINE)
    names = [name for name, *_ in rows]
    first, second = (
        f'ccl_jax, remat {remat}, {count} micro-batches' for remat, count in bench_gpu.TRAININGS[part].ours
    )
    assert names == [first, *beside, second]
    assert all(int(speed.replace(',', '')) > 0 for _, speed, *_ in rows)


def test_mfu_counts_each_example_by_itself_and_failures_are_shown():
    architecture = Architecture.from_hf(TINY)
    results = {
        'ccl_jax, a': Measured(2, (10, 30), 64, 2.0, 0.5, 1.0, 3.0, 3 * 2**30),
        'transformers, b': Measured(2, (10, 10), 64, 2.0, 0.0, 1.0, 3.0),
        'transformers, c': 'took more than 3 s',
    }
    flops = sum(n * flops_per_token(architecture, n, backward='full') for n in (10, 30)) / 2
    text = bench_gpu.report(tiny('full'), architecture, results, peak=2 * flops)
    ours, theirs, failed = text.splitlines()[2:]
    assert ours.split()[2:] == ['20', '2.00', '50.0%', '62.5%', '32', '3.0', '25.00%', '2', '1.0']
    assert theirs.split()[2:4] == ['10', '1.00']
    assert failed.endswith('took more than 3 s')


def test_full_sizes_can_be_planned(tmp_path):
    """The settings of the real runs fit each other; nothing is computed."""
    for training in bench_gpu.TRAININGS.values():
        store = write_mix(tmp_path, documents=100, vocabulary=1000, longest=training.buckets[-1])
        jobs = bench_gpu._jobs(training, tmp_path, store)
        ours = [job for job in jobs.values() if isinstance(job, OurJob)]
        for job in ours:
            settings = PlanSettings(**job.plan)
            assert all(settings.rows_per_step(bucket) % job.accumulation == 0 for bucket in settings.buckets)
        assert len(ours) == 2
    counts = [Architecture.from_hf(t.architecture).parameter_count() / 1e9 for t in bench_gpu.TRAININGS.values()]
    assert counts == pytest.approx([8.03, 3.21], abs=0.01)


@pytest.mark.skipif(jax.default_backend() == 'gpu', reason='there is a GPU')
def test_without_a_gpu_it_says_so(capsys):
    assert main(['bench', 'gpu', 'attention']) == 2
    error = capsys.readouterr().err
    assert error.count('\n') == 1
    assert 'needs an NVIDIA GPU' in error


def test_an_unknown_part_is_refused(capsys):
    assert main(['bench', 'gpu', 'atention']) == 2
    assert 'no part "atention" of bench gpu; choose of attention, lora, full' in capsys.readouterr().err
