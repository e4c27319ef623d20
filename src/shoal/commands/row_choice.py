"""Choice of rows of a user's table: by the values of columns, by number, and by missing values."""

from collections.abc import Mapping, Sequence
from math import isclose

from shoal.commands.cells import Cells, Row, list_texts
from shoal.commands.quantities import POINT, decimal_mark, read_count
from shoal.errors import UserError, nearest

_MOST_NAMED = 8  # rows or values in one line
_MISSING = frozenset(("", "na", "n/a", "nan", "null", "none", "nil", "missing", "-", "–", "—", "?", "."))


def choose_rows(
    cells: Cells, where: Sequence[str], drop: Sequence[int], decimal: str | None
) -> tuple[list[Row], list[str]]:
    """Rows that conditions choose, without those that are left out by number.

    A torn row has no values to be chosen by, and stays unless it is named.

    Args:
        cells: the table.
        where: ``COLUMN=VALUE`` each, or ``COLUMN=VALUE,VALUE``: the row must have one of the values that a column is
            given, in each column that is given some. Numbers compare as numbers.
        drop: numbers of rows.
        decimal: the mark before decimals; each column shows its own where it is ``None``.

    Returns:
        The rows, and lines about those left out.

    Raises:
        UserError: there is no such column, value or row.
    """
    rows, notes = list(cells.rows), []
    if where:
        wanted = _conditions(cells, where, decimal)
        for name, values in wanted.items():
            fitting = _fitting(cells, name, values, decimal)
            rows = [row for row in rows if row.torn or row.cells[cells.header.index(name)] in fitting]
        shown = " and ".join(f"{name} = {' or '.join(values)}" for name, values in wanted.items())
        if not any(not row.torn for row in rows):
            raise UserError(f"{cells.path}: no row has {shown} together")
        torn = sum(bool(row.torn) for row in rows)
        of_torn = f", {_count(torn)} that cannot be read may" if torn else ""
        notes.append(f"{len(rows) - torn} of {len(cells.rows)} rows have {shown}{of_torn}; the others are left out")
    for number in drop:
        if not 1 <= number <= len(cells.rows):
            raise UserError(f"--drop-rows {number}: the rows are 1 to {len(cells.rows)}")
    dropped = [row for row in rows if row.number in set(drop)]
    if dropped:
        notes.append(f"{_count(len(dropped))} left out by number: {list_rows(dropped)}")
    return [row for row in rows if row.number not in set(drop)], notes


def left_out(rows: int, faults: Mapping[Row, tuple[str, str]]) -> list[str]:
    """Lines about rows left out because they cannot be used: their number, and the number for each reason.

    Args:
        rows: their number before any was left out.
        faults: the fault of each row left out, and the cell that shows it.
    """
    if not faults:
        return []
    reasons: dict[str, list[Row]] = {}
    for row, (wrong, text) in faults.items():
        column, must, _ = wrong.partition(" must ")
        if not must:
            reason = "malformed lines"
        elif text.casefold() in _MISSING:
            reason = f"no {column}"
        else:
            reason = f"{column} {text[:20]!r}"
        reasons.setdefault(reason, []).append(row)
    common = sorted(reasons.items(), key=lambda found: -len(found[1]))
    parts = [f"{reason} in {len(some)} ({list_rows(some)})" for reason, some in common[:_MOST_NAMED]]
    rest = sum(len(some) for _, some in common[_MOST_NAMED:])
    parts += [f"other values in {rest}"] if rest else []
    return [f"{len(faults)} of {_count(rows)} left out as incomplete: {', '.join(parts)}"]


def list_rows(rows: Sequence[Row]) -> str:
    """Their numbers, the first of many."""
    more = ["…"] if len(rows) > _MOST_NAMED else []
    return " ".join(["row" if len(rows) == 1 else "rows", *(str(row.number) for row in rows[:_MOST_NAMED]), *more])


def _count(rows: int) -> str:
    return f"{rows:,} row{'s' * (rows != 1)}"


def _conditions(cells: Cells, where: Sequence[str], decimal: str | None) -> dict[str, list[str]]:
    """The values that each column may have."""
    wanted: dict[str, list[str]] = {}
    for word in where:
        ends = [i for i, sign in enumerate(word) if sign == "="]
        end = next((i for i in ends if word[:i].strip() in cells.header), ends[0] if ends else len(word))
        name, text = word[:end].strip(), word[end + 1 :].strip()
        if not ends:
            raise UserError(f"--where {word[:60]}: must be COLUMN=VALUE, such as {cells.header[0]}=VALUE")
        if cells.header.count(name) != 1:
            how = "several columns" if name in cells.header else "no column"
            raise UserError(
                f"--where: {cells.path} has {how} {name[:60]!r}: its columns are {list_texts(cells.header)}"
                f"{nearest(name, cells.header)}"
            )
        whole = _fitting(cells, name, [text], decimal)
        values = [text] if whole else [part.strip() for part in text.split(",")]
        for value in values:
            if not _fitting(cells, name, [value], decimal):
                held = _held(cells, name)
                raise UserError(
                    f"--where: no row has {name[:60]}={value[:60]!r}: it is {list_texts(held, _MOST_NAMED)}"
                    f"{nearest(value, held)}"
                )
        wanted.setdefault(name, []).extend(values)
    return wanted


def _held(cells: Cells, name: str) -> list[str]:
    """The different cells of a column."""
    place = cells.header.index(name)
    return list(dict.fromkeys(row.cells[place] for row in cells.rows if not row.torn))


def _fitting(cells: Cells, name: str, values: Sequence[str], decimal: str | None) -> set[str]:
    """The different cells of a column that have one of the values, as text or as numbers."""
    held = _held(cells, name)
    mark = decimal or decimal_mark(held)[0] or POINT
    asked = [number for value in values for number in {read_count(value, POINT), read_count(value, mark)}]
    fits = {cell for cell in held if any(isclose(read_count(cell, mark), number, rel_tol=1e-9) for number in asked)}
    return fits | {cell for cell in held if cell in values}
