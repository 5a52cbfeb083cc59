"""The audit page: every note with its evidence highlighted, beside the codes and how each was judged.

One HTML file that loads nothing: its style and its script are inline and named
by hash in a content security policy, so that text of a note can neither run nor
fetch anything even if escaping failed.
"""

import base64
import dataclasses
import hashlib
import html
import importlib.resources
import itertools
import re
from collections.abc import Callable, Container, Sequence
from pathlib import Path

from ccl_jax.evaluation.grounding import Parts, placed_evidence
from ccl_jax.evaluation.pairs import Code, align, code_key
from ccl_jax.evaluation.strata import Strata
from ccl_jax.records import Document, Prediction

# Control characters that HTML forbids, and lone surrogates, which UTF-8 cannot hold.
_UNPRINTABLE = re.compile('[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]')

_STATUS_WORDS = {
    'correct': '\u2713 correct',
    'wrong': '\u2717 wrong',
    'not_in_release': '\u2717 not in release',
    'missed': '\u25cb missed',
}


@dataclasses.dataclass(frozen=True)
class _Quote:
    """A piece of evidence on the page.

    Attributes:
        anchor: its id in the page.
        by: who gives it: 'predicted', 'gold', or both.
        parts: where it stands in the note; () where it does not.
        inexact: found only up to case, punctuation and white space.
    """

    anchor: str
    by: tuple[str, ...]
    code: str
    text: str
    parts: Parts
    inexact: bool = False


@dataclasses.dataclass(frozen=True)
class _Row:
    """A code of one note: the judgement and its quotes."""

    code: Code
    status: str
    quotes: tuple[_Quote, ...]

    @property
    def filter_value(self) -> str:
        return 'wrong' if self.status == 'not_in_release' else self.status


def write_audit_page(path: str | Path, page: str) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(page, encoding='utf-8')


def audit_page(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    *,
    title: str,
    title_of: Callable[[str], str | None],
    valid_codes: Container[Code],
    strata: Strata | None = None,
    banner: str | None = None,
) -> str:
    """Returns the page as HTML.

    Args:
        title: heading, e.g. 'CodiEsp dev, run 3'.
        title_of: a code's title in the release, None where it has none.
        valid_codes: as (system, code); a wrong code outside it is shown as 'not in release'.
        strata: adds a column with each code's stratum.
        banner: a sentence at the top, e.g. that the notes are synthetic.

    Raises:
        UserError: as `metrics.align`.
    """
    notes = [pair for _, pairs in align(gold, predictions) for pair in pairs]
    rows = [_rows(document, prediction, n, valid_codes) for n, (document, prediction) in enumerate(notes)]
    articles = [_article(document, rows[n], n, len(notes), title_of, strata) for n, (document, _) in enumerate(notes)]
    index = [
        f'<li data-has="{_has(rows[n])}"><a href="#d{n}">{_text(document.doc_id)}</a> '
        f'<span class="quiet">{_tally(rows[n])}</span></li>'
        for n, (document, _) in enumerate(notes)
    ]
    every_row = [row for of_note in rows for row in of_note]
    body = [
        '<a class="skip" href="#notes">Skip to the notes</a>',
        f'<header><h1>{_text(title)}</h1>',
        f'<p class="banner" role="note">{_text(banner)}</p>' if banner else '',
        f'<p>{len(notes)} {"note" if len(notes) == 1 else "notes"}; codes: {_tally(every_row)}.</p>',
        _KEY,
        f'</header>\n<nav aria-label="Notes"><details{" open" if len(notes) <= 30 else ""}><summary>List of notes'
        f'</summary><ol class="index">{"".join(index)}</ol></details></nav>',
        _FILTER,
        '<main id="notes" tabindex="-1">',
        *articles,
        '</main>',
    ]
    return _page(title, '\n'.join(body))


