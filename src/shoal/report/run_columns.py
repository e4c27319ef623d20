"""Columns of a table of runs: everything that is known of each run, by name, as raw numbers.

A column is named as in the data frames of :class:`shoal.lab.Records` (``valid_accuracy``, ``weight_decay``), or by the
symbol that the table on the terminal has for it (``A_val``).
"""

import csv
import io
import json
import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any, Literal

import polars as pl

from shoal.analysis.times import time_to
from shoal.errors import UserError, nearest, printable
from shoal.lab import Records
from shoal.lab.record_labels import COLUMNS as LABELS
from shoal.measures import SPLITS, Measure, Measures
from shoal.registry import KINDS, short
from shoal.report.each_run import value_text
from shoal.report.quantities import quantities_of
from shoal.report.table import Cell, Table
from shoal.report.words import NOTHING, setting_text

_COUNTS = ("step", "last_step")
_Key = tuple[str, bool]  # a column to sort by, and whether its largest value comes first


def run_columns(records: Records, damaged: Collection[str] = (), thresholds: Sequence[float] = ()) -> pl.DataFrame:
    """Table of runs: settings, labels, state, best and last values, and first steps past thresholds.

    Args:
        records: the runs.
        damaged: ids of those that are damaged: their ``state`` says so, and what was measured of them is null.
        thresholds: values of the main measure of a run, such as accuracy, for the first step past each.

    Returns:
        One row per run: ``run``, ``state``, ``step``; ``name``, ``group``, ``tags`` and ``note``, null where it has
        none; every setting that a run has, ``cohort``, ``engine``; the best values and their steps
        (:func:`shoal.analysis.extrema`); ``last_`` and the name of a recorded quantity for its value at ``last_step``;
        further units of the loss; and for each threshold the column of :func:`hit_column`, the first evaluated step on
        the right side of it, null where there is none.

    Raises:
        UserError: a threshold is none that the measure can reach, or is given twice.
    """
    whole = records.without(damaged)
    curves = whole.curves()
    state = pl.when(pl.col("run").is_in(list(damaged))).then(pl.lit("damaged")).otherwise("state").alias("state")
    frame = records.runs().with_columns(state)
    frame = frame.with_columns(pl.lit(None, pl.String).alias(name) for name in LABELS if name not in frame.columns)
    frame = frame.select("run", "state", "step", *LABELS, pl.exclude("run", "state", "step", *LABELS))
    for more in (_places(records), whole.best_of(curves), _last_values(curves, records), _in_units(whole, curves)):
        more = more.select("run", pl.exclude(frame.columns))  # a setting of that name is what was asked for
        frame = frame.join(more, on="run", how="left", maintain_order="left")
    for times in _hits(whole, curves, thresholds):
        frame = frame.join(times, on="run", how="left", maintain_order="left")
    return frame


def hit_column(measure: Measure, threshold: float) -> str:
    """The column of the first step at which a measure's validation value is on the right side of a threshold.

    >>> from shoal.measures import ACCURACY
    >>> hit_column(ACCURACY, 0.9)
    't_valid_accuracy_0.9'
    """
    return f"t_valid_{measure.name}_{threshold:.7g}"


def hits_in(columns: Iterable[str], thresholds: Sequence[float]) -> list[str]:
    """Columns, of those given, that :func:`hit_column` names for some measure."""
    ends = tuple(f"_{threshold:.7g}" for threshold in thresholds)
    return [name for name in columns if name.startswith("t_valid_") and name.endswith(ends)]


def _places(records: Records) -> pl.DataFrame:
    """``run``, ``cohort``, ``engine``."""
    engines = {folder.id: folder.manifest().get("engine") for folder in records.cohorts()}
    cohorts = [records.cohort_of(run).id for run in records.ids]
    columns = {"run": records.ids, "cohort": cohorts, "engine": [engines[cohort] for cohort in cohorts]}
    return pl.DataFrame(columns, dict.fromkeys(columns, pl.String))


def _last_values(curves: pl.DataFrame, records: Records) -> pl.DataFrame:
    """``run`` and what was recorded at its last evaluation, each as ``last_`` and its name."""
    recorded = {*records.measures().columns, "l2_norm"}
    recorded |= {name for folder in records.cohorts() for name in folder.manifest()["metrics"]}
    values = [pl.col(name).cast(pl.Float64).alias(f"last_{name}") for name in curves.columns if name in recorded]
    return curves.sort("step").group_by("run", maintain_order=True).last().select("run", *values)


