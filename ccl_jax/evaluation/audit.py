"""The audit page: notes with their evidence highlighted, the codes and how each was judged, and a reviewer's decisions.

One HTML file that loads nothing: style and script are inline and named by hash in a content security policy. Notes and
codes stand in it as JSON that no browser runs; the script makes elements of it, one note at a time and by text nodes
only. So words of a note can neither run nor fetch anything, and a page of many notes opens at once.

The parts of the page are in `page/`: `audit.html` (the frame), `audit.css`, and scripts that are joined into one:
`text.js` (offsets and forms of codes), `review.js` (decisions as data, their export and import), `view.js` (what is
shown), `decide.js` (what a reviewer does), `start.js` (the frame and its events).
"""

import base64
import hashlib
import html
import importlib.resources
import json
import re
import string
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ccl_jax.evaluation.evidence import Parts, placed_evidence
from ccl_jax.evaluation.flags import UNGROUNDED, Flag, Flags
from ccl_jax.evaluation.metrics import Code, align, code_key
from ccl_jax.evaluation.strata import Strata
from ccl_jax.icd.codes import FORMS, is_well_formed
from ccl_jax.records import Document, Prediction

Figure = tuple[str, bytes, str]
"""(title, PNG, what it shows in words)."""

_SCRIPTS = ('text.js', 'review.js', 'view.js', 'decide.js', 'start.js')

# Half of a surrogate pair: UTF-8 cannot hold it, and no JSONL source reads it. Replaced one for one, offsets stay.
_LONE_SURROGATE = re.compile('[\ud800-\udfff]')

# In JSON these stand in strings only, where an escape means the same. Without '<' no tag or comment can begin or end.
_JSON_ESCAPES = {ord(c): f'\\u{ord(c):04x}' for c in '<>&\u2028\u2029'}


def write_audit_page(path: str | Path, page: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding='utf-8')


def audit_page(
    documents: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    title: str,
    title_of: Callable[[str], str | None],
    judged: bool = True,
    flags: Mapping[str, Flags] | None = None,
    strata: Strata | None = None,
    banner: str | None = None,
    figures: Sequence[Figure] = (),
) -> str:
    """Returns the page as HTML.

    Args:
        documents: the notes; their annotations are the gold codes.
        predictions: at most one per note.
        title: heading, e.g. 'CodiEsp dev, run 3'.
        title_of: a code's title in the release, None where it has none.
        judged: False where there is no gold to judge by: annotations are then ignored, and codes shown as predicted.
        flags: doc_id -> what `flags.flags_of` finds.
        strata: adds each code's stratum.
        banner: a sentence at the top, e.g. that the notes are synthetic.
        figures: plots, shown in a section that opens on demand.

    Raises:
        UserError: as `metrics.align`.
    """
    pairs = [pair for _, unit in align(documents, predictions) for pair in unit]
    flags = flags or {}
    table = _CodeTable(title_of, strata)
    notes = [
        _note(document, _rows(document, prediction, judged, flags.get(document.doc_id, {}), table))
        for document, prediction in pairs
    ]
    content = {'codes': table.entries, 'notes': notes}
    data = {
        'title': title,
        'banner': banner or '',
        'judged': judged,
        # Names the reviewer's decisions in the browser's storage: the same notes and codes find them again.
        'digest': hashlib.sha256(_json(content).encode()).hexdigest()[:32],
        'forms': {system: pattern.pattern for system, pattern in FORMS.items()},
        'figures': [
            {'title': name, 'png': base64.b64encode(png).decode(), 'alt': words} for name, png, words in figures
        ],
        **content,
    }
    return _page(title, _json(data))


class _CodeTable:
    """The distinct codes of the page; rows name them by position."""

    def __init__(self, title_of: Callable[[str], str | None], strata: Strata | None):
        self.entries: list[dict[str, Any]] = []
        self._title_of = title_of
        self._strata = strata
        self._positions: dict[Code, int] = {}

    def position(self, key: Code) -> int:
        if key not in self._positions:
            system, code = key
            entry: dict[str, Any] = {'code': code, 'system': system, 'title': self._title_of(code) or ''}
            if self._strata is not None:
                entry['stratum'] = self._strata.stratum(key)
            if not is_well_formed(code, system):
                entry['malformed'] = True
            self._positions[key] = len(self.entries)
            self.entries.append(entry)
        return self._positions[key]


