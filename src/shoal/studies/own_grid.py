"""A page over any runs by the settings in which they differ: what a study's page has, for an own grid.

Curves overlaid by each setting with bands over the rest, figures and tables of best values, trends along numbers, pairs
on shared seeds, and when runs got there. Runs are compared that agree in all else: seeds and every other setting that
varies (:mod:`shoal.analysis.blocks`). P values are corrected for all tests of their kind on the page, as a study's are.

Runs of several labs, or of several forms of a study, stand side by side by one more setting: ``lab``, or ``form``.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import polars as pl

from shoal.analysis.blocks import going_with
from shoal.errors import UserError
from shoal.measures import Measures
from shoal.report import Figure, Report, Section, Table
from shoal.report.by import axis_of, check_axes, value_name, values_in_words
from shoal.report.each_run import model_label
from shoal.report.panels import Axis
from shoal.report.quantities import is_open
from shoal.report.summary import provenance
from shoal.report.words import capitalised, counted, listed, number, with_interval
from shoal.spec.fields import extra
from shoal.spec.known import known_settings
from shoal.studies.answers import Case, Trend, direction, how_it_goes
from shoal.studies.crossing import SEED_AXES, SOURCES, crossing
from shoal.studies.own_pairs import metric_labels, paired, pairs_section
from shoal.studies.parts import curves_figure, summary_figure, summary_table, times_told
from shoal.studies.results import Results

_MOST_PARTS = 6  # figures of curves for one axis
_SIZE = "parameters"  # the number of parameters, which is made of settings


@dataclass(frozen=True)
class Thresholds:
    """What runs are waited for to reach.

    Attributes:
        thresholds: values of the measure that is shown, on the validation split.
        stay: at how many evaluations in a row a run has to be there, of which the first is its time.
    """

    thresholds: tuple[float, ...]
    stay: int = 1

    @property
    def stayed(self) -> str:
        """What follows ``A_val ≥ 0.9`` in words where reaching it once is not enough."""
        return f" at {self.stay} evaluations in a row" if self.stay > 1 else ""

    @classmethod
    def of(cls, measures: Measures, asked: Sequence[float] | None, stay: int | None) -> "Thresholds":
        """What is asked for; else the thresholds of a task that says what generalising is, and none of others.

        Raises:
            UserError: a threshold is named twice, or is no value that the measure can take above its worst; or
                ``stay`` is no number of evaluations.
        """
        shown, what = measures.shown, f"validation {measures.shown.words}"
        low, high = shown.bounds or (-float("inf"), float("inf"))
        for threshold in asked or ():
            if not low <= threshold <= high or threshold in (low if shown.higher_is_better else high, float("inf")):
                raise UserError(
                    f"--threshold must be a value of the {what} from {low:g} to {high:g}, got {threshold:g}"
                )
        if asked and len(set(asked)) < len(asked):
            twice = next(threshold for threshold in asked if list(asked).count(threshold) > 1)
            raise UserError(f"--threshold was given {twice:g} twice")
        if stay is not None and stay < 1:
            raise UserError(f"--stay must be a whole number of evaluations of at least 1, got {stay}")
        meant = measures.generalised
        usual = () if meant is None else shown.thresholds or (meant.threshold,)
        return cls(tuple(asked or usual), stay or 1)


@dataclass(frozen=True)
class Grid:
    """Runs and the settings by which they are asked about.

    Attributes:
        results: the runs, names in place of values where an axis is of names.
        axes: the settings.
        waited: thresholds.
    """

    results: Results
    axes: tuple[Axis, ...]
    waited: Thresholds

    def others(self, axis: Axis) -> list[str]:
        """Columns by whose values figures of an axis are told apart: the model, and the other axes."""
        several = ["model"] * (len(self.results.models) > 1)
        return [name for name in dict.fromkeys([*several, *(a.column for a in self.axes)]) if name != axis.column]


def own_grid(results: Results, by: Sequence[str], thresholds: Sequence[float] | None, stay: int | None) -> Grid:
    """The runs with their axes.

    Args:
        results: the runs.
        by: names of settings, or ``lab`` and ``form`` of results that were joined.
        thresholds: to be reached; those of the task when not given.
        stay: at how many evaluations in a row; 1 when not given.

    Raises:
        UserError: there is no such setting, all runs have one value of it, or it is named twice; or as of
            :meth:`Thresholds.of`.
    """
    names = check_axes(results.runs, by)
    waited = Thresholds.of(results.measures, thresholds, stay)
    axes, renamed = [], []
    for name in names:
        axis, named = axis_of(results.runs, name)
        axes.append(axis)
        renamed += [] if named is None else [named]
    return Grid(results.renamed(renamed), tuple(axes), waited)


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
    results = grid.results
    asked = asked_of(results.measures)
    trends, table = _trends(grid, asked)
    pairings, every = paired(
        results, grid.axes, [(c, s, bool(small)) for c, s, small in asked if small is not None], grid.waited
    )
    labels = metric_labels(results, [(c, s, bool(small)) for c, s, small in asked if small is not None], grid.waited)
    pairs = [pairs_section(one, every, labels) for one in pairings]
    times = _times(grid)
    answers = [*_lacking(sources), *_twice(sources), *notes]
    for axis in grid.axes:
        answers += _design(grid, axis)
        answers += [told for own, told in trends if own is axis]
        answers += [told for one, (told, _) in zip(pairings, pairs, strict=True) if one.axis is axis]
        answers += [told for own, _, sentences in times if own is axis for told in sentences]
    titles = listed([axis.title for axis in grid.axes])
    return Report(
        title=f"Runs by {titles}",
        lead=f"What do {counted(len(results.evaluated), 'run')} show by {titles}, all else alike?",
        answers=[*answers, *_family(table, every, times)],
        sections=[
            *(Section(f"By {axis.title}", figures=_figures(grid, axis)) for axis in grid.axes),
            Section("Best values", tables=_tables(grid, table)),
            *(section for _, section in pairs),
            *(section for _, section, _ in times),
            *says,
            *_provenance(sources, command),
        ],
    )


def asked_of(measures: Measures) -> list[tuple[str, str, bool | None]]:
    """What a page asks of its runs: columns of best values with their symbols, and whether small is good.

    Of equations these are those of the studies: log₁₀ L_val, A_val and the first steps of both. A loss of a task in
    which nothing generalises moves little, and is compared as it is.
    """
    out: list[tuple[str, str, bool | None]] = []
    for measure in measures.recorded:
        column, symbol = f"valid_{measure.name}", measure.symbol_of("valid")
        if measure.name == "loss" and measures.generalised is not None:
            column, symbol = f"log_{column}", f"log₁₀ {symbol}"
        out.append((column, symbol, not measure.higher_is_better))
    if measures.generalised is not None:
        out += [
            (f"t_valid_{measure.name}", f"t_f({measure.symbol_of('valid')})", None) for measure in measures.recorded
        ]
    return out


def _trends(grid: Grid, asked: Sequence[tuple[str, str, bool | None]]) -> tuple[list[tuple[Axis, str]], Table | None]:
    """How every quantity goes with each axis of numbers, of each model: sentences by axis, and their table."""
    cases = []
    for axis in grid.axes:
        for model in [] if axis.names else grid.results.models:
            own = grid.results.of(model=model)
            if own.extrema[axis.column].n_unique() > 1:
                name = model_label(model) if len(grid.axes) == 1 else f"{model_label(model)} with {axis.title}"
                cases.append(Case(name, own.extrema, axis, _made_of(own, axis), grid.results.settings))
    if not cases:
        return [], None
    found, table = how_it_goes(cases, [(column, symbol) for column, symbol, _ in asked], "trends")
    told = []
    for place, case in enumerate(cases):
        trends = found[place * len(asked) : (place + 1) * len(asked)]
        parts = [
            _goes(one, case.frame, column, symbol, small, grid.results.measures)
            for one, (column, symbol, small) in zip(trends, asked, strict=True)
        ]
        per = f"doubling of {case.axis.title}" if case.axis.log else f"unit of {case.axis.title}"
        who = f"{model_label(case.frame['model'][0])}, with {case.axis.title} (N = {len(case.frame)} runs)"
        told.append((case.axis, f"{who}: {'; '.join(parts)}. Slopes [95 % over seeds] are per {per}."))
    return told, table


def _goes(one: Trend, runs: pl.DataFrame, column: str, symbol: str, small: bool | None, measures: Measures) -> str:
    """How a quantity goes, its slope, and of how many runs a first step is the end of what was trained."""
    text = f"{symbol} {direction(one, small)}"
    if one.found.slope is not None and one.found.rho is not None:
        text += f", slope {with_interval(one.found.slope, one.found.low, one.found.high)}"
    last = len(runs.filter(is_open(column, measures))) if small is None else 0
    return text + (f" (in {last} of {len(runs)} runs the last evaluation is the best)" if last else "")


def _made_of(results: Results, axis: Axis) -> tuple[str, ...]:
    """The settings of the model that vary, where the axis is the number of parameters."""
    if axis.column != _SIZE:
        return ()
    settings = type(results.spec().model_part).model_fields
    return tuple(name for name in settings if name in results.runs.columns and results.runs[name].n_unique() > 1)


def _times(grid: Grid) -> list[tuple[Axis, Section, list[str]]]:
    """When runs reached the thresholds, by each axis: a section, and its sentences, for the top of the page."""
    axes = {("" if len(grid.axes) == 1 else f"by {axis.title}"): axis for axis in grid.axes if axis.column != _SIZE}
    if not grid.waited.thresholds or not axes:
        return []
    found = times_told(grid.results, axes, grid.waited)
    out = []
    for axis, (section, told) in zip(axes.values(), found, strict=True):
        said = [one.rates if one.nobody else f"{one.rates} {one.said}".strip() for one in told]
        out.append((axis, section, [f"{one.who}: {text}" for one, text in zip(told, said, strict=True)]))
    return out


def _figures(grid: Grid, axis: Axis) -> list[Figure]:
    """Curves by the axis for each model and each value of the other axes, and best values against it."""
    figures = []
    slug, others = axis.column, grid.others(axis)
    held = others
    parts = grid.results.runs.select(held).unique(maintain_order=True).rows() if held else [()]
    if len(parts) > _MOST_PARTS:
        held = [name for name in others if name == "model"]
        parts = grid.results.runs.select(held).unique(maintain_order=True).rows() if held else [()]
    for place, values in enumerate(parts):
        settings = dict(zip(held, values, strict=True))
        own = grid.results.of(**settings)
        if own.curves.is_empty():
            continue
        title = _titled(grid, settings, f"by {axis.title}")
        name = f"curves-{slug}" + (f"-{place}" if len(parts) > 1 else "")
        figures.append(curves_figure(own, axis, name, title, over=_over(own, axis)))
    colour = _colour(grid, axis)
    apart = grid.results.models if "model" in others and colour.column != "model" else [None]
    for model in apart:
        own = grid.results if model is None else grid.results.of(model=model)
        if own.curves.is_empty():
            continue
        settings = {} if model is None else {"model": model}
        name = "-".join(["summary", slug, *([] if model is None else [str(apart.index(model))])])
        title = _titled(grid, settings, f"against {axis.title}")
        figures.append(summary_figure(own, axis, colour, name, title, over=_over(own, axis, colour.column)))
    return figures


def _colour(grid: Grid, axis: Axis) -> Axis:
    """What tells points apart: the axis after this one, else the model."""
    others = [other for other in grid.axes if other is not axis]
    if others:
        return others[grid.axes.index(axis) % len(others)]
    models = grid.results.models
    return Axis("model", "model", names=tuple((name, model_label(name)) for name in models))


def _titled(grid: Grid, settings: Mapping[str, Any], what: str) -> str:
    """``LSTM, layers L 2: by width d``."""
    titles = {axis.column: axis.title for axis in grid.axes}
    told = [
        value_name(name, value) if name == "model" else f"{titles.get(name, name)} {value_name(name, value)}"
        for name, value in settings.items()
    ]
    if not told and len(grid.results.models) == 1:
        told = [model_label(grid.results.models[0])]
    return f"{', '.join(told) or 'All runs'} {what}"


def _over(results: Results, axis: Axis, *more: str) -> str:
    """In what the runs behind a mean differ: seeds, and settings that are no axis of the figure."""
    _, within = crossing(results.runs, axis.column, more=results.settings)
    others = [name for name in within if name not in ("model", *more)]
    return listed(["seeds", *others])


def _tables(grid: Grid, trends: Table | None) -> list[Table]:
    """Best values of every combination of the axes, and the trends."""
    name = "-".join(["by", *(axis.column for axis in grid.axes)])
    return [summary_table(grid.results, grid.axes, name), *([] if trends is None else [trends])]


def _design(grid: Grid, axis: Axis) -> list[str]:
    """How many runs have each value, in what runs agree that are compared, and what cannot be told from the axis."""
    runs = grid.results.evaluated
    unit, within = crossing(runs, axis.column, _made_of(grid.results, axis), grid.results.settings)
    told = f"{capitalised(axis.title)}: N = {len(runs)} runs, {values_in_words(runs, axis)}. "
    alike = [name for name in (*unit, *within) if name != axis.column and runs[name].n_unique() > 1]
    told += f"Compared are runs of the same {listed(alike)}." if alike else "Nothing else varies."
    derived = {name for name, parts in known_settings().items() if _follows(parts[0], name)}
    settings = [
        name for name in grid.results.settings if name not in derived and name not in (*SEED_AXES, "q", *SOURCES)
    ]
    settings = [name for name in settings if runs[name].null_count() == 0]
    going = [name for name in going_with(runs, axis.column, settings) if axis.column not in (_SIZE,)]
    if going:
        told += f" With it {listed(going)} change{'s' * (len(going) == 1)}, whose effect cannot be told from its own."
    return [told]


def _follows(part: Any, name: str) -> bool:
    """Settings that another decides where they are left open, and those that change nothing of what is trained."""
    known = extra(part, name)
    return bool(known["follows"] or known["operational"] or known["derived"]) or name == "hidden_size"


def _family(trends: Table | None, every: pl.DataFrame, times: Sequence[tuple[Axis, Section, list[str]]]) -> list[str]:
    """How many tests of each kind there are, for which p values are corrected."""
    counts = {
        "of trends": 0 if trends is None or trends.data is None else len(trends.data["p"].drop_nulls()),
        "of pairs": 0 if every.is_empty() else len(every["p"].drop_nulls()),
    }
    told = [f"{n} {kind}" for kind, n in counts.items() if n]
    n = sum("Log-rank test" in sentence for _, _, sentences in times for sentence in sentences)
    told += [f"{n} log-rank"] * bool(n)
    if not told:
        return []
    return [f"Tests on this page: {listed(told)}; p values are corrected for all tests of their kind (Holm)."]


def _lacking(sources: Mapping[str, Results]) -> list[str]:
    """What is damaged, missing or unfinished, of each source."""
    return [
        f"{name}: {line}" if len(sources) > 1 else line for name, own in sources.items() for line in own.shortcomings()
    ]


def _twice(sources: Mapping[str, Results]) -> list[str]:
    """How alike the curves are of runs that are in several sources."""
    out = []
    names = list(sources)
    for place, first in enumerate(names):
        for second in names[place + 1 :]:
            shared = [run for run in sources[first].specs if run in sources[second].specs]
            if not shared:
                continue
            largest, same = _differences(sources[first], sources[second], shared)
            out.append(
                f"{counted(len(shared), 'run')} are both in {first} and in {second}: of {same} every evaluation is the "
                f"same to the bit"
                + (f"; the largest difference of a validation loss at a step is {number(largest)}." if largest else ".")
            )
    return out


def _differences(one: Results, other: Results, runs: Sequence[str]) -> tuple[float, int]:
    """The largest difference of validation losses at a step that both evaluated, and how many runs have none at all."""
    columns = one.measures.columns
    both = (
        one.curves.filter(pl.col("run").is_in(runs))
        .select("run", "step", *columns)
        .join(
            other.curves.select("run", "step", *columns), on=["run", "step"], how="full", suffix="_other", coalesce=True
        )
    )
    same = pl.all_horizontal(pl.col(name).eq_missing(pl.col(f"{name}_other")) for name in columns)
    whole = both.group_by("run").agg(same.all().alias("same"))
    largest: Any = both.select((pl.col("valid_loss").cast(pl.Float64) - pl.col("valid_loss_other")).abs().max()).item()
    return float(largest or 0.0), int(whole["same"].sum())


def _provenance(sources: Mapping[str, Results], command: str) -> list[Section]:
    """How the runs of each source were made; tables of several with its name."""
    out = []
    for place, (name, own) in enumerate(sources.items()):
        section = provenance(own.records, command)
        if len(sources) > 1:
            tables = [replace(table, name=f"{table.name}-{place}") for table in section.tables]
            section = replace(section, title=f"How this was made: {name}", tables=tables)
        out.append(section)
    return out
