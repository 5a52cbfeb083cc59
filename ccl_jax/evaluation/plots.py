"""The plots of an evaluation as PNG, each with a sentence that says what it shows.

The numbers behind a plot come from functions of their own: `precision_recall`,
`code_frequencies`, `sibling_confusions`, `evidence_lengths`.
"""

import dataclasses
import io
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from ccl_jax.evaluation.bootstrap import Estimate, bootstrap
from ccl_jax.evaluation.grounding import folded_words
from ccl_jax.evaluation.metrics import pair_statistics
from ccl_jax.evaluation.pairs import Code, CodePairs, align, code_key
from ccl_jax.evaluation.strata import FREQUENCIES, STRATA, Strata
from ccl_jax.records import Document, Prediction

ALL = 'all codes'
# Where the buckets of `FREQUENCIES` lie on the axis of training documents.
_EXTENTS = ((-0.4, 0.4), (0.55, 5.45), (5.55, 20.45), (20.55, math.inf))
MOST_PAIRS = 20
LONGEST = 12
"""Words; longer evidence is counted together."""

# Told apart in print and by readers who are colour-blind (palette of Okabe and Ito, 2008).
_COLORS = {ALL: '#000000', 'S0': '#0072b2', 'S1': '#d55e00', 'S2': '#009e73', 'S3': '#cc79a7'}
_GOLD, _PREDICTED, _RANGE, _FAINT = '#e69f00', '#0072b2', '#d55e00', '#bbbbbb'
_MARKERS = ('s', '^', 'D', 'v', 'P', 'X')


class Plot(NamedTuple):
    """A picture.

    Attributes:
        image: a PNG.
        alt: what it shows, for who does not see it.
    """

    title: str
    image: bytes
    alt: str


class Point(NamedTuple):
    """Precision and recall of the codes whose score is at least `threshold`; None where codes have no scores."""

    precision: float
    recall: float
    threshold: float | None

    @property
    def f1(self) -> float:
        total = self.precision + self.recall
        return 2 * self.precision * self.recall / total if total else 0.0


class CodeFrequency(NamedTuple):
    """How well a code is found, and how many training documents carry it."""

    code: Code
    documents: int
    f1: float


class Confusion(NamedTuple):
    """In `documents` documents the gold code `missed` was not predicted and its sibling `written` was, wrongly."""

    missed: str
    written: str
    documents: int


def evaluation_plots(
    gold: Sequence[Document],
    systems: Mapping[str, Sequence[Prediction]],
    *,
    model: str,
    strata: Strata,
    title_of: Callable[[str], str | None] = lambda code: None,
    seed: int,
    samples: int = 1000,
) -> dict[str, Plot]:
    """Returns the plots of an evaluation by file name.

    Args:
        systems: predictions by name; all but `model` are baselines.
        title_of: an ICD-10-CM code's title, None where it has none.
        seed, samples: of the intervals.
    """
    predictions = systems[model]
    baselines = {name: answers for name, answers in systems.items() if name != model}
    return {
        'precision_recall.png': plot_precision_recall(gold, predictions, strata, baselines),
        'frequency.png': plot_frequency(gold, predictions, strata, seed=seed, samples=samples),
        'siblings.png': plot_siblings(gold, predictions, title_of),
        'evidence_lengths.png': plot_evidence_lengths(gold, predictions),
    }


