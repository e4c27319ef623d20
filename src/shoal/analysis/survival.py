"""Time until a run generalises, for runs of which some never do.

A run that has not reached a threshold by its last evaluation is *censored* there: its time is known to be longer, not
by how much. Leaving such runs out, or putting their horizon in place of their time, would make slow settings look fast;
the estimators here use what is known of them.

Three things bound what these numbers mean. Times lie on the grid of evaluations: a run that reached the threshold
between two evaluations has the later one's step (interval censoring by one evaluation period, which the estimators
take as exact). A run that diverged will never generalise, while the curve of Kaplan and Meier takes every censored run
to be like those that go on: where runs diverge, read it together with the rate, which counts them as not having
generalised. And runs that were ended by what they had reached (``stop_after_generalizing``) are censored without regard
to the threshold only where the threshold is at most the one that ended them.

Sources: Kaplan and Meier 1958; Greenwood 1926 on the log(−log) scale (Kalbfleisch and Prentice 1980); Brookmeyer and
Crowley 1982 for the interval of the median; Wilson 1927 for that of a rate.
"""

import warnings
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy import stats

from shoal.analysis.columns import Names, beside, check_columns, groups
from shoal.errors import UserError, nearest

FINISHED = ("done", "diverged")
_DIRECTIONS = ("at least", "at most")
_Z = 1.959963984540054  # of 95 %


