"""Shares of each seed in the variance of the time to generalise: bars, a table, and notes."""

import math

import altair as alt
import polars as pl

from shoal.analysis.factorial import Decomposition
from shoal.report.figures import Chart, Figure, styled
from shoal.report.table import Cell, Table
from shoal.report.words import capitalised, listed, number, p_value, with_interval

NAMES = {"init_seed": "initialisation", "split_seed": "split", "order_seed": "batch order"}
_BLUE = "#0072B2"
_ROUNDING = 1e-12  # of the sum of squares
LEVEL = 0.05  # of the tests
_AXIS = "share of the variance"


def variance_shares(decomposition: Decomposition, title: str) -> Chart:
    """Share of the variance components of every source, with its interval."""
    shown = decomposition.table.with_columns(pl.Series("label", _labels(decomposition)))
    x = alt.X("component_share:Q", title=_AXIS, scale=alt.Scale(domain=[0, 1]), axis=_percent())
    names = alt.Axis(labelLimit=260, labelPadding=6, ticks=False, domain=False)
    y = alt.Y("label:N", title=None, sort=None, axis=names)
    base = alt.Chart(shown.select("label", "component_share", "low", "high"))
    layers = [
        base.mark_bar(color=_BLUE, opacity=0.55, size=14).encode(x, y),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(color="#1a1a1a", strokeWidth=1.4)
        .encode(alt.X("low:Q", title=_AXIS), alt.X2("high:Q"), y),
    ]
    shares = [f"{row['label']} {_percentage(row['component_share'])}" for row in shown.to_dicts()]
    alternative = f"{title}. Shares of the variance: {', '.join(shares)}."
    return styled(alt.layer(*layers).properties(width=360, height=alt.Step(24), title=title), alternative)


def factorial_figure(name: str, decomposition: Decomposition, title: str, what: str = "time to generalise") -> Figure:
    """Bars of the shares with a caption that explains them."""
    caption = (
        f"Shares of the variance of the {_scaled(decomposition, what)} over {_design(decomposition)}. Bars: variance "
        "components of a model with random effects, negative ones counted as 0. Lines: 95 % intervals (generalised "
        "pivotal quantities, normal effects, ends moved into 0 to 1), wide where a factor has few levels."
    )
    return Figure(name, variance_shares(decomposition, title), caption)


def factorial_table(name: str, decomposition: Decomposition, what: str = "time to generalise") -> Table:
    """One row per source: degrees of freedom, sums of squares, shares, components."""
    header = ["source", "df", "sum of squares", "share (by chance)", "component", "share of components"]
    header += ["F", "p", "p (Holm)"]
    rows = []
    for label, row in zip(_labels(decomposition), _cleared(decomposition).rows(named=True), strict=True):
        cells = [
            str(row["df"]),
            number(row["sum_of_squares"]),
            f"{_percentage(row['share'])} ({_percentage(row['share_by_chance'])})",
            number(row["component"]),
            with_interval(row["component_share"], row["low"], row["high"], 2),
            *(number(row[name], 2) for name in ("F", "p", "p_holm")),
        ]
        rows.append((label, [Cell(text) for text in cells]))
    caption = (
        f"Variance of the {_scaled(decomposition, what)} over {_design(decomposition)}. Share: of the sum of squares, "
        "and in parentheses what it would be if no source mattered more than another. Component: variance by the "
        "expected mean squares of random effects, as estimated, negative ones too. Share of components: with negative "
        "ones as 0, and its 95 % interval. F and p: of the test that the component is 0, by mean squares that would "
        "then be expected to be equal (exact where one factor is outside, else with Satterthwaite's degrees of "
        f"freedom). Holm: corrected for {decomposition.tests} tests, all of this kind here. –: the remainder has no "
        "test."
    )
    return Table(name, header, rows, caption, _cleared(decomposition))


def factorial_notes(decomposition: Decomposition, what: str = "time to generalise") -> list[str]:
    """Cautions for a reader of the shares: censored runs, levels left out, negative components.

    Each note begins with ``what``, the quantity whose variance is decomposed.
    """
    d = decomposition
    notes = []
    if d.censored or d.diverged:
        parts = [f"{d.censored} had not reached the threshold"] if d.censored else []
        parts += [f"{d.diverged} diverged"] if d.diverged else []
        notes.append(
            f"of {d.runs} runs {listed(parts)}; step {number(d.horizon)}, the horizon, counts as their time. This "
            "hides how much longer they would have taken, so that the total variance is at least what is shown, and "
            "the shares may be off in either direction."
        )
    if d.dropped:
        notes.append(f"levels left out because a run with them is missing: {listed(d.dropped)}.")
    negative = [
        label for label, component in zip(_labels(d), _cleared(d)["component"].to_list(), strict=True) if component < 0
    ]
    if negative:
        notes.append(f"estimated below 0, and counted as 0 in the shares: {listed(negative)}.")
    if d.table["share"].null_count():
        notes.append("all values are equal: there is no variance to decompose.")
    return [f"{capitalised(what)}: {note}" for note in notes]


def factorial_test(decomposition: Decomposition) -> str:
    """Sources of variance whose F test is significant at 5 % after Holm's correction, in a sentence."""
    tested = decomposition.table.with_columns(pl.Series("label", _labels(decomposition))).drop_nulls("p_holm")
    if tested.is_empty():
        return "No source can be tested: there is no remainder to compare its variance with."
    more = f" ({decomposition.tests} tests in all)" if decomposition.tests > len(tested) else ""
    of = f"of {len(tested)} sources{more}"
    significant = [
        f"{row['label']} ({p_value(row['p_holm'])})" for row in tested.filter(pl.col("p_holm") < LEVEL).to_dicts()
    ]
    if significant:
        which = listed(significant)
        return f"By F tests with Holm's correction the variance of {len(significant)} {of} differs from 0: {which}."
    least = tested.sort("p_holm", "p").row(0, named=True)
    return (
        f"By F tests with Holm's correction the variance of none {of} differs from 0; the smallest p is that of "
        f"{least['label']}, {number(least['p_holm'], 2)} ({number(least['p'], 2)} before the correction)."
    )


def _labels(decomposition: Decomposition) -> list[str]:
    """The sources in words; the highest interaction is what remains."""
    sources = decomposition.table["source"].to_list()
    labels = [" × ".join(NAMES.get(name, name) for name in source) for source in sources]
    return [*labels[:-1], "all together (remainder)"]


def _cleared(decomposition: Decomposition) -> pl.DataFrame:
    """Table of the decomposition in which variances that differ from 0 by rounding alone are 0."""
    table = decomposition.table
    total = float(table["sum_of_squares"].sum())
    least = math.inf if table["share"].null_count() else _ROUNDING * total
    bounds = dict.fromkeys(("sum_of_squares", "component"), least)
    bounds |= dict.fromkeys(("component_share", "low", "high"), _ROUNDING)
    return table.with_columns(
        pl.when(pl.col(name).abs() < bound).then(0.0).otherwise(name).alias(name) for name, bound in bounds.items()
    )


def _design(decomposition: Decomposition) -> str:
    sizes = [
        f"{size} {NAMES[name]} seeds" if name in NAMES else f"{size} {name}"
        for name, size in decomposition.factors.items()
    ]
    return f"{' × '.join(sizes)} (N = {decomposition.runs} runs, one per combination)"


def _scaled(decomposition: Decomposition, what: str) -> str:
    return f"binary logarithm of the {what}" if decomposition.log2 else what


def _percentage(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"


def _percent() -> alt.Axis:
    return alt.Axis(format=".0%", tickCount=6)
