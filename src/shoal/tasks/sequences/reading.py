"""Sequences of symbols or numbers from text: one sequence a line, or a CSV table with a column of sequences."""

import csv
import io
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UserError, nearest, printable
from shoal.tasks.sequences.data import MISSING, Rows

SEQUENCE = "sequence"  # column of a table that names the sequence of each row
_ABSENT = ("", "nan", "na", "?")  # cells of a missing observation, in any case
_LARGEST = 1e100


def read_lines(texts: Sequence[tuple[str, str]], as_numbers: bool) -> Rows:
    """Sequences of files with one sequence a line, its observations with spaces between; ``?`` is a missing one.

    Args:
        texts: name and content of each file.
        as_numbers: true where observations are numbers of one dimension, false where they are symbols.

    Raises:
        UserError: a line is empty, or a word is no number; its file and line are named.
    """
    words: list[str] = []
    lengths, places = [], []
    for name, text in texts:
        for number, line in enumerate(text.rstrip("\n").split("\n"), start=1):
            several = line.split()
            if not several:
                raise UserError(f"{printable(name)}, line {number}: a sequence needs at least 1 observation, got none")
            words += several
            lengths.append(len(several))
            places.append((name, number))

    def where(position: int) -> str:
        s = int(np.searchsorted(np.cumsum(lengths), position, side="right"))
        name, number = places[s]
        at = position - int(sum(lengths[:s])) + 1
        return f"{printable(name)}, line {number}, observation {at}"

    if as_numbers:
        return Rows(_numbers([words], where), np.array(lengths), ())
    return _symbols(words, np.array(lengths), where)


def read_tables(texts: Sequence[tuple[str, str]], as_numbers: bool) -> Rows:
    """Sequences of CSV tables: rows in their order, those with one name in column ``sequence`` are one sequence.

    Every other column is a dimension; symbols have one. An empty cell, or ``nan``, is missing.

    Raises:
        UserError: a table lacks the column or its rows differ in length, a cell is no number, a row is missing in some
            of its dimensions only, or tables differ in their columns.
    """
    cells: dict[str, list[list[str]]] = {}
    places: dict[str, list[tuple[str, int]]] = {}
    header: list[str] = []
    for name, text in texts:
        rows = list(_rows_of(name, text))
        columns = rows[0][1] if rows else []
        if SEQUENCE not in columns:
            known = " ".join(map(printable, columns)) or "none"
            raise UserError(
                f"{printable(name)} has no column {SEQUENCE!r}, which names the sequence of a row; it has {known}"
                f"{nearest(SEQUENCE, columns)}"
            )
        header = header or columns
        if columns != header:
            raise UserError(
                f"{printable(name)} has columns {' '.join(columns)}, the table before it {' '.join(header)}"
            )
        at = columns.index(SEQUENCE)
        for line, row in rows[1:]:
            cells.setdefault(row[at], []).append(row[:at] + row[at + 1 :])
            places.setdefault(row[at], []).append((name, line))
    names = [name for name in header if name != SEQUENCE]
    if not cells or not names:
        raise UserError(
            f"{printable(texts[0][0])} has no observations: it needs rows, and a column beside {SEQUENCE!r}"
        )
    if not as_numbers and len(names) > 1:
        raise UserError(f"symbols have one column beside {SEQUENCE!r}, got {' '.join(names)}; values=numbers reads all")
    flat = [row for several in cells.values() for row in several]
    lines = [place for several in places.values() for place in several]

    def where(position: int) -> str:
        return f"{printable(lines[position][0])}, line {lines[position][1]}"

    lengths = np.array([len(several) for several in cells.values()])
    columns_of = [[row[d] for row in flat] for d in range(len(names))]
    if as_numbers:
        return Rows(_numbers(columns_of, where), lengths, ())
    return _symbols(columns_of[0], lengths, where)


def is_table(name: str) -> bool:
    """Return True if a file is read as a CSV table, by its name."""
    return Path(name.removesuffix(".gz")).suffix.lower() == ".csv"


def _rows_of(name: str, text: str) -> Iterator[tuple[int, list[str]]]:
    """Rows of a table with their lines, empty lines left out."""
    reader = csv.reader(io.StringIO(text), strict=True)
    width = None
    try:
        for row in reader:
            if not row:
                continue
            if width is not None and len(row) != width:
                raise UserError(f"{printable(name)}, line {reader.line_num}: {len(row)} cells, expected {width}")
            width = len(row)
            yield reader.line_num, [cell.strip() for cell in row]
    except csv.Error as error:
        raise UserError(f"{printable(name)}, line {reader.line_num}: {error}") from None


def _numbers(columns: Sequence[Sequence[str]], where: Callable[[int], str]) -> NDArray[np.float64]:
    """Vectors ``(n, D)`` from words; NaN in all dimensions where one is missing."""
    values = np.empty((len(columns[0]), len(columns)))
    for d, column in enumerate(columns):
        for position, word in enumerate(column):
            values[position, d] = _number(word, where, position)
    is_missing = np.isnan(values)
    if partly := np.flatnonzero(is_missing.any(axis=1) & ~is_missing.all(axis=1)).tolist():
        raise UserError(
            f"{where(partly[0])}: some of its {len(columns)} dimensions are missing; a missing row lacks all"
        )
    return values


def _number(word: str, where: Callable[[int], str], position: int) -> float:
    if word.lower() in _ABSENT:
        return math.nan
    try:
        value = float(word)
    except ValueError:
        value = math.inf
    if not abs(value) <= _LARGEST:
        raise UserError(f"{where(position)}: {printable(word)!r} is no number between -1e100 and 1e100")
    return value


def _symbols(words: Sequence[str], lengths: NDArray[np.int64], where: Callable[[int], str]) -> Rows:
    """Symbols ``(n,)``: integers from 0 as they are, where all words are such; else the words in order, by number."""
    there = sorted({word for word in words if word.lower() not in _ABSENT})
    if there and all(word.lstrip("-").isdecimal() for word in there):
        for position, word in enumerate(words):
            if word.startswith("-") and int(word) != MISSING:
                raise UserError(f"{where(position)}: symbol {word}; symbols count from 0, and -1 is a missing one")
        numbers = [MISSING if word.lower() in _ABSENT else int(word) for word in words]
        largest = max(numbers)
        if largest >= 2**20:
            raise UserError(f"{where(numbers.index(largest))}: symbol {largest}; symbols are below {2**20:,}")
        return Rows(np.array(numbers, dtype=np.int32), lengths, tuple(map(str, range(largest + 1))), where)
    number = {word: place for place, word in enumerate(there)}
    return Rows(np.array([number.get(word, MISSING) for word in words], dtype=np.int32), lengths, tuple(there), where)
