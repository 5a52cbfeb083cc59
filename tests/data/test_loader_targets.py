"""From records to batches: every example as often as the plan says, its target whole, weighted and ended."""

import tempfile
from collections import Counter
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding

from ccl_jax.data.convert import make_examples
from ccl_jax.data.examples import write_examples
from ccl_jax.data.loader import make_loader
from ccl_jax.data.plan import PlanSettings, make_plan
from ccl_jax.data.tokenization import END_OF_TURN, encode_prompt, train_tokenizer
from ccl_jax.records import Annotation, Document, Evidence, Span
from ccl_jax.tasks import TASKS
from ccl_jax.tasks.prompts import document_example, lm_example, span_example
from ccl_jax.tasks.settings import TaskSettings

CODES = ('I10', 'M10.9', 'R05.9', 'S72.001A')
words = st.lists(st.sampled_from(['gout', 'cough', 'ödem', '<|eot_id|>', '3.5', 'mg', 'a\nb']), min_size=1, max_size=30)


@st.composite
def documents(draw):
    pieces = draw(words)
    text = ' '.join(pieces)
    annotations = []
    for code in draw(st.lists(st.sampled_from(CODES), unique=True, max_size=3)):
        piece = draw(st.sampled_from(pieces))
        begin = text.index(piece)
        evidence = (Evidence(((begin, begin + len(piece)),), piece),) if draw(st.booleans()) else ()
        annotations.append(Annotation(code, evidence=evidence))
    return text, tuple(annotations)


@pytest.fixture(scope='module')
def tokenizer(tmp_path_factory):
    return train_tokenizer(['gout cough 3.5 mg: I10 M10.9'], 300, tmp_path_factory.mktemp('tokenizer') / 'folder')


@settings(max_examples=40, deadline=None)
@given(
    notes=st.lists(documents(), min_size=1, max_size=6),
    phrases=st.lists(words.map(' '.join), max_size=12),
    texts=st.lists(words.map(' '.join), max_size=3),
    output_format=st.sampled_from(['pairs', 'blocks']),
    normalization=st.sampled_from(['token', 'example']),
    epochs=st.integers(1, 2),
    threads=st.sampled_from([0, 2]),
    seed=st.integers(0, 3),
)
def test_every_target_arrives_whole_and_ends(
    tokenizer, notes, phrases, texts, output_format, normalization, epochs, threads, seed
):
    notes = [Document(f'd{i}', text, annotations) for i, (text, annotations) in enumerate(notes)]
    spans = [Span(f's{i}', text, CODES[i % len(CODES)], 'gold', 'title') for i, text in enumerate(phrases)]
    texts = [(f't{i}', text) for i, text in enumerate(texts)]
    task_settings = TaskSettings(names=TASKS, output_format=output_format)
    examples = make_examples(task_settings, tokenizer, 1024, 0, documents=notes, spans=spans, texts=texts)
    with tempfile.TemporaryDirectory() as folder:
        store = write_examples(examples, Path(folder) / 'store', {})
        plan = make_plan(
            store.lengths,
            store.task_ids,
            store.target_starts,
            PlanSettings((64, 256, 1024), 1024, epochs=epochs, normalization=normalization, seed=seed),
        )
        loader = make_loader(store, plan, SingleDeviceSharding(jax.devices()[0]), threads=threads)
        batches = [{name: np.asarray(array) for name, array in batch.items()} for _, batch in loader]

    tasks = [document_example(note, output_format, 'keep') for note in notes]
    tasks += [span_example([span], 'single', output_format) for span in spans]
    tasks += [lm_example(*text) for text in texts]
    expected = Counter({key: epochs * n for key, n in Counter(_expected(tokenizer, task) for task in tasks).items()})
    found = Counter(
        segment for batch in batches for segment in _segments(tokenizer, batch, plan.settings.normalization)
    )
    assert found == expected


def _expected(tokenizer, task):
    prompt = [] if task.task == 'lm' else encode_prompt(tokenizer, task.prompt)
    return task.task, tuple(prompt), task.target


def _segments(tokenizer, batch, normalization):
    """Yields (task, prompt's tokens, target's text) of every segment but the padding, and checks its fields."""
    end_of_turn = tokenizer.convert_tokens_to_ids(END_OF_TURN)
    for row in range(len(batch['tokens'])):
        tokens, positions, segment_ids, weights, task_ids = (
            batch[name][row] for name in ('tokens', 'positions', 'segment_ids', 'loss_weights', 'task_ids')
        )
        # Contiguous and numbered from 1; padding is the last one, or there is none and every token is real.
        assert set(np.diff(segment_ids)) <= {0, 1}
        assert segment_ids[0] == 1
        for segment in range(1, int(segment_ids[-1]) + 1):
            (places,) = np.nonzero(segment_ids == segment)
            assert positions[places].tolist() == list(range(len(places)))
            weighted = np.flatnonzero(weights[places])
            if not len(weighted):
                assert segment == segment_ids[-1]
                assert not tokens[places].any()
                assert not task_ids[places].any()
                continue
            (task,) = {TASKS[task] for task in task_ids[places]}
            # Position i predicts token i + 1: from the first of the target to the last of the segment, without gaps.
            start = int(weighted[0]) + 1
            assert (weighted + 1).tolist() == list(range(start, len(places)))
            weight = 1 if normalization == 'token' else 1 / len(weighted)
            assert weights[places][weighted] == pytest.approx(weight, rel=1e-6)
            ids = tokens[places].tolist()
            assert ids[-1] == end_of_turn
            first = 0 if task == 'lm' else start
            target = ids[first:-1]
            if task == 'lm':
                # The beginning of a text is given, not predicted.
                assert (start, target.pop(0)) == (1, tokenizer.bos_token_id)
            yield task, tuple(ids[:first]), tokenizer.decode(target)
