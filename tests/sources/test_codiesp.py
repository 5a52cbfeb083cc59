"""CodiEsp: a corpus of the same shape made by hand, and the published one where it is at hand."""

import re
from pathlib import Path

import pytest

from ccl_jax.errors import UserError
from ccl_jax.icd.matching import TermMatcher
from ccl_jax.icd.release import Release
from ccl_jax.records import Annotation, Evidence, document_from_json, document_to_json
from ccl_jax.sources.codiesp import read_codiesp
from ccl_jax.sources.report import Rejection, SourceReport

DATA = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'codiesp'

TEXT_B = 'Mujer con fiebre alta (38 ºC), tos seca.\nNiega dolor de cabeza y de ojo.\n'


def _rows(*rows: str) -> bytes:
    return ''.join(row.replace('|', '\t') + '\n' for row in rows).encode()


@pytest.fixture
def corpus(tmp_path) -> Path:
    """Two documents; offsets counted by hand in `TEXT_B`."""
    train = tmp_path / 'train'
    for folder, texts in {
        'text_files': {'doc-b': TEXT_B, 'doc-a': 'Sin hallazgos.'},
        'text_files_en': {'doc-b': 'Woman with high fever.', 'doc-a': 'No findings.'},
    }.items():
        (train / folder).mkdir(parents=True)
        for doc_id, text in texts.items():
            (train / folder / f'{doc_id}.txt').write_bytes(text.encode())
    (train / 'trainD.tsv').write_bytes(
        _rows('doc-b|r51', 'doc-b|w19.xxx', 'doc-b|r05', 'doc-b|h57.10', 'doc-b|r50.9', 'doc-b|i10')
    )
    (train / 'trainP.tsv').write_bytes(_rows('doc-b|bw03zzz', 'doc-b|b020'))
    (train / 'trainX.tsv').write_bytes(
        _rows(
            'doc-b|DIAGNOSTICO|r51|dolor cabeza|47 52;56 62',
            'doc-b|PROCEDIMIENTO|bw03zzz|fiebre|10 16',
            # Discontinuous, parts in an order of their own, and an empty part.
            'doc-b|DIAGNOSTICO|h57.10|ojo  dolor|68 71;50 50;47 52',
            'doc-b|DIAGNOSTICO|r50.9|38 ºC|22 28',
            'doc-b|DIAGNOSTICO|r50.9|fiebre alta|10 21',
            'doc-b|DIAGNOSTICO|r05|tos húmeda|31 39',
        )
    )
    return tmp_path


def _read(path, split='train', language='es', **settings):
    report = SourceReport('codiesp', split)
    return list(read_codiesp(path, split, language, report=report, **settings)), report


def test_spanish_documents(corpus):
    documents, report = _read(corpus)
    empty, document = documents
    assert (empty.doc_id, empty.text, empty.annotations) == ('doc-a', 'Sin hallazgos.', ())
    assert (document.doc_id, document.group_id, document.text) == ('doc-b', 'doc-b', TEXT_B)
    assert (document.language, document.source, document.split) == ('es', 'codiesp', 'train')
    assert document.annotations == (
        # Evidence in order of the text; a closing bracket and nothing else is missing in the second.
        Annotation('R50.9', evidence=(Evidence(((10, 21),), 'fiebre alta'), Evidence(((22, 28),), '(38 ºC'))),
        Annotation('R51', evidence=(Evidence(((47, 52), (56, 62)), 'dolor cabeza'),)),
        Annotation('H57.10', evidence=(Evidence(((68, 71), (47, 52)), 'ojo dolor'),)),
        # Codes without evidence follow in the order of the D file: the words of R05 differ from the text.
        Annotation('W19.XXX'),
        Annotation('R05'),
        Annotation('I10'),
    )
    assert report.rejections == [
        Rejection('doc-b', 'evidence text differs from the document', 'trainX.tsv line 6, R05')
    ]
    counts = report.to_json()
    expected = {
        'documents': 2,
        'unannotated': 1,
        'annotations': 6,
        'distinct_codes': 6,
        'evidences': 4,
        'discontinuous': 2,
        'mismatches': 2,
        'left_out': {'evidence of ICD-10-PCS codes': 1},
        'rejected': {'evidence text differs from the document': 1},
    }
    assert {name: counts[name] for name in expected} == expected


