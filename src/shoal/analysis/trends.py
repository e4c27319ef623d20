"""Whether a quantity goes up with a setting, and whether it does so more for one model than for another.

What is asked of a setting is asked of runs that agree in their seed and in every other setting that varies, because
these move a run too: values are ranked within each block of such runs (:mod:`shoal.analysis.blocks`), the correlation
is that of these ranks, and its test permutes values within blocks. In blocks of one size it is Page's test; in blocks
of several, ranks count as shares of the block, after van Elteren.

Slopes are those of lines with one slope and an intercept of its own for each block. Runs that share a seed are one
unit, because a seed shifts all runs made from it: a slope is fitted within each seed, slopes are averaged over seeds,
and their interval and test are Student's over seeds. With two seeds it is wide, as it should be: drawing two seeds
again instead gives an interval without 0 every other time where there is nothing to find. Where seeds are not shared
enough to compare runs on one, there is one slope for all, without an interval.

Sources: Spearman 1904; Student 1908; van Elteren 1960, *On the combination of independent two-sample tests of
Wilcoxon*; Page 1963, *Ordered hypotheses for multiple treatments*.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy import stats

from shoal.analysis.arrangements import count_orders, orders
from shoal.analysis.blocks import Blocks, Rows, comparable
from shoal.analysis.columns import Names, as_names, check_columns, rows_with
from shoal.errors import UserError

Array = NDArray[np.float64]
Scores = tuple[float, ...]

DRAWS = 10_000
_MOST_ORDERS = 400_000  # of the values of a block, that are counted: all of 9
_MOST_SUMS = 2_000_000  # of two blocks, that are counted


@dataclass(frozen=True)
class TrendEstimate:
    """How ``y`` goes with ``x``.

    Attributes:
        runs: how many were used.
        units: how many seeds they have.
        names: the columns in which the runs agree that were compared.
        blocks: how many groups of such runs there are.
        alone: runs left out because no other at another x agrees with them in these columns.
        dropped: runs left out because x or y is null or NaN.
        rho: correlation of the ranks within blocks, which for one block is Spearman's; None where no runs can be
            compared or y takes one value in every block.
        p: two-sided permutation test of it, within blocks.
        smallest_p: that these runs could have come to, however clear the trend.
        exact: whether p counts all permutations, or random ones.
        slope: of the least-squares lines, mean over seeds, y per doubling of x, or per x where ``log2`` was false.
        low: lower end of its 95 % interval, None where fewer than two seeds have a slope.
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
        p: two-sided, of Student's test of the seeds' differences; None as for ``low``.
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
        unit: the columns that say which runs share a seed.
        within: those of the other settings that vary (:func:`shoal.analysis.blocks.crossed`); for a quantity that is
            made of settings, as the number of parameters is of depth and width, not those it is made of.
        log2: take the slope over log₂ x.
        draws: random permutations, where there are too many to count.
        seed: of these.

    Raises:
        UserError: a column is unknown, or x has no logarithm.
    """
    usable = _usable(frame, x, y, [*as_names(unit), *as_names(within)], log2)
    blocks = comparable(usable, x, unit, within)
    xs, ys = _numbers(usable, x, log2), _numbers(usable, y, log2=False)
    rho = rank_correlation(xs, ys, blocks.rows)
    p, smallest_p, exact = (None, None, False) if rho is None else _permutation_p(xs, ys, blocks.rows, draws, seed)
    units = _units(usable, unit, blocks)
    slopes = [own for rows in units.values() if (own := slope(xs, ys, rows)) is not None]
    used = usable[np.concatenate([[], *blocks.rows]).astype(np.int64)]
    low, high, _ = student(slopes)
    return TrendEstimate(
        runs=blocks.runs,
        units=used.select(as_names(unit)).n_unique() if as_names(unit) else min(len(used), 1),
        names=blocks.names,
        blocks=len(blocks.rows),
        alone=blocks.alone,
        dropped=len(frame) - len(usable),
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
    """How much faster ``y`` rises with ``x`` in the second group than in the first, over the seeds that both have.

    Args:
        frame: one row per run.
        x: as for :func:`trend`.
        y: likewise.
        group: the column that tells the groups apart.
        first: the value of one group in it.
        second: of the other.
        unit: as for :func:`trend`.
        within: likewise; only combinations of these settings that both groups have on a seed are used.
        log2: likewise.

    Raises:
        UserError: a column or value is unknown, or x has no logarithm.
    """
    names, settings = as_names(unit), as_names(within)
    own = rows_with(frame, group, [first, second])
    usable = _usable(own, x, y, [*names, *settings], log2)
    halves = [usable.filter(pl.col(group) == value) for value in (first, second)]
    seeds = [set(half.select(names).rows()) for half in halves]
    if names or settings:
        shared = [names + settings] * 2
        halves = [
            half.join(other, on=on, how="semi", nulls_equal=True, maintain_order="left")
            for half, other, on in zip(halves, halves[::-1], shared, strict=True)
        ]
    by_unit = [_slopes(half, x, y, names, settings, log2) for half in halves]
    pairs = [(by_unit[0][key], by_unit[1][key]) for key in by_unit[0] if key in by_unit[1]]
    differences = [b - a for a, b in pairs]
    low, high, p = student(differences)
    missing = sorted(seeds[0] ^ seeds[1])
    return SlopeDifference(
        first=str(first),
        second=str(second),
        units=len(pairs),
        missing=tuple(key[0] if len(key) == 1 else key for key in missing),
        dropped=len(own) - len(usable),
        first_slope=float(np.mean([a for a, _ in pairs])) if pairs else None,
        second_slope=float(np.mean([b for _, b in pairs])) if pairs else None,
        difference=float(np.mean(differences)) if pairs else None,
        low=low,
        high=high,
        p=p,
    )


def rank_correlation(x: Array, y: Array, blocks: Sequence[Rows]) -> float | None:
    """Correlation of the ranks of x and y within blocks, ``(n,)`` each; None where x or y varies within none.

    Within one block it is Spearman's.
    """
    a, b = _scores(x, blocks), _scores(y, blocks)
    spread = float(np.sqrt((a @ a) * (b @ b)))
    return float(np.clip(a @ b / spread, -1, 1)) if spread > 0 else None


def slope(x: Array, y: Array, blocks: Sequence[Rows]) -> float | None:
    """Slope of the least-squares lines that are parallel, one for each block; None where x varies within none."""
    top, bottom = 0.0, 0.0
    for rows in blocks:
        centred = x[rows] - x[rows].mean()
        top, bottom = top + float(centred @ (y[rows] - y[rows].mean())), bottom + float(centred @ centred)
    return top / bottom if bottom > 0 else None


def student(values: Sequence[float]) -> tuple[float | None, float | None, float | None]:
    """95 % interval of the mean of independent values, and two-sided p of its being 0.

    None where there are fewer than two, or all are the same, which says nothing of how far others would be.
    """
    if len(values) < 2 or np.ptp(values) <= 1e-12 * np.abs(values).max():
        return None, None, None
    mean, error, df = float(np.mean(values)), float(stats.sem(values)), len(values) - 1
    reach = float(stats.t.ppf(0.975, df)) * error
    return mean - reach, mean + reach, float(2 * stats.t.sf(abs(mean) / error, df))


def _usable(frame: pl.DataFrame, x: str, y: str, names: Sequence[str], log2: bool) -> pl.DataFrame:
    check_columns(frame, [x, y, *names])
    finite = [pl.col(name).cast(pl.Float64).is_finite().fill_null(False) for name in (x, y)]
    kept = frame.filter(*finite)
    if log2 and len(wrong := kept.filter(pl.col(x) <= 0)):
        raise UserError(f"{x}={wrong[x][0]} has no logarithm: only values above 0 have; take log2=False")
    return kept.sort(*names, x, y)  # so that the order of the rows is nothing to the last bit


def _numbers(frame: pl.DataFrame, name: str, log2: bool) -> Array:
    values = frame[name].cast(pl.Float64).to_numpy()
    return np.log2(values) if log2 else values


def _units(frame: pl.DataFrame, unit: Names, blocks: Blocks) -> dict[Any, list[Rows]]:
    """The blocks of each seed, or all blocks where their runs are of several."""
    names = as_names(unit)
    if not names or not set(names) <= set(blocks.names):
        return {(): blocks.rows}
    units: dict[Any, list[Rows]] = {}
    for rows in blocks.rows:
        units.setdefault(frame.select(names).row(int(rows[0])), []).append(rows)
    return units


def _slopes(frame: pl.DataFrame, x: str, y: str, unit: list[str], within: list[str], log2: bool) -> dict[Any, float]:
    """The slope within each seed that has one."""
    if frame.is_empty():
        return {}
    xs, ys = _numbers(frame, x, log2), _numbers(frame, y, log2=False)
    blocks = comparable(frame, x, unit, within)
    units = _units(frame, unit, blocks)
    return {key: own for key, rows in units.items() if key and (own := slope(xs, ys, rows)) is not None}


def _scores(values: Array, blocks: Sequence[Rows]) -> Array:
    """The rank of each value within its block over one more than their number, less the block's mean; 0 in none."""
    out = np.zeros(len(values))
    for rows in blocks:
        ranks = stats.rankdata(values[rows])
        out[rows] = (ranks - ranks.mean()) / (len(rows) + 1)
    return out


