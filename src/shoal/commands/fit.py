"""``shoal fit scaling FILE``: a scaling law fitted to the user's own table of training runs."""

import argparse
import os
import re
import shlex
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.parsing import Parser
from shoal.errors import UserError, nearest
from shoal.output import say

if TYPE_CHECKING:
    from shoal.analysis import ScalingFit
    from shoal.commands.run_table import Reading, RunTable

KINDS = ("scaling",)
_MARKS = ("point", "comma")
NUMBERS = "fit.json"  # the numbers of a fit; marks a folder that may be written over
_COLUMNS = {
    "parameters": "column of parameters (parameters, N, params)",
    "tokens": "column of training tokens (tokens, D)",
    "flop": "column of training FLOP, from which D = C / (6 N) (training_flop, flop, flops, C)",
    "loss": "column of the loss (loss, L)",
    "group": "column of clusters that are resampled whole; default: runs of one N and D",
}


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("kind", metavar="KIND", help=" | ".join(KINDS))
    parser.add_argument("file", nargs="?", metavar="FILE", help="table of training runs: .csv or .tsv, perhaps .gz")
    for name, about in _COLUMNS.items():
        parser.flag(name, metavar="NAME", help=about)
    parser.flag(
        "resamples", type=int, default=1000, help="bootstrap resamples, 20 to 100,000; 0 for no intervals; default 1000"
    )
    parser.flag("seed", type=int, default=0, help="seed of the resampling; default 0")
    parser.flag(
        "holdout",
        type=float,
        default=0.2,
        help="share of the runs, of the largest compute, held out, at most 0.5; default 0.2",
    )
    _add_reading(parser)
    parser.flag("tied", action="store_true", help="one exponent for parameters and tokens, α = β")
    parser.flag("irreducible", type=float, metavar="E", help="hold E, the irreducible loss, at this value")
    parser.flag(
        "delta",
        type=float,
        default=1e-3,
        help="threshold δ of the Huber loss, in log residuals, at most 1; default 0.001",
    )
    which = parser.add_mutually_exclusive_group()
    which.add_argument(
        "--drop-outliers", "--drop_outliers", action="store_true", help="draw conclusions from the fit without outliers"
    )
    which.add_argument(
        "--keep-outliers",
        "--keep_outliers",
        action="store_true",
        help="draw them from the fit with outliers; the default",
    )
    parser.flag(
        "budgets", type=float, nargs="+", action="extend", metavar="C", help="compute budgets to divide best, in FLOP"
    )
    parser.flag(
        "predict",
        nargs="+",
        action="extend",
        metavar="N=…,D=…",
        help="models to predict the loss of, such as N=7B,D=2T: two of N parameters, D tokens, C FLOP = 6 N D",
    )
    parser.flag("out", metavar="DIR", help="folder of the report; default ./fit- and the file's name")


def _add_reading(parser: Parser) -> None:
    """Flags for the reading of the table, and for the choice of its rows."""
    parser.flag(
        "where",
        nargs="+",
        action="extend",
        metavar="COLUMN=VALUE",
        help="only rows with this value, or one of several (COLUMN=VALUE,VALUE)",
    )
    parser.flag(
        "drop-rows",
        type=int,
        nargs="+",
        action="extend",
        metavar="ROW",
        help="rows to leave out, counted below the header, whatever they hold",
    )
    parser.flag("drop-incomplete", action="store_true", help="leave out all rows that lack a number or are malformed")
    parser.flag(
        "units",
        nargs="+",
        action="extend",
        metavar="COLUMN=UNIT",
        help="unit of a column: params=M, tokens=B, flop=PFLOP-days, flop=1e18; a cell such as 1.3B needs none",
    )
    parser.flag("decimal", metavar="MARK", help="decimal mark: point or comma; default as the cells show")


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
    budgets = _check_budgets(options.budgets)
    models = [_read_model(word) for word in options.predict or []]
    table = read_runs(path, _reading(options))
    name = Path(path.name.removesuffix(".gz")).stem
    folder = _free(Path(options.out) if options.out else Path(f"fit-{name}"))
    check_drawing()
    columns = ", ".join(f"{what} {name!r}" for what, name in table.columns.items())
    say(f"{path.name}: {len(table.runs)} runs, {columns}")
    for note in (*table.left_out, *table.notes):
        say(note)
    started = time.monotonic()
    fit = fit_scaling(
        table.runs,
        group="group" if options.group else None,
        resamples=options.resamples,
        seed=options.seed,
        holdout=options.holdout,
        drop_outliers=options.drop_outliers,
        delta=options.delta,
        tied=options.tied,
        irreducible=options.irreducible,
    )
    _show(fit, budgets, models, _source(path, table, options, time.monotonic() - started), folder)
    return 0


