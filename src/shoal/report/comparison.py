"""Variants beside their baseline: a forest plot of effect sizes, a table, and cautions in words."""

from collections.abc import Mapping

import altair as alt
import polars as pl

from shoal.errors import UserError, nearest
from shoal.report.figures import Chart, Figure, styled
from shoal.report.table import Cell, Table
from shoal.report.words import capitalised, counted, listed, number, p_value, with_interval

_BLUE = "#0072B2"
_FARTHEST = 5.0  # where the axis of d_z ends: beyond it nothing overlaps any more
_MARKS = ["circle", "triangle-right", "triangle-left"]
_EFFECTS = {
    "d_z": ("d_z (standard deviations; right: better than the baseline)", 0.0),
    "superiority": ("share of pairs in which it is better than the baseline", 0.5),
}
_MEANINGS = {
    "d_z": (
        "Points: Cohen's d_z, the mean over the standard deviation of the differences within pairs, turned so that "
        "right is better; line: 95 % interval under normal differences. Triangles: beyond the axis. No mark: all "
        "differences are equal, or times are censored"
    ),
    "superiority": (
        "Points: the share of pairs in which the variant is better than the baseline, ties counted half; lines: its "
        "95 % Wilson interval"
    ),
}


def forest(
    comparison: pl.DataFrame, title: str, effect: str = "d_z", metrics: Mapping[str, str] | None = None
) -> Chart:
    """Effect size of every variant with its interval, one panel per metric.

    Args:
        comparison: as from :func:`shoal.analysis.compare`.
        title: above the chart.
        effect: ``d_z`` or ``superiority``; the latter also for censored times.
        metrics: names for the metrics, and which of them to show.

    Raises:
        UserError: the effect is unknown, or there is nothing to show.
    """
    shown = _shown(comparison, effect, metrics)
    label, middle = _EFFECTS[effect]
    end = 1.0
    if effect == "d_z":
        reach = shown.select(pl.max_horizontal(pl.col("effect", "low", "high").abs().max())).item() or 1.0
        end = min(_FARTHEST, max(1.0, 1.05 * reach))
    start = -end if effect == "d_z" else 0.0
    shown = shown.with_columns(
        pl.when(pl.col("effect") > end)
        .then(pl.lit("triangle-right"))
        .when(pl.col("effect") < start)
        .then(pl.lit("triangle-left"))
        .otherwise(pl.lit("circle"))
        .alias("mark"),
        pl.col("effect", "low", "high").clip(start, end),
    )
    scale = alt.Scale(domain=[start, end], nice=False)
    x = alt.X("effect:Q", title=label, scale=scale, axis=alt.Axis(tickCount=6))
    names = alt.Axis(labelLimit=260, labelPadding=8, ticks=False, domain=False)
    y = alt.Y("variant:N", title=None, sort=None, axis=names)
    base = alt.Chart(shown)
    shape = alt.Shape("mark:N", legend=None, scale=alt.Scale(domain=_MARKS, range=_MARKS))
    layers = [
        base.mark_rule(color="#777777", strokeDash=[4, 3]).encode(x=alt.datum(middle)),
        base.transform_filter("isValid(datum.low)")
        .mark_rule(color=_BLUE, strokeWidth=2)
        .encode(alt.X("low:Q", title=label, scale=scale), alt.X2("high:Q"), y),
        base.transform_filter("isValid(datum.effect)")
        .mark_point(filled=True, size=70, color=_BLUE, opacity=1)
        .encode(x, y, shape),
    ]
    panel = alt.layer(*layers).properties(width=360, height=alt.Step(22))
    ranked = shown.drop_nulls("effect").sort("effect", descending=True, maintain_order=True).to_dicts()
    ends = [f"{row['variant']} {number(row['effect'], 2)} ({row['metric']})" for row in (*ranked[:1], *ranked[1:][-1:])]
    what = f"{title}. {capitalised(label)}, for {len(shown)} comparisons"
    alternative = f"{what}: from {' down to '.join(ends)}." if ranked else f"{what}: none has a value."
    if shown["metric"].n_unique() == 1:
        return styled(panel.properties(title=title), alternative)
    header = alt.Header(title=None, labelAnchor="start", labelOrient="top", labelFontSize=12, labelPadding=2)
    row = alt.Row("metric:N", header=header, sort=shown["metric"].unique(maintain_order=True).to_list())
    return styled(panel.facet(row=row).properties(title=title, spacing=14), alternative)


