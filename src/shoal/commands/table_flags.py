"""Flags that say what a table of runs shows, in which order and form: ``--columns``, ``--sort``, ``--threshold``,
``--csv`` and ``--json``."""

import argparse
import re
import sys
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser
from shoal.errors import UserError, printable

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import polars as pl

    from shoal.lab import Records
    from shoal.report.table import Table

_FALLING = r"^-[A-Za-z][\w()≥≤Δ.-]*$"  # --sort -valid_accuracy: a value, where no flag has one dash but -h


def add_table(parser: Parser) -> None:
    """Declare the flags."""
    parser.flag("columns", nargs="+", metavar="COLUMN", help="columns to show, by name or symbol (A_val, weight_decay)")
    parser.flag(
        "sort",
        nargs="+",
        metavar="COLUMN",
        help="columns to sort by; -COLUMN or COLUMN:desc for the largest first; runs without a value come last",
    )
    parser.flag(
        "threshold",
        type=float,
        nargs="+",
        metavar="X",
        help="adds the first step at which the main validation measure of the task is at least X (at most X, if it is "
        "a loss); >STEP: not reached by the last evaluated step",
    )
    parser.flag("csv", action="store_true", help="comma-separated values: all columns, raw numbers")
    parser.flag("json", action="store_true", help="an array of objects: all columns, raw numbers, null for missing")
    numbers = parser._negative_number_matcher.pattern  # what argparse takes for a value though it begins with a dash
    parser._negative_number_matcher = re.compile(f"{numbers}|{_FALLING}", re.IGNORECASE)


def check_table(options: argparse.Namespace) -> None:
    """Raise :class:`UserError` for flags that contradict each other."""
    if options.csv and options.json:
        raise UserError("--csv and --json are two forms of one table: give one of them")
    for name in options.columns or ():
        if options.columns.count(name) > 1:
            raise UserError(f"column {name!r} was given twice")


def print_chosen(options: argparse.Namespace, records: "Records", unreadable: "Sequence[str]" = ()) -> int:
    """Print the table that the flags ask for; 1 where a run is damaged or a cohort cannot be read."""
    from shoal.report.console import print_damage, print_extrema, print_table

    damage = records.damage()
    if options.csv or options.json:
        _print_raw(options, records, damage)
    elif len(records) and options.columns:
        print_table(_chosen_columns(options, records, damage))
        for line in records.without(damage).beside():
            print(printable(line))
    elif len(records):
        print_extrema(records, damage, lambda table: _arranged(table, options, records, damage))
    if not (options.csv or options.json):
        return print_damage(damage, len(records), unreadable)
    return warn_of_damage(damage, len(records), unreadable)


def warn_of_damage(damage: "dict[str, str]", n: int, unreadable: "Sequence[str]") -> int:
    """Print the damage on standard error, because a program reads standard output; return 1 if there is any, else 0."""
    from shoal.report.words import damage_sentences

    lines = [*damage_sentences(damage, n), *unreadable]
    for line in lines:
        print(printable(line), file=sys.stderr)
    return int(bool(lines))


def _frame(
    options: argparse.Namespace, records: "Records", damage: "Collection[str]"
) -> "tuple[pl.DataFrame, dict[str, str]]":
    """Every column of the runs in the order that is asked for, and the symbols of those that have one."""
    from shoal.report.run_columns import read_keys, run_columns, sort_runs, titles_of

    thresholds = options.threshold or ()
    frame = run_columns(records, damage, thresholds)
    titles = titles_of(records.measures(), thresholds)
    return sort_runs(frame, read_keys(options.sort or (), frame.columns, titles)), titles


def _print_raw(options: argparse.Namespace, records: "Records", damage: "Collection[str]") -> None:
    from shoal.report.run_columns import find_column, hits_in, to_csv, to_json

    frame, titles = _frame(options, records, damage)
    if options.columns:
        columns = [find_column(name, frame.columns, titles) for name in options.columns]
        frame = frame.select(list(dict.fromkeys([*columns, *hits_in(frame.columns, options.threshold or ())])))
    print((to_csv if options.csv else to_json)(frame), end="")


def _chosen_columns(options: argparse.Namespace, records: "Records", damage: "Collection[str]") -> "Table":
    from shoal.report.run_columns import find_column, hits_in, to_table

    frame, titles = _frame(options, records, damage)
    asked = [*([] if "run" in options.columns else ["run"]), *options.columns]  # a row says whose it is
    columns = [find_column(name, frame.columns, titles) for name in asked]
    hits = [name for name in hits_in(frame.columns, options.threshold or ()) if name not in columns]
    header = [*asked, *(titles.get(name, name) for name in hits)]
    return to_table(frame, [*columns, *hits], header, records.measures())


def _arranged(table: "Table", options: argparse.Namespace, records: "Records", damage: "Collection[str]") -> "Table":
    """The usual table with its rows in order, a column per threshold, and those that it is sorted by."""
    from dataclasses import replace

    from shoal.report.run_columns import column_text, hits_in, read_keys
    from shoal.report.table import Cell

    if not (options.sort or options.threshold):
        return table
    frame, titles = _frame(options, records, damage)
    measures = records.measures()
    hits = hits_in(frame.columns, options.threshold or ())
    sorted_by = [column for column, _ in read_keys(options.sort or (), frame.columns, titles)]
    shown = {*table.header, "run", "state"}
    more = [name for name in dict.fromkeys([*sorted_by, *hits]) if not {name, titles.get(name, name)} & shown]
    cells = dict(table.rows)
    rows = [
        (row["run"], [*cells[row["run"]], *(Cell(column_text(name, row, measures)) for name in more)])
        for row in frame.iter_rows(named=True)
    ]
    return replace(table, header=[*table.header, *(titles.get(name, name) for name in more)], rows=rows)