def _reading(options: argparse.Namespace) -> "Reading":
    from shoal.commands.run_table import Reading

    decimal = options.decimal
    if decimal not in (None, *_MARKS):
        raise UserError(f"--decimal must be {' or '.join(_MARKS)}, got {decimal!r}{nearest(decimal, _MARKS)}")
    return Reading(
        columns={name: getattr(options, name) for name in _COLUMNS},
        units=options.units or (),
        where=options.where or (),
        drop_rows=options.drop_rows or (),
        drop_incomplete=options.drop_incomplete,
        decimal=decimal,
    )


def _read_model(word: str) -> tuple[float, float]:
    """Parameters and tokens, from two of N, D and C as in ``N=7B,D=2T``."""
    from shoal.commands.quantities import POINT, read_count
    from shoal.commands.run_table import ALIASES, FLOP_PER_PARAMETER_AND_TOKEN

    known = {alias.casefold(): what for what in ("parameters", "tokens", "flop") for alias in ALIASES[what]}
    given: dict[str, float] = {}
    for part in filter(None, re.split(r"[,\s]+", word)):
        name, _, text = part.partition("=")
        what = known.get(name.casefold())
        if what is None:
            raise UserError(f"--predict {word[:60]}: unknown {name[:30]!r}: N, D or C{nearest(name, known)}")
        value = read_count(text, POINT, flop=what == "flop")
        if not 0 < value < float("inf"):
            raise UserError(f"--predict {word[:60]}: {name} must be a number above 0, such as 7e9 or 7B, got {text!r}")
        if what in given:
            raise UserError(f"--predict {word[:60]}: {what} is given twice")
        given[what] = value
    if len(given) != 2:
        raise UserError(f"--predict {word[:60]}: must be two of N, D and C, such as N=7B,D=2T")
    if "flop" not in given:
        return given["parameters"], given["tokens"]
    product = given["flop"] / FLOP_PER_PARAMETER_AND_TOKEN
    parameters = given.get("parameters") or product / given["tokens"]
    return parameters, product / parameters


def _check_budgets(budgets: list[float] | None) -> list[float] | None:
    for budget in budgets or []:
        if not 0 < budget < float("inf"):
            raise UserError(f"--budgets must be finite numbers above 0, got {budget:g}")
    return budgets


def _free(folder: Path) -> Path:
    """Folder for the report, after a check that it can be written and holds nothing but an earlier report."""
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
    """Provenance of the fit: command, file and its hash, columns, notes, seed, seconds and versions."""
    from importlib.metadata import version

    words = ["shoal", "fit", options.kind, path.name]
    for name, value in vars(options).items():
        if name not in ("kind", "file", "out") and value is not None and value is not False:
            values = value if isinstance(value, list) else [] if value is True else [value]
            words += [f"--{name.replace('_', '-')}", *map(_shown, values)]
    return {
        "made_by": "shoal fit",
        "command": shlex.join(words),
        "file": path.name,
        "file_sha256": table.sha256,
        "columns": dict(table.columns),
        "notes": list(table.notes),
        "left_out": list(table.left_out),
        "doubts": list(table.doubts),
        "resamples": options.resamples,
        "seed": options.seed,
        "seconds": round(seconds, 1),
        "versions": {name: version(name) for name in ("shoal", "numpy", "scipy")},
    }


def _shown(value: Any) -> str:
    """A value as it may be given again."""
    return f"{value:g}" if isinstance(value, float) and float(f"{value:g}") == value else str(value)


def _show(
    fit: "ScalingFit",
    budgets: list[float] | None,
    models: list[tuple[float, float]],
    source: dict[str, Any],
    folder: Path,
) -> None:
    from shoal.lab.files import write_json
    from shoal.report import write_report
    from shoal.report.console import print_keys, print_titled
    from shoal.report.scaling import extrapolation_warnings, numbers, report_scaling

    for warning in (*source["doubts"], *fit.warnings, *extrapolation_warnings(fit, models)):
        say(f"warning: {warning}")
    report = report_scaling(fit, source, budgets, models)
    for section in report.sections:
        for table in section.tables:
            print_titled(section.title, table)
    print_keys(*(table for section in report.sections for table in section.tables))
    write_json(folder / NUMBERS, source | numbers(fit, models))
    say()
    say(f"report: {write_report(report, folder)}")
