"""The errors a user can cause, and how their one line is worded."""

import difflib
import unicodedata
from collections.abc import Iterable


class UserError(ValueError):
    """The request was wrong. The message is one line: the value, what is allowed, the nearest valid name."""


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
    close = difflib.get_close_matches(str(name), list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""
