"""A page over any runs by the settings in which they differ: all that a study's page has, for an own grid.

Curves overlaid by each setting with bands over the rest, figures and tables of best values, trends along numbers, pairs
on shared seeds, and when runs reached the thresholds. Runs are compared that agree in all else: seeds and every other
setting that varies (:mod:`shoal.analysis.blocks`). P values are corrected for all tests of their kind on the page, as a
study's are.

Runs of several labs, or of several forms of a study, stand side by side by one more setting: ``lab``, or ``form``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl

from shoal.analysis.blocks import comparable, crossed, going_with
from shoal.measures import Measures
from shoal.report import Figure, Report, Section, Table
from shoal.report.by import in_order, setting_axis, value_name, values_in_words
from shoal.report.each_run import model_label
from shoal.report.panels import Axis
from shoal.report.quantities import got_there, is_open
from shoal.report.words import capitalised, counted, listed, with_interval
from shoal.spec.known import known_settings
from shoal.studies.answers import Case, Trend, direction, how_it_goes
from shoal.studies.crossing import SEED_AXES, SOURCES, crossing
from shoal.studies.own_axes import SIZE, Grid, asked_of, follows, made_of_size
from shoal.studies.own_pairs import metric_labels, paired, pairs_section
from shoal.studies.own_restarts import of_restarts, restarts
from shoal.studies.own_sources import lacking, provenances, twice
from shoal.studies.parts import curves_figure, summary_figure, summary_table, times_answers, times_of
from shoal.studies.results import Results

_MOST_PARTS = 6  # figures of curves for one axis
_CURVES = "curves of all runs, coloured by this setting, and the best values of each of its values."
_BEST = "the best values at each setting, the steps at which they were first reached, and tests of trends."


def report_own_grid(
    grid: Grid, sources: Mapping[str, Results], command: str, notes: Sequence[str] = (), says: Sequence[Section] = ()
) -> Report:
    """Curves, figures, tables, trends, pairs and times by each axis; the answers, computed, on top.

    Args:
        grid: the runs and their axes.
        sources: the results that were joined, by name; one where nothing was.
        command: with what the page was made.
        notes: what the reader should know besides.
        says: further sections.
    """
    if of_restarts(grid):
        return _of_restarts(grid, sources, command, notes, says)
    results = grid.results
    nobody = _nobody(grid)
    # of a run that did not generalise the first step of its best value is no time to do so
    asked = [one for one in asked_of(results.measures) if not (nobody and one[2] is None)]
    better = [(column, symbol, small) for column, symbol, small in asked if small is not None]
    trends, table = _trends(grid, asked)
    pairings, every = paired([(axis, grid.of(axis)) for axis in grid.axes], better, grid.waited)
    labels = metric_labels(results, better, grid.waited)
    pairs = [pairs_section(one, every, labels) for one in pairings]
    times = _times(grid)
    answers = [*lacking(sources), *twice(sources), *notes, *nobody, *[grid.unlike] * bool(grid.unlike)]
    for axis in grid.axes:
        answers += _design(grid, axis)
        answers += [] if nobody else [sentence for of, _, sentences in times if of is axis for sentence in sentences]
        answers += [sentence for one, (sentence, _) in zip(pairings, pairs, strict=True) if one.axis is axis]
        answers += [sentence for of, sentence in trends if of is axis]
    title, lead = _title(grid)
    return Report(
        title=title,
        lead=lead,
        answers=[*answers, *_family(table, every, times)],
        sections=[
            *(Section(f"By {axis.title}", figures=_figures(grid, axis), about=_CURVES) for axis in grid.axes),
            Section("Best values", tables=_tables(grid, table), about=_BEST),
            *(section for _, section in pairs),
            *(section for _, section, _ in times),
            *says,
            *provenances(sources, command),
        ],
    )


def _title(grid: Grid) -> tuple[str, str]:
    """Title and question of the page."""
    titles = listed([axis.title for axis in grid.axes])
    lead = f"What do {counted(len(grid.results.evaluated), 'run')} show by {titles}, all else alike?"
    return f"Runs by {titles}", lead


def _of_restarts(
    grid: Grid, sources: Mapping[str, Results], command: str, notes: Sequence[str], says: Sequence[Section]
) -> Report:
    """Page of runs by EM: findings and table of the best of the restarts, and the curves of all by each axis."""
    title, lead = _title(grid)
    answers, sections = restarts(grid, sources)
    curves = [
        Section(f"By {axis.title}", figures=[one for one in _figures(grid, axis) if one.name.startswith("curves-")])
        for axis in grid.axes
    ]
    return Report(
        title=title,
        lead=lead,
        answers=[*lacking(sources), *twice(sources), *notes, *answers],
        sections=[
            *sections,
            *(replace(one, about="curves of all restarts, coloured by this setting.") for one in curves),
            *says,
            *provenances(sources, command),
        ],
    )


def _nobody(grid: Grid) -> list[str]:
    """A sentence where no run reached any of the thresholds."""
    results = grid.results
    if not grid.waited.thresholds or results.measures.generalised is None:
        return []
    shown, n = results.measures.shown, len(results.evaluated)
    easiest = (min if shown.higher_is_better else max)(grid.waited.thresholds)
    if times_of(results, replace(grid.waited, stay=1), easiest)["observed"].any():
        return []
    axes = listed([axis.title for axis in grid.axes])
    return [
        f"No run of {n} reached validation {shown.words} {easiest:g}, so what {axes} does to generalisation cannot be "
        "judged here: train for more steps. What follows is about losses and accuracies below that."
    ]


def _trends(grid: Grid, asked: Sequence[tuple[str, str, bool | None]]) -> tuple[list[tuple[Axis, str]], Table | None]:
    """Trends of every quantity along each axis of numbers, of each model: sentences by axis, and their table."""
    cases = []
    for axis in grid.axes:
        for model in [] if axis.names else grid.of(axis).models:
            runs = grid.of(axis).of(model=model)
            if runs.extrema[axis.column].n_unique() > 1:
                name = model_label(model) if len(grid.axes) == 1 else f"{model_label(model)} with {axis.title}"
                frame = _without_times(runs.extrema, asked, runs.measures)
                cases.append(Case(name, frame, axis, _made_of(runs, axis), grid.results.settings))
    if not cases:
        return [], None
    columns = [(column, symbol) for column, symbol, _ in asked]
    estimates, table = how_it_goes(cases, columns, "trends", any_differences=True)
    sentences = []
    for place, case in enumerate(cases):
        trends = estimates[place * len(asked) : (place + 1) * len(asked)]
        parts = [
            _goes(one, case.frame, column, symbol, small, grid.results.measures)
            for one, (column, symbol, small) in zip(trends, asked, strict=True)
            if small is not None or case.frame[column].count()
        ]
        per = f"doubling of {case.axis.title}" if case.axis.log else f"unit of {case.axis.title}"
        who = f"{model_label(case.frame['model'][0])}, with {case.axis.title} (N = {counted(len(case.frame), 'run')})"
        slopes = f" Slopes [95 % over seeds, not corrected] are per {per}." if any(map(_has_slope, trends)) else ""
        sentences.append((case.axis, f"{who}: {'; '.join(parts)}.{slopes}"))
    return sentences, table


def _without_times(extrema: pl.DataFrame, asked: Sequence[tuple[str, str, bool | None]], of: Measures) -> pl.DataFrame:
    """Extrema without first steps of best values where no run generalised: they are no times to do so."""
    if len(extrema.filter(got_there("valid", of))):
        return extrema
    return extrema.with_columns(pl.lit(None, pl.Int64).alias(column) for column, _, small in asked if small is None)


def _has_slope(one: Trend) -> bool:
    """Return True for a slope that a sentence gives: beside a trend that its test does not find it would mislead."""
    return one.is_clear and one.found.slope is not None


def _goes(one: Trend, runs: pl.DataFrame, column: str, symbol: str, small: bool | None, measures: Measures) -> str:
    """Sentence on a quantity's trend and slope, and the number of runs whose first step is their last."""
    text = f"{symbol} {direction(one, small)}"
    if _has_slope(one):
        text += f", slope {with_interval(one.found.slope, one.found.low, one.found.high)}"
    last = len(runs.filter(is_open(column, measures))) if small is None else 0
    return text + (f" (in {last} of {counted(len(runs), 'run')} the last evaluation is the best)" if last else "")


