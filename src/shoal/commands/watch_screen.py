"""The screen of ``shoal watch``: cohorts with small curves, panels of the cohort that trains, then runs one by one.

Every line is at most as wide as the terminal. Where there is less room whole columns are left out, in the order of
``_GIVEN_UP``, then rows; numbers are never cut.
"""

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import polars as pl
from rich.cells import cell_len
from rich.text import Text

from shoal.errors import printable
from shoal.lab.watching import SeenCohort, SeenLab, SeenRun
from shoal.measures import SPLITS, Measure
from shoal.registry import KINDS, short
from shoal.report.sparks import ASCII, BLOCKS, Curve, panel, span_of, sparkline
from shoal.report.words import NOTHING, counted, setting_text
from shoal.spec.choice import as_cell

STYLES = {"running": "green", "interrupted": "yellow", "diverged": "red"} | dict.fromkeys(
    ("done", "waiting", "left"), "dim"
)
_NARROWEST, _WIDEST = 10, 40  # signs of a curve in a row
_GAP = 2
_PANEL_ROWS = 5
_LEAST_PANEL = 24  # signs beside each other
_GIVEN_UP = ("flushed", "model", "runs", "of", "A_train", "setting", "step")  # which columns are left out, in order
_FOLLOWING = ("q", "hidden_size")  # are what other settings make them
_MOST_CURVES = 200  # of a panel: more are one grey mass
_MOST_ROWS = 40  # of runs, where there is no height


@dataclass(frozen=True)
class Column:
    """A column of the screen: its title, its cells, on which side they stand, and by which name it is left out."""

    title: str
    cells: Sequence[str]
    is_right: bool = True
    name: str = ""


def screen(seen: SeenLab, lab: str, width: int, height: int | None, now: float, signs: str = BLOCKS) -> list[Text]:
    """Lines of the screen.

    Args:
        seen: the lab.
        lab: its name.
        width: of the terminal.
        height: lines of the terminal; None where everything may be printed.
        now: seconds since 1970.
        signs: of a curve; with those of :data:`ASCII` there are no panels.
    """
    lines = [_head(seen, lab, width, now), *(_wrapped(line, width) for line in seen.lines)]
    cohorts = seen.cohorts
    if not cohorts:
        return [*lines, Text("no runs yet")] if not seen.lines else lines
    room = math.inf if height is None else height - len(lines)
    most = len(cohorts) if room == math.inf else max(1, int(room / 3) - 2)
    lines += [Text(), *_cohort_table(cohorts[:most], width, now, signs)]
    if len(cohorts) > most:
        lines.append(Text(f"… and {len(cohorts) - most} more cohorts", "dim"))
    room = math.inf if height is None else height - len(lines)
    if signs == BLOCKS and room >= _PANEL_ROWS + 3:
        lines += [Text(), *_panels(cohorts[0], width)]
        room = math.inf if height is None else height - len(lines)
    runs = [(cohort, run) for cohort in cohorts for run in cohort.runs]
    rows = _MOST_ROWS if room == math.inf else int(room) - 3
    if rows >= 1:
        rows += len(runs) <= rows + 1  # no line that says how many more there are
        lines += [Text(), *_run_table(runs[:rows], seen.names, width, signs)]
        if len(runs) > rows:
            lines.append(Text(f"… and {counted(len(runs) - rows, 'more run')}", "dim"))
    return lines


def _head(seen: SeenLab, lab: str, width: int, now: float) -> Text:
    """First line: number of runs by state, time, lab and number of cohorts, as far as they fit."""
    counts = seen.count()
    states = ", ".join(f"{n:,} {state}" for state, n in counts.items())
    parts = [f"{counted(sum(counts.values()), 'run')}: {states}"] * bool(counts)
    parts += [time.strftime("%H:%M:%S", time.localtime(now))]
    parts += [f"lab {lab}", counted(len(seen.cohorts), "cohort")]
    line = printable(parts[0])
    for part in map(printable, parts[1:]):
        if cell_len(f"{line} · {part}") <= width:
            line = f"{line} · {part}"
    return Text(line, "bold", no_wrap=True)


def _wrapped(line: str, width: int) -> Text:
    """A line about something that is wrong, between its words on as many lines as it needs."""
    return Text(printable(line), "yellow", overflow="fold")


# tables


def _cohort_table(cohorts: Sequence[SeenCohort], width: int, now: float, signs: str) -> list[Text]:
    shown = [cohort.measures.shown for cohort in cohorts]
    symbol = shown[0].symbol_of("valid")
    columns = [
        Column("cohort", [cohort.id[:4] for cohort in cohorts], is_right=False),
        Column("model", [cohort.title for cohort in cohorts], is_right=False, name="model"),
        Column("runs", [f"{len(cohort.runs):,}" for cohort in cohorts], name="runs"),
        Column("step", [f"{cohort.step:,}" for cohort in cohorts], name="step"),
        Column("of", [f"{cohort.n_steps:,}" for cohort in cohorts], name="of"),
        Column(symbol, [_spread(cohort, symbol) for cohort in cohorts]),
        Column("state", [_state(cohort) for cohort in cohorts]),
        Column("flushed", [_ago(now - cohort.flushed) for cohort in cohorts], name="flushed"),
    ]

    def curves(cells: int) -> list[str]:
        out = []
        for cohort, measure in zip(cohorts, shown, strict=True):
            median = _median(cohort, f"valid_{measure.name}")
            span = span_of([median], measure.bounds, measure.is_log)
            out.append(sparkline(median, cells, _last_step(cohort), span, measure.is_log, signs))
        return out

    return _table(columns, "median", curves, width, [cohort.state for cohort in cohorts])


