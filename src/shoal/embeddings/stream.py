"""Bytes of a file of word vectors, unpacked piece by piece and hashed on the way."""

import gzip
import hashlib
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from shoal.errors import UserError, printable

CHUNK = 2**20
LONGEST_LINE = 2**24
_GZIP, _ZIP = b"\x1f\x8b", b"PK\x03\x04"


class Stream:
    """Reader of the unpacked bytes of one file, from its beginning to its end.

    Attributes:
        name: path of the file, printable.
        digest: SHA-256 of the bytes that were read.
        offset: number of unpacked bytes that were read.
    """

    def __init__(self, name: str, file: IO[bytes] | gzip.GzipFile) -> None:
        self.name, self._file = name, file
        self.digest, self.offset = hashlib.sha256(), 0

    @property
    def key(self) -> str:
        """First 16 hexadecimal digits of :attr:`digest`."""
        return self.digest.hexdigest()[:16]

    def read(self) -> bytes:
        """Next piece of at most :data:`CHUNK` bytes; empty at the end.

        Raises:
            UserError: the file is packed and damaged or cut short, or cannot be read.
        """
        try:
            piece = self._file.read(CHUNK)
        except EOFError:
            raise UserError(f"{self.name} is cut short: its packed content has no end") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise UserError(f"{self.name} is not a whole gzip file: {error}") from None
        except OSError as error:
            raise UserError(f"{self.name} cannot be read: {error.strerror or error}") from None
        self.digest.update(piece)
        self.offset += len(piece)
        return piece

    def lines(self, rest: bytes = b"") -> Iterator[bytes]:
        """Lines from here on, behind bytes that were read already, without their ends (LF or CRLF).

        Raises:
            UserError: as :meth:`read`, or a line is longer than :data:`LONGEST_LINE` bytes.
        """
        while piece := self.read():
            lines = (rest + piece).split(b"\n")
            rest = lines.pop()
            if len(rest) > LONGEST_LINE:
                raise UserError(f"{self.name} has a line of more than {LONGEST_LINE:,} bytes: it holds no word vectors")
            yield from (line.removesuffix(b"\r") for line in lines)
        if rest:
            yield from (line.removesuffix(b"\r") for line in rest.split(b"\n"))


@contextmanager
def opened(path: str) -> Iterator[Stream]:
    """Context with the stream of a file, which is unpacked where its content is gzip.

    Raises:
        UserError: the file is missing, cannot be read, is empty, is no regular file or is a ``.zip`` archive.
    """
    name = printable(os.fsencode(path).decode("utf-8", "replace"))
    try:
        if not Path(path).is_file():
            raise UserError(f"{name} is not a regular file; word vectors are read from files")
        with Path(path).open("rb") as file:
            start = file.read(4)
            file.seek(0)
            if not start:
                raise UserError(f"{name} is empty")
            if start == _ZIP:
                raise UserError(f"{name} is a .zip archive; unpack it and name the file in it (a .gz is read as it is)")
            if start.startswith(_GZIP):
                with gzip.GzipFile(fileobj=file, mode="rb") as packed:
                    yield Stream(name, packed)
            else:
                yield Stream(name, file)
    except OSError as error:
        raise UserError(f"{name} cannot be read: {error.strerror or error}") from None