def _in_units(records: Records, curves: pl.DataFrame) -> pl.DataFrame:
    """``run`` and its best validation loss in each further unit."""
    units = {run: factors for run, factors in records.units().items() if factors}
    if not units:
        return pl.DataFrame(schema={"run": pl.String})
    best = dict(records.best_of(curves).select("run", "valid_loss").iter_rows())
    names = dict.fromkeys(name for factors in units.values() for name in factors)
    rows = [
        {"run": run, **{name: best[run] * factors[name] if name in factors else None for name in names}}
        for run, factors in units.items()
        if best.get(run) is not None
    ]
    return pl.DataFrame(rows, {"run": pl.String, **dict.fromkeys(names, pl.Float64)})


def _hits(records: Records, curves: pl.DataFrame, thresholds: Sequence[float]) -> list[pl.DataFrame]:
    """First steps past each threshold: ``run`` and a column of steps, null where there is none yet.

    One frame for each threshold and each name of a measure that is the main one of some runs: the losses of several
    tasks are measures of their own, and one column.
    """
    hits: dict[str, list[pl.DataFrame]] = {}
    for measure, runs in _shown_of(records).items():
        check_thresholds(thresholds, measure)
        of_measure = curves.filter(pl.col("run").is_in(runs))
        for threshold in thresholds:
            side: Literal["at least", "at most"] = "at least" if measure.higher_is_better else "at most"
            times = time_to(of_measure, f"valid_{measure.name}", threshold, side)
            column = hit_column(measure, threshold)
            hit = times.select("run", pl.when("observed").then("time").alias(column))
            hits.setdefault(column, []).append(hit)
    return [pl.concat(of_column) for of_column in hits.values()]


def _shown_of(records: Records) -> dict[Measure, list[str]]:
    """Ids of the runs by the main measure of their task."""
    shown = {folder.path: folder.measures().shown for folder in records.cohorts()}
    by_measure: dict[Measure, list[str]] = {}
    for run in records.ids:
        by_measure.setdefault(shown[records.cohort_of(run).path], []).append(run)
    return by_measure


def check_thresholds(thresholds: Sequence[float], measure: Measure) -> None:
    """Raise :class:`UserError` for a threshold that the measure cannot have, or one that is given twice."""
    low, high = measure.bounds or (-math.inf, math.inf)
    for threshold in thresholds:
        if not (math.isfinite(threshold) and low <= threshold <= high):
            between = f"from {low:g} to {high:g}" if measure.bounds else "a finite number"
            raise UserError(f"threshold of the validation {measure.words} must be {between}, got {threshold:g}")
    names = [hit_column(measure, threshold) for threshold in thresholds]
    if twice := [threshold for threshold, name in zip(thresholds, names, strict=True) if names.count(name) > 1]:
        raise UserError(f"threshold was given {twice[0]:g} twice")


def titles_of(measures: Measures, thresholds: Sequence[float] = ()) -> dict[str, str]:
    """The symbol of each column that has one: ``A_val`` of ``valid_accuracy``, ``t(A_val≥0.9)`` of a first step.

    >>> from shoal.measures import EQUATIONS
    >>> titles_of(EQUATIONS, [0.9])["t_valid_accuracy_0.9"]
    't(A_val≥0.9)'
    """
    shown = measures.shown
    hits = {hit_column(shown, x): f"t({shown.symbol_of('valid')}{shown.side}{x:.7g})" for x in thresholds}
    return {quantity.column: quantity.symbol for quantity in quantities_of(measures)} | hits


def find_column(name: str, columns: Collection[str], titles: Mapping[str, str]) -> str:
    """The column of a name, of a name with ``-`` for ``_``, or of a symbol; ``id`` is the column ``run``.

    Raises:
        UserError: there is none; names the nearest.
    """
    by_symbol = {symbol: column for column, symbol in titles.items() if column in columns}
    for known in (name, name.replace("-", "_"), by_symbol.get(name, ""), "run" if name == "id" else ""):
        if known in columns:
            return known
    meant = nearest(name, [*columns, *by_symbol])
    raise UserError(f"unknown column {name!r}{meant or '; shoal runs --csv begins with the names of all'}")


