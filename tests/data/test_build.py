"""Building a store: the same for any number of processes, resumed after a kill, made anew only for other inputs."""

import dataclasses
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from ccl_jax.data import convert
from ccl_jax.data.build import build_store, is_built
from ccl_jax.data.convert import Converter, make_blocks, make_examples
from ccl_jax.data.examples import write_examples
from ccl_jax.data.plan import PlanSettings
from ccl_jax.data.tokenization import load_tokenizer, train_tokenizer
from ccl_jax.errors import UserError
from ccl_jax.pipeline import prepare as prepare_module
from ccl_jax.pipeline.prepare import Prepared, prepare_examples
from ccl_jax.records import Annotation, Document, Evidence, Span, document_to_json, span_to_json, write_jsonl
from ccl_jax.tasks.settings import TaskSettings

SETTINGS = TaskSettings(
    names=('document', 'span', 'lm'),
    span_shapes={'single': 1.0, 'list': 1.0, 'in_context': 1.0},
    overlong='windows',
    window_overlap=30,
)
LONGEST = 60


def documents(count=24):
    for i in range(count):
        text = f'Note {i} says gout. ' + 'There is more to say of it all. ' * (i % 5 * 4)
        yield Document(f'd{i}', text, (Annotation('M10.9', evidence=(Evidence(((text.index('gout'),) * 2,), ''),)),))


def located(document):
    (annotation,) = document.annotations
    begin = document.text.index('gout')
    evidence = (Evidence(((begin, begin + 4),), 'gout'),)
    return dataclasses.replace(document, annotations=(dataclasses.replace(annotation, evidence=evidence),))


DOCUMENTS = [located(document) for document in documents()]
SPANS = [Span(f's{i}', f'finding {i}', f'A{i % 90:02d}.0', 'gold', 'title') for i in range(100)]
TEXTS = [(f't{i}', f'Some text, number {i}. ' * i) for i in range(10)]
INPUTS = {'of': 'these'}


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp('tokenizer') / 'folder'
    train_tokenizer([document.text for document in DOCUMENTS], 400, folder)
    return folder


@pytest.fixture(scope='module')
def converter(folder):
    return Converter.make(SETTINGS, load_tokenizer(folder), LONGEST, 0, DOCUMENTS)


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(convert, '_RECORDS_PER_BLOCK', {'document': 5, 'span': 16, 'lm': 4})


def blocks():
    return make_blocks(SETTINGS, iter(DOCUMENTS), iter(SPANS), iter(TEXTS))


def contents(store):
    return {path.name: path.read_bytes() for path in store.directory.iterdir()}


@pytest.mark.slow
def test_the_store_is_the_same_for_any_number_of_processes(tmp_path, converter, folder, small_blocks):
    stores = [build_store(blocks(), converter, tmp_path / str(processes), INPUTS, processes) for processes in (0, 2)]
    assert contents(stores[0]) == contents(stores[1])
    assert sorted(path.name for path in tmp_path.iterdir()) == ['0', '2']
    # The same as without blocks on disk, one example after the other.
    counts: Counter[str] = Counter()
    made = list(
        make_examples(
            SETTINGS,
            load_tokenizer(folder),
            LONGEST,
            0,
            documents=DOCUMENTS,
            spans=SPANS,
            texts=TEXTS,
            counts=counts,
        )
    )
    kept = stores[0].examples(range(len(stores[0])))
    assert [example.example_id for example in kept] == [example.example_id for example in made]
    assert [example.tokens.tolist() for example in kept] == [example.tokens.tolist() for example in made]
    assert [example.evidence for example in kept] == [example.evidence for example in made]
    assert stores[0].metadata == {'inputs': INPUTS, 'counts': dict(counts)}
    assert counts['documents_in_windows'] > 5
    assert counts['texts_split'] > 2
    for example in kept:
        for part in example.evidence:
            (document,) = [document for document in DOCUMENTS if document.doc_id == example.doc_id]
            assert document.text[part.begin : part.end] == 'gout'
            assert example.extent[0] <= part.begin < part.end <= example.extent[1]
    assert sum(len(example.evidence) for example in kept) == len(DOCUMENTS)


def test_blocks_are_read_as_needed(tmp_path, converter, small_blocks):
    read = []

    def counted():
        for block in blocks():
            # In this process nothing is read ahead.
            assert len(list((tmp_path / 'store.building').glob('*.array_record-*'))) == len(read)
            read.append(block)
            yield block

    build_store(counted(), converter, tmp_path / 'store', INPUTS)
    assert len(read) == 5 + 7 + 3


