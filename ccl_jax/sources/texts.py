"""Notes without codes: ACI-Bench, MTS-Dialog, and folders of text files.

They are input for coding and for language modelling; there is nothing to train
labels on. ACI-Bench (Yim et al., Scientific Data 2023, CC BY 4.0) has full visit
notes: `data/challenge_data/<name>.csv` with encounter_id, dialogue, note.
MTS-Dialog (Ben Abacha et al., EACL 2023, CC BY 4.0) has sections of notes:
`Main-Dataset/MTS-Dialog-<name>.csv` with ID, section_header, section_text,
dialogue. The dialogues are not read: nobody assigns codes to them.
"""

from collections.abc import Iterator
from pathlib import Path

from ccl_jax.errors import UserError
from ccl_jax.records import Document
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.tables import read_table

# Our name of a split -> file; the test sets are named after the shared tasks that used them.
ACI_BENCH_SPLITS = {
    'train': 'train.csv',
    'dev': 'valid.csv',
    'test1': 'clinicalnlp_taskB_test1.csv',
    'test2': 'clinicalnlp_taskC_test2.csv',
    'test3': 'clef_taskC_test3.csv',
}
MTS_DIALOG_SPLITS = {
    'train': 'MTS-Dialog-TrainingSet.csv',
    'dev': 'MTS-Dialog-ValidationSet.csv',
    'test1': 'MTS-Dialog-TestSet-1-MEDIQA-Chat-2023.csv',
    'test2': 'MTS-Dialog-TestSet-2-MEDIQA-Sum-2023.csv',
}


def read_aci_bench(path: str | Path, split: str, *, report: SourceReport) -> Iterator[Document]:
    """Yields the visit notes of a split in the order of the file; `doc_id` is the encounter's.

    Args:
        path: the folder of the repository wyim/aci-bench, which holds `data/challenge_data/`.
        split: one of `ACI_BENCH_SPLITS`.
        report: counts what is kept and what is refused.

    Raises:
        UserError: an unknown split, or a file that is missing or unusable.
    """
    file = Path(path, 'data', 'challenge_data', _file_name('ACI-Bench', ACI_BENCH_SPLITS, split))
    rows = read_table(file, ('encounter_id', 'note'), report=report)
    notes = ((f'{file.name} row {number}', row['encounter_id'].strip(), row['note']) for number, row in rows)
    yield from _documents(notes, 'aci_bench', split, report)


def read_mts_dialog(path: str | Path, split: str, *, report: SourceReport) -> Iterator[Document]:
    """Yields the sections of notes of a split in the order of the file.

    IDs count from 0 in each file, so `doc_id` is '<split>-<ID>'.

    Args:
        path: the folder of the repository abachaa/MTS-Dialog, which holds `Main-Dataset/`.
        split: one of `MTS_DIALOG_SPLITS`.
        report: counts what is kept and what is refused.

    Raises:
        UserError: an unknown split, or a file that is missing or unusable.
    """
    file = Path(path, 'Main-Dataset', _file_name('MTS-Dialog', MTS_DIALOG_SPLITS, split))
    rows = read_table(file, ('ID', 'section_text'), report=report)
    notes = (
        (f'{file.name} row {number}', f'{split}-{row_id}' if (row_id := row['ID'].strip()) else '', row['section_text'])
        for number, row in rows
    )
    yield from _documents(notes, 'mts_dialog', split, report)


def read_text_folder(path: str | Path, *, report: SourceReport) -> Iterator[Document]:
    """Yields a document for every `*.txt` in a folder and the folders below it, in order of their paths.

    `doc_id` is the path below `path` without '.txt', with '/' between folders.
    The text is the file's, character for character, after a byte order mark.
    Hidden files and folders are passed over.

    Args:
        path: the folder.
        report: counts what is kept and what is refused.

    Raises:
        UserError: `path` is not a folder or holds no .txt file, or a file cannot be read.
    """
    folder = Path(path)
    if not folder.is_dir():
        raise UserError(f'{folder} is not a folder; give a folder that holds .txt files')
    files = {
        file.relative_to(folder).with_suffix('').as_posix(): file
        for file in folder.rglob('*.txt')
        if not any(part.startswith('.') for part in file.relative_to(folder).parts) and not file.is_dir()
    }
    if not files:
        raise UserError(f'{folder} holds no .txt file; give a folder that holds .txt files')
    for doc_id in sorted(files):
        text = read_text_file(files[doc_id], doc_id, report)
        if text is not None:
            document = Document(doc_id, text, group_id=doc_id, source='texts')
            report.add(document)
            yield document


def read_text_file(file: Path, doc_id: str, report: SourceReport) -> str | None:
    """Returns the text of a file without its byte order mark, None if it was refused.

    Raises:
        UserError: the file cannot be read.
    """
    try:
        doc_id.encode()
    except UnicodeEncodeError:
        # Such an id could be written to no file of ours.
        report.reject(doc_id.encode(errors='backslashreplace').decode(), 'file name is not UTF-8')
        return None
    try:
        text = file.read_bytes().decode('utf-8-sig')
    except UnicodeDecodeError as error:
        report.reject(doc_id, 'text is not UTF-8', f'byte {error.start}')
        return None
    except OSError as error:
        raise UserError(f'cannot read {file}: {error.strerror}; check the file and its permissions') from None
    if not text.strip():
        report.reject(doc_id, 'text is empty')
        return None
    return text


def _file_name(corpus: str, splits: dict[str, str], split: str) -> str:
    if split not in splits:
        raise UserError(f'{corpus} has no split {split!r}; take one of {", ".join(splits)}')
    return splits[split]


def _documents(
    notes: Iterator[tuple[str, str, str]], source: str, split: str, report: SourceReport
) -> Iterator[Document]:
    """Yields the documents of (place in the file, doc_id, text)."""
    seen: set[str] = set()
    for place, doc_id, text in notes:
        if not doc_id:
            report.reject(place, 'id is empty')
        elif doc_id in seen:
            report.reject(doc_id, 'doc_id occurs twice', place)
        elif not text.strip():
            report.reject(doc_id, 'text is empty', place)
        else:
            seen.add(doc_id)
            document = Document(doc_id, text, group_id=doc_id, source=source, split=split)
            report.add(document)
            yield document