def _page(title: str, body: str) -> str:
    files = importlib.resources.files('ccl_jax.evaluation')
    style = files.joinpath('audit.css').read_text(encoding='utf-8')
    script = files.joinpath('audit.js').read_text(encoding='utf-8')
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f'<title>{_text(title)}</title>\n<style>{style}</style>\n</head>\n'
        f'<body data-show="all">\n{body}\n<script>{script}</script>\n</body>\n</html>\n'
    )


def _rows(document: Document, prediction: Prediction, n: int, valid_codes: Container[Code]) -> list[_Row]:
    """The note's codes: predicted ones in the order of the prediction, then the missed ones."""
    quotes: dict[Code, list[_Quote]] = {code_key(c): [] for c in prediction.codes}
    predicted = set(quotes)
    in_gold = {code_key(a) for a in document.annotations}
    found = [
        (code_key(item), 'predicted', evidence.text, parts, kind == 'folded')
        for item, evidence, kind, parts in placed_evidence(document, prediction)
    ]
    found += [
        (code_key(annotation), 'gold', evidence.text, _inside(evidence.parts, len(document.text)), False)
        for annotation in document.annotations
        for evidence in annotation.evidence
    ]
    for annotation in document.annotations:
        quotes.setdefault(code_key(annotation), [])
    for count, (code, by, text, parts, inexact) in enumerate(found):
        _add_quote(quotes[code], _Quote(f'd{n}q{count}', (by,), code[1], text, parts, inexact))
    rows = []
    for code, of_code in quotes.items():
        if code in predicted:
            status = 'correct' if code in in_gold else 'wrong' if code in valid_codes else 'not_in_release'
        else:
            status = 'missed'
        rows.append(_Row(code, status, tuple(of_code)))
    return rows


def _add_quote(quotes: list[_Quote], quote: _Quote) -> None:
    """Adds a quote; one of the same words is listed once, with everybody who gives it."""
    for i, other in enumerate(quotes):
        if quote.parts and quote.parts == other.parts:
            quotes[i] = dataclasses.replace(other, by=tuple(dict.fromkeys((*other.by, *quote.by))))
            return
    quotes.append(quote)


def _article(
    document: Document,
    rows: list[_Row],
    n: int,
    count: int,
    title_of: Callable[[str], str | None],
    strata: Strata | None,
) -> str:
    previous = f'<a href="#d{n - 1}">previous</a>' if n else ''
    following = f'<a href="#d{n + 1}">next</a>' if n + 1 < count else ''
    quotes = [quote for row in rows for quote in row.quotes]
    head = ''.join(
        f'<th scope="col" role="columnheader">{label}</th>'
        for label in ('Code', 'Judged', *(('Stratum',) if strata else ()), 'Title and evidence')
    )
    # Roles are spelt out because the layout for phones changes `display`, which takes them away in some browsers.
    table = (
        f'<table role="table" aria-labelledby="d{n}h"><thead role="rowgroup"><tr role="row">{head}</tr></thead>\n'
        f'<tbody role="rowgroup">\n{"".join(_table_row(row, title_of, strata) for row in rows)}</tbody></table>'
        if rows
        else '<p class="quiet">No codes, neither gold nor predicted.</p>'
    )
    return (
        f'<article id="d{n}" data-has="{_has(rows)}" aria-labelledby="d{n}h">\n'
        f'<header><h2 id="d{n}h">{_text(document.doc_id)}</h2> <span class="quiet">{_tally(rows)}</span> '
        f'<span class="step">{previous} {following}</span></header>\n'
        f'<div class="sides"><section><h3>Note</h3><div class="note" lang="{_text(document.language)}" dir="auto">'
        f'{_highlighted(document.text, quotes)}</div></section>\n'
        f'<section class="codes" tabindex="0" aria-label="Codes of {_text(document.doc_id)}"><h3>Codes</h3>{table}'
        '</section></div>\n</article>'
    )


