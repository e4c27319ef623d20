"""Report of a reproduction."""

import math
from collections.abc import Sequence
from types import ModuleType

import altair as alt
import polars as pl

from shoal.analysis import holm, median_time
from shoal.report import Cell, Figure, Report, Section, Table
from shoal.report.figures import COLOURS, styled
from shoal.report.summary import provenance
from shoal.report.survival import bound_sign
from shoal.studies.base import Form
from shoal.studies.reproductions.curves import CURVE_RULE, CurveVerdict, judge_curve, worded_curve
from shoal.studies.reproductions.verdict import INCONSISTENT, NOT_RUN, RULE, WORDS, Verdict, compare, steps, worded
from shoal.studies.results import Results

CURVES = "published losses, step by step, beside the range of our runs."
BESIDE = "what was published beside our runs of the same settings, and whether it could be one of them."
ABOUT_DEVIATIONS = "where the published numbers are found, and in what our runs differ from what was published."


def reproduction_report(reproduction: ModuleType, name: str, results: Results, form: Form) -> Report:
    """Report with the verdict first, then our times beside the published ones, settings, deviations and provenance.

    Args:
        reproduction: a module with ``TITLE``, ``SOURCE``, ``PUBLISHED``, ``CURVES`` and ``DEVIATIONS``.
        name: name of the reproduction.
        results: results of its runs.
        form: form in which they were asked for.
    """
    verdicts, curves = judged(reproduction, results)
    command = f"shoal reproduce {name}{form.flags()}"
    changed = [] if not form.settings else [f"Settings changed for this report: {form.flags().strip()}."]
    return Report(
        title=form.title(reproduction.TITLE),
        lead="Could what was published be runs of these settings?",
        answers=[*results.shortcomings(), *conclusion(verdicts, curves)],
        sections=[
            Section("Beside the published numbers", [RULE], [_figure(verdicts)], [_table(verdicts)], BESIDE),
            _curves(curves),
            Section(
                "Source and deviations",
                [f"Source: {reproduction.SOURCE}", *changed, *_numbered(reproduction.DEVIATIONS)],
                about=ABOUT_DEVIATIONS,
            ),
            provenance(results.records, command),
        ],
    )


def judged(reproduction: ModuleType, results: Results) -> tuple[list[Verdict], list[CurveVerdict]]:
    """Verdicts on a reproduction's numbers and curves, their p values corrected for all that were tried."""
    verdicts = [compare(published, results) for published in reproduction.PUBLISHED]
    curves = [judge_curve(curve, results) for curve in reproduction.CURVES]
    tried = [*(verdict.p for verdict in verdicts), *(curve.p for curve in curves)]
    corrected, tests = holm(tried), sum(p is not None for p in tried)
    numbers = [worded(verdict, p, tests) for verdict, p in zip(verdicts, corrected, strict=False)]
    return numbers, [worded_curve(curve, p) for curve, p in zip(curves, corrected[len(verdicts) :], strict=True)]


def conclusion(verdicts: Sequence[Verdict], curves: Sequence[CurveVerdict] = ()) -> list[str]:
    """Sentences on the verdicts of our runs on the published numbers and curves."""
    tried = [verdict for verdict in verdicts if verdict.word != NOT_RUN]
    numbers = f"{len(tried)} published number{'s' * (len(tried) != 1)}"
    text = f"Verdict: none of {len(verdicts)} published numbers was tried."
    if tried:
        text = f"Verdict: of the {numbers} tried, {_counted([verdict.word for verdict in tried])}."
        if len(tried) < len(verdicts):
            text += f" {len(verdicts) - len(tried)} more that the reproduction lists have no runs here."
    out = [text + _dependent(tried)]
    compared = [curve for curve in curves if curve.word != NOT_RUN]
    if compared:
        names = [f"{curve.curve.what}: {curve.word} ({_p(curve.p, curve.p_holm)})" for curve in compared]
        out.append(
            f"First steps beside {'a published curve' if len(names) == 1 else 'published curves'}: {'; '.join(names)}."
        )
    for verdict in tried:
        if verdict.word == INCONSISTENT:
            p = _p(verdict.p, verdict.p_holm)
            out.append(f"Not consistent: {verdict.published.what}, {verdict.published.written()} ({verdict.why}; {p}).")
    return out


def _counted(words: Sequence[str]) -> str:
    return ", ".join(f"{words.count(word)} {word}" for word in WORDS if word in words)


