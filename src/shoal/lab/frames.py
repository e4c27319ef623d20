"""Data frames on disk: Parquet files that carry a checksum of their values."""

import hashlib
import io
from pathlib import Path

import polars as pl

from shoal.errors import LabError
from shoal.lab.files import write

# What a lab without a single row still says of its columns.
EMPTY = {
    "run": pl.String,
    "step": pl.Int64,
    "train_loss": pl.Float32,
    "train_accuracy": pl.Float32,
    "valid_loss": pl.Float32,
    "valid_accuracy": pl.Float32,
    "l2_norm": pl.Float32,
}


def write_frame(path: Path, frame: pl.DataFrame) -> None:
    """Write a frame, with a SHA-256 of its values in the file's metadata."""
    content = io.BytesIO()
    frame.write_parquet(content, metadata={"sha256": _digest(frame)})
    write(path, content.getvalue())


def read_frame(path: Path) -> pl.DataFrame:
    """Read a file of :func:`write_frame`.

    Raises:
        FileNotFoundError: there is none.
        LabError: it is truncated, or was changed since it was written.
    """
    content = path.read_bytes()
    try:
        expected = pl.read_parquet_metadata(io.BytesIO(content)).get("sha256")
        frame = pl.read_parquet(io.BytesIO(content))
        sound = expected == _digest(frame)
    except BaseException as error:  # polars panics on some damage, which is no Exception
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        raise LabError(f"{path} is damaged: {' '.join(str(error).split())[:120]}") from None
    if not sound:
        raise LabError(f"{path} is damaged: its checksum does not match its content")
    return frame


def _digest(frame: pl.DataFrame) -> str:
    digest = hashlib.sha256()
    for column in frame.iter_columns():
        digest.update(f"{column.name} {column.dtype} {len(column)}".encode())
        text = column.dtype == pl.String
        digest.update("\n".join(column.to_list()).encode() if text else column.to_numpy().tobytes())
    return digest.hexdigest()
