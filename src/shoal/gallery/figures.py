"""Figures of pages: layers of data in panels, with parameters that a reader can move.

What parameters can be moved to is computed by the page and lies in the figure's data, so that moving them needs no
server: :func:`figure` shows the rows of the chosen values. The look is that of reports (:mod:`shoal.report.figures`).
"""

import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import altair as alt
import polars as pl

from shoal.errors import UserError
from shoal.gallery.checks import current
from shoal.gallery.marks import Axis, Layer, Panel
from shoal.report.figures import COLOURS, Figure, styled

_COLOURS = [*COLOURS, "#F0E442"]  # with the eighth of Okabe and Ito, so that eight groups are told apart


@dataclass(frozen=True)
class Slider:
    """Parameter that a reader moves among evenly spaced numbers.

    Attributes:
        column: column of the data that holds it.
        label: words before the slider.
        start: value at first; the first of the data when not given.
    """

    column: str
    label: str
    start: float | None = None


@dataclass(frozen=True)
class Choice:
    """Parameter with few values, numbers or texts, of which a reader chooses one; attributes as of :class:`Slider`."""

    column: str
    label: str
    start: float | str | None = None


@dataclass(frozen=True)
class PageFigure:
    """Figure of a page, with a caption, a text alternative and perhaps parameters.

    The documentation shows it by :meth:`_repr_html_`, drawn by a script of its own; :meth:`save` writes a picture.
    """

    drawn: Figure

    @property
    def alt(self) -> str:
        """Text alternative, in words and numbers."""
        return self.drawn.alt

    @property
    def caption(self) -> str:
        """Words below the figure."""
        return self.drawn.caption

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Specification in Vega-Lite, with all data."""
        return self.drawn.spec

    @property
    def moves(self) -> bool:
        """Return True if a reader can move a parameter."""
        return bool(self.spec.get("params"))

    def png(self) -> bytes:
        """Picture of the figure with its parameters at their start."""
        from shoal.report.page import drawn

        return drawn(self.drawn, ["png"])["png"]

    def save(self, path: str | Path) -> None:
        """Write the picture of :meth:`png`."""
        Path(path).write_bytes(self.png())

    def _repr_html_(self) -> str:
        # nothing in the data ends or begins an element
        data = json.dumps(self.spec, separators=(",", ":")).replace("<", "\\u003c")
        alternative = html.escape(self.alt, quote=True)
        return (
            f'<figure class="shoal-figure"><div class="shoal-chart" role="group" aria-label="{alternative}">'
            f'<script type="application/json">{data}</script><p class="shoal-alternative">{alternative}</p></div>'
            f"<figcaption>{html.escape(self.caption)}</figcaption></figure>"
        )


def figure(
    *panels: Panel,
    caption: str,
    alternative: str,
    move: Slider | Choice | Sequence[Slider | Choice] = (),
    colours: Sequence[str] = (),
    columns: int = 2,
) -> PageFigure:
    """Figure of one or more panels side by side.

    Args:
        panels: the panels; axes show all data, wherever the parameters stand.
        caption: what it shows, with units, and what to look at.
        alternative: what it shows in words and numbers, for readers who cannot see it.
        move: parameters that a reader can move, one or several: layers whose data have the column of a parameter show
            the rows of its value, and layers with the columns of several the rows of all their values.
        colours: values of the ``colour`` columns in the order of the palette; in their order in the data, if not given.
        columns: panels in a row, where the page is wide enough.

    Raises:
        UserError: there is no panel, no layer has a parameter's column, or two parameters move the same.
    """
    if not panels or not all(panel.layers for panel in panels):
        raise UserError("a figure needs at least one panel, and a panel at least one layer")
    layers = [layer for panel in panels for layer in panel.layers]
    names = list(colours) or _names(layers)
    moves = (move,) if isinstance(move, Slider | Choice) else tuple(move)
    moved = {each.column: f"moved_{k}" for k, each in enumerate(moves, 1)}  # name of each in the specification
    if len(moved) < len(moves):
        raise UserError(f"two parameters move one column: {' '.join(each.column for each in moves)}")
    charts = [_panel(panel, names, moved) for panel in panels]
    chart: Any = charts[0] if len(charts) == 1 else alt.concat(*charts, columns=columns, spacing=28)
    if moves:
        chart = chart.add_params(*(_parameter(each, moved[each.column], layers) for each in moves))
    number = len(current().figures) + 1
    made = PageFigure(Figure(f"figure-{number}", styled(chart, alternative), caption))
    current().figures.append(made)
    return made


def _names(layers: Sequence[Layer]) -> list[str]:
    """Values of the colour columns, each once, in their order."""
    columns = [layer.data[layer.encoding["colour"]] for layer in layers if "colour" in layer.encoding]
    return list(dict.fromkeys(str(value) for column in columns for value in column.to_list()))


def _parameter(move: Slider | Choice, name: str, layers: Sequence[Layer]) -> alt.Parameter:
    """Parameter with the control that moves it."""
    columns = [layer.data[move.column] for layer in layers if move.column in layer.data.columns]
    if not columns:
        raise UserError(f"no layer has the column {move.column!r} of the parameter")
    values = pl.concat([pl.Series(column.unique(maintain_order=True)) for column in columns]).unique(
        maintain_order=True
    )
    options = values.to_list()
    start = options[0] if move.start is None else move.start
    if start not in options:
        raise UserError(f"{move.column} cannot start at {start!r}: one of {' '.join(map(str, options))}")
    if isinstance(move, Choice):
        labels = [f"{option:g}" if isinstance(option, float) else f"{option}" for option in options]
        bound: Any = alt.binding_radio(options=options, labels=labels, name=f"{move.label} ")
        return alt.param(name, value=start, bind=bound)
    low, high = min(options), max(options)
    step = (high - low) / max(len(options) - 1, 1)
    if any(abs(low + step * k - value) > 1e-6 * max(abs(high), abs(low)) for k, value in enumerate(sorted(options))):
        raise UserError(f"the values of {move.column} are not evenly spaced: a Choice has any values")
    bound = alt.binding_range(min=low, max=high, step=float(f"{step:.6g}") or 1, name=f"{move.label} ")
    return alt.param(name, value=start, bind=bound)


def _panel(panel: Panel, names: list[str], moved: Mapping[str, str]) -> Any:
    axes = {"x": _position(panel, "x", panel.x), "y": _position(panel, "y", panel.y)}
    charts = [_chart(layer, axes, names, moved) for layer in panel.layers]
    title = {"title": alt.Title(panel.title, anchor="start", frame="group")} if panel.title else {}
    return alt.layer(*charts).properties(width=panel.width, height=panel.height, **title)


def _position(panel: Panel, channel: str, axis: Axis) -> dict[str, Any]:
    """Scale and axis of a channel, over all data of the panel."""
    fields = [(layer, layer.encoding.get(name)) for layer in panel.layers for name in (channel, f"{channel}2")]
    columns = [layer.data[column] for layer, column in fields if column]
    if not columns:
        raise UserError(f"no layer of panel {panel.title!r} has values for {channel}")
    values = [value for column in columns for value in column.to_list() if value is not None]
    low, high = axis.domain or (min(values), max(values))
    if axis.domain is None and axis.names:
        low, high = -0.5, len(axis.names) - 0.5
    if axis.domain is None and not axis.names and any(layer.kind == "bar" for layer in panel.layers):
        low, high = (low - 0.6, high + 0.6) if channel == "x" else (min(low, 0), high)
    upside_down = any(layer.kind == "rect" for layer in panel.layers) and channel == "y"
    scale = alt.Scale(
        type="log" if axis.log else "linear",
        domain=[high, low] if upside_down else [low, high],
        nice=axis.domain is None and not axis.names and not axis.log,
        zero=alt.Undefined if axis.log else False,
    )
    if axis.hidden:
        return {"scale": scale, "axis": None}
    shown: dict[str, Any] = {"title": axis.title or None}
    if axis.names:  # with a count of ticks Vega would leave some of them out
        labels = json.dumps(list(axis.names))
        shown |= {"values": list(range(len(axis.names))), "labelExpr": f"{labels}[datum.value]", "grid": False}
        shown |= {"labelOverlap": False} | ({"labelAngle": 0} if channel == "x" else {})
    else:
        shown |= {"tickCount": 6} | ({"format": axis.format or "~g"} if axis.format or axis.log else {})
    return {"scale": scale, "axis": alt.Axis(**shown), "title": axis.title or None}


def _chart(layer: Layer, axes: Mapping[str, dict[str, Any]], names: list[str], moved: Mapping[str, str]) -> alt.Chart:
    channels, has = layer.encoding, layer.encoding.get
    encoding: dict[str, Any] = {}
    for name, channel in (("x", alt.X), ("y", alt.Y)):
        encoding[name] = channel(f"{channels[name]}:Q", **axes[name])
    for name, second in (("x2", alt.X2), ("y2", alt.Y2)):
        if has(name):
            encoding[name] = second(channels[name])
    if layer.kind == "rect":
        half = 0.5  # a cell lies around its integers
        data = layer.data.with_columns(
            *(pl.col(channels[name]).cast(pl.Float64).sub(half).alias(f"{name}_from") for name in "xy"),
            *(pl.col(channels[name]).cast(pl.Float64).add(half).alias(f"{name}_to") for name in "xy"),
        )
        encoding |= {"x": alt.X("x_from:Q", **axes["x"]), "y": alt.Y("y_from:Q", **axes["y"])}
        encoding |= {"x2": alt.X2("x_to"), "y2": alt.Y2("y_to")}
    else:
        data = layer.data
    if has("colour"):
        scale = alt.Scale(domain=names, range=[_COLOURS[k % len(_COLOURS)] for k in range(len(names))])
        legend = alt.Legend(orient="top", direction="horizontal", columns=2, labelLimit=320) if len(names) > 1 else None
        encoding["color"] = alt.Color(f"{channels['colour']}:N", title=None, scale=scale, legend=legend)
    if has("fill"):
        encoding["color"] = alt.Color(
            f"{channels['fill']}:Q", title=channels["fill"], scale=alt.Scale(scheme="viridis")
        )
    if has("text"):
        encoding["text"] = alt.Text(f"{channels['text']}:N")
    if has("width"):
        encoding["strokeWidth"] = alt.StrokeWidth(
            f"{channels['width']}:Q", legend=None, scale=alt.Scale(domain=[0, 1], range=[0.3, 8])
        )
    chart: alt.Chart = getattr(alt.Chart(data), f"mark_{layer.kind}")(
        **layer.look, clip=layer.kind in ("line", "rule")
    ).encode(**encoding)
    conditions = [_chosen(layer, column, name) for column, name in moved.items() if column in layer.data.columns]
    return chart.transform_filter(" && ".join(conditions)) if conditions else chart


def _chosen(layer: Layer, column: str, moved: str) -> str:
    """Condition of the rows of a parameter's value; sliders give numbers that are off by rounding."""
    if layer.data[column].dtype == pl.String:
        return f"datum[{json.dumps(column)}] === {moved}"
    return f"abs(datum[{json.dumps(column)}] - {moved}) <= 1e-6 * (1 + abs({moved}))"
