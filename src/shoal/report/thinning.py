"""Fewer points that draw the same picture: of lines what a reader can see of them, of clouds one point per place.

Statistics come first: means, bands and best values are of all runs and steps, and only what is drawn is thinned.

Source: Jugel et al. 2014, "M4: A Visualization-Oriented Time Series Data Aggregation": the first, the last, the
smallest and the largest value of each column of pixels draw a line as all its values do.
"""

from collections.abc import Sequence

import polars as pl

PER_FIGURE = 4_000  # points of all thin lines of a figure
PER_MEAN = 600  # points of a mean with its band
_FEWEST, _MOST = 40, 400  # points of a thin line
HITS = (0.9, 0.99, 1.0)  # accuracies at whose first step a reader looks


def points_per_line(lines: int) -> int:
    """How many points each of so many lines may have.

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
) -> pl.DataFrame:
    """Of each line that has more than ``budget`` points those that draw it on a logarithmic axis of steps.

    Kept of each line are the first and the last point, the first at which each column is smallest and largest, the
    first at which it is at least each of ``hits``, and the same of each of as many equal parts of the axis as the
    budget allows; where the budget is smaller than what has to be kept, that is kept all the same.

    Args:
        frame: ``step`` (0 or more), ``by`` and ``columns``, one row per point.
        by: what tells lines apart.
        columns: the values.
        budget: points of a line.
        hits: thresholds.
        besides: a column of booleans, true of points that are kept besides.

    Returns:
        Rows of ``frame`` in its order.
    """
    if frame.is_empty() or frame.group_by(by).len()["len"].max() <= budget:  # type: ignore[operator]  # a count
        return frame
    parts = max(1, (budget - len(columns) * (2 + len(hits)) - 2) // (2 + 2 * len(columns)))
    place = pl.col("step").cast(pl.Float64).log1p()
    low, high = place.min().over(by), place.max().over(by)
    part = ((place - low) / (high - low) * parts).fill_nan(0).floor().clip(upper_bound=parts - 1)
    ordered = frame.with_row_index("_row").sort("step", maintain_order=True).with_columns(_part=part)
    small = pl.len().over(by) <= budget
    within = [*by, "_part"]
    kept = [small, *_ends("step", within), *(end for name in columns for end in _ends(name, within))]
    kept += [end for name in columns for end in _ends(name, list(by))]
    kept += [_first((pl.col(name) >= hit).fill_null(False), list(by)) for name in columns for hit in hits]
    kept += [] if besides is None else [pl.col(besides)]
    return ordered.filter(pl.any_horizontal(kept)).sort("_row").drop("_row", "_part")


def _ends(name: str, by: list[str]) -> list[pl.Expr]:
    """Where a column is smallest and where it is largest, each the first time."""
    value = pl.col(name)
    return [_first(value == value.min().over(by), by), _first(value == value.max().over(by), by)]


def _first(mask: pl.Expr, by: list[str]) -> pl.Expr:
    """The first row of each group at which a mask holds."""
    return mask & (mask.cum_sum().over(by) == 1)


def thin_points(
    frame: pl.DataFrame, by: Sequence[str], places: Sequence[pl.Expr], cells: int, budget: int
) -> pl.DataFrame:
    """Of a cloud of more than ``budget`` points one for each place of a grid, so that none lies hidden behind another.

    Kept is the first row at each place, and of each of ``places`` the row where it is smallest and where it is largest.

    Args:
        frame: one row per point.
        by: what tells clouds apart.
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
    kept = [first, *(end for name in at for end in _ends(name, clouds))]
    return placed.with_columns(**cell).filter(pl.any_horizontal(kept)).select(frame.columns)