def time_to(
    curves: pl.DataFrame,
    column: str = "valid_accuracy",
    threshold: float = 0.99,
    direction: Literal["at least", "at most"] = "at least",
    states: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """First evaluated step at which each run's ``column`` is on the right side of ``threshold``.

    Args:
        curves: ``run``, ``step`` and ``column``, one row per evaluation in any order. Null means not measured at that
            step; NaN is a value that reaches no threshold.
        column: what is watched.
        threshold: accuracy (``at least``) or loss in nats (``at most``).
        direction: the right side.
        states: ``run`` and ``state``, perhaps ``step``, as in :meth:`shoal.lab.Records.runs`. Runs that were never
            evaluated are censored at step 0.

    Returns:
        One row per run: ``run``, ``time`` (steps; of a run that never got there its last evaluated step, or the step
        at which it diverged), ``observed`` (whether it got there) and ``state`` (null where ``states`` does not tell).
        A run that reached the threshold and diverged later is observed.

    Raises:
        UserError: a column or the direction is unknown.
    """
    check_columns(curves, ["run", "step", column])
    if direction not in _DIRECTIONS:
        allowed = " or ".join(map(repr, _DIRECTIONS))
        raise UserError(f"unknown direction {direction!r}: {allowed}{nearest(direction, _DIRECTIONS)}")
    if states is None:
        states = pl.DataFrame(schema={"run": curves.schema["run"], "state": pl.String})
    check_columns(states, ["run", "state"])
    if "step" not in states.columns:
        states = states.with_columns(step=pl.lit(None, dtype=pl.Int64))
    value, step = pl.col(column), pl.col("step")
    reached = (value >= threshold if direction == "at least" else value <= threshold) & (
        value.cast(pl.Float64).is_not_nan()
    )
    evaluated = (
        curves.filter(value.is_not_null())
        .group_by("run")
        .agg(step.filter(reached).min().alias("first"), step.max().alias("last"))
    )
    ended = pl.when(pl.col("state") == "diverged").then(pl.col("ended"))
    return (
        pl.concat([curves.select("run"), states.select("run")])
        .unique(maintain_order=True)
        .join(evaluated, on="run", how="left", maintain_order="left")
        .join(states.select("run", "state", pl.col("step").alias("ended")), on="run", how="left", maintain_order="left")
        .select(
            "run",
            pl.coalesce("first", pl.max_horizontal("last", ended), 0).cast(pl.Int64).alias("time"),
            pl.col("first").is_not_null().alias("observed"),
            "state",
        )
    )


def restricted_times(times: pl.DataFrame, horizon: int | None = None) -> tuple[pl.DataFrame, int | None]:
    """Times cut off at one horizon that every run lived to see, so that none is unknown.

    A diverged run stands at the horizon, unobserved: no further step would have changed that it never generalised.
    Runs that are still in training have no outcome yet and would pull the horizon down: leave them out first.

    Args:
        times: ``time``, ``observed`` and perhaps ``state``.
        horizon: in steps; the smallest time at which a run that did not diverge was censored, when not given or when
            that is smaller. Where nothing is censored, the largest time.

    Returns:
        ``times`` with ``time`` at most the horizon and ``observed`` only up to it, and the horizon (None when there
        are no runs).
    """
    check_columns(times, ["time", "observed"])
    censored = times.filter(~pl.col("observed") & ~_diverged(times))["time"]
    latest: Any = times["time"].max() if censored.is_empty() else censored.min()
    if latest is None:
        return times, None
    end = int(latest) if horizon is None else horizon if censored.is_empty() else min(int(latest), horizon)
    return times.with_columns(
        pl.when(_lost(times) | (pl.col("time") > end)).then(end).otherwise(pl.col("time")).alias("time"),
        pl.col("observed") & (pl.col("time") <= end),
    ), end


def kaplan_meier(times: pl.DataFrame, by: Names = ()) -> pl.DataFrame:
    """Share of runs that have not yet reached the threshold, by the product-limit estimator.

    Args:
        times: ``time`` and ``observed``, as from :func:`time_to`, with the columns of ``by`` joined to them.
        by: what tells groups apart.

    Returns:
        Per group and distinct time: ``by``, ``step``, ``survival`` S(t) after that step, ``low`` and ``high`` (95 %
        interval at each step, not of the curve as a whole; null where S is 1 or 0, where its formula says nothing),
        ``at_risk`` (runs under observation just before), ``events`` and ``censored`` (at that step; an event counts
        before a censoring at the same step).
    """
    check_columns(times, ["time", "observed"])
    parts = [beside(key, _curve(group)) for key, group in groups(times, by)]
    return pl.concat(parts) if parts else pl.DataFrame()


def _curve(group: pl.DataFrame) -> pl.DataFrame:
    time, observed = group["time"].to_numpy().astype(np.float64), group["observed"].to_numpy()
    survival = stats.ecdf(stats.CensoredData(uncensored=time[observed], right=time[~observed])).sf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The confidence interval is undefined", category=RuntimeWarning)
        interval = survival.confidence_interval(confidence_level=0.95, method="log-log")
    steps = survival.quantiles
    return pl.DataFrame(
        {
            "step": pl.Series(steps).cast(group.schema["time"]),
            "survival": survival.probabilities,
            "low": pl.Series(interval.low.probabilities).fill_nan(None),
            "high": pl.Series(interval.high.probabilities).fill_nan(None),
            "at_risk": (time >= steps[:, None]).sum(axis=1),
            "events": ((time == steps[:, None]) & observed).sum(axis=1),
            "censored": ((time == steps[:, None]) & ~observed).sum(axis=1),
        }
    )


def survival_summary(times: pl.DataFrame, by: Names = (), horizon: int | None = None) -> pl.DataFrame:
    """How many runs of each group generalised, and when.

    Args:
        times: as for :func:`kaplan_meier`, perhaps with ``state``.
        by: what tells groups apart.
        horizon: step up to which the restricted mean is taken; the largest at which every group's curve is known,
            when not given or when that is smaller. A group of which every run diverged has no mean and no say in this.

    Returns:
        One row per group: ``by``; ``N``; ``generalised``; ``diverged``, ``unfinished`` and ``censored``, which share
        the rest among them (diverged, still in training, ended at their horizon); ``rate`` = generalised / N with its
        Wilson interval ``rate_low``, ``rate_high``, where every other run counts as not having generalised;
        ``median`` with ``median_low`` and ``median_high``, the steps at which the 95 % band of S contains ½, null
        where the curve or the band does not come down to it; ``restricted_mean`` of the time up to ``horizon`` with
        its normal interval by Greenwood's variance.
    """
    found = groups(times, by)
    curves = [_curve(group) for _, group in found]
    lived = [curve for (_, group), curve in zip(found, curves, strict=True) if len(group.filter(~_lost(group)))]
    end = _common_horizon(lived or curves, horizon)
    rows = []
    for (key, group), curve in zip(found, curves, strict=True):
        n, generalised = len(group), int(group["observed"].sum())
        rate = stats.binomtest(generalised, n).proportion_ci(0.95, method="wilson")
        median, median_low, median_high = _median(curve)
        mean, mean_low, mean_high = _restricted_mean(curve, end)
        row: dict[str, Any] = {
            "N": n,
            "generalised": generalised,
            **_others(group),
            "rate": generalised / n,
            "rate_low": float(rate.low),
            "rate_high": float(rate.high),
            "median": median,
            "median_low": median_low,
            "median_high": median_high,
            "horizon": end,
            "restricted_mean": mean,
            "restricted_mean_low": mean_low,
            "restricted_mean_high": mean_high,
        }
        rows.append(beside(key, pl.DataFrame([row], schema_overrides=_SUMMARY)))
    return pl.concat(rows) if rows else pl.DataFrame()


_SUMMARY = dict.fromkeys(("median", "median_low", "median_high", "horizon"), pl.Float64) | dict.fromkeys(
    ("restricted_mean", "restricted_mean_low", "restricted_mean_high"), pl.Float64
)


def has_outcome(runs: pl.DataFrame, observed: bool | pl.Expr = False) -> pl.Expr:
    """True for runs that are done, diverged or of unknown state, and for those whose time was ``observed`` already."""
    ended = pl.col("state").is_in(FINISHED).fill_null(True) if "state" in runs.columns else pl.lit(True)
    return ended | observed


def _diverged(times: pl.DataFrame) -> pl.Expr:
    return (pl.col("state") == "diverged").fill_null(False) if "state" in times.columns else pl.lit(False)


def _lost(times: pl.DataFrame) -> pl.Expr:
    """True for runs that diverged before they got there."""
    return _diverged(times) & ~pl.col("observed")


def _others(group: pl.DataFrame) -> dict[str, int]:
    """Of the runs that did not get there: how many diverged, are still in training, came to their end."""
    unobserved = group.filter(~pl.col("observed"))
    diverged = len(unobserved.filter(_diverged(group)))
    states = unobserved["state"].drop_nulls() if "state" in group.columns else pl.Series([], dtype=pl.String)
    unfinished = int((~states.is_in(FINISHED)).sum())
    return {"diverged": diverged, "unfinished": unfinished, "censored": len(unobserved) - diverged - unfinished}


def _median(curve: pl.DataFrame) -> tuple[float | None, float | None, float | None]:
    """The first steps at which S and the band's lower and upper edge are at most ½."""
    survival = pl.col("survival")
    edge = pl.when(survival < 1e-12).then(0.0).otherwise(1.0)  # where the band says nothing
    edges = (survival, pl.coalesce("low", edge), pl.coalesce("high", 1.0))
    steps = [curve.filter(e <= 0.5 + 1e-12)["step"].min() for e in edges]
    median, low, high = (None if step is None else float(step) for step in steps)  # type: ignore[arg-type]
    return median, low, high


def _common_horizon(curves: list[pl.DataFrame], horizon: int | None) -> float | None:
    """The largest step up to which every curve is known; a curve that came down to 0 is known for ever."""
    last = [float(curve["step"][-1]) for curve in curves]
    known = [end for end, curve in zip(last, curves, strict=True) if curve["survival"][-1] > 0]
    ends = known + ([] if horizon is None else [float(horizon)])
    return min(ends) if ends else max(last, default=None)


def _restricted_mean(curve: pl.DataFrame, horizon: float | None) -> tuple[float | None, float | None, float | None]:
    """Area under S up to the horizon, with its 95 % interval; without one where the variance would be 0."""
    if horizon is None or (curve["survival"][-1] > 0 and curve["step"][-1] < horizon):
        return None, None, None
    inside = curve.filter(pl.col("step") <= horizon)
    steps, survival = inside["step"].to_numpy().astype(np.float64), inside["survival"].to_numpy()
    widths = np.diff(np.concatenate([[0.0], steps, [horizon]]))
    areas = widths * np.concatenate([[1.0], survival])
    left = areas.sum() - np.cumsum(areas)[:-1]  # the area after each step
    n, d = inside["at_risk"].to_numpy(), inside["events"].to_numpy()
    share = np.divide(d, n * (n - d), out=np.zeros(len(n)), where=n > d)
    half = _Z * float(np.sqrt((left**2 * share).sum()))
    mean = float(areas.sum())
    if half == 0:
        return mean, None, None
    return mean, max(mean - half, 0.0), min(mean + half, horizon)
