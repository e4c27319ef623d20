"""Figures of a fitted scaling law."""

import math

import altair as alt
import numpy as np
import polars as pl

from shoal.analysis.held_out import LAW, POWER
from shoal.analysis.scaling import ScalingFit
from shoal.analysis.scaling_law import FLOP_PER_PARAMETER_AND_TOKEN
from shoal.report.figures import Chart, Figure, styled
from shoal.report.thinning import thin_points

_BLUE, _ORANGE, _GREY = "#0072B2", "#D55E00", "#666666"
_WIDTH, _HEIGHT = 420, 270
_CURVES, _POINTS, _MOST_TICKS = 5, 120, 8
_MOST_DRAWN, _CELLS = 1_000, 140  # points of a figure, and places along its axes: every third pixel
_POWER = "replace(format(datum.value, '~e'), '+', '')"
_PERCENT_TICKS = [-50, -20, -10, -5, -2, -1, 0, 1, 2, 5, 10, 20, 50]


def loss_against_parameters(fit: ScalingFit) -> Figure:
    """Runs coloured by compute, with curves of equal compute."""
    curves, ends = _curves(fit), _ends(fit.runs["flop"])
    colour = alt.Color(
        "flop:Q",
        title="compute (FLOP)",
        scale=alt.Scale(type="log", scheme="viridis", domain=ends),
        legend=alt.Legend(labelExpr=_POWER, values=_ticks(*ends)),
    )
    losses = _ends(fit.runs["loss"], 1.02)
    scale = alt.Scale(type="log", nice=False, domain=losses)
    x = _logarithmic("parameters", "parameters N", _ends(fit.runs["parameters"], 1.15))
    y = alt.Y("loss:Q", title="loss", scale=scale, axis=_loss_axis(*losses))
    runs = fit.runs.select("parameters", "loss", "flop", "outlier")
    points = alt.Chart(_once(runs, "outlier", pl.col("parameters").log(), pl.col("loss").log()))
    layers = [
        alt.Chart(curves).mark_line(clip=True, strokeWidth=1.8).encode(x, y, colour, alt.Detail("flop:N")),
        points.transform_filter("!datum.outlier")
        .mark_circle(size=26, opacity=1, fillOpacity=0.75)
        .encode(x, y, colour),
        points.transform_filter("datum.outlier")
        .mark_point(size=48, shape="cross", angle=45, filled=True, opacity=1)
        .encode(x, y, colour),
    ]
    budgets = ", ".join(f"{flop:.2g}" for flop in curves["flop"].unique(maintain_order=True).to_list())
    caption = (
        f"Loss against parameters, both axes logarithmic. Points: N = {len(fit.runs)} runs, coloured by compute C = "
        f"6 N D; crosses: the {fit.runs['outlier'].sum()} outliers. Curves: the law fitted to {fit.chosen.runs} runs, "
        f"at equal compute of {budgets.replace('e+', 'e')} FLOP in the same colours; the lowest point of each is the "
        f"best size for that compute.{_many(len(runs))}"
    )
    least, most = _ends(fit.runs["loss"])
    alternative = (
        f"{len(runs)} runs of {ends[0]:.2g} to {ends[1]:.2g} FLOP; loss from {least:.3g} to {most:.3g}, with the law's "
        "curves at equal compute."
    )
    return Figure("loss-parameters", _layer(layers, "Loss and size, by compute", alternative), caption)


def residuals(fit: ScalingFit) -> Figure:
    """Residuals against the predicted loss."""
    frame = fit.runs.select(
        "predicted",
        (100 * (pl.col("loss") / pl.col("predicted") - 1)).alias("percent"),
        pl.when("outlier").then(pl.lit("outlier")).otherwise(pl.lit("run")).alias("kind"),
    )
    drawn = _once(frame, "kind", pl.col("predicted").log(), pl.col("percent").arcsinh())
    shape, colour = _kinds("kind", ["run", "outlier"])
    losses, y = _ends(frame["predicted"], 1.02), _percent(frame)
    x = alt.X(
        "predicted:Q",
        title="predicted loss",
        scale=alt.Scale(type="log", nice=False, domain=losses),
        axis=_loss_axis(*losses),
    )
    layers = [
        _zero(y),
        alt.Chart(drawn).mark_point(filled=True, size=30, opacity=1, fillOpacity=0.7).encode(x, y, shape, colour),
    ]
    caption = (
        f"How far observed loss lies above (+) or below (−) the law's prediction, in percent, against the prediction; "
        f"N = {len(frame)} runs, the law fitted to {fit.chosen.runs}. The vertical axis is nearly linear within ±1 % "
        "and logarithmic beyond. An outlier has a log residual of more than 5 robust standard deviations (median "
        f"absolute deviation) under the law of the others.{_many(len(frame))}"
    )
    alternative = f"Median distance from the prediction: {_percents(frame, 'kind')}."
    return Figure("residuals", _layer(layers, "Observed and predicted loss", alternative), caption)


