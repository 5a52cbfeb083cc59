"""Which mentions of a finding are denied, in sentences judged by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.sources.negation import is_denied

DENIED = (
    'No [fever].',
    'She denied chest pain or [fever].',
    'He had no cough, chills, [fever], or rash.',
    'There was no evidence of any [fracture], but the wrist was sore.',
    'Discharged without [fever].',
    'Serology for [hepatitis] was negative.',
    'Cardiac [amyloidosis] was ruled out by echocardiography.',
    'The margins were free of [tumor].',
    'Pain was mild.\nNo signs of [edema].',
    'A family history of [gout] is known.',
    'His brother also had [asthma].',
    'Without pain; [fever] was not observed.',
)
AFFIRMED = (
    '[Fever] and cough.',
    'No cough. [Fever] for two days.',
    'No cough\n[Fever] for two days',
    'No cough; [fever] for two days.',
    'No cough but [fever].',
    'Without known allergies, with a history of [hypertension].',
    'Without irradiation, [vomiting] since yesterday.',
    'A nodule of the lung.  Nothing hurt.  Then [fever] came, not cough.',
    'She did not work that day as the last week had brought [fever].',
    'Known [gout], not treated.',
)


def _ask(marked: str) -> bool:
    begin = marked.index('[')
    end = marked.index(']') - 1
    return is_denied(marked.replace('[', '').replace(']', ''), begin, end)


@pytest.mark.parametrize('marked', DENIED)
def test_denied(marked):
    assert _ask(marked)


@pytest.mark.parametrize('marked', AFFIRMED)
def test_affirmed(marked):
    assert not _ask(marked)


@given(st.text(), st.data())
def test_sentences_before_do_not_matter(before, data):
    marked = data.draw(st.sampled_from(DENIED + AFFIRMED))
    assert _ask(before.replace('[', '').replace(']', '') + '\n' + marked) == _ask(marked)
