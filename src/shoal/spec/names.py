"""Names of a run's parts: those that are given, and the usual ones for the others."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from shoal.errors import UserError, nearest
from shoal.registry import KINDS, USUAL
from shoal.spec.fields import Part


def named_parts(given: Mapping[str, Any]) -> dict[str, str]:
    """Names of a run's parts by kind: the given ones, else the usual ones; the usual model depends on the task."""
    task = _named("task", USUAL["task"] if given.get("task") is None else given["task"])
    usual: Any = {**USUAL, "model": usual_model(task)}
    named = {kind: usual[kind] if given.get(kind) is None else given[kind] for kind in KINDS} | {"task": task}
    return {kind: _named(kind, name) for kind, name in named.items()}


def usual_model(task: str) -> str:
    """The family that learns a task where none is named."""
    kind: Any = KINDS["task"][task]
    return kind.usual_model or USUAL["model"]


def _named(kind: str, name: Any) -> str:
    if not isinstance(name, str):
        raise UserError(f"{kind} must be the name of one, got {name!r}")
    return KINDS[kind].name_of(name)


def going_with(task: str, parts: Iterable[Any]) -> list[Any]:
    """Those of some parts that go with a task, in that it offers what they read; all where none does."""
    several, offers = [*parts], KINDS["task"][task].offers
    return [part for part in several if getattr(part, "reads", offers[0]) in offers] or several


def not_there(name: str, value: Any, names: Mapping[str, str], classes: Iterable[type[Part]]) -> str:
    """Error line for a setting that none of a run's parts has; with None for a value it is asked for and not given."""
    shown = name if value is None else f"{name}={value}"
    for kind, registry in KINDS.items():
        fitting = [part for part in registry.shipped() if name in part.model_fields]
        if fitting:
            applicable = " ".join(part.name for part in going_with(names["task"], fitting))
            return f"{shown} does not apply to {kind} {names[kind]!r}; it applies to {applicable}"
    known = [*KINDS, *(setting for kind in classes for setting in kind.model_fields)]
    meant = nearest(name, known) or "; all settings: shoal train --help, or dir() of a RunSpec"
    return f"unknown setting {name!r}{meant}"


def refuse_unnamed(values: Sequence[Any]) -> None:
    """Raise :class:`UserError` for settings that are given without their names."""
    if values:
        kinds = [kind for kind, registry in KINDS.items() if values[0] in registry.names()]
        raise UserError(f"settings are given by name, as in {(*kinds, 'model')[0]}=…, got {values[0]!r}")
