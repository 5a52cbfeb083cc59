"""Unlabelled texts for the base model from files and folders that `base.corpora` names.

Four kinds are known: a JSON Lines file, plain or gzipped, with `text` or with `question`
and `answer` (PubMedQA, MedQuAD); a folder in the published layout of ACI-Bench or of
MTS-Dialog, of which the training split alone is read, so that their test sets stay unseen;
and any other folder that holds .txt files.
"""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.records import Document, read_jsonl, read_jsonl_lines
from ccl_jax.sources.report import SourceReport
from ccl_jax.sources.texts import read_aci_bench, read_mts_dialog, read_text_folder

KINDS = (
    'a .jsonl or .jsonl.gz file with "text" or "question" and "answer", a folder of .txt files, or the folder of '
    'ACI-Bench or MTS-Dialog'
)
_GZIPPED = '.jsonl.gz'


def check_corpus(path: str | Path) -> None:
    """Raises UserError if `path` is of no known kind; reads nothing."""
    path = Path(path)
    if path.is_dir():
        if not _is_aci_bench(path) and not _is_mts_dialog(path) and next(path.rglob('*.txt'), None) is None:
            raise UserError(f'base.corpora names the folder {path}, which holds no texts; give {KINDS}')
    elif not (path.is_file() and path.name.endswith(('.jsonl', _GZIPPED))):
        state = 'is of no known kind' if path.exists() else 'does not exist'
        raise UserError(f'base.corpora names {path}, which {state}; give {KINDS}')


def read_corpus(path: str | Path, *, report: SourceReport) -> Iterator[Document]:
    """Yields the texts of a file or folder in its order.

    `doc_id` is the line number of a JSON Lines file, else what the folder's reader gives.

    Args:
        path: of one of `KINDS`.
        report: counts what is kept and what is refused (empty texts, files that are not UTF-8).

    Raises:
        UserError: `path` is of no known kind, cannot be read, or has a record without text.
    """
    check_corpus(path)
    path = Path(path)
    if path.is_file():
        yield from _read_lines(path, report)
    elif _is_aci_bench(path):
        yield from read_aci_bench(path, 'train', report=report)
    elif _is_mts_dialog(path):
        yield from read_mts_dialog(path, 'train', report=report)
    else:
        yield from read_text_folder(path, report=report)


def _is_aci_bench(folder: Path) -> bool:
    return (folder / 'data' / 'challenge_data').is_dir()


def _is_mts_dialog(folder: Path) -> bool:
    return (folder / 'Main-Dataset').is_dir()


def _read_lines(path: Path, report: SourceReport) -> Iterator[Document]:
    for number, record in _records(path):
        text = _text_of(record)
        if text is None:
            raise UserError(
                f'{path} line {number} has neither a "text" nor a "question" and an "answer"; write them as strings'
            )
        if not text.strip():
            report.reject(f'line {number}', 'text is empty')
            continue
        document = Document(str(number), text, group_id=str(number), source='texts')
        report.add(document)
        yield document


def _records(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    if not path.name.endswith(_GZIPPED):
        yield from read_jsonl(path)
        return
    try:
        with gzip.open(path) as lines:
            yield from read_jsonl_lines(lines, path)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f'cannot read {path}: {error}; check that it is a whole gzip file') from None


def _text_of(record: dict[str, Any]) -> str | None:
    """Returns the text of a record, None where it has none."""
    parts = [record['text']] if 'text' in record else [record.get('question'), record.get('answer')]
    strings = [part for part in parts if isinstance(part, str)]
    return '\n'.join(strings) if len(strings) == len(parts) else None
