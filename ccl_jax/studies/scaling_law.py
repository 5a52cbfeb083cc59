"""Scaling laws: loss against parameters and training tokens, and what the fit says of runs not made.

The law is L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, arXiv 2203.15556, eq. 10), fitted as
there by least Huber loss between the logarithms, the best of a grid of starts.
"""

import dataclasses
import itertools
from collections.abc import Sequence

import numpy as np
from scipy.optimize import least_squares

from ccl_jax.errors import UserError

# Residuals of the logarithm beyond this count as outliers (section 3.3 of the paper).
_HUBER = 1e-3
_STARTS = (np.log([0.03, 0.5]), np.log([1.0, 100.0]), np.log([1.0, 100.0]), [0.3], [0.3])
_LEAST_POINTS = 6


@dataclasses.dataclass(frozen=True)
class Point:
    """What one run measured.

    Attributes:
        name: of the run.
        parameters: N.
        tokens: D, that the training processed.
        flops: that it took.
        loss: at its end, on texts that it was not trained on.
    """

    name: str
    parameters: float
    tokens: float
    flops: float
    loss: float


@dataclasses.dataclass(frozen=True)
class Law:
    """L(N, D) = E + A / N^alpha + B / D^beta."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float

    def loss(self, parameters: float | np.ndarray, tokens: float | np.ndarray) -> np.ndarray:
        return self.E + self.A * np.power(parameters, -self.alpha) + self.B * np.power(tokens, -self.beta)


def fit_law(points: Sequence[Point]) -> Law:
    """Fits the law.

    Raises:
        UserError: there are fewer points than can say anything, or they do not differ in both sizes.
    """
    sizes, tokens = {point.parameters for point in points}, {point.tokens for point in points}
    if len(points) < _LEAST_POINTS or len(sizes) < 2 or len(tokens) < 2:
        raise UserError(
            f'a law needs at least {_LEAST_POINTS} finished runs of at least 2 model sizes and 2 data sizes; there are '
            f'{len(points)} runs of {len(sizes)} and {len(tokens)}; finish more runs of the grid'
        )
    fits = [_fit_from(points, np.asarray(start)) for start in itertools.product(*_STARTS)]
    return _law(min(fits, key=lambda fit: fit.cost).x)


def bootstrap_laws(points: Sequence[Point], law: Law, samples: int = 200, seed: int = 0) -> list[Law]:
    """Fits the law to points with the residuals of `law` drawn anew (of the logarithm, with replacement).

    Runs of a grid are no random sample, so the residuals are drawn and not the runs.
    """
    predicted = np.log([float(law.loss(point.parameters, point.tokens)) for point in points])
    residuals = np.log([point.loss for point in points]) - predicted
    # As many degrees of freedom as the law has are used up by the fit.
    residuals *= np.sqrt(len(points) / max(1, len(points) - len(dataclasses.fields(Law))))
    random = np.random.default_rng(seed)
    start = np.array([*np.log([max(law.E, 1e-6), law.A, law.B]), law.alpha, law.beta])
    laws = []
    for _ in range(samples):
        losses = np.exp(predicted + random.choice(residuals, len(points)))
        drawn = [dataclasses.replace(point, loss=float(loss)) for point, loss in zip(points, losses, strict=True)]
        laws.append(_law(_fit_from(drawn, start).x))
    return laws


def interval(values: Sequence[float]) -> tuple[float, float]:
    """Returns the 2.5th and the 97.5th percentile."""
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)


@dataclasses.dataclass(frozen=True)
class Prediction:
    """A loss that the law gives beforehand, with the 95 % interval of the fit."""

    parameters: float
    tokens: float
    loss: float
    low: float
    high: float


def predict(law: Law, drawn: Sequence[Law], parameters: float, tokens: float) -> Prediction:
    low, high = interval([float(other.loss(parameters, tokens)) for other in drawn])
    return Prediction(parameters, tokens, float(law.loss(parameters, tokens)), low, high)


@dataclasses.dataclass(frozen=True)
class CostModel:
    """FLOPs of a training: `scale` * N^`exponent` for each token, from the runs' own ledgers."""

    scale: float
    exponent: float

    def tokens(self, flops: float, parameters: float | np.ndarray) -> np.ndarray:
        """How many tokens a model of N parameters is trained on for so many FLOPs."""
        return flops / (self.scale * np.power(parameters, self.exponent))


def fit_cost(points: Sequence[Point]) -> CostModel:
    """Fits FLOPs per token against parameters: a straight line between the logarithms."""
    exponent, offset = np.polyfit(
        np.log([point.parameters for point in points]), np.log([point.flops / point.tokens for point in points]), 1
    )
    return CostModel(float(np.exp(offset)), float(exponent))


def iso_cost(law: Law, cost: CostModel, flops: float, parameters: np.ndarray) -> np.ndarray:
    """Returns the loss of models of these sizes, each trained for the same FLOPs."""
    return law.loss(parameters, cost.tokens(flops, parameters))


def best_size(law: Law, cost: CostModel, flops: float, low: float, high: float) -> float:
    """Returns the number of parameters in [low, high] whose loss is least for these FLOPs."""
    sizes = np.geomspace(low, high, 2001)
    return float(sizes[np.argmin(iso_cost(law, cost, flops, sizes))])


def _fit_from(points: Sequence[Point], start: np.ndarray):
    log_parameters = np.log([point.parameters for point in points])
    log_tokens = np.log([point.tokens for point in points])
    log_losses = np.log([point.loss for point in points])

    def terms(x: np.ndarray) -> np.ndarray:
        """Logarithms of the three terms of the law, [3, points]."""
        e, a, b, alpha, beta = x
        return np.stack([np.full_like(log_losses, e), a - alpha * log_parameters, b - beta * log_tokens])

    def residuals(x: np.ndarray) -> np.ndarray:
        return np.logaddexp.reduce(terms(x)) - log_losses

    def jacobian(x: np.ndarray) -> np.ndarray:
        shares = np.exp(terms(x) - np.logaddexp.reduce(terms(x)))
        return np.column_stack([*shares, -shares[1] * log_parameters, -shares[2] * log_tokens])

    bounds = ([-20.0, -20.0, -20.0, 0.0, 0.0], [20.0, 60.0, 60.0, 5.0, 5.0])
    return least_squares(residuals, start, jacobian, bounds=bounds, loss='huber', f_scale=_HUBER, max_nfev=200)


def _law(x: np.ndarray) -> Law:
    e, a, b, alpha, beta = map(float, x)
    return Law(float(np.exp(e)), float(np.exp(a)), float(np.exp(b)), alpha, beta)
