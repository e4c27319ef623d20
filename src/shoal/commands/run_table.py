"""A user's own table of training runs: parameters, tokens or training FLOP, and loss, as comma-separated values."""

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from shoal.errors import UserError, nearest

FLOP_PER_PARAMETER_AND_TOKEN = 6  # C = 6·N·D
AGREES = 0.05  # share by which given tokens and FLOP may be apart

ALIASES = {
    "parameters": ("parameters", "N", "params", "num_parameters", "n_params"),
    "tokens": ("tokens", "D", "training_tokens", "n_tokens"),
    "flop": ("training_flop", "flop", "flops", "C", "training_flops"),
    "loss": ("loss", "L", "valid_loss", "val_loss"),
}


@dataclass(frozen=True)
class RunTable:
    """Training runs as read.

    Attributes:
        runs: ``row`` (counted from 1 below the header), ``parameters``, ``tokens``, ``loss`` and perhaps ``group``.
        columns: which column of the file each was read from.
        notes: what the user should know of the reading, one line each.
    """

    runs: pl.DataFrame
    columns: Mapping[str, str]
    notes: Sequence[str]


@dataclass(frozen=True)
class _Cells:
    """The cells of a file as text."""

    path: Path
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    lines: Sequence[int]

    def column(self, name: str) -> list[str]:
        place = self.header.index(name)
        return [row[place].strip() for row in self.rows]


def read_runs(path: Path, named: Mapping[str, str | None]) -> RunTable:
    """Read a table of runs.

    Args:
        path: of the file.
        named: the column of ``parameters``, ``tokens``, ``flop``, ``loss`` and ``group``, where the user named one.

    Raises:
        UserError: the file cannot be read as such a table; names the column, or the row and the value.
    """
    cells = _read(path)
    chosen = {what: _choose(cells, what, named.get(what)) for what in ALIASES}
    for what in ("parameters", "loss"):
        if chosen[what] is None:
            raise _missing(cells, what, [what])
    if chosen["tokens"] is None and chosen["flop"] is None:
        raise _missing(cells, "tokens or training FLOP", ["tokens", "flop"])
    if named.get("flop") is not None and named.get("tokens") is None:
        chosen["tokens"] = None
    columns = {what: name for what, name in chosen.items() if name is not None}
    second = "tokens" if "tokens" in columns else "flop"
    values = {what: _numbers(cells, columns[what]) for what in ("parameters", second, "loss")}
    N, notes = values["parameters"], []
    if second == "flop":
        tokens = [C / (FLOP_PER_PARAMETER_AND_TOKEN * n) for C, n in zip(values["flop"], N, strict=True)]
        notes.append(f"tokens: {columns['flop']} / (6 {columns['parameters']})")
    else:
        tokens = values["tokens"]
        notes += _disagreement(cells, columns, N, tokens)
        columns.pop("flop", None)
    frame = {"row": list(range(1, len(N) + 1)), "parameters": N, "tokens": tokens, "loss": values["loss"]}
    if named.get("group") is not None:
        columns["group"] = str(_choose(cells, "group", named["group"]))
        frame["group"] = cells.column(columns["group"])
    return RunTable(pl.DataFrame(frame), columns, notes)


def _read(path: Path) -> _Cells:
    rows, lines = _rows(path)
    if not rows:
        raise UserError(f"{path} is empty: it must hold a header and one line per training run")
    header = [name.strip() for name in rows[0]]
    if len(header) == 1 and any(sign in header[0] for sign in ";\t|"):
        raise UserError(f"{path} has one column {header[0]!r}: its cells must be separated by commas")
    for row, line in zip(rows[1:], lines[1:], strict=True):
        if len(row) != len(header):
            raise UserError(f"{path}, line {line}, has {len(row)} cells, its header has {len(header)}")
    if len(rows) == 1:
        raise UserError(f"{path} holds a header and no training run")
    return _Cells(path, header, rows[1:], lines[1:])


def _rows(path: Path) -> tuple[list[list[str]], list[int]]:
    """The rows that are not blank, and the line each ends in."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        raise UserError(f"{path} is not a table of comma-separated values: it is not UTF-8 text") from None
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    rows, lines = [], []
    try:
        for row in reader:
            if any(cell.strip() for cell in row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise UserError(f"{path} is not a table of comma-separated values: line {reader.line_num}: {error}") from None
    return rows, lines


def _choose(cells: _Cells, what: str, named: str | None) -> str | None:
    """The column that was named, or the one whose name says what it holds."""
    if named is not None:
        if named not in cells.header:
            raise UserError(
                f"{cells.path} has no column {named!r}: its columns are {' '.join(cells.header)}"
                f"{nearest(named, cells.header)}"
            )
        found = [name for name in cells.header if name == named]
    else:
        known = {alias.casefold() for alias in ALIASES[what]}
        found = [name for name in cells.header if name.casefold() in known]
    if len(found) > 1:
        raise UserError(
            f"{cells.path} has {len(found)} columns of {what}, {' and '.join(map(repr, found))}: "
            f"keep one, or name it with --{what}"
        )
    return found[0] if found else None


def _missing(cells: _Cells, what: str, flags: Sequence[str]) -> UserError:
    aliases = [alias for flag in flags for alias in ALIASES[flag]]
    close = next((hint for alias in aliases if (hint := nearest(alias, cells.header))), "")
    return UserError(
        f"{cells.path} has no column of {what} ({' '.join(aliases)}): its columns are {' '.join(cells.header)}; "
        f"name one with {' or '.join(f'--{flag}' for flag in flags)}{close}"
    )


def _numbers(cells: _Cells, name: str) -> list[float]:
    out = []
    for row, text in enumerate(cells.column(name), start=1):
        value = _number(text)
        if not (math.isfinite(value) and value > 0):
            raise UserError(
                f"{cells.path}, row {row} (line {cells.lines[row - 1]}): {name} must be a finite number above 0, "
                f"got {text[:60]!r}"
            )
        out.append(value)
    return out


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def _disagreement(cells: _Cells, columns: Mapping[str, str], N: Sequence[float], D: Sequence[float]) -> list[str]:
    """A line where the file's FLOP is not ``6·N·D``, as when embeddings are counted in one and not in the other."""
    if "flop" not in columns:
        return []
    given = map(_number, cells.column(columns["flop"]))
    ratios = [C / (FLOP_PER_PARAMETER_AND_TOKEN * n * d) for C, n, d in zip(given, N, D, strict=True)]
    worst = max((abs(ratio - 1) for ratio in ratios if math.isfinite(ratio)), default=0.0)
    if worst <= AGREES:
        return []
    return [
        f"{columns['flop']} differs from 6 {columns['parameters']} {columns['tokens']} by up to {worst:.0%}: "
        f"{columns['tokens']} is used, and compute is 6 N D; --flop {columns['flop']} uses the other"
    ]
