"""The errors a user can cause, and how their one line is worded."""

import difflib
import re
import unicodedata
from collections.abc import Iterable

LONGEST_VALUE = 200  # characters of a value, in a message; what is longer is a slip and would hide what is said of it
_LONGEST_PATH = 1000  # which may have to be typed again
_LONGEST = 2000  # of a message
_VALUE = re.compile(r"""(?<!\w)'(?:[^'\\]|\\.)*'|(?<!\w)"(?:[^"\\]|\\.)*"|\S+""", re.DOTALL)


def shortened(message: str) -> str:
    """The message with the middle left out of values that nobody would read to their end, and of itself.

    >>> shortened(f"unknown model {'x' * 5000!r}: one of lstm gpt")
    "unknown model 'xxxxxxxxxxxxxxx… 4,970 characters …xxxxxxxxxxxxxxx': one of lstm gpt"
    """
    message = _VALUE.sub(lambda found: _cut(found[0], _LONGEST_PATH if "/" in found[0] else LONGEST_VALUE, 16), message)
    return _cut(message, _LONGEST, 800)


def _cut(text: str, longest: int, kept: int) -> str:
    if len(text) <= longest:
        return text
    return f"{text[:kept]}… {len(text) - 2 * kept:,} characters …{text[-kept:]}"


class UserError(ValueError):
    """The request was wrong. The message is one line: the value, what is allowed, the nearest valid name."""

    def __init__(self, message: object = "") -> None:
        super().__init__(shortened(str(message)))


class LabError(UserError):
    """The lab cannot be used as asked: not a lab, damaged, newer, busy or not writable."""


class AccessError(LabError):
    """A file of the lab is there but the system does not let it be read; nothing is known to be wrong with it."""


class StrayError(LabError):
    """There is a file in the lab that its record does not know of; the message says what to do."""


class DiskError(OSError):
    """Writing to the lab failed (disk full, permission lost). What was flushed before is intact."""


class RunFailed(RuntimeError):
    """A cohort could not be trained for a reason that is not the user's; what it had flushed is intact."""


def printable(text: str) -> str:
    r"""The text with a ``�`` for each character that would steer a terminal: what a lab says may be someone else's.

    >>> printable("a\x1b[31mb")
    'a�[31mb'
    """
    return "".join("�" if unicodedata.category(sign) in ("Cc", "Cf") else sign for sign in text)


def nearest(name: str, allowed: Iterable[str]) -> str:
    """``"; did you mean 'x'?"`` for the closest allowed name, or nothing when none is close."""
    if len(str(name)) > LONGEST_VALUE:
        return ""
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
