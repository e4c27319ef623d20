"""Figures of models that translate: attention to the source, share of right tokens by position, scores by length."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from shoal.report.figures import COLOURS, Chart, styled

FORCED, FREE = "behind the right tokens", "writing on its own"
_CELL = 24  # pixels of a token
_PANEL = {"width": 420, "height": 240}


def attention_maps_figure(panels: Sequence[Mapping[str, Any]], title: str) -> Chart:
    """Maps side by side, the tokens of the source along x and those that were written along y.

    Args:
        panels: ``title``, ``keys`` (S tokens), ``queries`` (T tokens) and ``weights`` ``(T, S)``, rows of sum 1.
        title: over them.
    """
    scale = alt.Scale(scheme="viridis", domain=[0, 1])
    colour = alt.Color("weight:Q", title="weight", scale=scale, legend=alt.Legend(gradientLength=120))
    charts, peaks = [], []
    for panel in panels:
        keys, queries, weights = panel["keys"], panel["queries"], panel["weights"]
        cells = [(q, k, float(weight)) for q, row in enumerate(weights) for k, weight in enumerate(row)]
        frame = pl.DataFrame(cells, schema=["query", "key", "weight"], orient="row")
        x = alt.X("key:O", title="source", axis=alt.Axis(labelExpr=_labels(keys), labelAngle=-60))
        y = alt.Y("query:O", title="written", axis=alt.Axis(labelExpr=_labels(queries)))
        size = {"width": _CELL * len(keys), "height": _CELL * len(queries)}
        charts.append(
            alt.layer(alt.Chart(frame).mark_rect().encode(x, y, colour)).properties(**size, title=panel["title"])
        )
        looks = [f"{query!r} at {keys[row.index(max(row))]!r}" for query, row in zip(queries, weights, strict=True)]
        peaks.append(f"{panel['title']}: {', '.join(looks)}")
    return styled(alt.concat(*charts, columns=3, title=title), f"{title}. Most weight: {'; '.join(peaks)}.")


def _labels(tokens: Sequence[str]) -> str:
    """Axes count positions, because a token may stand at several, and show tokens."""
    return f"{json.dumps(list(tokens), ensure_ascii=False)}[datum.value]"


def right_by_position_figure(frame: pl.DataFrame, title: str) -> Chart:
    """The share of tokens that are right at each position of a target.

    Args:
        frame: ``model`` (as it is called), ``how`` (:data:`FORCED` or :data:`FREE`), ``position`` from 1, ``share``.
        title: above the chart.
    """
    names = frame["model"].unique(maintain_order=True).to_list()
    legend = alt.Legend(orient="top", symbolType="stroke", symbolOpacity=1, columns=2)  # no wider than the chart
    colour = alt.Color("model:N", title=None, scale=_scale(names), legend=legend)
    dash = alt.StrokeDash(
        "how:N",
        title=None,
        scale=alt.Scale(domain=[FORCED, FREE], range=[[1, 0], [4, 3]]),
        legend=alt.Legend(orient="top", symbolType="stroke", columns=1),
    )
    x = alt.X("position:Q", title="position in the target", axis=alt.Axis(format="d"))
    y = alt.Y("share:Q", title="share of tokens right", scale=alt.Scale(domain=[0, 1]))
    line = alt.Chart(frame).mark_line(strokeWidth=2).encode(x, y, colour, dash)
    first = frame.filter(position=1)
    first_shares = "; ".join(f"{row['model']}, {row['how']}: {row['share']:.0%} at first" for row in first.to_dicts())
    return styled(alt.layer(line).properties(**_PANEL, title=title), f"{title}. {first_shares}.")


def by_length_figure(frame: pl.DataFrame, title: str) -> Chart:
    """Exact match and chrF2 by length of the source.

    Args:
        frame: ``model`` (as it is called), ``words`` (of the source, as text, in order), ``exact`` and ``chrf``.
        title: over both.
    """
    names, words = (frame[name].unique(maintain_order=True).to_list() for name in ("model", "words"))
    colour = alt.Color("model:N", title=None, scale=_scale(names), legend=alt.Legend(orient="top", columns=2))
    x = alt.X("words:N", title="words of the source", sort=words, axis=alt.Axis(labelAngle=0))
    charts = []
    for column, what in (("exact", "exact match (%)"), ("chrf", "mean chrF2 of a sentence")):
        base = alt.Chart(frame.select("model", "words", column))
        y = alt.Y(f"{column}:Q", title=what, scale=alt.Scale(zero=True))
        bars = base.mark_bar().encode(x, y, colour, alt.XOffset("model:N", sort=names))
        charts.append(alt.layer(bars).properties(width=260, height=200))
    results = "; ".join(
        f"{row['model']}, {row['words']} words: {row['exact']:.1f} % exact, chrF2 {row['chrf']:.1f}"
        for row in frame.to_dicts()
    )
    return styled(alt.concat(*charts, columns=2, title=title), f"{title}. {results}.")


def _scale(names: Sequence[str]) -> alt.Scale:
    return alt.Scale(domain=list(names), range=COLOURS[: len(names)])
