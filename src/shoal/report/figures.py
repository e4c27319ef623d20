"""Figures as declarative charts made from data frames.

Training and validation are told apart by colour and by dash, so that a figure survives grey printing; the colours are
Okabe and Ito's, which colour-blind readers can tell apart.
"""

from dataclasses import dataclass

import altair as alt
import polars as pl

from shoal.report.means import mean_curves

TRAIN, VALID = "training", "validation"
_SPLITS = {"train": TRAIN, "valid": VALID}
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_WIDTH, _HEIGHT = 380, 240

Chart = alt.LayerChart | alt.FacetChart | alt.ConcatChart

AXIS = {"loss": "loss (nats)", "accuracy": "accuracy"}


@dataclass(frozen=True)
class Figure:
    """A chart with the caption that explains it; ``name`` names its files."""

    name: str
    chart: Chart
    caption: str


def long_curves(curves: pl.DataFrame, quantity: str) -> pl.DataFrame:
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
    if quantity == "accuracy":
        return long
    positive = pl.col("value").filter(pl.col("value") > 0)
    return long.with_columns(pl.col("value").clip(lower_bound=positive.min()))


def lines_note(runs: int, seeds: str = "") -> str:
    """What the lines of :func:`learning_curves` and their shade are, ``seeds`` said besides."""
    return (
        f"Thin lines: each of N = {runs} runs{seeds}; thick: their mean, as far as all of them go; shaded: mean ± one "
        "population standard deviation, kept inside what the runs took."
    )


def learning_curves(curves: pl.DataFrame, quantity: str, title: str) -> Chart:
    """Loss or accuracy on both splits against the training step, on a logarithmic axis from step 1.

    Every run is a thin line; the thick one is their mean, with one standard deviation around it, as far as all go.
    """
    shown = curves.filter(pl.col("step") > 0)
    x = alt.X("step:Q", title="training step", scale=alt.Scale(type="log", nice=False), axis=_log_steps(shown))
    colour = alt.Color(
        "split:N", title=None, scale=alt.Scale(domain=[TRAIN, VALID], range=COLOURS[:2]), legend=_legend()
    )
    dash = alt.StrokeDash("split:N", title=None, scale=alt.Scale(domain=[TRAIN, VALID], range=[[1, 0], [5, 3]]))
    scale = alt.Scale(type="log", nice=False) if quantity == "loss" else alt.Scale(domain=[0, 1])
    axis = alt.Axis(format="~g", tickCount=6) if quantity == "loss" else alt.Axis(format=".1f")
    long = long_curves(shown, quantity)
    summary = alt.Chart(mean_curves(long, ["split"], "value").filter("whole"))

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", scale=scale, title=AXIS[quantity], axis=axis)

    layers = [
        summary.mark_area(opacity=0.18).encode(x, y("low"), alt.Y2("high"), colour),
        alt.Chart(long)
        .mark_line(strokeWidth=0.6, opacity=0.45, strokeJoin="round")
        .encode(x, y("value"), colour, alt.Detail("run:N")),
        summary.mark_line(strokeWidth=2.2, strokeJoin="round").encode(x, y("mean"), colour, dash),
    ]
    return styled(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=title))


def styled(chart: Chart) -> Chart:
    """The look that all figures share."""
    config = {
        "view": {"stroke": None},
        "axis": {"gridColor": "#e6e6e6", "labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"},
        "title": {"fontSize": 13, "anchor": "start"},
        "legend": {"labelFontSize": 11, "symbolStrokeWidth": 2.2},
    }
    return chart.properties(config=config)


def _log_steps(curves: pl.DataFrame) -> alt.Axis:
    last = int(curves["step"].max() or 1)  # type: ignore[arg-type]  # steps are integers
    return alt.Axis(values=[10**k for k in range(len(str(last)))], format="~s")


def _legend() -> alt.Legend:
    return alt.Legend(orient="top", direction="horizontal", symbolType="stroke", symbolOpacity=1, symbolSize=400)
