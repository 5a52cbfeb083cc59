"""`feasibility`: what it refuses, what it reads from the compiler, and the bounds worked out by hand."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys

import pytest

from ccl_jax.config import check_config, default_config
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.settings import LoraSettings
from ccl_jax.studies import compiled_step, weak_scaling
from ccl_jax.studies import feasibility as studies
from ccl_jax.studies.chips import CHIPS, Slice, parse_slice
from ccl_jax.studies.compiled_step import Job, compile_step
from ccl_jax.studies.feasibility import Estimate, feasibility
from ccl_jax.studies.hlo import Collective
from ccl_jax.studies.known_models import MODELS, known_architecture
from ccl_jax.studies.roofline import Place, Roofline, collective_seconds, roofline
from ccl_jax.training.settings import OptimizerSettings

TINY = {
    'model_type': 'llama',
    'vocab_size': 64,
    'hidden_size': 32,
    'intermediate_size': 48,
    'num_hidden_layers': 3,
    'num_attention_heads': 4,
    'num_key_value_heads': 2,
    'head_dim': 8,
    'max_position_embeddings': 256,
    'rms_norm_eps': 1e-5,
    'tie_word_embeddings': False,
}
FITS = compiled_step.Step({'replica': 1, 'fsdp': 1, 'tensor': 1}, 'cpu', (Place(0, (0, 0)),), 1.0, {}, {}, True)
HAS_LIBTPU = compiled_step.has_libtpu()


def config_for(folder, **changes):
    tree = default_config()
    tree.model.path = str(folder)
    tree.data.buckets = (32, 64)
    tree.data.tokens_per_step = 512
    tree.data.row_multiple = 8
    tree.data.epochs = 1.0
    for key, value in changes.items():
        section, name = key.split('__')
        tree[section][name] = value
    return check_config(tree)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'config.json').write_text(json.dumps(TINY))
    return tmp_path


@pytest.mark.parametrize(
    ('topology', 'shape', 'chips'),
    [('v5e:8x8', (8, 8), 64), ('v5p:2x2x4', (2, 2, 4), 16), ('v6e:16x16', (16, 16), 256), ('v5p:16x16x24', None, 6144)],
)
def test_slices_that_exist(topology, shape, chips):
    slice_ = parse_slice(topology)
    assert slice_.name == topology
    assert slice_.chips == chips
    assert shape in (None, slice_.shape)


@pytest.mark.parametrize(
    ('topology', 'says'),
    [
        ('v5e-64', 'is not like v5e:8x8'),
        ('v5e:8', 'is not like v5e:8x8'),
        ('v9z:8x8', 'there is no TPU "v9z"'),
        ('v5e:32x32', 'v5e has no slice of 32x32 chips; known are v5e up to 16x16'),
        ('v5e:4x4x4', 'no slice of 4x4x4'),
        ('v5p:8x8', 'no slice of 8x8'),
        ('v5p:16x24x24', 'no slice of 16x24x24'),
        ('v5e:3x5', 'share hosts'),
        ('v5e:0x4', 'no slice of 0x4'),
    ],
)
def test_slices_that_do_not_exist_are_refused_with_those_known(topology, says):
    with pytest.raises(UserError, match=says) as refused:
        parse_slice(topology)
    assert 'v6e' in str(refused.value)


def places(shape):
    """Devices of one slice, the last axis fastest."""
    return [Place(0, coordinates) for coordinates in itertools.product(*map(range, shape))]


def test_seconds_of_collectives_by_hand():
    # v5e: links of 50 GB/s one way; a ring only on an axis of 16 chips.
    ring, line = parse_slice('v5e:16x16'), parse_slice('v5e:4x4')
    row = tuple(range(16))
    gather = Collective('all-gather', 10**9, row, 3)
    assert collective_seconds(gather, places((16, 16)), ring) == pytest.approx((3 * 15 / 16 * 1e9 / 100e9, 0))
    everyone = Collective('all-reduce', 10**9, (), 1)
    assert collective_seconds(everyone, places((4, 4)), line) == pytest.approx((2 * 15 / 16 * 1e9 / 100e9, 0))
    neighbours = Collective('collective-permute', 10**9, (0, 1), 2)
    assert collective_seconds(neighbours, places((4, 4)), line) == pytest.approx((2 * 1e9 / 50e9, 0))
    # v5p, 4x4x4: three rings of two links of 100 GB/s; 2x2x4 is no whole cube, so no axis is a ring.
    assert parse_slice('v5p:4x4x4').axis_bandwidth(2) == 200e9
    assert parse_slice('v5p:2x2x4').axis_bandwidth(2) == 100e9


def test_a_sum_between_slices_crosses_the_network():
    slice_ = parse_slice('v5e:4x4')
    four = [Place(number, place.coordinates) for number in range(4) for place in places((4, 4))]
    between = Collective('all-reduce', 10**9, (), 2, between_slices=True)
    assert collective_seconds(between, four, slice_) == pytest.approx((0, 2 * 2 * 3 / 4 * 1e9 / (6.4e12 / 8 / 256)))
    inside = Collective('all-gather', 10**9, (), 1)
    assert collective_seconds(inside, four, slice_) == pytest.approx((15 / 16 * 1e9 / 100e9, 0))


def test_compute_of_a_step_by_hand():
    architecture = Architecture.from_hf(TINY)
    slice_ = parse_slice('v5e:2x2')
    bounds = roofline(
        architecture,
        8,
        64,
        backward='full',
        lora_parameters=0,
        recomputed=1000.0,
        traffic=819 * 10**9,
        collectives=[],
        places=places((2, 2)),
        slice_=slice_,
    )
    layer = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    attention = 3 * 2 * 32 * (64 + 1) / 2
    forward = 2 * (3 * layer + 32 * 64 + attention) * 8 * 64
    assert bounds.model_flops == pytest.approx(3 * forward)
    assert bounds.compute == pytest.approx((3 * forward + 1000 * 8 * 64) / 4 / 197e12)
    assert bounds.hbm == pytest.approx(1.0)
    assert (bounds.limit, bounds.at_least) == ('hbm', bounds.hbm)
    assert bounds.at_most == pytest.approx(bounds.compute + 1.0)


def test_what_is_computed_again():
    step = compiled_step.Step({'replica': 1, 'fsdp': 4, 'tensor': 1}, 'TPU', (), 1.0, {}, {}, True)
    layers = 2 * 3 * (32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48)
    head = 2 * 32 * 64

    def again(remat, tile_tokens):
        # Two rows of 64 tokens on a device, one after the other.
        job = Job(Architecture.from_hf(TINY), 'float32', 'float32', remat, LoraSettings(), OptimizerSettings(),
                  (1, 4, 1), tile_tokens, 2, 8, 64)  # fmt: skip
        return studies.recomputed_flops(job, step, 0)

    assert again('none', 64) == again('dots', 64) == 0
    assert again('none', 63) == head
    assert again('full', 64) == layers + 2 * 3 * 2 * 32 * (64 + 1) / 2
    # The one key that each token still sees is all that is left of attention.
    assert again('save_attention', 64) == layers + 2 * 3 * 2 * 32


@pytest.mark.parametrize(
    ('name', 'parameters'),
    [
        ('Llama-3.1-8B-Instruct', 8_030_261_248),
        ('Llama-3.3-70B-Instruct', 70_553_706_496),
        ('Qwen2.5-7B-Instruct', 7_615_616_512),
    ],
)
def test_known_models_have_as_many_parameters_as_their_model_cards_say(name, parameters):
    assert known_architecture(f'somewhere/{name}').parameter_count() == parameters


def test_an_unknown_model_is_refused_and_a_folder_is_read(folder):
    with pytest.raises(UserError, match=r'no folder and no known model; known are Llama-3\.1-8B'):
        known_architecture('nowhere/Gpt-2')
    assert known_architecture(str(folder)) == Architecture.from_hf(TINY)
    assert set(MODELS) >= {'Llama-3.1-8B', 'Qwen2.5-7B'}


def test_what_cannot_be_estimated_is_refused_before_compiling(folder, monkeypatch):
    with pytest.raises(UserError, match='must be longest or all'):
        feasibility(config_for(folder), topology=None, buckets='some')
    with pytest.raises(UserError, match='--num_slices needs a --topology'):
        feasibility(config_for(folder), topology=None, slices=2)
    with pytest.raises(UserError, match=r'one that names model\.path'):
        feasibility(config_for(folder, base__enabled=True), topology=None)
    monkeypatch.setattr(compiled_step, 'has_libtpu', lambda: False)
    with pytest.raises(UserError, match='needs libtpu; install ccl-jax with the extra "tpu"'):
        feasibility(config_for(folder), topology='v5e:2x2')


def test_all_buckets_or_the_longest(folder, monkeypatch):
    jobs = []

    def compile_step(job):
        jobs.append(job)
        return FITS

    monkeypatch.setattr(studies, 'compile_step', compile_step)
    feasibility(config_for(folder), topology=None)
    feasibility(config_for(folder, train__accumulation=2), topology='v5e:2x4', slices=2, buckets='all')
    assert [(job.rows, job.length, job.accumulation, job.topology, job.slices) for job in jobs] == [
        (8, 64, 1, None, 1),
        (16, 32, 2, 'v5e:2x4', 2),
        (8, 64, 2, 'v5e:2x4', 2),
    ]


def run_here(folder, *flags):
    """The command for the devices of this machine, of which it is told to have eight."""
    file = folder / 'tiny.py'
    file.write_text(
        'from ccl_jax.config import default_config\n'
        'def get_config():\n'
        '    config = default_config()\n'
        f'    config.model.path = {str(folder)!r}\n'
        '    config.data.buckets = (32, 64)\n'
        '    config.data.tokens_per_step = 512\n'
        '    config.data.row_multiple = 8\n'
        '    config.mesh.fsdp, config.mesh.tensor = 4, 2\n'
        '    return config\n'
    )
    environment = os.environ | {
        'JAX_PLATFORMS': 'cpu',
        'XLA_FLAGS': f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
    }
    code = 'import sys; from ccl_jax.cli import main; sys.exit(main())'
    return subprocess.run(
        [sys.executable, '-c', code, 'feasibility', f'--config={file}', *flags],
        env=environment,
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


def test_the_devices_of_this_machine(folder):
    done = run_here(folder, '--json')
    assert done.returncode == 0, done.stderr
    (long,) = json.loads(done.stdout)
    assert (long['rows'], long['length']) == (8, 64)
    assert long['mesh'] == {'replica': 1, 'fsdp': 4, 'tensor': 2}
    assert long['devices'] == 8
    # Every matrix lies on all eight devices in parts, norms lie whole; two moments and four counts.
    matrices = 2 * 64 * 32 + 3 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 48)
    norms = 7 * 32
    parameters = 4 * (matrices // 8 + norms)
    assert long['arguments_by_kind']['parameters'] == parameters
    assert long['arguments_by_kind']['optimizer state'] == 2 * parameters + 4
    assert long['arguments_by_kind']['batch'] == 5 * 4 * (8 * 64 // 4)
    assert long['memory']['arguments'] >= 3 * parameters
    assert long['collectives']['all-reduce']['runs'] > 3
    assert long['unknown_loops'] == 0
    assert 'roofline' not in long


def test_rows_that_do_not_divide_are_one_sentence(folder):
    done = run_here(folder, '--config.train.accumulation=4')
    assert done.returncode == 2
    assert 'make row_multiple of the plan a multiple of 16' in done.stderr
    assert 'Traceback' not in done.stderr


# What libtpu 0.0.42 writes of a program that fits.
LOG = """\
I1124 00:38:20.358930   21875 deepsea_compiler_backend.cc:2127] XLA::TPU program HBM usage: 4.55G / 15.75G
I1124 00:38:20.358939   21875 deepsea_compiler_backend.cc:2171] Total hbm usage >= 6.05G:
    reserved        258.01M
    program           4.55G
    arguments         1.25G