def precision_recall(gold: Sequence[Document], predictions: Sequence[Prediction]) -> list[Point]:
    """Returns the points of the curve over all (document, code), from the highest threshold to the lowest.

    The last point is that of all predicted codes. It is the only one where a predicted code has no score. A
    curve ends where the predictions end: what a system did not write has no score. Empty without predicted
    codes; without gold codes recall is 0.
    """
    gold_sets = {document.doc_id: {code_key(a) for a in document.annotations} for document in gold}
    total = sum(map(len, gold_sets.values()))
    scores: dict[tuple[str, Code], float | None] = {}
    for prediction in predictions:
        for code in prediction.codes:
            pair = (prediction.doc_id, code_key(code))
            before = scores.get(pair)
            # A code that is written twice is as sure as its surest line.
            scores[pair] = code.score if before is None or code.score is None else max(before, code.score)
    right = {pair: pair[1] in gold_sets.get(pair[0], ()) for pair in scores}
    if not scores:
        return []
    if any(score is None for score in scores.values()):
        hits = sum(right.values())
        return [Point(hits / len(scores), hits / total if total else 0.0, None)]
    by_score: dict[float, list[bool]] = {}
    for pair, score in scores.items():
        if score is not None:
            by_score.setdefault(score, []).append(right[pair])
    points, hits, predicted = [], 0, 0
    for score in sorted(by_score, reverse=True):
        hits += sum(by_score[score])
        predicted += len(by_score[score])
        points.append(Point(hits / predicted, hits / total if total else 0.0, score))
    return points


def code_frequencies(
    gold: Sequence[Document], predictions: Sequence[Prediction], frequencies: Mapping[Code, int]
) -> list[CodeFrequency]:
    """Returns F1 and training frequency of every code that is gold or predicted, sorted by code."""
    gold_sets, predicted_sets = _sets(gold, predictions)
    hits = Counter(code for doc_id, codes in gold_sets.items() for code in codes & predicted_sets.get(doc_id, set()))
    sizes = Counter(code for sets in (gold_sets, predicted_sets) for codes in sets.values() for code in codes)
    return [CodeFrequency(code, frequencies.get(code, 0), 2 * hits[code] / sizes[code]) for code in sorted(sizes)]


def bucket_scores(
    gold: Sequence[Document], predictions: Sequence[Prediction], strata: Strata, *, seed: int, samples: int = 1000
) -> list[Estimate]:
    """Returns micro F1 of the codes of each of `FREQUENCIES`; undefined for one without gold and predicted codes."""
    pairs = CodePairs.of(align(gold, predictions))
    scores = []
    for bucket in FREQUENCIES:
        statistics = pair_statistics(pairs.only(strata.frequency, bucket), valid_codes=frozenset(), is_part=True)
        scores.append(bootstrap(statistics, seed=seed, samples=samples)['micro_f1'])
    return scores


def sibling_confusions(gold: Sequence[Document], predictions: Sequence[Prediction]) -> tuple[list[Confusion], int]:
    """Returns the pairs of siblings that were mistaken for one another, most frequent first, and the missed gold codes.

    Siblings are codes of one category (the characters before the dot). A missed code counts with each wrong
    sibling that is predicted for its document.

    Returns:
        The pairs, and the number of (document, gold code) that were not predicted, with or without such a sibling.
    """
    gold_sets, predicted_sets = _sets(gold, predictions)
    pairs: Counter[tuple[str, str]] = Counter()
    all_missed = 0
    for doc_id, codes in gold_sets.items():
        missed, wrong = codes - predicted_sets.get(doc_id, set()), predicted_sets.get(doc_id, set()) - codes
        all_missed += len(missed)
        pairs.update((m[1], w[1]) for m in missed for w in wrong if _category(m) == _category(w))
    ranked = sorted(pairs.items(), key=lambda item: (-item[1], item[0]))
    return [Confusion(missed, written, count) for (missed, written), count in ranked], all_missed


def evidence_lengths(gold: Sequence[Document], predictions: Sequence[Prediction]) -> tuple[Counter[int], Counter[int]]:
    """Returns how many pieces of gold and of predicted evidence have so many words.

    Words are runs of letters and digits. A piece that supports several codes of a document counts once.
    """

    def lengths(records: Iterable[tuple[str, Iterable]]) -> Counter[int]:
        pieces = {(name, e.parts, e.text) for name, items in records for item in items for e in item.evidence}
        return Counter(len(folded_words(text)) for _, _, text in pieces)

    return (
        lengths((document.doc_id, document.annotations) for document in gold),
        lengths((prediction.doc_id, prediction.codes) for prediction in predictions),
    )


