"""Names that users give: parts of paths, ids of runs and their beginnings, and labels and notes of runs."""

import re
import unicodedata
from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType

from shoal.errors import UserError, nearest

LONGEST_LABEL = 80  # signs of a name or a tag
LONGEST_NOTE = 10_000  # signs
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")  # file systems have names of up to 255 bytes
_DIGITS = re.compile(r"[0-9a-fA-F]+")  # of an id, or of its beginning
_SIGNS = "._-"  # of a label, beside letters, digits and the marks on them


def check_name(name: str, kind: str) -> str:
    """The name itself, when it is safe as part of a path.

    Raises:
        UserError: it has path separators, ``..`` or other signs.
    """
    if not _NAME.fullmatch(name) or ".." in name:
        raise UserError(
            f"{kind} name {name!r} is not allowed: letters, digits, '-', '_' and '.' only, at most 100, and no '..'"
        )
    return name


def is_label(text: str) -> bool:
    """Return True if a word can be a label: 1 to 80 letters and digits of any script, ``.``, ``_`` and ``-``.

    None of these three signs comes first, and no two dots are together.

    >>> is_label("first-try"), is_label("größer_2"), is_label("a/b"), is_label("-x"), is_label("two words")
    (True, True, False, False, False)
    """
    kinds = [unicodedata.category(sign)[0] for sign in text]
    if not kinds or len(kinds) > LONGEST_LABEL or kinds[0] not in "LN" or ".." in text:
        return False
    return all(kind in "LNM" or sign in _SIGNS for kind, sign in zip(kinds, text, strict=True))


def check_label(text: str, what: str) -> str:
    """The word itself, its accents composed, when it can be a ``name``, ``group`` or ``tag`` (``what``).

    Raises:
        UserError: it is empty, has more than 80 signs or others than are allowed, or is a name that could be taken for
            the beginning of a run's id.
    """
    if not isinstance(text, str):
        raise UserError(f"{what} must be a word, got {text!r}")
    text = unicodedata.normalize("NFC", text)
    if not is_label(text):
        raise UserError(
            f"{what} {text!r} is not allowed: 1 to {LONGEST_LABEL} letters, digits, '.', '_' and '-', the first a "
            f"letter or digit, and no '..'{_length(text)}"
        )
    if what != "tag" and is_digits(text):
        raise UserError(f"{what} {text!r} is not allowed: words of the digits 0-9 and a-f alone are ids of runs")
    return text


def _length(text: str) -> str:
    return f"; it has {len(text):,} characters" if len(text) > LONGEST_LABEL else ""


def check_note(text: str) -> str:
    """The note itself, without empty space around it, when it has no control characters but ends of lines and tabs.

    Raises:
        UserError: it has others, or more than 10,000 signs.
    """
    if not isinstance(text, str):
        raise UserError(f"note must be a text, got {text!r}")
    wrong = [sign for sign in text if unicodedata.category(sign) in ("Cc", "Cs") and sign not in "\n\t"]
    if wrong:
        raise UserError(f"note holds {wrong[0]!r}: control characters but ends of lines and tabs are not allowed")
    if len(text) > LONGEST_NOTE:
        raise UserError(f"note has {len(text):,} characters; at most {LONGEST_NOTE:,} are allowed")
    return text.strip()


def is_digits(text: str) -> bool:
    """Return True if a word can only be meant as an id: hexadecimal digits alone, which no name has."""
    return _DIGITS.fullmatch(text) is not None


def find_run(
    name: str,
    runs: Collection[str],
    notes: Sequence[str] = (),
    names: Mapping[str, Sequence[str]] = MappingProxyType({}),
) -> str:
    """The one run of this name, or whose id begins with ``name``.

    Args:
        name: an id, an unambiguous beginning of one, or a name.
        runs: ids.
        notes: lines that say what else there may be.
        names: the runs of each name, one where names are unique.

    Raises:
        UserError: none is meant, several are, or ``name`` is no id and no name at all.
    """
    if name in runs:
        return name
    if not is_label(name):
        check_name(name, "run")
    matching = [run for run in names.get(unicodedata.normalize("NFC", name), ()) if run in runs]
    matching = matching or [run for run in runs if run.startswith(name)]
    if len(matching) > 1:
        raise UserError(f"run {name!r} is ambiguous: {' '.join(matching[:4])}{' …' if len(matching) > 4 else ''}")
    if not matching:
        near = nearest(name, [*names, *runs])
        raise UserError("; ".join([f"no run {name!r} among {len(runs)} runs{near}", *notes]))
    return matching[0]