def test_procedures(corpus):
    (_, document), report = _read(corpus, procedures=True)
    (_, diagnoses_alone), _ = _read(corpus)
    assert Annotation('BW03ZZZ', 'ICD-10-PCS', (Evidence(((10, 16),), 'fiebre'),)) in document.annotations
    assert document.annotations[-1] == Annotation('B020', 'ICD-10-PCS')
    assert tuple(a for a in document.annotations if a.system == 'ICD-10-CM') == diagnoses_alone.annotations
    assert (report.annotations, report.evidences, report.left_out) == (8, 5, {})


def test_procedures_have_a_file_of_their_own(corpus):
    (corpus / 'train' / 'trainP.tsv').unlink()
    _read(corpus)
    with pytest.raises(UserError, match=r'trainP\.tsv'):
        _read(corpus, procedures=True)


def test_codes_of_the_wrong_form_are_refused(corpus):
    train = corpus / 'train'
    (train / 'trainD.tsv').write_bytes(_rows('doc-b|401.9', 'doc-b|0bh1', 'doc-b|r05', 'doc-b|R05.', 'doc-a|fiebre'))
    (train / 'trainP.tsv').write_bytes(_rows('doc-b|bw0.3zzz', 'doc-b|bo3', 'doc-b|bw03zzz0'))
    (train / 'trainX.tsv').write_bytes(_rows('doc-b|DIAGNOSTICO|401.9|fiebre|10 16'))
    (empty, document), report = _read(corpus, procedures=True)
    assert empty.annotations == ()
    assert document.annotations == (Annotation('R05'), Annotation('BW03ZZZ', 'ICD-10-PCS'))
    form = 'code has not the form of its system'
    assert report.rejections == [
        Rejection('doc-b', form, 'trainD.tsv line 1, ICD-10-CM'),
        Rejection('doc-b', form, 'trainD.tsv line 2, ICD-10-CM'),
        Rejection('doc-b', 'code occurs twice', 'trainD.tsv line 4, R05'),
        Rejection('doc-a', form, 'trainD.tsv line 5, ICD-10-CM'),
        Rejection('doc-b', form, 'trainP.tsv line 2, ICD-10-PCS'),
        Rejection('doc-b', form, 'trainP.tsv line 3, ICD-10-PCS'),
        Rejection('doc-b', 'evidence for a code that the document does not have', 'trainX.tsv line 1'),
    ]


def test_english_documents_have_codes_alone(corpus):
    (corpus / 'train' / 'trainX.tsv').unlink()
    documents, report = _read(corpus, language='en')
    assert report.silver_candidates == 0
    assert [d.text for d in documents] == ['No findings.', 'Woman with high fever.']
    assert documents[1].language == 'en'
    assert [a.code for a in documents[1].annotations] == ['R51', 'W19.XXX', 'R05', 'H57.10', 'R50.9', 'I10']
    assert report.evidences == 0
    assert not report.rejections


ENGLISH = """Fever, then FEVER, of unknown origin.
A headache; no fever for a day. Fell from a chair.
A fever again.
Her mother has hypertension.
"""


def _origins(document) -> dict[str, list[tuple[int, str, str]]]:
    return {a.code: [(e.parts[0][0], e.text, e.origin) for e in a.evidence] for a in document.annotations}


def test_english_evidence_is_found_by_terms(corpus):
    """R50.9 is 'Fever, unspecified' and includes 'Fever of unknown origin [FUO]'; R51 is 'Headache'."""
    (corpus / 'train' / 'text_files_en' / 'doc-b.txt').write_text(ENGLISH, encoding='utf-8')
    documents, report = _read(corpus, language='en', matcher=TermMatcher(Release.embedded()), procedures=True)
    found = _origins(documents[1])
    # In order of the text, though the longer term is the better one.
    assert found['R50.9'] == [
        (0, 'Fever', 'silver: title of R50.9'),
        (12, 'FEVER, of unknown origin', 'silver: inclusion_term of R50.9'),
        (ENGLISH.index('fever again'), 'fever', 'silver: title of R50.9'),
    ]
    assert found['R51'] == [(ENGLISH.index('headache'), 'headache', 'silver: title of R51')]
    assert found['I10'] == found['W19.XXX'] == found['BW03ZZZ'] == []
    # First evidence first; codes without any in the order of the files.
    assert list(found) == ['R50.9', 'R51', 'W19.XXX', 'R05', 'H57.10', 'I10', 'BW03ZZZ', 'B020']
    assert (report.silver_candidates, report.silver_pairs, report.evidences) == (6, 2, 4)
    assert report.left_out == {
        'term not asserted: denied or ruled out': 1,
        'term not asserted: of a relative or donor': 1,
    }
    assert document_from_json(document_to_json(documents[1])) == documents[1]


