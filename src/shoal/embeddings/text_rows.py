"""Word vectors as text: a word and its values in each line, as GloVe writes them and word2vec behind a header.

A first line of two integers is a header, the numbers of words and of values, where the next line has so many values.
The width of a file without one is that of most of its first lines. A line is split from the right, so that a word can
have spaces in it, as some of GloVe's do.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain, islice

import numpy as np

from shoal.embeddings.stream import Stream
from shoal.embeddings.vectors import Collector, Rows, Vectors
from shoal.errors import UserError

_FIRST = 50  # lines that say how many values a line has
_SHOWN = 40  # bytes of a value in an error
_DIGITS = 18  # of a number in a header
_NUMBER = re.compile(rb"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?|[+-]?(nan|inf|infinity)", re.IGNORECASE)


def header_of(line: bytes) -> tuple[int, int] | None:
    """Numbers of words and of values that a header has; None for another line."""
    fields = line.split()
    if len(fields) != 2 or not all(field.isdigit() and len(field) <= _DIGITS for field in fields):
        return None
    words, width = map(int, fields)
    return (words, width) if words and width else None


def read_text(stream: Stream, start: bytes, collector: Collector) -> Vectors:
    """Vectors of a text; ``start`` is what was read of it already.

    Raises:
        UserError: a line has too few values or a value that is no finite number, the header counts other words, or the
            file ends within a line.
    """
    lines = enumerate(stream.lines(start), 1)
    first = list(islice(lines, _FIRST))
    header = header_of(first[0][1]) if first else None
    if header is not None and len(first) > 1 and len(first[1][1].split()) == 2 and header[1] > 1:
        header = None  # `1 2` and then `the 1` are words of one value
    body = first[1:] if header else first
    width = header[1] if header else _usual_width([_values_of(line) for _, line in first], stream.name)
    for number, line in _whole(chain(body, lines), width, stream.name):
        _collect(line, f"line {number:,}", width, collector)
    if header and collector.total != header[0]:
        raise UserError(
            f"{stream.name} has {collector.total:,} words and its header counts {header[0]:,}: it is "
            f"{'cut short' if collector.total < header[0] else 'longer than it says'}"
        )
    return collector.vectors(width, stream.key, "word2vec text" if header else "GloVe text")


def _usual_width(counts: Sequence[int], name: str) -> int:
    """Most frequent number of values of the first lines, the smaller of two that are equally frequent."""
    widths = Counter(n for n in counts if n)
    if not widths:
        raise UserError(f"{name} holds no word vectors: its first lines are no words with values, split by spaces")
    most = max(widths.values())
    return min(width for width, n in widths.items() if n == most)


def _values_of(line: bytes) -> int:
    """Number of values of a line: of the numbers at its end, of which the first may be its word."""
    line = line.rstrip(b" ")
    fields = line.split(b" ")
    n = next((place for place, field in enumerate(reversed(fields)) if not _is_number(field)), len(fields))
    return min(n, line.count(b" "))


def _whole(lines: Iterator[tuple[int, bytes]], width: int, name: str) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, each with enough values."""
    for number, line in lines:
        if line.endswith((b" ", b"\t")):
            line = line.rstrip(b" \t")
        if (n := line.count(b" ")) < width:
            if not line:
                continue
            raise UserError(f"{name} has {n:,} values in line {number:,}, where it should have {width:,}")
        yield number, line


def _collect(line: bytes, place: str, width: int, collector: Collector) -> None:
    """Add the row of a line where its word is asked for."""
    if line.count(b" ") == width:
        word, _, values = line.partition(b" ")
        fields: list[bytes] | None = None
    else:
        word, *fields = line.rsplit(b" ", width)
        _check_word(word, place, width, collector)
    if collector.takes(word, place):
        collector.add(word, _row(fields or values.split(b" "), place, collector.name), place)


def _check_word(word: bytes, place: str, width: int, collector: Collector) -> None:
    """Refuse a line with too many values, which would else become a part of its word."""
    more = word.split(b" ")[1:]
    if all(_is_fraction(part) for part in more):
        raise UserError(f"{collector.name} has {width + len(more):,} values in {place}, where it should have {width:,}")


def _is_fraction(part: bytes) -> bool:
    return b"." in part.strip(b".") and _is_number(part)


def _is_number(part: bytes) -> bool:
    return _NUMBER.fullmatch(part) is not None  # float() reads 1_0, too


def _float(field: bytes) -> float | None:
    try:
        return float(field)
    except ValueError:
        return None


def _row(fields: Sequence[bytes], place: str, name: str) -> Rows:
    row = np.empty(len(fields), np.float32)
    for column, field in enumerate(fields):
        if b"_" in field or (value := _float(field)) is None:
            raise UserError(f"{name} has {field[:_SHOWN]!r} in {place}, where a number should be")
        row[column] = value if abs(value) < 3.4e38 else np.inf if value == value else np.nan
    return row
