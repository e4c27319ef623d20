"""Whether a quantity goes up with a setting, and whether it does so more for one model than for another.

Runs that share a seed are one unit, because a seed shifts all runs made from it: a line is fitted within each seed, its
slopes are averaged over seeds, and their interval is Student's over seeds. With two seeds it is wide, as it should be:
drawing two seeds again instead gives an interval without 0 every other time where there is nothing to find. The test of
a rank correlation permutes values within a seed. Only where no seed has runs at two settings is every run a unit: then
one line is fitted through all, without an interval, and values are permuted freely.

Sources: Spearman 1904; Student 1908.
"""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from shoal.analysis.columns import check_columns, rows_with
from shoal.errors import UserError

Array = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True)
class TrendEstimate:
    """How ``y`` goes with ``x``.

    Attributes:
        runs: how many were used.
        units: how many seeds they have.
        dropped: runs left out because x or y is null or NaN.
        rho: Spearman's rank correlation over all runs, None when x or y takes one value.
        p: two-sided permutation test of it.
        smallest_p: that these runs could have come to, however clear the trend.
        slope: of the least-squares lines, mean over seeds, y per doubling of x, or per x where ``log2`` was false.
        low: lower end of its 95 % interval, None where fewer than two seeds have a slope.
        high: upper end.
    """

    runs: int
    units: int
    dropped: int
    rho: float | None
    p: float | None
    smallest_p: float | None
    slope: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class SlopeDifference:
    """Whose ``y`` rises faster with ``x``.

    Attributes:
        first: the group whose slope is subtracted from the second's.
        second: the other group.
        units: how many seeds have a slope in both.
        missing: seeds that only one of them has, which are left out.
        dropped: runs left out because x or y is null or NaN.
        first_slope: y per doubling of x (or per x), mean over these seeds.
        second_slope: likewise.
        difference: second − first.
        low: lower end of its 95 % interval, None with fewer than two seeds.
        high: upper end.
    """

    first: str
    second: str
    units: int
    missing: tuple[Any, ...]
    dropped: int
    first_slope: float | None
    second_slope: float | None
    difference: float | None
    low: float | None
    high: float | None


def trend(
    frame: pl.DataFrame, x: str, y: str, unit: str = "seed", log2: bool = True, resamples: int = 1000, seed: int = 0
) -> TrendEstimate:
    """Rank correlation and slope of ``y`` over ``x``.

    Args:
        frame: one row per run.
        x: a setting; above 0 where ``log2``.
        y: a quantity.
        unit: the column that says which runs share a seed.
        log2: take the slope over log₂ x.
        resamples: of the permutation test.
        seed: likewise.

    Raises:
        UserError: a column is unknown, or x has no logarithm.
    """
    kept = _usable(frame, x, y, unit, log2)
    xs, ys = _numbers(kept, x, log2), _numbers(kept, y, log2=False)
    units = _units(kept, unit)
    rho = spearman(xs, ys)
    p, smallest_p = (None, None) if rho is None else _permutation_p(units, xs, ys, resamples, seed)
    slopes = [own for rows in units if (own := slope(xs[rows], ys[rows])) is not None]
    low, high = student_interval(slopes)
    return TrendEstimate(
        runs=len(kept),
        units=len(units),
        dropped=len(frame) - len(kept),
        rho=rho,
        p=p,
        smallest_p=smallest_p,
        slope=float(np.mean(slopes)) if slopes else slope(xs, ys),
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
    unit: str = "seed",
    log2: bool = True,
) -> SlopeDifference:
    """How much faster ``y`` rises with ``x`` in the second group than in the first, over the seeds that both have.

    Args:
        frame: one row per run.
        x: as for :func:`trend`.
        y: likewise.
        group: the column that tells the groups apart.
        first: the value of one group in it.
        second: of the other.
        unit: as for :func:`trend`.
        log2: likewise.

    Raises:
        UserError: a column or value is unknown, or x has no logarithm.
    """
    own = rows_with(frame, group, [first, second])
    usable = _usable(own, x, y, unit, log2)
    seeds = [set(usable.filter(pl.col(group) == value)[unit]) for value in (first, second)]
    kept = usable.filter(pl.col(unit).is_in(list(seeds[0] & seeds[1])))
    xs, ys = _numbers(kept, x, log2), _numbers(kept, y, log2=False)
    is_first = (kept[group] == first).to_numpy()
    slopes = []  # of both groups, for each seed that has them
    for rows in _units(kept, unit):
        mine, theirs = rows[is_first[rows]], rows[~is_first[rows]]
        a, b = slope(xs[mine], ys[mine]), slope(xs[theirs], ys[theirs])
        if a is not None and b is not None:
            slopes.append((a, b))
    differences = [b - a for a, b in slopes]
    low, high = student_interval(differences)
    return SlopeDifference(
        first=str(first),
        second=str(second),
        units=len(slopes),
        missing=tuple(sorted(seeds[0] ^ seeds[1])),
        dropped=len(own) - len(usable),
        first_slope=float(np.mean([a for a, _ in slopes])) if slopes else None,
        second_slope=float(np.mean([b for _, b in slopes])) if slopes else None,
        difference=float(np.mean(differences)) if slopes else None,
        low=low,
        high=high,
    )


