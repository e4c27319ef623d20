"""The errors a user can cause, and how their one line is worded."""

import re
import unicodedata
from collections.abc import Iterable

LONGEST_VALUE = 200  # characters of a value, in a message; what is longer is a slip and would hide what is said of it
_LONGEST_PATH = 1000  # which may have to be typed again
_LONGEST = 2000  # of a message
# names that the field has for settings, by those of shoal
_MEANT = {
    "n-steps": ("steps", "iterations", "iters", "epochs", "max-steps", "num-steps", "n-epochs", "num-epochs"),
    "lr": ("learning-rate", "step-size"),
    "weight-decay": ("wd", "l2"),
    "train-batch-size": ("batch-size", "batch", "bs"),
    "embedding-size": ("width", "d-model", "hidden", "dim", "n-embd", "hidden-dim"),
    "num-layers": ("layers", "depth", "n-layers", "n-layer"),
    "num-heads": ("heads", "n-heads", "n-head"),
    "p": ("modulus", "mod", "prime"),
    "r-train": ("frac-train", "train-frac", "train-fraction", "train-ratio"),
}
_SHOAL_NAMES = {word: name for name, words in _MEANT.items() for word in words}
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

    def _render_traceback_(self) -> list[str]:
        """Lines that IPython shows instead of a traceback: the mistake is in the request, and the message says it."""
        return [f"{type(self).__name__}: {self}"]


class OtherDataError(UserError):
    """Data are not those that a run began with.

    Attributes:
        found: the message without its advice, for who knows a better one.
    """

    def __init__(self, found: str, advice: str = "") -> None:
        super().__init__(f"{found}; {advice}" if advice else found)
        self.found = found


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
    """``"; did you mean 'x'?"`` for the allowed name that was probably meant, or nothing where none is close.

    That is shoal's name for what the field calls so (``steps``, ``learning_rate``); else one that differs in case or by
    one sign; else one that ends or begins with the name (``--heads`` for ``--num-heads``); else one of which at most a
    third of the signs have to be changed, left out, put in or swapped with their neighbour.

    >>> nearest("adamW", ["adam", "adamw"]), nearest("gtp", ["lstm", "gpt"]), nearest("mamba", ["lstm", "gpt"])
    ("; did you mean 'adamw'?", "; did you mean 'gpt'?", '')
    """
    name, known = str(name), list(allowed)
    if len(name) > LONGEST_VALUE:
        return ""
    plain, words = _plain(name), {other: _plain(other) for other in known}
    usual = _SHOAL_NAMES.get(plain.lstrip("-"))
    if plain not in words.values() and (named := [other for other in known if words[other].lstrip("-") == usual]):
        return f"; did you mean {named[0]!r}?"
    distances = [(_edits(plain, word), other) for other, word in words.items()]
    close = [(n, other) for n, other in distances if 3 * n <= max(len(plain), len(words[other]))]
    n, meant = min(close, key=lambda pair: pair[0], default=(2, None))
    stem = plain.lstrip("-")
    parts = [other for other, word in words.items() if len(stem) > 2 and word.endswith(f"-{stem}")]
    parts += [other for other, word in words.items() if len(plain) > 1 and word.startswith(plain)]
    if n > 1 and parts:
        meant = parts[0]
    return f"; did you mean {meant!r}?" if meant is not None else ""


def _plain(name: str) -> str:
    return name.lower().replace("_", "-")


def _edits(a: str, b: str) -> int:
    """Signs to change, leave out, put in, or swap with their neighbour to make one word of the other.

    The optimal string alignment distance: Damerau 1964, without edits inside of what was swapped.
    """
    before: list[int] = []
    row = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        two_before, before = before, row
        row = [i]
        for j, y in enumerate(b, 1):
            cost = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (x != y))
            if i > 1 and j > 1 and x == b[j - 2] and a[i - 2] == y:
                cost = min(cost, two_before[j - 2] + 1)
            row.append(cost)
    return row[-1]
