"""Generation beside transformers' `generate` on the CPU: tokens a second, and what handing on constraints costs.

Both continue the same prompts, of many lengths, with the same weights in float32, greedily and without an end token, so
that both write as many tokens. Each has all prompts in one batch. They run in turn in one process; the first run of
each, which compiles and allocates, is not measured.
"""

import dataclasses
import importlib.util
import itertools
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence

import jax
import numpy as np

from ccl_jax.decoding.generate import TokenConstraint, generate
from ccl_jax.errors import UserError
from ccl_jax.model.architecture import Architecture
from ccl_jax.model.decoder import Decoder
from ccl_jax.model.hf import init_decoder, load_decoder, save_decoder
from ccl_jax.studies.known_models import SMALL_LLAMA

THEIRS, OURS, CONSTRAINED, PREFILL = 'transformers', 'ccl_jax', 'ccl_jax, constrained', 'ccl_jax, one token'


@dataclasses.dataclass(frozen=True)
class Size:
    """What is generated.

    Attributes:
        prompts: how many, all in one batch.
        shortest, longest: of a prompt, in tokens.
        new_tokens: of each answer.
        buckets: lengths to which ours pads prompts.
        allowed_ids: what the synthetic constraint allows at each step.
    """

    architecture: Architecture
    prompts: int
    shortest: int
    longest: int
    new_tokens: int
    buckets: tuple[int, ...]
    allowed_ids: int


# As large as the demo's decoder; weights larger than a new model's, so that the likeliest token leads by more than a
# rounding.
_SIZE = Size(
    architecture=dataclasses.replace(
        SMALL_LLAMA,
        vocab_size=2500,
        hidden_size=128,
        intermediate_size=320,
        num_attention_heads=4,
        initializer_range=0.1,
    ),
    prompts=16,
    shortest=100,
    longest=900,
    new_tokens=128,
    buckets=tuple(range(128, 1025, 128)),
    allowed_ids=500,
)

ConstraintFactory = Callable[[Sequence[int]], TokenConstraint]
Answers = list[list[int]]


class RandomIds:
    """Allows other random ids at each step, drawn beforehand: what is left is the cost of passing them on."""

    def __init__(self, vocab_size: int, count: int):
        rng = np.random.default_rng(0)
        sets = [rng.choice(vocab_size, count, replace=False).astype(np.int32) for _ in range(16)]
        self._sets = itertools.cycle(sets)

    def allowed(self) -> np.ndarray:
        return next(self._sets)

    def advance(self, token: int) -> None:
        pass


def bench_decode(size: Size = _SIZE, repeats: int = 5, constraint: ConstraintFactory | None = None) -> str:
    """Generates in every way, in turn, and returns a table as text.

    Args:
        constraint: makes that of a prompt; by default it allows random ids.

    Raises:
        UserError: torch is not installed, or jax already runs on something else than the CPU.
    """
    if importlib.util.find_spec('torch') is None:
        raise UserError('this needs torch, which is not installed; run pip install "ccl-jax[test]"')
    # Has no effect once a backend is there.
    jax.config.update('jax_platforms', 'cpu')
    if jax.default_backend() != 'cpu':
        raise UserError(f'jax runs on {jax.default_backend()}; set JAX_PLATFORMS=cpu to compare on the CPU')
    prompts = make_prompts(size)
    with tempfile.TemporaryDirectory() as folder:
        save_decoder(init_decoder(size.architecture, seed=0), folder)
        ways = _ways(
            size, folder, prompts, constraint or (lambda _: RandomIds(size.architecture.vocab_size, size.allowed_ids))
        )
        answers = {way: run() for way, run in ways.items()}
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        for repeat in range(repeats):
            print(f'{repeat + 1} of {repeats} ...', file=sys.stderr, flush=True)
            for way in [*ways][repeat % len(ways) :] + [*ways][: repeat % len(ways)]:
                began = time.perf_counter()
                ways[way]()
                seconds[way].append(time.perf_counter() - began)
    return report(size, prompts, answers, seconds)


def make_prompts(size: Size) -> list[list[int]]:
    """Random tokens, of lengths that are spread evenly from the shortest to the longest, in random order."""
    rng = np.random.default_rng(0)
    lengths = rng.permutation(np.linspace(size.shortest, size.longest, size.prompts).astype(int))
    return [rng.integers(0, size.architecture.vocab_size, length).tolist() for length in lengths]