def _made_of(results: Results, axis: Axis) -> tuple[str, ...]:
    """The settings of the model that vary, where the axis is the number of parameters."""
    if axis.column != SIZE:
        return ()
    return made_of_size(results)


def _times(grid: Grid) -> list[tuple[Axis, Section, list[str]]]:
    """Section on the times at which runs reached the thresholds, by each axis, and its sentences."""
    asked = [axis for axis in grid.axes if axis.column != SIZE]
    if not grid.waited.thresholds or not asked:
        return []
    axes = {("" if len(grid.axes) == 1 else f"by {axis.title}"): (axis, grid.of(axis)) for axis in asked}
    out = []
    for axis, (section, answers) in zip(asked, times_answers(axes, grid.waited), strict=True):
        texts = [one.rates if one.nobody else f"{one.rates} {one.answer}".strip() for one in answers]
        out.append((axis, section, [f"{one.who}: {text}" for one, text in zip(answers, texts, strict=True)]))
    return out


def _figures(grid: Grid, axis: Axis) -> list[Figure]:
    """Curves by the axis for each model and each value of the other axes, and best values against it."""
    figures = []
    slug, others = axis.column, grid.others(axis)
    colour = _colour(grid, axis)
    held = others
    parts = grid.results.runs.select(held).unique(maintain_order=True).rows() if held else [()]
    if len(parts) > _MOST_PARTS:
        held = [name for name in others if name == "model"]
        parts = grid.results.runs.select(held).unique(maintain_order=True).rows() if held else [()]
    for place, values in enumerate(parts):
        settings = dict(zip(held, values, strict=True))
        shown = (grid.results if set(SOURCES) & set(held) else grid.of(axis)).of(**settings)
        if shown.curves.is_empty():
            continue
        title = _titled(grid, settings, f"by {axis.title}")
        name = f"curves-{slug}" + (f"-{place}" if len(parts) > 1 else "")
        over = _over(shown, axis)
        figures.append(curves_figure(*_in_colours(shown, axis), name, title, over=over))
    apart: list[str | None] = [None]
    if "model" in others and colour.column != "model":
        apart = [*grid.results.models]
    for model in apart:
        every = grid.results if colour.column in SOURCES else grid.of(axis)
        shown = every if model is None else every.of(model=model)
        if shown.curves.is_empty():
            continue
        settings = {} if model is None else {"model": model}
        name = "-".join(["summary", slug, *([] if model is None else [str(apart.index(model))])])
        title = _titled(grid, settings, f"against {axis.title}")
        over = _over(shown, axis, colour.column)
        shown, shade = _in_colours(shown, colour)
        figures.append(summary_figure(shown, axis, shade, name, title, over=over))
    return figures


