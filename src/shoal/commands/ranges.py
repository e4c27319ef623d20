"""Values as they are typed: ``none``, and ranges of integers.

``--seed 0..99`` stands for 0, 1, … 99, and ``0..99..10`` for 0, 10, … 90, as braces do in bash.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, get_args

from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.spec import Part

_NUMBER = "([+-]?[0-9]{1,18})"
_RANGE = re.compile(rf"{_NUMBER}\.\.{_NUMBER}(?:\.\.{_NUMBER})?")


def expanded(name: str, word: str, parts: "Sequence[type[Part]]") -> list[str]:
    """The values that a word stands for: those of a range where the setting is an integer, else the word itself.

    Args:
        name: of the setting.
        word: as it was typed.
        parts: classes that have the setting.

    Raises:
        UserError: the range has no end or no beginning, ends before it begins, has no step, more values than a grid
            can have runs, or the setting is a number that is no integer.
    """
    from shoal.spec.grid import check_count

    kinds = {kind for part in parts for kind in types_of(part.model_fields[name.rpartition(".")[2]].annotation)}
    if ".." not in word or str in kinds or not kinds & {int, float}:
        return [word]
    if int not in kinds:
        raise UserError(f"{name} takes no range, got {word!r}: a range is of integers; give its values one by one")
    match = _RANGE.fullmatch(word)
    if match is None:
        raise UserError(f"{name} must be an integer or a range first..last or first..last..step of them, got {word!r}")
    first, last, step = int(match[1]), int(match[2]), int(match[3] or 1)
    if step < 1:
        raise UserError(f"{name}: the step of range {word!r} must be at least 1, got {step}")
    if last < first:
        raise UserError(
            f"{name}: range {word!r} is empty, because it ends before it begins; {last}..{first} goes upwards"
        )
    values = range(first, last + 1, step)
    check_count({name: 1 + (last - first) // step})  # len() of a range has a limit of its own
    return [str(value) for value in values]


def values_of(name: str, words: Iterable[str], chosen: Mapping[str, Sequence[str]]) -> list[str | None]:
    """The values that words give a setting: all of a range; ``none`` is nothing where no choice has that name.

    Args:
        name: of the setting, perhaps with a prefix.
        words: as they were typed.
        chosen: names of the parts that may have it, by kind.
    """
    from shoal.registry import KINDS
    from shoal.spec.fields import extra
    from shoal.spec.known import owners

    setting = name.rpartition(".")[2]
    parts = [] if setting in KINDS else owners(setting, chosen)
    is_name = any("none" in extra(part, setting)["choices"] for part in parts)
    values = [value for word in words for value in expanded(name, word, parts)]
    return [("none" if is_name else None) if value.lower() == "none" else value for value in values]


def types_of(annotation: Any) -> set[Any]:
    """The types that an annotation allows, but for those of which a collection is made."""
    members = get_args(annotation)
    if not members or isinstance(annotation, type):
        return {annotation}
    if getattr(annotation, "__metadata__", None):
        return types_of(members[0])
    if getattr(annotation, "__origin__", None) in (tuple, list, set, frozenset, dict):
        return set()
    return {kind for member in members for kind in types_of(member)}