def best_use(fit: ScalingFit, budgets: list[float], resamples: int) -> Figure | None:
    """The best parameters and tokens against the budget, with their intervals; None where the law names none."""
    smallest, largest = _ends(fit.runs["flop"])
    grid = np.geomspace(min(*budgets, smallest), max(*budgets, largest), 60).tolist()
    frame = fit.chosen.optimum(grid)
    names = {"parameters": "parameters N", "tokens": "tokens D"}
    long = pl.concat(
        frame.select("flop", pl.lit(label).alias("what"), value=pl.col(name), low=f"{name}_low", high=f"{name}_high")
        for name, label in names.items()
    ).filter(pl.col("value").is_finite() & (pl.col("value") > 0))
    if long.is_empty():
        return None
    labels = list(names.values())
    colour = alt.Color("what:N", title=None, scale=alt.Scale(domain=labels, range=[_BLUE, _ORANGE]), legend=_lines())
    dash = alt.StrokeDash("what:N", title=None, scale=alt.Scale(domain=labels, range=[[1, 0], [6, 3]]))
    x = _logarithmic("flop", "compute C (FLOP)", [grid[0], grid[-1]])
    ends = [long["value"].to_numpy().min() / 3, long["value"].to_numpy().max() * 3]
    scale = alt.Scale(type="log", nice=False, domain=ends)
    y = alt.Y("value:Q", title="best number", scale=scale, axis=_axis(*ends))
    base = alt.Chart(long.drop("low", "high"))  # JSON has no NaN
    within = long.filter(pl.col("low").is_finite() & pl.col("high").is_finite() & (pl.col("low") > 0))
    layers = [
        alt.Chart(pl.DataFrame({"flop": [largest]})).mark_rule(color=_GREY, strokeDash=[2, 3]).encode(x),
        base.mark_line(strokeWidth=2.2).encode(x, y, colour, dash),
    ]
    if not within.is_empty():
        area = alt.Chart(within).mark_area(fillOpacity=0.2, clip=True)
        layers.insert(0, area.encode(x, alt.Y("low:Q", scale=scale), alt.Y2("high"), colour))
    bands = f"Bands: pointwise 95 % percentile intervals over {resamples:,} bootstrap resamples. "
    caption = (
        "The parameters and tokens of the smallest loss for a budget C = 6 N D, by the law fitted to "
        f"{fit.chosen.runs} runs. {bands if resamples else ''}Dotted: the largest compute of the runs; everything to "
        "its right is extrapolated."
    )
    best = frame.row(-1, named=True)
    alternative = (
        f"At {best['flop']:.2g} FLOP the best number of parameters is {best['parameters']:.2g} and of tokens "
        f"{best['tokens']:.2g}; both rise with the budget as straight lines on logarithmic axes."
    )
    return Figure("best-use", _layer(layers, "Best use of a budget", alternative), caption)


def held_out(fit: ScalingFit) -> Figure | None:
    """Residuals against compute, under laws fitted to the smaller compute alone."""
    if fit.held_out is None:
        return None
    frame = fit.held_out.residuals.filter(pl.col("predictor").is_in([LAW, POWER])).with_columns(
        percent=100 * (pl.col("residual").exp() - 1)
    )
    shape, colour = _kinds("predictor", [LAW, POWER])
    x, y = _logarithmic("flop", "compute (FLOP)", _ends(frame["flop"], 1.2)), _percent(frame)
    drawn = _once(frame, "predictor", pl.col("flop").log(), pl.col("percent").arcsinh())
    points = alt.Chart(drawn).mark_point(filled=True, size=28, opacity=1, fillOpacity=0.65)
    cut = pl.DataFrame({"flop": [fit.held_out.flop * 1.02]})
    layers = [
        _zero(y),
        alt.Chart(cut).mark_rule(color=_GREY, strokeDash=[2, 3]).encode(x),
        points.encode(x, y, shape, colour),
    ]
    caption = (
        f"How far observed loss lies above (+) or below (−) two predictions, in percent, against compute. Both were "
        f"fitted to the {fit.held_out.fitted} runs left of the dotted line alone and predict the "
        f"{fit.held_out.held_out} runs right of it: {LAW}, and a power law of loss in compute alone. The vertical axis "
        f"is nearly linear within ±1 % and logarithmic beyond.{_many(len(frame))}"
    )
    beyond = frame.filter(pl.col("flop") > fit.held_out.flop)
    alternative = f"Median distance from the prediction of runs held out: {_percents(beyond, 'predictor')}."
    return Figure("held-out", _layer(layers, "Held-out extrapolation", alternative), caption)


