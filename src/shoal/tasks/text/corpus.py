"""Text from files and folders, identified by its content and not by its path."""

import errno
import gzip
import hashlib
import os
import stat
import time
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice
from pathlib import Path
from typing import IO

from shoal.errors import UserError, nearest, printable

MOST_BYTES = 2**31  # of all files of a text together, unpacked
ENDINGS = (".txt", ".txt.gz")  # of a folder's texts
_CHUNK = 2**20
_KEPT = 8  # cached texts: six files of a translation at once
_SETTLED = 2 * 10**9  # ns; some file systems count whole or even seconds: what changed since may change unseen

Stamp = tuple[str, int, int, int, int]  # path without links, inode, size, mtime_ns, ctime_ns
_read: dict[tuple[Stamp, ...], "Corpus"] = {}


@dataclass(frozen=True)
class Corpus:
    """Text of one or several files.

    Attributes:
        text: text of all files, one after the other with nothing between them and line ends unchanged.
        key: 16 hexadecimal digits of the SHA-256 of the files' bytes in UTF-8, unpacked, each behind its length in 8
            bytes (little-endian). Neither names nor packing enter it.
        files: the files, in the order of the text.
    """

    text: str = field(repr=False)
    key: str
    files: tuple[str, ...]


def read_corpus(paths: Sequence[str]) -> Corpus:
    """Read the text of files and folders.

    A file is UTF-8, or packed UTF-8 if its name ends in ``.gz``. A folder stands for its regular files, at any depth,
    that end in ``.txt`` or ``.txt.gz``, in the order of the code points of their paths below it. Names that begin with
    a dot are left out, linked folders are not entered, and a linked text is refused. A path in ``paths`` may be a link.

    Texts are cached and returned again while their files have the same inodes, sizes and times of change.

    Args:
        paths: paths of files and folders, in the order of the text.

    Raises:
        UserError: a path is missing, cannot be read, is no regular file (a pipe, a device) or comes twice; a file is
            empty, is not UTF-8 (its first such byte is named), is packed but damaged or cut short; a folder has no
            texts; or the text has more than :data:`MOST_BYTES` bytes.
    """
    names = [os.fspath(path) for path in ([paths] if isinstance(paths, str) else paths)]
    files = [file for name in names for file in _files(name)]
    if not files:
        raise UserError("a text needs at least one file or folder")
    stamps = tuple(_stamp(file) for file in files)
    _refuse_twice(files, stamps)
    if stamps in _read:
        cached = _read[stamps]
        return cached if cached.files == tuple(files) else Corpus(cached.text, cached.key, tuple(files))
    asked = time.time_ns()
    corpus = _read_all(files)
    if all(max(stamp[3:]) < asked - _SETTLED for stamp in stamps):
        while len(_read) >= _KEPT:
            _read.pop(next(iter(_read)))
        _read[stamps] = corpus
    return corpus


def split(text: str, valid_share: float) -> tuple[str, str]:
    """Split of a text: its beginning to train on, and the rest to validate on.

    The first ⌊n (1 − share)⌋ of n characters are trained on, as in nanoGPT, with the share taken as the decimal
    number that it is written as: 0.1 is a tenth.

    >>> split("abcdefghij", 0.3)
    ('abcdefg', 'hij')

    Raises:
        UserError: the share is not between 0 and 1, or one of the two would be empty.
    """
    share = _share(valid_share)
    n = int(len(text) * (1 - share))
    if not 0 < n < len(text):
        counts = f"{n:,} characters to train on and {len(text) - n:,} to validate on"
        raise UserError(f"valid_share {valid_share} of {len(text):,} characters leaves {counts}: both must have some")
    return text[:n], text[n:]


def _share(value: float) -> Fraction:
    try:
        share = Fraction(repr(float(value)))
    except (ValueError, TypeError, OverflowError):
        share = Fraction(0)
    if not 0 < share < 1:
        raise UserError(f"valid_share must be above 0 and below 1, got {value!r}")
    return share


