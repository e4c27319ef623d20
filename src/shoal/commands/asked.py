"""Settings that a command can ask for: those of the parts of runs, except settings that are read from files."""

import argparse
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.spec import Part


def asked_of(part: "type[Part]") -> list[str]:
    """Settings of a part that a user gives, without those that are read from files."""
    derived = part.having("derived")
    return [name for name in part.model_fields if name not in derived]


def outside_parts(kind: str, names: Iterable[str], may_be_absent: bool) -> list[str]:
    """Places of the parts that stand outside of shoal, each once."""
    from shoal.registry import KINDS, is_place

    outside = []
    for name in names:
        try:
            if KINDS[kind].is_outside(name):
                outside.append(KINDS[kind].name_of(name))
        except UserError:
            if not (may_be_absent and is_place(name)):
                raise
    return list(dict.fromkeys(outside))


def refuse_derived(flag: str, known: "Mapping[str, Sequence[type[Part]]]") -> None:
    """Raise :class:`UserError` for the flag of a setting that no part is asked for."""
    name = flag.removeprefix("--").replace("-", "_")
    parts = known.get(name, ()) if flag.startswith("--") else ()
    if parts and not any(name in asked_of(part) for part in parts):
        raise UserError(f"{flag} cannot be given for new runs: it is computed from their files")


def as_text(value: Any) -> str:
    """A default as it can be typed."""
    if isinstance(value, tuple):
        return ",".join(map(str, value))
    return str(value).lower() if isinstance(value, bool) else f"{value:g}" if isinstance(value, float) else str(value)


def as_argument(action: argparse.Action) -> str:
    """Argument as a line of usage has it: in brackets where it can be left out, with dots where several may stand."""
    word = str(action.metavar or action.dest)
    return {"?": f"[{word}]", "*": f"[{word} …]", "+": f"{word} …"}.get(str(action.nargs), word)
