"""The report that every card gives."""

from collections.abc import Sequence
from types import ModuleType

import altair as alt
import polars as pl

from shoal.analysis import median_time
from shoal.report import Cell, Figure, Report, Section, Table
from shoal.report.figures import COLOURS, styled
from shoal.report.summary import provenance
from shoal.studies.base import Form
from shoal.studies.cards.verdict import RULE, Verdict, judge, steps
from shoal.studies.results import Results


def card_report(card: ModuleType, name: str, results: Results, form: Form) -> Report:
    """The verdict first, then the distribution beside the published numbers, settings, deviations and provenance.

    Args:
        card: a module with ``TITLE``, ``SOURCE``, ``PUBLISHED`` and ``DEVIATIONS``.
        name: the card's.
        results: its runs.
        form: how they were asked for.
    """
    verdicts = [judge(published, results) for published in card.PUBLISHED]
    command = f"shoal reproduce {name}{form.flags()}"
    changed = [] if not form.settings else [f"Settings changed for this report: {form.flags().strip()}."]
    return Report(
        title=f"{card.TITLE}{' (quick form)' if form.quick else ''}",
        lead="Do our runs of these settings cover what was published?",
        answers=[*results.shortcomings(), *conclusion(verdicts)],
        sections=[
            Section("Beside the published numbers", [RULE], [_figure(verdicts)], [_table(verdicts)]),
            Section("Source and deviations", [f"Source: {card.SOURCE}", *changed, *_numbered(card.DEVIATIONS)]),
            provenance(results.records, command),
        ],
    )


def conclusion(verdicts: Sequence[Verdict]) -> list[str]:
    """How many published numbers ours cover, how many they would if all were alike, and which they do not."""
    counts = {word: sum(v.word == word for v in verdicts) for word in ("covered", "not covered", "open", "not run")}
    text = f"Verdict: of {len(verdicts)} published numbers our runs cover {counts['covered']} and do not "
    text += f"cover {counts['not covered']}; {counts['open']} open, {counts['not run']} not run."
    chances = [v.chance for v in verdicts if v.chance is not None]
    if chances:
        each = " to ".join(f"{chance:.0%}" for chance in dict.fromkeys([min(chances), max(chances)]))
        text += f" Covered {counts['covered']} of the {len(chances)} decided; expected about {sum(chances):.2g} of "
        text += f"{len(chances)}, or more, if what was published and our runs came from one distribution ({each} each)."
    missed = [v for v in verdicts if v.word == "not covered"]
    return [
        text + _dependent(verdicts),
        *(f"Not covered: {v.published.what}, {v.published.written()} ({v.why})." for v in missed),
    ]


def _dependent(verdicts: Sequence[Verdict]) -> str:
    """Says so where published numbers were compared with the same runs of ours."""
    decided = [v for v in verdicts if v.chance is not None]
    sharing = [v for v in decided if any(v is not other and v.runs & other.runs for other in decided)]
    if not sharing:
        return ""
    which = "These verdicts" if len(sharing) == len(decided) else f"{len(sharing)} of these verdicts"
    return (
        f" {which} are not independent of each other: they compare several published numbers with the same runs of "
        "ours, so that runs which happen to be early or late miss, or cover, several of them at once."
    )


def _numbered(deviations: Sequence[str]) -> list[str]:
    return [f"Deviation {number}: {text}" for number, text in enumerate(deviations, 1)]


def _table(verdicts: Sequence[Verdict]) -> Table:
    rows = []
    for verdict in verdicts:
        published, times = verdict.published, verdict.times
        reached = sorted(times.filter("observed")["time"].to_list())
        median = median_time(times.with_columns(state=pl.when("diverged").then(pl.lit("diverged"))))
        middle = "–" if median is None else steps(median)
        ours = f"{middle} [{steps(reached[0])}, {steps(reached[-1])}]" if reached else "–"
        unit = "runs" if published.runs == 1 else "means"
        cells = [published.written(), published.source, f"{len(reached)} / {len(times)} {unit}", ours]
        rows.append((published.what, [Cell(text) for text in (*cells, verdict.word, verdict.why)]))
    caption = (
        "Published steps beside ours: how many of our runs got there (for a published mean, means over as many runs in "
        "which every one did), the median of all (the others count as later; – where fewer than half got there) and "
        "the range of those that did, and the verdict by the rule above."
    )
    return Table("verdicts", ["event", "published", "by", "got there", "ours", "verdict", "why"], rows, caption)


def _figure(verdicts: Sequence[Verdict]) -> Figure:
    """Our runs as points, hollow where they ended without; published numbers as diamonds; one row per event."""
    ours = [
        {
            "event": v.published.what,
            "step": max(1, row["time"]),
            "kind": "ours" if row["observed"] else "ours, not by then",
        }
        for v in verdicts
        for row in v.times.to_dicts()
    ]
    theirs = [{"event": v.published.what, "step": v.published.value, "kind": "published"} for v in verdicts]
    events = list(dict.fromkeys(v.published.what for v in verdicts))
    frame = pl.DataFrame(ours + theirs, infer_schema_length=None)
    kinds = ["ours", "ours, not by then", "published"]
    scale = alt.Scale(domain=kinds, range=[COLOURS[0], COLOURS[5], COLOURS[1]])
    chart = (
        alt.Chart(frame)
        .mark_point(filled=True, size=70, opacity=0.75)
        .encode(
            alt.X(
                "step:Q", title="step", scale=alt.Scale(type="log", nice=False, padding=15), axis=alt.Axis(format="~s")
            ),
            alt.Y("event:N", title=None, sort=events, axis=alt.Axis(labelLimit=420, grid=True)),
            alt.Color("kind:N", title=None, scale=scale, legend=alt.Legend(orient="top")),
            alt.Shape(
                "kind:N", title=None, scale=alt.Scale(domain=kinds, range=["circle", "triangle-right", "diamond"])
            ),
        )
        .properties(width=420, height=34 * len(events) + 20, title="Published numbers and our runs")
    )
    caption = (
        "Steps (logarithmic) at which each event happened: circles, our runs, or means over as many as a published "
        "mean has; triangles, those that ended there without it; diamonds, published numbers."
    )
    return Figure("published", styled(alt.layer(chart)), caption)
