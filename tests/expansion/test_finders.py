"""Finders on small documents worked by hand, and on the published corpus where it is at hand."""

import json
from collections import Counter
from pathlib import Path

import pytest

from ccl_jax.expansion.endpoint.schema import check_schema, read_json
from ccl_jax.expansion.finder_prompts import EVIDENCE_SCHEMA, evidence_prompt, parse_quotes
from ccl_jax.expansion.finders import PromptFinder, TermFinder, silver_spans
from ccl_jax.icd.release import Release
from ccl_jax.records import Annotation, Document, slice_evidence, span_from_json, span_to_json
from ccl_jax.sources.codiesp import read_codiesp
from ccl_jax.sources.report import SourceReport

CODIESP = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'codiesp'
RELEASE = Release.embedded()


def _document(text: str, *codes: str, doc_id: str = 'd1') -> Document:
    return Document(doc_id, text, tuple(Annotation(code) for code in codes))


def _by_terms(text: str, *codes: str, **settings) -> tuple[dict[str, list[tuple[str, str]]], Counter]:
    """Returns code -> (words, origin), and the counts."""
    counts: Counter = Counter()
    ((found),) = TermFinder(RELEASE, **settings).find([(_document(text), codes)], counts)
    return {code: [(e.text, e.origin) for e in evidence] for code, evidence in found.items()}, +counts


def test_terms_come_before_wordings():
    found, counts = _by_terms('Lung cancer. Cough, COUGH. Pain in the left thigh.', 'C34.90', 'R05', 'M79.652')
    assert {code: [words for words, _ in evidence] for code, evidence in found.items()} == {
        'C34.90': ['Lung cancer'],
        'R05': ['Cough', 'COUGH'],
        'M79.652': ['Pain in the left thigh'],
    }
    assert found['R05'][0][1] == 'silver: terms: title of R05'
    assert found['M79.652'][0][1].startswith('silver: terms: title')
    assert not counts


@pytest.mark.parametrize(
    ('text', 'code', 'words'),
    [
        ('Many bone metastases.', 'C79.51', 'bone metastases'),
        ('Metastasis to bone.', 'C79.51', 'Metastasis to bone'),
        ('Cancer of the left breast', 'C50.912', 'Cancer of the left breast'),
        ('Haematuria', 'R31.9', 'Haematuria'),
        ('Known COPD.', 'J44.9', 'COPD'),
        ('Prostate cancer', 'C61', 'Prostate cancer'),
    ],
)
def test_other_words_and_orders(text, code, words):
    found, counts = _by_terms(text, code)
    assert [found_words for found_words, _ in found[code]] == [words]
    assert not counts


def test_a_floor_above_100_allows_no_misspelling():
    assert _by_terms('Many cutaneous fasciculations.', 'R25.3')[0]
    assert not _by_terms('Many cutaneous fasciculations.', 'R25.3', floor=101)[0]


def test_what_is_not_asserted_is_refused_and_counted():
    text = 'No fever. His brother has asthma. Vaccinated against influenza. Pain clinic. Later, fever.'
    found, counts = _by_terms(text, 'R50.9', 'J45.909', 'J11.1', 'R52')
    assert {code: [words for words, _ in evidence] for code, evidence in found.items()} == {'R50.9': ['fever']}
    assert counts == {
        'refused: denied or ruled out': 1,
        'refused: of a relative or donor': 1,
        'refused: hypothetical': 1,
        'refused: part of another term': 1,
    }


def test_titles_above_must_name_the_code():
    """R35.1 is 'Nocturia' below 'Polyuria'; I85.01 'Esophageal varices with bleeding'; Z68.1 a 'Body mass index'."""
    text = 'Polyuria; a BMI of 18; esophageal varices'
    assert _by_terms(text, 'R35.1')[0] == {}
    assert _by_terms(text, 'Z68.1')[0] == {}
    assert _by_terms(text, 'I85.01')[0] == {'I85.01': [('esophageal varices', 'silver: terms: title of I85.0')]}


def test_a_term_above_several_codes_of_the_document():
    """Of D49 'Neoplasms of unspecified behavior', which includes 'tumor NOS'."""
    assert [words for words, _ in _by_terms('A tumor.', 'D49.0')[0]['D49.0']] == ['tumor']
    found, counts = _by_terms('A tumor.', 'D49.0', 'D49.4')
    assert found == {}
    assert counts['refused: term above several codes of the document'] == 2


def test_a_term_within_a_longer_one_of_another_code():
    found, counts = _by_terms(
        'Portal hypertension. Arterial hypertension. Erythema nodosum.', 'I10', 'K76.6', 'L53.9', 'L52'
    )
    assert {code: [words for words, _ in evidence] for code, evidence in found.items()} == {
        'I10': ['hypertension'],
        'K76.6': ['Portal hypertension'],
        'L52': ['Erythema nodosum'],
    }
    assert counts == {'refused: part of a longer term of another code': 2}
    assert list(_by_terms('Portal hypertension.', 'I10')[0]) == ['I10']


