"""The baselines of an evaluation: which can be made of what a run has, and their predictions."""

from collections.abc import Sequence

from ccl_jax.errors import UserError
from ccl_jax.evaluation.baselines import Lookup, Majority, fit_lookup, fit_majority, release_terms
from ccl_jax.evaluation.tfidf import Tfidf, fit_tfidf, is_available
from ccl_jax.icd.release import Release
from ccl_jax.pipeline.workdir import say
from ccl_jax.records import Document, Prediction, Span


def predict_baselines(
    names: Sequence[str],
    training: Sequence[Document],
    spans: Sequence[Span],
    gold: Sequence[Document],
    *,
    release: Release,
    held_out: frozenset[str],
    seed: int,
) -> dict[str, list[Prediction]]:
    """Returns the predictions of each baseline of `names`; one that cannot be made is left out with a sentence.

    Args:
        names: of `config.BASELINES`.
        spans: what the model trained on.
        held_out: codes that no baseline may know by their terms.
    """

    def fit(name: str) -> Lookup | Majority | Tfidf:
        if name == 'lookup':
            return fit_lookup(training, spans)
        if name == 'lookup_terms':
            if all(document.language != 'en' for document in gold):
                raise UserError('the terms of the release are English and the documents are not')
            known = {code for document in training for code in document.codes}
            return fit_lookup(training, [*spans, *release_terms(release, known, held_out)])
        if name == 'tfidf':
            if not is_available():
                raise UserError('scikit-learn is not installed; run "pip install ccl-jax[baselines]"')
            return fit_tfidf(training, seed=seed)
        return fit_majority(training)

    predictions = {}
    for name in names:
        try:
            system = fit(name)
        except UserError as error:
            say(f'the baseline {name} is left out: {error}')
            continue
        predictions[name] = [system.predict(document) for document in gold]
    return predictions
