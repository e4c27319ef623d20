"""What a run is called: a hash of the settings in which it differs from the defaults of its parts."""

import hashlib
import json
from collections.abc import Mapping
from functools import cache
from typing import Any

from shoal.registry import KINDS, MODELS, TASKS, USUAL
from shoal.spec.fields import Part
from shoal.spec.training import ALWAYS, SEEDS


def identify(dump: Mapping[str, Any], trajectory: int | None = None) -> str:
    """Id of the run of a :meth:`shoal.spec.run.RunSpec.dump`, as a lab holds it: a hash; nothing is validated for it.

    Args:
        dump: its settings; those that are younger than the record need not be there.
        trajectory: version of its model's trajectories; today's when not given.
    """
    version = trajectory_version(dump["model"]) if trajectory is None else trajectory
    text = json.dumps({"trajectory": version, **canonical(dump)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trajectory_version(model: str) -> int:
    """Of a model's trajectories; 1 of one from outside, whose source tells versions apart."""
    return 1 if MODELS.is_outside(model) else MODELS[model].trajectory


def trajectory_of(dump: Mapping[str, Any], run: str) -> int | None:
    """The version of trajectories with which a dump is that of a run; None where it cannot be: one of them was changed.

    >>> dump = {"model": "lstm", "optimizer": "adamw", "init_seed": 0}
    >>> trajectory_of(dump, identify(dump)) == trajectory_version("lstm")
    True
    """
    current = trajectory_version(dump["model"])
    versions = (current, *range(1, current), *range(current + 1, current + 10))
    return next((version for version in versions if identify(dump, version) == run), None)


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
    """What the settings of a run are when only its parts are named, and which of them are no part of its identity.

    Parts from outside of shoal are left out: nothing is imported for this.
    """
    named = {"task": task, "model": model, "optimizer": optimizer}
    usual: dict[str, Any] = {"task": USUAL["task"]}
    operational = {"seed"}
    own = [KINDS[kind][name] for kind, name in named.items() if not KINDS[kind].is_outside(name)]
    parts: list[type[Part]] = [*own, *ALWAYS]
    for part in parts:
        usual |= part.usual()
        operational |= set(part.having("operational"))
    if not TASKS.is_outside(task):
        usual |= {name: value for name, value in TASKS[task].suggests.items() if name in usual}
    for name in SEEDS:
        del usual[name]
    return usual, frozenset(operational)
