"""The scaling law ``L(N, D)`` fitted to training runs: estimates, intervals, outliers, warnings, held-out error.

Source: Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", approach 3; Besiroglu et al. 2024,
"Chinchilla Scaling: A replication attempt", for the bootstrap over runs and for how much a few outliers weigh.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.bootstrap import LEVEL, bootstrap, check_resampling, interval
from shoal.analysis.checks import (
    MOST_CORRELATION,
    MOST_SCORE,
    check_columns,
    clusters,
    condition_warnings,
    constant_warnings,
    count_distinct,
    exponent_warnings,
    scores,
    size_warnings,
)
from shoal.analysis.held_out import HeldOut, hold_out
from shoal.analysis.power_law import estimates
from shoal.analysis.power_sum import DELTA, Array, PowerSum
from shoal.analysis.scaling_law import FLOP_PER_PARAMETER_AND_TOKEN, ScalingLaw
from shoal.errors import UserError

FEWEST_RUNS = 6  # one more than there are parameters
FEWEST_VALUES = 3  # of N, and of D: two differences for a size and an exponent each
_FEW_VALUES = 5
_ROUNDS = 10
_MOST_OUTLIERS = 0.2  # share of the runs
_QUANTITIES = ("E", "A", "B", "alpha", "beta", "a", "b")


@dataclass(frozen=True, eq=False)
class Estimate:
    """The law of one set of runs.

    Attributes:
        law: the estimate.
        resampled: the laws of the resamples, arrays of ``(resamples,)``.
        runs: how many runs were fitted.
        objective: the sum of the Huber losses.
        warnings: what the runs do not determine, one line each.
    """

    law: ScalingLaw
    resampled: ScalingLaw
    runs: int
    objective: float
    warnings: tuple[str, ...]

    def estimates(self, level: float = LEVEL) -> pl.DataFrame:
        """``quantity`` (E, A, B, alpha, beta and the exponents a and b), ``estimate``, ``low`` and ``high``."""
        return estimates({n: (getattr(self.law, n), getattr(self.resampled, n)) for n in _QUANTITIES}, level)

    def optimum(self, budgets: list[float], level: float = LEVEL) -> pl.DataFrame:
        """The best use of each budget, in floating-point operations.

        Returns:
            ``flop``, ``parameters``, ``tokens`` and ``loss``, the first two with ``_low`` and ``_high``.
        """
        rows = []
        for flop in budgets:
            N, D = self.law.optimum(flop)
            row: dict[str, Any] = {"flop": flop}
            for name, value, many in zip(("parameters", "tokens"), (N, D), self.resampled.optimum(flop), strict=True):
                low, high = interval(np.asarray(many), level)
                row |= {name: float(value), f"{name}_low": low, f"{name}_high": high}
            rows.append(row | {"loss": float(self.law.loss(N, D))})
        return pl.DataFrame(rows)


@dataclass(frozen=True, eq=False)
class ScalingFit:
    """A fitted scaling law and what is to be said against it.

    Attributes:
        every: from all runs.
        without: from all but the outliers; ``None`` where there are none.
        dropped: whether the outliers are left out of what is concluded.
        runs: one row per run, in the order given: ``row`` (counted from 1), ``parameters``, ``tokens``, ``flop``,
            ``loss``, ``predicted`` by the chosen estimate, ``residual`` (logarithm of observed over predicted),
            ``score`` and ``outlier``.
        held_out: the error beyond the fitted compute; ``None`` where no runs could be held out.
        warnings: of the runs and of the chosen estimate, one line each.
    """

    every: Estimate
    without: Estimate | None
    dropped: bool
    runs: pl.DataFrame
    held_out: HeldOut | None
    warnings: tuple[str, ...]

    @property
    def chosen(self) -> Estimate:
        """The estimate that conclusions are drawn from."""
        return self.without if self.dropped and self.without is not None else self.every


def fit_scaling(
    runs: pl.DataFrame,
    *,
    group: str | None = None,
    resamples: int = 1000,
    seed: int = 0,
    holdout: float = 0.2,
    drop_outliers: bool = False,
    delta: float = DELTA,
) -> ScalingFit:
    """Fit ``L(N, D) = E + A·N^(−α) + B·D^(−β)`` by the Huber loss of the log residuals.

    Args:
        runs: one row per training run: ``parameters`` (N), ``tokens`` (D) and ``loss``, all positive.
        group: its column of clusters, which are resampled whole.
        resamples: number of bootstrap resamples; 0 for none, and then the intervals are NaN.
        seed: of the resampling.
        holdout: share of the runs, those of the largest compute, that the held-out error is taken over.
        drop_outliers: leave the outliers out of what is concluded. They are listed, and the law is fitted with and
            without them, either way.
        delta: of the Huber loss, in log residuals.

    Raises:
        UserError: a column is missing, a value is not a positive number, or the runs are too few or too alike.
    """
    check_columns(runs, ["parameters", "tokens", "loss"])
    check_resampling(resamples, seed)
    if not 0 < holdout <= 0.5:
        raise UserError(f"holdout must be above 0 and at most 0.5, got {holdout:g}")
    frame = _ordered(runs)
    _check_spread(frame)
    all_runs = _problem(frame, delta)
    outlier, score, others = find_outliers(frame, all_runs)
    every = _estimate(all_runs, clusters(frame, group), resamples, seed)
    without = None
    if outlier.any():
        without = _estimate(others, clusters(frame.filter(~outlier), group), resamples, seed)
    dropped = drop_outliers and without is not None
    used = frame.filter(~outlier) if dropped else frame
    held_out = hold_out(used, holdout, delta)
    chosen = without if dropped and without is not None else every
    warnings = (*_outlier_warnings(outlier, score, dropped), *_run_warnings(used), *chosen.warnings)
    if held_out is None:
        warnings += ("no held-out error: too few runs, or too few different ones, lie below the largest compute",)
    predicted = np.asarray(chosen.law.loss(*_sizes(frame).T))
    described = frame.with_columns(
        pl.Series("predicted", predicted),
        pl.Series("residual", np.log(frame["loss"].to_numpy() / predicted)),
        pl.Series("score", score),
        pl.Series("outlier", outlier),
    )
    return ScalingFit(every, without, dropped, described.sort("row"), held_out, warnings)


def find_outliers(frame: pl.DataFrame, all_runs: PowerSum) -> tuple[NDArray[np.bool_], Array, PowerSum]:
    """Runs that the law of the others does not describe.

    A run is an outlier where its log residual, standardised by the median absolute deviation, is beyond
    :data:`shoal.analysis.checks.MOST_SCORE`. Outliers pull the law to themselves and so hide each other; therefore the
    law is fitted again without them and every run is judged again, until nothing changes.

    Returns:
        Whether each run is an outlier, its score under the law of those that are not, and those to fit. There are no
        outliers where more than a fifth of the runs would be: then the law is wrong rather than the runs.
    """
    none = np.zeros(len(frame), dtype=bool)
    used, kept = ~none, all_runs
    sizes, losses = _sizes(frame), frame["loss"].to_numpy()
    for _ in range(_ROUNDS):
        score = scores(np.log(losses / np.asarray(_law(kept, kept.best).loss(*sizes.T))), used)
        inside = np.abs(score) <= MOST_SCORE
        if (inside == used).all():
            break
        if (~inside).mean() > _MOST_OUTLIERS or not _is_enough(frame.filter(inside)):
            return none, score, all_runs
        used = inside
        kept = _problem(frame.filter(used), all_runs.delta)
    return ~used, score, kept


def _problem(frame: pl.DataFrame, delta: float) -> PowerSum:
    return PowerSum.of(_sizes(frame), frame["loss"].to_numpy(), delta=delta)


def _ordered(runs: pl.DataFrame) -> pl.DataFrame:
    """With ``row`` and ``flop``, by rising compute, so that the order of the rows changes nothing."""
    sizes = [pl.col(name).cast(pl.Float64) for name in ("parameters", "tokens", "loss")]
    flop = (FLOP_PER_PARAMETER_AND_TOKEN * pl.col("parameters") * pl.col("tokens")).alias("flop")
    numbered = runs if "row" in runs.columns else runs.with_row_index("row", offset=1)
    return numbered.with_columns(sizes).with_columns(flop).sort("flop", "parameters", "loss")


def _sizes(frame: pl.DataFrame) -> Array:
    """``(n, 2)``: parameters and tokens."""
    return frame.select("parameters", "tokens").to_numpy()


def _is_enough(frame: pl.DataFrame) -> bool:
    few = [count_distinct(column) < FEWEST_VALUES for column in _sizes(frame).T]
    return len(frame) >= FEWEST_RUNS and not any(few)


def _check_spread(frame: pl.DataFrame) -> None:
    if len(frame) < FEWEST_RUNS:
        raise UserError(f"a law of 5 parameters needs at least {FEWEST_RUNS} runs, got {len(frame)}")
    for name in ("parameters", "tokens"):
        distinct = count_distinct(frame[name].to_numpy())
        if distinct < FEWEST_VALUES:
            raise UserError(
                f"the law needs {FEWEST_VALUES} or more values of {name} that are at least 1 % apart, got {distinct}: "
                f"with fewer its term cannot be told from the others"
            )
    if frame["loss"].n_unique() == 1:
        raise UserError(f"the loss of all runs is {frame['loss'][0]:g}: there is nothing to fit")


def _law(problem: PowerSum, theta: Array) -> ScalingLaw:
    E, sizes, exponents = problem.natural(theta)
    return ScalingLaw(E, sizes[..., 0], sizes[..., 1], exponents[..., 0], exponents[..., 1])


def _estimate(problem: PowerSum, member: NDArray[np.int64], resamples: int, seed: int) -> Estimate:
    law = _law(problem, problem.best)
    resampled = _law(problem, bootstrap(problem, member, resamples, seed))
    ends = {name: interval(np.asarray(getattr(resampled, name))) for name in _QUANTITIES}
    warnings = [
        *exponent_warnings("α", float(law.alpha), ends["alpha"][0]),
        *exponent_warnings("β", float(law.beta), ends["beta"][0]),
        *constant_warnings("E", float(law.E), ends["E"][0], float(np.exp(problem.y.min()))),
        *size_warnings("A", *ends["A"]),
        *size_warnings("B", *ends["B"]),
        *condition_warnings(problem.jacobian(problem.best)),
    ]
    objective = problem.delta * problem.objective(problem.best)[0]
    return Estimate(law, resampled, len(problem.y), objective, tuple(warnings))


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


def _run_warnings(used: pl.DataFrame) -> list[str]:
    out = []
    correlation = float(np.corrcoef(np.log(_sizes(used)), rowvar=False)[0, 1])
    if abs(correlation) > MOST_CORRELATION:
        out.append(
            f"log N and log D are collinear (correlation {correlation:.4f}): the runs cannot tell the effect of size "
            "from that of data"
        )
    for name in ("parameters", "tokens"):
        distinct = count_distinct(used[name].to_numpy())
        if distinct < _FEW_VALUES:
            out.append(f"only {distinct} values of {name} are 1 % apart or more: its exponent rests on few differences")
    return out
