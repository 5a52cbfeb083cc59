"""Generation beside vLLM on one GPU, each in a process of its own, because each takes the memory of the GPU."""

import dataclasses
import importlib.util
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from ccl_jax.studies.bench_decode import Answers, Size, make_prompts, our_answers
from ccl_jax.studies.step_process import ProcessFailed, run_process

# The shape of Llama 3.2 1B.
_SIZE = Size(
    architecture=Architecture(
        vocab_size=128256,
        hidden_size=2048,
        intermediate_size=8192,
        num_hidden_layers=16,
        num_attention_heads=32,
        num_key_value_heads=8,
        head_dim=64,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
    ),
    prompts=128,
    shortest=100,
    longest=4000,
    new_tokens=256,
    buckets=(512, 1024, 2048, 4096),
    allowed_ids=0,
)


@dataclasses.dataclass(frozen=True)
class Job:
    """Who generates with the model in a folder, how often."""

    engine: str
    folder: str
    repeats: int


def bench_decode_vllm(repeats: int = 3) -> str:
    """Generates with each and returns a table as text.

    Raises:
        UserError: vLLM is not installed, there is no NVIDIA GPU, or an engine fails.
    """
    if importlib.util.find_spec('vllm') is None:
        raise UserError('this needs vLLM, which is not installed; run pip install vllm on a machine with an NVIDIA GPU')
    if shutil.which('nvidia-smi') is None:
        raise UserError('this needs an NVIDIA GPU, and nvidia-smi is not there; run it on a machine that has one')
    written = _SIZE.prompts * _SIZE.new_tokens
    lines = [
        f'{_SIZE.architecture.parameter_count() / 1e9:.1f} billion parameters, bfloat16, greedy; {_SIZE.prompts} '
        f'prompts of {_SIZE.shortest} to {_SIZE.longest} tokens, {_SIZE.new_tokens} new tokens each; '
        f'median of {repeats} runs, without compilation'
    ]
    with tempfile.TemporaryDirectory() as folder:
        # On the CPU, so that this process leaves the GPU alone.
        jax.config.update('jax_platforms', 'cpu')
        decoder = init_decoder(_SIZE.architecture, seed=0, param_dtype=jnp.bfloat16)
        save_decoder(decoder, folder)
        for engine in ('vllm', 'ccl_jax'):
            print(f'{engine} ...', file=sys.stderr, flush=True)
            try:
                seconds = run_process(Job(engine, folder, repeats), {'JAX_PLATFORMS': 'cuda'})['seconds']
            except ProcessFailed as error:
                raise UserError(f'{engine} {error}') from None
            lines.append(f'{engine:8}  {written / statistics.median(seconds):10,.0f} new tokens/s')
    return '\n'.join(lines) + '\n'


def measure(job: Job) -> dict[str, Any]:
    """Returns the seconds of each run but the first; to be the work of a process."""
    prompts = make_prompts(_SIZE)
    run = (_vllm if job.engine == 'vllm' else _ours)(job.folder, prompts)
    seconds = []
    for _ in range(job.repeats + 1):
        began = time.perf_counter()
        answers = run()
        seconds.append(time.perf_counter() - began)
        if {len(answer) for answer in answers} != {_SIZE.new_tokens}:
            raise ValueError(f'{job.engine} did not write {_SIZE.new_tokens} tokens after every prompt')
    return {'seconds': seconds[1:]}


def _ours(folder: str, prompts: list[list[int]]) -> Callable[[], Answers]:
    decoder = load_decoder(folder, param_dtype=jnp.bfloat16, compute_dtype=jnp.bfloat16)
    return lambda: our_answers(decoder, _SIZE, prompts)


def _vllm(folder: str, prompts: list[list[int]]) -> Callable[[], Answers]:
    os.environ['VLLM_LOGGING_LEVEL'] = 'ERROR'
    import vllm

    longest = _SIZE.longest + _SIZE.new_tokens
    model = vllm.LLM(
        folder, skip_tokenizer_init=True, dtype='bfloat16', max_model_len=longest, enable_prefix_caching=False
    )
    sampling = vllm.SamplingParams(temperature=0, max_tokens=_SIZE.new_tokens, ignore_eos=True, detokenize=False)

    def answers() -> Answers:
        inputs = [{'prompt_token_ids': prompt} for prompt in prompts]
        return [list(output.outputs[0].token_ids) for output in model.generate(inputs, sampling, use_tqdm=False)]

    return answers
