"""Checks of the data frames that an analysis is given, and their division into groups."""

import math
from collections.abc import Iterable, Sequence
from numbers import Integral, Real
from typing import Any

import polars as pl

from shoal.errors import UserError, nearest

Names = str | Sequence[str]
_MOST_DRAWS = 10_000_000
_MOST_SHOWN = 20  # values of a column in a message


def as_names(by: Names) -> list[str]:
    """One name or several as a list; :class:`UserError` where they are no names."""
    names = [by] if isinstance(by, str) else list(by) if isinstance(by, Iterable) else [by]
    if wrong := [name for name in names if not isinstance(name, str)]:
        raise UserError(f"a column is named by a text, got {wrong[0]!r:.60}")
    return names


def check_columns(frame: pl.DataFrame, names: Iterable[str]) -> None:
    """Raise :class:`UserError` naming the first of ``names`` that is no column of ``frame``, a data frame of polars."""
    if not isinstance(frame, pl.DataFrame):
        raise UserError(f"a data frame of polars is needed, got {type(frame).__name__}: polars.DataFrame(…) makes one")
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"a column is named by a text, got {name!r:.60}")
        if name not in frame.columns:
            raise UserError(f"unknown column {name!r}: one of {' '.join(frame.columns)}{nearest(name, frame.columns)}")


def check_numbers(frame: pl.DataFrame, names: Iterable[str]) -> None:
    """Raise :class:`UserError` naming the first of ``names`` that is no column of numbers; nulls alone are allowed."""
    names = list(names)
    check_columns(frame, names)
    for name in names:
        kind = frame.schema[name]
        if not (kind.is_numeric() or kind == pl.Null):
            raise UserError(f"column {name!r} must hold numbers, it holds {kind}")


def check_plain(frame: pl.DataFrame, names: Iterable[str]) -> None:
    """Raise :class:`UserError` naming the first of ``names`` whose cells are lists or structures, not single values."""
    names = list(names)
    check_columns(frame, names)
    for name in names:
        if (kind := frame.schema[name]).is_nested():
            raise UserError(f"column {name!r} must hold numbers, words or booleans, it holds {kind}")


def check_distinct(names: Sequence[str]) -> None:
    """Raise :class:`UserError` where a column is named for two things."""
    for name in names:
        if names.count(name) > 1:
            raise UserError(f"column {name!r} is named for two things; each needs a column of its own")


def check_values(frame: pl.DataFrame, name: str, right: pl.Expr, allowed: str) -> None:
    """Raise :class:`UserError` naming the first row, counted from 1, in which ``right`` is not true of ``name``."""
    wrong = frame.select(place=pl.int_range(pl.len()).filter(~right.fill_null(False)))["place"]
    if len(wrong):
        row, value = wrong[0] + 1, frame[name][wrong[0]]
        got = "null" if value is None else repr(value) if isinstance(value, str) else value
        raise UserError(f"row {row}: {name} must be {allowed}, got {got}")


def check_curves(curves: pl.DataFrame, columns: Iterable[str]) -> None:
    """Refuse curves in which a value is no number, a run or step is missing, or a run has a step twice.

    Args:
        curves: ``run``, ``step`` and ``columns``, one row per evaluation in any order; values may be null or NaN.
        columns: the columns of values.

    Raises:
        UserError: names the column, the row, counted from 1, or the run and step.
    """
    check_columns(curves, ["run"])
    check_numbers(curves, ["step", *columns])
    check_values(curves, "run", pl.col("run").is_not_null(), "the name of a run")
    check_steps(curves)
    twice = curves.filter(curves.select("run", "step").is_duplicated())
    if len(twice):
        raise UserError(f"run {twice['run'][0]!r} has several rows of step {twice['step'][0]}")


def check_steps(frame: pl.DataFrame, null: bool = False) -> None:
    """Raise :class:`UserError` naming the first ``step`` that is no whole number of at least 0 (or null)."""
    whole = is_count("step") & (pl.col("step").cast(pl.Float64) % 1 == 0)
    check_values(frame, "step", (pl.col("step").is_null() & null) | whole, "a whole number of at least 0")


def check_draws(name: str, draws: int, seed: int) -> None:
    """Raise :class:`UserError` unless ``draws`` is an integer from 1 to ten million, and ``seed`` one of at least 0."""
    if not is_integer(draws) or not 1 <= draws <= _MOST_DRAWS:
        raise UserError(f"{name} must be an integer from 1 to {_MOST_DRAWS:,}, got {draws!r:.60}")
    if not is_integer(seed) or seed < 0:
        raise UserError(f"seed must be an integer of at least 0, got {seed!r:.60}")


def check_flags(**values: bool) -> None:
    """Raise :class:`UserError` naming the first argument that is neither True nor False: ``"no"`` would be true."""
    for name, value in values.items():
        if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):  # numpy's, without loading it
            raise UserError(f"{name} must be True or False, got {value!r:.60}")


def is_integer(value: Any) -> bool:
    """Return True if a value is an integer and no boolean."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Return True if a value is a number and no boolean."""
    return isinstance(value, Real) and not isinstance(value, bool)


def as_float(number: Any) -> float:
    """A number as a float, infinite where it is too large for one."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def is_count(name: str) -> pl.Expr:
    """Expression that is true where a column is finite and at least 0."""
    value = pl.col(name).cast(pl.Float64)
    return value.is_finite() & (value >= 0)


def rows_with(frame: pl.DataFrame, column: str, values: Sequence[Any]) -> pl.DataFrame:
    """Rows that have one of ``values`` in ``column``; :class:`UserError` where no row has one of them."""
    check_plain(frame, [column])
    cells = frame[column].to_list()
    chosen = [False] * len(cells)
    for value in values:
        rows = [_same(cell, value) for cell in cells]
        if not any(rows):
            known = [str(name) for name in dict.fromkeys(cells)]
            shown = " ".join([*known[:_MOST_SHOWN], *(["…"] if len(known) > _MOST_SHOWN else [])])
            raise UserError(f"no run has {column}={value!r:.60}: one of {shown}{nearest(str(value), known)}")
        chosen = [before or now for before, now in zip(chosen, rows, strict=True)]
    return frame.filter(pl.Series(chosen, dtype=pl.Boolean))


def _same(cell: Any, value: Any) -> bool:
    """Return True for equal values of one kind: True is not 1."""
    return isinstance(cell, bool) == isinstance(value, bool) and bool(cell == value)


def groups(frame: pl.DataFrame, by: Names) -> list[tuple[pl.DataFrame, pl.DataFrame]]:
    """Groups of rows that agree in ``by``, in order of appearance, each behind a frame of one row: its key.

    The key holds the columns of ``by``; without names all rows are one group. A frame without rows has no groups.
    """
    names = as_names(by)
    check_plain(frame, names)
    if frame.is_empty():
        return []
    if not names:
        return [(pl.DataFrame({"_": [0]}).drop("_"), frame)]
    return [(group.select(names).head(1), group) for _, group in frame.group_by(names, maintain_order=True)]


def beside(key: pl.DataFrame, rows: pl.DataFrame) -> pl.DataFrame:
    """Rows with the columns of their group's ``key`` before them."""
    return rows.select(*(pl.lit(key[name][0], dtype=key[name].dtype).alias(name) for name in key.columns), pl.all())
