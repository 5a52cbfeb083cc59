"""`export`: the newest checkpoint as a Hugging Face folder, or its adapter as a PEFT folder."""

from pathlib import Path

import jax

from ccl_jax.errors import UserError
from ccl_jax.model.lora import merge_lora
from ccl_jax.model.peft import CONFIG_FILE, save_adapter
from ccl_jax.pipeline.coding import save_coding
from ccl_jax.pipeline.models import initial_model, load_adapters, load_trained, open_mesh, save_model
from ccl_jax.pipeline.workdir import await_file, workdir_config

FORMS = ('merged', 'adapter')


def export_run(workdir: Path, folder: Path, form: str = 'merged') -> str:
    """Writes the newest checkpoint to `folder`; returns what to print.

    Args:
        form: 'merged' for a whole model (config, tokenizer, safetensors), with the adapters of a LoRA
            run added to the weights; 'adapter' for the adapters alone.

    Raises:
        UserError: the workdir holds no checkpoint, or none of this form, or `folder` exists already.
    """
    if form not in FORMS:
        raise UserError(f'there is no form "{form}"; export as {" or ".join(FORMS)}')
    config = workdir_config(workdir)
    if form == 'adapter' and not config.lora.enabled:
        raise UserError(f'the run in {workdir} trained all weights, so it has no adapter; export it as merged')
    if folder.exists() and any(folder.iterdir() if folder.is_dir() else [folder]):
        raise UserError(f'{folder} exists already; choose another --output or remove it')
    mesh = open_mesh(config.mesh)
    if form == 'adapter':
        step, decoder = load_adapters(config, workdir, mesh)
        base = initial_model(config, workdir)
        save_adapter(decoder, folder, base=base)
        await_file(folder / CONFIG_FILE)
        return (
            f'the adapter of step {step} is in {folder}, for peft and whatever reads its folders; it belongs to {base}'
        )
    step, decoder, tokenizer = load_trained(config, workdir, mesh)
    merge_lora(decoder)
    save_model(decoder, tokenizer, folder)
    if jax.process_index() == 0:
        save_coding(config, folder)
    await_file(folder / 'config.json')
    return f'the checkpoint of step {step} is in {folder}, for transformers and whatever reads its folders'
