"""The audit page read back by an HTML parser: nothing of a note becomes markup, and highlights cover their words."""

import base64
import hashlib
import re
from html.parser import HTMLParser

from hypothesis import given, settings
from hypothesis import strategies as st

from ccl_jax.evaluation.audit import audit_page, write_audit_page
from ccl_jax.evaluation.evidence import EvidenceCounts
from ccl_jax.evaluation.pairs import align
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import ICD10CM
from ccl_jax.records import Annotation, Document, Evidence, PredictedCode, Prediction

VALID = {(ICD10CM, code) for code in ('I10', 'R52', 'E11.9')}
HOSTILE = '<script>alert("x")</script> & \'quoted\' <img src=x onerror=alert(1)> </div></mark>'


class Reader(HTMLParser):
    """Collects tags, every note's text, the marks, and the table rows."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.tags, self.notes, self.marks, self.links, self.ids, self.rows = [], [], [], [], [], []
        self._open = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.tags.append((tag, attributes))
        if 'id' in attributes:
            self.ids.append(attributes['id'])
        if tag == 'a':
            self.links.append(attributes['href'])
        if tag == 'tr' and attributes.get('data-has'):
            self.rows.append([attributes['class'], ''])
        if attributes.get('class') == 'note':
            self.notes.append('')
            self._open = ['note']
        elif self._open and tag in ('mark', 'div'):
            self._open.append(tag)
            if tag == 'mark':
                self.marks.append([attributes, ''])

    def handle_endtag(self, tag):
        if self._open and tag in ('mark', 'div'):
            self._open.pop()

    def handle_data(self, data):
        if self._open:
            self.notes[-1] += data
        if 'mark' in self._open:
            self.marks[-1][1] += data
        elif self.rows and not self._open:
            self.rows[-1][1] += data

    def marked(self, anchor):
        return ''.join(text for attributes, text in self.marks if anchor in attributes['data-quotes'].split())


def page_of(gold, predictions, **arguments):
    titles = {'I10': 'Essential hypertension', 'R52': 'Pain <unspecified>'}
    return audit_page(gold, predictions, title='dev', title_of=titles.get, valid_codes=VALID, **arguments)


def test_text_of_a_note_never_becomes_markup():
    code = PredictedCode('X<b>9', evidence=(Evidence((), HOSTILE + '!'), Evidence(((0, 8),), '<script>')))
    document = Document(
        HOSTILE, HOSTILE + ' pain', (Annotation('R52', evidence=(Evidence(((3, 60),), 'x'),)),), language='"><i>'
    )
    page = page_of([document], [Prediction(HOSTILE, (code,))], banner=HOSTILE)
    reader = Reader(page)
    assert reader.notes == [HOSTILE + ' pain']
    kinds = [tag for tag, _ in reader.tags]
    assert kinds.count('script') == kinds.count('style') == 1
    assert not {'img', 'i', 'b', 'iframe', 'object', 'form', 'link'} & set(kinds)
    assert not any(name.startswith('on') or name == 'style' for _, attributes in reader.tags for name in attributes)


def test_the_page_loads_nothing_and_its_policy_names_its_own_script_and_style():
    page = page_of([Document('d', 'x')], [])
    (policy,) = [a['content'] for tag, a in Reader(page).tags if a.get('http-equiv') == 'Content-Security-Policy']
    for kind in ('style', 'script'):
        inline = re.search(rf'<{kind}>(.*?)</{kind}>', page, re.DOTALL).group(1)
        digest = base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy
        assert 'url(' not in inline
        assert '@import' not in inline
    assert policy.startswith("default-src 'none'")
    assert not any({'src', 'srcset', 'action', 'data'} & set(a) for _, a in Reader(page).tags)
    assert 'http:' not in page
    assert 'https:' not in page


def test_rows_say_how_each_code_was_judged():
    text = 'Hypertension. Pain.'
    gold = [Document('d', text, (Annotation('I10'), Annotation('E11.9'), Annotation('R52')))]
    predicted = [
        PredictedCode('R52', evidence=(Evidence(((14, 18),), 'Pain'), Evidence((), 'fever'))),
        PredictedCode('ZZZ'),
        PredictedCode('I10'),
    ]
    strata = Strata({(ICD10CM, 'I10'): 1}, frozenset(), frozenset())
    reader = Reader(page_of(gold, [Prediction('d', tuple(predicted))], strata=strata))
    assert [kind for kind, _ in reader.rows] == ['correct', 'wrong', 'correct', 'missed']
    pain, invented, hypertension, diabetes = (' '.join(words.split()) for _, words in reader.rows)
    assert 'Pain <unspecified>' in pain
    assert 'not in the note' in pain
    assert 'S3' in pain
    assert 'not in release' in invented
    assert 'not in the note' not in invented
    assert 'S0' in hypertension
    assert 'Essential hypertension' in hypertension
    assert 'missed' in diabetes
    assert 'no title' in diabetes


def test_wrong_but_known_codes_are_not_called_unknown():
    reader = Reader(page_of([Document('d', 'x')], [Prediction('d', (PredictedCode('I10'),))]))
    ((kind, words),) = reader.rows
    assert kind == 'wrong'
    assert 'not in release' not in words


def test_overlapping_quotes_are_each_marked_whole():
    text = 'type 2 diabetes mellitus with chronic kidney disease'
    gold = Evidence(((0, 24), (30, 52)), 'type 2 diabetes mellitus chronic kidney disease')
    first, inside = Evidence(((7, 44),), text[7:44]), Evidence(((16, 24),), 'mellitus')
    documents = [Document('d', text, (Annotation('E11.9', evidence=(gold,)),))]
    reader = Reader(page_of(documents, [Prediction('d', (PredictedCode('E11.9', evidence=(first, inside)),))]))
    assert reader.notes == [text]
    assert reader.marked('d0q0') == text[7:44]
    assert reader.marked('d0q1') == 'mellitus'
    assert reader.marked('d0q2') == text[0:24] + text[30:52]
    kinds = {text: attributes['class'] for attributes, text in reader.marks}
    assert kinds['type 2 '] == 'gold'
    assert kinds['mellitus'] == 'gold predicted'
    assert kinds[' with '] == 'predicted'


def test_a_quote_that_gold_gives_too_is_listed_once():
    quote = Evidence(((0, 4),), 'Pain')
    documents = [Document('d', 'Pain.', (Annotation('R52', evidence=(quote, quote)),))]
    reader = Reader(page_of(documents, [Prediction('d', (PredictedCode('R52', evidence=(quote,)),))]))
    assert [link for link in reader.links if 'q' in link] == ['#d0q0']
    assert 'predicted and gold' in reader.rows[0][1]
    ((attributes, _),) = reader.marks
    assert attributes['class'] == 'gold predicted'


def test_the_banner_stands_on_the_page_only_when_given():
    banner = 'These notes are synthetic.'
    assert banner in page_of([Document('d', 'x')], [], banner=banner)
    assert 'role="note"' not in page_of([Document('d', 'x')], [])


def test_control_characters_and_surrogates_are_replaced(tmp_path):
    path = tmp_path / 'eval' / 'audit.html'
    write_audit_page(path, page_of([Document('d', 'a\x00b\ud800c\td\ne')], []))
    assert Reader(path.read_text(encoding='utf-8')).notes == ['a\ufffdb\ufffdc\td\ne']


offsets = st.integers(-5, 50)


@settings(max_examples=40, deadline=None)
@given(
    st.text('ab<>&"\' \n', min_size=1, max_size=40),
    st.lists(st.lists(st.tuples(offsets, offsets), min_size=1, max_size=2), max_size=4),
    st.lists(st.text('ab<&', min_size=1, max_size=3), max_size=3),
)
def test_any_evidence_leaves_the_text_whole_and_every_link_alive(text, gold_parts, quotes):
    gold = tuple(Evidence(tuple(parts), 'x') for parts in gold_parts)
    documents = [Document('d', text, (Annotation('I10', evidence=gold),)), Document('e', text)]
    predicted = PredictedCode('R52', evidence=tuple(Evidence((), quote) for quote in quotes))
    page = page_of(documents, [Prediction('d', (predicted,))])
    reader = Reader(page)
    assert reader.notes == [text, text]
    assert len(reader.ids) == len(set(reader.ids))
    assert {link[1:] for link in reader.links} <= set(reader.ids)
    # The page flags what the grounding rate counts.
    flagged = reader.rows[0][1].count('not in the note')
    assert (
        flagged == EvidenceCounts.of(align(documents, [Prediction('d', (predicted,))])).grounding_counts()['not_found']
    )