def _curves(fit: ScalingFit) -> pl.DataFrame:
    """``flop``, ``parameters`` and ``loss`` of the law at equal compute, within what the runs span."""
    low, high = np.quantile(fit.runs["flop"].to_numpy(), [0.05, 0.95])
    least, most = _ends(fit.runs["parameters"])
    N = np.geomspace(least, most, _POINTS)
    top = _ends(fit.runs["loss"], 1.02)[1]
    frames = [
        pl.DataFrame({"parameters": N, "loss": fit.chosen.law.loss(N, flop / FLOP_PER_PARAMETER_AND_TOKEN / N)})
        .with_columns(pl.lit(float(flop)).alias("flop"))
        .filter(pl.col("loss") <= top)
        for flop in np.geomspace(low, high, _CURVES)
    ]
    return pl.concat(frames)


def _layer(layers: list[alt.Chart], title: str, told: str) -> Chart:
    return styled(alt.layer(*layers).properties(width=_WIDTH, height=_HEIGHT, title=title), f"{title}. {told}")


def _once(points: pl.DataFrame, by: str, *places: pl.Expr) -> pl.DataFrame:
    """Points of each value of ``by``, of many those at the same place of the figure once."""
    return thin_points(points, [by], places, _CELLS, _MOST_DRAWN)


def _many(points: int) -> str:
    return f" Of these {points:,} points those at the same place are drawn once." if points > _MOST_DRAWN else ""


def _percents(frame: pl.DataFrame, column: str) -> str:
    """Median distance of the points of each kind from the prediction, in percent, in words."""
    sizes = frame.group_by(column, maintain_order=True).agg(pl.len(), pl.col("percent").abs().median())
    return ", ".join(f"{row[column]} {row['percent']:.2g} % (N = {row['len']})" for row in sizes.to_dicts())


def _ends(values: pl.Series, margin: float = 1.0) -> list[float]:
    return [float(values.min()) / margin, float(values.max()) * margin]  # type: ignore[arg-type]


def _ticks(low: float, high: float) -> list[float]:
    """Powers of ten within the ends; where they are few, twice and five times them too."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 2, 5), (1,)):
        ticks = [step * 10.0**power for power in powers for step in steps]
        within = [tick for tick in ticks if low * 0.999 <= tick <= high * 1.001]
        if len(within) <= _MOST_TICKS:
            return within
    return within[:: math.ceil(len(within) / _MOST_TICKS)]


def _loss_axis(low: float, high: float) -> alt.Axis:
    """Ticks at round numbers, as many as a logarithmic axis of less than a decade needs."""
    decade = 10.0 ** math.floor(math.log10(high - low)) if high > low else high
    for step in (decade * part for part in (1.0, 0.5, 0.2, 0.1)):
        ticks = [step * k for k in range(math.ceil(low / step), math.floor(high / step) + 1)]
        if len(ticks) >= 4:
            break
    return alt.Axis(values=ticks, format="~g", labelOverlap=True)


def _axis(low: float, high: float) -> alt.Axis:
    return alt.Axis(values=_ticks(low, high), labelExpr=_POWER, labelOverlap=False)


def _logarithmic(field: str, title: str, ends: list[float]) -> alt.X:
    scale = alt.Scale(type="log", nice=False, domain=ends)
    return alt.X(f"{field}:Q", title=title, scale=scale, axis=_axis(*ends))


def _percent(frame: pl.DataFrame) -> alt.Y:
    low, high = _ends(frame["percent"])
    ticks = [tick for tick in _PERCENT_TICKS if min(low, -2) * 1.3 <= tick <= max(high, 2) * 1.3]
    axis = alt.Axis(values=ticks, labelExpr="datum.value == 0 ? '0' : format(datum.value, '+d')", labelOverlap=False)
    scale = alt.Scale(type="symlog", constant=1)
    return alt.Y("percent:Q", title="observed − predicted (%)", scale=scale, axis=axis)


def _lines() -> alt.Legend:
    return alt.Legend(orient="top", direction="horizontal", symbolType="stroke", symbolOpacity=1, symbolSize=400)


def _zero(y: alt.Y) -> alt.Chart:
    rule: alt.Chart = alt.Chart(pl.DataFrame({"percent": [0.0]})).mark_rule(color=_GREY)
    return rule.encode(y)


def _kinds(field: str, labels: list[str]) -> tuple[alt.Shape, alt.Color]:
    legend = alt.Legend(orient="top", direction="horizontal", symbolOpacity=1)
    shape = alt.Shape(f"{field}:N", title=None, scale=alt.Scale(domain=labels, range=["circle", "triangle-up"]))
    scale = alt.Scale(domain=labels, range=[_BLUE, _ORANGE])
    return shape, alt.Color(f"{field}:N", title=None, scale=scale, legend=legend)