Output size 322.50M; shares 322.50M with arguments.

Total host usage >= 0B:
    reserved             0B
    program         unknown size
    arguments            0B

I1124 00:38:20.358945   21875 deepsea_compiler_backend.cc:2175] Program sflag requirement 412B:
    reserved           204B
    HLO temp           108B (100.0% utilization: Unpadded (88B) Padded (88B), 18.5% fragmentation (20B))
Program hbm requirement 4.55G:
    global            1.27M
    HLO temp          4.51G (100.0% utilization: Unpadded (3.15G) Padded (3.15G), 30.0% fragmentation (1.35G))
    overlays         40.14M
Program vmem requirement 127.50M:
    HLO temp        112.00M (0.0% utilization: Unpadded (0B) Padded (0B), 100.0% fragmentation (112.00M))
"""


def test_the_memory_that_libtpu_writes_of():
    memory = compiled_step.memory_of_log(LOG)
    assert memory is not None
    gib = {kind: size / 2**30 for kind, size in memory.items()}
    assert gib == {
        'arguments': pytest.approx(1.25),
        'temporaries': pytest.approx(4.51),
        'code and constants': pytest.approx(0.04, abs=1e-6),
        'kept by the runtime': pytest.approx(0.252, abs=1e-3),
    }
    assert compiled_step.memory_of_log('nothing of it') is None


def test_slices_of_many_chips():
    def name(chip, count):
        slice_, slices = weak_scaling.slices_of(CHIPS[chip], count)
        return slices, slice_.name

    assert [name('v5e', count) for count in (16, 32, 64, 128, 256, 512, 1024)] == [
        (1, 'v5e:4x4'),
        (1, 'v5e:4x8'),
        (1, 'v5e:8x8'),
        (1, 'v5e:8x16'),
        (1, 'v5e:16x16'),
        (2, 'v5e:16x16'),
        (4, 'v5e:16x16'),
    ]
    assert [name('v5p', count) for count in (16, 64, 128, 512)] == [
        (1, 'v5p:2x2x4'),
        (1, 'v5p:4x4x4'),
        (1, 'v5p:4x4x8'),
        (1, 'v5p:8x8x8'),
    ]
    for count in (2, 48):
        with pytest.raises(UserError, match='power of 2'):
            weak_scaling.slices_of(CHIPS['v5e'], count)


def test_where_scaling_bends():
    def estimate(chips, ici, network):
        job = Job(Architecture.from_hf(TINY), 'float32', 'float32', 'none', LoraSettings(), OptimizerSettings(),
                  (1, -1, 1), 64, 1, chips, 64)  # fmt: skip
        step = compiled_step.Step({'fsdp': chips}, 'TPU', (), 1.0, {}, {}, True)
        return Estimate(job, step, Slice(CHIPS['v5e'], (4, chips // 4)), Roofline(3.0, 1.0, ici, network, 1e12))

    sizes = [estimate(16, 1.0, 0.0), estimate(32, 1.0, 0.0), estimate(64, 1.1, 4.9)]
    assert weak_scaling.efficiencies(sizes) == pytest.approx([1, 1, 0.5])
    assert weak_scaling.bend(sizes).startswith('efficiency bends at 64 chips, from 100% to 50%: network takes 4.900 s')
    assert weak_scaling.bend(sizes[:2]).startswith('efficiency does not bend up to 32 chips: beside 3.000 s')
    # What happens later is measured against the best size so far, and a size that does not fit is passed over.
    too_large = dataclasses.replace(sizes[0], roofline=None)
    assert 'bends at 64 chips' in weak_scaling.bend([too_large, *sizes])
    assert weak_scaling.bend([too_large]) == 'no size fits'
    assert '2 x' not in weak_scaling.scaling_report(sizes)


@pytest.mark.slow
@pytest.mark.skipif(not HAS_LIBTPU, reason='libtpu is not installed')
def test_a_small_step_compiled_for_slices_that_are_not_here():
    architecture = dataclasses.replace(
        Architecture.from_hf(TINY), vocab_size=512, hidden_size=256, intermediate_size=512, head_dim=64
    )
    job = Job(
        architecture, 'float32', 'bfloat16', 'full', LoraSettings(), OptimizerSettings(),
        (2, -1, 1), 256, 1, 8, 256, topology='v5e:2x2', slices=2,
    )  # fmt: skip
    step = compile_step(job)
    assert step.fits
    assert step.mesh == {'replica': 2, 'fsdp': 4, 'tensor': 1}
    assert [place.slice_index for place in step.places] == [0] * 4 + [1] * 4
    # The runtime keeps a quarter of a GiB for itself; the rest is a few MB.
    assert 2**27 < sum(step.memory.values()) < 2**29
    assert step.memory['kept by the runtime'] > 2**27
    times = [collective_seconds(collective, step.places, parse_slice('v5e:2x2')) for collective in step.collectives]
    assert any(ici > 0 for ici, _ in times)
    assert any(network > 0 for _, network in times)
    too_large = dataclasses.replace(job, architecture=dataclasses.replace(architecture, vocab_size=2**26))
    step = compile_step(too_large)
    assert not step.fits
    assert sum(step.memory.values()) > CHIPS['v5e'].hbm_bytes
