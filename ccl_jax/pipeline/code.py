"""`code`: notes in, codes with titles, evidence and offsets out."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ccl_jax.decoding.predict import predict_documents
from ccl_jax.errors import UserError
from ccl_jax.icd.release import Release, open_release
from ccl_jax.pipeline.models import load_trained, open_mesh
from ccl_jax.pipeline.workdir import say, workdir_config
from ccl_jax.records import Document, Prediction

STANDARD_INPUT = '-'


def read_notes(paths: Sequence[str]) -> list[Document]:
    """Reads notes from text files; '-' (or no path at all) is standard input.

    The text is taken as it stands, so that offsets count its characters.

    Raises:
        UserError: a file cannot be read, is not UTF-8, or is empty.
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
        if not text.strip():
            raise UserError(f'the note {name} is empty; give a file with text')
        notes.append(Document(doc_id=path, text=text))
    doubled = {note.doc_id for note in notes if sum(other.doc_id == note.doc_id for other in notes) > 1}
    if doubled:
        raise UserError(f'the note {min(doubled)} is given twice; name each once')
    return notes


def code_notes(workdir: Path, notes: Sequence[Document]) -> tuple[list[dict[str, Any]], bool]:
    """Codes notes with the newest checkpoint of `workdir`.

    Returns:
        One object per note, `{"doc_id", "codes": [{"code", "system", "title", "billable",
        "score", "evidence": [{"parts", "text"}]}]}` in ranking order (title and billable
        are null for a code that the release lacks), and whether the model only ever saw synthetic notes.

    Raises:
        UserError: the workdir holds no finished checkpoint.
    """
    config = workdir_config(workdir)
    release = open_release(config.release)
    _, decoder, tokenizer = load_trained(config, workdir, open_mesh(config.mesh))
    predictions, decoding = predict_documents(
        decoder,
        tokenizer,
        notes,
        buckets=config.training.plan.prompt_lengths,
        max_new_tokens=config.eval.max_new_tokens,
        batch_rows=min(len(notes), config.eval.batch_rows),
    )
    if decoding.truncated or decoding.unfinished or decoding.malformed_lines:
        say(decoding.sentence())
    synthetic = config.sources.name == 'synthetic_notes'
    return [_with_titles(prediction, release) for prediction in predictions], synthetic


def format_codes(coded: Sequence[dict[str, Any]]) -> str:
    """Returns the answers as readable text, one block per note."""
    blocks = []
    for note in coded:
        lines = [f'{note["doc_id"]}: {len(note["codes"])} codes']
        for code in note['codes']:
            title = code['title'] or 'not in the release'
            lines.append(f'  {code["code"]:<9} {title}')
            for evidence in code['evidence']:
                where = ', '.join(f'{begin}-{end}' for begin, end in evidence['parts']) or 'not found in the note'
                lines.append(f'            "{evidence["text"]}" [{where}]')
        blocks.append('\n'.join(lines))
    return '\n\n'.join(blocks)


def _with_titles(prediction: Prediction, release: Release) -> dict[str, Any]:
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
                'evidence': [{'parts': [list(part) for part in e.parts], 'text': e.text} for e in code.evidence],
            }
        )
    return {'doc_id': prediction.doc_id, 'codes': codes}
