"""`code`: notes in, codes with titles, evidence, offsets and flags out."""

import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccl_jax.errors import UserError
from ccl_jax.evaluation.audit import audit_page, write_audit_page
from ccl_jax.evaluation.flags import UNGROUNDED, Flag, flags_of
from ccl_jax.evaluation.pairs import code_key
from ccl_jax.icd.release import Release
from ccl_jax.pipeline.coding import Coder
from ccl_jax.pipeline.workdir import say
from ccl_jax.records import Document, PredictedCode, Prediction

STANDARD_INPUT = '-'
SYNTHETIC_MODEL = 'This model was trained on synthetic notes alone; it is not for clinical use.'


def read_notes(paths: Sequence[str]) -> list[Document]:
    """Reads notes from text files; '-' (or no path at all) is standard input.

    The text is taken as it stands, so that offsets count its characters.

    Raises:
        UserError: a file cannot be read, is not UTF-8 text, or is empty.
    """
    notes = []
    for path in paths or [STANDARD_INPUT]:
        name = 'standard input' if path == STANDARD_INPUT else path
        try:
            raw = sys.stdin.buffer.read() if path == STANDARD_INPUT else Path(path).read_bytes()
            text = raw.decode('utf-8-sig')
        except OSError as error:
            raise UserError(f'cannot read the note {name}: {error.strerror}; check the path') from None
        except UnicodeDecodeError:
            raise UserError(f'the note {name} is not UTF-8 text; convert it to UTF-8') from None
        if '\0' in text:
            raise UserError(f'the note {name} is a binary file; give plain text')
        if not text.strip():
            raise UserError(f'the note {name} is empty; give a file with text')
        notes.append(Document(doc_id=path, text=text))
    doubled = {note.doc_id for note in notes if sum(other.doc_id == note.doc_id for other in notes) > 1}
    if doubled:
        raise UserError(f'the note {min(doubled)} is given twice; name each once')
    return notes


def write_page(path: Path, notes: Sequence[Document], predictions: Sequence[Prediction], coder: Coder) -> None:
    """Writes the audit page of the answers, where a reviewer can accept, reject and add codes."""
    release = coder.release
    page = audit_page(
        notes,
        predictions,
        title='Codes of ' + (notes[0].doc_id if len(notes) == 1 else f'{len(notes)} notes'),
        title_of=lambda code: release.title(code) if code in release else None,
        judged=False,
        flags={
            note.doc_id: flags_of(note, prediction, release)
            for note, prediction in zip(notes, predictions, strict=True)
        },
        banner=SYNTHETIC_MODEL if coder.synthetic else None,
    )
    write_audit_page(path, page)


def code_notes(coder: Coder, notes: Sequence[Document]) -> list[Prediction]:
    """Codes notes, and says on standard error what a reader of the answers should know."""
    settings = dataclasses.replace(coder.settings, batch_rows=min(len(notes), coder.settings.batch_rows))
    predictions, decoding = dataclasses.replace(coder, settings=settings).predict(notes)
    if decoding.truncated or decoding.windowed or decoding.unfinished or decoding.malformed_lines:
        say(decoding.sentence())
    return predictions


def codes_to_json(note: Document, prediction: Prediction, release: Release) -> dict[str, Any]:
    """Returns the answer to a note as `{"doc_id", "codes": [{"code", "system", "title", "billable", "score",
    "agreement", "flags", "evidence": [{"parts", "text"}]}]}` in ranking order.

    Title and billable are null for a code that the release lacks, agreement where there was no second look.
    """
    flags = flags_of(note, prediction, release)
    codes = []
    for code in prediction.codes:
        known = code.code in release
        codes.append(
            {
                'code': code.code,
                'system': code.system,
                'title': release.title(code.code) if known else None,
                'billable': release.billable(code.code) if known else None,
                'score': code.score,
                'agreement': code.agreement,
                'flags': _kinds(code, flags.get(code_key(code), ())),
                'evidence': [{'parts': [list(part) for part in e.parts], 'text': e.text} for e in code.evidence],
            }
        )
    return {'doc_id': prediction.doc_id, 'codes': codes}


def format_codes(coded: Sequence[dict[str, Any]]) -> str:
    """Returns the answers as readable text, one block per note."""
    blocks = []
    for note in coded:
        lines = [f'{note["doc_id"]}: {len(note["codes"])} {"code" if len(note["codes"]) == 1 else "codes"}']
        for code in note['codes']:
            title = code['title'] or 'not in the release'
            score = '' if code['score'] is None else f'  score {code["score"]:.2f}'
            flags = f'  [{", ".join(code["flags"]).replace("_", " ")}]' if code['flags'] else ''
            lines.append(f'  {code["code"]:<9} {title}{score}{flags}')
            for evidence in code['evidence']:
                where = ', '.join(f'{begin}-{end}' for begin, end in evidence['parts']) or 'not found in the note'
                words = ' '.join(evidence['text'].split())
                lines.append(f'            "{words}" [{where}]')
        blocks.append('\n'.join(lines))
    return '\n\n'.join(blocks)


def _kinds(code: PredictedCode, flags: Sequence[Flag]) -> list[str]:
    """The kinds of a code's flags; a quote that is not in the note flags its code as well."""
    kinds = [flag.kind for flag in flags]
    return kinds + [UNGROUNDED] * any(not evidence.parts for evidence in code.evidence)