def read_keys(names: Sequence[str], columns: Collection[str], titles: Mapping[str, str]) -> list[_Key]:
    """Columns to sort by: ``-NAME`` and ``NAME:desc`` for the largest first, ``NAME`` and ``NAME:asc`` else.

    Raises:
        UserError: there is no such column or order, or a column is given twice.
    """
    keys: dict[str, bool] = {}
    for text in names:
        name, _, order = text.partition(":")
        if order not in ("", "asc", "desc"):
            raise UserError(
                f"order of column {name!r} must be asc or desc, got {order!r}{nearest(order, ('asc', 'desc'))}"
            )
        column = find_column(name.removeprefix("-"), columns, titles)
        if column in keys:
            raise UserError(f"column {column!r} to sort by was given twice")
        keys[column] = name.startswith("-") != (order == "desc")
    return list(keys.items())


def sort_runs(frame: pl.DataFrame, keys: Sequence[_Key]) -> pl.DataFrame:
    """The rows in the order of these columns; a missing value and NaN come last, and equal rows stay as they were."""
    if not keys:
        return frame
    floats = [name for name, kind in frame.schema.items() if kind.is_float()]
    order = [pl.col(name).fill_nan(None) if name in floats else pl.col(name) for name, _ in keys]
    falling = [is_falling for _, is_falling in keys]
    return frame.sort(order, descending=falling, nulls_last=True, maintain_order=True)


def to_table(frame: pl.DataFrame, columns: Sequence[str], header: Sequence[str], measures: Measures) -> Table:
    """These columns as text for people, in this order; the first labels the rows. ``data`` has the raw numbers."""
    rows = []
    for row in frame.iter_rows(named=True):
        first, *texts = [column_text(name, row, measures) for name in columns]
        rows.append((first, [Cell(text) for text in texts]))
    return Table("runs", list(header), rows, "", frame.select(list(dict.fromkeys(columns))))


def column_text(name: str, row: Mapping[str, Any], measures: Measures) -> str:
    """A value of a row of :func:`run_columns` for people: ``0.9812``, ``1,250``, ``>4,000`` where a threshold was not
    reached up to step 4,000."""
    value = row[name]
    if value is None:
        is_hit = any(name.startswith(f"t_valid_{measure.name}_") for measure in measures.recorded)
        return f">{row['last_step']:,}" if is_hit and row.get("last_step") is not None else NOTHING
    if isinstance(value, list):
        return ", ".join(map(str, value)) or NOTHING
    if name in KINDS:
        return short(value)
    measure = measure_of(name, measures)
    if measure is not None:
        return value_text(value, measure)
    if name in _COUNTS or name.startswith(("t_", "delay_")):
        return f"{value:,}".replace("-", "−") if isinstance(value, int) else setting_text(value)
    is_figure = name.startswith("last_") or "/" in name  # a loss in a further unit, such as bits/char
    return f"{value:.4g}" if isinstance(value, float) and is_figure else setting_text(value)


def measure_of(column: str, measures: Measures) -> Measure | None:
    """The measure of a column of values, the best or the last of a run; None of other columns."""
    by_column = {f"{split}_{measure.name}": measure for measure in measures.recorded for split in SPLITS}
    return by_column.get(column.removeprefix("last_"))


def to_csv(frame: pl.DataFrame) -> str:
    """Comma-separated values with a header: raw numbers, an empty cell for a missing value, lists with spaces."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(frame.columns)
    for row in frame.iter_rows():
        cells = [" ".join(map(str, cell)) if isinstance(cell, list) else cell for cell in row]
        writer.writerow([_csv_cell(cell) for cell in cells])
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if isinstance(value, str):  # a note may have several lines; nothing in it steers a terminal
        return "\n".join(map(printable, value.split("\n")))
    return str(value).lower() if isinstance(value, bool) else "" if value is None else value


def to_json(frame: pl.DataFrame) -> str:
    """An array with an object per run, one to a line: raw numbers, ``null`` for a missing value.

    Numbers that JSON lacks are the texts ``"nan"``, ``"inf"`` and ``"-inf"``.
    """
    lines = [
        json.dumps({name: _json_value(value) for name, value in row.items()}, allow_nan=False)
        for row in frame.iter_rows(named=True)
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n" if lines else "[]\n"


def _json_value(value: Any) -> Any:
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