def _sets(
    gold: Sequence[Document], predictions: Sequence[Prediction]
) -> tuple[dict[str, set[Code]], dict[str, set[Code]]]:
    return (
        {document.doc_id: {code_key(a) for a in document.annotations} for document in gold},
        {prediction.doc_id: {code_key(c) for c in prediction.codes} for prediction in predictions},
    )


def _category(code: Code) -> Code:
    return code[0], code[1].partition('.')[0]


def plot_precision_recall(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    strata: Strata,
    baselines: Mapping[str, Sequence[Prediction]],
) -> Plot:
    """Precision against recall of the model, for all codes and for each stratum, with the baselines as points."""
    title = 'Precision and recall by stratum'
    parts = {ALL: (gold, predictions), **{s: _only(gold, predictions, strata, s) for s in STRATA}}
    # A stratum without gold codes has no recall.
    curves = {name: precision_recall(*part) for name, part in parts.items() if any(d.annotations for d in part[0])}
    points = {
        (system, name): precision_recall(*(_only(gold, answers, strata, name) if name != ALL else (gold, answers)))
        for system, answers in baselines.items()
        for name in curves
    }
    if not any((*curves.values(), *points.values())):
        return _nothing(title, 'there are no gold codes or none is predicted')

    def draw(axes: Axes) -> None:
        _iso_f1(axes)
        for name, curve in curves.items():
            label = name if curve else f'{name}, nothing predicted'
            axes.plot([], [], color=_COLORS[name], linewidth=2, label=label)
            if curve:
                recall, precision = [p.recall for p in curve], [p.precision for p in curve]
                axes.plot(recall, precision, color=_COLORS[name], linewidth=2 if name == ALL else 1.4)
                axes.plot(recall[-1], precision[-1], 'o', color=_COLORS[name], markersize=7)
        axes.plot([], [], 'o', color='#555555', label='model, all it wrote')
        for marker, system in zip(_MARKERS, baselines, strict=False):
            axes.plot([], [], marker, color='#555555', markerfacecolor='none', label=system)
            for name in curves:
                for point in points[system, name][-1:]:
                    axes.plot(point.recall, point.precision, marker, color=_COLORS[name], markerfacecolor='none')
        axes.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.04), xlabel='recall', ylabel='precision')
        axes.legend(loc='upper left', bbox_to_anchor=(1.01, 1), frameon=False)

    found = '; '.join(
        f'{name}: precision {curve[-1].precision:.2f}, recall {curve[-1].recall:.2f}, F1 {curve[-1].f1:.2f}'
        if curve
        else f'{name}: nothing predicted'
        for name, curve in curves.items()
    )
    alt = f'Precision against recall of the model by stratum. With all that it wrote: {found}.'
    overall = {system: points[system, ALL] for system in baselines if points.get((system, ALL))}
    if overall:
        alt += ' Baselines, all codes: ' + ', '.join(f'{n} F1 {p[-1].f1:.2f}' for n, p in overall.items()) + '.'
    return Plot(title, _png(8.5, 5.5, title, draw), alt)