def comparison_figure(
    name: str,
    comparison: pl.DataFrame,
    title: str,
    baseline: str,
    effect: str = "d_z",
    metrics: Mapping[str, str] | None = None,
    pairs: str = "one per seed",
) -> Figure:
    """Forest plot with a caption that explains its marks; ``pairs`` is a clause that defines the pairs."""
    chart = forest(comparison, title, effect, metrics)
    counts = sorted(set(_shown(comparison, effect, metrics)["n"].to_list()))
    n = f"N = {counts[0]}" if len(counts) == 1 else f"N = {counts[0]} to {counts[-1]}"
    return Figure(name, chart, f"{title}, {n} pairs with {baseline}, {pairs}. {_MEANINGS[effect]}.")


def comparison_table(
    name: str,
    comparison: pl.DataFrame,
    baseline: str,
    metrics: Mapping[str, str] | None = None,
    pairs: str = "runs from the same seed",
) -> Table:
    """Table with one row per variant and metric; ``pairs`` is a clause of the caption that defines the pairs."""
    effects = ["d_z (+ = better)", "rank-biserial (+ = better)", "better / worse / same"]
    header = ["", "pairs", "mean difference", "median", *effects, "p", "p (Holm)"]
    rows = []
    named = _named(comparison, metrics)
    compared = named["metric"].unique(maintain_order=True).to_list()
    for row in named.rows(named=True):
        cells = [
            str(row["n"]),
            with_interval(row["mean_difference"], row["low"], row["high"]),
            number(row["median_difference"]),
            with_interval(row["d_z"], row["d_z_low"], row["d_z_high"]),
            number(row["rank_biserial"], 2),
            f"{row['better']} / {row['worse']} / {row['tied']}",
            number(row["p"], 2),
            number(row["p_holm"], 2),
        ]
        label = row["variant"] if len(compared) == 1 else f"{row['variant']}: {row['metric']}"
        rows.append((label, [Cell(text) for text in cells]))
    caption = (
        (f"{capitalised(compared[0])}. " if len(compared) == 1 else "")
        + f"Differences: variant − {baseline} within pairs of {pairs}, mean with Student's 95 % "
        "interval, and median. Effect sizes are positive where the variant is better, whether small or large values "
        "are good. d_z: mean over standard deviation of the differences, with its interval under normal differences. "
        "Rank-biserial: the matched rank-biserial correlation. Better / worse / same: numbers of pairs in which the "
        "variant is. p: two-sided sign-flip test of the differences (of times: of ranks), exact up to 12 pairs. Holm: "
        "corrected for "
        f"{comparison['p'].drop_nulls().len()} comparisons. –: there is no such value."
    )
    return Table(name, header, rows, caption, named)


def comparison_notes(comparison: pl.DataFrame, metrics: Mapping[str, str] | None = None) -> list[str]:
    """Cautions for a reader of the table: missing pairs, censored pairs, and a smallest possible p value above 0.05."""
    notes = []
    censored: dict[tuple[str, float], list[str]] = {}  # metric and horizon -> variants
    for row in _named(comparison, metrics).rows(named=True):
        who = f"{row['variant']}, {row['metric']}"
        missing = {whose: row[f"missing_{whose}"] for whose in ("variant", "baseline")}
        notes += [
            f"{who}: the {whose} has no value for seed {listed(seeds)}; left out."
            for whose, seeds in missing.items()
            if seeds
        ]
        if row["n_censored"]:
            count = f"{row['n_censored']} of {counted(row['n'], 'pair')} with {row['variant']}"
            censored.setdefault((row["metric"], row["horizon"]), []).append(count)
    notes += [
        f"{capitalised(metric)}: in {listed(counts)} one run or both did not reach it. Times are cut off at "
        f"step {number(horizon)}, so that the differences are of restricted times and a pair of which neither run got "
        "there is a tie."
        for (metric, horizon), counts in censored.items()
    ]
    fewest = min((n for n in comparison["n"].to_list() if n), default=None)
    if fewest is not None and 2 / 2**fewest > 0.05:
        notes.append(
            f"With {counted(fewest, 'pair')} no p value can be below {number(2 / 2**fewest, 2)}, however large the "
            "effect is: 2/2ⁿ is the smallest there is, before any correction."
        )
    return notes


