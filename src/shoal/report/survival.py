"""When the runs of each setting generalised: curves of the share that has, a table, and a test in words.

Groups are told apart by colour, and up to four also by dash. Names take Okabe and Ito's colours; numbers, whose order
means something, and more than seven names take a sequential scale.
"""

import math
from typing import Any

import altair as alt
import polars as pl

from shoal.analysis.columns import check_columns
from shoal.analysis.log_rank import DRAWS, LogRankTest, logrank, logrank_pairs
from shoal.analysis.survival import kaplan_meier, survival_summary
from shoal.errors import UserError
from shoal.report.figures import Chart, Figure, styled
from shoal.report.table import Cell, Table
from shoal.report.words import listed, number, p_value, with_interval

REACHED = "validation accuracy 0.99"

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
_MOST_PAIRS = 6
_MOST_BANDS = 4  # more of them hide each other
_LEVEL = 0.05
_BAND = (
    "Shaded: its 95 % interval at each step (Greenwood, log(−log) scale), which does not exist before the first run "
    "has got there nor after the last has. "
)
_LOST = "×: where runs diverged; they never will, and the estimate follows them to the end without. "


def survival_curves(times: pl.DataFrame, by: str, title: str, log_x: bool = False) -> Chart:
    """Share of each group's runs that has generalised (1 − S) against the training step.

    Args:
        times: ``time``, ``observed``, ``by`` and perhaps ``state``, one row per run; perhaps ``followed``, the last
            step at which it was looked at, up to which the axis goes.
        by: the setting that tells groups apart.
        title: above the chart.
        log_x: logarithmic steps.

    Raises:
        UserError: there are no runs.
    """
    labelled, labels = _labelled(times, by)
    first, last = _span(times, log_x)
    curves = _shares(kaplan_meier(labelled, "label"), first, last)
    x = alt.X("step:Q", title="training step", scale=_x_scale(first, last, log_x), axis=_x_axis(first, last, log_x))
    scale, title_y = alt.Scale(domain=[0, 1]), "share of runs that has generalised"
    y = alt.Y("share:Q", title=title_y, scale=scale)
    colour = alt.Color("label:N", title=by, sort=labels, scale=_colours(labels, times.schema[by]), legend=_legend())
    dash = alt.StrokeDash("label:N", title=by, sort=labels, scale=_dashes(labels))
    ended = _ended(labelled, curves, first)
    banded = curves.filter(pl.col("low").is_not_null(), pl.lit(len(labels) <= _MOST_BANDS))
    layers = [
        alt.Chart(banded)
        .mark_area(fillOpacity=0.13, interpolate="step-after")
        .encode(x, alt.Y("low:Q", title=title_y, scale=scale), alt.Y2("high:Q"), colour),
        alt.Chart(curves).mark_line(strokeWidth=2, interpolate="step-after").encode(x, y, colour, dash),
        alt.Chart(ended.filter(~pl.col("diverged")))
        .mark_tick(orient="vertical", thickness=1.6, size=11)
        .encode(x, y, colour),
        alt.Chart(ended.filter("diverged")).mark_text(text="×", fontSize=16, fontWeight="bold").encode(x, y, colour),
    ]
    return styled(
        alt.layer(*layers).properties(width=380, height=240, title=title), _told(labelled, labels, title, last)
    )


def _told(labelled: pl.DataFrame, labels: list[str], title: str, last: float) -> str:
    """How many of each group got there, and in how many steps half of them."""
    parts = []
    for label in labels:
        own = labelled.filter(label=label)
        reached = sorted(own.filter("observed")["time"])
        steps = f" between steps {reached[0]:,} and {reached[-1]:,}" if reached else ""
        parts.append(f"{label}: {len(reached)} of {len(own)}{steps}")
    return f"{title}. Got there by step {last:,.0f}: {'; '.join(parts)}."