def _note(document: Document, rows: list[dict[str, Any]]) -> dict[str, Any]:
    note = {
        'id': document.doc_id,
        'group': document.group_id or document.doc_id,
        'language': document.language,
        'source': document.source,
        'split': document.split,
        'text': document.text,
        'rows': rows,
    }
    return {key: value for key, value in note.items() if value != ''}


def _rows(
    document: Document, prediction: Prediction, judged: bool, flags: Flags, table: _CodeTable
) -> list[dict[str, Any]]:
    """The note's codes: predicted ones in the order of the prediction, then the missed ones."""
    annotations = document.annotations if judged else ()
    gold = {code_key(a) for a in annotations}
    scores = {code_key(c): c.score for c in reversed(prediction.codes)}
    predicted = {code_key(c): None for c in prediction.codes}
    quotes: dict[Code, list[dict[str, Any]]] = {
        code: [] for code in predicted | {code_key(a): None for a in annotations}
    }
    for item, evidence, kind, parts in placed_evidence(document, prediction):
        _add_quote(quotes[code_key(item)], 'predicted', parts, evidence.text, inexact=kind == 'folded')
    for annotation in annotations:
        for evidence in annotation.evidence:
            inside = _inside(evidence.parts, len(document.text))
            _add_quote(quotes[code_key(annotation)], 'gold', inside, evidence.text)
    rows = []
    for code, of_code in quotes.items():
        row: dict[str, Any] = {'c': table.position(code), 'status': _status(code, predicted, gold, judged)}
        if scores.get(code) is not None:
            row['score'] = scores[code]
        of_flags = list(flags.get(code, ()))
        if any(not quote['parts'] for quote in of_code):
            of_flags.append(Flag(UNGROUNDED, 'a quote is not in the note'))
        if of_flags:
            row['flags'] = [list(flag) for flag in of_flags]
        if of_code:
            row['quotes'] = of_code
        rows.append(row)
    return rows


def _status(code: Code, predicted: Mapping[Code, None], gold: set[Code], judged: bool) -> str:
    if not judged:
        return 'predicted'
    if code not in predicted:
        return 'missed'
    return 'correct' if code in gold else 'wrong'


def _add_quote(quotes: list[dict[str, Any]], by: str, parts: Parts, text: str, inexact: bool = False) -> None:
    """Adds a quote; one of the same words is listed once, with everybody who gives it."""
    for other in quotes:
        if parts and parts == other['parts']:
            if by not in other['by']:
                other['by'].append(by)
            return
    quote: dict[str, Any] = {'parts': parts, 'by': [by]}
    if inexact or not parts:
        # Other words are cut from the note by the page.
        quote['text'] = text
    if inexact:
        quote['inexact'] = True
    quotes.append(quote)


def _inside(parts: Parts, length: int) -> Parts:
    """The parts cut to the text: a document that was made in code may carry offsets that were never checked."""
    return tuple((max(begin, 0), min(end, length)) for begin, end in parts if max(begin, 0) < min(end, length))


def _page(title: str, data: str) -> str:
    style, script = _file('audit.css'), '\n'.join(map(_file, _SCRIPTS))
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; img-src data:; "
        "connect-src 'none'; base-uri 'none'; form-action 'none'"
    )
    return string.Template(_file('audit.html')).substitute(
        policy=policy, title=html.escape(_LONE_SURROGATE.sub('\ufffd', title)), style=style, script=script, data=data
    )


def _file(name: str) -> str:
    return importlib.resources.files('ccl_jax.evaluation').joinpath('page', name).read_text(encoding='utf-8')


def _json(value: Any) -> str:
    """JSON that is inert inside of a script element."""
    text = json.dumps(value, ensure_ascii=False, separators=(',', ':'))
    return _LONE_SURROGATE.sub('\ufffd', text).translate(_JSON_ESCAPES)


def _hash(inline: str) -> str:
    return 'sha256-' + base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()
