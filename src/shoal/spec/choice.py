"""Choice of runs by their settings."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic import ValidationError

from shoal.errors import UserError
from shoal.registry import KINDS
from shoal.spec.fields import check_choice, extra, read_value
from shoal.spec.known import owners_here

_MANY_SEEDS = 5  # in a row, which are shown as a range
ALIKE = 1e-6  # numbers that tables show alike


def read_choice(values: Mapping[str, Any], parts: Mapping[str, Any] = {}) -> dict[str, list[Any]]:
    """Values of settings, one or several each, given as to :func:`shoal.grid`, as a run holds them.

    >>> read_choice({"weight_decay": ["0.5", 1], "operation_orders": "2,3", "bias": "false"})
    {'weight_decay': [0.5, 1.0], 'operation_orders': [(2, 3)], 'bias': [False]}

    Args:
        values: by the setting's name.
        parts: names of parts that may be from outside of shoal, by their kind. One is imported only for a setting or
            a value that shoal's own do not have, and passed over where it cannot be.

    Raises:
        UserError: there is no such setting, or it does not allow a value.
    """
    choice = {}
    for name, several in values.items():
        listed = [several] if isinstance(several, str) or not isinstance(several, Iterable) else list(several)
        choice[name] = [_read(name, value, parts) for value in listed]
    return choice


def as_cell(value: Any) -> Any:
    """A setting as a cell of a table: several numbers as text, everything else as it is.

    >>> as_cell((2, 3)), as_cell([2]), as_cell(0.5)
    ('2,3', '2', 0.5)
    """
    return ",".join(map(str, value)) if isinstance(value, list | tuple) else value


def fits(cells: Mapping[str, Any], choice: Mapping[str, Iterable[Any]]) -> bool:
    """Return True if the cells hold one value of each chosen setting; numbers that tables show alike are equal."""
    return all(
        name in cells and any(_alike(cells[name], as_cell(value)) for value in values)
        for name, values in choice.items()
    )


def as_flags(values: Mapping[str, Iterable[Any]]) -> list[str]:
    """Words of a command that give these values.

    >>> as_flags({"weight_decay": [0.5, 1], "lr_schedule": [None]})
    ['--weight-decay', '0.5', '1', '--lr-schedule', 'none']
    """
    words = []
    for name, several in values.items():
        prefix, dot, setting = name.rpartition(".")  # a prefix may be the place of a part
        words += [
            f"--{prefix}{dot}{setting.replace('_', '-')}",
            *("none" if value is None else str(as_cell(value)) for value in several),
        ]
    return words


def as_short_flags(values: Mapping[str, Iterable[Any]]) -> list[str]:
    """Words of a command that give these values, with five or more seeds in a row as a range.

    >>> as_short_flags({"seed": [7, 0, 1, 2, 3, 4], "p": [5, 7]})
    ['--seed', '7', '0..4', '--p', '5', '7']
    """
    return as_flags(
        {name: _in_ranges(several) if name.endswith("seed") else several for name, several in values.items()}
    )


def _in_ranges(values: Iterable[Any]) -> list[str]:
    rows: list[list[str]] = []
    for value in ("none" if value is None else str(value) for value in values):
        follows = rows and value.isdecimal() and rows[-1][-1].isdecimal() and int(value) == int(rows[-1][-1]) + 1
        if follows:
            rows[-1].append(value)
        else:
            rows.append([value])
    return [word for row in rows for word in ([f"{row[0]}..{row[-1]}"] if len(row) >= _MANY_SEEDS else row)]


def _read(name: str, value: Any, parts: Mapping[str, Any]) -> Any:
    if value is None and (name in KINDS or next(owners_here(name, parts))):
        return None
    if name in KINDS:
        return value if ":" in str(value) else KINDS[name].name_of(value)  # what is on record may not be here
    refused: UserError | None = None
    for part in owners_here(name, parts):
        try:
            read = read_value(part, name, value)
            check_choice(part, name, read)
        except ValidationError:
            refused = UserError(f"{name} must be {extra(part, name)['allowed']}, got {value!r}")
        except UserError as error:
            refused = error
        else:
            return read
    assert refused is not None
    raise refused


def _alike(cell: Any, asked: Any) -> bool:
    if isinstance(cell, float) and isinstance(asked, float):
        return math.isclose(cell, asked, rel_tol=ALIKE)
    return bool(cell == asked)
