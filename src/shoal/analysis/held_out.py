"""Held-out error of a scaling law: prediction of runs of more compute than those it was fitted to."""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.power_law import fit_power_law
from shoal.analysis.power_sum import Array
from shoal.analysis.scaling_law import LawForm, law_of
from shoal.errors import UserError

LAW, POWER, MEAN = "L(N, D)", "power law in C", "mean"
FREE = "all fitted"  # the law whose five parameters are


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Error of the law beyond the compute it was fitted to, beside simpler predictors.

    Attributes:
        flop: the largest compute that was fitted.
        errors: ``predictor`` (the law, the law of the form beside it, a power law of loss in compute, the mean of log
            loss), ``fitted`` and ``held_out``: root mean square error of log loss.
        residuals: ``row``, ``flop``, ``predictor``, ``part`` (fitted or held out) and ``residual`` (logarithm of
            observed over predicted).
        fitted: number of fitted runs.
        held_out: number of predicted runs.
    """

    flop: float
    errors: pl.DataFrame
    residuals: pl.DataFrame
    fitted: int
    held_out: int

    def error(self, predictor: str) -> float:
        """Root mean square error of log loss of a predictor on the held-out runs."""
        return float(self.errors.filter(pl.col("predictor") == predictor)["held_out"].item())

    @property
    def warnings(self) -> tuple[str, ...]:
        """Warning where the law predicts runs of more compute no better than a constant does."""
        law, mean = self.error(LAW), self.error(MEAN)
        if law < mean:
            return ()
        return (
            f"the law's error on the {self.held_out} runs held out ({law:.2g}, root mean square of log loss) is not "
            f"below that of the mean of the others, a constant ({mean:.2g}): the law says nothing of runs of more "
            "compute",
        )


def hold_out(runs: pl.DataFrame, share: float, form: LawForm) -> HeldOut | None:
    """Held-out error of a law fitted to the runs of smaller compute.

    Args:
        runs: ``row``, ``parameters``, ``tokens``, ``flop`` and ``loss``, by rising compute.
        share: share of the runs that is held out. Runs of equal compute stay together, on the fitted side.
        form: form of the law.

    Returns:
        ``None`` where no more runs would be fitted than the law has parameters, or none held out, or all fitted are of
        one compute.
    """
    flop = runs["flop"].to_numpy()
    cut = float(flop[max(0, int(np.ceil(len(flop) * (1 - share))) - 1)])
    below = flop <= cut * (1 + 1e-9)  # equal budgets, up to rounding
    if below.all() or below.sum() <= form.parameters:
        return None
    part = runs.filter(below)
    logs = np.log(runs["loss"].to_numpy())
    try:
        power = fit_power_law(part, "flop", "loss", resamples=0, delta=form.delta).law
    except UserError:
        return None
    predictions = {LAW: _predict(part, runs, form)}
    other = form.beside
    if len(part) > other.parameters:
        predictions[other.said or FREE] = _predict(part, runs, other)
    predictions |= {
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


def _predict(part: pl.DataFrame, runs: pl.DataFrame, form: LawForm) -> Array:
    """Logarithms of the losses of ``runs`` under the law fitted to ``part``."""
    fitted = form.of(part.select("parameters", "tokens").to_numpy(), part["loss"].to_numpy())
    law = law_of(fitted, fitted.best)
    predicted: Array = np.log(law.loss(runs["parameters"].to_numpy(), runs["tokens"].to_numpy()))
    return predicted


def _rms(residuals: Array, chosen: NDArray[np.bool_]) -> float:
    return float(np.sqrt(np.mean(residuals[chosen] ** 2)))
