"""Which settings there are, and which parts have them."""

from collections.abc import Mapping
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
    outside = [
        KINDS[kind][part]
        for kind, names in parts.items()
        for part in ([names] if isinstance(names, str) else names or ())
        if isinstance(part, str) and KINDS[kind].is_outside(part)
    ]
    if found := [*settings.get(name, ()), *(part for part in outside if name in part.model_fields)]:
        return found
    known = [*KINDS, *settings, *(own for part in outside for own in part.model_fields)]
    raise UserError(f"unknown setting {name!r}{nearest(name, known)}")
