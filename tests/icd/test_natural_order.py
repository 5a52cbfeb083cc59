"""Natural wordings against cases worked by hand."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ccl_jax.icd.external_causes import external_cause_wordings
from ccl_jax.icd.natural_order import WORDINGS_PER_ENTRY, Title, natural_wordings
from ccl_jax.icd.table_wording import drug_wordings, neoplasm_wordings


def _path(line: str) -> list[Title]:
    """Reads 'Fall (accidental) > from > ladder': '>' separates levels, parentheses hold nonessential modifiers."""
    titles = []
    for level in line.split(' > '):
        before, *rest = re.split(r'\s*\(', level, maxsplit=1)
        after = re.sub(r'^.*\)', '', rest[0]) if rest else ''
        titles.append(Title(before + after, tuple(re.findall(r'\(([^()]*)\)', level)), len(before)))
    return titles


@pytest.mark.parametrize(
    ('path', 'wordings'),
    [
        ('Attack, attacks > heart', ['heart attack', 'heart attacks']),
        (
            'Infarct, infarction > myocardium, myocardial > acute',
            ['acute myocardial infarct', 'acute myocardial infarction'],
        ),
        ('Failure, failed > heart > congestive', ['congestive heart failure']),
        ("Disease, diseased > Crohn's", ["Crohn's disease"]),
        ('Syndrome > Down', ['Down syndrome']),
        ('Disease, diseased > kidney > chronic > stage 3', ['chronic kidney disease stage 3']),
        ('Incident, adverse', ['adverse incident']),
        ('Anemia > iron deficiency', ['iron deficiency anemia']),
        ('Anemia > due to (in) (with) > blood loss > chronic', ['anemia due to chronic blood loss']),
        ('Injury > head > with loss of consciousness', ['head injury with loss of consciousness']),
        ('Delivery > complicated by > hemorrhage', ['delivery complicated by hemorrhage']),
        ('Cyst > ovary, ovarian > simple', ['simple ovarian cyst']),
        ('Tear > meniscus > lateral', ['lateral meniscus tear']),
        ('History > personal (of) > cancer', ['personal history of cancer']),
        (
            'Diabetes, diabetic (mellitus) (sugar) > type 2 > with > retinopathy',
            ['type 2 diabetes with retinopathy', 'type 2 diabetes mellitus with retinopathy'],
        ),
        (
            'Hypertension, hypertensive (benign) (essential)',
            ['hypertension', 'benign hypertension', 'essential hypertension'],
        ),
        ('Abscess (acute) > abdomen, abdominal > wall', ['abdominal wall abscess', 'acute abdominal wall abscess']),
        ('Stenosis > common (bile) duct NEC', ['common duct stenosis', 'common bile duct stenosis']),
        ('TIA', ['TIA']),
    ],
)
def test_diseases(path, wordings):
    assert natural_wordings(_path(path)) == wordings


@pytest.mark.parametrize(
    'path', ['Disease > specified NEC', 'Disease > heart > specified type NEC', 'Anemia > due to', 'NEC']
)
def test_what_no_note_says_has_no_wording(path):
    assert natural_wordings(_path(path)) == []


@pytest.mark.parametrize(
    ('path', 'wording'),
    [
        ('Fall, falling (accidental) > from, off, out of > ladder', 'fall from ladder'),
        ('Struck (accidentally) by > sports equipment > ball > football', 'struck by football'),
        ('Contact (accidental) > with > tool > powered > hedge trimmer', 'contact with powered hedge trimmer'),
        ('Exposure (to) > fire, flames (accidental)', 'exposure to fire'),
        ('Contact (accidental) > with > cow > strike', 'cow strike'),
        ('Discharge (accidental) > firearm (accidental) > shotgun > assault', 'shotgun discharge in an assault'),
        (
            'Legal > intervention (by) > firearm (s) > injuring > bystander',
            'legal intervention by firearm injuring bystander',
        ),
        (
            'Burn, burned (by) > candle > with ignition of clothing NEC > nightwear',
            'burn by candle with ignition of nightwear',
        ),
        ('Place of occurrence > residence > institutional > prison > kitchen', 'injured in kitchen of prison'),
        ('Forces of nature > tsunami', 'tsunami'),
        ('Foreign body > entering through > natural orifice > coin', 'coin entering through natural orifice'),
        (
            'Perpetrator, perpetration, of assault, maltreatment and neglect (by) > husband > former',
            'maltreatment or neglect by former husband',
        ),
        (
            'Accident (to) > transport (involving injury to) > pickup truck occupant > hanger-on > collision (with) '
            '> van (traffic) > nontraffic',
            'person on outside of pickup truck injured in collision with van in nontraffic accident',
        ),
        (
            'Accident (to) > transport (involving injury to) > pedestrian > conveyance (occupant) > skateboard '
            '> collision (with) > bus > traffic',
            'pedestrian on skateboard injured in collision with bus in traffic accident',
        ),
        (
            'Accident (to) > transport (involving injury to) > pedal cyclist',
            'pedal cyclist injured in transport accident',
        ),
    ],
)
def test_external_causes(path, wording):
    assert wording in external_cause_wordings(_path(path))


@pytest.mark.parametrize(
    ('path', 'column', 'wordings'),
    [
        ('lung', 'Malignant Primary', ['primary malignant neoplasm of lung', 'cancer of lung']),
        ('abdomen, abdominal > wall', 'Malignant Secondary',
         ['secondary malignant neoplasm of abdominal wall', 'metastasis to abdominal wall']),
        ('abdomen, abdominal', 'Ca in situ', ['carcinoma in situ of abdomen']),
        ('stomach > wall > anterior', 'Benign', ['benign neoplasm of anterior wall of stomach']),
        ('skin NOS > breast', 'Uncertain Behavior', ['neoplasm of uncertain behavior of skin of breast']),
        ('skin NOS > limb NEC > lower', 'Unspecified Behavior',
         ['neoplasm of unspecified behavior of skin of lower limb']),
        ('skin NOS > breast > squamous cell carcinoma', 'Malignant Primary',
         ['squamous cell carcinoma of skin of breast']),
        ('sinus (accessory) > sphenoid', 'Benign', ['benign neoplasm of sphenoid sinus']),
        ('lymph, lymphatic channel NEC > gland (secondary) > lumbar', 'Benign',
         ['benign neoplasm of lumbar lymph node']),
        ('corpus > callosum, brain', 'Benign',
         ['benign neoplasm of corpus callosum', 'benign neoplasm of corpus brain']),
        ('lung > specified NEC', 'Benign', []),
    ],
)  # fmt: skip
def test_neoplasms(path, column, wordings):
    assert neoplasm_wordings(_path(f'Neoplasm, neoplastic > {path}'), column) == wordings


@pytest.mark.parametrize(
    ('path', 'column', 'wordings'),
    [
        ('Codeine', 'Poisoning Accidental (unintentional)', ['accidental poisoning by codeine']),
        ('Codeine', 'Poisoning Intentional self-harm', ['intentional self-poisoning by codeine']),
        ('Codeine', 'Poisoning Assault', ['assault by poisoning with codeine']),
        ('Codeine', 'Poisoning Undetermined', ['poisoning by codeine of undetermined intent']),
        ('Codeine', 'Adverse effect', ['adverse effect of codeine']),
        ('LSD', 'Underdosing', ['underdosing of LSD']),
        ('Busulfan, busulphan', 'Adverse effect', ['adverse effect of busulfan', 'adverse effect of busulphan']),
        ('Relaxant, muscle > skeletal NEC', 'Adverse effect', ['adverse effect of skeletal muscle relaxant']),
        ('Sodium > bicarbonate', 'Adverse effect', ['adverse effect of sodium bicarbonate']),
        ('Vaccine NEC > pertussis', 'Adverse effect', ['adverse effect of pertussis vaccine']),
        ('Carbon > monoxide (from incomplete combustion) > coal', 'Adverse effect',
         ['adverse effect of carbon monoxide from coal']),
        ('Ipratropium (bromide)', 'Underdosing', ['underdosing of ipratropium']),
    ],
)  # fmt: skip
def test_drugs(path, column, wordings):
    assert drug_wordings(_path(path), column) == wordings


_WORDS = st.sampled_from(
    ['heart', 'acute', 'with', 'due to, caused by', 'abdomen, abdominal', 'NEC', 'specified NEC', 'stage 3', 'Accident',
     'transport', 'collision', 'Place of occurrence', 'kitchen', 'of', "Crohn's", 'skin', 'lower', 'lymph',
     'vaccine', '']
)  # fmt: skip
_PATHS = st.lists(
    st.builds(Title, _WORDS, st.lists(st.sampled_from(['with', 'acute', 's', 'from x', ''])).map(tuple)), min_size=1
)


@given(_PATHS)
def test_any_path_can_be_worded_or_is_left_out(path):
    for wordings in (
        natural_wordings(path),
        external_cause_wordings(path),
        neoplasm_wordings(path, 'Benign'),
        drug_wordings(path, 'Adverse effect'),
    ):
        assert len(wordings) == len(set(wordings)) <= WORDINGS_PER_ENTRY
        for words in wordings:
            assert words == ' '.join(words.split()) != ''
            assert not re.search(r'[>()|]|\bNEC\b|\bspecified\b', words)
