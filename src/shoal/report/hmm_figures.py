"""Figures of hidden Markov models: criteria by the number of states, restarts, emissions, and the two updates."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt
import polars as pl

from shoal.report.figures import COLOURS, Chart, styled
from shoal.report.words import number

_DECADES = [0, 1, 10, 100, 1000, 10_000, 100_000]  # ticks of an axis that is logarithmic but near 0
_PANEL = {"width": 300, "height": 200}
_UPDATES = {"pairwise": "pairwise: EM", "conditional": "conditional"}


def by_states(numbers: Sequence[Mapping[str, Any]], title: str) -> Chart:
    """Held-out log-likelihood with intervals, and AIC and BIC above their smallest, by the number of states.

    Args:
        numbers: ``num_states``, ``held`` with ``held_low`` and ``held_high``, ``aic`` and ``bic``.
        title: above the chart.
    """
    frame = pl.DataFrame(list(numbers), infer_schema_length=None).sort("num_states")
    x = alt.X("num_states:O", title="hidden states K", axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(zero=False)
    finite = [pl.when(pl.col(name).is_finite()).then(name) for name in ("held", "held_low", "held_high")]
    base = alt.Chart(frame.select("num_states", *finite))
    title_of_y = "held-out log L (nats per observation)"
    y = alt.Y("held:Q", title=title_of_y, scale=scale)
    held = [
        base.mark_rule(color=COLOURS[0]).encode(
            x, alt.Y("held_low:Q", title=title_of_y, scale=scale), alt.Y2("held_high")
        ),
        base.mark_line(color=COLOURS[0], point=alt.OverlayMarkDef(color=COLOURS[0])).encode(x, y),
    ]
    above = frame.select(
        "num_states",
        AIC=pl.col("aic") - pl.col("aic").min(),
        BIC=pl.col("bic") - pl.col("bic").min(),
    ).unpivot(index="num_states", variable_name="criterion", value_name="above")
    colour = alt.Color("criterion:N", title=None, scale=alt.Scale(domain=["AIC", "BIC"], range=COLOURS[1:3]))
    criteria = (
        alt.Chart(above)
        .mark_line(point=True)
        .encode(
            x,
            alt.Y(
                "above:Q", title="above the smallest", scale=alt.Scale(type="symlog"), axis=alt.Axis(values=_DECADES)
            ),
            colour,
        )
    )
    values = "; ".join(f"K = {row['num_states']}: {number(row['held'], 4)}" for row in frame.iter_rows(named=True))
    panels = alt.concat(alt.layer(*held).properties(**_PANEL), criteria.properties(**_PANEL), title=title)
    return styled(panels, f"{title}. Held-out log-likelihood in nats per observation: {values}.")


def restarts(rows: Sequence[Mapping[str, Any]], title: str) -> Chart:
    """Restarts by how far they are below the best of their number of states; degenerate ones are crosses.

    Args:
        rows: ``num_states``, ``seed``, ``below`` (nats) and ``problem``.
        title: above the chart.
    """
    frame = pl.DataFrame(list(rows), infer_schema_length=None).with_columns(
        pl.col("below").clip(lower_bound=0.0),
        fit=pl.when(pl.col("problem") == "").then(pl.lit("sound")).otherwise(pl.lit("degenerate")),
    )
    x = alt.X("num_states:O", title="hidden states K", axis=alt.Axis(labelAngle=0))
    scale = alt.Scale(type="symlog", constant=0.1)
    axis = alt.Axis(values=[0, 0.1, *_DECADES[1:]], format=",~g")
    y = alt.Y("below:Q", title="nats below the best", scale=scale, axis=axis)
    shape = alt.Shape("fit:N", title=None, scale=alt.Scale(domain=["sound", "degenerate"], range=["circle", "cross"]))
    chart = alt.Chart(frame.select("num_states", "seed", "below", "fit")).mark_point(filled=True, size=55, opacity=0.6)
    points = chart.encode(x, y, shape, alt.XOffset("seed:O"), alt.Color(value=COLOURS[0]))
    near = frame.filter(pl.col("below") <= 0.1).group_by("num_states", maintain_order=True).len()
    values = "; ".join(f"K = {K}: {n} of {frame.filter(num_states=K).height}" for K, n in near.rows())
    return styled(
        alt.layer(points).properties(width=460, height=220, title=title), f"{title}. Within 0.1 nats: {values}."
    )


def emissions(rows: pl.DataFrame, title: str) -> Chart:
    """Probability of each symbol in each state, as bars with intervals, and the true one as a tick.

    Args:
        rows: ``symbol``, ``state``, ``probability``, ``low``, ``high`` and ``true``, null where there is none.
        title: above the chart.
    """
    order = rows["symbol"].unique(maintain_order=True).to_list()
    x = alt.X("symbol:N", title="symbol y", sort=order, axis=alt.Axis(labelAngle=0))
    states = rows["state"].unique(maintain_order=True).to_list()
    colour = alt.Color("state:N", legend=None, scale=alt.Scale(domain=states, range=COLOURS[: len(states)]))
    panels = []
    for state in states:
        frame = rows.filter(state=state)
        on_axis = f"p(y | {state})"
        y = alt.Y("probability:Q", title=on_axis)
        layers = [alt.Chart(frame.select("symbol", "state", "probability")).mark_bar(opacity=0.75).encode(x, y, colour)]
        band = frame.filter(pl.col("low").is_not_null())
        if len(band):
            rule = alt.Chart(band.select("symbol", "low", "high")).mark_rule(color="#333333")
            layers.append(rule.encode(x, alt.Y("low:Q", title=on_axis), alt.Y2("high")))
        true = frame.filter(pl.col("true").is_not_null())
        if len(true):
            tick = alt.Chart(true.select("symbol", "true")).mark_tick(color="#000000", thickness=2, width=12)
            layers.append(tick.encode(x, alt.Y("true:Q", title=on_axis)))
        panels.append(alt.layer(*layers).properties(width=520, height=120))
    likely = [f"{state}: {', '.join(_likeliest(rows.filter(state=state)))}" for state in states]
    return styled(
        alt.concat(*panels, columns=1, title=title), f"{title}. The five likeliest, of {'; of '.join(likely)}."
    )


def _likeliest(rows: pl.DataFrame) -> list[str]:
    """Five likeliest symbols of a state."""
    return [str(symbol) for symbol in rows.sort("probability", descending=True)["symbol"].head(5)]


def updates(example: Mapping[str, Sequence[float]], title: str) -> Chart:
    """Log-likelihood after each update, of both updates.

    Args:
        example: log-likelihoods by ``pairwise`` and ``conditional``.
        title: above the chart.
    """
    rows = [
        {"update": _UPDATES[name], "number": place, "value": value}
        for name, values in example.items()
        for place, value in enumerate(values)
    ]
    colour = alt.Color("update:N", title=None, scale=alt.Scale(domain=[*_UPDATES.values()], range=COLOURS[:2]))
    dash = alt.StrokeDash("update:N", title=None, scale=alt.Scale(domain=[*_UPDATES.values()], range=[[1, 0], [6, 3]]))
    line = (
        alt.Chart(pl.DataFrame(rows))
        .mark_line(point=True)
        .encode(
            alt.X("number:Q", title="updates"),
            alt.Y("value:Q", title="log p(y) (nats)", scale=alt.Scale(zero=False)),
            colour,
            dash,
        )
    )
    ends = "; ".join(f"{_UPDATES[name]}, from {values[0]:.3f} to {values[-1]:.3f}" for name, values in example.items())
    return styled(alt.layer(line).properties(width=460, height=220, title=title), f"{title}. {ends.replace('-', '−')}.")