def survival_figure(
    name: str, times: pl.DataFrame, by: str, title: str, reached: str = REACHED, log_x: bool = False
) -> Figure:
    """The curves with a caption that says what every mark means; ``reached`` names what was waited for."""
    labelled, labels = _labelled(times, by)
    summary = survival_summary(labelled, "label")
    sizes = listed([f"{row['label']}: N = {row['N']}" for row in summary.rows(named=True)])
    caption = (
        f"Share of runs that has reached {reached} against the training step"
        f"{' (logarithmic)' if log_x else ''}, by {by} ({sizes}): one minus the estimate of Kaplan and Meier. "
        f"{_BAND if len(labels) <= _MOST_BANDS else ''}Ticks: where runs that did not were last seen (censored). "
        f"{_LOST if summary['diverged'].sum() else ''}Steps lie on the grid of evaluations."
    )
    return Figure(name, survival_curves(times, by, title, log_x), caption)


def survival_table(name: str, times: pl.DataFrame, by: str, reached: str = REACHED) -> Table:
    """One row per group: how many runs got there, and when."""
    labelled, labels = _labelled(times, by)
    summary = survival_summary(labelled, "label")
    rows = {row["label"]: row for row in summary.rows(named=True)}
    counts = ["N", "generalised", "censored", "diverged", *(["unfinished"] if summary["unfinished"].sum() else [])]
    up_to = f" up to {number(summary['horizon'][0])}" if summary["restricted"][0] else ""
    header = [by, *counts, "rate", "median step", f"mean step{up_to}"]
    body = [(label, [Cell(text) for text in _cells(rows[label], counts)]) for label in labels]
    caption = f"Runs that reached {reached}. {_counted(summary)}{_estimated(summary)}"
    return Table(name, header, body, caption, summary.rename({"label": by}))


def _counted(summary: pl.DataFrame) -> str:
    """What is counted in which column."""
    unfinished, diverged = int(summary["unfinished"].sum()), int(summary["diverged"].sum())
    lost = f"{diverged} diverged and can never get there: median and mean follow such a run to the end without. "
    return (
        "Censored: ended without having got there; diverged: its loss was no longer finite before that"
        + ("; unfinished: still in training, censored where it stands. " if unfinished else ". ")
        + (lost if diverged else "")
        + "Rate: generalised / N with its 95 % Wilson interval, every other run counted as not having got there"
        + ("; none where runs are unfinished. " if unfinished else ". ")
    )


def _estimated(summary: pl.DataFrame) -> str:
    """What median and mean are, and their intervals where there are any."""
    banded, spread = (
        summary.select(pl.any_horizontal(pl.col(f"{name}_low", f"{name}_high").is_not_null()).any()).item()
        for name in ("median", "restricted_mean")
    )
    restricted, horizon = bool(summary["restricted"][0]), number(summary["horizon"][0])
    smallest = min(summary["N"].to_list())
    parts = ["Median: step by which half of the runs had got there (Kaplan and Meier)"]
    if banded:
        parts.append(", with the steps at which the 95 % band contains one half (Brookmeyer and Crowley)")
    if smallest < 6:
        parts.append("; fewer than 6 runs have no interval of it")
    parts.append(". Mean: of the time" + (f" or {horizon} steps, whichever is less" if restricted else ""))
    if spread:
        parts.append(
            f", with its 95 % interval on a {'logit' if restricted else 'logarithmic'} scale (Student’s t with N − 1 "
            "degrees of freedom, Greenwood’s variance times N / (N − 1))"
        )
    if smallest < 3:
        parts.append("; fewer than 3 runs have no interval of it")
    return "".join(parts) + ". –: not reached, or no such end. Steps lie on the grid of evaluations."


def logrank_sentence(times: pl.DataFrame, by: str) -> str:
    """Whether the groups differ in when they generalised, in words that say what p is."""
    labelled, _ = _labelled(times, by)
    test = logrank(labelled, "label")
    if test.groups < 2:
        return f"There is one group of {by} only, so that nothing can be compared."
    if test.p is None or test.chi2 is None:
        return f"The {test.groups} groups of {by} cannot be told apart by a log-rank test: too few runs got there."
    sizes = _sizes(labelled)
    sentence = (
        f"Log-rank test over {test.groups} groups of {by}: χ² = {test.chi2:.2f} with {test.df} "
        f"degree{'s' if test.df > 1 else ''} of freedom, {p_value(test.p)} by permutation ({_meaning(test)})"
    )
    if test.smallest_p is not None and test.smallest_p > _LEVEL:
        sentence += f"; with {sizes} no p below {number(test.smallest_p, 2)} is within reach"
    return f"{sentence}." + (f" {_pairs(logrank_pairs(labelled, 'label'), sizes)}" if test.groups > 2 else "")


