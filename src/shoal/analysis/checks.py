"""Checks of the points of a fit, and warnings about the fit."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from numpy.typing import NDArray

from shoal.analysis.columns import check_numbers, check_plain, check_values
from shoal.analysis.power_sum import MOST_EXPONENT, Array
from shoal.errors import UserError

MOST_SCORE = 5.0  # standardised log residual from which a point is called an outlier
MOST_CONDITION = 1e3
MOST_CORRELATION = 0.99
MOST_RATIO = 100.0  # of the ends of an interval of A, B or a
SAME = 0.01  # values closer than this share count as one
_EXACT = 1e-6  # residuals of data without noise, where a score means nothing
_NEGLIGIBLE = 1e-3


def check_positive(points: pl.DataFrame, names: Sequence[str]) -> None:
    """Refuse a frame without these columns, or with anything but finite numbers above 0 in them.

    Raises:
        UserError: names the column, or the first row, counted from 1.
    """
    check_numbers(points, names)
    for name in names:
        value = pl.col(name).cast(pl.Float64)
        check_values(points, name, value.is_finite() & (value > 0), "a finite number above 0")


def clusters(points: pl.DataFrame, group: str | None, setting: Sequence[str]) -> NDArray[np.int64]:
    """Cluster of each point, numbered from 0: its value of ``group``, or its setting where ``group`` is ``None``.

    Points of one setting, such as its seeds, share what sets the setting off from the law: drawn one by one they would
    pass for independent, and intervals would be too narrow.
    """
    if group is None:
        first = points.select(setting).with_row_index("place").select(pl.col("place").min().over(setting)).to_series()
        return first.rank("dense").cast(pl.Int64).to_numpy() - 1
    check_plain(points, [group])
    if points[group].null_count():
        row = int(points[group].is_null().arg_max() or 0) + 1
        raise UserError(f"row {row}: {group} must name the cluster of the point, got null")
    return points[group].rank("dense").cast(pl.Int64).to_numpy() - 1


def count_distinct(values: Array) -> int:
    """Number of distinct positive values; values within 1 % of the smallest of their group count once.

    >>> count_distinct(np.array([1.0, 1.005, 2.0]))
    2
    """
    distinct, low = 0, 0.0
    for value in np.sort(values):
        if value > low * (1 + SAME):
            distinct, low = distinct + 1, value
    return distinct


def scores(residuals: Array, used: NDArray[np.bool_]) -> Array:
    """Robustly standardised log residuals: less the median, over 1.4826 times the median absolute deviation.

    Args:
        residuals: ``(n,)``, logarithms of observed over predicted values.
        used: ``(n,)``, true for the points that median and deviation are taken over.
    """
    middle = np.median(residuals[used])
    spread = 1.4826 * np.median(np.abs(residuals[used] - middle))
    return np.asarray((residuals - middle) / max(spread, _EXACT))


def exponent_warnings(name: str, estimate: float, low: float) -> list[str]:
    """Warnings about an exponent that was searched between 0 and :data:`MOST_EXPONENT`; ``low`` may be NaN."""
    if estimate >= MOST_EXPONENT * (1 - _NEGLIGIBLE):
        return [f"{name} is at the upper bound of the search, {MOST_EXPONENT:g}: the points do not determine it"]
    if estimate <= _NEGLIGIBLE:
        return [f"{name} is at 0, the lower bound of the search: the points show no such term"]
    if low <= 0.01:
        return [f"the interval of {name} reaches 0 ({low:.2g}): the points may show no such term"]
    return []


def constant_warnings(name: str, estimate: float, low: float, smallest: float) -> list[str]:
    """Warnings about a constant term that is near 0 beside the smallest observed value."""
    if estimate < _NEGLIGIBLE * smallest:
        return [f"{name} is at 0: the points do not show where the curve levels off"]
    if low < 0.01 * smallest:
        return [f"the interval of {name} reaches 0 ({low:.2g}): the points may not show where the curve levels off"]
    return []


def size_warnings(name: str, low: float, high: float) -> list[str]:
    """Warnings about a coefficient whose interval spans orders of magnitude."""
    if high > MOST_RATIO * low:
        return [
            f"the interval of {name} spans {np.log10(high / low) if low > 0 else np.inf:.1f} orders of magnitude "
            f"({low:.3g} to {high:.3g}); its exponent trades against it"
        ]
    return []


def condition_warnings(jacobian: Array) -> list[str]:
    """Warnings about directions in which the parameters can change without changing the predictions."""
    lengths = np.linalg.norm(jacobian, axis=0)
    condition = float(np.linalg.cond(jacobian / lengths)) if (lengths > 0).all() else np.inf
    if condition > MOST_CONDITION:
        return [
            f"the Jacobian is near-singular (condition number {condition:.2g}, more than {MOST_CONDITION:g}): "
            "other parameters fit the points nearly as well"
        ]
    return []
