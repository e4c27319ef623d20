"""Figures of what models write on their own: shares right in groups, and maps of where they look."""

import json
from collections.abc import Sequence

import altair as alt
import polars as pl

from shoal.report.figures import COLOURS, Chart, styled
from shoal.report.words import number

_HEIGHT, _STEP, _CELL = 240, 11, 17
_GREY = "#555555"
_MOST_COLUMNS = 4


def exact_by_group(frame: pl.DataFrame, name: str, title: str, trained: int | None = None) -> Chart:
    """Share right in each group, a point for each model with its interval.

    Args:
        frame: ``model`` (as it is called), ``group``, ``mean``, ``low`` and ``high``, in percent.
        name: of the quantity by which groups differ.
        title: above the chart.
        trained: the last group that was trained on, where others are shown beside.
    """
    models = frame["model"].unique(maintain_order=True).to_list()
    groups = [str(group) for group in frame["group"].unique().sort()]
    shown = frame.select("model", pl.col("group").cast(pl.String), "mean", "low", "high")
    x = alt.X("group:N", title=name, sort=groups, axis=alt.Axis(labelAngle=0), scale=alt.Scale(paddingInner=0.25))
    offset = alt.XOffset("model:N", sort=models)
    y_title = "whole answers right (%)"
    scale = alt.Scale(domain=[0, 100])
    colours = alt.Scale(domain=models, range=COLOURS[: len(models)])
    legend = alt.Legend(orient="top", direction="horizontal", symbolOpacity=1)
    colour = alt.Color("model:N", title=None, scale=colours, legend=legend)
    base = alt.Chart(shown)
    lines = base.mark_rule(strokeWidth=1.6).encode(
        x, alt.Y("low:Q", title=y_title, scale=scale), alt.Y2("high"), colour, offset
    )
    shapes = alt.Shape(
        "model:N", title=None, scale=alt.Scale(domain=models, range=["circle", "square", "diamond", "triangle-up"])
    )
    points = base.mark_point(filled=True, opacity=1, size=42).encode(
        x, alt.Y("mean:Q", title=y_title, scale=scale), colour, shapes, offset
    )
    layers = [lines, points]
    if trained is not None:
        beyond = pl.DataFrame({"group": [group for group in groups if int(group) > trained]})
        behind = alt.Chart(beyond).mark_bar(color=_GREY, opacity=0.08)
        layers.insert(0, behind.encode(x, y=alt.value(0), y2=alt.value(_HEIGHT)))
    width = max(240, _STEP * len(models) * len(groups))
    shares = "; ".join(
        f"{model} "
        + ", ".join(
            f"{group} {number(mean)} %" for group, mean in shown.filter(model=model).select("group", "mean").rows()
        )
        for model in models
    )
    return styled(alt.layer(*layers).properties(width=width, height=_HEIGHT, title=title), f"{title}. {shares}.")


def attention_maps(
    weights: Sequence[Sequence[Sequence[Sequence[float]]]], written: Sequence[str], read: Sequence[str], title: str
) -> Chart:
    """One map per layer (rows) and head (columns), tokens on both axes.

    Args:
        weights: of one example, ``(L, H, Q, K)``.
        written: the token that is written at each of the ``Q`` places.
        read: the token that stands at each of the ``K`` places that are looked at.
        title: over the grid.
    """
    L, H = len(weights), len(weights[0])
    # several places may hold the same token: the axes count places and only show tokens
    labels = [f"{json.dumps(list(tokens))}[datum.value]" for tokens in (read, written)]
    scale = alt.Scale(scheme="viridis", domain=[0, 1])
    colour = alt.Color("weight:Q", title="weight", scale=scale, legend=alt.Legend(gradientLength=100))
    charts, peaks = [], []
    for layer in range(L):
        for head in range(H):
            cells = [(q, k, w) for q, row in enumerate(weights[layer][head]) for k, w in enumerate(row)]
            frame = pl.DataFrame(cells, schema=["written", "read", "weight"], orient="row")
            x = alt.X("read:O", title="read", axis=alt.Axis(labelExpr=labels[0], labelAngle=0))
            y = alt.Y("written:O", title="written", axis=alt.Axis(labelExpr=labels[1]))
            name = f"layer {layer + 1}, head {head + 1}" if L * H > 1 else "attention"
            map_ = alt.Chart(frame).mark_rect().encode(x, y, color=colour)
            charts.append(map_.properties(width=_CELL * len(read), height=_CELL * len(written), title=name))
            peaks.append(f"{name}: {_most(weights[layer][head], written, read)}")
    alternative = f"{title}. Where each written token looks most. {'; '.join(peaks)}."
    return styled(alt.concat(*charts, columns=min(H, _MOST_COLUMNS), title=title), alternative)


def _most(rows: Sequence[Sequence[float]], written: Sequence[str], read: Sequence[str]) -> str:
    best = [max(range(len(row)), key=row.__getitem__) for row in rows]
    return ", ".join(f"{token} at {read[place]} ({place + 1})" for token, place in zip(written, best, strict=True))
