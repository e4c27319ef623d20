"""Trends of a quantity with a setting, and differences of slopes between groups of runs.

Runs are compared that agree in their seed and in every other setting that varies, because these have an effect too:
ranks are taken and permuted within each block of such runs (:mod:`shoal.analysis.ranks`).

Slopes are those of lines with one slope and an intercept of its own for each block. Runs that share a seed are one
unit, because a seed shifts all runs made from it: a slope is fitted within each seed, slopes are averaged over seeds,
and their interval and test are Student's over seeds. With two seeds it is wide, as it should be: drawing two seeds
again instead gives an interval without 0 every other time where there is nothing to find. Where seeds are not shared
enough to compare runs on one, there is one slope for all, without an interval.

Source: Student 1908.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from shoal.analysis.blocks import Blocks, Rows, comparable
from shoal.analysis.columns import (
    Names,
    as_names,
    check_columns,
    check_distinct,
    check_draws,
    check_numbers,
    rows_with,
)
from shoal.analysis.ranks import DRAWS, permutation_p, rank_correlation
from shoal.errors import UserError

Array = NDArray[np.float64]


@dataclass(frozen=True)
class TrendEstimate:
    """Trend of ``y`` with ``x``: rank correlation and slope.

    Attributes:
        runs: number of runs used.
        units: number of their seeds.
        names: columns in which the compared runs agree.
        blocks: number of groups of such runs.
        alone: runs left out because no other at another x agrees with them in these columns.
        dropped: runs left out because x or y is null or NaN.
        rho: correlation of the ranks within blocks, which for one block is Spearman's; None where no runs can be
            compared or y takes one value in every block.
        p: two-sided p value of its permutation test, within blocks.
        smallest_p: the smallest p value that these runs could have reached, however clear the trend.
        exact: true where p counts all permutations, false where it counts random ones.
        slope: slope of the least-squares lines, mean over seeds, y per doubling of x, or per x without ``log2``.
        low: lower end of the slope's 95 % interval, None where fewer than two seeds have a slope.
        high: upper end.
    """

    runs: int
    units: int
    names: tuple[str, ...]
    blocks: int
    alone: int
    dropped: int
    rho: float | None
    p: float | None
    smallest_p: float | None
    exact: bool
    slope: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SlopeDifference:
    """Difference of the slopes of ``y`` over ``x`` in two groups, second less first.

    Attributes:
        first: the group whose slope is subtracted from the second's.
        second: the other group.
        units: number of seeds that have a slope in both groups.
        missing: seeds that only one group has, which are left out.
        alone: runs left out because the other group has no such seed or combination of other settings, because no
            other at another x agrees with them in these, or because their seed is null.
        dropped: runs left out because x or y is null or NaN.
        first_slope: slope of the first group, y per doubling of x (or per x), mean over these seeds.
        second_slope: the same of the second group.
        difference: second − first.
        low: lower end of its 95 % interval, None with fewer than two seeds.
        high: upper end.
        p: two-sided p value of Student's test of the seeds' differences; None as for ``low``.
    """

    first: str
    second: str
    units: int
    missing: tuple[Any, ...]
    alone: int
    dropped: int
    first_slope: float | None
    second_slope: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None


def trend(
    frame: pl.DataFrame,
    x: str,
    y: str,
    unit: Names = "seed",
    within: Names = (),
    log2: bool = True,
    draws: int = DRAWS,
    seed: int = 0,
) -> TrendEstimate:
    """Rank correlation and slope of ``y`` over ``x``, among runs that agree in everything else.

    Args:
        frame: one row per run.
        x: a setting; above 0 where ``log2``.
        y: a quantity.
        unit: the columns in which runs that share a seed agree.
        within: the other settings that vary (:func:`shoal.analysis.blocks.crossed`); for a quantity that is
            made of settings, as the number of parameters is of depth and width, not those it is made of.
        log2: take the slope over log₂ x.
        draws: number of random permutations, where there are too many to count.
        seed: seed of the random permutations.

    Raises:
        UserError: a column is unknown, or x has no logarithm.
    """
    check_draws("draws", draws, seed)
    chosen = usable(frame, x, y, unit, within, log2)
    blocks = comparable(chosen, x, unit, within)
    xs, ys = _numbers(chosen, x, log2), _numbers(chosen, y, log2=False)
    rho = rank_correlation(xs, ys, blocks.rows)
    p, smallest_p, exact = (None, None, False) if rho is None else permutation_p(xs, ys, blocks.rows, draws, seed)
    units = _units(chosen, unit, blocks)
    slopes = [one for rows in units.values() if (one := slope(xs, ys, rows)) is not None]
    used = chosen[np.concatenate([[], *blocks.rows]).astype(np.int64)]
    low, high, _ = student(slopes)
    return TrendEstimate(
        runs=blocks.runs,
        units=used.select(as_names(unit)).drop_nulls().n_unique() if as_names(unit) else min(len(used), 1),
        names=blocks.names,
        blocks=len(blocks.rows),
        alone=blocks.alone,
        dropped=len(frame) - len(chosen),
        rho=rho,
        p=p,
        smallest_p=smallest_p,
        exact=exact,
        slope=float(np.mean(slopes)) if slopes else None,
        low=low,
        high=high,
    )


def slope_difference(
    frame: pl.DataFrame,
    x: str,
    y: str,
    group: str,
    first: Any,
    second: Any,
    unit: Names = "seed",
    within: Names = (),
    log2: bool = True,
) -> SlopeDifference:
    """Difference of the slopes of ``y`` over ``x`` in two groups, over the seeds that both have.

    Args:
        frame: one row per run.
        x: as for :func:`trend`.
        y: as for :func:`trend`.
        group: the column that tells the groups apart.
        first: the value of the first group in that column.
        second: the value of the second group.
        unit: as for :func:`trend`.
        within: as for :func:`trend`; only combinations of these settings and a seed are used at which both groups have
            two values of x.
        log2: as for :func:`trend`.

    Raises:
        UserError: a column or value is unknown, or x has no logarithm.
    """
    names, settings = as_names(unit), as_names(within)
    chosen = rows_with(frame, group, [first, second])
    numbers = usable(chosen, x, y, names, settings, log2)
    with_seed = numbers.drop_nulls(names) if names else numbers
    halves = [with_seed.filter(pl.col(group) == value) for value in (first, second)]
    seeds = [set(half.select(names).rows()) for half in halves]
    if names or settings:
        on = [*names, *settings]
        informative = [half.group_by(on).agg(pl.col(x).n_unique()).filter(pl.col(x) > 1).select(on) for half in halves]
        shared = informative[0].join(informative[1], on=on, how="semi", nulls_equal=True)
        halves = [half.join(shared, on=on, how="semi", nulls_equal=True, maintain_order="left") for half in halves]
    by_unit = [_slopes(half, x, y, names, settings, log2) for half in halves]
    both = [(by_unit[0][key], by_unit[1][key]) for key in by_unit[0] if key in by_unit[1]]
    pairs = [(a, b) for (a, _), (b, _) in both]
    differences = [b - a for a, b in pairs]
    low, high, p = student(differences)
    missing = sorted(seeds[0] ^ seeds[1], key=lambda one: [(value is None, value) for value in one])
    return SlopeDifference(
        first=str(first),
        second=str(second),
        units=len(pairs),
        missing=tuple(key[0] if len(key) == 1 else key for key in missing),
        alone=len(numbers) - sum(first_runs + second_runs for (_, first_runs), (_, second_runs) in both),
        dropped=len(chosen) - len(numbers),
        first_slope=float(np.mean([a for a, _ in pairs])) if pairs else None,
        second_slope=float(np.mean([b for _, b in pairs])) if pairs else None,
        difference=float(np.mean(differences)) if pairs else None,
        low=low,
        high=high,
        p=p,
    )


def slope(x: Array, y: Array, blocks: Sequence[Rows]) -> float | None:
    """Common slope of least-squares lines, one line for each block; None where x varies in no block."""
    top, bottom = 0.0, 0.0
    for rows in blocks:
        centred = x[rows] - x[rows].mean()
        top, bottom = top + float(centred @ (y[rows] - y[rows].mean())), bottom + float(centred @ centred)
    return top / bottom if bottom > 0 else None


def student(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """Student's 95 % interval of the mean of independent values, and two-sided p of the mean being 0.

    None where there are fewer than two values, or all are equal, which gives no estimate of their spread.
    """
    if len(values) < 2 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return None, None, None
    mean, error, df = float(np.mean(values)), float(stats.sem(values)), len(values) - 1
    reach = float(stats.t.ppf(0.975, df)) * error
    return mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, df))


def usable(frame: pl.DataFrame, x: str, y: str, unit: Names, within: Names, log2: bool) -> pl.DataFrame:
    """Runs whose ``x`` and ``y`` are finite numbers, in an order that does not depend on that of the frame.

    Raises:
        UserError: a column is unknown or named twice, or x has no logarithm, which ``log2`` takes.
    """
    names = [*as_names(unit), *as_names(within)]
    check_distinct([x, y, *names])
    check_numbers(frame, [x, y])
    check_columns(frame, names)
    finite = [pl.col(name).cast(pl.Float64).is_finite().fill_null(False) for name in (x, y)]
    finite_rows = frame.filter(*finite)
    if log2 and len(wrong := finite_rows.filter(pl.col(x) <= 0)):
        raise UserError(f"{x}={wrong[x][0]} has no logarithm: only values above 0 have; take log2=False")
    return finite_rows.sort(*names, x, y)  # so that the order of the rows is nothing to the last bit


def _numbers(frame: pl.DataFrame, name: str, log2: bool) -> Array:
    values = frame[name].cast(pl.Float64).to_numpy()
    return np.log2(values) if log2 else values


def _units(frame: pl.DataFrame, unit: Names, blocks: Blocks) -> dict[Any, list[Rows]]:
    """Blocks of each seed, or all blocks where their runs are of several seeds."""
    names = as_names(unit)
    if not names or not set(names) <= set(blocks.names):
        return {(): blocks.rows}
    units: dict[Any, list[Rows]] = {}
    for rows in blocks.rows:
        units.setdefault(frame.select(names).row(int(rows[0])), []).append(rows)
    return units


def _slopes(
    frame: pl.DataFrame, x: str, y: str, unit: list[str], within: list[str], log2: bool
) -> dict[Any, tuple[float, int]]:
    """Slope within each seed that has one, and the number of its runs."""
    if frame.is_empty():
        return {}
    xs, ys = _numbers(frame, x, log2), _numbers(frame, y, log2=False)
    blocks = comparable(frame, x, unit, within)
    units = _units(frame, unit, blocks)
    return {
        key: (one, sum(map(len, rows)))
        for key, rows in units.items()
        if key and (one := slope(xs, ys, rows)) is not None
    }
