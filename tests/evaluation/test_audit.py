"""The audit page read back by an HTML parser: nothing of a note becomes markup, and the data says what was judged.

What the page does with its data is tested in a browser: `test_audit_browser.py`.
"""

import base64
import hashlib
import json
import re
from html.parser import HTMLParser

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.evaluation.audit import audit_page, write_audit_page
from ccl_jax.evaluation.evidence import EvidenceCounts
from ccl_jax.evaluation.flags import Flag
from ccl_jax.evaluation.pairs import align
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD9CM, ICD10CM
from ccl_jax.records import Annotation, Document, Evidence, PredictedCode, Prediction

HOSTILE = '<script>alert("x")</script><!-- & \'quoted\' </textarea> <img src=x onerror=alert(1)> ]]> \u2028</title>'


class Reader(HTMLParser):
    """Collects tags, and the text of the elements that hold only text."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.texts = [], []
        self.feed(page)
        self.close()
        (self.data,) = [
            json.loads(text) for tag, attributes, text in self.texts if attributes.get('type') == 'application/json'
        ]

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.texts.append([tag, dict(attributes), ''])

    def handle_data(self, data):
        if self.texts:
            self.texts[-1][2] += data


def page_of(documents, predictions, **arguments):
    titles = {'I10': 'Essential hypertension', 'R52': 'Pain <unspecified>'}
    return audit_page(documents, predictions, **{'title': 'dev', 'title_of': titles.get, **arguments})


def data_of(documents, predictions, **arguments):
    return Reader(page_of(documents, predictions, **arguments)).data


def rows_of(data, note=0):
    return {data['codes'][row['c']]['code']: row for row in data['notes'][note]['rows']}


def test_text_of_a_note_never_becomes_markup():
    code = PredictedCode('X<b>9', evidence=(Evidence((), HOSTILE + '!'), Evidence(((0, 8),), '<script>')))
    document = Document(
        HOSTILE, HOSTILE + ' pain', (Annotation('R52', evidence=(Evidence(((3, 60),), 'x'),)),), language='"><i>'
    )
    plain = page_of([Document('d', 'x')], [])
    page = page_of(
        [document], [Prediction(HOSTILE, (code,))], title=HOSTILE, banner=HOSTILE, figures=[(HOSTILE, b'', HOSTILE)]
    )
    reader = Reader(page)
    assert reader.data['notes'][0]['text'] == HOSTILE + ' pain'
    assert reader.data['banner'] == reader.data['title'] == HOSTILE
    # The same elements as on a page with nothing in it, and the same attributes but for none of a note.
    without_policy = [pair for pair in reader.tags if 'http-equiv' not in pair[1]]
    assert without_policy == [pair for pair in Reader(plain).tags if 'http-equiv' not in pair[1]]
    (inert,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert not set('<>&\u2028\u2029') & set(inert)


def test_the_page_loads_nothing_and_its_policy_names_its_own_script_and_style():
    page = page_of([Document('d', 'x')], [])
    (policy,) = [a['content'] for tag, a in Reader(page).tags if a.get('http-equiv') == 'Content-Security-Policy']
    for kind in ('style', 'script'):
        inline = re.search(rf'<{kind}>(.*?)</{kind}>', page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert 'url(' not in inline
        assert '@import' not in inline
        assert 'innerHTML' not in inline
    assert policy.startswith("default-src 'none'")
    assert "connect-src 'none'" in policy
    assert not any({'src', 'srcset', 'action', 'data', 'style'} & set(a) for _, a in Reader(page).tags)
    assert not any(name.startswith('on') for _, attributes in Reader(page).tags for name in attributes)
    assert 'http:' not in page
    assert 'https:' not in page


def test_the_page_says_what_it_needs_without_javascript():
    assert '<noscript><p class="banner">This page shows its notes by JavaScript' in page_of([Document('d', 'x')], [])


def test_rows_say_how_each_code_was_judged():
    text = 'Hypertension. Pain.'
    gold = [Document('d', text, (Annotation('I10'), Annotation('E11.9'), Annotation('R52')))]
    predicted = [
        PredictedCode('R52', score=0.5, evidence=(Evidence(((14, 18),), 'Pain'), Evidence((), 'fever'))),
        PredictedCode('ZZZ'),
        PredictedCode('I10'),
    ]
    strata = Strata({(ICD10CM, 'I10'): 1}, frozenset(), frozenset())
    flags = {'d': {(ICD10CM, 'ZZZ'): (Flag('not_in_release', 'invented'),)}}
    data = data_of(gold, [Prediction('d', tuple(predicted))], strata=strata, flags=flags)
    rows = rows_of(data)
    assert {code: row['status'] for code, row in rows.items()} == {
        'R52': 'correct',
        'ZZZ': 'wrong',
        'I10': 'correct',
        'E11.9': 'missed',
    }
    assert list(rows) == ['R52', 'ZZZ', 'I10', 'E11.9']
    assert rows['ZZZ']['flags'] == [['not_in_release', 'invented']]
    assert [kind for kind, _ in rows['R52']['flags']] == ['ungrounded']
    assert rows['R52']['score'] == 0.5
    assert 'flags' not in rows['I10']
    codes = {item['code']: item for item in data['codes']}
    assert codes['R52']['title'] == 'Pain <unspecified>'
    assert (codes['I10']['stratum'], codes['R52']['stratum']) == ('S0', 'S3')
    assert [code for code, item in codes.items() if item.get('malformed')] == ['ZZZ']


def test_without_gold_codes_are_predicted_and_nothing_is_missed():
    documents = [Document('d', 'Pain.', (Annotation('I10', evidence=(Evidence(((0, 4),), 'Pain'),)),))]
    data = data_of(documents, [Prediction('d', (PredictedCode('R52'),))], judged=False)
    assert {code: row['status'] for code, row in rows_of(data).items()} == {'R52': 'predicted'}
    assert data['judged'] is False


def test_a_code_is_told_from_the_same_letters_of_another_system():
    documents = [Document('d', 'x', (Annotation('E90', ICD9CM),))]
    data = data_of(documents, [Prediction('d', (PredictedCode('E90', ICD10CM),))])
    assert [(data['codes'][row['c']]['system'], row['status']) for row in data['notes'][0]['rows']] == [
        (ICD10CM, 'wrong'),
        (ICD9CM, 'missed'),
    ]


def test_a_quote_that_gold_gives_too_is_listed_once():
    quote = Evidence(((0, 4),), 'Pain')
    documents = [Document('d', 'Pain.', (Annotation('R52', evidence=(quote, quote)),))]
    data = data_of(documents, [Prediction('d', (PredictedCode('R52', evidence=(quote,)),))])
    assert rows_of(data)['R52']['quotes'] == [{'parts': [[0, 4]], 'by': ['predicted', 'gold']}]


def test_a_quote_that_differs_from_the_note_keeps_its_own_words():
    predicted = PredictedCode('R52', evidence=(Evidence((), 'chest  PAIN'), Evidence((), 'fever')))
    data = data_of([Document('d', 'Chest pain.')], [Prediction('d', (predicted,))])
    assert rows_of(data)['R52']['quotes'] == [
        {'parts': [[0, 10]], 'by': ['predicted'], 'text': 'chest  PAIN', 'inexact': True},
        {'parts': [], 'by': ['predicted'], 'text': 'fever'},
    ]


def test_the_digest_changes_with_notes_and_codes_alone():
    documents = [Document('d', 'x')]
    digest = data_of(documents, [])['digest']
    assert digest == data_of(documents, [], title='other', banner='other')['digest']
    assert digest != data_of(documents, [Prediction('d', (PredictedCode('I10'),))])['digest']
    assert digest != data_of([Document('d', 'y')], [])['digest']


def test_figures_are_part_of_the_file():
    (figure,) = data_of([Document('d', 'x')], [], figures=[('Calibration', b'\x89PNG', 'a line')])['figures']
    assert base64.b64decode(figure['png']) == b'\x89PNG'
    assert (figure['title'], figure['alt']) == ('Calibration', 'a line')


def test_a_prediction_without_a_document_is_refused():
    with pytest.raises(UserError, match='has no document'):
        page_of([Document('d', 'x')], [Prediction('e', ())])


def test_surrogates_are_replaced_one_for_one_and_control_characters_kept(tmp_path):
    path = tmp_path / 'eval' / 'audit.html'
    write_audit_page(
        path, page_of([Document('d', 'a\x00b\ud83d\ude00\ud800c\td\r\ne\x85\U0001f600')], [], title='t\ud800')
    )
    (note,) = Reader(path.read_text(encoding='utf-8')).data['notes']
    assert note['text'] == 'a\x00b\ufffd\ufffd\ufffdc\td\r\ne\x85\U0001f600'


offsets = st.integers(-5, 50)


@settings(max_examples=40, deadline=None)
@given(
    st.text('ab<>&"\' \n\U0001f600', min_size=1, max_size=40),
    st.lists(st.lists(st.tuples(offsets, offsets), min_size=1, max_size=2), max_size=4),
    st.lists(st.text('ab<&', min_size=1, max_size=3), max_size=3),
)
def test_any_evidence_leaves_the_text_whole_and_every_offset_inside(text, gold_parts, quotes):
    gold = tuple(Evidence(tuple(parts), 'x') for parts in gold_parts)
    documents = [Document('d', text, (Annotation('I10', evidence=gold),)), Document('e', text)]
    predicted = [Prediction('d', (PredictedCode('R52', evidence=tuple(Evidence((), quote) for quote in quotes)),))]
    data = data_of(documents, predicted)
    assert [note['text'] for note in data['notes']] == [text, text]
    rows = rows_of(data)
    for row in rows.values():
        for quote in row.get('quotes', ()):
            assert all(0 <= begin < end <= len(text) for begin, end in quote['parts'])
    # The page flags what the grounding rate counts.
    flagged = [quote for quote in rows['R52'].get('quotes', ()) if not quote['parts']]
    assert len(flagged) == EvidenceCounts.of(align(documents, predicted)).grounding_counts()['not_found']
