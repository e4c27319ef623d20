"""Identity of a run: a hash of the settings in which it differs from the defaults of its parts."""

import hashlib
import itertools
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from shoal.registry import KINDS, MODELS, RULES, TASKS, USUAL, Registry
from shoal.spec.fields import Part
from shoal.spec.training import ALWAYS, SEEDS


def identify(dump: Mapping[str, Any], trajectory: int | None = None) -> str:
    """Id of the run of a :meth:`shoal.spec.run.RunSpec.dump`, as a lab holds it: a hash; nothing is validated for it.

    Args:
        dump: its settings; those that are younger than the record need not be there.
        trajectory: version of its model's trajectories; today's when not given.
    """
    model, task, rule = _versions(dump)
    return _hash(canonical(dump), model if trajectory is None else trajectory, task, rule)


def trajectory_version(model: str) -> int:
    """Version of a model's trajectories; 1 for a model from outside of shoal, whose source tells versions apart."""
    return _version(MODELS, model)


def trajectory_of(dump: Mapping[str, Any], run: str) -> int | None:
    """The version of its model's trajectories with which a dump is that of a run.

    0 where its task or its rule was of another version than today's; None where it cannot be that run in any version:
    one of them was changed.

    >>> dump = {"model": "lstm", "optimizer": "adamw", "init_seed": 0}
    >>> trajectory_of(dump, identify(dump)) == trajectory_version("lstm")
    True
    """
    now, settings = _versions(dump), canonical(dump)
    for model in _around(now[0]):
        if _hash(settings, model, *now[1:]) == run:
            return model
    return 0 if any(_hash(settings, *tried) == run for tried in itertools.product(*map(_around, now))) else None


def _around(current: int) -> list[int]:
    """Versions: today's, those before it, and some of those that may come."""
    return [current, *range(1, current), *range(current + 1, current + 10)]


def _versions(dump: Mapping[str, Any]) -> tuple[int, int, int]:
    """Versions of the trajectories of a run's model, task and rule."""
    return (
        _version(MODELS, dump["model"]),
        _version(TASKS, dump.get("task", USUAL["task"])),
        _version(RULES, dump["optimizer"]),
    )


def _version(registry: Registry[Any], name: str) -> int:
    return 1 if registry.is_outside(name) else int(registry[name].trajectory)


def _hash(settings: Mapping[str, Any], model: int, task: int, rule: int) -> str:
    more = {"task_trajectory": task, "rule_trajectory": rule}  # younger than the first ids, which are without
    versions = {"trajectory": model, **{name: version for name, version in more.items() if version != 1}}
    return hashlib.sha256(json.dumps({**versions, **settings}, sort_keys=True).encode()).hexdigest()[:16]


def canonical(dump: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a dump that identify its run, see :meth:`shoal.spec.run.RunSpec.canonical`."""
    usual, operational = defaults(dump.get("task", USUAL["task"]), dump["model"], dump["optimizer"])
    return {
        name: value + 0.0 if isinstance(value, float) else value  # -0.0
        for name, value in dump.items()
        if name not in operational and (name in SEEDS or value != usual.get(name))
    }


@cache
def defaults(task: str, model: str, optimizer: str) -> tuple[Mapping[str, Any], frozenset[str]]:
    """Default settings of a run of which only the parts are named, and the names of settings outside of its identity.

    Parts from outside of shoal are left out: nothing is imported for this.
    """
    named = {"task": task, "model": model, "optimizer": optimizer}
    usual: dict[str, Any] = {"task": USUAL["task"]}
    operational = {"seed"}
    shipped = [KINDS[kind][name] for kind, name in named.items() if not KINDS[kind].is_outside(name)]
    parts: list[type[Part]] = [*shipped, *ALWAYS]
    for part in parts:
        usual |= part.usual()
        operational |= set(part.having("operational"))
    if not TASKS.is_outside(task):
        usual |= {name: value for name, value in TASKS[task].suggests.items() if name in usual}
    for name in SEEDS:
        del usual[name]
    return usual, frozenset(operational)