def _permutation_p(x: Array, y: Array, blocks: Sequence[Rows], draws: int, seed: int) -> tuple[float, float, bool]:
    """Share of permutations within blocks whose rank correlation is at least as far from 0, the smallest share there
    can be, and whether all permutations were counted or random ones and the given one.
    """
    a, b = _scores(x, blocks), _scores(y, blocks)
    seen = abs(a @ b) - 1e-9  # equal sums differ by rounding
    scores = sorted(((tuple(sorted(a[rows])), tuple(sorted(b[rows]))) for rows in blocks), key=lambda s: (len(s[0]), s))
    counted = _all_sums(scores)
    if counted is not None:
        far, share = np.abs(counted[0]), counted[1]
        p, smallest = (min(float(share[far >= least].sum()), 1.0) for least in (seen, far.max() - 1e-9))
        return p, smallest, True
    rng, total = np.random.default_rng(seed), np.zeros(draws)
    for own, other in scores:
        total += rng.permuted(np.tile(other, (draws, 1)), axis=1) @ np.array(own)
    return (int((np.abs(total) >= seen).sum()) + 1) / (draws + 1), 1 / (draws + 1), False


def _all_sums(blocks: Sequence[tuple[Scores, Scores]]) -> tuple[Array, Array] | None:
    """Every sum of products that permuting the second scores within blocks can give, and the share of permutations that
    give it; None where there are too many.
    """
    kinds = dict.fromkeys(blocks)  # blocks without ties are all alike
    ties = {scores: np.unique(scores[1], return_inverse=True) for scores in kinds}
    counts = {scores: np.bincount(labels) for scores, (_, labels) in ties.items()}
    if sum(count_orders(own.tolist()) for own in counts.values()) > _MOST_ORDERS:
        return None
    products = {
        scores: np.unique(
            np.round(ties[scores][0][orders(counts[scores])] @ np.array(scores[0]), 9), return_counts=True
        )
        for scores in kinds
    }
    sums: Array = np.zeros(1)
    share: Array = np.ones(1)
    for scores in blocks:
        own, times = products[scores]
        if len(sums) * len(own) > _MOST_SUMS:
            return None
        every, place = np.unique(np.round(np.add.outer(sums, own), 9), return_inverse=True)
        weights = np.multiply.outer(share, times / times.sum()).ravel()
        sums, share = every, np.bincount(place.ravel(), weights).astype(np.float64)
    return sums, share
