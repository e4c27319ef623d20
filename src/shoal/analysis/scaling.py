"""Scaling law ``L(N, D)`` fitted to training runs: estimates, intervals, outliers, warnings, held-out error.

Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", approach 3; Besiroglu et al. 2024,
"Chinchilla Scaling: A replication attempt", for the bootstrap over runs and for how much a few outliers weigh.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.bootstrap import check_resampling
from shoal.analysis.checks import (
    MOST_CORRELATION,
    MOST_SCORE,
    check_positive,
    clusters,
    count_distinct,
    scores,
)
from shoal.analysis.columns import check_flags, is_number
from shoal.analysis.held_out import HeldOut, hold_out
from shoal.analysis.law_estimate import Estimate, estimate
from shoal.analysis.power_sum import DELTA, Array, PowerSum, check_delta
from shoal.analysis.scaling_law import FLOP_PER_PARAMETER_AND_TOKEN, LawForm, law_of
from shoal.errors import UserError

_FEW_VALUES = 5
_FEW_CLUSTERS = 10
_ROUNDING = 1e-6  # share by which a product may leave the range of the runs
_ROUNDS = 10
_SETTING = ("parameters", "tokens")
_MOST_OUTLIERS = 0.2  # share of the runs


@dataclass(frozen=True, eq=False)
class ScalingFit:
    """Fitted scaling law, with its outliers, held-out error and warnings.

    Attributes:
        every: estimate from all runs.
        without: estimate from all but the outliers; ``None`` where there are none.
        dropped: true where conclusions are drawn without the outliers.
        runs: one row per run, in the order given: ``row`` (counted from 1), ``parameters``, ``tokens``, ``flop``,
            ``loss``, ``predicted`` by the chosen estimate, ``residual`` (logarithm of observed over predicted),
            ``score`` and ``outlier``.
        held_out: the error beyond the fitted compute; ``None`` where no runs could be held out.
        form: form of the law, which names the fitted parameters.
        group: the column of clusters, which were resampled whole; ``None`` for runs of one N and D.
        warnings: warnings about the runs and the chosen estimate, one line each.
    """

    every: Estimate
    without: Estimate | None
    dropped: bool
    runs: pl.DataFrame
    held_out: HeldOut | None
    form: LawForm
    group: str | None
    warnings: tuple[str, ...]

    @property
    def chosen(self) -> Estimate:
        """Estimate that conclusions are drawn from."""
        return self.without if self.dropped and self.without is not None else self.every

    def extrapolation(self, parameters: float, tokens: float) -> dict[str, float]:
        """Extrapolation of the chosen estimate to a model's size and data, as factors outside the range of its runs.

        Returns:
            For those of N, D, C and D/N that are outside the range: multiple of the runs' largest (above 1) or
            smallest (below 1) value.
        """
        N, D = _sizes(self.runs.filter(~pl.col("outlier")) if self.dropped else self.runs).T
        of_runs = {"N": N, "D": D, "C": N * D, "D/N": D / N}
        asked = {"N": parameters, "D": tokens, "C": parameters * tokens, "D/N": tokens / parameters}
        out = {}
        for name, value in asked.items():
            above, below = value / of_runs[name].max(), value / of_runs[name].min()
            if above > 1 + _ROUNDING or below < 1 - _ROUNDING:
                out[name] = float(above if above > 1 else below)
        return out


def fit_scaling(
    runs: pl.DataFrame,
    *,
    group: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    holdout: float = 0.2,
    drop_outliers: bool = False,
    delta: float = DELTA,
    tied: bool = False,
    irreducible: float | None = None,
) -> ScalingFit:
    """Fit ``L(N, D) = E + A·N^(−α) + B·D^(−β)`` by the Huber loss of the log residuals.

    The same form is fitted everywhere: to all runs and without the outliers, to each resample, and to the runs below
    those held out.

    Args:
        runs: one row per training run: ``parameters`` (N), ``tokens`` (D) and ``loss``, all positive.
        group: the column of clusters, which are resampled whole; runs of one N and D when not given.
        resamples: number of bootstrap resamples; 0 for none, and then the intervals are NaN.
        seed: seed of the resampling.
        holdout: share of the runs, those of the largest compute, that the held-out error is taken over.
        drop_outliers: draw conclusions without the outliers. They are listed, and the law is fitted with and
            without them, either way.
        delta: threshold of the Huber loss, in log residuals, from 1e-9 to 1; smaller residuals count by their squares.
        tied: fit one exponent, ``α = β``.
        irreducible: hold ``E`` at this value, from 0 to below the largest loss.

    Raises:
        UserError: a column is missing, a value is not a positive number, or the runs are too few or too alike.
    """
    check_positive(runs, ["parameters", "tokens", "loss"])
    check_resampling(resamples, seed)
    check_flags(drop_outliers=drop_outliers, tied=tied)
    if not is_number(holdout) or not 0 < holdout <= 0.5:
        raise UserError(f"holdout must be above 0 and at most 0.5, got {holdout!r:.60}")
    frame = _ordered(runs)
    form = _checked_form(tied, irreducible, delta, frame)
    _check_spread(frame, form)
    all_runs = _points(frame, form)
    outlier, score, others = find_outliers(frame, all_runs, form)
    every = estimate(all_runs, form, clusters(frame, group, _SETTING), resamples, seed)
    without = None
    if outlier.any():
        without = estimate(others, form, clusters(frame.filter(~outlier), group, _SETTING), resamples, seed)
    dropped = drop_outliers and without is not None
    used = frame.filter(~outlier) if dropped else frame
    held_out = hold_out(used, holdout, form)
    chosen = without if dropped and without is not None else every
    few = _cluster_warnings(chosen) if resamples else []
    warnings = (*_outlier_warnings(outlier, score, dropped), *_run_warnings(used), *few, *chosen.warnings)
    if held_out is None:
        warnings += ("no held-out error: too few runs, or too few different ones, lie below the largest compute",)
    else:
        warnings += held_out.warnings
    predicted = np.asarray(chosen.law.loss(*_sizes(frame).T))
    residual = np.log(frame["loss"].to_numpy() / predicted)
    columns = {"predicted": predicted, "residual": residual, "score": score, "outlier": outlier}
    described = frame.with_columns(pl.Series(name, values) for name, values in columns.items()).sort("row")
    return ScalingFit(every, without, dropped, described, held_out, form, group, warnings)


def find_outliers(frame: pl.DataFrame, all_runs: PowerSum, form: LawForm) -> tuple[NDArray[np.bool_], Array, PowerSum]:
    """Outliers: runs that the law of the other runs does not describe.

    A run is an outlier where its log residual, standardised by the median absolute deviation, is beyond
    :data:`shoal.analysis.checks.MOST_SCORE`. Outliers pull the law to themselves and so hide each other; therefore the
    law is fitted again without them and every run is judged again, until nothing changes.

    Returns:
        Mask of the outliers, the score of each run under the law of the others, and the runs to fit. No run counts as
        an outlier where more than a fifth of the runs would: then the law is wrong rather than the runs.
    """
    none = np.zeros(len(frame), dtype=bool)
    used, points = ~none, all_runs
    sizes, losses = _sizes(frame), frame["loss"].to_numpy()
    for _ in range(_ROUNDS):
        score = scores(np.log(losses / np.asarray(law_of(points, points.best).loss(*sizes.T))), used)
        inside = np.abs(score) <= MOST_SCORE
        if (inside == used).all():
            break
        if (~inside).mean() > _MOST_OUTLIERS or _too_few(frame.filter(inside), form):
            return none, score, all_runs
        used = inside
        points = _points(frame.filter(used), form)
    return ~used, score, points


def _points(frame: pl.DataFrame, form: LawForm) -> PowerSum:
    return form.of(_sizes(frame), frame["loss"].to_numpy())


def _ordered(runs: pl.DataFrame) -> pl.DataFrame:
    """Runs with ``row`` and ``flop``, by rising compute, so that the order of the rows changes nothing."""
    sizes = [pl.col(name).cast(pl.Float64) for name in ("parameters", "tokens", "loss")]
    flop = (FLOP_PER_PARAMETER_AND_TOKEN * pl.col("parameters") * pl.col("tokens")).alias("flop")
    numbered = runs if "row" in runs.columns else runs.with_row_index("row", offset=1)
    return numbered.with_columns(sizes).with_columns(flop).sort("flop", "parameters", "loss")


def _sizes(frame: pl.DataFrame) -> Array:
    """Parameters and tokens of the runs, ``(n, 2)``."""
    return frame.select("parameters", "tokens").to_numpy()


def _checked_form(tied: bool, irreducible: float | None, delta: float, frame: pl.DataFrame) -> LawForm:
    check_delta(delta, most=1)
    E, largest = irreducible, float(frame["loss"].to_numpy().max(initial=0.0))
    if E is not None and (not is_number(E) or not 0 <= E < largest):
        raise UserError(f"irreducible must be at least 0 and below the largest loss, {largest:g}, got {E!r:.60}")
    return LawForm(bool(tied), None if E is None else float(E), float(delta))


def _check_spread(frame: pl.DataFrame, form: LawForm) -> None:
    if problem := _too_few(frame, form):
        raise UserError(problem)
    if frame["loss"].n_unique() == 1:
        raise UserError(f"the loss of all runs is {frame['loss'][0]:g}: there is nothing to fit")


def _too_few(frame: pl.DataFrame, form: LawForm) -> str:
    """Reason why the runs cannot determine the law; empty where they can.

    Runs at ``n`` values of N and ``d`` of D, even at all pairs, give ``n + d − 1`` independent numbers for a sum of a
    term in N and one in D. With E and both exponents free each term needs two differences of its own.
    """
    if len(frame) <= form.parameters:
        return f"a law of {form.parameters} parameters needs at least {form.parameters + 1} runs, got {len(frame)}"
    distinct = [count_distinct(frame[name].to_numpy()) for name in _SETTING]
    fewest = 3 if form.parameters == 5 else 2
    for name, values in zip(_SETTING, distinct, strict=True):
        if values < fewest:
            return (
                f"the law needs {fewest} or more values of {name} that are at least 1 % apart, got {values}: "
                "with fewer its term cannot be separated from the others"
            )
    if sum(distinct) - 1 < form.parameters:
        return (
            f"a law of {form.parameters} parameters cannot be determined from {distinct[0]} values of parameters and "
            f"{distinct[1]} of tokens: one of them needs {form.parameters + 1 - min(distinct)} or more, 1 % apart"
        )
    return ""


def _outlier_warnings(outlier: NDArray[np.bool_], score: Array, dropped: bool) -> list[str]:
    beyond = int((np.abs(score) > MOST_SCORE).sum())
    if beyond > _MOST_OUTLIERS * len(score):
        return [
            f"{beyond} of {len(score)} runs have a standardised log residual beyond ±{MOST_SCORE:g}, too many to be "
            "outliers: the law does not describe these runs"
        ]
    if outlier.any():
        fate = "they are left out" if dropped else "they are kept"
        return [
            f"{outlier.sum()} of {len(outlier)} runs are outliers (standardised log residual beyond ±{MOST_SCORE:g}): "
            f"{fate}, and both fits are shown"
        ]
    return []


def _cluster_warnings(chosen: Estimate) -> list[str]:
    if chosen.clusters == 1:
        return ["all runs are of one cluster: there is nothing to draw from, and no interval"]
    if chosen.clusters < _FEW_CLUSTERS:
        return [f"intervals are of {chosen.clusters} clusters: of fewer than {_FEW_CLUSTERS} they are too narrow"]
    return []


def _run_warnings(used: pl.DataFrame) -> list[str]:
    out = []
    correlation = float(np.corrcoef(np.log(_sizes(used)), rowvar=False)[0, 1])
    if abs(correlation) > MOST_CORRELATION:
        out.append(
            f"log N and log D are collinear (correlation {correlation:.4f}): these runs cannot separate the effect of "
            "size from that of data"
        )
    repeated = len(used) - used.n_unique([*_SETTING, "loss"])
    if repeated:
        out.append(
            f"{repeated} of {len(used)} runs repeat the parameters, tokens and loss of another: runs that are listed "
            "twice count twice"
        )
    for name in _SETTING:
        distinct = count_distinct(used[name].to_numpy())
        if distinct < _FEW_VALUES:
            out.append(f"only {distinct} values of {name} are 1 % apart or more: its exponent rests on few differences")
    return out
