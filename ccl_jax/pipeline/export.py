"""`export`: the newest checkpoint as a Hugging Face folder."""

from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.pipeline.train import load_trained, open_mesh, save_model
from ccl_jax.pipeline.workdir import on_process_zero, workdir_config


def export_run(workdir: Path, folder: Path) -> str:
    """Writes config, tokenizer and safetensors to `folder`; returns what to print.

    Raises:
        UserError: the workdir holds no checkpoint, or `folder` exists already.
    """
    config = workdir_config(workdir)
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f'{folder} exists already; choose another --output or remove it')
    step, decoder, tokenizer = load_trained(config, workdir, open_mesh(config.mesh))
    on_process_zero(lambda: save_model(decoder, tokenizer, folder), folder / 'config.json')
    return f'the checkpoint of step {step} is in {folder}, for transformers and whatever reads its folders'
