"""Figures of language models: loss against what training cost, and what the context is worth."""

from collections.abc import Mapping

import altair as alt
import polars as pl

from shoal.report.figures import COLOURS, Chart, styled
from shoal.report.words import number

_PANEL = {"width": 420, "height": 260}
_POWER = "replace(datum.label, '+', '')"
_GREY = "#555555"
_SHADES = (COLOURS[1], COLOURS[0], *COLOURS[2:])


def loss_against_compute(
    means: pl.DataFrame, runs: pl.DataFrame, baseline: tuple[str, float] | None, title: str
) -> Chart:
    """Validation loss against the training compute that was spent.

    Args:
        means: ``model`` (as it is called), ``flop``, ``mean``, ``low`` and ``high`` (null where there is no interval).
        runs: ``run``, ``model``, ``flop`` and ``loss`` of each evaluation.
        baseline: an n-gram model's name and loss, drawn across.
        title: above the chart.
    """
    x = alt.X("flop:Q", title="training compute (FLOP)", axis=alt.Axis(format="~e", tickCount=6, labelExpr=_POWER))
    layers = _layers(means, "flop", x, "validation loss (nats per token)")
    layers += [] if baseline is None else _across(*baseline, "validation loss (nats per token)")
    lines = alt.Chart(runs.select("run", "model", "flop", "loss")).mark_line(strokeWidth=0.7, strokeOpacity=0.5)
    layers.insert(1, lines.encode(x, _y("loss", "validation loss (nats per token)"), _colour(means), alt.Detail("run")))
    return styled(alt.layer(*layers).properties(**_PANEL, title=title), f"{title}. {_told(means, 'flop', baseline)}")


def loss_in_context(means: pl.DataFrame, baseline: tuple[str, pl.DataFrame], title: str) -> Chart:
    """Loss against the place in the context, logarithmic.

    Args:
        means: ``model``, ``position`` (from 1, mean of some places), ``last`` of these, ``mean``, ``low`` and ``high``.
        baseline: an n-gram model's name, and of it ``position`` and ``loss`` on the same tokens.
        title: above the chart.
    """
    last = round(float(means["last"].max()))  # type: ignore[arg-type]  # positions are numbers
    values = [2**k for k in range(last.bit_length()) if 2**k <= last]
    scale = alt.Scale(type="log", base=2, nice=False, domain=[1, max(last, 2)])
    x = alt.X("position:Q", title="tokens of the context that were seen", scale=scale, axis=alt.Axis(values=values))
    name, losses = baseline
    nothing = pl.lit(None, pl.Float64)
    beside = losses.select(pl.lit(name).alias("model"), "position", mean="loss", low=nothing, high=nothing)
    every = pl.concat([means.select("model", "position", "mean", "low", "high"), beside])
    layers = _layers(every, "position", x, "loss (nats per token)", name)
    alternative = _told(every, "position", None)
    return styled(alt.layer(*layers).properties(**_PANEL, title=title), f"{title}. {alternative}")


def _layers(means: pl.DataFrame, place: str, x: alt.X, title: str, grey: str = "") -> list[alt.Chart]:
    """The line of each model and its band; that of the model ``grey``, the last, is dotted."""
    colour = _colour(means, grey)
    line = alt.Chart(means.select("model", place, "mean")).mark_line(strokeWidth=2.2, strokeJoin="round")
    dash = alt.StrokeDash("model:N", title=None, scale=alt.Scale(domain=_models(means), range=_dashes(means, grey)))
    layers = [line.encode(x, _y("mean", title), colour, dash)]
    band = means.filter(pl.col("low").is_not_null()).select("model", place, "low", "high")
    if not band.is_empty():
        area = alt.Chart(band).mark_area(fillOpacity=0.2)
        layers.insert(0, area.encode(x, _y("low", title), alt.Y2("high"), colour))
    return layers


def _across(name: str, loss: float, title: str) -> list[alt.Chart]:
    frame = pl.DataFrame({"loss": [loss], "name": [f"{name} {loss:.3f}"]})
    rule = alt.Chart(frame).mark_rule(color=_GREY, strokeDash=[3, 3], strokeWidth=1.4)
    text = alt.Chart(frame).mark_text(align="right", baseline="bottom", dx=-4, dy=-3, color=_GREY, fontSize=11)
    return [
        rule.encode(_y("loss", title)),
        text.encode(_y("loss", title), alt.Text("name:N"), x=alt.value(_PANEL["width"])),
    ]


def _y(field: str, title: str) -> alt.Y:
    return alt.Y(f"{field}:Q", title=title, scale=alt.Scale(zero=False), axis=alt.Axis(format="~g", tickCount=6))


def _models(means: pl.DataFrame) -> list[str]:
    return [str(name) for name in means["model"].unique(maintain_order=True)]


def _colour(means: pl.DataFrame, grey: str = "") -> alt.Color:
    names = _models(means)
    shades = [_GREY if name == grey else _SHADES[place % len(_SHADES)] for place, name in enumerate(names)]
    legend = alt.Legend(orient="top", direction="horizontal", symbolType="stroke", symbolOpacity=1, symbolSize=400)
    return alt.Color("model:N", title=None, scale=alt.Scale(domain=names, range=shades), legend=legend)


def _dashes(means: pl.DataFrame, grey: str) -> list[list[int]]:
    return [[2, 3] if name == grey else [[1, 0], [6, 3]][place % 2] for place, name in enumerate(_models(means))]


_PLACES: Mapping[str, str] = {"flop": "FLOP", "position": "tokens seen"}


def _told(means: pl.DataFrame, place: str, baseline: tuple[str, float] | None) -> str:
    """First and last mean loss of each model, in words."""
    parts = []
    for name in _models(means):
        line = means.filter(model=name).sort(place)
        (first, start), (last, end) = line.select(place, "mean").row(0), line.select(place, "mean").row(-1)
        unit = _PLACES[place]
        parts.append(f"{name} {number(start)} at {_said(first)} {unit} and {number(end)} at {_said(last)}")
    parts += [] if baseline is None else [f"{baseline[0]} {number(baseline[1], 4)}"]
    return f"Mean loss in nats per token: {'; '.join(parts)}."


def _said(place: float) -> str:
    return f"{place:.2g}".replace("e+", "e") if place >= 1e6 else f"{place:,.0f}"
