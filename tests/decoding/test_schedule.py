"""Which prompt is in which row, with a stand-in for the model: its answers follow from the prompt alone."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.decoding.schedule import Batch, Shapes
from ccl_jax.decoding.steps import UNUSED

END, POSITIONS, BUCKETS = 7, 80, (4, 16, 64, 128)


def answer(prompt, limit):
    """Tokens up to the end or the limit, an end included."""
    tokens = np.random.default_rng(prompt).integers(0, 8, limit).tolist()
    return tokens[: tokens.index(END) + 1] if END in tokens else tokens


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(1, POSITIONS - 1), min_size=1, max_size=40),
    batch_rows=st.integers(1, 20),
    row_devices=st.sampled_from((1, 2, 4)),
    new=st.integers(1, 12),
    steps=st.integers(1, 6),
)
def test_every_prompt_gets_its_own_answer(lengths, batch_rows, row_devices, new, steps):
    prompts = [[i, *range(length - 1)] for i, length in enumerate(lengths)]
    shapes = Shapes.choose(
        len(prompts),
        batch_rows,
        row_devices=row_devices,
        buckets=BUCKETS,
        max_new_tokens=new,
        max_positions=POSITIONS,
    )
    assert shapes.rows % row_devices == 0
    assert shapes.rows < batch_rows + row_devices
    batch = Batch(prompts, (END,), shapes)
    in_rows, slots, seen, dispatches = {}, POSITIONS, set(), 0
    while batch.waiting or batch.active:
        dispatches += 1
        assert dispatches <= len(prompts) * new
        assert batch.slots <= slots
        slots = batch.slots
        while shapes.rows - batch.active >= batch.wanted:
            longest = max(len(prompts[number]) for number in batch.waiting)
            tokens, own_lengths, rows = batch.next_prompts()
            seen.add(tokens.shape)
            assert tokens.shape[0] % row_devices == 0
            assert tokens.shape[1] <= slots
            assert own_lengths.max() == longest
            real = rows < shapes.rows
            assert real.any()
            for row, length, content in zip(rows[real], own_lengths[real], tokens[real], strict=True):
                number = batch.rows.prompts[row]
                assert content[:length].tolist() == prompts[number]
                in_rows[row] = answer(prompts[number], new)
        assert batch.active
        written = np.full((shapes.rows, steps), UNUSED)
        for row in np.flatnonzero(batch.rows.active):
            begin, limit = batch.rows.written[row], batch.rows.limits[row]
            assert batch.rows.positions[row] == len(prompts[batch.rows.prompts[row]]) + begin
            part = in_rows[row][:limit][begin : begin + steps]
            written[row, : len(part)] = part
            assert batch.rows.positions[row] + len(part) <= slots
        batch.take(written, -written.astype(np.float32))
    for prompt, generation in zip(prompts, batch.generations(), strict=True):
        expected = answer(prompt, new)[: POSITIONS - len(prompt)]
        ended = expected[-1] == END
        assert generation.ended == ended
        assert list(generation.tokens) == expected[: len(expected) - ended]
        assert list(generation.logprobs) == [-token for token in generation.tokens]
    # A group of each bucket, and smaller ones by halves at the very end.
    assert len(seen) <= len(BUCKETS) + 3