def test_background_has_texts_alone(corpus):
    (corpus / 'train').rename(corpus / 'background')
    documents, _ = _read(corpus, 'background')
    assert [(d.doc_id, d.split, d.annotations) for d in documents] == [
        ('doc-a', 'background', ()),
        ('doc-b', 'background', ()),
    ]


def test_byte_order_marks_and_crlf_change_nothing(corpus):
    expected, _ = _read(corpus)
    for file in (corpus / 'train').rglob('*.*'):
        if file.is_file():
            file.write_bytes(b'\xef\xbb\xbf' + file.read_bytes().replace(b'\n', b'\r\n'))
    (corpus / 'train' / 'text_files' / '._doc-a.txt').write_bytes(b'\x00\x05\x16\x07')
    documents, report = _read(corpus)
    assert documents == expected
    assert len(report.rejections) == 1


def test_bad_rows_are_counted_with_their_place(corpus):
    train = corpus / 'train'
    (train / 'trainD.tsv').write_bytes(
        _rows('doc-b|r05', 'doc-b', 'doc-b|r05', 'doc-b|i10|x', '|r51', '', 'doc-c|i10')
        + b'doc-b\ti\xff\n'
        + b'doc-b\tr51'
    )
    (train / 'trainX.tsv').write_bytes(
        _rows(
            'doc-b|DIAGNOSTICO|r05|tos seca|31 39',
            'doc-b|SINTOMA|r05|tos|31 34',
            'doc-b|DIAGNOSTICO|r05|tos|31-34',
            'doc-b|DIAGNOSTICO|r05|tos|34 31',
            'doc-b|DIAGNOSTICO|r05|tos|31 31',
            'doc-b|DIAGNOSTICO|r05|tos|-3 34',
            'doc-b|DIAGNOSTICO|r05|tos|31 34 39',
            'doc-b|DIAGNOSTICO|r05|tos|31 3000',
            'doc-b|DIAGNOSTICO|i10|tos|31 34',
            'doc-z|DIAGNOSTICO|i10|tos|31 34',
            'doc-b|DIAGNOSTICO|r05|tos',
        )
    )
    documents, report = _read(corpus)
    assert documents[1].annotations == (
        Annotation('R05', evidence=(Evidence(((31, 39),), 'tos seca'),)),
        Annotation('R51'),
    )
    columns = 'row does not have 2 columns'
    unknown = 'evidence for a code that the document does not have'
    assert report.rejections == [
        Rejection('trainD.tsv line 2', columns, ''),
        Rejection('trainD.tsv line 3', 'row occurs twice', ''),
        Rejection('trainD.tsv line 4', columns, ''),
        Rejection('trainD.tsv line 5', columns, ''),
        Rejection('trainD.tsv line 8', 'row is not UTF-8', ''),
        Rejection('trainX.tsv line 2', 'unknown label', ''),
        *(Rejection('doc-b', 'malformed offsets', f'trainX.tsv line {n}, R05') for n in range(3, 8)),
        Rejection('doc-b', unknown, 'trainX.tsv line 9'),
        Rejection('doc-z', unknown, 'trainX.tsv line 10'),
        Rejection('trainX.tsv line 11', 'row does not have 5 columns', ''),
        Rejection('doc-c', 'codes of a document without text', 'no doc-c.txt'),
        Rejection('doc-b', 'offsets outside the text', 'trainX.tsv line 8, R05'),
    ]
    assert sum(report.rejected.values()) == len(report.rejections)
    assert 'tos' not in report.table() + str(report.rejections)


def test_bad_texts_are_counted(corpus):
    (corpus / 'train' / 'text_files' / 'doc-b.txt').write_bytes(b'fiebre \xe9 alta')
    (corpus / 'train' / 'text_files' / 'doc-a.txt').write_bytes(b'\n \n')
    documents, report = _read(corpus)
    assert documents == []
    assert report.rejections == [
        Rejection('doc-a', 'text is empty', ''),
        Rejection('doc-b', 'text is not UTF-8', 'byte 7'),
    ]


@pytest.mark.parametrize('missing', ['train/text_files', 'train/trainD.tsv', 'train/trainX.tsv'])
def test_missing_files(corpus, missing):
    (corpus / missing).rename(corpus / 'elsewhere')
    with pytest.raises(UserError, match=f'{re.escape(str(corpus / missing))}.*CodiEsp v4.*zenodo.*CC BY 4.0'):
        _read(corpus)


