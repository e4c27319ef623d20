"""Settings that exist, and the parts that have them."""

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
    settings: dict[str, list[type[Part]]] = {}
    parts: list[type[Part]] = [*(part for registry in KINDS.values() for part in registry.shipped()), *ALWAYS]
    for part in parts:
        for name in part.model_fields:
            settings.setdefault(name, []).append(part)
    return settings


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
    if having := [*settings.get(name, ()), *(part for part in outside if name in part.model_fields)]:
        return having
    known = [*KINDS, *settings, *(setting for part in outside for setting in part.model_fields)]
    raise UserError(f"unknown setting {name!r}{nearest(name, known)}")


def owners_here(name: str, parts: Mapping[str, Any]) -> Iterator[type[Part]]:
    """The classes that have a setting of this name, of the parts that can be imported here.

    Shoal's own come first; only then are those from outside imported, one by one.

    Raises:
        UserError: there is none, once all have been asked for.
    """
    known, absent, is_known = known_settings(), [], False
    for part in known.get(name, ()):
        is_known = True
        yield part
    for kind, place in _outside(parts):
        try:
            outside = KINDS[kind][place]
        except UserError as error:
            absent.append(str(error))
            continue
        known |= {setting: [outside] for setting in outside.model_fields if setting not in known}
        if name in outside.model_fields:
            is_known = True
            yield outside
    if not is_known:
        raise UserError("; ".join([f"unknown setting {name!r}{nearest(name, [*KINDS, *known])}", *absent[:1]]))


def _outside(parts: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Those of the parts that stand outside of shoal, with their kinds."""
    return [
        (kind, part)
        for kind, names in parts.items()
        for part in ([names] if isinstance(names, str) else names or ())
        if isinstance(part, str) and KINDS[kind].is_outside(part)
    ]
