"""A user's own table of training runs: parameters, tokens or training FLOP, and loss, as text in a file."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl

from shoal.commands.cells import Cells, Row, list_texts, read_cells
from shoal.commands.quantities import COMMA, POINT, decimal_mark, named_unit, read_count, read_number, read_unit
from shoal.commands.row_choice import choose_rows, left_out, list_rows
from shoal.errors import UserError, nearest

FLOP_PER_PARAMETER_AND_TOKEN = 6  # C = 6·N·D
AGREES = 0.05  # share by which given tokens and FLOP may be apart
FEW = 1000.0  # parameters or tokens, below which a column is likely to count millions or billions

ALIASES = {
    "parameters": ("parameters", "N", "params", "num_parameters", "n_params"),
    "tokens": ("tokens", "D", "training_tokens", "n_tokens"),
    "flop": ("training_flop", "flop", "flops", "C", "training_flops"),
    "loss": ("loss", "L", "valid_loss", "val_loss"),
}


@dataclass(frozen=True)
class Reading:
    """Instructions of the user for reading a table.

    Attributes:
        columns: the column of ``parameters``, ``tokens``, ``flop``, ``loss`` and ``group``, where the user named one.
        units: ``COLUMN=UNIT`` each.
        where: ``COLUMN=VALUE`` each: only rows that have one of the values of each column.
        drop_rows: numbers of rows to leave out.
        drop_incomplete: leave out the rows that cannot be used.
        decimal: the mark before decimals, ``point`` or ``comma``; detected where it is ``None``.
    """

    columns: Mapping[str, str | None] = field(default_factory=dict)
    units: Sequence[str] = ()
    where: Sequence[str] = ()
    drop_rows: Sequence[int] = ()
    drop_incomplete: bool = False
    decimal: str | None = None


@dataclass(frozen=True)
class RunTable:
    """Training runs as read.

    Attributes:
        runs: ``row`` (counted from 1 below the header), ``parameters``, ``tokens``, ``loss`` and perhaps ``group``.
        columns: the column of the file that each quantity was read from.
        notes: remarks on the reading for the user, one line each.
        left_out: rows left out, with the reason, one line each.
        doubts: units that the user is likely to have meant otherwise, one line each.
        sha256: of the file's bytes.
    """

    runs: pl.DataFrame
    columns: Mapping[str, str]
    notes: Sequence[str]
    left_out: Sequence[str]
    doubts: Sequence[str]
    sha256: str


def read_runs(path: Path, reading: Reading) -> RunTable:
    """Read a table of runs.

    Raises:
        UserError: the file cannot be read as such a table; names the column, or the row and the value.
    """
    named = [name for name in reading.columns.values() if name is not None]
    cells = read_cells(path, [*(alias for several in ALIASES.values() for alias in several), *named])
    columns = _columns(cells, reading.columns)
    group = reading.columns.get("group")
    if group is not None:
        columns["group"] = str(_choose(cells, "group", group))
    units = _units(reading.units, columns)
    rows, omitted = choose_rows(cells, reading.where, reading.drop_rows, reading.decimal)
    mark = reading.decimal or _mark(cells, rows, columns)
    values, faults = _values(cells, rows, columns, units, mark)
    if faults and not reading.drop_incomplete:
        raise _unusable(cells, rows, faults)
    omitted += left_out(len(rows), faults)
    if not values:
        raise UserError(f"{path}: no row is left: {omitted[-1]}")
    frame = pl.DataFrame(values, infer_schema_length=None)
    notes = [*cells.notes, *(["decimal commas"] if mark == COMMA else []), *_unit_notes(units, columns)]
    N = columns["parameters"]
    if "tokens" not in columns:
        tokens = pl.col("flop") / (FLOP_PER_PARAMETER_AND_TOKEN * pl.col("parameters"))
        frame = frame.with_columns(tokens.alias("tokens"))
        notes.append(f"tokens: {columns['flop']} / (6 {N})")
    elif "flop" in columns:
        notes += _disagreement(columns, frame)
        columns.pop("flop")
    unitless = {what: name for what, name in columns.items() if what not in units}
    doubts = [*_unit_doubts(unitless, frame), *_mixed_units(unitless, frame, cells, rows)]
    chosen = ["row", "parameters", "tokens", "loss", *(["group"] if group is not None else [])]
    return RunTable(frame.select(chosen), columns, notes, omitted, doubts, cells.sha256)


def _columns(cells: Cells, named: Mapping[str, str | None]) -> dict[str, str]:
    """Column of each quantity, without the tokens where the user asks for those that follow from the FLOP."""
    chosen = {what: _choose(cells, what, named.get(what)) for what in ALIASES}
    for what in ("parameters", "loss"):
        if chosen[what] is None:
            raise _missing(cells, what, [what])
    if chosen["tokens"] is None and chosen["flop"] is None:
        raise _missing(cells, "tokens or training FLOP", ["tokens", "flop"])
    if named.get("flop") is not None and named.get("tokens") is None:
        chosen["tokens"] = None
    return {what: name for what, name in chosen.items() if name is not None}


def _choose(cells: Cells, what: str, named: str | None) -> str | None:
    """Column that the user named, or the one with a name that is usual for the quantity; None where there is none."""
    if named is not None:
        if named not in cells.header:
            raise UserError(
                f"{cells.path} has no column {named[:60]!r}: its columns are {list_texts(cells.header)}"
                f"{nearest(named, cells.header)}"
            )
        matching = [name for name in cells.header if name == named]
    else:
        known = {alias.casefold() for alias in ALIASES[what]}
        matching = [name for name in cells.header if name.casefold() in known]
    if len(matching) > 1:
        raise UserError(
            f"{cells.path} has {len(matching)} columns of {what}, {' and '.join(map(repr, matching))}: "
            f"keep one, or name it with --{what}"
        )
    return matching[0] if matching else None


def _missing(cells: Cells, what: str, flags: Sequence[str]) -> UserError:
    aliases = [alias for flag in flags for alias in ALIASES[flag]]
    close = next((hint for alias in aliases if (hint := nearest(alias, cells.header))), "")
    return UserError(
        f"{cells.path} has no column of {what} ({' '.join(aliases)}): its columns are {list_texts(cells.header)}; "
        f"name one with {' or '.join(f'--{flag}' for flag in flags)}{close}"
    )


def _units(words: Sequence[str], columns: Mapping[str, str]) -> dict[str, float]:
    """Factor of each column that the user gave a unit."""
    out: dict[str, float] = {}
    for word in words:
        name, _, unit = word.partition("=")
        measured = {
            what: (columns[what], *ALIASES[what]) for what in ("parameters", "tokens", "flop") if what in columns
        }
        matching = [what for what, names in measured.items() if name.casefold() in {n.casefold() for n in names}]
        if not matching or not unit:
            known = [name for names in measured.values() for name in names]
            raise UserError(
                f"--units {word[:60]}: must be COLUMN=UNIT, of {' or '.join(measured)}{nearest(name, known)}"
            )
        if matching[0] in out:
            raise UserError(f"--units {word[:60]}: the unit of {matching[0]} is given twice")
        out[matching[0]] = read_unit(matching[0], unit)
    return out


def _mark(cells: Cells, rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """The decimal mark that the numbers of these rows show."""
    places = [cells.header.index(name) for what, name in columns.items() if what != "group"]
    mark, why = decimal_mark(row.cells[place] for row in rows if not row.torn for place in places)
    if mark is None:
        raise UserError(f"{cells.path}: {why}: say which with --decimal {POINT} or --decimal {COMMA}")
    return mark


def _values(
    cells: Cells, rows: Iterable[Row], columns: Mapping[str, str], units: Mapping[str, float], mark: str
) -> tuple[list[dict[str, float | str]], dict[Row, tuple[str, str]]]:
    """Values of each usable row; for each other row the fault, and the cell that shows it."""
    values, faults = [], {}
    places = {what: cells.header.index(name) for what, name in columns.items()}
    checked = [what for what in columns if what != "flop" or "tokens" not in columns]
    for row in rows:
        if row.torn:
            faults[row] = (row.torn, "")
            continue
        read: dict[str, float | str] = {"row": row.number}
        for what, place in places.items():
            text = row.cells[place]
            if what == "group":
                read[what] = text
            elif what == "loss":
                read[what] = read_number(text, mark)
            else:
                read[what] = read_count(text, mark, units.get(what, 1.0), what == "flop")
        bad = next((what for what in checked if not _is_usable(read[what])), None)
        if bad is None:
            values.append(read)
        else:
            allowed = "name a cluster" if bad == "group" else "be a finite number above 0"
            faults[row] = (f"{columns[bad]} must {allowed}", row.cells[places[bad]])
    return values, faults


def _is_usable(value: float | str) -> bool:
    return bool(value) if isinstance(value, str) else math.isfinite(value) and value > 0


def _unusable(cells: Cells, rows: Sequence[Row], faults: Mapping[Row, tuple[str, str]]) -> UserError:
    row, (wrong, text) = next(iter(faults.items()))
    got = f", got {text[:60]!r}" if "must" in wrong else ""
    also = f"; {len(faults) - 1} more of {len(rows)} rows cannot be used either ({list_rows(list(faults)[1:])})"
    return UserError(
        f"{cells.path}, row {row.number} (line {row.line}){':' if 'must' in wrong else ''} {wrong}{got}"
        f"{also if len(faults) > 1 else ''}: --drop-incomplete leaves such rows out, --drop-rows some"
    )


def _unit_notes(units: Mapping[str, float], columns: Mapping[str, str]) -> list[str]:
    return [f"{columns[what]} in units of {unit:g}" for what, unit in units.items()]


def _unit_doubts(columns: Mapping[str, str], frame: pl.DataFrame) -> list[str]:
    """A line for each column without a unit whose name has one, or that seems to count millions or billions."""
    out = []
    for what in ("parameters", "tokens", "flop"):
        if what not in columns:
            continue
        largest = frame[what].to_numpy().max()
        if unit := named_unit(columns[what], what == "flop"):
            out.append(f"column {columns[what]!r} is read as single {what}: --units {what}={unit} if it counts {unit}")
        elif what != "flop" and largest < FEW:
            out.append(f"no run has more than {largest:g} {what}: --units {what}=M, or B, if it counts millions, or so")
    return out


def _mixed_units(columns: Mapping[str, str], frame: pl.DataFrame, cells: Cells, rows: Iterable[Row]) -> list[str]:
    """A line for each column in which some numbers have a unit and one without is small enough to lack it."""
    texts, out = {row.number: row.cells for row in rows}, []
    for what in ("parameters", "tokens"):
        if what not in columns:
            continue
        place = cells.header.index(columns[what])
        read = [(texts[row][place], row, value) for row, value in frame.select("row", what).rows()]
        with_unit = next((one for one in read if one[0][-1].isalpha()), None)
        small = [one for one in read if not one[0][-1].isalpha() and one[2] < FEW]
        if with_unit and small:
            others = f", and in {len(small) - 1} more like it" if len(small) > 1 else ""
            out.append(
                f"column {columns[what]!r} has {with_unit[0]!r} in row {with_unit[1]} and {small[0][0]!r} in row "
                f"{small[0][1]}{others}, read as single {what}: write the unit beside each number"
            )
    return out


def _disagreement(columns: Mapping[str, str], frame: pl.DataFrame) -> list[str]:
    """A line where the file's FLOP is not ``6·N·D``, as when embeddings are counted in one and not in the other."""
    product = FLOP_PER_PARAMETER_AND_TOKEN * pl.col("parameters") * pl.col("tokens")
    ratios = frame.select(pl.col("flop") / product).to_series().to_list()
    worst = max((abs(ratio - 1) for ratio in ratios if math.isfinite(ratio)), default=0.0)
    if worst <= AGREES:
        return []
    return [
        f"{columns['flop']} differs from 6 {columns['parameters']} {columns['tokens']} by up to {worst:.0%}: "
        f"{columns['tokens']} is used, and compute is 6 N D; --flop {columns['flop']} uses the other"
    ]