def _ways(
    size: Size, folder: str, prompts: list[list[int]], constraint: ConstraintFactory
) -> dict[str, Callable[[], Answers]]:
    decoder = load_decoder(folder)
    return {
        THEIRS: their_way(folder, prompts, size.new_tokens),
        OURS: lambda: our_answers(decoder, size, prompts),
        CONSTRAINED: lambda: our_answers(decoder, size, prompts, constraint),
        PREFILL: lambda: our_answers(decoder, dataclasses.replace(size, new_tokens=1), prompts),
    }


def our_answers(
    decoder: Decoder, size: Size, prompts: list[list[int]], constraint: ConstraintFactory | None = None
) -> Answers:
    """Returns what we write after each prompt."""
    generations = generate(
        decoder,
        prompts,
        end_ids=(),
        max_new_tokens=size.new_tokens,
        buckets=size.buckets,
        batch_rows=len(prompts),
        constraints=None if constraint is None else [constraint(prompt) for prompt in prompts],
    )
    return [list(generation.tokens) for generation in generations]


def their_way(folder: str, prompts: list[list[int]], new_tokens: int) -> Callable[[], Answers]:
    """Returns a function that returns what transformers writes after each prompt, padded on the left as it wants."""
    import torch
    import transformers

    model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    model.generation_config.eos_token_id = None
    longest = max(map(len, prompts))
    tokens = torch.zeros(len(prompts), longest, dtype=torch.long)
    mask = torch.zeros_like(tokens)
    for row, prompt in enumerate(prompts):
        tokens[row, longest - len(prompt) :] = torch.tensor(prompt)
        mask[row, longest - len(prompt) :] = 1

    def answers() -> Answers:
        with torch.inference_mode():
            output = model.generate(
                tokens, attention_mask=mask, max_new_tokens=new_tokens, do_sample=False, pad_token_id=0
            )
        written: Answers = output[:, longest:].tolist()
        return written

    return answers


def report(
    size: Size, prompts: Sequence[Sequence[int]], answers: Mapping[str, Answers], seconds: Mapping[str, Sequence[float]]
) -> str:
    """Returns the table and what it says, as text.

    Args:
        answers: of each way, one of each prompt.
        seconds: of each way's runs; those of one number were measured one after the other.

    Raises:
        ValueError: an answer is not as long as it should be.
    """
    for way in (THEIRS, OURS, CONSTRAINED):
        if {len(answer) for answer in answers[way]} != {size.new_tokens}:
            raise ValueError(f'{way} did not write {size.new_tokens} tokens after every prompt')
    lengths = [len(prompt) for prompt in prompts]
    written = len(prompts) * size.new_tokens
    lines = [
        f'{size.architecture.parameter_count() / 1e6:.1f} million parameters, float32, greedy; {len(prompts)} prompts '
        f'of {min(lengths)} to {max(lengths)} tokens in one batch, {size.new_tokens} new tokens each; '
        f'{os.cpu_count()} cores; {len(seconds[OURS])} runs of each in turn, without compilation',
        '',
        f'{"":22}  median s  least s  most s  new tokens/s',
    ]
    for way in (THEIRS, OURS, CONSTRAINED):
        middle = statistics.median(seconds[way])
        lines.append(
            f'{way:22}  {middle:8.2f}  {min(seconds[way]):7.2f}  {max(seconds[way]):6.2f}  {written / middle:12,.0f}'
        )
    ratios = [theirs / ours for theirs, ours in zip(seconds[THEIRS], seconds[OURS], strict=True)]
    equal = sum(ours == theirs for ours, theirs in zip(answers[OURS], answers[THEIRS], strict=True))
    costs = [
        (constrained - free) / (free - prefill)
        for constrained, free, prefill in zip(*(seconds[way] for way in (CONSTRAINED, OURS, PREFILL)), strict=True)
    ]
    lines += [
        '',
        f'ccl_jax writes {statistics.median(ratios):.2f} x as many tokens a second as transformers '
        f'({min(ratios):.2f} to {max(ratios):.2f})',
        f'greedy answers equal, token by token: {equal} of {len(prompts)}',
        f'handing on {size.allowed_ids:,} allowed ids a step costs {statistics.median(costs):.1%} of decoding time '
        f'({min(costs):.1%} to {max(costs):.1%}); prompts and first tokens, '
        f'{statistics.median(seconds[PREFILL]):.2f} s, left out',
    ]
    return '\n'.join(lines) + '\n'
