"""Attention weights as a grid of maps."""

import json
from collections.abc import Sequence

import altair as alt
import polars as pl
from torch import Tensor

from shoal.report.figures import Chart, styled


def attention_grid(weights: Tensor, tokens: Sequence[str], title: str) -> Chart:
    """One map per layer (rows) and head (columns).

    Args:
        weights: of one sequence, ``(L, H, S, S)``.
        tokens: the token at each of the ``S`` positions.
        title: over the grid.
    """
    L, H, S, _ = weights.shape
    # several positions may hold the same token: the axes count positions and only show tokens
    labels = f"{json.dumps(list(tokens))}[datum.value]"
    colour = alt.Color(
        "weight:Q",
        title="weight",
        scale=alt.Scale(scheme="viridis", domain=[0, 1]),
        legend=alt.Legend(gradientLength=120),
    )
    charts, peaks = [], []
    for layer in range(L):
        for head in range(H):
            cells = [(q, k, float(weights[layer, head, q, k])) for q in range(S) for k in range(q + 1)]
            frame = pl.DataFrame(cells, schema=["query", "key", "weight"], orient="row")
            axes = {
                "x": alt.X("key:O", title="key", axis=alt.Axis(labelExpr=labels, labelAngle=0)),
                "y": alt.Y("query:O", title="query", axis=alt.Axis(labelExpr=labels)),
            }
            layer_of = alt.Chart(frame).mark_rect().encode(**axes, color=colour)
            name = f"layer {layer + 1}, head {head + 1}"
            peak = max((weight, key) for query, key, weight in cells if query == S - 1)
            peaks.append(f"{name} at position {peak[1] + 1} ({tokens[peak[1]]!r}, {peak[0]:.2f})")
            charts.append(alt.layer(layer_of).properties(width=24 * S, height=24 * S, title=name))
    alternative = f"{title}. From the last position, {tokens[-1]!r}, the largest weights are: {'; '.join(peaks)}."
    return styled(alt.concat(*charts, columns=H, title=title), alternative)