def _files(name: str) -> list[str]:
    """Path of this file, or paths of the texts of this folder."""
    try:
        about = os.stat(name)  # noqa: PTH116 (a path without a name is where we are)
    except (OSError, ValueError) as error:
        raise _unreadable(name, error) from None
    if not stat.S_ISDIR(about.st_mode):
        return [name]
    texts = sorted(_texts(Path(name)), key=lambda path: path.relative_to(name).as_posix())
    if not texts:
        raise UserError(f"{_shown(name)} holds no text: none of its files ends in {' or '.join(ENDINGS)}")
    return [str(path) for path in texts]


def _texts(top: Path) -> list[Path]:
    paths, folders = [], [top]
    while folders:
        folder = folders.pop()
        try:
            for path in folder.iterdir():
                about = path.lstat()
                if path.name.startswith("."):
                    continue
                if stat.S_ISDIR(about.st_mode):
                    folders.append(path)
                elif path.name.endswith(ENDINGS) and not path.is_dir():
                    if stat.S_ISLNK(about.st_mode):
                        raise UserError(f"{_shown(path)} is a link; the texts of a folder are files of its own")
                    paths.append(path)
        except OSError as error:
            raise _unreadable(str(folder), error) from None
    return paths


def _stamp(name: str) -> Stamp:
    try:
        about = Path(name).stat()
    except OSError as error:
        raise _unreadable(name, error) from None
    return os.path.realpath(name), about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


def _refuse_twice(files: Sequence[str], stamps: Sequence[Stamp]) -> None:
    """Refuse a file that is given twice, which would be trained on and validated on."""
    seen: set[str] = set()
    for file, stamp in zip(files, stamps, strict=True):
        if stamp[0] in seen:
            raise UserError(f"{_shown(file)} comes twice in one text")
        seen.add(stamp[0])


def _read_all(files: Sequence[str]) -> Corpus:
    digest, texts, left = hashlib.sha256(), [], MOST_BYTES
    for file in files:
        content = _content(file, left)
        left -= len(content)
        digest.update(len(content).to_bytes(8, "little"))
        digest.update(content)
        texts.append(_decoded(file, content))
    return Corpus("".join(texts), digest.hexdigest()[:16], tuple(files))


def _content(name: str, most: int) -> bytearray:
    """Unpacked bytes of a file, at most ``most``."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe must not wait
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise UserError(f"{_shown(name)} is not a regular file; a text is read from files and folders")
            content = _unpacked(name, file, most) if name.endswith(".gz") else _at_most(name, file, most)
    except OSError as error:
        raise _unreadable(name, error) from None
    if not content:
        raise UserError(f"{_shown(name)} is empty")
    return content


def _unpacked(name: str, file: IO[bytes], most: int) -> bytearray:
    try:
        with gzip.GzipFile(fileobj=file, mode="rb") as packed:
            return _at_most(name, packed, most)
    except EOFError:
        raise UserError(f"{_shown(name)} is cut short: its packed text has no end") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{_shown(name)} is not a whole gzip file: {error}") from None


def _at_most(name: str, file: IO[bytes] | gzip.GzipFile, most: int) -> bytearray:
    """Bytes of a file, read piece by piece: a few packed bytes may be many."""
    content = bytearray()
    while chunk := file.read(_CHUNK):
        content += chunk
        if len(content) > most:
            raise UserError(f"{_shown(name)} is too large: a text may have {MOST_BYTES:,} bytes, unpacked")
    return content


def _decoded(name: str, content: bytearray) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        hint = "; a packed file must be named .gz" if content.startswith(b"\x1f\x8b") else ""
        where = f"byte 0x{content[error.start]:02x} at offset {error.start:,}"
        raise UserError(f"{_shown(name)} is not UTF-8: {where}{hint}") from None


def _unreadable(name: str, error: OSError | ValueError) -> UserError:
    if not isinstance(error, OSError):  # a name with a zero in it
        return UserError(f"{_shown(name)} is no name of a file")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return UserError(
            f"there is no file or folder {_shown(name) or repr('')}{nearest(Path(name).name, _beside(name))}"
        )
    return UserError(f"{_shown(name)} cannot be read: {error.strerror or error}")


def _beside(name: str) -> list[str]:
    try:
        return [printable(path.name) for path in islice(Path(name).parent.iterdir(), 1000)]
    except OSError:
        return []


def _shown(path: str | Path) -> str:
    """Path as printable text on one line: file names may have any bytes but two."""
    return printable(os.fsencode(path).decode("utf-8", "replace"))
