"""Figures of several panels: curves told apart by a colour bar, and summaries against a setting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import altair as alt
import numpy as np
import polars as pl

from shoal.report.figures import COLOURS, Chart, styled
from shoal.report.means import mean_curves, spread

# viridis without its brightest end, which is hard to see on white
_SHADES = ["#440154", "#472d7b", "#3b528b", "#2c728e", "#21918c", "#28ae80", "#5ec962", "#addc30", "#d2e21b"]
_SHORT = "format(datum.value, '.3~g')"
_PANEL = {"width": 250, "height": 170}
_SPACED = alt.Axis(format="~s", labelOverlap="greedy", labelSeparation=6)


@dataclass(frozen=True)
class Axis:
    """A setting as an axis or a colour bar.

    Attributes:
        column: its column.
        title: in words, with its symbol.
        log: base of a logarithmic axis; None for a linear one.
        names: what to write instead of the values, where they are names.
    """

    column: str
    title: str
    log: int | None = None
    names: tuple[tuple[str, str], ...] = ()

    @property
    def label(self) -> str:
        """The title of a colour bar, whose values are logarithms where the axis is logarithmic."""
        return f"{'' if self.log is None else {2: 'log₂ ', 10: 'log₁₀ '}[self.log]}{self.title}"


MODEL = Axis("model", "model", names=(("lstm", "LSTM"), ("gpt", "GPT")))
MODELS = dict(MODEL.names)


@dataclass(frozen=True)
class Panel:
    """A quantity of a run: its column, its title, its axis, and what a caption says of it besides."""

    column: str
    title: str
    log: bool = False
    domain: tuple[float, float] | None = None
    about: str = ""


CURVES = (
    Panel("train_loss", "L_train (nats)", log=True),
    Panel("valid_loss", "L_val (nats)", log=True),
    Panel("train_accuracy", "A_train", domain=(0, 1)),
    Panel("valid_accuracy", "A_val", domain=(0, 1)),
)
BEST = (
    *CURVES,
    Panel("t_train_loss", "t_f(L_train)"),
    Panel("t_valid_loss", "t_f(L_val)"),
    Panel("t_train_accuracy", "t_f(A_train)"),
    Panel("t_valid_accuracy", "t_f(A_val)"),
)


def curve_panels(curves: pl.DataFrame, colour: Axis, title: str, panels: Sequence[Panel] = CURVES) -> Chart:
    """Mean over runs ± one population standard deviation against the step, one colour per value of a setting.

    The line of a mean is dotted from where the first of its runs ends.

    Args:
        curves: ``run``, ``step``, the setting's column and those of the panels, one row per run and evaluation.
        colour: the setting.
        title: over the figure.
        panels: the quantities, one panel each.
    """
    shown = curves.filter(pl.col("step") > 0)
    last = int(shown["step"].max() or 1)  # type: ignore[arg-type]  # steps are integers
    ticks = alt.Axis(values=[10**k for k in range(len(str(last)))], format="~s")
    x = alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False), axis=ticks)
    charts = []
    for panel in panels:
        frame = mean_curves(_finite(shown, panel), [colour.column], panel.column)
        if frame.is_empty():
            charts.append(_nothing(panel, _PANEL))
            continue
        base = alt.Chart(_filled(_coloured(frame, colour)))
        # with a scale of its own, the area would turn the colour bar into a row of discs
        fill = alt.Fill("fill:N", scale=None)
        area = base.mark_area(opacity=0.13).encode(x, _y(panel, "low"), alt.Y2("high"), fill)
        lines = [
            alt.Chart(_coloured(part, colour))
            .mark_line(strokeWidth=1.6, strokeJoin="round", strokeDash=dash)
            .encode(x, _y(panel, "mean"), _colour(colour, frame), alt.Detail("shade:N"))
            for part, dash in ((frame.filter("whole"), [1, 0]), (_after_the_first_end(frame, colour), [1, 3]))
            if not part.is_empty()
        ]
        charts.append(alt.layer(area.encode(alt.Detail("shade:N")), *lines).properties(**_PANEL))
    return styled(alt.concat(*charts, columns=2, title=title))


def summary_panels(
    extrema: pl.DataFrame, x: Axis, colour: Axis, title: str, panels: Sequence[Panel] = BEST, columns: int = 4
) -> Chart:
    """Every run as a point, their mean ± one population standard deviation as a line, against a setting.

    Args:
        extrema: one row per run, with the columns of both axes and of the panels.
        x: the setting along the axis.
        colour: the setting told apart by colour.
        title: over the figure.
        panels: the quantities, one panel each.
        columns: panels side by side.
    """
    values = sorted(extrema[x.column].unique().to_list())
    scale = alt.Scale(zero=False, nice=False, padding=12)
    if x.log is not None:
        scale = alt.Scale(type="log", base=x.log, nice=False, padding=12)
    # with its digits said: left alone, 0.25 and 0.75 are rounded to what tells ticks apart
    ticks = alt.Axis(values=values, format=".4~g") if len(values) <= 10 and x.log != 10 else _SPACED
    along = alt.X(f"{x.column}:Q", title=x.title, scale=scale, axis=ticks)
    by = list(dict.fromkeys([x.column, colour.column]))
    charts, size = [], {"width": 170, "height": 150}
    for panel in panels:
        kept = _finite(extrema, panel)
        if kept.is_empty():
            charts.append(_nothing(panel, size))
            continue
        frame = _coloured(spread(kept, by, panel.column), colour)
        points = _coloured(kept.select(*by, panel.column), colour)
        paint = _colour(colour, frame)
        layers = [
            alt.Chart(frame)
            .mark_rule(strokeWidth=1.2, opacity=0.7)
            .encode(along, _y(panel, "low"), alt.Y2("high"), paint),
            alt.Chart(frame).mark_line(strokeWidth=1.6).encode(along, _y(panel, "mean"), paint, alt.Detail("shade:N")),
            alt.Chart(points).mark_point(size=18, strokeWidth=1.2).encode(along, _y(panel, panel.column), paint),
        ]
        charts.append(alt.layer(*layers).properties(**size))
    return styled(alt.concat(*charts, columns=columns, title=title))


def budget_panels(
    runs: pl.DataFrame,
    x: Axis,
    colour: Axis,
    title: str,
    panels: Sequence[Panel],
    best: Callable[[pl.DataFrame, Panel], pl.DataFrame],
) -> Chart:
    """Mean over runs against what was spent, one line per value of a setting, and the best that a budget buys.

    Args:
        runs: one row per run and budget, with the columns of both axes and of the panels.
        x: what was spent, logarithmic.
        colour: the setting.
        title: over the figure.
        panels: the quantities, one panel each.
        best: from the rows that a panel shows, the column of ``x`` and the panel's, drawn as black steps.
    """
    along = alt.X(
        f"{x.column}:Q",
        title=x.title,
        scale=alt.Scale(type="log", nice=False, padding=8),
        axis=alt.Axis(format="~e", labelOverlap=True),
    )
    charts = []
    for panel in panels:
        kept = _finite(runs, panel)
        means = _coloured(kept.group_by(colour.column, x.column).agg(pl.col(panel.column).mean()), colour)
        shown = alt.Chart(means.sort(x.column)).encode(along, _y(panel, panel.column), _colour(colour, means))
        edge = alt.Chart(best(kept, panel)).encode(along, _y(panel, panel.column))
        layers = [
            shown.mark_line(strokeWidth=1.4).encode(alt.Detail("shade:N")),
            # hollow: filled ones would turn the colour bar into a row of discs
            shown.mark_point(size=18, strokeWidth=1.2),
            edge.mark_line(interpolate="step-after", color="black", strokeWidth=1.2, strokeDash=[4, 2]),
        ]
        charts.append(alt.layer(*layers).properties(width=300, height=220))
    return styled(alt.concat(*charts, columns=2, title=title))


def band_note(runs: str) -> str:
    """What lines, points and bands of these figures mean; ``runs`` is how many are behind each value."""
    return f"Mean over {runs} runs (seeds) ± one population standard deviation, kept inside what the runs took."


def _nothing(panel: Panel, size: dict[str, int]) -> Chart:
    """In the place of a panel of which there are no values."""
    told = pl.DataFrame({"text": [f"no values of {panel.title}"]})
    return alt.layer(alt.Chart(told).mark_text().encode(text="text:N")).properties(**size)


def _finite(frame: pl.DataFrame, panel: Panel) -> pl.DataFrame:
    """Rows whose value can be shown; a loss of exactly 0, which float32 reaches, as the smallest positive one."""
    value = pl.col(panel.column).cast(pl.Float64)
    kept = frame.with_columns(value).filter(pl.col(panel.column).is_finite())
    if not panel.log:
        return kept
    positive = pl.col(panel.column).filter(pl.col(panel.column) > 0)
    return kept.with_columns(pl.col(panel.column).clip(lower_bound=positive.min()))


def _after_the_first_end(means: pl.DataFrame, colour: Axis) -> pl.DataFrame:
    """What of each curve is of some of its runs only, and the last point of all of them, where it begins."""
    last_of_all = pl.col("step").filter(pl.col("whole")).max().over(colour.column)
    of_some = (~pl.col("whole")).any().over(colour.column)
    return means.filter(~pl.col("whole") | (of_some & (pl.col("step") == last_of_all)))


def _coloured(frame: pl.DataFrame, axis: Axis) -> pl.DataFrame:
    """With the column ``shade`` that the colour is read from."""
    value = pl.col(axis.column)
    if axis.names:
        return frame.with_columns(value.replace_strict(dict(axis.names), default=value).alias("shade"))
    return frame.with_columns((value if axis.log is None else value.log(axis.log)).cast(pl.Float64).alias("shade"))


def _colour(axis: Axis, frame: pl.DataFrame) -> alt.Color:
    if axis.names:
        domain = [name for key, name in axis.names if key in set(frame[axis.column])]
        named = [name for _, name in axis.names]
        legend = alt.Legend(orient="top", symbolType="stroke", symbolOpacity=1)
        colours = [COLOURS[named.index(name)] for name in domain]
        return alt.Color("shade:N", title=None, scale=alt.Scale(domain=domain, range=colours), legend=legend)
    values = sorted(_coloured(frame, axis)["shade"].unique().to_list())
    shown = values if len(values) <= 10 else alt.Undefined
    legend = alt.Legend(orient="right", type="gradient", gradientLength=150, values=shown, labelExpr=_SHORT)
    return alt.Color("shade:Q", title=axis.label, scale=_shades(axis, frame), legend=legend)


def _shades(axis: Axis, frame: pl.DataFrame) -> alt.Scale:
    values = sorted(_coloured(frame, axis)["shade"].to_list())
    return alt.Scale(range=_SHADES, domain=[values[0], values[-1]], interpolate="rgb")


def _filled(frame: pl.DataFrame) -> pl.DataFrame:
    """With the column ``fill``: the colour that the scale of :func:`_shades` gives to ``shade``, as the area's own."""
    low, high = (float(end) for end in (frame["shade"].min(), frame["shade"].max()))  # type: ignore[arg-type]
    anchors = np.array([[int(shade[i : i + 2], 16) for i in (1, 3, 5)] for shade in _SHADES])

    def colour(value: float) -> str:
        at = (value - low) / (high - low) * (len(anchors) - 1) if high > low else 0.0
        channels = [round(float(np.interp(at, range(len(anchors)), anchors[:, i]))) for i in range(3)]
        return "#" + "".join(f"{channel:02x}" for channel in channels)

    colours = {value: colour(value) for value in frame["shade"].unique().to_list()}
    return frame.with_columns(pl.col("shade").replace_strict(colours, return_dtype=pl.String).alias("fill"))


def _y(panel: Panel, field: str) -> alt.Y:
    if panel.log:
        scale, axis = alt.Scale(type="log", nice=False), alt.Axis(format="~g", tickCount=5)
    elif panel.domain is not None:
        scale, axis = alt.Scale(domain=list(panel.domain)), alt.Axis(tickCount=5)
    else:
        scale, axis = alt.Scale(zero=False), alt.Axis(format="~s", tickCount=5)
    return alt.Y(f"{field}:Q", title=panel.title, scale=scale, axis=axis)
