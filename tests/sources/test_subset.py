"""A part of the training documents: nested, seeded, independent of the order, counted."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.release import open_release
from ccl_jax.records import Document, document_to_json
from ccl_jax.sources.corpus import JsonlSettings, SourceSettings, open_corpus
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.subset import LEFT_OUT, take_training_documents

DOCUMENTS = [Document(f'd{i}', f'text {i}', split=split) for i, split in enumerate(['train', 'train', 'test'] * 20)]
TRAINING = [document for document in DOCUMENTS if document.split == 'train']


def taken(most, seed=0, documents=DOCUMENTS):
    report = SourceReport('s')
    found = list(take_training_documents(documents, most, seed, report))
    assert [d for d in found if d.split == 'test'] == [d for d in documents if d.split == 'test']
    training = [d for d in found if d.split == 'train']
    assert len(training) == min(most, len(TRAINING))
    assert report.left_out[LEFT_OUT] == len(TRAINING) - len(training)
    return training


@given(st.integers(1, 50), st.integers(1, 50), st.integers(0, 3), st.permutations(DOCUMENTS))
def test_a_smaller_part_lies_within_a_larger_one_whatever_the_order(fewer, more, seed, shuffled):
    fewer, more = sorted((fewer, more))
    small, large = taken(fewer, seed), taken(more, seed)
    assert {d.doc_id for d in small} <= {d.doc_id for d in large}
    assert [d for d in TRAINING if d in small] == small
    assert {d.doc_id for d in taken(fewer, seed, shuffled)} == {d.doc_id for d in small}


def test_the_seed_chooses():
    parts = {tuple(d.doc_id for d in taken(10, seed)) for seed in range(5)}
    assert len(parts) == 5
    # No part of the alphabet or of the file is preferred: over many seeds every document comes up.
    assert {d.doc_id for seed in range(60) for d in taken(5, seed)} == {d.doc_id for d in TRAINING}


def test_a_corpus_gives_the_part_and_its_report_counts_the_rest(tmp_path):
    for split in ('train', 'test'):
        lines = [json.dumps(document_to_json(d)) for d in DOCUMENTS if d.split == split]
        (tmp_path / f'{split}.jsonl').write_text('\n'.join(lines))
    files = JsonlSettings(train=str(tmp_path / 'train.jsonl'), test=str(tmp_path / 'test.jsonl'))
    corpus = open_corpus(SourceSettings(name='jsonl', jsonl=files, max_train_documents=7), open_release(''))
    documents = list(corpus.documents())
    assert [sum(d.split == split for d in documents) for split in ('train', 'test')] == [7, 20]
    assert {report.split: dict(report.left_out) for report in corpus.reports} == {'train': {LEFT_OUT: 33}, 'test': {}}
    assert '33' in corpus.reports[0].table()


def test_a_negative_number_is_refused():
    with pytest.raises(UserError, match='max_train_documents'):
        SourceSettings(max_train_documents=-1)