def _called(run: str, names: Mapping[str, str]) -> str:
    """Name of a run, at most 16 characters of it, or the beginning of its id where it has none."""
    name = names.get(run, run[:8])
    return name if len(name) <= 16 else f"{name[:15]}…"


def _run_table(
    runs: Sequence[tuple[SeenCohort, SeenRun]], names: Mapping[str, str], width: int, signs: str
) -> list[Text]:
    measure = runs[0][0].measures.shown
    differing = _differing([run for _, run in runs])
    last = {split: [_last_value(cohort, run, split, measure) for cohort, run in runs] for split in SPLITS}
    columns = [
        Column("run", [_called(run.run, names) for _, run in runs], is_right=False),
        *(Column(name, [_setting(name, run) for _, run in runs], name="setting") for name in differing),
        Column("step", [f"{run.step:,}" for _, run in runs], name="step"),
        Column(measure.symbol_of("train"), last["train"], name="A_train"),
        Column(measure.symbol_of("valid"), last["valid"]),
        Column("state", [run.state for _, run in runs]),
    ]

    def curves(cells: int) -> list[str]:
        several = {run.run: _curve(cohort, f"valid_{cohort.measures.shown.name}", run.run) for cohort, run in runs}
        out = []
        for cohort, run in runs:  # of one cohort on one scale
            shown, beside = cohort.measures.shown, (several[run.run] for run in cohort.runs if run.run in several)
            span = span_of(beside, shown.bounds, shown.is_log)
            out.append(sparkline(several[run.run], cells, _last_step(cohort), span, shown.is_log, signs))
        return out

    return _table(columns, "curve", curves, width, [run.state for _, run in runs])


def _table(
    columns: Sequence[Column], title: str, curves: Callable[[int], list[str]], width: int, states: Sequence[str]
) -> list[Text]:
    """A header and a row each; the curves stand before the state and are as wide as there is room."""
    left = list(columns)
    for name in [*_GIVEN_UP]:
        while _needed(left) + _GAP + _NARROWEST > width and any(column.name == name for column in left):
            place = max(index for index, column in enumerate(left) if column.name == name)
            del left[place]
    cells = max(_NARROWEST, min(_WIDEST, width - _needed(left) - _GAP))
    drawn = Column(title[:cells], curves(cells), is_right=False)
    place = next(index for index, column in enumerate(left) if column.title == "state")
    left.insert(place, drawn)
    widths = [_width(column) if column is not drawn else cells for column in left]
    lines = [_row([column.title for column in left], left, widths, "bold")]
    for index, state in enumerate(states):
        lines.append(_row([column.cells[index] for column in left], left, widths, STYLES.get(state, "")))
    return lines


def _row(cells: Sequence[str], columns: Sequence[Column], widths: Sequence[int], style: str) -> Text:
    texts = []
    for cell, column, width in zip(cells, columns, widths, strict=True):
        text = printable(cell)
        space = " " * max(0, width - cell_len(text))
        texts.append(space + text if column.is_right else text + space)
    return Text((" " * _GAP).join(texts).rstrip(), style, no_wrap=True, overflow="crop")


def _width(column: Column) -> int:
    return max(map(cell_len, map(printable, [column.title, *column.cells])))


def _needed(columns: Sequence[Column]) -> int:
    return sum(map(_width, columns)) + _GAP * (len(columns) - 1)


# panels


