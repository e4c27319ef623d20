"""Estimate of the scaling law from one set of runs, its bootstrap, and the optimum and predictions from both."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.bootstrap import LEVEL, bootstrap, interval
from shoal.analysis.checks import condition_warnings, constant_warnings, exponent_warnings, size_warnings
from shoal.analysis.columns import as_float, is_number
from shoal.analysis.power_law import estimates
from shoal.analysis.power_sum import Array, PowerSum
from shoal.analysis.scaling_law import LawForm, ScalingLaw, law_of
from shoal.errors import UserError

_QUANTITIES = ("E", "A", "B", "alpha", "beta", "a", "b")
_MOST_RESIDUALS, _MOST_LAWS = 200, 10_000  # of which the losses of one more run are made; quantiles of more residuals


@dataclass(frozen=True, eq=False)
class Estimate:
    """Scaling law of one set of runs, with its resamples.

    Attributes:
        law: the estimate.
        resampled: the laws of the resamples, arrays of ``(resamples,)``.
        residuals: ``(runs,)``, logarithms of observed over predicted loss.
        form: form of the law, which names the fitted parameters.
        objective: the sum of the Huber losses.
        clusters: number of clusters of runs that the resamples are drawn from.
        warnings: parameters that the runs do not determine, one line each.
    """

    law: ScalingLaw
    resampled: ScalingLaw
    residuals: Array
    form: LawForm
    objective: float
    clusters: int
    warnings: tuple[str, ...]

    @property
    def runs(self) -> int:
        """Number of fitted runs."""
        return len(self.residuals)

    def estimates(self, level: float = LEVEL) -> pl.DataFrame:
        """Table of ``quantity`` (E, A, B, α, β, exponents a and b), ``estimate``, ``low`` and ``high``."""
        return estimates({n: (getattr(self.law, n), getattr(self.resampled, n)) for n in _QUANTITIES}, level)

    def optimum(self, budgets: Iterable[float], level: float = LEVEL) -> pl.DataFrame:
        """Compute-optimal parameters and tokens for each budget, in floating-point operations.

        Returns:
            ``flop``, ``parameters``, ``tokens`` and ``loss``, the first two with ``_low`` and ``_high``.

        Raises:
            UserError: a budget is not a finite number above 0.
        """
        budgets, rows = _positive("a budget", budgets), []
        for flop in budgets:
            N, D = self.law.optimum(flop)
            row: dict[str, Any] = {"flop": flop}
            for name, value, many in zip(("parameters", "tokens"), (N, D), self.resampled.optimum(flop), strict=True):
                low, high = interval(np.asarray(many), level)
                row |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
            rows.append(row | {"loss": float(self.law.loss(N, D))})
        return pl.DataFrame(rows)

    def predict(self, sizes: Iterable[Sequence[float]], level: float = LEVEL) -> pl.DataFrame:
        """Predicted loss at given parameters and tokens.

        Two intervals, both under the assumption that the law has this form. The interval of the law covers its own
        value, which is uncertain because its parameters are. The interval of a run covers the loss of one more run: the
        log residuals of the fitted runs, times ``√(n / (n − p))`` because a fit to ``n`` runs with ``p`` parameters
        makes them too small, are added to the logarithm of the law of each resample. Source: Davison and Hinkley 1997,
        "Bootstrap Methods and their Application", chapter 6.

        Returns:
            ``parameters``, ``tokens``, ``loss``, ``low`` and ``high`` of the law, ``run_low`` and ``run_high`` of one
            run; intervals are NaN without resamples.

        Raises:
            UserError: a number of parameters or tokens is not a finite number above 0.
        """
        pairs = [_positive("parameters and tokens", size) for size in sizes]
        if any(len(pair) != 2 for pair in pairs):
            raise UserError("sizes must be pairs of parameters and tokens")
        spread = np.exp(self._residual_quantiles())
        rows = []
        for N, D in pairs:
            many = np.asarray(self.resampled.loss(N, D))  # (resamples,)
            of_runs = np.outer(many[:_MOST_LAWS], spread).ravel()
            ends = (*interval(many, level), *interval(of_runs, level))
            rows.append((float(N), float(D), float(self.law.loss(N, D)), *ends))
        names = ["parameters", "tokens", "loss", "low", "high", "run_low", "run_high"]
        return pl.DataFrame(rows, dict.fromkeys(names, pl.Float64), orient="row")

    def _residual_quantiles(self) -> Array:
        m = min(self.runs, _MOST_RESIDUALS)
        within = np.quantile(self.residuals, (np.arange(m) + 0.5) / m, method="hazen")  # all of them where they are few
        return np.asarray(within * np.sqrt(self.runs / max(self.runs - self.form.parameters, 1)))


def _positive(what: str, values: Iterable[float]) -> list[float]:
    """The values as floats; :class:`UserError` where one is not finite and above 0."""
    if not isinstance(values, Iterable):
        raise UserError(f"{what} must stand in a list, got {values!r:.60}")
    out = []
    for value in values:
        out.append(as_float(value) if is_number(value) else math.nan)
        if not 0 < out[-1] < math.inf:
            raise UserError(f"{what} must be finite and above 0, got {value!r:.60}")
    return out


def estimate(points: PowerSum, form: LawForm, member: NDArray[np.int64], resamples: int, seed: int) -> Estimate:
    """Estimate of the law from points of this form, with resamples of their clusters ``member``, ``(n,)``."""
    law = law_of(points, points.best)
    resampled = law_of(points, bootstrap(points, member, resamples, seed))
    residuals = points.y - points.log_prediction(points.best)
    objective = points.delta * points.objective(points.best)[0]
    warnings = tuple(_warnings(points, form, law, resampled))
    return Estimate(law, resampled, residuals, form, objective, int(member.max()) + 1, warnings)


def _warnings(points: PowerSum, form: LawForm, law: ScalingLaw, resampled: ScalingLaw) -> list[str]:
    ends = {name: interval(np.asarray(getattr(resampled, name))) for name in _QUANTITIES}
    warnings = exponent_warnings("α = β" if form.tied else "α", float(law.alpha), ends["alpha"][0])
    if not form.tied:
        warnings += exponent_warnings("β", float(law.beta), ends["beta"][0])
    if form.irreducible is None:
        warnings += constant_warnings("E", float(law.E), ends["E"][0], float(np.exp(points.y.min())))
    below = int((np.exp(points.y) <= (form.irreducible or 0.0)).sum())
    if below:
        warnings.append(
            f"{below} of {len(points.y)} runs have a loss of at most E = {form.irreducible:g}, which the law exceeds "
            "everywhere"
        )
    return [
        *warnings,
        *size_warnings("A", *ends["A"]),
        *size_warnings("B", *ends["B"]),
        *condition_warnings(points.jacobian(points.best)),
    ]
