"""Fewer points that draw the same picture: of lines what a reader can see of them, of clouds one point per place.

Statistics come first: means, bands and best values are of all runs and steps, and only what is drawn is thinned.

Source: Garland and Heckbert 1995, "Fast Polygonal Approximation of Terrains and Height Fields": greedy insertion.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

PER_FIGURE = 4_000  # points of all thin lines of a figure
PER_MEAN = 600  # points of a mean with its band
_FEWEST, _MOST = 40, 400  # points of a thin line
_UNSEEN = 1e-3  # of what an axis spans: less than half a pixel
HITS = (0.9, 0.99, 1.0)  # accuracies at whose first step a reader looks


def points_per_line(lines: int) -> int:
    """Largest number of points of each of so many lines.

    >>> [points_per_line(lines) for lines in (1, 20, 1000)]
    [400, 200, 40]
    """
    return min(_MOST, max(_FEWEST, PER_FIGURE // max(lines, 1)))


def thin_lines(
    frame: pl.DataFrame,
    by: Sequence[str],
    columns: Sequence[str],
    budget: int,
    hits: Sequence[float] = (),
    besides: str | None = None,
    log: bool = False,
) -> pl.DataFrame:
    """Points that draw each line on a logarithmic axis of steps, of lines with more than ``budget`` points.

    Kept of each line are the first and the last point, the first at which each column is smallest and largest, the
    first at which it is at least each of ``hits``, and then, one by one, the point that lies farthest from the line
    through those that are kept, up to the budget or until nobody would see the difference. Where the budget is smaller
    than what has to be kept, that is kept all the same.

    Args:
        frame: ``step`` (0 or more), ``by`` and ``columns`` (finite), one row per point.
        by: columns that tell lines apart.
        columns: the values.
        budget: points of a line.
        hits: thresholds.
        besides: a column of booleans, true of points that are kept besides.
        log: whether the values are drawn on a logarithmic axis, and above 0.

    Returns:
        Rows of ``frame`` in its order.
    """
    if frame.is_empty() or frame.group_by(by).len()["len"].max() <= budget:  # type: ignore[operator]  # a count
        return frame
    lines = list(by)
    ordered = frame.with_row_index("_row").sort(*by, "step")
    must = [*_ends("step", lines), *(end for name in columns for end in _ends(name, lines))]
    must += [_first((pl.col(name) >= hit).fill_null(False), lines) for name in columns for hit in hits]
    must += [] if besides is None else [pl.col(besides)]
    is_kept = ordered.select(pl.any_horizontal(must)).to_series().to_numpy().copy()
    x = np.log(np.maximum(ordered["step"].to_numpy().astype(float), 0.5))
    y = np.stack([ordered[name].to_numpy().astype(float) for name in columns])  # (columns, points)
    y = np.log(y) if log else y
    unseen = _UNSEEN * float(y.max() - y.min())
    ends = ordered.group_by(lines, maintain_order=True).len()["len"].cum_sum().to_list()
    for start, end in zip([0, *ends], ends, strict=False):
        if end - start <= budget:
            is_kept[start:end] = True
        else:
            _insert(x[start:end], y[:, start:end], is_kept[start:end], budget, unseen)
    return ordered.filter(pl.Series(is_kept)).sort("_row").drop("_row")


def _insert(x: np.ndarray, y: np.ndarray, is_kept: np.ndarray, budget: int, unseen: float) -> None:
    """Mark the points that lie farthest from the line through those marked, one by one, in place."""
    for _ in range(budget - int(is_kept.sum())):
        through = np.flatnonzero(is_kept)
        error = np.max([np.abs(values - np.interp(x, x[through], values[through])) for values in y], axis=0)
        farthest = int(error.argmax())
        if error[farthest] <= unseen:
            return
        is_kept[farthest] = True


def _ends(name: str, by: list[str]) -> list[pl.Expr]:
    """Masks of the first row of each group at which a column is smallest, and of that at which it is largest."""
    value = pl.col(name)
    return [_first(value == value.min().over(by), by), _first(value == value.max().over(by), by)]


def _first(mask: pl.Expr, by: list[str]) -> pl.Expr:
    """The first row of each group at which a mask holds."""
    return mask & (mask.cum_sum().over(by) == 1)


def thin_points(
    frame: pl.DataFrame, by: Sequence[str], places: Sequence[pl.Expr], cells: int, budget: int
) -> pl.DataFrame:
    """Points of a cloud of more than ``budget``, one for each place of a grid, so that none hides another.

    Kept is the first row at each place, and of each of ``places`` the row where it is smallest and where it is largest.

    Args:
        frame: one row per point.
        by: columns that tell clouds apart.
        places: finite coordinates on the axes of the figure.
        cells: places along each axis.
        budget: points of all clouds, up to which they stay as they are.
    """
    if len(frame) <= budget:
        return frame
    at = {f"_at{i}": place.cast(pl.Float64) for i, place in enumerate(places)}
    clouds = ["_all", *by]
    placed = frame.with_columns(pl.lit(0).alias("_all"), **at)
    cell = {
        f"_cell{name}": ((pl.col(name) - pl.col(name).min()) / (pl.col(name).max() - pl.col(name).min()) * cells)
        .fill_nan(0)
        .floor()
        for name in at
    }
    where = [*clouds, *cell]
    first = pl.int_range(pl.len()).over(where) == 0
    conditions = [first, *(end for name in at for end in _ends(name, clouds))]
    return placed.with_columns(**cell).filter(pl.any_horizontal(conditions)).select(frame.columns)
