"""Figures of several panels: curves told apart by a colour bar, and summaries against a setting."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import altair as alt
import polars as pl

from shoal.measures import EQUATIONS, Measures
from shoal.report.along import along_numbers, beside_zero, in_places, marked_means
from shoal.report.ceiling import ceiling, cut_title, log_scale
from shoal.report.each_run import model_label
from shoal.report.figures import STEPS_LABEL, Chart, log_steps, styled
from shoal.report.gaps import broken, with_gaps
from shoal.report.means import mean_curves, spread
from shoal.report.quantities import Panel, best_panels_of, got_there, is_open, panels_of
from shoal.report.schedule import SETTINGS, evaluated_before
from shoal.report.shades import colour as colour_of
from shoal.report.shades import painted
from shoal.report.thinning import HITS, points_per_line, thin_lines, thin_points
from shoal.report.words import listed, number

MOST_BANDS = 12  # curves; the bands of more hide each other
_MOST_POINTS = 1_000  # of a panel; of more those at the same place are drawn once
_CELLS = 150  # places along each axis of a panel: about its pixels
_NO_TIME = "has no value that counts as a time"
_PANEL = {"width": 250, "height": 170}


@dataclass(frozen=True)
class Axis:
    """A setting as an axis or a colour bar.

    Attributes:
        column: its column.
        title: in words, with its symbol.
        log: base of a logarithmic axis; None for a linear one.
        names: text for each value, where values are names.
    """

    column: str
    title: str
    log: int | None = None
    names: tuple[tuple[Any, str], ...] = ()

    @property
    def label(self) -> str:
        """The title, with how its colours go."""
        return self.title if self.log is None else f"{self.title} (logarithmic)"


MODEL = Axis("model", "model", names=tuple((name, model_label(name)) for name in ("lstm", "gpt")))
MODELS: dict[str, str] = dict(MODEL.names)  # those of the practical, whose questions the studies ask


CURVES, BEST = panels_of(EQUATIONS), best_panels_of(EQUATIONS)


def curve_panels(curves: pl.DataFrame, colour: Axis, title: str, panels: Sequence[Panel] = CURVES) -> Chart:
    """Mean over runs ± one population standard deviation against the step, one colour per value of a setting.

    The line of a mean is dotted from where the first of its runs ends, and pale across wide gaps between evaluations,
    with dots at their ends. Of more than :data:`MOST_BANDS` values there are no bands. Means and bands are of all runs
    and steps; what is drawn of them is thinned (:mod:`shoal.report.thinning`). A loss of ten times the largest at the
    start and more is cut off (:mod:`shoal.report.ceiling`).

    Args:
        curves: ``run``, ``step``, the setting's column and those of the panels, one row per run and evaluation.
        colour: the setting.
        title: over the figure.
        panels: the quantities, one panel each.
    """
    shown = curves.filter(pl.col("step") > 0)
    x = alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False), axis=log_steps(shown))
    charts, described = [], []
    for whole in panels:
        panel = replace(whole, top=ceiling(curves, whole.column)) if whole.log else whole
        frame = mean_curves(_finite(shown, panel), [colour.column], panel.column)
        if frame.is_empty():
            charts.append(_nothing(panel, _PANEL))
            continue
        charts.append(_curve_panel(with_gaps(frame, [colour.column]), x, colour, panel))
        last = frame.group_by(colour.column).agg(pl.col("mean").sort_by("step").last()).sort(colour.column)
        described.append(f"{panel.title} {_ends_in_words(last, colour, 'mean')}")
    alternative = f"{title}. Means at the last step: {'; '.join(described)}."
    return styled(alt.concat(*charts, columns=2, title=title), alternative)


def _curve_panel(frame: pl.DataFrame, x: alt.X, colour: Axis, panel: Panel) -> Chart:
    by, is_cut = [colour.column], panel.top is not None
    lines = frame[colour.column].n_unique()
    budget, hits = points_per_line(lines), HITS if panel.domain == (0, 1) else ()
    paint, detail = colour_of(colour, frame), alt.Detail("shade:N")
    thinned = thin_lines(frame, by, ["mean", "low", "high"], budget, hits, "beside", panel.log).with_columns(
        pl.col("mean", "low", "high").round_sig_figs(5)
    )
    all_ = painted(thinned, colour)
    layers = []
    if lines <= MOST_BANDS:
        base = alt.Chart(all_.select("step", "low", "high", "shade", "fill"))
        area = base.mark_area(fillOpacity=0.13, clip=is_cut)
        layers.append(area.encode(x, _y(panel, "low"), alt.Y2("high"), alt.Fill("fill:N", scale=None), detail))
    for part, dash in ((thinned.filter("whole"), [1, 0]), (_after_the_first_end(thinned, colour), [1, 3])):
        if not part.is_empty():
            line = painted(broken(part, by, "mean"), colour).select("step", "mean", "shade")
            mark = alt.Chart(line).mark_line(strokeWidth=1.6, strokeJoin="round", strokeDash=dash, clip=is_cut)
            layers.append(mark.encode(x, _y(panel, "mean"), paint, detail))
    if beside := all_.filter("beside").height:
        if thinned["gap"].any():
            pale = alt.Chart(_across(thinned, colour)).mark_line(strokeWidth=0.7, strokeOpacity=0.6, clip=is_cut)
            layers.append(pale.encode(x, _y(panel, "mean"), paint, alt.Detail(["shade:N", "bridge:N"])))
        # of many curves dots would hide each other
        dots = alt.Chart(all_.filter("beside").select("step", "mean", "fill")).mark_point(
            filled=True, stroke=None, opacity=1, size=9 if beside < _MOST_POINTS else 3, clip=is_cut
        )
        layers.append(dots.encode(x, _y(panel, "mean"), alt.Fill("fill:N", scale=None)))
    return alt.layer(*layers).properties(**_PANEL)


def summary_panels(
    extrema: pl.DataFrame, x: Axis, colour: Axis, title: str, panels: Sequence[Panel] = BEST, columns: int = 4
) -> Chart:
    """Panels with every run as a point, their mean ± one population standard deviation as a line, against a setting.

    A first step is a time only of a run that reached the threshold and then got no better: others are hollow, and there
    is a mean where all runs have one. A bar goes down from it to the evaluation before, after which it happened.

    Args:
        extrema: one row per run, with the columns of both axes and of the panels, and where these show first steps
            ``last_step`` and the best values; perhaps ``eval_first`` and ``eval_period``.
        x: the setting along the axis.
        colour: the setting told apart by colour.
        title: over the figure.
        panels: the quantities, one panel each.
        columns: panels side by side.
    """
    asked = x
    if x.names:
        extrema, x, along = in_places(extrema, x, colour)
    else:
        along = along_numbers(sorted(extrema[x.column].unique().to_list()), x)
    charts, described, size = [], [], {"width": 170, "height": 150}
    for panel in panels:
        finite = _finite(extrema, panel)
        if finite.is_empty():
            charts.append(_nothing(panel, size))
            continue
        charts.append(_summary_panel(_timed(finite, panel), x, colour, panel, along).properties(**size))
        timed = _timed(finite, panel)
        known = timed.filter("settled") if "settled" in timed.columns else timed  # what is drawn hollow is no value
        ends = known.group_by(asked.column).agg(pl.col(panel.column).mean()).sort(asked.column)
        described.append(f"{panel.title} {_ends_in_words(ends, asked, panel.column) if len(ends) else _NO_TIME}")
    alternative = f"{title}. Means over all runs at the ends of the axis: {'; '.join(described)}."
    return styled(alt.concat(*charts, columns=columns, title=title), alternative)


def _summary_panel(runs: pl.DataFrame, x: Axis, colour: Axis, panel: Panel, along: alt.X) -> Chart:
    by = list(dict.fromkeys([x.column, colour.column]))
    all_settled = runs.group_by(by).agg(pl.col("settled").all())
    means = spread(runs, by, panel.column).join(all_settled, on=by, how="left", maintain_order="left")
    # a row without a value breaks the line
    means = means.with_columns(pl.when("settled").then(name).alias(name) for name in ("mean", "low", "high"))
    means = painted(means, colour)
    height = pl.col(panel.column).log() if panel.log else pl.col(panel.column)
    places = [_place_along(runs, x), height]
    points = painted(thin_points(runs, [colour.column, "settled"], places, _CELLS, _MOST_POINTS), colour)
    fill = alt.Fill("fill:N", scale=None)
    # the colour bar is that of lines and hollow points; if none is drawn it would be empty
    paint, column = colour_of(colour, means), panel.column
    shown = list(dict.fromkeys([*by, column, "shade", "fill"]))
    whole = means.filter(pl.col("mean").is_not_null())
    layers = [
        alt.Chart(whole)
        .mark_rule(strokeWidth=1.2, strokeOpacity=0.7)
        .encode(along, _y(panel, "low"), alt.Y2("high"), paint),
        marked_means(means, is_joined=not x.names).encode(along, _y(panel, "mean"), paint, alt.Detail("shade:N")),
        alt.Chart(points.filter(~pl.col("settled")).select(shown))
        .mark_point(size=18, strokeWidth=1.2, opacity=1, strokeOpacity=0.7)
        .encode(along, _y(panel, column), paint),
        alt.Chart(points.filter("settled").select(shown))
        .mark_point(size=18, filled=True, stroke=None, opacity=1, fillOpacity=0.85)
        .encode(along, _y(panel, column), fill),
    ]
    if "after" in points.columns:
        width = alt.Chart(points.filter("settled").select(*shown, "after"))
        bars = width.mark_rule(strokeWidth=3, strokeOpacity=0.25)
        layers.insert(0, bars.encode(along, _y(panel, "after"), alt.Y2(column), paint))
    return alt.layer(*layers)


def _place_along(runs: pl.DataFrame, x: Axis) -> pl.Expr:
    """Place of each run along an axis, up to a factor."""
    value = pl.col(x.column).cast(pl.Float64)
    if x.log is not None:
        return value.log()
    constant = beside_zero(runs[x.column].unique().to_list())
    return value if constant is None else (value / constant).log1p()


def _timed(runs: pl.DataFrame, panel: Panel) -> pl.DataFrame:
    """Runs with ``settled``, whether a value is final, and for a first step ``after``, the evaluation before it."""
    if panel.step_of is None:
        return runs.with_columns(settled=pl.lit(True))
    split = panel.column.split("_")[1]
    settled = got_there(split, panel.step_of) & ~is_open(panel.column, panel.step_of)
    runs = runs.with_columns(settled=settled)
    known = set(SETTINGS) <= set(runs.columns)
    return runs.with_columns(after=evaluated_before(panel.column)) if known else runs


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
        x: the quantity that was spent, on a logarithmic axis.
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
    charts, described = [], []
    for panel in panels:
        finite = _finite(runs, panel)
        means = painted(finite.group_by(colour.column, x.column).agg(pl.col(panel.column).mean()), colour)
        shown = alt.Chart(means.sort(x.column)).encode(along, _y(panel, panel.column), colour_of(colour, means))
        edge = alt.Chart(best(finite, panel)).encode(along, _y(panel, panel.column))
        layers = [
            shown.mark_line(strokeWidth=1.4).encode(alt.Detail("shade:N")),
            # hollow: filled ones would turn the colour bar into a row of discs
            shown.mark_point(size=18, strokeWidth=1.2, opacity=1, strokeOpacity=0.7),
            edge.mark_line(interpolate="step-after", color="black", strokeWidth=1.2, strokeDash=[4, 2]),
        ]
        charts.append(alt.layer(*layers).properties(width=300, height=220))
        ends = means.group_by(x.column).agg(pl.col(panel.column).mean()).sort(x.column)
        described.append(f"{panel.title} {_ends_in_words(ends, x, panel.column)}")
    alternative = f"{title}. Means over all lines at the ends of the axis: {'; '.join(described)}."
    return styled(alt.concat(*charts, columns=2, title=title), alternative)


def times_note(measures: Measures) -> str:
    """Meaning of the hollow points and the bars of :func:`summary_panels`."""
    without = "" if measures.generalised is None else f"did not reach the threshold ({measures.learned_on('or')}) or "
    which = "" if measures.generalised is None else ", which is no time to memorise or to generalise"
    return (
        f"Hollow points: t_f of a run that {without}was best at its last evaluation{which}. A mean of t_f stands where "
        "all runs have one. Pale bars: back to the evaluation before, since which the event happened."
    )


TIMES_NOTE = times_note(EQUATIONS)


def band_note(runs: str, curves: int = 0, over: str = "seeds") -> str:
    """Meaning of the lines and bands of these figures.

    Args:
        runs: number of runs behind each mean, in words.
        curves: number of means in a panel.
        over: the setting in which the runs of a mean differ.
    """
    noun = "run" if runs == "N = 1" else "runs"
    if curves > MOST_BANDS:
        return (
            f"Lines: mean over {runs} {noun} ({over}), without bands, which of {curves} curves would hide each other."
        )
    return (
        f"Lines: mean over {runs} {noun} ({over}), ± one population standard deviation, no farther than the lowest and "
        "the highest run."
    )


def _ends_in_words(frame: pl.DataFrame, axis: Axis, column: str, most: int = 4) -> str:
    """``0.3 (weight decay 0.25), 0.1 (weight decay 1)``: of few values all, of many the first and the last."""
    rows = frame.select(axis.column, column).rows()
    rows = rows if len(rows) <= most else [rows[0], rows[-1]]
    names = dict(axis.names)
    parts = [
        f"{number(value)} ({names.get(key, f'{axis.title} {number(key) if not isinstance(key, str) else key}')})"
        for key, value in rows
    ]
    return listed(parts)


def _nothing(panel: Panel, size: dict[str, int]) -> Chart:
    """Message in place of a panel that has no values."""
    message = pl.DataFrame({"text": [f"no values of {panel.title}"]})
    return alt.layer(alt.Chart(message).mark_text().encode(text="text:N")).properties(**size)


def _finite(frame: pl.DataFrame, panel: Panel) -> pl.DataFrame:
    """Rows whose value can be shown; a loss of exactly 0, which float32 reaches, as the smallest positive one."""
    value = pl.col(panel.column).cast(pl.Float64)
    finite = frame.with_columns(value).filter(pl.col(panel.column).is_finite())
    if not panel.log:
        return finite
    positive = pl.col(panel.column).filter(pl.col(panel.column) > 0)
    return finite.with_columns(pl.col(panel.column).clip(lower_bound=positive.min()))


def _after_the_first_end(means: pl.DataFrame, colour: Axis) -> pl.DataFrame:
    """Part of each curve behind the end of its first run, from the last point that is a mean of all runs."""
    last_of_all = pl.col("step").filter(pl.col("whole")).max().over(colour.column)
    of_some = (~pl.col("whole")).any().over(colour.column)
    return means.filter(~pl.col("whole") | (of_some & (pl.col("step") == last_of_all)))


def _across(means: pl.DataFrame, colour: Axis) -> pl.DataFrame:
    """Both ends of each wide gap, as a line of its own: ``bridge``."""
    before = {name: pl.col(name).shift(1).over(colour.column) for name in ("step", "mean")}
    ends = means.with_row_index("bridge")
    starts = ends.with_columns(**before).filter("gap")
    bridges = pl.concat([starts, ends.filter("gap")])
    return painted(bridges, colour).select("bridge", "step", "mean", "shade")


def _y(panel: Panel, field: str) -> alt.Y:
    if panel.log:
        scale, axis = log_scale(panel.top), alt.Axis(format="~g", tickCount=5)
    elif panel.domain is not None:
        scale, axis = alt.Scale(domain=list(panel.domain)), alt.Axis(tickCount=5)
    else:
        scale, axis = alt.Scale(zero=False), alt.Axis(format="~s", tickCount=5, labelExpr=STEPS_LABEL)
    return alt.Y(f"{field}:Q", title=cut_title(panel.title, panel.top), scale=scale, axis=axis)
