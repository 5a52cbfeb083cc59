from pathlib import Path

import numpy as np
import pytest

from ccl_jax.decoding import generate as module
from ccl_jax.decoding.generate import generate
from ccl_jax.errors import UserError
from ccl_jax.model.hf import load_decoder

GOLDEN = Path(__file__).parents[1] / 'goldens' / 'llama'
VOCABULARY, POSITIONS = 24, 64


@pytest.fixture(scope='module')
def decoder():
    return load_decoder(GOLDEN)


@pytest.fixture(scope='module')
def prompts():
    rng = np.random.default_rng(0)
    return [rng.integers(0, VOCABULARY, n).tolist() for n in (7, 1, 16, 3, 12, 8, 2, 11)]


@pytest.fixture(scope='module')
def reference():
    torch = pytest.importorskip('torch')
    transformers = pytest.importorskip('transformers')
    model = transformers.LlamaForCausalLM.from_pretrained(GOLDEN).eval()

    def continue_(prompt, end_ids, new):
        """Greedy tokens of one prompt, without padding, and their log-probabilities."""
        inputs = torch.tensor([prompt])
        output = model.generate(
            inputs,
            attention_mask=torch.ones_like(inputs),
            max_new_tokens=new,
            do_sample=False,
            eos_token_id=list(end_ids) or None,
            pad_token_id=0,
        )
        with torch.no_grad():
            logprobs = model(output).logits.log_softmax(-1)
        written = output[0, len(prompt) :]
        places = range(len(prompt) - 1, output.shape[1] - 1)
        return written.tolist(), [
            logprobs[0, place, token].item() for place, token in zip(places, written, strict=True)
        ]

    return continue_


@pytest.mark.parametrize('end_ids', [(), (14, 18)])
def test_tokens_and_logprobs_equal_transformers(decoder, prompts, reference, end_ids):
    generations = generate(decoder, prompts, end_ids=end_ids, max_new_tokens=12, buckets=(8, 16), batch_rows=3)
    assert len(generations) == len(prompts)
    for prompt, generation in zip(prompts, generations, strict=True):
        tokens, logprobs = reference(prompt, end_ids, 12)
        ended = tokens[-1] in end_ids
        kept = len(tokens) - ended
        assert generation.ended == ended
        assert list(generation.tokens) == tokens[:kept]
        np.testing.assert_allclose(generation.logprobs, logprobs[:kept], atol=1e-4)
    if end_ids:
        assert {generation.ended for generation in generations} == {True, False}


def test_neighbours_padding_and_order_change_nothing(decoder, prompts):
    def run(prompts, **settings):
        return generate(decoder, prompts, end_ids=(14,), max_new_tokens=6, **settings)

    together = run(prompts, buckets=(16,), batch_rows=8)
    apart = run(prompts, buckets=(4, 16), batch_rows=3)
    assert [g.tokens for g in together] == [g.tokens for g in apart]
    for left, right in zip(together, apart, strict=True):
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=1e-5)
    assert [g.tokens for g in run(prompts[::-1], buckets=(16,), batch_rows=8)] == [g.tokens for g in together[::-1]]
    assert run([], buckets=(16,)) == []


def test_one_compilation_for_each_bucket_in_use(decoder, prompts):
    before = module._generate_batch._cache_size()
    for _ in range(2):
        generate(decoder, prompts * 2, end_ids=(), max_new_tokens=5, buckets=(8, 16, 32), batch_rows=4)
    assert module._generate_batch._cache_size() - before == 2


def test_a_row_stops_where_the_positions_end(decoder):
    long, short = [1] * (POSITIONS - 3), [2, 3]
    cut, free = generate(decoder, [long, short], end_ids=(), max_new_tokens=6, buckets=(POSITIONS,), batch_rows=2)
    assert (len(cut.tokens), cut.ended) == (3, False)
    assert (len(free.tokens), free.ended) == (6, False)


@pytest.mark.parametrize(
    ('prompt', 'message'),
    [
        ([], 'prompt 1 is empty'),
        ([1] * 33, 'prompt 1 has 33 tokens, more than the longest bucket'),
        ([1, VOCABULARY], 'prompt 1 has a token outside'),
        ([1, -1], 'prompt 1 has a token outside'),
    ],
)
def test_unusable_prompts_are_refused_by_index(decoder, prompt, message):
    with pytest.raises(UserError, match=message):
        generate(decoder, [[1], prompt], end_ids=(), max_new_tokens=2, buckets=(16, 32))


def test_a_prompt_that_fills_all_positions_is_refused(decoder):
    with pytest.raises(UserError, match='prompt 0 has 64 tokens'):
        generate(decoder, [[1] * POSITIONS], end_ids=(), max_new_tokens=2, buckets=(128,))
