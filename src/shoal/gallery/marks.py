"""Marks of a page's figures: layers of rows as lines, dots, bars, cells, rules and words, in panels with axes."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shoal.errors import UserError, nearest
from shoal.report.figures import COLOURS

INK = "#1a1a1a"  # marks without a colour column; a dark page shows it light
_WIDTH, _HEIGHT = 320, 230
_CUBE = "M-1,-1H1V1H-1ZM-1,-1L-.7,-1.3H1.3L1,-1ZM1,-1L1.3,-1.3V.7L1,1Z"  # front, top and right side
_SIDES = {"left": -7, "right": 7, "above": 0, "below": 0, "centre": 0}

Columns = Mapping[str, Any]  # name -> values: a list, or a tensor of one dimension


@dataclass(frozen=True)
class Axis:
    """Axis of a panel.

    Attributes:
        title: quantity and unit.
        log: true for a logarithmic axis.
        domain: first and last value; those of all data, moved or not, when not given.
        format: format of the ticks in d3's language; d3's choice when not given.
        names: names at the ticks 0, 1, …, in place of numbers.
        hidden: true for an axis without ticks, of a drawing.
    """

    title: str = ""
    log: bool = False
    domain: tuple[float, float] | None = None
    format: str = ""
    names: Sequence[str] = ()
    hidden: bool = False


@dataclass(frozen=True)
class Layer:
    """Marks of one kind for some data; made by :func:`line`, :func:`dots` and the others.

    Attributes:
        kind: mark of Vega-Lite.
        data: the rows.
        encoding: channel -> column, such as ``{"x": "step", "colour": "head"}``.
        look: properties of the mark.
    """

    kind: str
    data: pl.DataFrame
    encoding: Mapping[str, str]
    look: Mapping[str, Any]


@dataclass(frozen=True)
class Panel:
    """Layers over common axes, with a title above.

    Attributes:
        layers: those drawn first lie behind.
        x: axis across.
        y: axis upwards.
        title: words above.
        width: of the drawing, in pixels.
        height: of the drawing, in pixels.
    """

    layers: Sequence[Layer]
    x: Axis = Axis()
    y: Axis = Axis()
    title: str = ""
    width: int = _WIDTH
    height: int = _HEIGHT


def _layer(kind: str, data: Columns, channels: Mapping[str, str | None], **look: Any) -> Layer:
    frame = pl.DataFrame({name: _values(values) for name, values in data.items()}, strict=False)
    used = {channel: column for channel, column in channels.items() if column}
    for channel, column in used.items():
        if column not in frame.columns:
            near = nearest(column, frame.columns)
            raise UserError(f"no column {column!r} for {channel}: one of {' '.join(frame.columns)}{near}")
    ink = {} if {"colour", "fill"} & set(used) else {"color": INK}
    return Layer(kind, frame, used, ink | look)


def _values(values: Any) -> list[Any]:
    """Values of a column as a list; floats to seven significant digits, more than can be seen."""
    plain = values.tolist() if hasattr(values, "tolist") else list(values)
    return [float(f"{value:.7g}") if isinstance(value, float) else value for value in plain]


def line(data: Columns, x: str, y: str, colour: str | None = None, *, dashed: bool = False) -> Layer:
    """Line through points in the order of ``x``, one per value of the column ``colour``; else as dark as text."""
    look = {"strokeWidth": 2} | ({"strokeDash": [5, 3]} if dashed else {})
    return _layer("line", data, {"x": x, "y": y, "colour": colour}, **look)


def dots(data: Columns, x: str, y: str, colour: str | None = None, *, size: float = 36, opacity: float = 0.8) -> Layer:
    """Dot per row; ``size`` is its area in square pixels."""
    look = {"filled": True, "size": size, "opacity": opacity}
    return _layer("point", data, {"x": x, "y": y, "colour": colour}, **look)


def bars(data: Columns, x: str, y: str, colour: str | None = None) -> Layer:
    """Bar per row, from 0 up to ``y``; ``x`` holds integers."""
    return _layer(
        "bar", data, {"x": x, "y": y, "colour": colour}, **({} if colour else {"color": COLOURS[0]}), width=24
    )


def cubes(data: Columns, x: str, y: str, colour: str, *, size: float = 625) -> Layer:
    """Small cube per row, seen from the front with its top and its right side; ``size`` is the area of its front."""
    look = {"shape": _CUBE, "filled": True, "size": size, "opacity": 0.4, "stroke": INK, "strokeWidth": 0.8}
    return _layer("point", data, {"x": x, "y": y, "colour": colour}, **look)


def cells(data: Columns, x: str, y: str, value: str) -> Layer:
    """Square per row of a map, coloured by ``value``; ``x`` and ``y`` hold integers."""
    return _layer("rect", data, {"x": x, "y": y, "fill": value})


def rule(data: Columns, x: str, y: str, x2: str, y2: str, width: str | None = None, colour: str | None = None) -> Layer:
    """Straight line per row from ``(x, y)`` to ``(x2, y2)``; the column ``width``, from 0 to 1, sets its thickness."""
    channels = {"x": x, "y": y, "x2": x2, "y2": y2, "width": width, "colour": colour}
    return _layer("rule", data, channels, opacity=0.75)


def words(data: Columns, x: str, y: str, text: str, colour: str | None = None, *, at: str = "centre") -> Layer:
    """Text per row, at the point or to one side of it: ``left``, ``right``, ``above`` or ``below``."""
    if at not in _SIDES:
        raise UserError(f"text stands at one of {' '.join(_SIDES)}, got {at!r}{nearest(at, _SIDES)}")
    side = {"left": "right", "right": "left"}.get(at, "center")
    up = {"above": -11, "below": 13}.get(at, 0)
    look = {"align": side, "baseline": "middle", "dx": _SIDES[at], "dy": up, "fontSize": 11}
    return _layer("text", data, {"x": x, "y": y, "text": text, "colour": colour}, **look)
