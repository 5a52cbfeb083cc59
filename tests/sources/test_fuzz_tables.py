"""Any bytes as any file of MDACE and MIMIC: documents or a UserError, never another exception."""

import gzip
import json
import shutil

import pyarrow
import pyarrow.feather
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.codes import CPT, ICD9CM, ICD9PCS, ICD10CM, ICD10PCS
from ccl_jax.records import document_from_json, document_to_json
from ccl_jax.sources.mdace import read_mdace
from ccl_jax.sources.mimic import read_mimic3, read_mimic4
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.tables import read_table

DISCHARGE = (
    b'note_id,subject_id,hadm_id,note_type,note_seq,charttime,storetime,text\n'
    b'1-DS-1,1,11,DS,1,2180-05-07,,"Cough ""dry"",\nno fever."\n1-DS-2,1,12,DS,2,2180-05-08,,Pain.\n'
)
DIAGNOSES = b'subject_id,hadm_id,seq_num,icd_code,icd_version\n1,11,1,R05,10\n1,12,1,4019,9\n1,12,2,R52,10\n'
PROCEDURES = b'subject_id,hadm_id,seq_num,chartdate,icd_code,icd_version\n1,11,1,,0066,9\n'
NOTEEVENTS = (
    b'ROW_ID,SUBJECT_ID,HADM_ID,CHARTDATE,CATEGORY,ISERROR,TEXT\n'
    b'5,1,11,2101-01-01,Discharge summary,,"Cough ""dry"",\nno fever."\n6,1,12,2101-01-02,Discharge summary,,Pain.\n'
)
CODES3 = b'ROW_ID,SUBJECT_ID,HADM_ID,SEQ_NUM,ICD9_CODE\n1,1,11,1,7862\n2,1,12,1,E8798\n'
CHART = json.dumps(
    {
        'hadm_id': 11,
        'notes': [{'note_id': 5, 'annotations': [{'begin': 0, 'end': 5, 'code': 'R05', 'code_system': 'ICD-10-CM'}]}],
    }
).encode()


def _feather():
    sink = pyarrow.BufferOutputStream()
    pyarrow.feather.write_feather(pyarrow.table({'_id': [11, 12], 'split': ['train', 'val']}), sink)
    return sink.getvalue().to_pybytes()


MIMIC4 = {
    'note/discharge.csv': DISCHARGE,
    'hosp/diagnoses_icd.csv': DIAGNOSES,
    'hosp/procedures_icd.csv': PROCEDURES,
    'split.feather': _feather(),
}
MIMIC3 = {
    'NOTEEVENTS.csv': NOTEEVENTS,
    'DIAGNOSES_ICD.csv': CODES3,
    'PROCEDURES_ICD.csv': CODES3,
    'split.feather': _feather(),
}
MDACE = {
    'NOTEEVENTS.csv': NOTEEVENTS,
    'data/Inpatient/ICD-10/1.0/11-ICD-10.json': CHART,
    'splits/Inpatient/MDace-ev-train.csv': b'11\n',
    'splits/Inpatient/MDace-ev-val.csv': b'12\n',
    'splits/Inpatient/MDace-ev-test.csv': b'\n',
}
# What delimits fields, ends lines, opens JSON, starts gzip, or is half of a character.
PIECES = st.sampled_from(
    [
        b'"',
        b',',
        b'\n',
        b'\r',
        b'\0',
        b'\xff',
        b'\xc3',
        b'\x1f\x8b',
        b'-1',
        b'1e999',
        b'[' * 999,
        b'{}',
        b'null',
        b'9' * 5000,
    ]
)


@st.composite
def damaged(draw, content: bytes) -> bytes:
    """Anything at all, or `content` with a stretch replaced, perhaps gzipped before or after."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=60))
    zipped = draw(st.sampled_from(['no', 'no', 'no', 'before', 'after']))
    # Most damage goes behind the header: without it a table is refused at once.
    first = draw(st.sampled_from([0, *[content.find(b'\n') + 1] * 4]))
    if zipped == 'before':
        content = gzip.compress(content, mtime=0)
    for _ in range(draw(st.integers(1, 3))):
        begin = draw(st.integers(min(first, len(content)), len(content)))
        end = min(len(content), begin + draw(st.integers(0, 20)))
        content = content[:begin] + draw(PIECES | st.binary(max_size=6)) + content[end:]
    if draw(st.integers(0, 4)) == 0:
        content = content[: draw(st.integers(min(first, len(content)), len(content)))]
    return gzip.compress(content, mtime=0) if zipped == 'after' else content


@st.composite
def corpora(draw, files: dict[str, bytes]) -> dict[str, bytes]:
    """The files, one or two of them damaged."""
    names = draw(st.lists(st.sampled_from(sorted(files)), min_size=1, max_size=2, unique=True))
    return files | {name: draw(damaged(files[name])) for name in names}


def _check(folder, files, read):
    """Writes the files and reads them; documents that come out have to be sound."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    report = SourceReport('fuzz')
    try:
        documents = list(read(folder, report))
    except UserError:
        return
    assert report.documents == len(documents)
    assert len({document.doc_id for document in documents}) == len(documents)
    for document in documents:
        record = document_to_json(document)
        json.dumps(record).encode()
        assert document_from_json(record) == document


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))


