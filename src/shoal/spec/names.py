"""Names of a run's parts: those that are given, and the usual ones for the others."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from typing import Any

from shoal.errors import UserError, nearest
from shoal.registry import KINDS, USUAL
from shoal.spec.fields import Part


def named_parts(given: Mapping[str, Any]) -> dict[str, str]:
    """Names of a run's parts by kind: the given ones, else the usual ones.

    The usual model depends on the task, and the usual update rule on the model.
    """
    task = _named("task", USUAL["task"] if given.get("task") is None else given["task"])
    model = _named("model", usual_model(task) if given.get("model") is None else given["model"])
    rule = usual_rule(model) if given.get("optimizer") is None else given["optimizer"]
    return {"task": task, "model": model, "optimizer": _named("optimizer", rule)}


def usual_model(task: str) -> str:
    """The family that learns a task where none is named."""
    kind: Any = KINDS["task"][task]
    return kind.usual_model or USUAL["model"]


def usual_rule(model: str) -> str:
    """The update rule that fits a family where none is named."""
    fitted_by = KINDS["model"][model].fitted_by
    if fitted_by == KINDS["optimizer"][USUAL["optimizer"]].fits:
        return USUAL["optimizer"]
    return str(next(rule.name for rule in KINDS["optimizer"].shipped() if rule.fits == fitted_by))


def usual_part(kind: str, chosen: Callable[[str], Sequence[str]]) -> str:
    """The part of a kind where none is named, by the parts that are chosen of other kinds.

    Runs of a task that is not installed here can be chosen all the same.

    Args:
        kind: ``task``, ``model`` or ``optimizer``.
        chosen: function from a kind to the names of its chosen parts.
    """
    with suppress(UserError):
        if kind == "model" and len(names := chosen("task")) == 1:
            return usual_model(names[0])
        if kind == "optimizer" and len(names := chosen("model")) == 1:
            return usual_rule(names[0])
    return USUAL[kind]


def _named(kind: str, name: Any) -> str:
    if not isinstance(name, str):
        raise UserError(f"{kind} must be the name of one, got {name!r}")
    return KINDS[kind].name_of(name)


def going_with(task: str, parts: Iterable[Any]) -> list[Any]:
    """Those of some parts that go with a task, in that it offers what they read; all where none does."""
    several, offers = [*parts], KINDS["task"][task].offers
    return [part for part in several if getattr(part, "reads", offers[0]) in offers] or several


def check_parts_fit(names: Mapping[str, str], task: Any, model: Any, rule: Any) -> None:
    """Raise :class:`UserError` where the task does not offer what the model reads, or the rule is of another kind.

    Args:
        names: of the parts, by kind.
        task: settings of the task.
        model: settings of the model.
        rule: settings of the update rule.
    """
    if model.reads not in task.offers:
        fitting = [part.name for part in going_with(names["task"], KINDS["model"].shipped())]
        lacks = {"pair": "sources to read", "source": "sources to read", "observations": "sequences of observations"}
        is_lacking = model.reads in lacks and "pair" not in task.offers
        without = f", which has no {lacks[model.reads]}" if is_lacking else ""
        raise UserError(
            f"model {names['model']!r} does not apply to task {names['task']!r}{without}; these do: {' '.join(fitting)}"
        )
    if model.fitted_by != rule.fits:
        fitting = [part.name for part in KINDS["optimizer"].shipped() if part.fits == model.fitted_by]
        raise UserError(
            f"optimizer {names['optimizer']!r} does not apply to model {names['model']!r}; these do: "
            f"{' '.join(fitting)}"
        )


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