def _table_row(row: _Row, title_of: Callable[[str], str | None], strata: Strata | None) -> str:
    system, code = row.code
    title = title_of(code)
    shown = _text(title) if title else f'<span class="quiet">no title in the release ({_text(system)})</span>'
    stratum = f'<td role="cell">{strata.stratum(row.code)}</td>' if strata else ''
    quotes = ''.join(f'<li>{_quote(quote)}</li>' for quote in row.quotes)
    listed = f'<ul class="quotes">{quotes}</ul>' if quotes else ''
    return (
        f'<tr class="{row.filter_value}" data-has="{row.filter_value}" role="row">'
        f'<th scope="row" role="rowheader">{_text(code)}</th>'
        f'<td class="status" role="cell">{_STATUS_WORDS[row.status]}</td>{stratum}'
        f'<td role="cell">{shown}{listed}</td></tr>\n'
    )


def _quote(quote: _Quote) -> str:
    words = f'<bdi>\u201c{_text(quote.text)}\u201d</bdi>'
    by = f'<span class="by">{" and ".join(quote.by)}</span> '
    if not quote.parts:
        return f'{by}{words} <span class="ungrounded">not in the note</span>'
    remark = ' <span class="by">(up to case and punctuation)</span>' if quote.inexact else ''
    return f'{by}<a href="#{quote.anchor}">{words}</a>{remark}'


def _highlighted(text: str, quotes: Sequence[_Quote]) -> str:
    """The escaped text, cut wherever a quote begins or ends, each piece marked with all the quotes over it."""
    spans = [(begin, end, quote) for quote in quotes for begin, end in quote.parts]
    cuts = sorted({0, len(text), *(i for begin, end, _ in spans for i in (begin, end))})
    anchored: set[str] = set()
    pieces = []
    for begin, end in itertools.pairwise(cuts):
        # A quote whose own parts overlap is over a piece once.
        over = list(dict.fromkeys(quote for first, last, quote in spans if first <= begin and end <= last))
        piece = _text(text[begin:end])
        if not over:
            pieces.append(piece)
            continue
        new = [quote.anchor for quote in over if quote.anchor not in anchored]
        anchored.update(new)
        # A mark has room for one id, and several quotes may begin at one word.
        anchors = ''.join(f'<span id="{anchor}"></span>' for anchor in new)
        hint = '; '.join(dict.fromkeys(f'{by} {quote.code}' for quote in over for by in quote.by))
        pieces.append(
            f'<mark class="{" ".join(sorted({by for quote in over for by in quote.by}))}" title="{_text(hint)}" '
            f'data-quotes="{" ".join(quote.anchor for quote in over)}">{anchors}{piece}</mark>'
        )
    return ''.join(pieces)


def _inside(parts: Parts, length: int) -> Parts:
    """The parts cut to the text: a document that was made in code may carry offsets that were never checked."""
    return tuple((max(begin, 0), min(end, length)) for begin, end in parts if max(begin, 0) < min(end, length))


def _tally(rows: Sequence[_Row]) -> str:
    counts = {value: sum(row.filter_value == value for row in rows) for value in ('correct', 'wrong', 'missed')}
    return ', '.join(f'{count} {value}' for value, count in counts.items())


def _has(rows: Sequence[_Row]) -> str:
    return ' '.join(sorted({row.filter_value for row in rows}))


def _text(text: str) -> str:
    return html.escape(_UNPRINTABLE.sub('\ufffd', text), quote=True)


def _hash(inline: str) -> str:
    return 'sha256-' + base64.b64encode(hashlib.sha256(inline.encode()).digest()).decode()


_KEY = (
    '<p class="key quiet"><span><mark class="predicted">shaded</mark> quoted by the model</span>'
    '<span><mark class="gold">underlined</mark> gold evidence</span>'
    '<span>a quote in the table leads to its words in the note</span></p>'
)

_FILTER = (
    '<fieldset class="filter"><legend>Show codes:</legend>'
    + ''.join(
        f'<label><input type="radio" name="show" value="{value}"{" checked" if value == "all" else ""}> {label}</label>'
        for value, label in (('all', 'all'), ('correct', 'right'), ('wrong', 'wrong'), ('missed', 'missed'))
    )
    + '</fieldset>'
)
