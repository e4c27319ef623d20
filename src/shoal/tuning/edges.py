"""Edges of a search space: a best value at an end says that a better one may lie beyond."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from shoal.errors import UserError
from shoal.spec import RunSpec
from shoal.tuning.space import Axis, Space

NEAR = 0.05  # share of a range, on its scale, within which a value lies at an end


@dataclass(frozen=True)
class Edge:
    """A value at an end of its axis, beyond which other values are allowed.

    Attributes:
        axis: the axis.
        value: the value.
        end: the end.
        is_upper: true where it is the larger end.
    """

    axis: Axis
    value: Any
    end: float
    is_upper: bool


def edges_of(base: RunSpec, space: Space, settings: Mapping[str, Any]) -> list[Edge]:
    """Edges at which a setting lies: of a range within 5 % of an end on its scale, of an ordered list of numbers at
    its first or last. An end beyond which the setting allows nothing, such as 0 of a weight decay, is none.
    """
    edges = [edge for axis in space.axes if (edge := _edge(axis, settings[axis.name])) is not None]
    return [edge for edge in edges if _goes_on(base, edge)]


def _edge(axis: Axis, value: Any) -> Edge | None:
    if axis.choices:
        if not all(_is_number(choice) for choice in axis.choices) or list(axis.choices) not in _ordered(axis):
            return None
        ends = (min(axis.choices), max(axis.choices))
        return Edge(axis, value, value, value == ends[1]) if value in ends else None
    place = _place(axis, value)
    if NEAR < place < 1 - NEAR:
        return None
    return Edge(axis, value, axis.high if place >= 1 - NEAR else axis.low, place >= 1 - NEAR)


def _ordered(axis: Axis) -> list[list[Any]]:
    upwards = sorted(axis.choices)
    return [upwards, upwards[::-1]]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _place(axis: Axis, value: float) -> float:
    """Place of a value within its range, on the range's scale: 0 at its low end, 1 at its high end."""
    low, high, at = (math.log(x) if axis.is_log else x for x in (axis.low, axis.high, value))
    return (at - low) / (high - low)


def _goes_on(base: RunSpec, edge: Edge) -> bool:
    """Return True if the setting allows values beyond the end."""
    end, axis = edge.end, edge.axis
    whole = axis.is_integer or all(isinstance(choice, int) for choice in axis.choices or (0.5,))
    step = 1.0 if whole else 0.01 * (abs(end) or 1.0)
    beyond = end + step if edge.is_upper else end - step
    try:
        base.replace(**{axis.name: int(beyond) if whole else beyond})
    except UserError:
        return False
    return True


def edge_text(edge: Edge) -> str:
    """Sentence that warns of an edge, with the setting, its value and the end."""
    name, axis = edge.axis.name, edge.axis
    side, more = ("upper", "larger") if edge.is_upper else ("lower", "smaller")
    value = f"{edge.value:g}"
    where = f"is the {side} end of {axis.text}" if edge.value == edge.end else ""
    where = where or f"lies within {NEAR:.0%} of {edge.end:g}, the {side} end of {axis.text}"
    return f"Edge of the search space: {name} {value} {where}; {more} values were not tried and may be better."