def spearman(x: Array, y: Array) -> float | None:
    """Spearman's rank correlation; None where x or y takes fewer than two values."""
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return None
    return float(np.corrcoef(stats.rankdata(x), stats.rankdata(y))[0, 1])


def slope(x: Array, y: Array) -> float | None:
    """Slope of the least-squares line; None where x takes fewer than two values."""
    if len(x) < 2 or np.ptp(x) == 0:
        return None
    centred = x - x.mean()
    return float(centred @ (y - y.mean()) / (centred @ centred))


def _usable(frame: pl.DataFrame, x: str, y: str, unit: str, log2: bool) -> pl.DataFrame:
    check_columns(frame, [x, y, unit])
    finite = [pl.col(name).cast(pl.Float64).is_finite().fill_null(False) for name in (x, y)]
    kept = frame.filter(*finite)
    if log2 and len(wrong := kept.filter(pl.col(x) <= 0)):
        raise UserError(f"{x}={wrong[x][0]} has no logarithm: only values above 0 have; take log2=False")
    return kept


def _numbers(frame: pl.DataFrame, name: str, log2: bool) -> Array:
    values = frame[name].cast(pl.Float64).to_numpy()
    return np.log2(values) if log2 else values


def _units(frame: pl.DataFrame, unit: str) -> list[Rows]:
    """The rows of each seed."""
    return [
        rows["row"].to_numpy()
        for _, rows in frame.with_columns(row=pl.int_range(pl.len(), dtype=pl.Int64)).group_by(
            unit, maintain_order=True
        )
    ]


def student_interval(values: Sequence[float]) -> tuple[float | None, float | None]:
    """95 % interval of the mean of independent values; None where there are fewer than two, or all are the same, which
    says nothing of how far others would be.
    """
    if len(values) < 2 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return None, None
    reach = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return float(np.mean(values) - reach), float(np.mean(values) + reach)


def _permutation_p(units: Sequence[Rows], x: Array, y: Array, resamples: int, seed: int) -> tuple[float, float]:
    """Share of permutations whose rank correlation is at least as far from 0, and the smallest share there can be.

    Of all permutations where there are at most ``resamples``; else of so many random ones and the given one. The order
    of the rows is nothing to it.
    """
    a, b = stats.rankdata(x), stats.rankdata(y)
    a, b = a - a.mean(), b - b.mean()
    within = any(np.ptp(x[rows]) > 0 for rows in units)
    blocks = [rows[np.lexsort((b[rows], a[rows]))] for rows in (units if within else [np.arange(len(x))])]
    blocks.sort(key=lambda rows: (len(rows), *a[rows], *b[rows]))
    exact = math.prod(math.factorial(len(rows)) for rows in blocks) <= resamples
    rng, total = np.random.default_rng(seed), np.zeros(1 if exact else resamples)
    for rows in blocks:
        if exact:
            ways = np.array(list(itertools.permutations(b[rows])))
            total = np.add.outer(total, ways @ a[rows]).ravel()
        else:
            total += rng.permuted(np.tile(b[rows], (resamples, 1)), axis=1) @ a[rows]
    far = np.abs(total)
    as_far = int((far >= np.abs(a @ b) - 1e-9).sum())  # ranks are halves: equal sums differ by rounding alone
    if not exact:
        return (as_far + 1) / (resamples + 1), 1 / (resamples + 1)
    return as_far / len(far), float((far >= far.max() - 1e-9).mean())