def _in_colours(results: Results, axis: Axis) -> tuple[Results, Axis]:
    """The runs and the axis of their colours: a few numbers are names with a colour each."""
    if axis.names:
        return results, axis
    named, column = setting_axis(results.runs, [axis.column], in_legend=True)
    return (results.renamed([column]), named) if named.names else (results, axis)


def _colour(grid: Grid, axis: Axis) -> Axis:
    """Axis that colours points: the one after this one, else the model."""
    others = [other for other in grid.axes if other is not axis]
    if others:
        return others[grid.axes.index(axis) % len(others)]
    models = in_order(grid.results.models)
    return Axis("model", "model", names=tuple((name, model_label(name)) for name in models))


def _titled(grid: Grid, settings: Mapping[str, Any], what: str) -> str:
    """``LSTM, layers L 2: by width d``."""
    titles = {axis.column: axis.title for axis in grid.axes}
    parts = [
        value_name(name, value) if name == "model" else f"{titles.get(name, name)} {value_name(name, value)}"
        for name, value in settings.items()
    ]
    if not parts and len(grid.results.models) == 1:
        parts = [model_label(grid.results.models[0])]
    return capitalised(f"{', '.join(parts) or 'All runs'} {what}")


def _over(results: Results, axis: Axis, *more: str) -> str:
    """In what the runs behind a mean differ: seeds, and settings that are no axis of the figure."""
    _, within = crossing(results.runs, axis.column, more=results.settings)
    others = [name for name in within if name not in ("model", *more)]
    return listed(["seeds", *others])