KILLED = """
import multiprocessing, os, signal, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
import test_build as t
from ccl_jax.data import convert
from ccl_jax.data.build import build_store

def killed():
    for number, block in enumerate(t.blocks()):
        if number == 9:
            print(*(child.pid for child in multiprocessing.active_children()), flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
        yield block

if __name__ == '__main__':
    convert._RECORDS_PER_BLOCK = {{'document': 5, 'span': 16, 'lm': 4}}
    converter = convert.Converter.make(t.SETTINGS, t.load_tokenizer({folder!r}), t.LONGEST, 0, t.DOCUMENTS)
    build_store(killed(), converter, Path({store!r}), t.INPUTS, 2)
"""


def wait_for_end(pid):
    for _ in range(200):
        try:
            os.kill(pid, 0)
            state = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()[0]
        except (ProcessLookupError, FileNotFoundError):
            return True
        if state == 'Z':
            return True
        time.sleep(0.05)
    return False


@pytest.mark.slow
def test_a_killed_build_goes_on_where_it_stopped_and_leaves_no_processes(tmp_path, converter, folder, small_blocks):
    whole = build_store(blocks(), converter, tmp_path / 'whole', INPUTS)
    script = tmp_path / 'killed.py'
    tests = str(Path(__file__).parent)
    script.write_text(KILLED.format(tests=tests, folder=str(folder), store=str(tmp_path / 'store')))
    environment = {**os.environ, 'PYTHONPATH': str(Path(__file__).parent.parent.parent)}
    done = subprocess.run(
        [sys.executable, str(script)], capture_output=True, text=True, timeout=120, check=False, env=environment
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    children = list(map(int, done.stdout.split()))
    assert len(children) == 2
    assert all(map(wait_for_end, children))
    building = tmp_path / 'store.building'
    finished = {int(path.stem.rpartition('-')[2]) for path in building.glob('shard-0*.json')}
    assert {0, 1, 2, 3, 4, 5} <= finished
    assert len(finished) < 15
    files = {number: building / f'ccl_examples-train.array_record-{number:05d}' for number in finished}
    kept = {number: path.stat().st_mtime_ns for number, path in files.items()}
    # One of the finished shards is damaged, of another the columns are gone: these two are made again.
    files[1].write_bytes(files[1].read_bytes()[:-1] + b'x')
    (building / 'shard-00002.npz').unlink()
    store = build_store(blocks(), converter, tmp_path / 'store', INPUTS)
    assert contents(store) == contents(whole)
    now = {number: (store.directory / path.name).stat().st_mtime_ns for number, path in files.items()}
    assert {number for number in finished if now[number] == kept[number]} == finished - {1, 2}
    assert not building.exists()


def test_a_build_of_other_inputs_begins_anew(tmp_path, converter, small_blocks):
    def interrupted():
        for number, block in enumerate(blocks()):
            if number == 4:
                raise KeyboardInterrupt
            yield block

    def some():
        return make_blocks(TaskSettings(names=('lm',)), texts=TEXTS)

    with pytest.raises(KeyboardInterrupt):
        build_store(interrupted(), converter, tmp_path / 'store', INPUTS)
    other = build_store(some(), converter, tmp_path / 'store', {'of': 'those'})
    assert contents(other) == contents(build_store(some(), converter, tmp_path / 'other', {'of': 'those'}))
    assert is_built(tmp_path / 'store', {'of': 'those'})
    assert not is_built(tmp_path / 'store', INPUTS)
    (tmp_path / 'store' / 'lengths.npy').unlink()
    assert not is_built(tmp_path / 'store', {'of': 'those'})
    assert not is_built(tmp_path / 'nothing', INPUTS)
    write_examples(other_examples(converter), tmp_path / 'plain', {})
    assert not is_built(tmp_path / 'plain', INPUTS)


def other_examples(converter):
    for block in make_blocks(TaskSettings(names=('lm',)), texts=TEXTS):
        yield from converter.examples(block, Counter())


@pytest.mark.slow
def test_a_killed_worker_is_an_error_and_not_a_hang(tmp_path, converter, small_blocks):
    def murderous():
        for number, block in enumerate(blocks()):
            if number == 6:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)
            yield block

    with pytest.raises(UserError, match='was killed'):
        build_store(murderous(), converter, tmp_path / 'store', INPUTS, 2)
    assert len(build_store(blocks(), converter, tmp_path / 'store', INPUTS)) > 100


