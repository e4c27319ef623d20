"""Times to generalise by setting: curves of the share of runs that has generalised, a table, and a test in words.

Groups differ in colour, and up to four also in dash. Names take Okabe and Ito's colours; numbers, whose order
means something, and more than seven names take a sequential scale.
"""

import math
from collections.abc import Mapping
from typing import Any

import altair as alt
import polars as pl

from shoal.analysis.columns import check_columns
from shoal.analysis.survival import kaplan_meier, survival_summary
from shoal.analysis.times import check_times
from shoal.errors import UserError
from shoal.measures import EQUATIONS
from shoal.report.figures import Chart, Figure, styled
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, counted, listed, number, with_interval

REACHED = EQUATIONS.reached

_COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]
_DASHES = [[1, 0], [6, 3], [2, 2], [8, 3, 2, 3]]
_MOST_BANDS = 4  # more of them hide each other
_BAND = (
    "Shaded: the 95 % interval of the share at each step (Greenwood, log(−log) scale), which does not exist before the "
    "first run has reached the threshold nor after the last has. "
)
_GRID = "Steps are those of evaluations: what is first seen at an evaluation happened after the one before it."
_LOST = "×: where runs diverged; they can never reach the threshold, and count to the end as runs that have not. "


def survival_curves(times: pl.DataFrame, by: str, title: str, log_x: bool = False) -> Chart:
    """Share of each group's runs that has generalised (1 − S) against the training step.

    Args:
        times: ``time``, ``observed``, ``by`` and perhaps ``state``, one row per run; perhaps ``followed``, the last
            step at which it was looked at, up to which the axis goes.
        by: the setting whose values are the groups.
        title: above the chart.
        log_x: logarithmic steps.

    Raises:
        UserError: there are no runs.
    """
    labelled, labels = labelled_times(times, by)
    first, last = _span(times, log_x)
    curves = _shares(kaplan_meier(labelled, "label"), first, last)
    x = alt.X("step:Q", title="training step", scale=_x_scale(first, last, log_x), axis=_x_axis(first, last, log_x))
    scale, title_y = alt.Scale(domain=[0, 1]), "share of runs that reached the threshold"
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
    """Number of runs of each group that reached the threshold, and the first and the last step at which one did."""
    parts = []
    for label in labels:
        group = labelled.filter(label=label)
        reached = sorted(group.filter("observed")["time"])
        steps = f" between steps {reached[0]:,} and {reached[-1]:,}" if reached else ""
        parts.append(f"{label}: {len(reached)} of {len(group)}{steps}")
    return f"{title}. Reached by step {last:,.0f}: {'; '.join(parts)}."


def survival_figure(
    name: str, times: pl.DataFrame, by: str, title: str, reached: str = REACHED, log_x: bool = False
) -> Figure:
    """Curves with a caption that explains every mark; ``reached`` names the event whose times they show."""
    labelled, labels = labelled_times(times, by)
    summary = survival_summary(labelled, "label")
    sizes = listed([f"{row['label']}: N = {row['N']}" for row in summary.rows(named=True)])
    caption = (
        f"{title} ({reached}), by {by}: {sizes}. Lines: the share of runs that has reached it by each training "
        f"step{' (logarithmic axis)' if log_x else ''}, one minus the estimate of Kaplan and Meier. "
        f"{_BAND if len(labels) <= _MOST_BANDS else ''}Ticks: the last evaluation of runs that did not reach it "
        f"(censored). {_LOST if summary['diverged'].sum() else ''}{_GRID}"
    )
    return Figure(name, survival_curves(times, by, title, log_x), caption)


def survival_table(name: str, times: pl.DataFrame, by: str, reached: str = REACHED) -> Table:
    """Table with one row per group: number and rate of runs that reached the threshold, median and mean times."""
    labelled, labels = labelled_times(times, by)
    summary = survival_summary(labelled, "label")
    rows = {row["label"]: row for row in summary.rows(named=True)}
    fell_back = [] if summary["fell_back"].null_count() else ["fell_back"]
    unfinished = ["unfinished"] if summary["unfinished"].sum() else []
    counts = ["N", "generalised", *fell_back, "censored", "diverged", *unfinished]
    up_to = f" up to {number(summary['horizon'][0])}" if summary["restricted"][0] else ""
    header = [
        by,
        *("reached" if c == "generalised" else c.replace("_", " ") for c in counts),
        "rate",
        "median step",
        f"mean step{up_to}",
    ]
    body = [(label, [Cell(text) for text in _cells(rows[label], counts)]) for label in labels]
    caption = f"Runs that reached {reached}. {_counted(summary)}{_estimated(summary)}"
    return Table(name, header, body, caption, summary.rename({"label": by}))


