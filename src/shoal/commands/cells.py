"""Cells of a table in a text file; compression, encoding and separator are detected, and no row is lost.

Python's csv module and not polars splits the lines, because one row that is torn makes polars refuse the file, or fill
the row up, without saying which: here such a row is kept with its line and what is wrong with it.
"""

import codecs
import csv
import gzip
import hashlib
import io
import re
import zlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from shoal.errors import UserError

SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_LARGEST = 2**30  # bytes of text
_MOST_ABOVE = 20  # lines above a header
_MOST_TORN = 100  # rows with broken quotes, after each of which reading begins anew
# the longer first: the mark of UTF-32 begins with that of UTF-16
_MARKS = {
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


@dataclass(frozen=True, eq=False)
class Row:
    """One row of the table.

    Attributes:
        number: counted from 1 below the header, blank lines left out.
        line: of the file, in which it ends.
        cells: as many as the header has, stripped.
        torn: the fault of a row that could not be split, which has no cells; else empty.
    """

    number: int
    line: int
    cells: Sequence[str]
    torn: str = ""


@dataclass(frozen=True)
class Cells:
    """The cells of a file as text.

    Attributes:
        path: of the file.
        header: names of the columns, stripped.
        rows: all that are not blank.
        sha256: of the file's bytes.
        notes: remarks on the reading for the user, one line each.
    """

    path: Path
    header: Sequence[str]
    rows: Sequence[Row]
    sha256: str
    notes: Sequence[str]


def read_cells(path: Path, expected: Collection[str]) -> Cells:
    """Read a table of text.

    It may be compressed by gzip; UTF-8, UTF-16 or UTF-32 with a byte-order mark, UTF-8 without one, or Windows-1252;
    separated by commas, semicolons, tabs or bars.

    Args:
        path: of the file.
        expected: names that columns may have, in any case: the separator is the one that shows most of them.

    Raises:
        UserError: the file cannot be read as a table at all.
    """
    try:
        with path.open("rb") as file:  # perhaps a pipe, from another command
            raw = file.read(_LARGEST + 1)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    if len(raw) > _LARGEST:
        raise UserError(f"{path} has more than {_LARGEST:,} bytes, and a table of runs has far fewer")
    text, notes = _decode(path, _decompress(path, raw))
    lines = list(io.StringIO(text, newline=""))
    known = {name.casefold() for name in expected}
    named = re.fullmatch(r"sep=([,;|\t])\s*", lines[0]) if lines else None  # how a spreadsheet says its separator
    first = int(named is not None)
    if above := _lines_above_header(lines[first:], known):
        if any(line.strip() for line in lines[first : first + above]):
            notes = [*notes, f"the header is in line {first + above + 1}; what stands above it is left out"]
        first += above
    separator = named[1] if named else _separator(lines[first:], known)
    records = [record for record in _records(path, lines[first:], first, separator) if record[2] or any(record[1])]
    if not records:
        raise UserError(f"{path} is empty: it must hold a header and one line per training run")
    line, header, torn = records[0]
    if torn:
        raise UserError(f"{path} is not a table of separated values: line {line}, its header: {torn}")
    if header[0].casefold() not in known and header[0].lstrip("# ").casefold() in known:
        header = [header[0].lstrip("# "), *header[1:]]  # a header that is written as a comment
    if len(records) == 1:
        raise UserError(f"{path} holds a header and no training run")
    rows = [_row(number, *record, len(header)) for number, record in enumerate(records[1:], start=1)]
    if separator != ",":
        notes = [*notes, f"cells separated by {SEPARATORS[separator]}"]
    return Cells(path, header, rows, hashlib.sha256(raw).hexdigest(), notes)


def list_texts(texts: Sequence[str], most: int = 20) -> str:
    r"""Texts of a file in one line that a terminal can show: the first of many, long ones cut, no control characters.

    >>> list_texts(["N", "", "a\x1b[1m", "D"], most=3)
    "N '' a?[1m …"
    """
    shown = ["".join(sign if sign.isprintable() else "?" for sign in text[:40]) or "''" for text in texts[:most]]
    return " ".join([*shown, *(["…"] if len(texts) > most else [])])


def _row(number: int, line: int, cells: list[str], torn: str, columns: int) -> Row:
    if len(cells) > columns and not any(cells[columns:]):
        cells = cells[:columns]  # separators at the end of the line
    if not torn and len(cells) != columns:
        torn = f"has {len(cells)} cells, its header has {columns}"
    return Row(number, line, [] if torn else cells, torn)


def _decompress(path: Path, raw: bytes) -> bytes:
    if not raw.startswith(b"\x1f\x8b"):
        return raw
    try:
        with gzip.open(io.BytesIO(raw)) as file:
            out = file.read(_LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path} is compressed by gzip and damaged: {error}") from None
    if len(out) > _LARGEST:
        raise UserError(f"{path} is larger than {_LARGEST / 2**30:g} GiB when decompressed")
    return out


def _decode(path: Path, raw: bytes) -> tuple[str, list[str]]:
    """The text, and a note where its encoding was guessed."""
    marked = next((name for mark, name in _MARKS.items() if raw.startswith(mark)), None)
    notes = []
    try:
        text = raw.decode(marked or "utf-8")
    except UnicodeDecodeError:
        if marked is None and not re.search(rb"[\x00-\x08\x0e-\x1f]", raw):
            notes = [f"{path.name} is not UTF-8: read as Windows-1252"]
            text = raw.decode("cp1252", errors="replace")
        else:
            raise UserError(f"{path} is not a table of separated values: it is not {marked or 'UTF-8'} text") from None
    if "\0" in text:
        raise UserError(
            f"{path} is not a table of separated values: it holds zero bytes (UTF-16 is read with a byte-order mark)"
        )
    return text, notes


def _lines_above_header(lines: Sequence[str], expected: Collection[str]) -> int:
    """Number of lines, such as a title or comments, above the one that names most of the expected columns.

    None are where no line names two or more, and more than the first: it is the header then, whatever it names. So it
    is where it ends within quotes.
    """

    def named(line: str) -> int:
        return len({name.strip(' "#\n\r').casefold() for name in re.split(r"[,;|\t]", line)} & set(expected))

    counts = [named(line) for line in lines[: _MOST_ABOVE + 1]]
    if not counts or counts[0] > 1 or lines[0].count('"') % 2:
        return 0
    return counts.index(max(counts)) if max(counts) > 1 else 0


def _separator(lines: Sequence[str], expected: Collection[str]) -> str:
    """Separator that shows most of the expected names, splits most of the lines alike, and into most cells."""

    def fitness(separator: str) -> tuple[int, float, int]:
        counts = [line.count(separator) for line in lines[:1000] if line.strip()]
        if not counts or not counts[0]:
            return 0, 0.0, 0
        names = [name.strip(' "').casefold() for name in lines[0].strip().split(separator)]
        alike = sum(count == counts[0] for count in counts) / len(counts)
        return sum(name in expected for name in names), alike, counts[0]

    return max(SEPARATORS, key=fitness)


def _records(path: Path, lines: Sequence[str], skipped: int, separator: str) -> list[tuple[int, list[str], str]]:
    """Records: the line each ends in, its stripped cells, and the fault in its quotes."""
    out: list[tuple[int, list[str], str]] = []
    start, torn = 0, 0
    while start < len(lines):
        reader = csv.reader(lines[start:], strict=True, delimiter=separator)
        good = 0  # lines that were read without fault
        try:
            for record in reader:
                good = reader.line_num
                out.append((skipped + start + good, [cell.strip() for cell in record], ""))
            break
        except csv.Error as error:
            torn += 1
            if torn > _MOST_TORN:
                raise UserError(
                    f"{path} is not a table of separated values: more than {_MOST_TORN} rows are malformed, the "
                    f"last in line {skipped + start + good + 1}: {error}"
                ) from None
            start += good + 1
            out.append((skipped + start, [], f"has broken quotes: {error}"))
    return out
