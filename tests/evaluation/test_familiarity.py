"""Seen and unseen words, by a case worked by hand."""

from ccl_jax.evaluation.familiarity import FAMILIARITIES, Familiarity
from ccl_jax.evaluation.report import evaluate, format_table
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Annotation, Document, Evidence, PredictedCode, Prediction

# 'fever' and "Crohn's disease" are training spans.
SPANS = ['Fever', 'Crohn’s  disease']
TEXT = 'fever, raised CRP, CROHNS-DISEASE'


def _evidence(*texts):
    return tuple(Evidence((), text) for text in texts)


GOLD = [
    Document(
        'd',
        TEXT,
        (
            Annotation('R50.9', evidence=_evidence('pyrexia', 'fever')),
            Annotation('R79.82', evidence=_evidence('raised CRP')),
            Annotation('K50.90', evidence=_evidence('CROHNS-DISEASE')),
            Annotation('I10'),
        ),
    )
]
PREDICTED = [
    Prediction(
        'd',
        (
            # Right, whatever words it quotes: it counts with its gold code.
            PredictedCode('R50.9', evidence=_evidence('something else')),
            PredictedCode('I10', evidence=_evidence('fever')),
            # Wrong, by a known word, by an unknown one, without any.
            PredictedCode('A01.0', evidence=_evidence('FEVER')),
            PredictedCode('E11.9', evidence=_evidence('raised CRP')),
            PredictedCode('J18.9'),
        ),
    )
]


def test_each_code_is_in_one_part():
    parts = {}
    for kind in FAMILIARITIES:
        documents, answers = Familiarity(SPANS).restrict(GOLD, PREDICTED, kind)
        parts[kind] = [a.code for a in documents[0].annotations], [c.code for c in answers[0].codes]
    assert parts == {
        'seen': (['R50.9', 'K50.90'], ['R50.9', 'A01.0']),
        'unseen': (['R79.82'], ['E11.9', 'J18.9']),
        'without_evidence': (['I10'], ['I10']),
    }


def test_the_parts_are_scored():
    valid = {(ICD10CM, code) for code in ('R50.9', 'R79.82', 'K50.90', 'I10', 'A01.0', 'E11.9', 'J18.9')}
    common = {'strata': None, 'valid_codes': valid, 'seed': 0, 'samples': 5}
    result = evaluate(
        GOLD, PREDICTED, strata=None, familiarity=Familiarity(SPANS), valid_codes=valid, seed=0, samples=5
    )
    scores = {kind: part['metrics']['micro_f1']['value'] for kind, part in result['evidence_in_spans'].items()}
    # seen: one of two found, one false; unseen: nothing found; without evidence: found.
    assert scores == {'seen': 0.5, 'unseen': 0.0, 'without_evidence': 1.0}
    table = format_table({'model': result})
    assert 'seen words' in table
    assert 'evidence_in_spans' not in evaluate(GOLD, PREDICTED, **common)
