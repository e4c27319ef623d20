"""Settings that a command can ask for: those of the parts of runs, but for what is found out from files."""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.spec import Part


def asked_of(part: "type[Part]") -> list[str]:
    """The settings of a part that are asked for, and not found out."""
    derived = part.having("derived")
    return [name for name in part.model_fields if name not in derived]


def outside_parts(kind: str, names: Iterable[str], may_be_absent: bool) -> list[str]:
    """Those of the parts that stand outside of shoal, by their places, each once."""
    from shoal.registry import KINDS, is_place

    found = []
    for name in names:
        try:
            if KINDS[kind].is_outside(name):
                found.append(KINDS[kind].name_of(name))
        except UserError:
            if not (may_be_absent and is_place(name)):
                raise
    return list(dict.fromkeys(found))


def refuse_derived(flag: str, known: "Mapping[str, Sequence[type[Part]]]") -> None:
    """Raise :class:`UserError` for the flag of a setting that no part is asked for."""
    name = flag.removeprefix("--").replace("-", "_")
    parts = known.get(name, ()) if flag.startswith("--") else ()
    if parts and not any(name in asked_of(part) for part in parts):
        raise UserError(f"{flag} cannot be given for new runs: it is found out from their files")
