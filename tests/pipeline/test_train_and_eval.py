"""`train` and `eval` on a miniature of the demo: what is left, resumption, devices."""

import json
import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from ccl_jax.config import MeshSettings, check_config, default_config
from ccl_jax.model.settings import LoraSettings
from ccl_jax.pipeline import models
from tests.pipeline.conftest import MINIATURE, ROOT, STEPS, ccl_jax, ccl_jax_process, command, environment


def _losses(workdir: Path) -> list[float]:
    lines = [json.loads(line) for line in (workdir / 'metrics.jsonl').read_text().splitlines()]
    assert [line['step'] for line in lines] == list(range(len(lines)))
    return [line['loss'] for line in lines]


def test_a_run_leaves_its_files_and_prints_the_table(miniature):
    assert len(_losses(miniature)) == STEPS
    printed = (miniature / 'printed.txt').read_text()
    for word in ('lookup', 'majority', 'S0', 'S1', 'S2', 'does not beat', 'synthetic'):
        assert word in printed
    for name in ('metrics.json', 'predictions.jsonl', 'audit.html'):
        assert str(miniature / 'eval' / 'test' / name) in printed
        assert (miniature / 'eval' / 'test' / name).stat().st_size > 0
    metrics = json.loads((miniature / 'eval' / 'test' / 'metrics.json').read_text())
    assert metrics['synthetic'] is True
    assert set(metrics['baselines']) == {'lookup', 'lookup_terms', 'tfidf', 'majority'}
    figures = {path.name: path.read_bytes() for path in (miniature / 'eval' / 'test' / 'figures').iterdir()}
    assert set(figures) == {'precision_recall.png', 'frequency.png', 'siblings.png', 'evidence_lengths.png'}
    assert all(image.startswith(b'\x89PNG') for image in figures.values())
    assert metrics['decoding']['step'] == STEPS
    assert metrics['counts']['documents'] == 8
    assert any((miniature / 'tensorboard').iterdir())
    assert 'synthetic' in (miniature / 'eval' / 'test' / 'audit.html').read_text()


def test_the_base_model_starts_from_a_hugging_face_folder(miniature):
    for folder in ('init', 'hf'):
        config = json.loads((miniature / 'base' / folder / 'config.json').read_text())
        assert config['architectures'] == ['LlamaForCausalLM']
        assert (miniature / 'base' / folder / 'tokenizer.json').exists()
        assert list((miniature / 'base' / folder).glob('*.safetensors'))


@pytest.mark.slow
def test_eval_again_gives_the_same_metrics_and_another_split_its_own(miniature):
    before = json.loads((miniature / 'eval' / 'test' / 'metrics.json').read_text())
    done = ccl_jax('eval', f'--workdir={miniature}', '--json')
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == before
    done = ccl_jax('eval', f'--workdir={miniature}', '--split=dev')
    assert done.returncode == 0, done.stderr
    assert json.loads((miniature / 'eval' / 'dev' / 'metrics.json').read_text())['split'] == 'dev'


@pytest.mark.slow
def test_killed_in_the_middle_of_training_the_same_command_gives_the_same_losses(miniature, tmp_path):
    workdir = tmp_path / 'killed'
    process = subprocess.Popen(
        command(*MINIATURE, f'--workdir={workdir}'),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 300
        # After the first checkpoint and before the end.
        while not (workdir / 'checkpoints' / '4').exists() or len((workdir / 'metrics.jsonl').read_text()) == 0:
            assert process.poll() is None, 'the run ended before it could be killed'
            assert time.monotonic() < deadline
            time.sleep(0.005)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert not (workdir / 'eval').exists()
    done = ccl_jax_process(*MINIATURE, f'--workdir={workdir}')
    assert done.returncode == 0, done.stderr
    assert _losses(workdir) == _losses(miniature)


@pytest.mark.slow
@pytest.mark.parametrize(
    'mesh', [[], ['--config.mesh.fsdp=4', '--config.mesh.tensor=2']], ids=['fsdp=8', 'fsdp=4,tensor=2']
)
def test_eight_devices_give_the_same_losses(miniature, tmp_path, mesh):
    done = ccl_jax_process(
        *MINIATURE,
        f'--workdir={tmp_path / "eight"}',
        *mesh,
        XLA_FLAGS=f'{os.environ["XLA_FLAGS"]} --xla_force_host_platform_device_count=8',
    )
    assert done.returncode == 0, done.stderr
    assert _losses(tmp_path / 'eight') == pytest.approx(_losses(miniature), rel=1e-5)


def test_the_decoder_is_told_how_many_segments_a_row_of_either_plan_may_have(tmp_path, monkeypatch):
    told = {}
    monkeypatch.setattr(models, 'load_decoder', lambda folder, **options: told.update(options))
    tree = default_config()
    tree.base.enabled, tree.data.max_segments, tree.base.data.max_segments = True, 20, 100
    config = check_config(tree)
    models.load_start(config, tmp_path, models.open_mesh(MeshSettings()), LoraSettings())
    assert told['max_segments'] == 100
