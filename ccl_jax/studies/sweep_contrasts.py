"""Contrasts of a sweep: sums and differences of its arms' metrics, with the intervals of the table.

Over seeds it is Student's t, of the sums of the seeds that all named arms have; over documents, the bootstrap of the
sum of the arms' means over these seeds, in which all arms share the resamples.
"""

import dataclasses
from collections.abc import Mapping, Sequence

from ccl_jax.evaluation.bootstrap import Estimate, combined_bootstrap
from ccl_jax.studies.sweep_config import Sweep, Term
from ccl_jax.studies.sweep_result import UNDEFINED, Result
from ccl_jax.studies.sweep_table import (
    SAMPLES,
    by_seed,
    can_be_resampled,
    cell,
    check_metrics,
    columns,
    mean_statistics,
    over_seeds,
    to_csv_text,
    to_table,
)


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One contrast.

    Attributes:
        seeds: those that all its arms have.
        over_seeds: the mean of its value in each of them.
        over_documents: the same with its interval over documents; undefined where documents alone do not decide.
    """

    name: str
    terms: tuple[Term, ...]
    seeds: tuple[int, ...]
    over_seeds: Estimate
    over_documents: Estimate

    @property
    def formula(self) -> str:
        return ' '.join(f'{"+" if term.sign > 0 else "-"} {term.arm} {term.metric}' for term in self.terms)


def gather_contrasts(sweep: Sweep, results: Sequence[Result]) -> list[Contrast]:
    """Returns the contrasts of the sweep, undefined ones too.

    Raises:
        UserError: no run has a metric that a contrast names, or arms were evaluated on different documents.
    """
    check_metrics((term.metric for terms in sweep.contrasts.values() for term in terms), results)
    arms = by_seed(sweep, results)
    return [_contrast(name, terms, arms) for name, terms in sweep.contrasts.items()]


def contrasts_to_markdown(contrasts: Sequence[Contrast]) -> str:
    lines = [[c.name, c.formula, str(len(c.seeds)), cell(c.over_seeds, c.over_documents, '+.3f')] for c in contrasts]
    return to_table(['contrast', 'of', 'seeds', 'value'], lines) + '\n'


def contrasts_to_csv(contrasts: Sequence[Contrast]) -> str:
    return to_csv_text(
        {'contrast': contrast.name, 'of': contrast.formula, 'seeds': ' '.join(map(str, contrast.seeds))}
        | columns('value', contrast.over_seeds)
        | {'documents_low': contrast.over_documents.low, 'documents_high': contrast.over_documents.high}
        for contrast in contrasts
    )


def _contrast(name: str, terms: tuple[Term, ...], arms: Mapping[str, Mapping[int, Result]]) -> Contrast:
    seeds = [seed for seed in arms[terms[0].arm] if all(seed in arms[term.arm] for term in terms)]
    values = []
    for seed in seeds:
        signed = [t.sign * value for t in terms if (value := arms[t.arm][seed].value(t.metric)) is not None]
        if len(signed) == len(terms):
            values.append(sum(signed))
    return Contrast(name, terms, tuple(seeds), over_seeds(values), _over_documents(terms, seeds, arms))


def _over_documents(terms: Sequence[Term], seeds: Sequence[int], arms: Mapping[str, Mapping[int, Result]]) -> Estimate:
    if not seeds or not all(can_be_resampled(term.metric) for term in terms):
        return UNDEFINED
    means = []
    for term in terms:
        part, _, metric = term.metric.rpartition('.')
        means.append((term.sign, metric, mean_statistics([arms[term.arm][seed] for seed in seeds], part)))
    return combined_bootstrap(means, seed=0, samples=SAMPLES)