def _meaning(test: LogRankTest) -> str:
    """What share the p value is."""
    which = "all" if test.exact else f"{DRAWS:,} random"
    where = "runs of the same seed" if test.paired else "runs"
    return f"the share of {which} exchanges of groups among {where} that give at least this χ²"


def _sizes(labelled: pl.DataFrame) -> str:
    """``2 runs in a group`` or ``2 to 4 runs in a group``."""
    sizes = labelled.group_by("label").len()["len"].to_list()
    low, high = min(sizes), max(sizes)
    count = f"{low} to {high}" if high > low else f"{low}"
    return f"{count} run{'s' if high > 1 else ''} in a group"


def _pairs(pairs: pl.DataFrame, sizes: str) -> str:
    """Which pairs differ; only of these is one said to come before the other."""
    known = pairs.filter(pl.col("p_holm").is_not_null()).sort("p_holm", maintain_order=True)
    floor = known["smallest_p_holm"].min()
    if not isinstance(floor, float):
        return "No pair can be compared: too few runs got there."
    if floor > _LEVEL:
        return (
            f"With {sizes} no pair can differ at {_LEVEL} after Holm's correction for {_many(len(known))}: "
            f"no corrected p below {number(floor, 2)} is within reach."
        )
    told = [_pair(row) for row in known.filter(pl.col("p_holm") < _LEVEL).rows(named=True)]
    open_ones = [_pair(row) for row in known.filter(pl.col("p_holm") >= _LEVEL).rows(named=True)]
    rest = "; …" if len(told) > _MOST_PAIRS else ""
    sentence = (
        f"Of {_many(len(known))} {len(told) or 'none'} differ{'s' if len(told) == 1 else ''} at {_LEVEL} after Holm's "
        f"correction{': ' if told else ''}{'; '.join(told[:_MOST_PAIRS])}{rest}."
    )
    few = len(pairs) <= _MOST_PAIRS and open_ones
    return sentence + (f" Not told apart: {'; '.join(open_ones)}." if few else "")


def _many(pairs: int) -> str:
    return f"{pairs} pair{'s' if pairs > 1 else ''}"


def _pair(row: dict[str, Any]) -> str:
    """``GPT before LSTM (p = 0.01)`` where the pair differs, ``GPT and LSTM (p = 0.2)`` where it does not."""
    first, second = (row["first"], row["second"]) if row["z"] > 0 else (row["second"], row["first"])
    if row["p_holm"] >= _LEVEL:
        return f"{row['first']} and {row['second']} ({p_value(row['p_holm'])})"
    return f"{first} before {second} ({p_value(row['p_holm'])})"


def _cells(row: dict[str, Any], counts: list[str]) -> list[str]:
    return [
        *(str(row[count]) for count in counts),
        with_interval(row["rate"], row["rate_low"], row["rate_high"], digits=2),
        with_interval(row["median"], row["median_low"], row["median_high"]),
        with_interval(row["restricted_mean"], row["restricted_mean_low"], row["restricted_mean_high"]),
    ]


def _labelled(times: pl.DataFrame, by: str) -> tuple[pl.DataFrame, list[str]]:
    """The times with ``label``, the group as text, and the labels: numbers in order, names as they come."""
    check_columns(times, ["time", "observed", by])
    if times.is_empty():
        raise UserError(f"there are no runs to compare by {by}")
    values = times[by].unique(maintain_order=True).to_list()
    if times.schema[by].is_numeric():
        values.sort(key=lambda value: (value is None, value))
    texts = {value: f"{value:g}" if isinstance(value, float) else str(value) for value in values}
    label = pl.col(by).replace_strict(texts, return_dtype=pl.String)
    order = pl.col(by).replace_strict({value: i for i, value in enumerate(values)}, return_dtype=pl.Int64)
    return times.with_columns(label=label, order=order).sort("order", maintain_order=True), list(texts.values())


