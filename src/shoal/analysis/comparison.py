"""Comparison of a variant with its baseline, run by run: both are trained from the same seeds.

A seed fixes initialisation, split and batch order, which the two runs of a pair therefore share; only
differences within pairs are tested.

Times of which some are censored are cut off at the horizon that every run of the comparison lived to see
(:func:`shoal.analysis.restricted_times`): the mean difference is then one of restricted means, a pair in which neither
run reached the threshold is a tie, and one in which a single run did has a sign but no size. Test and rank-biserial
use the differences between ranks in the pooled cut-off times, which swap sign when the runs of a pair are swapped, so
that the sign-flip test stays valid.

The test and the effect sizes are those of :mod:`shoal.analysis.paired`, the interval of the mean is Student's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from scipy import stats

from shoal.analysis.columns import check_columns, check_distinct, check_draws, check_numbers, check_values, rows_with
from shoal.analysis.correction import holm
from shoal.analysis.paired import cohens_d_z, rank_biserial, sign_flip_test, superiority
from shoal.analysis.survival import has_outcome, restricted_times
from shoal.analysis.times import check_states, check_times
from shoal.analysis.trends import student
from shoal.errors import UserError


@dataclass(frozen=True)
class Metric:
    """Column to compare, and which of its values are better.

    Attributes:
        column: name of the column.
        larger_is_better: orientation of the effect sizes.
        observed: for times, the column that is false where the time is censored.
        horizon: for times, the step at which to cut them off, if any censored run lived to see it.
    """

    column: str
    larger_is_better: bool
    observed: str | None = None
    horizon: float | None = None


def pairs(
    frame: pl.DataFrame, metric: Metric, setting: str, variant: Any, baseline: Any, pair: str = "seed"
) -> pl.DataFrame:
    """Runs of a variant and of the baseline, side by side in pairs.

    Args:
        frame: one row per run: ``setting``, ``pair``, the metric's columns and perhaps ``state``; runs that are
            neither done nor diverged have no value yet, unless it is a time already observed.
        metric: the column to compare.
        setting: the column that tells variant from baseline.
        variant: the value of the variant's runs in that column.
        baseline: the value of the baseline's runs.
        pair: the column in which the runs of a pair agree.

    Returns:
        ``pair``, ``baseline`` and ``variant`` (values, times cut off), ``difference`` = variant − baseline, ``score``
        (the tested quantity, positive where the variant is better), ``censored`` (true where either run did not reach
        the threshold) and ``horizon``; null where one run of the pair has no value, or one that is not finite.

    Raises:
        UserError: a column or value is unknown, two runs stand for the same half of a pair, a run has no ``pair``, or
            the metric holds no numbers, or no times (see :func:`shoal.analysis.times.check_times`).
    """
    wanted = [setting, pair, metric.column] + ([] if metric.observed is None else [metric.observed])
    check_columns(frame, wanted)
    check_distinct(wanted)
    check_values(frame, pair, pl.col(pair).is_not_null(), "what the runs of a pair share")
    if metric.observed is None:
        check_numbers(frame, [metric.column])
        frame = check_states(frame)
    else:
        frame = check_times(frame, metric.column, metric.observed)
    chosen = rows_with(frame, setting, [variant, baseline])
    twice = chosen.filter(chosen.select(setting, pair).is_duplicated())
    if len(twice):
        raise UserError(
            f"several runs have {setting}={twice[setting][0]!r} and {pair}={twice[pair][0]!r}; expected one"
        )
    valued = _valued(chosen, metric, setting, pair)
    every = chosen.select(pair).unique().sort(pair)
    halves = [
        every.join(valued.filter(pl.col(setting) == value).drop(setting), on=pair, how="left", maintain_order="left")
        for value in (baseline, variant)
    ]
    return _side_by_side(halves[0].join(halves[1], on=pair, suffix="_variant", maintain_order="left"), metric, pair)


def _valued(runs: pl.DataFrame, metric: Metric, setting: str, pair: str) -> pl.DataFrame:
    """Runs that have a value, with their ``value``, ``seen`` (observed), ``rank`` among all and ``horizon``."""
    observed = pl.lit(True) if metric.observed is None else pl.col(metric.observed)
    measured = pl.col(metric.column).cast(pl.Float64).is_finite().fill_null(False)  # no test has room for infinity
    ended = has_outcome(runs, metric.observed is not None and observed)
    value = pl.col(metric.column)
    value = value.cast(pl.Float64) if runs.schema[metric.column].is_decimal() else value
    known = runs.filter(measured, ended).with_columns(value.alias("time"), observed.alias("observed"))
    is_half = pl.len().over(pair) < 2
    halves, complete, horizon = known.filter(is_half), known.filter(~is_half), None  # halves must not move the horizon
    if metric.observed is not None:
        complete, horizon = restricted_times(complete, metric.horizon)
    order = np.column_stack([complete["time"].to_numpy(), ~complete["observed"].to_numpy()])
    _, places = np.unique(order, axis=0, return_inverse=True)  # by time, at the same time who got there first
    ranks = pl.Series("rank", stats.rankdata(places.ravel()), dtype=pl.Float64)
    return pl.concat([complete.with_columns(ranks), halves.with_columns(rank=pl.lit(None, pl.Float64))]).select(
        setting,
        pair,
        pl.col("time").cast(pl.Float64).alias("value"),
        pl.col("observed").alias("seen"),
        "rank",
        pl.lit(horizon, dtype=pl.Float64).alias("horizon"),
    )


def _side_by_side(joined: pl.DataFrame, metric: Metric, pair: str) -> pl.DataFrame:
    difference = pl.col("value_variant") - pl.col("value")
    ranks = pl.col("rank_variant") - pl.col("rank")
    censored = ~(pl.col("seen") & pl.col("seen_variant"))
    oriented = ranks if metric.observed is not None else difference
    return joined.select(
        pl.col(pair).alias("pair"),
        pl.col("value").alias("baseline"),
        pl.col("value_variant").alias("variant"),
        difference.alias("difference"),
        (oriented if metric.larger_is_better else -oriented).alias("score"),
        censored.alias("censored"),
        pl.coalesce("horizon", "horizon_variant"),
    )


def compare(
    frame: pl.DataFrame,
    metrics: Sequence[Metric],
    setting: str,
    baseline: Any,
    pair: str = "seed",
    resamples: int = 9999,
    seed: int = 0,
    unit: str | None = None,
) -> pl.DataFrame:
    """Comparison of every other value of ``setting`` with the baseline.

    Args:
        frame: as for :func:`pairs`.
        metrics: the columns to compare.
        setting: the column that tells variants apart.
        baseline: the value with which the others are compared.
        pair: the column in which the runs of a pair agree.
        resamples: number of random patterns of signs, where all patterns are too many to count.
        seed: seed of the random patterns.
        unit: the column of what several pairs share, such as a seed at several values of another setting. Their
            differences are averaged first: each unit counts once, as if it were a pair.

    Returns:
        One row per variant and metric: ``variant``, ``metric``, ``n`` (complete pairs), ``missing_baseline`` and
        ``missing_variant`` (the pairs of which that run has no value), ``n_censored`` (pairs with a censored time),
        ``horizon``; ``mean_difference`` with Student's 95 % interval ``low`` and ``high``, and
        ``median_difference``, all variant − baseline; effect sizes that are positive where the variant is better:
        ``d_z`` (Cohen's, mean over standard deviation of the differences; biased upwards by about 3/(4n − 5) of itself)
        with its interval under normal differences, null where pairs are censored, and ``rank_biserial`` in [−1, 1];
        ``better``, ``worse`` and ``tied`` pairs and ``superiority`` (share of pairs in which the variant is better,
        ties counted half) with its Wilson interval; ``p`` of the two-sided sign-flip test, ``smallest_p`` that n pairs
        can reach, and ``p_holm``, corrected for all rows of this frame. Null where the pairs are too few or all equal.

    Raises:
        UserError: as of :func:`pairs`, or no run has another value of the setting.
    """
    check_columns(frame, [setting])
    check_draws("resamples", resamples, seed)
    variants = [v for v in frame[setting].unique(maintain_order=True) if v is not None and v != baseline]
    units = None if unit is None else _units(frame, pair, unit)
    rows = []
    for variant in variants:
        for metric in metrics:
            paired = pairs(frame, metric, setting, variant, baseline, pair)
            figures = _compared(paired, metric, resamples, seed, units)
            rows.append({"variant": str(variant), "metric": metric.column} | figures)
    if not rows:
        raise UserError(f"there is nothing to compare with {setting}={baseline!r}: no run has another value")
    lists = dict.fromkeys(("missing_baseline", "missing_variant"), pl.List(frame.schema[pair]))
    out = pl.DataFrame(rows, infer_schema_length=None, schema_overrides=_OVERRIDES | lists)
    return out.with_columns(pl.Series("p_holm", holm(out["p"].to_list()), dtype=pl.Float64))


_NUMBERS = ("mean_difference", "low", "high", "median_difference", "d_z", "d_z_low", "d_z_high", "rank_biserial")
_SHARES = ("superiority", "superiority_low", "superiority_high", "p", "smallest_p")
_OVERRIDES: dict[str, Any] = {"horizon": pl.Float64, **dict.fromkeys((*_NUMBERS, *_SHARES), pl.Float64)}


def _units(frame: pl.DataFrame, pair: str, unit: str) -> pl.DataFrame:
    """``pair`` and the ``unit`` of each."""
    check_columns(frame, [pair, unit])
    units = frame.select(pl.col(pair).alias("pair"), pl.col(unit).alias("unit")).unique(maintain_order=True)
    if len(twice := units.filter(units["pair"].is_duplicated())):
        raise UserError(f"the runs of pair {twice['pair'][0]!r} are of several {unit}; a pair lies within one")
    return units


def _averaged(complete: pl.DataFrame, units: pl.DataFrame) -> pl.DataFrame:
    """Complete pairs as one row per unit: means of differences and scores, and whether any was censored."""
    joined = complete.join(units, on="pair", how="left", maintain_order="left")
    means = joined.group_by("unit", maintain_order=True).agg(
        pl.col("difference", "score").mean(), pl.col("censored").any(), pl.col("horizon").first()
    )
    # the rounding of a mean of differences that cancel is no difference
    sizes = joined.group_by("unit", maintain_order=True).agg(pl.col("difference", "score").abs().max().name.suffix("_"))
    return means.join(sizes, on="unit", maintain_order="left").with_columns(
        pl.when(pl.col(name).abs() > 1e-12 * pl.col(f"{name}_")).then(name).otherwise(0.0).alias(name)
        for name in ("difference", "score")
    )


def _compared(
    paired: pl.DataFrame, metric: Metric, resamples: int, seed: int, units: pl.DataFrame | None
) -> dict[str, Any]:
    complete = paired.filter(pl.col("difference").is_not_null())
    if units is not None:
        complete = _averaged(complete, units)
    differences, scores = complete["difference"].to_numpy(), complete["score"].to_numpy()
    n, n_censored = len(complete), int(complete["censored"].sum())
    better, worse = int((scores > 0).sum()), int((scores < 0).sum())
    low, high, _ = student(differences.tolist())
    share, share_low, share_high = superiority(scores)
    oriented = differences if metric.larger_is_better else -differences
    d_z, d_z_low, d_z_high = (None, None, None) if n_censored else cohens_d_z(oriented)
    p, smallest = sign_flip_test(scores, resamples, seed)
    return {
        "n": n,
        "missing_baseline": paired.filter(pl.col("baseline").is_null())["pair"].to_list(),
        "missing_variant": paired.filter(pl.col("variant").is_null())["pair"].to_list(),
        "n_censored": n_censored,
        "horizon": complete["horizon"][0] if n else None,
        "mean_difference": float(differences.mean()) if n else None,
        "low": low,
        "high": high,
        "median_difference": float(np.median(differences)) if n else None,
        "d_z": d_z,
        "d_z_low": d_z_low,
        "d_z_high": d_z_high,
        "rank_biserial": rank_biserial(scores),
        "better": better,
        "worse": worse,
        "tied": n - better - worse,
        "superiority": share,
        "superiority_low": share_low,
        "superiority_high": share_high,
        "p": p,
        "smallest_p": smallest,
    }
