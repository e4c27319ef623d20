"""Figures as declarative charts made from data frames.

Training and validation are told apart by colour and by dash, so that a figure survives grey printing; the colours are
Okabe and Ito's, which colour-blind readers can tell apart.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import altair as alt
import polars as pl

from shoal.measures import EQUATIONS, Measure, Measures
from shoal.report.ceiling import ceiling, cut_title, log_scale
from shoal.report.gaps import GAP_NOTE, broken, with_gaps
from shoal.report.means import mean_curves, quantiles
from shoal.report.quantities import plain
from shoal.report.thinning import HITS, PER_MEAN, points_per_line, thin_lines
from shoal.report.words import counted, number

TRAIN, VALID = "training", "validation"
_SPLITS = {"train": TRAIN, "valid": VALID}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_WIDTH, _HEIGHT = 380, 240
# Most runs drawn as lines, two of each: of more the eye sees an area without shape, which quantiles have.
MOST_LINES = 50

# One typeface for all text of page and figures: what vl-convert brings along, and elsewhere those cut to its measures.
FONT = '"Liberation Sans", Arial, Helvetica, sans-serif'
# What it has no signs for: in figures they would be borrowed from another typeface.
_SUBSTITUTES = {**{ord(sub): str(digit) for digit, sub in enumerate("₀₁₂₃₄₅₆₇₈₉")}, ord("‖"): "|", ord("∝"): "~"}

STEPS_NOTE = "Across: the training step, on a logarithmic axis from step 1."
BAND_NOTE = "Shaded: mean ± one population standard deviation, no farther than the lowest and the highest run."

Chart = alt.LayerChart | alt.FacetChart | alt.ConcatChart

# d3 gives all ticks of an axis one prefix, and writes 0 with it
STEPS_LABEL = "datum.value === 0 ? '0' : datum.label"


@dataclass(frozen=True)
class Figure:
    """A chart with the caption that explains it; ``name`` names its files."""

    name: str
    chart: Chart
    caption: str

    @property
    def alt(self) -> str:
        """Text alternative of the chart, for readers who cannot see it."""
        return str(self.spec["description"])

    @cached_property
    def spec(self) -> dict[str, Any]:
        """Specification of the chart in Vega-Lite, with all of its rows, however many they are."""
        with alt.data_transformers.enable("default", max_rows=None):
            spec = self.chart.to_dict()
        return dict(_in_one_typeface(spec))


def styled(chart: Chart, alternative: str) -> Chart:
    """The look that all figures share.

    Args:
        chart: the chart.
        alternative: text alternative, in words and numbers, for readers who cannot see the chart.
    """
    config = {
        "font": FONT,
        "view": {"stroke": None},
        "axis": {"gridColor": "#e6e6e6", "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"},
        "title": {"fontSize": 13, "anchor": "start"},
        "legend": {"labelFontSize": 11, "symbolStrokeWidth": 2.2, "labelLimit": 240},
    }
    return chart.properties(config=config, description=alternative)


def _in_one_typeface(spec: Any) -> Any:
    if isinstance(spec, str):
        return spec.translate(_SUBSTITUTES)
    if isinstance(spec, list):
        return [_in_one_typeface(part) for part in spec]
    return {key: _in_one_typeface(part) for key, part in spec.items()} if isinstance(spec, dict) else spec


def long_curves(curves: pl.DataFrame, quantity: str, measures: Measures = EQUATIONS) -> pl.DataFrame:
    """``run``, ``step``, ``split`` and ``value``: one row per evaluation and split.

    Values that are not finite are left out. A loss of exactly 0, which float32 reaches, is shown as the smallest
    positive one, because it has no place on a logarithmic axis.
    """
    columns = {f"{split}_{quantity}": name for split, name in _SPLITS.items()}
    long = (
        curves.select("run", "step", *columns)
        .unpivot(index=["run", "step"], on=list(columns), variable_name="split", value_name="value")
        .with_columns(pl.col("split").replace_strict(columns), pl.col("value").cast(pl.Float64))
        .filter(pl.col("value").is_finite())
    )
    if not measures[quantity].is_log:
        return long
    positive = pl.col("value").filter(pl.col("value") > 0)
    return long.with_columns(pl.col("value").clip(lower_bound=positive.min()))


def lines_note(runs: int, seeds: str = "") -> str:
    """Meaning of the lines and shades of :func:`learning_curves`; ``seeds`` stands behind the number of runs."""
    if runs > MOST_LINES:
        return (
            f"{STEPS_NOTE} N = {runs:,} runs{seeds}, too many to tell apart as lines. Lightly shaded: the middle 90 % "
            "of the runs at each step. Darker: the middle half. Thick lines: the mean over the runs, up to the step "
            f"at which the first of them ends. {GAP_NOTE}"
        )
    return (
        f"{STEPS_NOTE} Thin lines: single runs, N = {runs}{seeds}. Thick lines: the mean over the runs, up to the "
        f"step at which the first of them ends. {BAND_NOTE} {GAP_NOTE}"
    )


def learning_curves(
    curves: pl.DataFrame, quantity: str, title: str, measures: Measures = EQUATIONS, log_x: bool = True
) -> Chart:
    """Loss, accuracy or another measure on both splits against the training step, on a logarithmic axis from step 1.

    Every run is a thin line; the thick one is their mean, with one standard deviation around it, as far as all go. Of
    more than :data:`MOST_LINES` runs quantiles take the place of lines. Means and bands are of all runs and steps;
    lines are thinned (:mod:`shoal.report.thinning`). A loss of ten times the largest at the start and more is cut off
    (:mod:`shoal.report.ceiling`). Without ``log_x`` the axis is linear, from step 0.
    """
    shown = curves.filter(pl.col("step") > 0) if log_x else curves
    colour = alt.Color(
        "split:N", title=None, scale=alt.Scale(domain=[TRAIN, VALID], range=COLOURS[:2]), legend=_legend()
    )
    dash = alt.StrokeDash("split:N", title=None, scale=alt.Scale(domain=[TRAIN, VALID], range=[[1, 0], [5, 3]]))
    measure = measures[quantity]
    top = ceiling(long_curves(curves, quantity, measures), "value") if measure.is_log else None
    is_cut = top is not None
    scale, axis = _value_scale(measure, top)
    log, hits = measure.is_log, HITS if measure.bounds == (0, 1) else ()
    long = long_curves(shown, quantity, measures)
    means = with_gaps(mean_curves(long, ["split"], "value").filter("whole"), ["split"])
    x = alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False), axis=log_steps(means))
    if not log_x:
        x = alt.X("step:Q", title="training step", axis=alt.Axis(format="~s", tickCount=6, labelExpr=STEPS_LABEL))
    summary = thin_lines(means, ["split"], ["mean", "low", "high"], PER_MEAN, hits, "beside", log)

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, title=cut_title(measure.axis, top), axis=axis)

    runs = long["run"].n_unique()
    if runs > MOST_LINES:
        behind = _bands(long, means, x, y, colour, log, is_cut)
    else:
        lines = thin_lines(long, ["run", "split"], ["value"], points_per_line(2 * runs), hits, log=log)
        behind = [
            alt.Chart(summary.select("split", "step", "low", "high"))
            .mark_area(fillOpacity=0.18, clip=is_cut)
            .encode(x, y("low"), alt.Y2("high"), colour),
            alt.Chart(_numbered(lines))
            .mark_line(strokeWidth=0.6, strokeOpacity=0.45, strokeJoin="round", clip=is_cut)
            .encode(x, y("value"), colour, alt.Detail("run:N")),
        ]
    middle = alt.Chart(broken(summary, ["split"], "mean").select("split", "step", "mean"))
    dots = alt.Chart(summary.filter("beside").select("split", "step", "mean"))
    layers = [
        *behind,
        alt.Chart(summary.select("split", "step", "mean"))
        .mark_line(strokeWidth=0.8, strokeOpacity=0.6, clip=is_cut)
        .encode(x, y("mean"), colour),
        middle.mark_line(strokeWidth=2.2, strokeJoin="round", clip=is_cut).encode(x, y("mean"), colour, dash),
        dots.mark_point(filled=True, size=14, opacity=1, clip=is_cut).encode(x, y("mean"), colour),
    ]
    alternative = f"{title}. {_told(means, measure)} Mean over {counted(runs, 'run')}."
    return styled(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=title), alternative)


def _value_scale(measure: Measure, top: float | None) -> tuple[alt.Scale, alt.Axis]:
    """Logarithmic, perhaps up to an end, between the bounds of the values, or as the values are."""
    if measure.is_log:
        return log_scale(top), alt.Axis(format="~g", tickCount=6)
    bounds = plain(measure.bounds)
    if bounds is None:
        return alt.Scale(zero=False), alt.Axis(format="~g", tickCount=6)
    return alt.Scale(domain=list(bounds)), alt.Axis(format=".1f" if bounds == (0, 1) else "~g")


def _bands(
    long: pl.DataFrame, means: pl.DataFrame, x: alt.X, y: Any, colour: alt.Color, log: bool, is_cut: bool
) -> list[alt.Chart]:
    """The middle 90 % and the middle half of the runs, at the steps at which there is a mean of all."""
    columns = ["q05", "q25", "q75", "q95"]
    bands = quantiles(long, ["split", "step"], "value").join(means.select("split", "step"), on=["split", "step"])
    bands = thin_lines(bands.sort("split", "step"), ["split"], columns, PER_MEAN, log=log)
    base = alt.Chart(bands.select("split", "step", *columns))
    return [
        base.mark_area(fillOpacity=opacity, clip=is_cut).encode(x, y(low), alt.Y2(high), colour)
        for low, high, opacity in (("q05", "q95", 0.16), ("q25", "q75", 0.28))
    ]


def _numbered(lines: pl.DataFrame) -> pl.DataFrame:
    """Runs by numbers and values to the digits that can be seen: a page holds many."""
    return lines.with_columns(
        (pl.col("run").rank("dense") - 1).cast(pl.Int64).alias("run"), pl.col("value").round_sig_figs(5)
    )


def _told(means: pl.DataFrame, measure: Measure) -> str:
    """First and last mean of each split, and the first step at which it passed the threshold, in words."""
    parts = []
    for split in (TRAIN, VALID):
        line = means.filter(split=split).sort("step")
        if line.is_empty():
            continue
        (first, start), (last, end) = line.select("step", "mean").row(0), line.select("step", "mean").row(-1)
        text = f"{split} {measure.words} goes from {number(start)} at step {first:,} to {number(end)} at step {last:,}"
        for threshold in measure.thresholds[:1]:
            there = line.filter(
                pl.col("mean") >= threshold if measure.higher_is_better else pl.col("mean") <= threshold
            )
            side = "least" if measure.higher_is_better else "most"
            if len(there):
                text += f", and is first seen to be at {side} {threshold:g} at step {there['step'][0]:,}"
        parts.append(text)
    return "; ".join(parts).capitalize() + "." if parts else "There are no values."


def log_steps(curves: pl.DataFrame) -> alt.Axis:
    """Powers of ten up to the last step; numbers between them where fewer than two lie among the steps."""
    steps = curves.filter(pl.col("step") > 0)["step"]
    first, last = (int(steps.min() or 1), int(steps.max() or 1)) if len(steps) else (1, 1)  # type: ignore[arg-type]
    powers = [10**k for k in range(len(str(last)))]
    if sum(first <= power for power in powers) < 2:
        powers = [m * power for power in powers for m in (1, 2, 3, 5, 7) if first <= m * power <= last] or [first, last]
    return alt.Axis(values=powers, format="~s", labelExpr=STEPS_LABEL)


def _legend() -> alt.Legend:
    return alt.Legend(orient="top", direction="horizontal", symbolType="stroke", symbolOpacity=1, symbolSize=400)
