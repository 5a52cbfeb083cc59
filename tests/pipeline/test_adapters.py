"""A LoRA run from the command line: train, code, and both forms of export."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from ccl_jax.config import MeshSettings
from ccl_jax.errors import UserError
from ccl_jax.model.hf import load_decoder
from ccl_jax.pipeline.models import load_trained, open_mesh
from ccl_jax.pipeline.workdir import workdir_config
from tests.pipeline.conftest import ccl_jax

NOTE = 'A 70-year-old man. Presents with HTN and gout.\nDenies fever.\n'


@pytest.fixture(scope='module')
def lora_run(miniature, tmp_path_factory) -> Path:
    """The workdir of a finished run of adapters over the miniature's base model, which lies in `model` there."""
    workdir = tmp_path_factory.mktemp('lora') / 'run'
    base = workdir.parent / 'model'
    shutil.copytree(miniature / 'base' / 'hf', base)
    data = workdir.parent / 'own.jsonl'
    lines = [
        {
            'doc_id': f'd{i}',
            'text': f'Note {i}. Has HTN.',
            'codes': [{'code': 'I10', 'evidence': [{'parts': [[13, 16]]}]}],
        }
        for i in range(10, 20)
    ]
    data.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    done = ccl_jax(
        'train',
        '--config=configs/jsonl.py',
        f'--config.model.path={base}',
        '--config.model.compute_dtype=float32',
        f'--config.sources.jsonl.train={data}',
        f'--config.sources.jsonl.test={data}',
        '--config.lora.rank=4',
        '--config.lora.alpha=32',
        '--config.lora.dropout=0.1',
        '--config.data.buckets=(128,)',
        '--config.data.tokens_per_step=1024',
        '--config.data.steps=4',
        '--config.optimizer.warmup_steps=0',
        '--config.optimizer.learning_rate=0.02',
        '--config.eval.max_new_tokens=16',
        f'--workdir={workdir}',
    )
    assert done.returncode == 0, done.stderr
    return workdir


def tokens_of(workdir: Path) -> np.ndarray:
    _, _, tokenizer = load_trained(workdir_config(workdir), workdir, open_mesh(MeshSettings()))
    return np.array([tokenizer(NOTE)['input_ids']], np.int32)


def logits(decoder, tokens: np.ndarray) -> np.ndarray:
    positions = np.arange(tokens.shape[1], dtype=np.int32)[None]
    return np.asarray(decoder.logits(decoder(tokens, positions, np.ones_like(tokens))))


@pytest.fixture(scope='module')
def trained_logits(lora_run) -> np.ndarray:
    """Of the run's newest checkpoint; they differ from those of the model that it started from."""
    _, decoder, _ = load_trained(workdir_config(lora_run), lora_run, open_mesh(MeshSettings()))
    assert len(decoder.layers.adapters) == 7
    tokens = tokens_of(lora_run)
    trained = logits(decoder, tokens)
    assert np.abs(trained - logits(load_decoder(lora_run.parent / 'model'), tokens)).max() > 0.1
    return trained


@pytest.mark.slow
def test_a_merged_export_is_a_whole_model_with_the_same_logits(lora_run, trained_logits, tmp_path):
    done = ccl_jax('export', f'--workdir={lora_run}', f'--output={tmp_path / "merged"}')
    assert done.returncode == 0, done.stderr
    merged = load_decoder(tmp_path / 'merged')
    assert not merged.layers.adapters
    np.testing.assert_allclose(logits(merged, tokens_of(lora_run)), trained_logits, atol=1e-5)


@pytest.mark.slow
def test_an_exported_adapter_has_the_same_logits_in_peft(lora_run, trained_logits, tmp_path):
    done = ccl_jax('export', f'--workdir={lora_run}', f'--output={tmp_path / "adapter"}', '--form=adapter')
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / 'adapter').iterdir()) == [
        'adapter_config.json',
        'adapter_model.safetensors',
    ]
    torch, peft = pytest.importorskip('torch'), pytest.importorskip('peft')
    from transformers import AutoModelForCausalLM

    base = json.loads((tmp_path / 'adapter' / 'adapter_config.json').read_text())['base_model_name_or_path']
    assert Path(base) == lora_run.parent / 'model'
    model = peft.PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tmp_path / 'adapter').eval()
    with torch.no_grad():
        theirs = model(torch.tensor(tokens_of(lora_run), dtype=torch.long)).logits
    np.testing.assert_allclose(trained_logits, theirs.numpy(), atol=1e-4)


@pytest.mark.slow
def test_code_uses_the_adapters(lora_run, tmp_path):
    note = tmp_path / 'note.txt'
    note.write_text(NOTE)
    done = ccl_jax('code', f'--workdir={lora_run}', '--json', str(note))
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_a_run_of_all_weights_has_no_adapter(miniature, tmp_path):
    done = ccl_jax('export', f'--workdir={miniature}', f'--output={tmp_path / "adapter"}', '--form=adapter')
    assert done.returncode == 2
    assert 'trained all weights' in done.stderr
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_adapters_are_not_put_over_another_model(lora_run, tmp_path):
    shutil.copytree(lora_run.parent, tmp_path / 'moved')
    config = json.loads((tmp_path / 'moved' / 'model' / 'config.json').read_text())
    (tmp_path / 'moved' / 'model' / 'config.json').write_text(json.dumps({**config, 'rms_norm_eps': 1e-3}))
    workdir = tmp_path / 'moved' / 'run'
    settings = json.loads((workdir / 'config.json').read_text())
    settings['model']['path'] = str(tmp_path / 'moved' / 'model')
    (workdir / 'config.json').write_text(json.dumps(settings))
    with pytest.raises(UserError, match='do not belong to what is loaded: model was'):
        load_trained(workdir_config(workdir), workdir, open_mesh(MeshSettings()))