def rates_sentence(times: pl.DataFrame, by: str, most: int = 6) -> str:
    """Rates of the runs of each group that reached the threshold, with Wilson's intervals, and their median steps.

    Args:
        times: as for :func:`survival_table`.
        by: the setting whose values are the groups.
        most: number of groups that are all in the sentence; of more only the first and the last are.
    """
    labelled, labels = labelled_times(times, by)
    rows = {row["label"]: row for row in survival_summary(labelled, "label").rows(named=True)}
    if not labelled["observed"].any() and not sum(row["unfinished"] for row in rows.values()):
        sizes = sorted({row["N"] for row in rows.values()})
        each = f"{sizes[0]}" if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
        high = number(max(row["rate_high"] for row in rows.values()), 2)
        return (
            f"reached by none of {counted(len(labelled), 'run')} ({each} at each of {len(labels)} values of {by}); the "
            f"95 % Wilson intervals of the rates go from 0 up to {high}."
        )
    shown = labels if len(labels) <= most else [labels[0], labels[-1]]
    parts = []
    for row in (rows[label] for label in shown):
        rate = "" if row["rate"] is None else f"rate {with_interval(row['rate'], row['rate_low'], row['rate_high'], 2)}"
        median = median_text(row)
        still = f"{row['unfinished']} still in training" if row["unfinished"] else ""
        step = "" if row["median"] is None else f"median step {median}"
        more = ", ".join(text for text in (rate, still, step) if text)
        at = f"{by} {row['label']}" if row["label"] == shown[0] else row["label"]
        parts.append(f"{row['generalised']} of {row['N']} at {at} ({more})")
    between = "" if len(shown) == len(labels) else f" (the ends of {len(labels)} values of {by})"
    return f"reached by {'; '.join(parts)}{between}; rates with 95 % Wilson intervals."


def median_text(row: Mapping[str, Any]) -> str:
    """Median step of a group with its interval; a lower bound where :func:`bound_sign` has a sign."""
    text = with_interval(row["median"], row["median_low"], row["median_high"])
    return text if row["median"] is None else f"{bound_sign(row['generalised'], row['N'])}{text}"


def bound_sign(reached: int, N: int) -> str:
    """``≥`` before the median step of N runs of which exactly half reached the threshold, and nothing before others.

    R's ``survfit`` prints the step at which a curve that ends at ½ came there: without the sign, a setting in which
    half of the runs never arrive would look fast.

    >>> bound_sign(2, 4), bound_sign(3, 4)
    ('≥ ', '')
    """
    return "≥ " if 2 * reached == N else ""


def _counted(summary: pl.DataFrame) -> str:
    """Meaning of the columns that hold counts and rates."""
    unfinished, diverged = int(summary["unfinished"].sum()), int(summary["diverged"].sum())
    lost = f"{diverged} diverged and can never reach it: median and mean count it to the end as one that has not. "
    fell_back = "Fell back: runs that reached it and did not meet it at a later evaluation. "
    return (
        ("" if summary["fell_back"].null_count() else fell_back)
        + "Censored: runs that ended without reaching it. Diverged: runs whose loss was no longer finite before that. "
        + ("Unfinished: runs still in training, censored at their last evaluation. " if unfinished else "")
        + (lost if diverged else "")
        + "Rate: reached / N with its 95 % Wilson interval; every other run counts as not having reached it"
        + ("; there is no rate where runs are unfinished. " if unfinished else ". ")
    )


def _estimated(summary: pl.DataFrame) -> str:
    """Meaning of the columns of median and mean, and of their intervals where there are any."""
    banded, spread = (
        summary.select(pl.any_horizontal(pl.col(f"{name}_low", f"{name}_high").is_not_null()).any()).item()
        for name in ("median", "restricted_mean")
    )
    restricted, horizon = bool(summary["restricted"][0]), number(summary["horizon"][0])
    smallest = min(summary["N"].to_list())
    parts = [
        "Median: step by which half of the runs had reached it (Kaplan and Meier; where exactly half had for a while, "
        "the middle of it; ≥ where exactly half ever did, so that it may as well be later)"
    ]
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
    if not all(map(_tells, summary.rows(named=True))):
        parts.append(f". No mean is given of a group of which half, or all, reached it only after {horizon} steps")
    return "".join(parts) + f". –: not reached, or no such end of an interval. {_GRID}"


def _tells(row: dict[str, Any]) -> bool:
    """Return True if a group's mean is one of times to generalise, and not mostly of the horizon that cuts them off.

    A restricted mean is below the horizon even if half of the runs reached the threshold only after it: the mean then
    says less than the median, and is not shown.
    """
    if not row["restricted"] or row["restricted_mean"] is None:
        return True
    half_came_later = row["median"] is not None and row["median"] > row["horizon"]
    return bool(row["restricted_mean"] < row["horizon"] and not half_came_later)


def _cells(row: dict[str, Any], counts: list[str]) -> list[str]:
    return [
        *(str(row[count]) for count in counts),
        with_interval(row["rate"], row["rate_low"], row["rate_high"], digits=2),
        median_text(row),
        with_interval(row["restricted_mean"], row["restricted_mean_low"], row["restricted_mean_high"])
        if _tells(row)
        else NOTHING,
    ]


def labelled_times(times: pl.DataFrame, by: str) -> tuple[pl.DataFrame, list[str]]:
    """The times with ``label``, the group as text, and the labels: numbers in order, names as they come."""
    check_columns(times, [by])
    times = check_times(times)
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
    """Ends of the runs that did not reach the threshold: ``label``, ``step``, ``share`` and whether they ``diverged``.

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