def test_words_that_say_nothing_and_unknown_codes():
    assert _by_terms('Current illness: cough.', 'R69', 'Q00.XX9', '401.9') == (
        {},
        Counter({'codes that the release does not have': 1}),
    )
    # A code without its seventh character is known by its ancestor.
    assert list(_by_terms('He had a fall.', 'W19.XXX')[0]) == ['W19.XXX']


def test_codes_of_circumstances_mean_what_others_must_not():
    """Z80.1: family history of lung cancer; Z03: observation for what is ruled out; Z88.0 is denied like others."""
    finder = PromptFinder(
        _answers('Z80.1', 'lung cancer', 'Z88.0', 'penicillin allergy', 'C34.90', 'lung cancer'), RELEASE
    )
    text = 'Mother with lung cancer. No penicillin allergy.'
    counts: Counter = Counter()
    (found,) = finder.find([(_document(text), ('Z80.1', 'Z88.0', 'C34.90'))], counts)
    assert list(found) == ['Z80.1']
    assert counts['quote refused: of a relative or donor'] == counts['quote refused: denied or ruled out'] == 1


def _answers(*codes_and_quotes: str):
    """Returns a model that gives the same answer to every prompt."""
    pairs = zip(codes_and_quotes[::2], codes_and_quotes[1::2], strict=True)
    answer = json.dumps({'codes': [{'code': code, 'quotes': [quote]} for code, quote in pairs]})
    return lambda prompts: [answer] * len(prompts)


NOTE = 'No fever today. High fever yesterday, chest pain radiating to the left arm.\nFracture of the femur, left side.'


@pytest.mark.parametrize(
    ('quote', 'parts', 'outcome'),
    [
        ('High fever', ((16, 26),), 'in the text'),
        ('high   FEVER', ((16, 26),), 'in the text'),
        # The first asserted place of several.
        ('fever', ((21, 26),), 'in the text'),
        ('Fracture ... left', ((76, 84), (99, 103)), 'in the text'),
        ('left ... Fracture', ((66, 70), (76, 84)), 'in the text'),
        ('Fracture … femur [...] side', ((76, 84), (92, 97), (104, 108)), 'in the text'),
        ('chest pain radiating to left arm', ((38, 74),), 'snapped'),
        ('chest pain radiating to right arm', (), 'is not in the text'),
        ('chest ... pneumonia', (), 'is not in the text'),
        # Whole words alone.
        ('ever', (), 'is not in the text'),
        ('No fever', (), 'refused: denied or ruled out'),
        ('fever today', (), 'refused: denied or ruled out'),
        (' ... ', (), 'has no words'),
        ('', (), 'has no words'),
    ],
)
def test_where_a_quote_stands(quote, parts, outcome):
    counts: Counter = Counter()
    (found,) = PromptFinder(_answers('R50.9', quote), RELEASE).find([(_document(NOTE), ('R50.9',))], counts)
    assert counts == {'prompts asked': 1, f'quote {outcome}': 1}
    assert [e.parts for e in found.get('R50.9', ())] == ([parts] if parts else [])
    for evidence in found.get('R50.9', ()):
        assert evidence.text == slice_evidence(NOTE, parts)
        assert evidence.origin == f'silver: prompt: quote {outcome}'


def test_bad_answers_cost_only_themselves():
    answers = {
        'd1': None,
        'd2': 'no JSON',
        'd3': '{"codes": [{"code": "r05", "quotes": ["cough", "Cough", "pneumonia", "cough"]}, '
        '{"code": "I10", "quotes": ["cough"]}]}',
        'd4': '```json\n{"codes": []}\n```',
        'd5': '{"codes": [{"code": "R05"}]}',
    }

    def generate(prompts):
        return [next(answer for doc_id, answer in answers.items() if f'Patient {doc_id}' in p) for p in prompts]

    requests = [(_document(f'Patient {doc_id} has a cough.', doc_id=doc_id), ('R05',)) for doc_id in answers]
    counts: Counter = Counter()
    found = PromptFinder(generate, RELEASE).find(requests, counts)
    assert [list(codes) for codes in found] == [[], [], ['R05'], [], []]
    assert counts == {
        'prompts asked': 5,
        'no answer': 1,
        'answer is not the JSON asked for': 2,
        'quote in the text': 2,
        'quote of the same words again': 1,
        'quote is not in the text': 1,
        'quote beyond the number asked for': 1,
        'quote for a code that was not asked for': 1,
    }


def test_one_answer_a_prompt():
    with pytest.raises(ValueError, match='zip'):
        PromptFinder(lambda prompts: [], RELEASE).find([(_document(NOTE), ('R05',))], Counter())