def _tables(grid: Grid, trends: Table | None) -> list[Table]:
    """Best values of every combination of the axes, and the trends."""
    name = "-".join(["by", *(axis.column for axis in grid.axes)])
    others = crossed(grid.results.evaluated, [axis.column for axis in grid.axes], grid.results.settings)
    over = listed(["seeds", *(other for other in others if other not in (*SEED_AXES, *SOURCES, "model"))])
    return [summary_table(grid.results, grid.axes, name, over), *([] if trends is None else [trends])]


def _design(grid: Grid, axis: Axis) -> list[str]:
    """A sentence: runs of each value, settings in which compared runs agree, and settings that go with the axis."""
    runs = grid.of(axis).evaluated
    unit, within = crossing(runs, axis.column, _made_of(grid.results, axis), grid.results.settings)
    text = f"{capitalised(axis.title)}: N = {counted(len(runs), 'run')}, {values_in_words(runs, axis)}. "
    alike = [name for name in (*unit, *within) if name != axis.column and runs[name].n_unique() > 1]
    if not alike:
        text += "Nothing else varies."
    elif comparable(runs, axis.column, unit, within).rows:
        text += f"Runs of the same {listed(alike)} are compared."
    else:
        text += f"No two that differ in it are of the same {listed(alike)}: none are compared."
    derived = {name for name, parts in known_settings().items() if follows(parts[0], name)}
    settings = [
        name for name in grid.results.settings if name not in derived and name not in (*SEED_AXES, "q", *SOURCES)
    ]
    settings = [name for name in settings if runs[name].null_count() == 0]
    going = [name for name in going_with(runs, axis.column, settings) if axis.column not in (SIZE,)]
    if going:
        text += (
            f" With it {listed(going)} change{'s' * (len(going) == 1)}, whose effect cannot be separated from its own."
        )
    return [text]


def _family(trends: Table | None, every: pl.DataFrame, times: Sequence[tuple[Axis, Section, list[str]]]) -> list[str]:
    """Sentences on the number of tests of each kind, for which p values are corrected."""
    counts = {
        "of trends": _tests(trends, "p"),
        "of any difference": _tests(trends, "difference_p"),
        "of pairs": 0 if every.is_empty() else len(every["p"].drop_nulls()),
    }
    parts = [f"{n} {kind}" for kind, n in counts.items() if n]
    n = sum("Log-rank test" in sentence for _, _, sentences in times for sentence in sentences)
    parts += [f"{n} log-rank"] * bool(n)
    if not parts:
        return []
    together = ", those of trends and of any difference together" * bool(counts["of any difference"])
    return [
        f"Tests on this page: {listed(parts)}; p values are corrected for all tests of their kind{together} (Holm)."
    ]


def _tests(table: Table | None, column: str) -> int:
    """Number of p values in a column of a table."""
    return 0 if table is None or table.data is None else len(table.data[column].drop_nulls())