def _dependent(verdicts: Sequence[Verdict]) -> str:
    """Sentence where several published numbers were compared with the same runs; else empty."""
    where = [verdict.published.where for verdict in verdicts]
    if len({str(sorted(each.items())) for each in where}) == len(where):
        return ""
    return (
        " Verdicts on the same runs of ours are not independent: runs that happen to be early or late move several of "
        "them at once. The correction holds all the same."
    )


def _numbered(deviations: Sequence[str]) -> list[str]:
    return [f"Deviation {number}: {text}" for number, text in enumerate(deviations, 1)]


def _p(p: float | None, p_holm: float | None) -> str:
    return "–" if p is None or p_holm is None else f"p {_small(p)}, by Holm {_small(p_holm)}"


def _small(p: float) -> str:
    return f"{p:.2g}" if p >= 0.001 else "< 0.001"


def _table(verdicts: Sequence[Verdict]) -> Table:
    rows, data = [], []
    for verdict in verdicts:
        published, times = verdict.published, verdict.times
        reached = sorted(times.filter("observed")["time"].to_list())
        median = median_time(times.with_columns(state=pl.when("diverged").then(pl.lit("diverged"))))
        middle = "–" if median is None else f"{bound_sign(len(reached), len(times))}{steps(median)}"
        ours = f"{middle} [{steps(reached[0])}, {steps(reached[-1])}]" if reached else "–"
        numbers = {
            "median": median,
            "earliest": reached[0] if reached else None,
            "latest": reached[-1] if reached else None,
        }
        theirs = {"event": published.what, "published": list(map(float, published.values))}
        p_values = {"p": verdict.p, "p_holm": verdict.p_holm, "p_rank": verdict.p_rank}
        got_there = {"got_there": len(reached), "N": len(times), **numbers}
        data.append({**theirs, **got_there, **p_values, "verdict": verdict.word, "why": verdict.why})
        shown = [_small(p) if p is not None else "–" for p in p_values.values()]
        cells = [published.written(), published.source, f"{len(reached)} / {len(times)}", ours, *shown]
        rows.append((published.what, [Cell(text) for text in (*cells, verdict.word, verdict.why)]))
    caption = (
        "Published steps beside ours: how many of our runs reached it, the median of all (the others count as later; – "
        "where fewer than half reached it) and the range of those that did, p of the comparison, the same corrected by "
        "Holm for what was tried here, p of the published number's place among ours (where it is one run's), and the "
        "verdict by the rule above."
    )
    columns = ["event", "published", "by", "reached", "ours", "p", "p (Holm)", "rank p", "verdict", "why"]
    return Table("verdicts", columns, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def _curves(curves: Sequence[CurveVerdict]) -> Section:
    """Section on the first steps beside published curves, or on their absence."""
    if not curves:
        unknown = "No published curve: no losses of these runs, step by step, are known to us."
        return Section("Curves", [unknown], about=CURVES)
    shown = [curve for curve in curves if len(curve.points)]
    text = [CURVE_RULE, *(f"{curve.curve.what} ({curve.curve.source}): {_ran(curve)}" for curve in curves)]
    figures = [_curve_figure(curve, number) for number, curve in enumerate(shown, 1)]
    tables = [_curve_table(curve, number) for number, curve in enumerate(shown, 1)]
    return Section("Curves", text, figures, tables, CURVES)


def _ran(curve: CurveVerdict) -> str:
    return f"{curve.n} of our runs, {curve.word}" + (f" ({_p(curve.p, curve.p_holm)})." if curve.p is not None else ".")


def _curve_table(verdict: CurveVerdict, number: int) -> Table:
    rows = []
    for point in verdict.points.to_dicts():
        interval = f"{point['low']:.5f} to {point['high']:.5f}"
        cells = [f"{point['step']}", f"{point['published']:.5f}", interval, _small(point["p"])]
        rows.append((_named(point["column"]), [Cell(text) for text in cells]))
    caption = (
        f"{verdict.curve.what}: losses in nats, where 95 % of runs that begin with the published loss would lie (at "
        "the first step, of all runs), and p of each step alone, before any correction."
    )
    return Table(f"curve-{number}", ["loss", "step", "published", "95 % of runs", "p"], rows, caption, verdict.points)


def _named(column: str) -> str:
    return {"train_loss": "training loss", "valid_loss": "validation loss"}.get(column, column)


def _curve_figure(verdict: CurveVerdict, number: int) -> Figure:
    """Figure of published losses as diamonds in the band of ours."""
    frame = verdict.points.with_columns(
        loss=pl.col("column").replace_strict({c: _named(c) for c in verdict.curve.losses})
    )
    marks = alt.Axis(values=frame["step"].unique().sort().to_list(), format="d")
    step = alt.X("step:Q", title="step", scale=alt.Scale(type="symlog"), axis=marks)
    colour = alt.Color("loss:N", title=None, scale=alt.Scale(range=COLOURS[:2]), legend=alt.Legend(orient="top"))
    band = (
        alt.Chart(frame)
        .mark_area(opacity=0.25)
        .encode(step, alt.Y("low:Q", title="loss (nats)", scale=alt.Scale(zero=False)), alt.Y2("high:Q"), colour)
    )
    points = (
        alt.Chart(frame).mark_point(shape="diamond", filled=True, size=70).encode(step, alt.Y("published:Q"), colour)
    )
    caption = (
        f"{verdict.curve.what}: published losses (diamonds) of the first steps in the band that holds 95 % of our "
        "runs, were they to begin with the published loss; at the first step, of all runs."
    )
    chart = alt.layer(band, points).properties(width=420, height=240)
    return Figure(f"curve-{number}", styled(chart, f"{verdict.curve.what}: {_ran(verdict)}"), caption)


def _figure(verdicts: Sequence[Verdict]) -> Figure:
    """Figure of our runs as points, hollow where they ended before; published numbers as diamonds; a row per event."""
    ours = [
        {
            "event": v.published.what,
            "step": max(1, row["time"]),
            "kind": "ours" if row["observed"] else "ours, not by then",
        }
        for v in verdicts
        for row in v.times.to_dicts()
    ]
    theirs = [
        {"event": v.published.what, "step": value, "kind": "published"}
        for v in verdicts
        for value in v.published.values
    ]
    events = list(dict.fromkeys(v.published.what for v in verdicts))
    kinds = ["ours", "ours, not by then", "published"]
    colours = alt.Scale(domain=kinds, range=[COLOURS[0], COLOURS[5], COLOURS[1]])
    step = alt.X(
        "step:Q", title="step", scale=alt.Scale(type="log", nice=False, padding=15), axis=alt.Axis(format="~s")
    )
    event = alt.Y("event:N", title=None, sort=events, axis=alt.Axis(labelLimit=420, grid=True))
    points = (
        alt.Chart(pl.DataFrame(ours + theirs, infer_schema_length=None))
        .mark_point(filled=True, size=70, opacity=0.75)
        .encode(
            step,
            event,
            alt.Color("kind:N", title=None, scale=colours, legend=alt.Legend(orient="top")),
            alt.Shape(
                "kind:N", title=None, scale=alt.Scale(domain=kinds, range=["circle", "triangle-right", "diamond"])
            ),
        )
    )
    spans = [_span(verdict) for verdict in verdicts]
    intervals = (
        alt.Chart(pl.DataFrame([span for span in spans if span], _SPAN))
        .mark_rule(strokeWidth=2, color=COLOURS[0], opacity=0.5)
        .encode(alt.X("low:Q"), event, alt.X2("high:Q"))
    )
    chart = alt.layer(intervals, points).properties(
        width=420, height=34 * len(events) + 20, title="Published numbers and our runs"
    )
    caption = (
        "Steps (logarithmic) at which each event happened: circles, our runs; triangles, those that ended there "
        "without it; diamonds, published numbers; lines, where 95 % of such numbers lie by our runs, up to ten times "
        "what is shown."
    )
    parts = [
        f"{v.published.what}: published {v.published.written()}, ours {len(v.times.filter('observed'))} of "
        f"{len(v.times)} there"
        for v in verdicts
    ]
    return Figure("published", styled(chart, f"Published numbers and our runs. {'; '.join(parts)}."), caption)


_SPAN = {"event": pl.String, "low": pl.Float64, "high": pl.Float64}


def _span(verdict: Verdict) -> dict[str, object] | None:
    """Ends of the interval of a time, within the range of the axis."""
    if verdict.interval is None or len(verdict.published.values) > 1:
        return None
    seen = [*verdict.published.values, *verdict.times["time"].to_list()]
    low, high = max(1.0, min(seen) / 10, verdict.interval[0]), min(max(seen) * 10, verdict.interval[1])
    return {"event": verdict.published.what, "low": low, "high": high if math.isfinite(high) else max(seen) * 10}
