from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ccl_jax.decoding import steps
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


def test_compiled_shapes_follow_from_the_buckets(decoder, prompts):
    compiled = (steps.prefill, steps.decode)
    for step in compiled:
        step.clear_cache()
    for copies in (4, 8):
        generate(decoder, prompts * copies, end_ids=(), max_new_tokens=5, buckets=(8, 16, 32), batch_rows=8)
    # Two buckets are in use, and no group of two rows is half empty here.
    assert [step._cache_size() for step in compiled] == [2, 2]


class Hashed:
    """Allows a few ids that follow from all before, and notes what it was told."""

    def __init__(self, prompt):
        self.state, self.calls = sum(prompt) + len(prompt), []

    def allowed(self):
        self.calls.append('?')
        return np.random.default_rng(self.state).choice(VOCABULARY, 3, replace=False).astype(np.int32)

    def advance(self, token):
        self.calls.append(token)
        self.state = 31 * self.state + token


def nucleus(scores, top_p):
    """Hides tokens, one by one from the likeliest, once those before have `top_p`."""
    hidden, before = np.full(scores.shape, -np.inf, np.float32), 0.0
    total = np.exp(scores.astype(np.float64)).sum()
    for token in np.argsort(-scores):
        if before >= top_p:
            break
        hidden[token] = scores[token]
        before += np.exp(np.float64(scores[token])) / total
    return hidden


@pytest.fixture(scope='module')
def loop():
    """Continues one prompt by the whole decoder on the whole text, again for every token."""
    compiled = {}

    def continue_(decoder, number, prompt, new, *, end_ids=(), constraint=None, temperature=0.0, top_p=1.0, seed=0):
        if id(decoder) not in compiled:
            graphdef, params = nnx.split(decoder)

            @jax.jit
            def logprobs_at(tokens, place):
                model = nnx.merge(graphdef, params)
                hidden = model(tokens[None], jnp.arange(POSITIONS)[None], jnp.ones((1, POSITIONS), jnp.int32))
                return jax.nn.log_softmax(model.logits(hidden[0, place]))

            compiled[id(decoder)] = logprobs_at
        text, logprobs = list(prompt), []
        for step in range(min(new, POSITIONS - len(prompt))):
            padded = np.zeros(POSITIONS, np.int32)
            padded[: len(text)] = text
            model = np.asarray(compiled[id(decoder)](padded, len(text) - 1))
            scores = model.copy()
            if constraint is not None:
                scores = np.full_like(model, -np.inf)
                ids = constraint.allowed()
                scores[ids] = model[ids]
            if temperature == 0:
                token = int(np.argmax(scores))
            else:
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), number), step)
                token = int(jax.random.categorical(key, nucleus(scores / np.float32(temperature), top_p)))
            text.append(token)
            logprobs.append(float(model[token]))
            if token in end_ids:
                return tuple(text[len(prompt) : -1]), logprobs[:-1], True
            if constraint is not None:
                constraint.advance(token)
        return tuple(text[len(prompt) :]), logprobs, False

    return continue_


WAYS = {
    'greedy': {'end_ids': (11, 21, 36)},
    'one token': {'end_ids': (11, 21), 'new': 1},
    'constrained': {'end_ids': (3,), 'constrained': True},
    'sampled': {'end_ids': (14,), 'temperature': 0.7, 'seed': 3},
    'sampled, constrained': {'end_ids': (14,), 'temperature': 1.5, 'top_p': 0.6, 'seed': 4, 'constrained': True},
}


@pytest.mark.parametrize('name', WAYS)
def test_answers_equal_a_loop_without_a_cache(name, prompts, loop):
    """Soft-caps and windows; more prompts than rows, one row, and all in one batch; some end at once, some where the
    positions end."""
    way = dict(WAYS[name])
    constrained, new, end_ids = way.pop('constrained', False), way.pop('new', 7), way.pop('end_ids')
    decoder = load_decoder(GOLDEN.parent / 'gemma2')
    assert (decoder.architecture.max_position_embeddings, decoder.architecture.sliding_window) == (POSITIONS, 9)
    prompts = [*prompts, [5] * (POSITIONS - 2), *(prompt[::-1] for prompt in prompts[:4])]
    # Every third prompt is free.
    hashed = [Hashed(prompt) if constrained and i % 3 else None for i, prompt in enumerate(prompts)]
    expected = [
        loop(decoder, i, prompt, new, end_ids=end_ids, constraint=hashed[i], **way) for i, prompt in enumerate(prompts)
    ]
    if name != 'one token':
        assert {ended for *_, ended in expected} == {True, False}
    for batch_rows in (1, 4, 16) if name == 'greedy' else (4,):
        constraints = [Hashed(prompt) if constrained and i % 3 else None for i, prompt in enumerate(prompts)]
        generations = generate(
            decoder,
            prompts,
            end_ids=end_ids,
            max_new_tokens=new,
            buckets=(16, 128),
            batch_rows=batch_rows,
            constraints=constraints if constrained else None,
            **way,
        )
        for i, (generation, (tokens, logprobs, ended)) in enumerate(zip(generations, expected, strict=True)):
            assert (generation.tokens, generation.ended) == (tokens, ended), (i, batch_rows)
            np.testing.assert_allclose(generation.logprobs, logprobs, atol=1e-4)
            if constraints[i] is not None:
                # One question before each token, and told of all but the last.
                told = [call for token in (*tokens, 3) for call in ('?', token)][:-1]
                assert constraints[i].calls == (told if ended else told[:-2])


def test_a_seed_gives_the_same_draws_and_another_gives_others(decoder, prompts):
    def run(seed, batch_rows):
        return [
            generation.tokens
            for generation in generate(
                decoder,
                prompts,
                end_ids=(),
                max_new_tokens=8,
                buckets=(16,),
                batch_rows=batch_rows,
                temperature=1.0,
                seed=seed,
            )
        ]

    assert run(1, 8) == run(1, 3) != run(2, 8)
    # The same prompt twice is drawn twice.
    prompts = [prompts[0]] * 2
    first, second = run(1, 2)
    assert first != second


@pytest.mark.parametrize(
    ('setting', 'message'),
    [
        ({'temperature': -1.0}, 'temperature is -1'),
        ({'top_p': 0.0}, 'top_p is 0'),
        ({'max_new_tokens': 0}, 'max_new_tokens is 0'),
    ],
)
def test_settings_out_of_range_are_refused(decoder, setting, message):
    with pytest.raises(UserError, match=message):
        generate(decoder, [[1]], **{'end_ids': (), 'max_new_tokens': 2, 'buckets': (16,), **setting})


def test_a_constraint_that_allows_nothing_is_named(decoder):
    class Nothing(Hashed):
        def allowed(self):
            return np.array([], np.int32)

    with pytest.raises(ValueError, match='constraint of prompt 1 allows no token'):
        generate(decoder, [[1], [2]], end_ids=(), max_new_tokens=2, buckets=(16,), constraints=[None, Nothing([2])])


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
