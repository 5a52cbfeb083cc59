"""One prediction from the answers to the windows of a long document."""

import dataclasses
from collections.abc import Sequence

from ccl_jax.records import Evidence, PredictedCode, Prediction


def merge_windows(doc_id: str, answers: Sequence[tuple[int, Prediction]]) -> Prediction:
    """Joins the answers to the windows of a document.

    A code takes its place by its first window and its best score; evidence moves to its place in
    the document, and what two windows share of it is there once.

    Args:
        answers: (where the window begins in the document, the answer to it) in order.
    """
    merged: dict[tuple[str, str], PredictedCode] = {}
    for begin, prediction in answers:
        for code in prediction.codes:
            moved = dataclasses.replace(code, evidence=tuple(_moved(evidence, begin) for evidence in code.evidence))
            key = (code.system, code.code)
            merged[key] = _joined(merged[key], moved) if key in merged else moved
    return Prediction(doc_id, tuple(merged.values()))


def _moved(evidence: Evidence, by: int) -> Evidence:
    return dataclasses.replace(evidence, parts=tuple((begin + by, end + by) for begin, end in evidence.parts))


def _joined(first: PredictedCode, second: PredictedCode) -> PredictedCode:
    scores = [code.score for code in (first, second) if code.score is not None]
    return dataclasses.replace(
        first,
        score=max(scores, default=None),
        evidence=tuple(dict.fromkeys(first.evidence + second.evidence)),
        rechecked=tuple(dict.fromkeys(first.rechecked + second.rechecked)),
    )