def test_folder_without_texts(corpus):
    for file in (corpus / 'train' / 'text_files').iterdir():
        file.unlink()
    with pytest.raises(UserError, match=r'holds no \.txt file'):
        _read(corpus)


def test_unknown_split_and_language(corpus):
    with pytest.raises(UserError, match="no split 'testing'; take one of train, dev, background"):
        _read(corpus, split='testing')
    with pytest.raises(UserError, match="no language 'fr'; take one of es, en"):
        _read(corpus, language='fr')


def _counted_by_hand(split: str, labels: tuple[str, ...]) -> dict[str, int]:
    """Counts a published split with nothing of the reader."""
    codes = []
    for label in labels:
        file = DATA / split / f'{split}{"P" if label == "PROCEDIMIENTO" else "D"}.tsv'
        codes += [(label, *line.split('\t')) for line in file.read_text('utf-8').splitlines()]
    rows = [line.split('\t') for line in (DATA / split / f'{split}X.tsv').read_text('utf-8').splitlines()]
    texts = {file.stem: file.read_text('utf-8') for file in (DATA / split / 'text_files').iterdir()}
    counts = {'documents': len(texts), 'annotations': len(codes), 'distinct_codes': len({c[::2] for c in codes})}
    counts.update(evidences=0, discontinuous=0, mismatches=0)
    for doc_id, label, _, words, offsets in rows:
        if label in labels:
            numbers = [int(n) for n in re.findall(r'\d+', offsets)]
            parts = list(zip(numbers[::2], numbers[1::2], strict=True))
            counts['evidences'] += 1
            counts['discontinuous'] += len(parts) > 1
            counts['mismatches'] += ' '.join(texts[doc_id][b:e] for b, e in parts) != words
    return counts


@pytest.fixture(scope='module')
def matcher() -> TermMatcher:
    return TermMatcher(Release.embedded())


@pytest.mark.parametrize(
    ('split', 'documents', 'rows', 'codes', 'references', 'discontinuous', 'mismatches'),
    [('train', 500, 5639, 1767, 9181, 1787, 4), ('dev', 250, 2677, 1158, 4477, 966, 3)],
)
def test_published_corpus(split, documents, rows, codes, references, discontinuous, mismatches, matcher):
    if not DATA.is_dir():
        pytest.skip(f'no CodiEsp at {DATA}')
    spanish, report = _read(DATA, split)
    assert (report.documents, report.annotations, report.distinct_codes) == (documents, rows, codes)
    both, both_report = _read(DATA, split, procedures=True)
    # The published numbers count ';' in the offsets; a few of those references have one part that is not empty.
    assert (both_report.evidences, both_report.discontinuous, both_report.mismatches) == (
        references,
        discontinuous,
        mismatches,
    )
    for read, labels in ((report, ('DIAGNOSTICO',)), (both_report, ('DIAGNOSTICO', 'PROCEDIMIENTO'))):
        by_hand = _counted_by_hand(split, labels)
        counts = read.to_json()
        assert {name: counts[name] for name in by_hand} == by_hand
        assert not read.rejections
    assert report.left_out.total() == references - report.evidences
    assert [d.doc_id for d in spanish] == sorted(d.doc_id for d in spanish)
    for document in both:
        for annotation in document.annotations:
            assert annotation.evidence, 'every published code has evidence'
            for evidence in annotation.evidence:
                assert evidence.text == ' '.join(document.text[begin:end] for begin, end in evidence.parts)

    english, english_report = _read(DATA, split, 'en', procedures=True, matcher=matcher)
    assert {d.doc_id: d.codes for d in english} == {d.doc_id: d.codes for d in both}
    assert (english_report.documents, english_report.annotations) == (documents, both_report.annotations)
    assert (english_report.silver_candidates, english_report.rejections) == (rows, [])
    assert english_report.silver_pairs >= 0.33 * rows
    for document in english:
        for annotation in document.annotations:
            for evidence in annotation.evidence:
                ((begin, end),) = evidence.parts
                assert evidence.text == document.text[begin:end]
                assert annotation.system == 'ICD-10-CM'
                assert evidence.origin.startswith('silver: ')


def test_published_background():
    if not DATA.is_dir():
        pytest.skip(f'no CodiEsp at {DATA}')
    documents, report = _read(DATA, 'background', 'en')
    folder = DATA / 'background' / 'text_files_en'
    assert {d.doc_id: d.text for d in documents} == {f.stem: f.read_text('utf-8') for f in folder.iterdir()}
    assert (report.documents, report.unannotated) == (2751, 2751)
    assert not report.rejections
