"""Any bytes in any file of a source give documents or a UserError, and nothing else."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ccl_jax.errors import UserError
from ccl_jax.icd.matching import TermMatcher
from ccl_jax.icd.release import Release
from ccl_jax.records import Document, Span, document_from_json, document_to_json, read_jsonl
from ccl_jax.sources.codiesp import read_codiesp
from ccl_jax.sources.jsonl import read_documents, read_predictions, read_spans
from ccl_jax.sources.report import RejectionLog, SourceReport
from ccl_jax.sources.texts import read_aci_bench, read_mts_dialog, read_text_folder

NOTE = 'Fiebre alta (38 ºC), tos.\nNiega dolor.\n'.encode()
RECORD = {
    'doc_id': 'a',
    'text': 'Cough, and fever.',
    'codes': [{'code': 'R05', 'evidence': [{'parts': [[0, 5], [11, 16]], 'text': 'Cough fever', 'origin': 'x'}]}],
}
SPAN = {'span_id': 's', 'text': 'cough', 'code': 'R05', 'tier': 'gold', 'provenance': 'title'}
CODIESP = {
    'train/trainD.tsv': b'a\tr50.9\na\tr05\nb\ti10\n',
    'train/trainP.tsv': b'a\tbw03zzz\n',
    'train/trainX.tsv': (
        b'a\tDIAGNOSTICO\tr50.9\tFiebre alta\t0 11\na\tDIAGNOSTICO\tr05\ttos\t21 24\n'
        b'a\tPROCEDIMIENTO\tbw03zzz\tFiebre tos\t0 6;21 24\n'
    ),
    'train/text_files/a.txt': NOTE,
    'train/text_files/b.txt': b'Sin hallazgos.',
    'train/text_files_en/a.txt': b'High fever, cough.\n',
    'train/text_files_en/b.txt': b'Hypertension.\n',
}
LINES = {'own.jsonl': b'\n'.join(json.dumps({**RECORD, 'doc_id': name}).encode() for name in 'abc')}
SPANS = {'own.jsonl': b'\n'.join(json.dumps({**SPAN, 'span_id': name}).encode() for name in 'abc')}
ACI_BENCH = {'data/challenge_data/train.csv': b'dataset,encounter_id,dialogue,note\nv,D1,hi,"Has ""gout"".\nNow."\n'}
MTS_DIALOG = {'Main-Dataset/MTS-Dialog-TrainingSet.csv': b'ID,section_header,section_text,dialogue\n0,CC,Cough.,hi\n'}
TEXTS = {'a.txt': NOTE, 'ward/b.txt': b'Cough.\r\n'}

_release = Release.embedded()
_matcher = TermMatcher(_release)

Reader = Callable[[Path, SourceReport], Iterable[object]]
READERS: dict[str, tuple[dict[str, bytes], Reader]] = {
    'codiesp es': (CODIESP, lambda path, report: read_codiesp(path, 'train', 'es', procedures=True, report=report)),
    'codiesp en': (CODIESP, lambda path, report: read_codiesp(path, 'train', 'en', matcher=_matcher, report=report)),
    'jsonl refuse': (LINES, lambda path, report: read_documents(path / 'own.jsonl', report=report)),
    'jsonl skip': (
        LINES,
        lambda path, report: read_documents(path / 'own.jsonl', report=report, on_bad_record='skip'),
    ),
    'spans': (SPANS, lambda path, report: read_spans(path / 'own.jsonl', report=report, on_bad_record='skip')),
    'predictions': (LINES, lambda path, _: read_predictions(path / 'own.jsonl')),
    'aci bench': (ACI_BENCH, lambda path, report: read_aci_bench(path, 'train', report=report)),
    'mts dialog': (MTS_DIALOG, lambda path, report: read_mts_dialog(path, 'train', report=report)),
    'text folder': (TEXTS, lambda path, report: read_text_folder(path, report=report)),
}

# Bytes that mean something to some reader, so that damage is not only noise.
_TELLING = st.sampled_from(
    (
        *(b'\t', b'\n', b'\r\n', b'"', b',', b';', b' ', b'\0', b'\x0b', b'\xff', b'\xc2', b'\xe2\x80\xa8'),
        *(b'\xef\xbb\xbf', b'\x1f\x8b', b'{', b'}', b'[', b'null', b'true', b'\\ud800', b'DIAGNOSTICO'),
        *(b'-1', b'9' * 30, b'1e999'),
    )
)


@st.composite
def _damaged(draw, content: bytes) -> bytes:
    """Draws bytes of any kind, or `content` with pieces cut, repeated and put in."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(content)))
        end = draw(st.integers(begin, min(len(content), begin + 12)))
        content = (
            content[:begin] + draw(_TELLING | st.binary(max_size=4) | st.just(content[begin:end] * 2)) + content[end:]
        )
    return content


@pytest.mark.parametrize('name', READERS)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_any_bytes_in_any_file(tmp_path_factory, name, data):
    files, reader = READERS[name]
    folder = tmp_path_factory.mktemp('source')
    damaged = data.draw(st.sampled_from(sorted(files)))
    for file, content in files.items():
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_bytes(data.draw(_damaged(content)) if file == damaged else content)
    with RejectionLog(folder / 'rejected.jsonl') as log:
        report = SourceReport(name, log=log)
        try:
            records = list(reader(folder, report))
        except UserError as error:
            # It must be possible to print the message.
            str(error).encode()
            records = []
    _check_promises(records, report)
    report.check_codes(_release)
    json.dumps(report.to_json(), allow_nan=False)
    assert report.table().encode()
    assert log.count == report.rejected.total() == (len(list(read_jsonl(log.path))) if log.count else 0)


def _check_promises(records: list[object], report: SourceReport) -> None:
    """What is yielded keeps what the records promise, and is what the report counted."""
    documents = [record for record in records if isinstance(record, Document)]
    for document in documents:
        written = json.dumps(document_to_json(document), ensure_ascii=False).encode()
        assert document_from_json(json.loads(written)) == document
    assert len({document.doc_id for document in documents}) == len(documents)
    # A refusal in the middle of a file ends the reading, with documents counted that are not handed on here.
    assert report.documents >= len(documents)
    assert report.spans >= sum(isinstance(record, Span) for record in records)