def test_errors_of_records_pass_from_the_processes(tmp_path, folder, small_blocks):
    refusing = Converter.make(TaskSettings(overlong='refuse'), load_tokenizer(folder), LONGEST, 0)
    for processes in (0, 1):
        with pytest.raises(UserError, match=r'document d\d has \d+ tokens with its codes, over the longest bucket'):
            build_store(blocks(), refusing, tmp_path / 'store', INPUTS, processes)
    with pytest.raises(UserError, match='no examples'):
        build_store([], refusing, tmp_path / 'store', INPUTS)
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.txt').write_text('mine')
    with pytest.raises(UserError, match='no example store'):
        build_store(blocks(), refusing, tmp_path / 'mine', INPUTS)


def test_a_block_may_give_no_example(tmp_path, folder, monkeypatch):
    monkeypatch.setattr(convert, '_RECORDS_PER_BLOCK', {'span': 1})
    huge = dataclasses.replace(SPANS[1], text='finding ' * 100)
    converter = Converter.make(TaskSettings(names=('span',)), load_tokenizer(folder), LONGEST, 0)
    spans = [huge, SPANS[0], huge, SPANS[2]]
    store = build_store(make_blocks(converter.settings, spans=spans), converter, tmp_path / 'store', INPUTS)
    assert [example.example_id for example in store.examples([1, 0])] == ['span:s2#0', 'span:s0#0']
    assert store.metadata['counts'] == {'span_examples_single': 2, 'spans_left_out_too_long': 2}


@pytest.fixture
def prepared(tmp_path):
    data = tmp_path / 'data'
    write_jsonl(data / 'documents-train.jsonl', map(document_to_json, DOCUMENTS))
    write_jsonl(data / 'spans.jsonl', map(span_to_json, SPANS))
    write_jsonl(data / 'texts.jsonl', ({'text_id': text_id, 'text': text or '.'} for text_id, text in TEXTS))
    return Prepared(data, frozenset(), False)


def test_prepare_makes_examples_again_only_where_an_input_changed(tmp_path, folder, prepared, monkeypatch):
    built = []
    inner = prepare_module.build_store
    monkeypatch.setattr(prepare_module, 'build_store', lambda *given: built.append(given) or inner(*given))
    tokenizer = load_tokenizer(folder)
    part = SimpleNamespace(plan=PlanSettings(buckets=(32, LONGEST), tokens_per_step=120, epochs=1))
    tasks = dataclasses.replace(SETTINGS, names=('document', 'span'), span_shapes={'single': 1.0})

    def prepare(tasks=tasks, part=part, seed=0, tokenizer=tokenizer):
        store, plan = prepare_examples(tasks, part, seed, prepared, tokenizer, tmp_path / 'examples')
        times, _ = len(built), built.clear()
        assert plan.examples == len(store)
        return times, store.fingerprint

    times, first = prepare()
    assert times == 1
    assert prepare() == (0, first)
    assert prepare(dataclasses.replace(tasks, processes=2)) == (0, first), 'processes change nothing'
    shorter = SimpleNamespace(plan=dataclasses.replace(part.plan, buckets=(32, 50)))
    other_rows = SimpleNamespace(plan=dataclasses.replace(part.plan, buckets=(LONGEST,), tokens_per_step=240))
    assert prepare(part=other_rows) == (0, first), 'the plan does not make the examples'
    # Texts are not used by these tasks, documents are.
    write_jsonl(prepared.directory / 'texts.jsonl', [{'text_id': 't', 'text': 'another'}])
    assert prepare() == (0, first)
    for other in (
        {'tasks': dataclasses.replace(tasks, output_format='blocks')},
        {'part': shorter},
        {'seed': 1},
        {'tokenizer': train_tokenizer(['other words'], 300, tmp_path / 'other')},
    ):
        times, fingerprint = prepare(**other)
        assert times == 1
        assert fingerprint != first
        assert prepare() == (1, first)
    changed = dataclasses.replace(SPANS[0], text='another finding')
    write_jsonl(prepared.directory / 'spans.jsonl', map(span_to_json, [changed, *SPANS[1:]]))
    times, second = prepare()
    assert times == 1
    assert second != first
    assert prepare() == (0, second)
    # A damaged store is made again, and is the same.
    (tmp_path / 'examples' / 'ccl_examples-train.array_record-00000').unlink()
    assert prepare() == (1, second)
    assert json.loads((tmp_path / 'examples' / 'metadata.json').read_text())['metadata']['counts']['documents'] == 24