def plot_frequency(
    gold: Sequence[Document], predictions: Sequence[Prediction], strata: Strata, *, seed: int, samples: int = 1000
) -> Plot:
    """F1 of each code against the training documents that carry it, and micro F1 with intervals by bucket."""
    title = 'F1 against training frequency'
    codes = code_frequencies(gold, predictions, strata.document_counts)
    if not codes:
        return _nothing(title, 'there are no gold codes and none is predicted')
    scores = bucket_scores(gold, predictions, strata, seed=seed, samples=samples)
    sizes = Counter(strata.frequency(c.code) for c in codes)
    end = max(30, *(c.documents for c in codes)) * 1.3

    def draw(axes: Axes) -> None:
        # Codes at one place are one dot, whose area is their number.
        places = Counter((c.documents, round(c.f1, 2)) for c in codes)
        axes.scatter(
            [x for x, _ in places],
            [y for _, y in places],
            [min(14 * count, 900) for count in places.values()],
            color=_PREDICTED,
            alpha=0.35,
            linewidths=0,
        )
        axes.plot([], [], 'o', color=_PREDICTED, alpha=0.35, markeredgewidth=0, label='codes (area: how many)')
        axes.plot([], [], color=_RANGE, linewidth=2.5, label='micro F1 of the codes of a range, 95 % interval')
        for (left, right), score in zip(_EXTENTS, scores, strict=True):
            if score.value is None:
                continue
            right = min(right, end)
            if score.low is not None and score.high is not None:
                axes.fill_between([left, right], score.low, score.high, color=_RANGE, alpha=0.25, linewidth=0)
            axes.plot([left, right], [score.value, score.value], color=_RANGE, linewidth=2.5)
        axes.set_xscale('symlog', linthresh=1)
        ticks = [
            t for t in (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000) if t <= end
        ]
        axes.set_xticks(ticks, [f'{tick:,}' for tick in ticks])
        axes.xaxis.minorticks_off()
        axes.set(xlim=(-0.5, end), ylim=(-0.09, 1.09), xlabel='training documents that carry the code', ylabel='F1')
        axes.legend(loc='upper left', bbox_to_anchor=(0, -0.14), ncols=2, frameon=False)

    found = '; '.join(
        f'{bucket}: {score.value:.2f} ({sizes[bucket]:,} codes)'
        for bucket, score in zip(FREQUENCIES, scores, strict=True)
        if score.value is not None
    )
    alt = f'F1 of each code against the training documents that carry it. Micro F1 by their number, {found}.'
    return Plot(title, _png(8.5, 5, title, draw), alt)


def plot_siblings(
    gold: Sequence[Document],
    predictions: Sequence[Prediction],
    title_of: Callable[[str], str | None] = lambda code: None,
) -> Plot:
    """The `MOST_PAIRS` most frequent pairs of a missed gold code and a wrong sibling."""
    title = 'Confusion between siblings'
    confusions, missed = sibling_confusions(gold, predictions)
    if not confusions:
        return _nothing(title, f'none of the {missed:,} missed codes has a wrong sibling in its document')
    shown = confusions[:MOST_PAIRS]

    def named(code: str) -> str:
        words = title_of(code) or ''
        return f'{code} {words if len(words) <= 34 else words[:33].rstrip() + "…"}'.strip()

    def draw(axes: Axes) -> None:
        places = range(len(shown))
        axes.barh(places, [c.documents for c in shown], color=_PREDICTED, height=0.7)
        axes.set_yticks(places, [f'{named(c.missed)}  →  {named(c.written)}' for c in shown], size=8)
        for place, c in enumerate(shown):
            axes.annotate(
                str(c.documents), (c.documents, place), xytext=(3, 0), textcoords='offset points', va='center', size=8
            )
        axes.invert_yaxis()
        axes.margins(x=0.08)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel('documents')

    pairs = sum(c.documents for c in confusions)
    first = shown[0]
    alt = (
        f'{missed:,} gold codes were missed; {pairs:,} times a wrong code of the same category was written in the '
        f'document of a missed one, in {len(confusions):,} different pairs. The most frequent: {first.missed} missed '
        f'and {first.written} written, {first.documents} documents.'
    )
    few = '' if len(shown) == len(confusions) else f', the first {len(shown)} of {len(confusions):,} pairs'
    heading = f'{title}{few}: gold code missed → sibling written'
    return Plot(title, _png(9.5, 1.4 + 0.27 * len(shown), heading, draw), alt)


