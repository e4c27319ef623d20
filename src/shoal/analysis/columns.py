"""What every analysis asks of the frames it is given."""

from collections.abc import Iterable, Sequence
from typing import Any

import polars as pl

from shoal.errors import UserError, nearest

Names = str | Sequence[str]


def as_names(by: Names) -> list[str]:
    """One name or several as a list."""
    return [by] if isinstance(by, str) else list(by)


def check_columns(frame: pl.DataFrame, names: Iterable[str]) -> None:
    """Raise :class:`UserError` naming the first of ``names`` that is no column of ``frame``."""
    for name in names:
        if name not in frame.columns:
            raise UserError(f"unknown column {name!r}: one of {' '.join(frame.columns)}{nearest(name, frame.columns)}")


def rows_with(frame: pl.DataFrame, column: str, values: Sequence[Any]) -> pl.DataFrame:
    """The rows that have one of ``values`` in ``column``; :class:`UserError` where none has one of them."""
    check_columns(frame, [column])
    for value in values:
        if value not in frame[column]:
            known = [str(name) for name in frame[column].unique(maintain_order=True)]
            raise UserError(f"no run has {column}={value!r}: one of {' '.join(known)}{nearest(str(value), known)}")
    return frame.filter(pl.col(column).is_in(list(values)))


def groups(frame: pl.DataFrame, by: Names) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """The rows that agree in ``by``, in the order in which they first appear, each behind a frame of one row.

    That row holds what they agree in; without names all rows are one group. A frame without rows has no groups.
    """
    names = as_names(by)
    check_columns(frame, names)
    if frame.is_empty():
        return []
    if not names:
        return [(pl.DataFrame({"_": [0]}).drop("_"), frame)]
    return [(group.select(names).head(1), group) for _, group in frame.group_by(names, maintain_order=True)]


def beside(key: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """``rows`` with the columns of a group's ``key`` before them."""
    return rows.select(*(pl.lit(key[name][0], dtype=key[name].dtype).alias(name) for name in key.columns), pl.all())
