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
from ccl_jax.sources.subset import LEFT_OUT, SET_ASIDE, set_aside, take_training_documents

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


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 3))
def test_what_is_set_aside_grows_with_the_share_and_nothing_is_lost(smaller, larger, seed):
    smaller, larger = sorted((smaller, larger))
    chosen = []
    for share in (smaller, larger):
        report = SourceReport('s')
        found = list(set_aside(DOCUMENTS, share, seed, report))
        assert [d.doc_id for d in found] == [d.doc_id for d in DOCUMENTS]
        assert [d for d in found if d.split != 'tune'] == [d for d in DOCUMENTS if d in found]
        chosen.append({d.doc_id for d in found if d.split == 'tune'})
        assert report.left_out[SET_ASIDE] == len(chosen[-1])
    assert chosen[0] <= chosen[1] <= {d.doc_id for d in TRAINING}


def test_the_share_is_about_what_is_asked_for_and_leaves_no_rank_alone():
    training = [Document(f'd{i}', 'text', split='train') for i in range(2000)]
    aside = [d for d in set_aside(training, 0.25, 0, SourceReport('s')) if d.split == 'tune']
    # Five standard deviations of 2,000 draws.
    assert abs(len(aside) - 500) < 5 * (2000 * 0.25 * 0.75) ** 0.5
    few = {d.doc_id for d in take_training_documents(training, 500, 0, SourceReport('s'))}
    assert 70 < sum(d.doc_id in few for d in aside) < 180


def test_a_corpus_with_both_sets_aside_first(tmp_path):
    (tmp_path / 'train.jsonl').write_text('\n'.join(json.dumps(document_to_json(d)) for d in TRAINING))
    files = JsonlSettings(train=str(tmp_path / 'train.jsonl'))
    settings = SourceSettings(name='jsonl', jsonl=files, max_train_documents=7, tune_share=0.5)
    corpus = open_corpus(settings, open_release(''))
    documents = list(corpus.documents())
    counts = [sum(d.split == split for d in documents) for split in ('train', 'tune')]
    (report,) = corpus.reports
    assert counts[0] == 7
    assert 8 <= counts[1] <= 32
    assert dict(report.left_out) == {SET_ASIDE: counts[1], LEFT_OUT: len(TRAINING) - counts[1] - 7}


@pytest.mark.parametrize(('name', 'value'), [('max_train_documents', -1), ('tune_share', -0.1), ('tune_share', 1.0)])
def test_what_is_no_number_of_documents_or_no_share_is_refused(name, value):
    with pytest.raises(UserError, match=name):
        SourceSettings(**{name: value})
