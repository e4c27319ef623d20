"""Which settings there are, and which parts have them."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

from shoal.errors import UserError, nearest
from shoal.registry import KINDS
from shoal.spec.fields import Part
from shoal.spec.training import ALWAYS


def known_settings() -> dict[str, list[type[Part]]]:
    """Every setting that some part of shoal's own has, with the classes that have it; in order.

    The names of the parts themselves, ``task``, ``model`` and ``optimizer``, are settings of none.
    """
    found: dict[str, list[type[Part]]] = {}
    parts: list[type[Part]] = [*(part for registry in KINDS.values() for part in registry.shipped()), *ALWAYS]
    for part in parts:
        for name in part.model_fields:
            found.setdefault(name, []).append(part)
    return found


def owners(name: str, parts: Mapping[str, Any] = MappingProxyType({})) -> list[type[Part]]:
    """The classes that have a setting of this name.

    Args:
        name: of the setting.
        parts: names of parts that may be from outside of shoal, one or several by ``task``, ``model``, ``optimizer``.

    Raises:
        UserError: there is none.
    """
    settings = known_settings()
    outside = [KINDS[kind][part] for kind, part in _outside(parts)]
    if found := [*settings.get(name, ()), *(part for part in outside if name in part.model_fields)]:
        return found
    known = [*KINDS, *settings, *(own for part in outside for own in part.model_fields)]
    raise UserError(f"unknown setting {name!r}{nearest(name, known)}")


def owners_here(name: str, parts: Mapping[str, Any]) -> Iterator[type[Part]]:
    """The same, of the parts that can be imported here: shoal's own, and only then, one by one, those from outside.

    Raises:
        UserError: there is none, once all have been asked for.
    """
    known, absent, found = known_settings(), [], False
    for part in known.get(name, ()):
        found = True
        yield part
    for kind, place in _outside(parts):
        try:
            own = KINDS[kind][place]
        except UserError as error:
            absent.append(str(error))
            continue
        known |= {setting: [own] for setting in own.model_fields if setting not in known}
        if name in own.model_fields:
            found = True
            yield own
    if not found:
        raise UserError("; ".join([f"unknown setting {name!r}{nearest(name, [*KINDS, *known])}", *absent[:1]]))


def _outside(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Those of the parts that stand outside of shoal, with their kinds."""
    return [
        (kind, part)
        for kind, names in parts.items()
        for part in ([names] if isinstance(names, str) else names or ())
        if isinstance(part, str) and KINDS[kind].is_outside(part)
    ]
