"""The classical baseline: TF-IDF of words and word pairs, and one logistic regression per code.

It sees what the documents' texts and codes teach and no evidence, no span and no term,
so it knows only codes that several training documents carry. Needs scikit-learn, the
extra `baselines`.
"""

import dataclasses
import importlib.util
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from ccl_jax.errors import UserError
from ccl_jax.evaluation.pairs import Code, code_key
from ccl_jax.records import Document, PredictedCode, Prediction

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

FEWEST_DOCUMENTS = 2
"""Training documents that carry a code which is learned, and that hold a word or pair which is a feature."""
MOST_WORK = 1_000_000_000
"""Codes x non-zero features beyond which it is not fitted; CodiEsp has 0.1 billion, MIMIC-IV hundreds of billions."""

_TUNING_SHARE = 0.2
# Inverse strength of the L2 regularisation: the best of 1, 3 and 10 on a fifth of CodiEsp's training documents.
_C = 10.0
_MOST_ITERATIONS = 200


@dataclasses.dataclass(frozen=True)
class Tfidf:
    """See `fit_tfidf`.

    Attributes:
        codes: the codes it knows, sorted, [C].
        weights, intercepts: of the logistic regressions, [features, C] and [C].
        threshold: the probability from which a code is predicted.
    """

    vectorizer: Any
    codes: tuple[Code, ...]
    weights: np.ndarray
    intercepts: np.ndarray
    threshold: float

    def predict(self, document: Document) -> Prediction:
        """The codes at or above the threshold, the likeliest first, with their probabilities as scores."""
        (row,) = _probabilities(self.vectorizer.transform([document.text]), self.weights, self.intercepts)
        chosen = sorted(np.flatnonzero(row >= self.threshold), key=lambda c: (-row[c], c))
        return Prediction(
            document.doc_id,
            tuple(PredictedCode(self.codes[c][1], self.codes[c][0], score=float(row[c])) for c in chosen),
        )


def is_available() -> bool:
    """Whether scikit-learn is installed."""
    return importlib.util.find_spec('sklearn') is not None


def fit_tfidf(documents: Sequence[Document], *, seed: int = 0) -> Tfidf:
    """Learns the codes that at least `FEWEST_DOCUMENTS` training documents carry.

    The threshold, one for all codes, is the one with the best micro F1 on a fifth of the
    groups of training documents, drawn by `seed`, under a model of the others; then the
    model is fitted on all of them. The codes that the others do not teach count as missed.

    Raises:
        UserError: no code has enough documents, there are too few groups to tune on, or codes
            x features are more than `MOST_WORK`.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    sets = [{code_key(a) for a in document.annotations} for document in documents]
    tuning = _tuning_documents(documents, seed)
    counts = Counter(code for codes in sets for code in codes)
    known = sum(count >= FEWEST_DOCUMENTS for count in counts.values())
    if not known or not tuning.any():
        raise UserError(
            f'the tfidf baseline needs a code of {FEWEST_DOCUMENTS} training documents and documents to tune on; '
            'give more training documents or leave tfidf out of eval.baselines'
        )
    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=min(FEWEST_DOCUMENTS, len(documents)))
    try:
        features = vectorizer.fit_transform([document.text for document in documents]).tocsr()
    except ValueError:
        # scikit-learn: no word is left, 'empty vocabulary'.
        raise UserError('the tfidf baseline finds no word in two training documents; give more of them') from None
    if features.nnz * known > MOST_WORK:
        raise UserError(
            f'{known:,} codes x {features.nnz:,} features are too much for the tfidf baseline (at most {MOST_WORK:,}); '
            'leave tfidf out of eval.baselines'
        )
    # The words come from all documents: what is tuned is the threshold, which codes decide, not words.
    threshold = _tune(features, sets, tuning)
    codes, weights, intercepts = _fit(features, sets)
    return Tfidf(vectorizer, codes, weights, intercepts, threshold)


def best_threshold(probabilities: np.ndarray, is_gold: np.ndarray, gold: int) -> float:
    """Returns the threshold with the best micro F1, midway between the probabilities around it; infinite if none hits.

    Of equally good ones the highest.

    Args:
        probabilities, is_gold: of (document, code) pairs, in the same order.
        gold: the number of gold pairs, those that no probability was given to included.
    """
    order = np.argsort(-probabilities, kind='stable')
    ranked, hits = probabilities[order], np.cumsum(is_gold[order])
    # Equal probabilities are predicted together.
    ends = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True)) if ranked.size else np.zeros(0, int)
    f1 = 2 * hits[ends] / (ends + 1 + gold)
    if not ends.size or not f1.max():
        return float('inf')
    last = ends[np.argmax(f1)]
    return float(ranked[last : last + 2].mean()) if last + 1 < ranked.size else float(ranked[last] / 2)


def _tuning_documents(documents: Sequence[Document], seed: int) -> np.ndarray:
    """Returns which documents [N] the threshold is tuned on; a group (an admission, a patient) stays whole."""
    groups = sorted({document.group_id or document.doc_id for document in documents})
    drawn = np.random.default_rng(seed).permutation(len(groups))[: int(len(groups) * _TUNING_SHARE)]
    chosen = {groups[g] for g in drawn}
    return np.array([(document.group_id or document.doc_id) in chosen for document in documents], bool)


def _tune(features: 'csr_matrix', sets: Sequence[set[Code]], tuning: np.ndarray) -> float:
    codes, weights, intercepts = _fit(features[~tuning], [s for s, held in zip(sets, tuning, strict=True) if not held])
    gold_sets = [s for s, held in zip(sets, tuning, strict=True) if held]
    probabilities = _probabilities(features[tuning], weights, intercepts)
    is_gold = np.array([[code in gold for code in codes] for gold in gold_sets], bool).reshape(probabilities.shape)
    return best_threshold(probabilities.ravel(), is_gold.ravel(), sum(map(len, gold_sets)))


def _fit(features: 'csr_matrix', sets: Sequence[set[Code]]) -> tuple[tuple[Code, ...], np.ndarray, np.ndarray]:
    """Returns the codes, and the weights [features, C] and intercepts [C] of their regressions."""
    from sklearn.linear_model import LogisticRegression

    counts = Counter(code for codes in sets for code in codes)
    codes = tuple(sorted(code for code, count in counts.items() if count >= FEWEST_DOCUMENTS))
    weights = np.zeros((features.shape[1], len(codes)), np.float32)
    intercepts = np.zeros(len(codes), np.float32)
    # A code that every document carries has nothing to be told from.
    intercepts[[c for c, code in enumerate(codes) if counts[code] == len(sets)]] = np.inf
    # The dual is solved in a space of the documents, of which there are far fewer than words.
    model = LogisticRegression(
        C=_C,
        # A rare code weighs as much as its absence, or all its probabilities would be near 0.
        class_weight='balanced',
        solver='liblinear',
        dual=True,
        max_iter=_MOST_ITERATIONS,
        random_state=0,
    )
    for c, code in enumerate(codes):
        if counts[code] < len(sets):
            model.fit(features, np.array([code in carried for carried in sets]))
            weights[:, c], intercepts[c] = model.coef_[0], model.intercept_[0]
    return codes, weights, intercepts


def _probabilities(features: 'csr_matrix', weights: np.ndarray, intercepts: np.ndarray) -> np.ndarray:
    """Probabilities [documents, C]."""
    from scipy.special import expit

    return expit(features @ weights + intercepts)
