"""Data frames on disk: Parquet files that carry a checksum of their values."""

import hashlib
import io
from collections.abc import Iterable
from pathlib import Path

import polars as pl

from shoal.errors import LabError
from shoal.lab.files import LARGEST_PART, read, write

ALWAYS = {"run": pl.String, "step": pl.Int64, "l2_norm": pl.Float32}  # columns of every record

_MOST_ROWS = 50_000_000


def schema_of(measured: Iterable[str]) -> dict[str, type[pl.DataType]]:
    """Columns and types of a record with these measured ones, which a lab without a single row has too.

    >>> list(schema_of(["train_loss", "valid_loss"]))
    ['run', 'step', 'train_loss', 'valid_loss', 'l2_norm']
    """
    return {"run": pl.String, "step": pl.Int64, **dict.fromkeys(measured, pl.Float32), "l2_norm": pl.Float32}


def write_frame(path: Path, frame: pl.DataFrame) -> Path:
    """Write a frame as ``NAME-SHA256.parquet``, with the beginning of a SHA-256 of the file's bytes in its name.

    The checksum is outside of the file because it has to be right before anything parses the file: a parser that is
    given changed bytes may not only fail but end the process.

    Returns:
        Its path.
    """
    content = io.BytesIO()
    frame.write_parquet(content)
    path = path.with_name(f"{path.name}-{_digest(content.getvalue())}.parquet")
    write(path, content.getvalue())
    return path


def check_bytes(path: Path) -> bytes:
    """Content of a file of :func:`write_frame`, as it was written.

    Raises:
        FileNotFoundError: there is none.
        LabError: it is truncated, was changed since it was written, or cannot be read.
    """
    content = read(path, LARGEST_PART)
    if path.stem.partition("-")[2] != _digest(content):
        raise LabError(f"{path} is damaged: its checksum does not match its content")
    return content


def read_frame(path: Path, measured: Iterable[str] = ()) -> pl.DataFrame:
    """Read a file of :func:`write_frame`.

    Args:
        path: the file.
        measured: columns that it must have besides :data:`ALWAYS`.

    Raises:
        FileNotFoundError: there is none.
        LabError: it is truncated, was changed since it was written, cannot be read, or is no table of metrics.
    """
    content = check_bytes(path)
    try:
        rows = pl.scan_parquet(io.BytesIO(content)).select(pl.len()).collect().item()
        if rows > _MOST_ROWS:  # a file of a few bytes can claim to hold any number
            raise LabError(f"{path} is damaged: it has {rows:,} rows, at most {_MOST_ROWS:,} are read")
        frame = pl.read_parquet(io.BytesIO(content))
    except LabError:
        raise
    except (pl.exceptions.PolarsError, pl.exceptions.PanicException, ValueError, OSError) as error:
        raise LabError(f"{path} is damaged: {str(error).partition(chr(10))[0]}") from None
    lacking = [name for name in schema_of(measured) if name not in frame.columns]
    if lacking:
        raise LabError(f"{path} is not a table of metrics: it has no column {lacking[0]!r}")
    for name, kind in frame.schema.items():
        if kind != ALWAYS.get(name, pl.Float32):
            raise LabError(f"{path} is not a table of metrics: its column {name!r} is {kind}")
    return frame


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
