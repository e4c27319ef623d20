"""Power laws of one variable: ``y = a·x^b``, and ``y = a·x^(−b) + c``, which levels off.

Fitted by the Huber loss of the log residuals, with bootstrap intervals; see :mod:`shoal.analysis.power_sum`.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from shoal.analysis.bootstrap import LEVEL, bootstrap, check_resampling, interval
from shoal.analysis.checks import (
    check_positive,
    clusters,
    condition_warnings,
    constant_warnings,
    count_distinct,
    exponent_warnings,
    size_warnings,
)
from shoal.analysis.columns import check_flags
from shoal.analysis.power_sum import DELTA, Array, PowerSum, check_delta
from shoal.errors import UserError

_NAMES = ("a", "b", "c")
_LEAST_SQUARES = 1e3  # a threshold that no log residual reaches: all residuals count by their squares


@dataclass(frozen=True)
class PowerLaw:
    """``y = a·x^b``, or ``y = a·x^(−b) + c`` where it saturates; numbers, or arrays of one shape for many laws."""

    a: float | Array
    b: float | Array
    c: float | Array
    saturating: bool

    def predict(self, x: float | Array) -> float | Array:
        """Predicted ``y`` at ``x``."""
        return self.a * x ** (-self.b if self.saturating else self.b) + self.c


@dataclass(frozen=True, eq=False)
class PowerLawFit:
    """Fitted power law with its resamples.

    Attributes:
        law: the estimate.
        resampled: the laws of the resamples, arrays of ``(resamples,)``.
        points: number of fitted points.
        warnings: warnings about the fit, one line each.
    """

    law: PowerLaw
    resampled: PowerLaw
    points: int
    warnings: tuple[str, ...]

    def estimates(self, level: float = LEVEL) -> pl.DataFrame:
        """Table of ``quantity``, ``estimate`` and the ends ``low`` and ``high`` of its percentile interval."""
        return estimates({n: (getattr(self.law, n), getattr(self.resampled, n)) for n in self._names}, level)

    def band(self, x: Array, level: float = LEVEL) -> pl.DataFrame:
        """Table of ``x``, ``y`` and the pointwise percentile interval ``low`` to ``high`` of the curve."""
        rows = [(v, self.law.predict(v), *interval(np.asarray(self.resampled.predict(v)), level)) for v in x.tolist()]
        return pl.DataFrame(rows, ["x", "y", "low", "high"], orient="row")

    @property
    def _names(self) -> tuple[str, ...]:
        return _NAMES if self.law.saturating else _NAMES[:2]


def estimates(quantities: dict[str, tuple[float | Array, float | Array]], level: float = LEVEL) -> pl.DataFrame:
    """Table of ``quantity``, ``estimate``, ``low`` and ``high`` from pairs of an estimate and its resamples."""
    rows = [(name, float(value), *interval(np.asarray(many), level)) for name, (value, many) in quantities.items()]
    return pl.DataFrame(rows, ["quantity", "estimate", "low", "high"], orient="row")


def fit_power_law(
    points: pl.DataFrame,
    x: str,
    y: str,
    *,
    saturating: bool = False,
    group: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    delta: float = DELTA,
) -> PowerLawFit:
    """Fit a power law to the points of a frame.

    Args:
        points: one row per point.
        x: the column of the variable (parameters, width, equations), positive.
        y: the column of the loss, positive.
        saturating: fit ``a·x^(−b) + c`` with ``b ≥ 0`` and ``c > 0`` instead of ``a·x^b``.
        group: the column of clusters, which are resampled whole; those of one ``x`` when not given.
        resamples: number of bootstrap resamples; 0 for none, and then the intervals are NaN.
        seed: seed of the resampling.
        delta: threshold of the Huber loss, in log residuals, from 1e-9 to 1,000; the largest is least squares.

    Raises:
        UserError: a column is missing, a value is not a positive number, or there are fewer than 2 distinct values of
            ``x`` (3 where it saturates), or no more points than parameters.
    """
    check_positive(points, [x, y])
    check_resampling(resamples, seed)
    check_flags(saturating=saturating)
    check_delta(delta, _LEAST_SQUARES)
    saturating = bool(saturating)
    ordered = points.sort(x, y)  # so that the order of the rows changes nothing
    xs, ys = (ordered[name].cast(pl.Float64).to_numpy() for name in (x, y))
    fewest, distinct = (3, count_distinct(xs)) if saturating else (2, count_distinct(xs))
    if len(ordered) <= fewest or distinct < fewest:
        raise UserError(
            f"a power law of {fewest} parameters needs more than {fewest} points at {fewest} or more values of {x} "
            f"that are at least 1 % apart, got {len(ordered)} point{'s' * (len(ordered) != 1)} at {distinct}"
        )
    problem = PowerSum.of(xs[:, None], ys, constant=saturating, delta=delta)
    law = _law(problem, problem.best)
    resampled = _law(problem, bootstrap(problem, clusters(ordered, group, [x]), resamples, seed))
    return PowerLawFit(law, resampled, len(ordered), tuple(_warnings(problem, law, resampled)))


def _law(problem: PowerSum, theta: Array) -> PowerLaw:
    c, A, exponents = problem.natural(theta)
    b = exponents[..., 0] if problem.constant else -exponents[..., 0]
    return PowerLaw(A[..., 0], b, c, problem.constant)


def _warnings(problem: PowerSum, law: PowerLaw, resampled: PowerLaw) -> list[str]:
    if not problem.constant:
        return []
    (a_low, a_high), (b_low, _), (c_low, _) = (interval(np.asarray(getattr(resampled, name))) for name in _NAMES)
    return [
        *exponent_warnings("b", float(law.b), b_low),
        *constant_warnings("c", float(law.c), c_low, float(np.exp(problem.y.min()))),
        *size_warnings("a", a_low, a_high),
        *condition_warnings(problem.jacobian(problem.best)),
    ]