def _panels(cohort: SeenCohort, width: int) -> list[Text]:
    """Panels of the curves of the runs of a cohort, one for each measure on each split, the main measure first.

    As many stand beside each other as there is room for; the others are left out.
    """
    shown = cohort.measures.shown
    measures = [shown, *(measure for measure in cohort.measures.recorded if measure is not shown)]
    fit = max(1, (width + _GAP) // (_LEAST_PANEL + _GAP))
    wanted = [(measure, split) for measure in measures for split in SPLITS][:fit]
    cells = min(60, (width + _GAP) // len(wanted) - _GAP)
    n_steps, blocks = _last_step(cohort), []
    for measure, split in wanted:
        curves = [_curve(cohort, f"{split}_{measure.name}", run.run) for run in cohort.runs[:_MOST_CURVES]]
        span = span_of(curves, measure.bounds, measure.is_log)
        title = f"{measure.symbol_of(split)} {span[0]:.3g} to {span[1]:.3g}"
        title += " (log)" if measure.is_log and len(title) + 6 <= cells else ""
        drawn = panel(curves, cells, _PANEL_ROWS, n_steps, span, measure.is_log)
        blocks.append([title[:cells].ljust(cells), *drawn])
    axis = f"cohort {cohort.id[:4]}: each run, step 1 to {n_steps:,} (log)"
    rows = [(" " * _GAP).join(parts).rstrip() for parts in zip(*blocks, strict=True)]
    styles = ["bold", *["cyan"] * _PANEL_ROWS]
    lines = [Text(row, style, no_wrap=True, overflow="crop") for row, style in zip(rows, styles, strict=True)]
    return [*lines, Text(axis[:width], "dim", no_wrap=True)]


# what is read off


def _last_step(cohort: SeenCohort) -> int:
    return max(run.n_steps for run in cohort.runs)


def _rows(cohort: SeenCohort, column: str) -> pl.DataFrame:
    """``run``, ``step``, ``value``; none where it is not on record."""
    if column not in cohort.curves.columns:
        return pl.DataFrame(schema={"run": pl.String, "step": pl.Int64, "value": pl.Float64})
    value = pl.col(column).cast(pl.Float64).alias("value")
    return cohort.curves.select("run", "step", value).drop_nulls().sort("step")


def _curve(cohort: SeenCohort, column: str, run: str) -> Curve:
    return list(_rows(cohort, column).filter(pl.col("run") == run).select("step", "value").iter_rows())


def _median(cohort: SeenCohort, column: str) -> Curve:
    """Median at each step over the runs that were evaluated at it."""
    medians = _rows(cohort, column).group_by("step").agg(pl.col("value").median()).sort("step")
    return list(medians.iter_rows())


def _last(cohort: SeenCohort, run: SeenRun, column: str) -> tuple[float | None, Measure]:
    curve = _curve(cohort, column, run.run)
    return (curve[-1][1] if curve else None), cohort.measures[column]


def _last_value(cohort: SeenCohort, run: SeenRun, split: str, measure: Measure) -> str:
    """Last value of the main measure of a run's task, with its symbol where the column is headed by another's."""
    shown = cohort.measures.shown
    value = _value(_last(cohort, run, f"{split}_{shown.name}"))
    symbol = shown.symbol_of(split)
    return value if value == NOTHING or symbol == measure.symbol_of(split) else f"{symbol} {value}"


def _value(found: tuple[float | None, Measure]) -> str:
    value, measure = found
    if value is None:
        return NOTHING
    return f"{value:.2f}" if measure.bounds == (0, 1) else f"{value:.3g}"


def _spread(cohort: SeenCohort, symbol: str) -> str:
    """``0.98 [0.90, 1.00]``: median and range of the last values of the runs; of another measure with its symbol."""
    measure = cohort.measures.shown
    last = _rows(cohort, f"valid_{measure.name}").group_by("run").last()["value"].to_list()
    if not last:
        return NOTHING
    low, middle, high = (_value((value, measure)) for value in (min(last), statistics.median(last), max(last)))
    cohort_symbol = measure.symbol_of("valid")
    return f"{cohort_symbol} " * (cohort_symbol != symbol) + (middle if low == high else f"{middle} [{low}, {high}]")


def _state(cohort: SeenCohort) -> str:
    """``0:02:10 left``, or the state where that is not known."""
    if cohort.state != "running" or cohort.seconds_left is None:
        return cohort.state
    minutes, seconds = divmod(round(cohort.seconds_left), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02} left"


def _setting(name: str, run: SeenRun) -> str:
    value = as_cell(run.settings.get(name))
    return setting_text(short(value) if name in KINDS and value else value)


def _ago(seconds: float) -> str:
    """``12 s ago``, ``3 min ago``, ``5 h ago``, ``2 d ago``."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds / size):,} {unit} ago"
    return f"{max(0, int(seconds))} s ago"


def _differing(runs: Sequence[SeenRun]) -> list[str]:
    """``task`` and ``model`` where there are several, and the settings in which runs of one model and task differ, but
    seeds that follow ``seed``."""
    values: dict[str, dict[tuple[str, str], set[str]]] = {}
    for run in runs:
        of = (str(run.settings.get("task")), str(run.settings["model"]))
        for name, value in run.settings.items():
            values.setdefault(name, {}).setdefault(of, set()).add(str(value))
    several = [name for name, sets in values.items() if any(len(distinct) > 1 for distinct in sets.values())]
    parts = [name for name in ("task", "model") if len({run.settings.get(name) for run in runs}) > 1]
    return [*parts, *(name for name in several if name not in _FOLLOWING and not _follows(runs, name))]


def _follows(runs: Iterable[SeenRun], name: str) -> bool:
    return name.endswith("_seed") and all(run.settings.get(name) == run.settings.get("seed") for run in runs)


def signs_for(encoding: str) -> str:
    """Signs of curves that an encoding has."""
    try:
        BLOCKS.encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return BLOCKS
