"""Axes of settings: numbers where they are, names at places beside each other."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from shoal.report.figures import STEPS_LABEL

if TYPE_CHECKING:
    from shoal.report.panels import Axis

_PLACE = "_place"  # column of the places of names
_BESIDE = 0.6  # width that the colours of one name share, of the distance of two names
_WIDE = 10.0  # ratio of two values from which they stand on a logarithmic axis
_WIDE_ABOVE_ZERO = 100.0  # ratio of the values above 0 from which their axis is logarithmic although 0 is on it
_MOST_TICKS = 10  # numbers that are ticks one by one
_LETTERS = 26  # of all names of an axis, beside each other


def log_base(values: Iterable[float]) -> int | None:
    """The base of the logarithmic axis on which numbers stand evenly; None where they do on a linear one.

    >>> [log_base(own) for own in ([64, 128, 256], [1e-4, 3e-4, 1e-3], [1, 2, 3], [0.25, 0.5, 1], [0, 1, 10], [1, 2])]
    [2, 10, None, 2, None, None]
    """
    ordered = sorted(set(values))
    if len(ordered) < 2 or ordered[0] <= 0 or not all(map(math.isfinite, ordered)):
        return None
    logs = [math.log2(value) for value in ordered]
    is_log = ordered[1] / ordered[0] >= _WIDE if len(ordered) == 2 else _unevenness(logs) < _unevenness(ordered)
    if not is_log:
        return None
    return 2 if all(abs(log - logs[0] - round(log - logs[0])) < 1e-9 for log in logs) else 10


def _unevenness(ordered: Sequence[float]) -> float:
    """Largest over smallest distance of neighbours."""
    distances = [after - before for before, after in pairwise(ordered)]
    return max(distances) / min(distances)


def beside_zero(values: Iterable[float]) -> float | None:
    """Constant of the axis on which 0 stands a decade before the smallest number above it; None where none is needed.

    >>> beside_zero([0, 1e-3, 1e-2, 1]), beside_zero([0, 0.25, 0.5, 1]), beside_zero([1, 10, 100])
    (0.0001, None, None)
    """
    ordered = sorted(set(values))
    if len(ordered) < 3 or ordered[0] != 0 or log_base(ordered[1:]) is None:
        return None
    return ordered[1] / 10 if ordered[-1] / ordered[1] >= _WIDE_ABOVE_ZERO else None


def along_numbers(values: Sequence[float], x: "Axis") -> alt.X:
    """The axis of numbers: linear, logarithmic, or logarithmic with 0 a decade before the smallest above it."""
    scale = alt.Scale(zero=False, nice=False, padding=12)
    ticks_of = list(values)
    constant = beside_zero(values) if x.log is None else None
    if x.log is not None:
        scale = alt.Scale(type="log", base=x.log, nice=False, padding=12)
    elif constant is not None:
        scale = alt.Scale(type="symlog", constant=constant, nice=False, padding=12)
        if len(values) > _MOST_TICKS:  # left alone, they stand where those of a linear axis would
            first, last = math.ceil(math.log10(10 * constant)), math.floor(math.log10(max(values)))
            ticks_of = [0.0, *(10.0**power for power in range(first, last + 1))]
    # large numbers are told by prefixes, which nobody reads below 1, where 3m is 0.003
    is_small, few = min(values) < 1, len(ticks_of) <= _MOST_TICKS or constant is not None
    ticks = alt.Axis(format=".4~g" if is_small else "~s", labelOverlap="greedy", labelSeparation=6)
    if few and (is_small or x.log != 10):  # with its digits said: left alone, 0.25 and 0.75 are rounded
        ticks = alt.Axis(values=ticks_of, format=".4~g", labelOverlap="greedy", labelSeparation=4)
    elif not is_small:
        ticks.labelExpr = STEPS_LABEL
    return alt.X(f"{x.column}:Q", title=x.title, scale=scale, axis=ticks)


def in_places(extrema: pl.DataFrame, x: "Axis", colour: "Axis") -> "tuple[pl.DataFrame, Axis, alt.X]":
    """Names as the places 0, 1, … of an axis whose ticks bear them, and each colour a little beside the others."""
    shown = [(key, name) for key, name in x.names if key in set(extrema[x.column])]
    places = {key: float(place) for place, (key, _) in enumerate(shown)}
    place = pl.col(x.column).replace_strict(places, return_dtype=pl.Float64)
    names = [name for _, name in shown]
    there = [] if colour.column == x.column else sorted(extrema[colour.column].unique().to_list())
    colours = [key for key, _ in colour.names if key in there] if colour.names else there
    if len(colours) > 1:
        step = _BESIDE / len(colours)
        asides = {value: step * (i - (len(colours) - 1) / 2) for i, value in enumerate(colours)}
        place += pl.col(colour.column).replace_strict(asides, return_dtype=pl.Float64)
    placed = extrema.with_columns(place.alias(_PLACE))
    ticks = alt.Axis(
        values=list(places.values()),
        labelExpr=f"{json.dumps(names)}[datum.value]",
        labelAngle=-30 if max(map(len, names)) * len(names) > _LETTERS else 0,
        labelLimit=110,
        grid=False,
    )
    scale = alt.Scale(domain=[-0.5, len(names) - 0.5], nice=False, zero=False)
    return placed, replace(x, column=_PLACE), alt.X(f"{_PLACE}:Q", title=x.title, scale=scale, axis=ticks)


def marked_means(means: pl.DataFrame, is_joined: bool) -> Any:
    """Means as a line; those of names, between which nothing lies, as dashes."""
    chart = alt.Chart(means)
    return chart.mark_line(strokeWidth=1.6) if is_joined else chart.mark_tick(orient="horizontal", thickness=2, size=16)
