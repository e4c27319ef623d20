"""One reader of pretrained embeddings: word2vec in binary and text, GloVe's text, and inputs of transformers."""

import hashlib
import os
from collections.abc import Collection
from pathlib import Path

from shoal.embeddings.binary_rows import read_binary
from shoal.embeddings.packages import PACKAGES, package_files, read_package
from shoal.embeddings.stream import Stream, opened
from shoal.embeddings.text_rows import header_of, read_text
from shoal.embeddings.transformer import files_of, read_transformer
from shoal.embeddings.vectors import Collector, Vectors
from shoal.errors import UserError, nearest, printable
from shoal.models.hub import downloaded

_CACHED = 4
_CONTROL = frozenset(range(9)) | frozenset(range(14, 32))  # bytes that no text has
_read: dict[tuple[object, ...], Vectors] = {}


def located(source: str) -> str:
    """Path of a file or folder of embeddings: the path itself, or the folder of a model that was downloaded.

    Raises:
        UserError: there is neither a file nor a folder nor a downloaded model of this name.
    """
    try:
        if Path(source).exists():
            return source
    except (OSError, ValueError):
        raise UserError(f"{printable(source)} is no name of a file") from None
    if source in PACKAGES:
        return source
    folder = downloaded(source)
    if folder is not None:
        return str(folder)
    parent = Path(source).parent
    beside = [*PACKAGES, *(path.name for path in parent.iterdir() if parent.is_dir())] if parent.is_dir() else []
    raise UserError(
        f"there is no file or folder {printable(source)}, and no downloaded model or package of vectors of this "
        "name"
        f"{nearest(Path(source).name, beside)}"
    )


def read_vectors(source: str, words: Collection[str], undecodable: str = "refuse") -> Vectors:
    """Rows of the asked words, in one pass over the file, of which little is in memory at a time.

    Lines of other words are counted and checked for their number of values, not for the values. The same vectors are
    returned again while the files have the same inodes, sizes and times of change.

    Args:
        source: path of a file or folder, name of a package of :data:`~shoal.embeddings.packages.PACKAGES`, or name of
            a downloaded model (``organisation/name``).
        words: the words.
        undecodable: ``refuse`` or ``skip`` words of a file that are not UTF-8.

    Raises:
        UserError: the file cannot be read, is no file of embeddings, or is damaged; its line or byte is named.
    """
    path = located(source)
    asked = hashlib.sha256("\0".join(sorted(words)).encode("utf-8", "surrogatepass")).hexdigest()
    known = (path, _stamps(path), asked, undecodable)
    if known not in _read:
        vectors = _read_anew(path, words, undecodable)
        while len(_read) >= _CACHED:
            del _read[next(iter(_read))]
        _read[known] = vectors
    return _read[known]


def _read_anew(path: str, words: Collection[str], undecodable: str) -> Vectors:
    if path in PACKAGES and not Path(path).exists():
        return read_package(path, words)
    return read_transformer(path, words) if Path(path).is_dir() else _read_file(path, words, undecodable)


def _stamps(path: str) -> tuple[object, ...]:
    """Identity of files as the system sees it: inodes, sizes and times of change."""
    if path in PACKAGES and not Path(path).exists():
        files = package_files(path)
    else:
        files = files_of(path) if Path(path).is_dir() else [Path(path)]
    try:
        return tuple((s.st_ino, s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in (file.stat() for file in files))
    except OSError as error:
        raise UserError(f"{printable(os.fspath(path))} cannot be read: {error.strerror or error}") from None


def _read_file(path: str, words: Collection[str], undecodable: str) -> Vectors:
    with opened(path) as stream:
        collector = Collector(stream.name, set(words), undecodable)
        start = stream.read()
        header = header_of(start.partition(b"\n")[0])
        if header is not None and _is_binary(start, header, stream):
            return read_binary(stream, start, header, collector)
        return read_text(stream, start, collector)


def _is_binary(start: bytes, header: tuple[int, int], stream: Stream) -> bool:
    """Return True if bytes that no text has stand in the first row behind a header."""
    behind = start[start.index(b"\n") + 1 :] if b"\n" in start else b""
    return any(byte in _CONTROL for byte in behind[: 4 * header[1] + 256])