def _span(times: pl.DataFrame, log_x: bool) -> tuple[float, float]:
    """First and last step of the axis."""
    ends = [times[name].max() for name in ("time", "followed") if name in times.columns]
    last = max(float(end) for end in (1, *ends))  # type: ignore[arg-type]  # there is at least one run
    positive = times.filter(pl.col("time") > 0)["time"]
    first = float(positive.min()) / 1.5 if log_x and len(positive) else 0.0  # type: ignore[arg-type]
    return (max(min(first, last / 10), 0.5), last) if log_x else (0.0, last)


def _shares(curves: pl.DataFrame, first: float, last: float) -> pl.DataFrame:
    """Corners of the step lines: ``label``, ``step``, ``share``, ``low`` and ``high``.

    Every line begins at the axis; one that came to 1 stays there to the end, where others are still followed.
    """
    share = curves.select(
        "label",
        pl.col("step").cast(pl.Float64).clip(lower_bound=first),
        (1 - pl.col("survival")).alias("share"),
        # the band of the last run but one is drawn up to the last, where it ends
        (1 - pl.col("high").forward_fill().over("label")).alias("low"),
        (1 - pl.col("low").forward_fill().over("label")).alias("high"),
    )
    labels = share.select(pl.col("label").unique(maintain_order=True))
    start = labels.with_columns(step=pl.lit(first), share=pl.lit(0.0), low=pl.lit(0.0), high=pl.lit(0.0))
    tops = share.filter(pl.col("share") > 1 - 1e-12).select("label").unique(maintain_order=True)
    end = tops.with_columns(
        step=pl.lit(last), share=pl.lit(1.0), low=pl.lit(None, pl.Float64), high=pl.lit(None, pl.Float64)
    )
    return pl.concat([start, share, end])


def _ended(labelled: pl.DataFrame, curves: pl.DataFrame, first: float) -> pl.DataFrame:
    """Where runs were last seen that did not get there: ``label``, ``step``, ``share`` and whether they ``diverged``.

    A curve has no corner where a run diverged, because there it does not end: the mark sits on the last one before.
    """
    diverged = (pl.col("state") == "diverged").fill_null(False) if "state" in labelled.columns else pl.lit(False)
    ends = labelled.filter(~pl.col("observed")).select(
        "label", pl.col("time").cast(pl.Float64).clip(lower_bound=first).alias("step"), diverged=diverged
    )
    corners = curves.group_by("label", "step").agg(pl.col("share").max())
    return (
        ends.unique()
        .sort("step", "label", "diverged")
        .join_asof(corners.sort("step"), on="step", by="label", check_sortedness=False)
    )


def _colours(labels: list[str], kind: pl.DataType) -> alt.Scale:
    if len(labels) <= len(_COLOURS) and (len(labels) <= 2 or not kind.is_numeric()):
        return alt.Scale(domain=labels, range=_COLOURS[: len(labels)])
    return alt.Scale(domain=labels, scheme=alt.SchemeParams(name="viridis", extent=[0, 0.92]))


def _dashes(labels: list[str]) -> alt.Scale:
    dashes = _DASHES[: len(labels)] if len(labels) <= len(_DASHES) else [[1, 0]] * len(labels)
    return alt.Scale(domain=labels, range=dashes)


def _legend() -> alt.Legend:
    return alt.Legend(
        orient="top", direction="horizontal", columns=5, symbolType="stroke", symbolOpacity=1, symbolSize=400
    )


def _x_scale(first: float, last: float, log_x: bool) -> alt.Scale:
    return alt.Scale(type="log" if log_x else "linear", domain=[first, last], nice=False)


def _x_axis(first: float, last: float, log_x: bool) -> alt.Axis:
    if not log_x:
        return alt.Axis(format="~s", tickCount=6, labelExpr="datum.value === 0 ? '0' : datum.label")
    decades = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    wide = last / first > 300
    values = [m * 10**k for k in decades for m in ((1,) if wide else (1, 2, 5)) if first <= m * 10**k <= last]
    return alt.Axis(format="~s", values=values)
