"""Printing on streams that cannot end a command.

A full disk behind a log, a reader that has left (``| head``), a stream that was closed and an encoding that lacks a
character are no reason to stop training. Characters that an encoding lacks are spelled out; lines that cannot be
written are counted, so that a command can report their number at its end.
"""

import errno
import importlib
import io
import os
import select
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from textwrap import wrap
from typing import Any, TextIO, cast

from shoal.errors import printable

_WIDEST = 2000  # columns of a file or pipe, which has no width of its own: lines there are as long as they need to be
PATIENCE = 5.0  # seconds for which a reader may leave a pipe full that does not block
_NOBODY = (errno.EPIPE, errno.EBADF)  # it was closed, here or at its other end, by someone who wants no more

# Signs of ours as text that every encoding has. Those that stand in tables remain as wide as they are, where they can.
_SPELLED = dict(zip("Δ†–−·×ℓ’²₂⊥√", "d+--|xl'22_V", strict=True))
_SPELLED |= {"≥": ">=", "≤": "<=", "≈": "~", "±": "+/-", "…": "...", "∞": "inf", "→": "->", "÷": "/"}
_SPELLED |= {"α": "alpha", "β": "beta", "γ": "gamma", "λ": "lambda", "μ": "mu", "ρ": "rho", "σ": "sigma", "χ": "chi"}


def spelled(text: str, encoding: str, errors: str = "strict") -> str:
    r"""Text in which characters that an encoding lacks are spelled out: shoal's own by a name, others by their number.

    >>> spelled("Δt(A) ≥ 1,250 ± 3 é", "latin-1"), spelled("Δt(A) ≥ 1,250 ± 3 é", "ascii")
    ('dt(A) >= 1,250 ± 3 é', 'dt(A) >= 1,250 +/- 3 \\xe9')
    """
    if _has(text, encoding, errors):
        return text
    return "".join(sign if _has(sign, encoding, errors) else _spelling(sign) for sign in text)


def _spelling(sign: str) -> str:
    return _SPELLED.get(sign) or sign.encode("ascii", "backslashreplace").decode()


def say(line: str = "") -> None:
    """Print one line, with control characters replaced, since parts of it may be someone else's, such as a lab's."""
    print(printable(line))


def terminal_width() -> int:
    """Columns of the terminal, or ``COLUMNS``; without either, more than a table needs."""
    if sys.stdout.isatty() or "COLUMNS" in os.environ:
        return shutil.get_terminal_size((_WIDEST, 1)).columns
    return _WIDEST


def say_list(lines: Iterable[tuple[str, str]]) -> None:
    """Print names and a line about each, which is wrapped beside its name where the terminal is too narrow."""
    lines = list(lines)
    wide = max((len(name) for name, _ in lines), default=0) + 2
    width = max(terminal_width(), wide + 20)
    for name, about in lines:
        for number, line in enumerate(wrap(about, width - wide, break_long_words=False) or [""]):
            say((" " * wide if number else name.ljust(wide)) + line)


def readable(text: str) -> str:
    """Text as standard output can show it, for its width to be known before it is laid out in columns."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return spelled(text, encoding, getattr(sys.stdout, "errors", None) or "strict")


def _has(text: str, encoding: str, errors: str) -> bool:
    try:
        text.encode(encoding, errors)
    except UnicodeEncodeError:
        return False
    return True


def notebook_display() -> Any | None:
    """Module ``IPython.display`` where the kernel of a notebook runs this process, else None.

    IPython is never imported where it is not there already: a kernel has loaded it.
    """
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return None if getattr(shell, "kernel", None) is None else importlib.import_module("IPython.display")


class Output(io.TextIOBase):
    """Stream that takes all text, and counts the lines that could not be written.

    Attributes:
        lost: lines that could not be written.
        why: the error of the last of them.
        again: a way to see lost lines again, in words; empty where it is not worth mention.
    """

    def __init__(self, stream: TextIO | None) -> None:
        self._stream = stream
        self._descriptor: int | None = None
        self.lost = 0
        self.why: OSError | None = None
        self.again = ""
        if stream is not None:
            with suppress(OSError, ValueError):  # one that lives in memory has none
                self._descriptor = stream.fileno()
            with suppress(OSError, ValueError):
                stream.flush()

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Encoding of the stream beneath."""
        return getattr(self._stream, "encoding", None) or "utf-8"

    @property
    def errors(self) -> str:  # type: ignore[override]
        """Error handling of the stream beneath for characters that its encoding lacks."""
        return getattr(self._stream, "errors", None) or "strict"

    @property
    def is_unread(self) -> bool:
        """Return True if lines were lost because nobody reads this stream any more."""
        return self.why is not None and self.why.errno in _NOBODY

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        try:
            return self._stream is not None and self._stream.isatty()
        except ValueError:  # closed
            return False

    def fileno(self) -> int:
        if self._descriptor is None:
            raise io.UnsupportedOperation("fileno")
        return self._descriptor

    def write(self, text: str) -> int:
        """Write text, or count the lines that cannot be written."""
        encodable = spelled(text, self.encoding, self.errors)
        try:
            if self._descriptor is not None:
                _write(self._descriptor, encodable.encode(self.encoding, self.errors))
            elif self._stream is not None:
                self._stream.write(encodable)
            else:
                raise OSError(errno.EBADF, "it is closed")
        except (OSError, ValueError) as error:
            self.lost += text.count("\n")
            self.why = error if isinstance(error, OSError) else OSError(errno.EBADF, str(error))
        return len(text)


def _write(descriptor: int, data: bytes) -> None:
    """Write all bytes, past the buffers of Python, which would try again at the end of the process what failed."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:
            if not select.select([], [descriptor], [], PATIENCE)[1]:
                raise


def seen_again(how: str) -> None:
    """Note a way to see a command's output again, should lines of it be lost."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, Output):
            stream.again = how


@contextmanager
def printing() -> Iterator[tuple[Output, Output]]:
    """Standard output and standard error as :class:`Output`."""
    _occupy()
    before = sys.stdout, sys.stderr
    out, error = Output(before[0]), Output(before[1])
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, error)
    try:
        yield out, error
    finally:
        sys.stdout, sys.stderr = before


def _occupy() -> None:
    """Leave no number of a standard stream free.

    The next file to be opened, perhaps one of a lab, would get it, and with it whatever libraries print.
    """
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
