"""Which mentions of a finding are asserted of the patient, in sentences judged by hand."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.icd.assertion import DENIED, HYPOTHETICAL, OTHER_TERM, RELATIVE, denies_itself, why_not_asserted

SENTENCES = {
    DENIED: (
        'No [fever].',
        'She denied chest pain or [fever].',
        'She did not complain of diplopia or [ocular pain].',
        'He had no cough, chills, [fever], or rash.',
        'There was no evidence of any [fracture], but the wrist was sore.',
        'Discharged without [fever].',
        'Discharged without cough or [fever].',
        'Discharged without further [pain].',
        'Serology for [hepatitis] was negative.',
        'Serology: [hepatitis] B and C negative.',
        'Negative for [influenza].',
        'Negative: [influenza].',
        'A dipstick with negative Bence-Jones [proteinuria].',
        'Cardiac [amyloidosis] was ruled out by echocardiography.',
        'The scan ruled out [metastasis].',
        'He was admitted to exclude [thyrotoxicosis].',
        '[Endocarditis] could be ruled out.',
        '[Pneumonia] is unlikely.',
        'The differential diagnosis between [colitis] and a solitary ulcer was raised.',
        'The margins were free of [tumor].',
        'One lymph node was [tumor]-free.',
        'Pain was mild.\nNo signs of [edema].',
        'Without pain; [fever] was not observed.',
    ),
    RELATIVE: (
        'A family history of [gout] is known.',
        'Family history: [gout].',
        'His brother also had [asthma].',
        'The death of a brother due to [lung cancer] was recent.',
        'Brother with [cirrhosis] of unknown cause.',
        'A kidney from a deceased donor with [hemorrhage].',
        'There was [breast cancer] in her maternal aunt.',
    ),
    HYPOTHETICAL: (
        'He was vaccinated against [hepatitis] B.',
        'Vaccination against seasonal [influenza].',
        'Heparin was given as prophylaxis of [deep vein thrombosis].',
        'She carries a high risk of [bleeding].',
        'A stent was placed, avoiding [stenosis].',
        'Come back if [fever] begins.',
        'Morphine in case of severe [pain].',
        'Screening for [colon cancer] was offered.',
        'Serology was obtained for toxoplasma, [rubella] and herpes.',
        'A blood test for [syphilis] was taken.',
    ),
    OTHER_TERM: (
        'The [tumor] markers were raised.',
        '[Hepatitis] B and C serology is pending.',
        '[Hepatitis] B vaccine was given.',
        'She was sent to the [pain] unit.',
    ),
    '': (
        '[Fever] and cough.',
        'No cough. [Fever] for two days.',
        'No cough\n[Fever] for two days',
        'No cough; [fever] for two days.',
        'No cough but [fever].',
        'No cough, because [fever] came first.',
        'No longer any cough, only [fever].',
        'No improvement of the [fever].',
        'Without known allergies, with a history of [hypertension].',
        'Without irradiation, [vomiting] since yesterday.',
        'A nodule of the lung.  Nothing hurt.  Then [fever] came, not cough.',
        'She did not work that day as the last week had brought [fever].',
        'Known [gout], not treated.',
        'Good condition, right [varicocele] and did not present masses.',
        'Gram negative [sepsis].',
        'A rheumatoid factor negative [arthritis].',
        'HIV negative, [toxoplasmosis] known.',
        'Absence [epilepsy].',
        'Tuberculosis was ruled out, and [pneumonia] treated.',
        'Brought by his mother for [fever].',
        'His mother noticed a [rash].',
        'She told her family doctor of [fever].',
        'Personal history: [gout].',
        'Serology for [hepatitis] B was positive.',
        '[Hepatitis] B serology was positive.',
        'A history of positive serology for HIV, [hepatitis] and ulcers.',
        'Admitted for study of chronic [anemia].',
        'Blood tests were normal except for [proteinuria].',
        'Blood tests continued to show [leukocytosis].',
        'Vaccinated as a child, he has [asthma].',
        'The suspected diagnosis was [autoimmune hepatitis].',
        'Probable [pneumonia].',
        'Treated for [tuberculosis].',
    ),
}
JUDGED = [(marked, why) for why, sentences in SENTENCES.items() for marked in sentences]


def _ask(marked: str) -> str:
    begin = marked.index('[')
    end = marked.index(']') - 1
    return why_not_asserted(marked.replace('[', '').replace(']', ''), begin, end)


@pytest.mark.parametrize(('marked', 'why'), JUDGED)
def test_sentences(marked, why):
    assert _ask(marked) == why


@given(st.text(), st.sampled_from(JUDGED))
def test_sentences_before_do_not_matter(before, judged):
    marked, why = judged
    assert _ask(before.replace('[', '').replace(']', '') + '\n' + marked) == why


@given(st.text(), st.data())
def test_any_text_has_an_answer(text, data):
    begin = data.draw(st.integers(0, len(text)))
    assert why_not_asserted(text, begin, data.draw(st.integers(begin, len(text)))) in SENTENCES


@pytest.mark.parametrize(
    ('words', 'why'),
    [
        ('no fever', DENIED),
        ('Denies chest pain', DENIED),
        ('absence of fever', DENIED),
        ('mother with gout', RELATIVE),
        ('family history of gout', RELATIVE),
        ('risk of bleeding', HYPOTHETICAL),
        ('fever', ''),
        ('pneumonia without effusion', ''),
        ('nodule', ''),
        ('no', ''),
    ],
)
def test_words_that_begin_with_a_cue(words, why):
    text = f'And then: {words} was written.'
    begin = text.index(words)
    assert denies_itself(text, begin, begin + len(words)) == why
