"""Texts of the base model: their order, what is kept out of them, and that every one is counted."""

import json
from collections import Counter

import pytest

from ccl_jax.config import check_config, default_config
from ccl_jax.data.windows import sentence_ends
from ccl_jax.errors import UserError
from ccl_jax.icd.folding import fold
from ccl_jax.icd.release import Release
from ccl_jax.pipeline.base_texts import SOURCE, TERMS, TRAINING, write_base_texts
from ccl_jax.pipeline.sources import StoredDocuments, documents_file, write_documents
from ccl_jax.records import Annotation, Document
from ccl_jax.sources.corpus import Corpus

RELEASE = Release.embedded()
# 'Bronchopneumonia, unspecified organism' and 'Gout, unspecified' (too short a word to count by itself).
HELD_OUT = frozenset(('J18.0', 'M10.9'))
# A small code space, whose terms are found in no time.
SPACE = ('J18.0', 'J18.9', 'M10.9')
EVALUATION = 'The boy fell from a tall tree on Monday. He cried.'
TRAINED = 'The boy fell from a tall tree on Monday. Had bronchopneumonia. He coughed.'
DOCUMENTS = (
    Document('t1', TRAINED, (Annotation('W14.XXXA', 'ICD-10-CM', ()),), split='train'),
    Document('t2', 'Bronchopneumonia. Coded J180.', split='train'),
    Document('d1', EVALUATION, (Annotation('J18.0', 'ICD-10-CM', ()),), split='dev'),
)
OWN = [('o1', 'Gout is painful.'), ('o2', 'Cough, dry.'), ('o3', 'Never reached.')]
CORPUS = [
    # The second sentence goes; the third begins with the words before it.
    'A cough. Often\nBRONCHO-PNEUMONIA or bronchopneumonia. Then gout!',
    'M10.9',
    'A girl said: the boy fell from a tall tree on Tuesday.\n',
    '  Cough, dry.',
    '  Cough, dry.',
]


@pytest.fixture
def splits(tmp_path):
    seen = write_documents(Corpus(lambda: iter(DOCUMENTS), []), tmp_path)
    return {name: StoredDocuments(documents_file(tmp_path, name), count) for name, count in seen.documents.items()}


def written(tmp_path, splits, *, corpora=(), corpus=None, **base):
    config = default_config()
    config.base.corpora = corpora
    for name, value in base.items():
        config.base[name] = value
    corpus = corpus or Corpus(lambda: iter(DOCUMENTS), [], texts=lambda count: iter(OWN), code_space=SPACE)
    path = tmp_path / 'texts.jsonl'
    report = write_base_texts(path, check_config(config, needs_model=False), RELEASE, corpus, splits, HELD_OUT)
    return [tuple(json.loads(line).values()) for line in path.read_text().splitlines()], report['origins']


@pytest.fixture
def corpus_file(tmp_path):
    path = tmp_path / 'corpus.jsonl'
    path.write_text(''.join(json.dumps({'text': text}) + '\n' for text in CORPUS))
    return str(path)


def test_what_is_kept_and_what_is_counted(tmp_path, splits, corpus_file, capsys):
    texts, origins = written(tmp_path, splits, corpora=(corpus_file,), texts=5)
    assert texts == [
        # A training document may share words with one of the evaluation, but holds no held-out term.
        ('t1', 'The boy fell from a tall tree on Monday. He coughed.'),
        (f'{corpus_file}:1', 'A cough. Then gout!'),
        (f'{corpus_file}:4', '  Cough, dry.'),
        ('o1', 'Gout is painful.'),
        ('o2', 'Cough, dry.'),
    ]
    assert origins[TRAINING] == {
        'texts': 2,
        'kept': 1,
        'dropped: every sentence holds a held-out term': 1,
        'sentences kept': 2,
        'sentences dropped': 3,
        'words kept': 11,
        'words dropped': 5,
    }
    assert origins[corpus_file] == {
        'texts': 5,
        'kept': 2,
        'dropped: occurred before': 1,
        'dropped: shares a run of words with an evaluation document': 1,
        'dropped: every sentence holds a held-out term': 1,
        'sentences kept': 3,
        'sentences dropped': 2,
        'words kept': 6,
        'words dropped': 7,
    }
    assert origins[SOURCE]['texts'] == 2
    said = capsys.readouterr().err
    assert 'training documents: 1 of 2 texts kept, 11 words; 1 dropped: every sentence' in said
    assert '2 of 5 sentences dropped, with held-out terms' in said


def test_the_sums_of_the_counts(tmp_path, splits, corpus_file):
    texts, origins = written(tmp_path, splits, corpora=(corpus_file,), texts=0, terms=True)
    assert list(origins) == [TRAINING, TERMS, corpus_file, SOURCE]
    kept = Counter()
    for counts in origins.values():
        dropped = sum(count for name, count in counts.items() if name.startswith('dropped'))
        assert counts['texts'] == counts['kept'] + dropped
        kept.update(counts)
    assert kept['kept'] == len(texts)
    # Sentences are cut before any goes, so words are counted in what is written.
    assert kept['words kept'] == sum(len(fold(text).split()) for _, text in texts)
    assert texts[-1] == OWN[-1]


def test_no_text_holds_a_held_out_term(tmp_path, splits, corpus_file):
    texts, origins = written(tmp_path, splits, corpora=(corpus_file,), texts=0, terms=True)
    assert origins[TERMS]['sentences dropped'] > 0
    for _, text in texts:
        for begin, end in zip([0, *sentence_ends(text)], sentence_ends(text), strict=False):
            assert ' bronchopneumonia ' not in f' {fold(text[begin:end])} '
    words = {word for text_id, text in texts if text_id.startswith('category:') for word in fold(text).split()}
    assert {'pneumonia', 'fracture', 'appendicitis'} <= words
    # No code is written; the few words that look like one are in titles, such as the vitamin.
    assert not {fold(code) for code in RELEASE.codes() if len(code) > 5} & words


def test_made_up_texts_may_share_words_with_the_evaluation_and_have_no_end(tmp_path, splits):
    def corpus(synthetic):
        return Corpus(
            lambda: iter(DOCUMENTS),
            [],
            texts=lambda count: iter([('o1', EVALUATION)]),
            texts_of_training=False,
            code_space=SPACE,
            synthetic=synthetic,
        )

    assert written(tmp_path, splits, corpus=corpus(True), texts=9)[0] == [('o1', EVALUATION)]
    assert written(tmp_path, splits, corpus=corpus(False), texts=9)[0] == []
    with pytest.raises(UserError, match=r'base\.texts is 0, for all, .* set a number'):
        written(tmp_path, splits, corpus=corpus(True), texts=0)