def comparison_sentence(
    comparison: pl.DataFrame, baseline: str, metrics: Mapping[str, str], pairs: str, most: int = 4
) -> str:
    """Mean differences with their intervals, in how many pairs a variant is better, and p corrected, in a sentence.

    Args:
        comparison: as from :func:`shoal.analysis.compare`, of all that a page compares: its p values are corrected.
        baseline: with which variants are compared.
        metrics: names for the metrics, and which of them to tell.
        pairs: the settings that the runs of a pair share.
        most: number of variants in the sentence; of more variants those with the smallest p.
    """
    named = _named(comparison, metrics).filter(pl.col("n") > 0)
    clear = named.group_by("variant", maintain_order=True).agg(pl.col("p_holm").min(), pl.col("p").min())
    clearest = set(clear.sort("p_holm", "p", nulls_last=True, maintain_order=True)["variant"].head(most))
    parts: dict[str, list[str]] = {}
    for row in named.filter(pl.col("variant").is_in(clearest)).rows(named=True):
        corrected = "no test" if row["p_holm"] is None else f"corrected {p_value(row['p_holm'])}"
        cut = f", cut off at step {number(row['horizon'])}," if row["n_censored"] else ""
        mean = with_interval(row["mean_difference"], row["low"], row["high"])
        effect = f"{row['metric']}{cut} {mean} (better in {row['better']} of {row['n']}, {corrected})"
        parts.setdefault(row["variant"], []).append(effect)
    clause = "; ".join(f"at {variant}: {', '.join(texts)}" for variant, texts in parts.items())
    left = len(clear) - len(parts)
    more = f"; {counted(left, 'value')} more in the table" if left else ""
    tests = len(comparison["p"].drop_nulls())
    floor = min([1.0, *(tests * p for p in comparison["smallest_p"].drop_nulls())])
    reach = f" With these pairs no corrected p below {number(floor, 2)} is possible." if floor >= 0.05 else ""
    return (
        f"mean differences [95 %] from {baseline}, in pairs of the same {pairs}: {clause}{more}; sign-flip tests, "
        f"corrected for {counted(tests, 'comparison')} (Holm).{reach}"
    )


def _named(comparison: pl.DataFrame, metrics: Mapping[str, str] | None) -> pl.DataFrame:
    if metrics is None:
        return comparison
    return comparison.filter(pl.col("metric").is_in(list(metrics))).with_columns(
        pl.col("metric").replace_strict(dict(metrics), default=None)
    )


def _shown(comparison: pl.DataFrame, effect: str, metrics: Mapping[str, str] | None) -> pl.DataFrame:
    """``variant``, ``metric``, ``n``, ``effect``, ``low`` and ``high``."""
    if effect not in _EFFECTS:
        raise UserError(f"unknown effect {effect!r}: one of {' '.join(_EFFECTS)}{nearest(effect, _EFFECTS)}")
    named = _named(comparison, metrics)
    if named.is_empty():
        raise UserError("there is no comparison to show")
    return named.select(
        "variant",
        "metric",
        "n",
        pl.col(effect).alias("effect"),
        pl.col(f"{effect}_low").alias("low"),
        pl.col(f"{effect}_high").alias("high"),
    )
