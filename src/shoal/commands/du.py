"""``shoal du``: bytes of each cohort, or of each run, on the disk."""

import sys
from typing import TYPE_CHECKING, Any

from shoal.commands.choice import add_choice, choose, flags_of_choice
from shoal.commands.parsing import Options, Parser, add_lab
from shoal.errors import UserError

if TYPE_CHECKING:
    import polars as pl

    from shoal.lab import Lab, Records


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "runs",
        nargs="*",
        metavar="RUN",
        help="ids or their beginnings, or names of runs or groups: a line for each run; without one, for each cohort",
    )
    add_lab(parser)
    parser.flag("csv", action="store_true", help="comma-separated values; bytes as they are")
    parser.flag("json", action="store_true", help="a JSON list with an object per line; bytes as they are")
    add_choice(parser)


def run(options: Options) -> int:
    """Print bytes by kind of file, the most first; return 1 if a cohort cannot be read, else 0."""
    from shoal.lab import Lab

    if options.csv and options.json:
        raise UserError("--csv and --json are two forms of one output: give one of them")
    lab = Lab(options.lab)
    unreadable = lab.unreadable()
    if not lab.cohorts() and not unreadable:
        lab.records()  # says that there is no such lab, where there is none
        raise UserError(f"lab {options.lab} holds no runs")
    by_run = bool(options.runs or flags_of_choice(options))
    frame = _of_runs(choose(lab.records(options.runs or None), options)) if by_run else _of_cohorts(lab)
    if options.csv:
        print(frame.write_csv(), end="")
    elif options.json:
        import json

        print(json.dumps(frame.to_dicts(), indent=1))
    else:
        _print(frame, by_run)
    for line in unreadable:
        print(line, file=sys.stderr)
    return int(bool(unreadable))


def _of_cohorts(lab: "Lab") -> "pl.DataFrame":
    """One row per cohort and per folder beside them: ``cohort``, ``runs``, bytes by kind, ``total``; the most first."""
    from shoal.errors import LabError
    from shoal.lab.sizes import KINDS, bytes_beside, bytes_of_cohort

    rows: list[dict[str, Any]] = []
    for folder in lab.cohorts():
        try:
            runs: int | None = len(folder.manifest()["members"])
        except LabError:
            runs = None
        rows.append({"cohort": folder.id, "runs": runs, **bytes_of_cohort(folder)})
    for name, size in bytes_beside(lab.path).items():
        rows.append({"cohort": name, "runs": None, **dict.fromkeys(KINDS), "other": size})
    return _sorted(rows)


def _of_runs(records: "Records") -> "pl.DataFrame":
    """One row per run: ``run``, ``name`` where some have one, bytes by kind and ``total``; the most first."""
    from shoal.lab.sizes import bytes_of_runs

    sizes = {folder.path: bytes_of_runs(folder) for folder in records.cohorts()}
    called = records.label_cells()
    rows = []
    for run in records.ids:
        name = {"name": called[run]["name"]} if "name" in called[run] else {}
        rows.append({"run": run, **name, **sizes[records.cohort_of(run).path][run]})
    return _sorted(rows)


def _sorted(rows: list[dict[str, Any]]) -> "pl.DataFrame":
    import polars as pl

    from shoal.lab.sizes import KINDS

    frame = pl.DataFrame(rows, infer_schema_length=None).with_columns(pl.col(KINDS).cast(pl.Int64))
    return frame.with_columns(pl.sum_horizontal(KINDS).alias("total")).sort(
        "total", descending=True, maintain_order=True
    )


def _print(frame: "pl.DataFrame", by_run: bool) -> None:
    """Print the table with readable sizes, and a line about shared files."""
    from shoal.commands.delete import in_bytes
    from shoal.output import say
    from shoal.report.console import print_table
    from shoal.report.table import Cell, Table
    from shoal.report.words import NOTHING

    first, *others = frame.columns
    sized = [name for name in others if name not in ("runs", "name")]
    rows = []
    for row in frame.iter_rows(named=True):
        texts = [in_bytes(row[c]) if c in sized and row[c] is not None else str(row[c] or NOTHING) for c in others]
        rows.append((str(row[first]), [Cell(text) for text in texts]))
    print_table(Table("sizes", [first, *others], rows, ""))
    say(f"in all {in_bytes(int(frame['total'].sum()))}")
    if by_run:
        say("models are the run's own; of files that runs of a cohort share each has an equal part")
