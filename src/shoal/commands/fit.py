"""``shoal fit scaling FILE``: a scaling law fitted to the user's own table of training runs."""

import argparse
import hashlib
import os
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.parsing import Parser
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from shoal.analysis import ScalingFit
    from shoal.commands.run_table import RunTable

KINDS = ("scaling",)
NUMBERS = "fit.json"  # the numbers of a fit; marks a folder that may be written over
_COLUMNS = {
    "parameters": "column of parameters (parameters, N, params)",
    "tokens": "column of training tokens (tokens, D)",
    "flop": "column of training FLOP, from which D = C / (6 N) (training_flop, flop, flops, C)",
    "loss": "column of the loss (loss, L)",
    "group": "column of clusters that are resampled whole, such as the seeds of one setting",
}


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("kind", metavar="KIND", help=" | ".join(KINDS))
    parser.add_argument("file", nargs="?", metavar="FILE", help="table of training runs, comma-separated")
    for name, about in _COLUMNS.items():
        parser.flag(name, metavar="NAME", help=about)
    parser.flag(
        "resamples", type=int, default=1000, help="bootstrap resamples, 20 to 100,000; 0 for no intervals (1000)"
    )
    parser.flag("seed", type=int, default=0, help="seed of the resampling (0)")
    parser.flag(
        "holdout",
        type=float,
        default=0.2,
        help="share of the runs, of the largest compute, held out, at most 0.5 (0.2)",
    )
    parser.flag("drop-rows", type=int, nargs="+", metavar="ROW", help="rows to leave out, counted below the header")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--drop-outliers", "--drop_outliers", action="store_true", help="conclude without the outliers")
    which.add_argument("--keep-outliers", "--keep_outliers", action="store_true", help="conclude with them (default)")
    parser.flag("budgets", type=float, nargs="+", metavar="C", help="budgets of the table of best use, in FLOP")
    parser.flag("out", metavar="DIR", help="folder of the report (./fit- and the file's name)")


def run(options: argparse.Namespace) -> int:
    """Fit, print, and write the report."""
    if options.kind not in KINDS:
        raise UserError(f"unknown fit {options.kind!r}: one of {' '.join(KINDS)}{nearest(options.kind, KINDS)}")
    if options.file is None:
        raise UserError(f"fit {options.kind} needs a file: shoal fit {options.kind} FILE.csv")
    from shoal.analysis import fit_scaling
    from shoal.commands.run_table import read_runs
    from shoal.report import check_drawing

    path = Path(options.file)
    table = read_runs(path, {name: getattr(options, name) for name in _COLUMNS})
    runs = _without_rows(table, options.drop_rows or [])
    budgets = _check_budgets(options.budgets)
    folder = _free(Path(options.out) if options.out else Path(f"fit-{path.stem}"))
    check_drawing()
    started = time.monotonic()
    fit = fit_scaling(
        runs,
        group="group" if options.group else None,
        resamples=options.resamples,
        seed=options.seed,
        holdout=options.holdout,
        drop_outliers=options.drop_outliers,
    )
    print(f"{path.name}: {len(runs)} runs, {', '.join(f'{what} {name!r}' for what, name in table.columns.items())}")
    for note in table.notes:
        print(note)
    _show(fit, budgets, _source(path, table, options, time.monotonic() - started), folder)
    return 0


def _without_rows(table: "RunTable", rows: list[int]) -> Any:
    present = table.runs["row"].to_list()
    for row in rows:
        if row not in present:
            raise UserError(f"--drop-rows {row}: the rows are 1 to {len(present)}")
    return table.runs.filter(~table.runs["row"].is_in(rows))


def _check_budgets(budgets: list[float] | None) -> list[float] | None:
    for budget in budgets or []:
        if not 0 < budget < float("inf"):
            raise UserError(f"--budgets must be finite numbers above 0, got {budget:g}")
    return budgets


def _free(folder: Path) -> Path:
    """The folder itself, where nothing else would be written over."""
    if folder.exists() or folder.is_symlink():
        if not folder.is_dir():
            raise UserError(f"--out {folder} is not a folder")
        if any(folder.iterdir()) and not _is_fit(folder):
            raise UserError(f"{folder} holds something that is not a report of shoal fit: name another with --out")
    above = next(parent for parent in (folder, *folder.absolute().parents) if parent.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise UserError(f"--out {folder} cannot be made: {above} is not a folder that can be written")
    return folder


def _is_fit(folder: Path) -> bool:
    from shoal.lab.files import read_json

    if not (folder / NUMBERS).is_file():
        return False
    try:
        numbers = read_json(folder / NUMBERS)
    except UserError:
        return False
    return isinstance(numbers, dict) and numbers.get("made_by") == "shoal fit"


def _source(path: Path, table: "RunTable", options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """Where the numbers come from, for the record."""
    from importlib.metadata import version

    words = ["shoal", "fit", options.kind, path.name]
    for name, value in vars(options).items():
        if name not in ("kind", "file", "out") and value not in (None, False):
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *(f"{v:g}" if isinstance(v, float) else str(v) for v in values)]
    return {
        "made_by": "shoal fit",
        "command": shlex.join(words),
        "file": path.name,
        "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        "columns": dict(table.columns),
        "notes": list(table.notes),
        "resamples": options.resamples,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in ("shoal", "numpy", "scipy")},
    }


def _show(fit: "ScalingFit", budgets: list[float] | None, source: dict[str, Any], folder: Path) -> None:
    from shoal.lab.files import write_json
    from shoal.report import write_report
    from shoal.report.console import print_titled
    from shoal.report.scaling import numbers, report_scaling

    for warning in fit.warnings:
        print(f"warning: {warning}")
    report = report_scaling(fit, source, budgets)
    for section in report.sections:
        for table in section.tables:
            print_titled(section.title, table)
    write_json(folder / NUMBERS, source | numbers(fit))
    print(f"\nreport: {write_report(report, folder)}")
