"""How well a scaling law predicts runs of more compute than it was fitted to."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.power_law import fit_power_law
from shoal.analysis.power_sum import Array, PowerSum
from shoal.errors import UserError

LAW, POWER, MEAN = "L(N, D)", "power law in C", "mean"
_FEWEST_FITTED = 6


@dataclass(frozen=True, eq=False)
class HeldOut:
    """The error of the law beyond the compute it was fitted to, beside two that know less.

    Attributes:
        flop: the largest compute that was fitted.
        errors: ``predictor`` (the law, a power law of loss in compute, the mean of log loss), ``fitted`` and
            ``held_out``: root mean square error of log loss.
        residuals: ``row``, ``flop``, ``predictor``, ``part`` (fitted or held out) and ``residual`` (logarithm of
            observed over predicted).
        fitted: how many runs were fitted.
        held_out: how many were predicted.
    """

    flop: float
    errors: pl.DataFrame
    residuals: pl.DataFrame
    fitted: int
    held_out: int


def hold_out(runs: pl.DataFrame, share: float, delta: float) -> HeldOut | None:
    """Fit to the runs of smaller compute and predict the rest.

    Args:
        runs: ``row``, ``parameters``, ``tokens``, ``flop`` and ``loss``, by rising compute.
        share: of the runs that is held out. Runs of equal compute stay together, on the fitted side.
        delta: of the Huber loss.

    Returns:
        ``None`` where fewer than 6 runs would be fitted, or none held out, or all fitted are of one compute.
    """
    flop = runs["flop"].to_numpy()
    cut = float(flop[max(0, int(np.ceil(len(flop) * (1 - share))) - 1)])
    below = flop <= cut * (1 + 1e-9)  # equal budgets, up to rounding
    if below.all() or below.sum() < _FEWEST_FITTED:
        return None
    part = runs.filter(below)
    logs = np.log(runs["loss"].to_numpy())
    try:
        power = fit_power_law(part, "flop", "loss", resamples=0, delta=delta).law
    except UserError:
        return None
    predictions = {
        LAW: _predict(part, runs, delta),
        POWER: np.log(np.asarray(power.predict(flop))),
        MEAN: np.full(len(runs), logs[below].mean()),
    }
    errors = [(name, _rms(logs - p, below), _rms(logs - p, ~below)) for name, p in predictions.items()]
    parts = pl.Series("part", np.where(below, "fitted", "held out"))
    residuals = [
        runs.select("row", "flop").with_columns(pl.lit(name).alias("predictor"), parts, pl.Series("residual", logs - p))
        for name, p in predictions.items()
    ]
    return HeldOut(
        flop=cut,
        errors=pl.DataFrame(errors, ["predictor", "fitted", "held_out"], orient="row"),
        residuals=pl.concat(residuals),
        fitted=int(below.sum()),
        held_out=int((~below).sum()),
    )


def _predict(part: pl.DataFrame, runs: pl.DataFrame, delta: float) -> Array:
    """Logarithms of the losses of ``runs`` under the law fitted to ``part``."""
    sizes = ["parameters", "tokens"]
    fitted = PowerSum.of(part.select(sizes).to_numpy(), part["loss"].to_numpy(), delta=delta)
    rest = np.log(runs.select(sizes).to_numpy()) - fitted.centre
    return PowerSum(rest, fitted.centre, np.zeros(len(rest))).log_prediction(fitted.best)


def _rms(residuals: Array, chosen: NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.mean(residuals[chosen] ** 2)))
