"""Settings of some runs of a grid alone: ``gpt.num_heads`` is ``num_heads`` of the runs that have the part ``gpt``.

A grid of several models, tasks or optimizers is a product only in what all its runs have. What one part alone has, or
shall have otherwise, is an axis with that part's name before it.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

from shoal.errors import UserError, nearest
from shoal.registry import KINDS, short
from shoal.spec.names import named_parts
from shoal.spec.run import classes_of

Axes = Mapping[str, Sequence[Any]]  # values by setting, or by part and setting with a dot between them
NOTHING: Mapping[str, Any] = MappingProxyType({})


def split_prefix(name: str) -> tuple[str, str]:
    """The part and the setting of a name; the part is empty where the name has no prefix.

    >>> split_prefix("gpt.num_heads"), split_prefix("seed")
    (('gpt', 'num_heads'), ('', 'seed'))
    """
    part, _, setting = name.rpartition(".")
    return part, setting


def kind_of(part: str, names: Mapping[str, str]) -> str | None:
    """The kind (``task``, ``model`` or ``optimizer``) by which a run with these names has a part; None if it lacks it.

    Args:
        part: as a prefix names it, by its short name or its place; ``-`` stands for ``_``.
        names: of the run's parts, by kind, as they are written down.
    """
    for kind, name in names.items():
        registry, asked = KINDS[kind], part.replace("-", "_")
        offered = (other for other in registry.names() if other.replace("-", "_") == asked)
        if asked in (name, short(name)) or part == name or any(registry.name_of(other) == name for other in offered):
            return kind
    return None


def resolved(settings: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """The settings of a run with parts of these names: prefixed ones where it has their part, before those without.

    >>> resolved({"lr": 1, "gpt.lr": 2, "lstm.lr": 3}, {"model": "gpt"})
    {'lr': 2}

    Raises:
        UserError: two prefixes give it the same setting.
    """
    out: dict[str, Any] = {}
    by: dict[str, str] = {}
    for name, value in settings.items():
        part, setting = split_prefix(name)
        if part and kind_of(part, names) is None:
            continue
        if part and by.get(setting):
            has = " and ".join(split_prefix(other)[0] for other in (by[setting], name))
            raise UserError(f"{by[setting]} and {name} are both for runs with {has}: give one of them")
        if part or not by.get(setting):
            out[setting], by[setting] = value, name if part else ""
    return out


def combinations(axes: Axes, given: Mapping[str, Any] = NOTHING) -> Iterator[dict[str, Any]]:
    """One value of each axis that a run has, the last axis varying fastest; with prefixes the parts vary slowest.

    >>> [*combinations({"model": ["lstm", "gpt"], "gpt.num_heads": [2, 4]})]
    [{'model': 'lstm'}, {'model': 'gpt', 'num_heads': 2}, {'model': 'gpt', 'num_heads': 4}]

    Args:
        axes: values by setting, of which those with a prefix are for the runs with that part.
        given: settings of all runs beside the axes, which may name their parts.
    """
    if not is_prefixed(axes):
        yield from (dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))
        return
    for mix, fitting in _fitting(axes, given):
        for values in itertools.product(*fitting.values()):
            yield {**mix, **dict(zip(fitting, values, strict=True))}


def count_runs(axes: Axes, given: Mapping[str, Any] = NOTHING) -> int:
    """Number of :func:`combinations`, before any is made."""
    if not is_prefixed(axes):
        return math.prod(map(len, axes.values()))
    return sum(math.prod(map(len, fitting.values())) for _, fitting in _fitting(axes, given))


def is_prefixed(names: Mapping[str, Any]) -> bool:
    """Return True if some name has a prefix."""
    return any("." in name for name in names)


def check_prefixes(axes: Axes, given: Mapping[str, Any] = NOTHING) -> None:
    """Raise :class:`UserError` for a prefix that no run of the grid has, or one before the name of a kind of part."""
    if not is_prefixed(axes):
        return
    mixes = [named_parts({**given, **mix}) for mix in _mixes(axes)]
    for name in axes:
        part, setting = split_prefix(name)
        if part:
            check_prefix(part, setting, {kind: [names[kind] for names in mixes] for kind in KINDS})


def check_prefix(part: str, setting: str, chosen: Mapping[str, Sequence[str]]) -> tuple[str, str]:
    """The kind and the name of the part that a prefix names among those that a grid has.

    Args:
        part: the prefix.
        setting: what it stands before.
        chosen: names of the parts that the grid has, by kind.

    Raises:
        UserError: the grid has no such part, or the setting is the name of a kind of part.
    """
    if setting in KINDS:
        raise UserError(f"{part}.{setting}: the {setting} of a run cannot depend on another of its parts")
    for kind, names in chosen.items():
        for name in names:
            if kind_of(part, {kind: name}):
                return kind, name
    known = [name for registry in KINDS.values() for name in registry.names()]
    if part.replace("-", "_") in (name.replace("-", "_") for name in known):
        has = ", ".join(f"{kind} {' '.join(dict.fromkeys(map(short, names)))}" for kind, names in chosen.items())
        raise UserError(f"{part}.{setting} applies to none of these runs: they have {has}")
    raise UserError(f"unknown part {part!r} of {part}.{setting}: one of {' '.join(known)}{nearest(part, known)}")


def check_mixed(axes: Axes, given: Mapping[str, Any] = NOTHING) -> None:
    """Raise :class:`UserError` for a setting without a prefix that some parts of a mixed grid have and others lack."""
    mixes = [named_parts({**given, **mix}) for mix in _mixes(axes)]
    if len(mixes) < 2:
        return
    for name, values in axes.items():
        if name in KINDS or "." in name or all(value is None for value in values):
            continue
        lacking = [
            names for names in mixes if not any(name in part.model_fields for part in classes_of(**names).values())
        ]
        if not lacking or len(lacking) == len(mixes):  # RunSpec refuses what no run has
            continue
        for kind in KINDS:
            having = [names[kind] for names in mixes if name in classes_of(**names)[kind].model_fields]
            if having:
                shown = [f"{short(part)}.{name}" for part in dict.fromkeys(having)]
                typed = " ".join(f"--{each.rpartition('.')[0]}.{name.replace('_', '-')}" for each in shown)
                value = next(value for value in values if value is not None)
                raise UserError(
                    f"{name}={value} does not apply to {kind} {short(lacking[0][kind])!r}, which other runs of this "
                    f"grid have; for the runs that it applies to alone: {' '.join(shown)} (on the command line {typed})"
                )


def _fitting(axes: Axes, given: Mapping[str, Any]) -> Iterator[tuple[dict[str, Any], dict[str, Sequence[Any]]]]:
    """Each choice of parts, with the other axes of the runs that have them."""
    plain = {name: values for name, values in axes.items() if name not in KINDS}
    for mix in _mixes(axes):
        yield mix, resolved(plain, named_parts({**given, **mix}))


def _mixes(axes: Axes) -> list[dict[str, Any]]:
    """The choices of parts that the runs of a grid have, of those kinds that are axes; in their order."""
    kinds = {name: values for name, values in axes.items() if name in KINDS}
    return [dict(zip(kinds, names, strict=True)) for names in itertools.product(*kinds.values())]