def plot_evidence_lengths(gold: Sequence[Document], predictions: Sequence[Prediction]) -> Plot:
    """How many words the pieces of gold and of predicted evidence have, as shares of each."""
    title = 'Evidence lengths'
    counts = dict(zip(('gold', 'predicted'), evidence_lengths(gold, predictions), strict=True))
    if not any(counts.values()):
        return _nothing(title, 'there is no gold and no predicted evidence')
    medians = {name: statistics.median(own.elements()) for name, own in counts.items() if own}

    def draw(axes: Axes) -> None:
        for shift, (name, own), color in zip((-0.2, 0.2), counts.items(), (_GOLD, _PREDICTED), strict=True):
            shares = [0.0] * (LONGEST + 2)
            for length, count in own.items():
                shares[min(length, LONGEST + 1)] += count / own.total()
            median = f', median {medians[name]:g}' if own else ''
            axes.bar(
                [length + shift for length in range(LONGEST + 2)],
                shares,
                0.4,
                color=color,
                label=f'{name}: {own.total():,} pieces{median}',
            )
        first = 0 if any(own[0] for own in counts.values()) else 1
        labels = [*(str(length) for length in range(first, LONGEST + 1)), f'> {LONGEST}']
        axes.set_xticks(range(first, LONGEST + 2), labels)
        axes.set(xlim=(first - 0.6, LONGEST + 1.6), xlabel='words of a piece of evidence', ylabel='share of the pieces')
        axes.yaxis.set_major_formatter(lambda share, _: f'{share:.0%}')
        axes.legend(frameon=False)

    found = '; '.join(
        f'{name}: {own.total():,} pieces, median length {medians[name]:g}, '
        f'{sum(n for length, n in own.items() if length > LONGEST) / own.total():.0%} longer than {LONGEST}'
        if own
        else f'{name}: none'
        for name, own in counts.items()
    )
    return Plot(title, _png(8.5, 4, title, draw), f'Words of the pieces of evidence. {found}.')


def _only(
    gold: Sequence[Document], predictions: Sequence[Prediction], strata: Strata, stratum: str
) -> tuple[list[Document], list[Prediction]]:
    """Returns the documents and the predictions with only the codes of a stratum."""

    def kept(items: Iterable[Any]) -> tuple[Any, ...]:
        return tuple(item for item in items if strata.stratum(code_key(item)) == stratum)

    return (
        [dataclasses.replace(document, annotations=kept(document.annotations)) for document in gold],
        [dataclasses.replace(prediction, codes=kept(prediction.codes)) for prediction in predictions],
    )


def _iso_f1(axes: Axes) -> None:
    """Draws lines of equal F1."""
    for f1 in (0.2, 0.4, 0.6, 0.8):
        recalls = [f1 / 2 + (1 - f1 / 2) * i / 200 for i in range(1, 201)]
        axes.plot(recalls, [f1 * r / (2 * r - f1) for r in recalls], color=_FAINT, linewidth=0.7, zorder=0)
        axes.annotate(f'F1 {f1}', (1.0, f1 / (2 - f1)), color='#777777', size=7, ha='right', va='bottom')


def _nothing(title: str, why: str) -> Plot:
    """A picture that says why there is nothing to see."""

    def draw(axes: Axes) -> None:
        axes.set_axis_off()
        axes.text(0.5, 0.5, f'Nothing to show:\n{why}.', ha='center', va='center', transform=axes.transAxes)

    return Plot(title, _png(8.5, 2.5, title, draw), f'{title}: nothing to show, {why}.')


def _png(width: float, height: float, title: str, draw: Callable[[Axes], None]) -> bytes:
    """Returns a PNG of so many inches."""
    # Not pyplot, which keeps figures in a global and may want a display.
    figure = Figure(figsize=(width, height), layout='constrained')
    axes = figure.add_subplot()
    draw(axes)
    # Over the figure, because the labels of an axis may be wide.
    figure.suptitle(title, x=0.01, ha='left', size=11, weight='bold')
    axes.spines[['top', 'right']].set_visible(False)
    image = io.BytesIO()
    # Without the version of matplotlib, so that equal numbers give equal bytes.
    figure.savefig(image, format='png', dpi=110, metadata={'Software': None})
    return image.getvalue()