def test_the_undamaged_files_are_read(tmp_path):
    """Without this, the fuzzing below might never come past the first check."""
    report = SourceReport('fuzz')
    for folder, files in (('4', MIMIC4), ('3', MIMIC3), ('mdace', MDACE)):
        for name, content in files.items():
            (tmp_path / folder / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / folder / name).write_bytes(content)
    assert len(list(_mimic4('note', False)(tmp_path / '4', report))) == 2
    assert len(list(_mimic3('admission', False)(tmp_path / '3', report))) == 2
    assert len(list(_mdace('note')(tmp_path / 'mdace', report))) == 1


def _mimic4(grouping, own_split):
    systems = (ICD10CM, ICD9CM, ICD9PCS, ICD10PCS)
    return lambda folder, report: read_mimic4(
        folder,
        split_file='' if own_split else folder / 'split.feather',
        grouping=grouping,
        systems=systems,
        report=report,
    )


def _mimic3(grouping, own_split):
    return lambda folder, report: read_mimic3(
        folder,
        split_file='' if own_split else folder / 'split.feather',
        grouping=grouping,
        systems=(ICD9CM, ICD9PCS),
        report=report,
    )


def _mdace(grouping):
    systems = (ICD10CM, ICD10PCS, ICD9CM, CPT)
    return lambda folder, report: read_mdace(
        folder, folder / 'NOTEEVENTS.csv', grouping=grouping, systems=systems, report=report
    )


@pytest.mark.parametrize('grouping', ['note', 'admission'])
def test_mdace(tmp_path, grouping):
    FUZZ(given(corpora(MDACE))(lambda files: _check(tmp_path / 'x', files, _mdace(grouping))))()


ANYTHING = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.lists(st.just(5), max_size=2)
)
CHARTS = st.fixed_dictionaries(
    {
        'hadm_id': st.just(11) | ANYTHING,
        'notes': ANYTHING
        | st.lists(
            st.fixed_dictionaries(
                {
                    'note_id': st.sampled_from([5, 6]) | ANYTHING,
                    'annotations': ANYTHING
                    | st.lists(
                        st.fixed_dictionaries(
                            {
                                'begin': st.integers(-2, 30) | ANYTHING,
                                'end': st.integers(-2, 30) | ANYTHING,
                                'code': st.sampled_from(['R05', '401.9', '0BJ08ZZ']) | ANYTHING,
                                'code_system': st.sampled_from(['ICD-10-CM', 'ICD-9-CM', 'ICD-10-PCS']) | ANYTHING,
                            }
                        ),
                        max_size=4,
                    ),
                }
            ),
            max_size=3,
        ),
    }
)


@pytest.mark.parametrize('grouping', ['note', 'admission'])
def test_charts_of_any_values(tmp_path, grouping):
    name = 'data/Inpatient/ICD-10/1.0/11-ICD-10.json'

    def check(chart):
        _check(tmp_path / 'x', MDACE | {name: json.dumps(chart).encode()}, _mdace(grouping))

    FUZZ(given(CHARTS)(check))()


@pytest.mark.parametrize('own_split', [True, False])
@pytest.mark.parametrize('grouping', ['note', 'admission'])
def test_mimic4(tmp_path, grouping, own_split):
    FUZZ(given(corpora(MIMIC4))(lambda files: _check(tmp_path / 'x', files, _mimic4(grouping, own_split))))()


@pytest.mark.parametrize('own_split', [True, False])
@pytest.mark.parametrize('grouping', ['note', 'admission'])
def test_mimic3(tmp_path, grouping, own_split):
    FUZZ(given(corpora(MIMIC3))(lambda files: _check(tmp_path / 'x', files, _mimic3(grouping, own_split))))()


@FUZZ
@given(content=damaged(b'a,text\n1,"x ""y"",\nz"\n2,w\n'), with_report=st.booleans())
def test_tables(tmp_path_factory, content, with_report):
    path = tmp_path_factory.mktemp('fuzz', numbered=True) / 't.csv'
    path.write_bytes(content)
    try:
        rows = list(read_table(path, ('A',), optional=('text',), report=SourceReport('fuzz') if with_report else None))
    except UserError:
        return
    for _, fields in rows:
        '\n'.join(fields.values()).encode()
