"""Colours of a setting: names in Okabe and Ito's, numbers along a bar labelled with their values."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import polars as pl

from shoal.report.figures import COLOURS

if TYPE_CHECKING:
    from shoal.report.panels import Axis

# viridis without its brightest end, which is hard to see on white
_SHADES = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#d2e21b"]
_MOST_NAMED = 10  # values of a setting that a bar names one by one
_SHORT = "format(datum.value, '.3~g')"


def painted(frame: pl.DataFrame, axis: "Axis") -> pl.DataFrame:
    """Rows with ``shade``, the value that a colour scale reads, and ``fill``, the colour itself.

    An area or a filled point with a scale of its own would turn the bar into a row of discs: they take ``fill``.
    """
    value = pl.col(axis.column)
    if axis.names:
        shaded = frame.with_columns(value.replace_strict(dict(axis.names), default=value).alias("shade"))
        colours: dict[Any, str] = _of_names([name for _, name in axis.names])
    else:
        shaded = frame.with_columns(
            (value if axis.log is None else value.log(axis.log)).cast(pl.Float64).alias("shade")
        )
        colours = _along_the_bar(shaded["shade"])
    return shaded.with_columns(
        pl.col("shade").replace_strict(colours, default=COLOURS[-1], return_dtype=pl.String).alias("fill")
    )


def colour(axis: "Axis", frame: pl.DataFrame) -> alt.Color:
    """The colour of lines, with its legend; ``frame`` holds every value that is shown."""
    if axis.names:
        domain = [name for key, name in axis.names if key in set(frame[axis.column])]
        legend = alt.Legend(orient="top", symbolType="stroke", symbolOpacity=1, columns=4, labelLimit=240)
        named = _of_names([name for _, name in axis.names])
        colours = [named[name] for name in domain]
        return alt.Color("shade:N", title=None, scale=alt.Scale(domain=domain, range=colours), legend=legend)
    values = sorted(painted(frame, axis)["shade"].unique().to_list())
    shown = values if len(values) <= _MOST_NAMED else alt.Undefined
    label = _SHORT if axis.log is None else _raised(axis.log)
    legend = alt.Legend(orient="right", type="gradient", gradientLength=150, values=shown, labelExpr=label)
    if len(values) <= 2:  # a bar would show shades between them, of which there are no runs
        legend.type, legend.symbolType, legend.symbolOpacity = "symbol", "stroke", 1
    scale = alt.Scale(range=_SHADES, domain=[values[0], values[-1]], interpolate="rgb")
    return alt.Color("shade:Q", title=axis.title, scale=scale, legend=legend)


def _of_names(names: Sequence[str]) -> dict[str, str]:
    """The colour of each name: Okabe and Ito's seven, of more names evenly spaced shades of the bar."""
    if len(names) <= len(COLOURS):
        return dict(zip(names, COLOURS, strict=False))
    shades = _along_the_bar(pl.Series(range(len(names)), dtype=pl.Float64))
    return {name: shades[float(place)] for place, name in enumerate(names)}


def _raised(base: int) -> str:
    """The value whose logarithm a tick stands at: ``128`` and not ``7``, ``1.28e9`` where it is long."""
    value = f"pow({base}, datum.value)"
    return f"{value} < 1e6 ? format({value}, ',.6~r') : replace(format({value}, '.2~e'), '+', '')"


def _along_the_bar(shades: pl.Series) -> dict[Any, str]:
    """The colours that the scale of :func:`colour` gives to these values."""
    low, high = (float(end) for end in (shades.min(), shades.max()))  # type: ignore[arg-type]  # numbers
    anchors = np.array([[int(shade[i : i + 2], 16) for i in (1, 3, 5)] for shade in _SHADES])

    def paint(value: float) -> str:
        at = (value - low) / (high - low) * (len(anchors) - 1) if high > low else 0.0
        channels = [round(float(np.interp(at, range(len(anchors)), anchors[:, i]))) for i in range(3)]
        return "#" + "".join(f"{channel:02x}" for channel in channels)

    return {value: paint(value) for value in shades.unique().to_list()}