def test_long_documents_and_many_codes_are_asked_for_in_pieces():
    text = 'Cough began. ' + 'word ' * 30 + '\n' + 'Cough went on and on.'
    codes = ('R05', 'I10', 'R52')
    seen = []

    def generate(prompts):
        seen.extend(prompts)
        return _answers('R05', 'cough')(prompts)

    finder = PromptFinder(generate, RELEASE, characters_per_prompt=100, codes_per_prompt=2)
    counts: Counter = Counter()
    (found,) = finder.find([(_document(text), codes)], counts)
    pieces = [prompt.split('==========\n')[1] for prompt in seen]
    assert ''.join(piece.removesuffix('\n') for piece in pieces[::2]) == text
    assert all(len(piece) <= 101 for piece in pieces)
    assert all(sum(f'- {code}:' in prompt for code in codes) in (1, 2) for prompt in seen)
    assert [e.parts for e in found['R05']] == [((0, 5),), ((text.rindex('Cough'), text.rindex('Cough') + 5),)]
    assert counts['prompts asked'] == len(seen) == 2 * len(pieces[::2])


def test_a_document_without_codes_asks_for_nothing():
    counts: Counter = Counter()
    assert PromptFinder(lambda prompts: 1 / 0, RELEASE).find([(_document(NOTE), ())], counts) == [{}]


def test_prompt_and_schema():
    check_schema(EVIDENCE_SCHEMA)
    prompt = evidence_prompt('A note with {braces}.', ('S52.5', 'W19.XXX', 'X999'), RELEASE, 2)
    assert '\nA note with {braces}.\n' in prompt
    assert '- W19.XXX: below W19, Unspecified fall' in prompt
    example = prompt[prompt.rindex('{"codes"') :].strip()
    assert read_json(example, EVIDENCE_SCHEMA) == (example, '')
    assert parse_quotes(example) == [('', '...')] * 2
    assert parse_quotes('{"codes": [{"code": "e119", "quotes": ["a  b\\n c"]}]}') == [('E11.9', 'a b c')]
    assert parse_quotes('[]') is None


def test_silver_spans():
    text = 'Cough. Later again: cough; COUGH. Hypertension.'
    documents = [
        Document('d1', text, (Annotation('R05'), Annotation('B020', 'ICD-10-PCS'), Annotation('I10'))),
        _document('Nothing.', 'R05', doc_id='d2'),
        _document('A cough.', 'R05', doc_id='d3'),
    ]
    counts: Counter = Counter()
    spans = list(silver_spans(iter(documents), TermFinder(RELEASE), counts))
    assert [(s.span_id, s.text, s.code, s.tier) for s in spans] == [
        ('silver:d1:0-5:R05', 'Cough', 'R05', 'silver'),
        ('silver:d1:34-46:I10', 'Hypertension', 'I10', 'silver'),
        ('silver:d3:2-7:R05', 'cough', 'R05', 'silver'),
    ]
    assert [s.provenance for s in spans][::2] == [f'doc:{d}, silver: terms: title of R05' for d in ('d1', 'd3')]
    assert +counts == {
        'silver: documents': 3,
        'silver: codes looked for': 4,
        'silver: codes with evidence': 3,
        'silver: spans': 3,
        'silver: same words again in the document': 2,
    }
    assert [span_from_json(span_to_json(span)) for span in spans] == spans


def test_parts_of_a_quote_stay_apart_in_a_span():
    document = _document(NOTE, 'S72.92XA')
    (span,) = silver_spans([document], PromptFinder(_answers('S72.92XA', 'Fracture ... left'), RELEASE), Counter())
    assert (span.text, span.span_id) == ('Fracture ... left', 'silver:d1:76-84+99-103:S72.92XA')
    assert span.provenance == 'doc:d1, silver: prompt: quote in the text'


def test_published_corpus():
    if not CODIESP.is_dir():
        pytest.skip(f'no CodiEsp at {CODIESP}')
    documents = list(read_codiesp(CODIESP, 'train', 'en', report=SourceReport('codiesp', 'train')))
    counts: Counter = Counter()
    spans = list(silver_spans(documents, TermFinder(RELEASE), counts))
    texts = {document.doc_id: document for document in documents}
    assert len({span.span_id for span in spans}) == len(spans) == counts['silver: spans']
    assert counts['silver: codes with evidence'] >= 0.31 * counts['silver: codes looked for']
    assert counts['silver: refused: denied or ruled out'] >= 200
    for span in spans:
        doc_id, _, _ = span.provenance.removeprefix('doc:').partition(', ')
        begin, end = map(int, span.span_id.split(':')[2].split('-'))
        assert span.text == ' '.join(texts[doc_id].text[begin:end].split())
        assert span.code in texts[doc_id].codes
