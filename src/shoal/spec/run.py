"""The settings of all concerns as one value with a name of its own."""

import hashlib
import json
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import ValidationError

from shoal.equations import check_answers
from shoal.errors import UserError
from shoal.spec.data import DataSettings
from shoal.spec.fields import check_choices, check_counts, check_float32, one_line
from shoal.spec.model import ModelSettings
from shoal.spec.training import (
    FLOATS,
    SEEDS,
    OptimizerSettings,
    SeedSettings,
    TrainingSettings,
    check_precision,
    check_warmup,
)

# One is raised when the same spec of that model would give another trajectory than before, so that old records are not
# taken for new ones. lstm 2: gates start from Xavier's distribution, as in the practical's code.
TRAJECTORY_VERSIONS = {"lstm": 2, "gpt": 1}
# What does not change the trajectory or the record of a finished run, and so is no part of its identity.
_OPERATIONAL = ("eval_batch_size", "save_statistic_step")


# pydantic lists the fields of the last base first
class RunSpec(SeedSettings, TrainingSettings, OptimizerSettings, ModelSettings, DataSettings):
    """One run.

    Settings left at None take the value that fits the others (``hidden_size`` that of ``embedding_size``, the seeds
    that of ``seed``, ``weight_decay`` 1 for AdamW). A setting that does not apply to the model or optimizer is refused.

    >>> RunSpec(model="gpt", seed=0).num_heads
    4
    >>> RunSpec(seed=0) == RunSpec(seed=0, weight_decay=1.0)
    True
    """

    def __init__(self, **settings: Any) -> None:
        self._read(settings)
        # what was trained before this was refused is what it is: see restored
        assert self.q is not None
        check_answers(self.p, self.q, self.operator)
        check_float32(self, FLOATS)

    def _read(self, settings: Mapping[str, Any]) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise UserError(one_line(error, RunSpec)) from None

    def model_post_init(self, _context: object) -> None:
        check_choices(self)
        check_counts(self, [name for name in type(self).model_fields if name not in SeedSettings.model_fields])
        self.resolve_model()
        self.resolve_optimizer()
        self.resolve_seeds()
        check_precision(self.dropout, self.precision)
        check_warmup(self.warmup_steps, self.warmup_from_zero, self.n_steps)
        self.resolve_data()

    @cached_property
    def id(self) -> str:
        """Name of the run: 16 hexadecimal digits, a hash of the canonical form."""
        return identify(self.model_dump(mode="json"))

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "RunSpec":
        """Another run: what was asked for, changed. Unlike pydantic's, checked, and derived settings are derived again.

        >>> RunSpec(seed=0).model_copy(update={"seed": 9}).init_seed
        9
        """
        return RunSpec(**{**self.given(), **(update or {})})

    def canonical(self) -> dict[str, Any]:
        """What identifies the run: every setting that differs from the default of its model and optimizer.

        Settings at their defaults are left out so that a setting added later does not rename the runs made before it.
        """
        return _canonical(self.model_dump(mode="json"))

    def given(self) -> dict[str, Any]:
        """The settings that were asked for, as they were asked for; the rest are defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @classmethod
    def restored(cls, dump: Mapping[str, Any]) -> "RunSpec":
        """The spec of a :meth:`model_dump`, with what it had derived from other settings derived again.

        So that a grid over a spec read from a lab varies the seeds that follow ``seed``, as it would have at first.
        What was trained can be read, also where it would not be begun today: equations that contradict each other, or
        numbers that float32 does not hold.
        """
        source = {"q": "p", "hidden_size": "embedding_size", **dict.fromkeys(SEEDS, "seed")}
        spec = cls.__new__(cls)
        spec._read({name: v for name, v in dump.items() if name not in source or v != dump.get(source[name])})
        return spec

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSpec) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)


def identify(dump: Mapping[str, Any], trajectory: int | None = None) -> str:
    """Id of the run of a ``model_dump(mode="json")``, as a lab holds it: a hash, for which nothing is validated.

    Args:
        dump: its settings; those that are younger than the record need not be there.
        trajectory: version of its model's trajectories; today's, see :data:`TRAJECTORY_VERSIONS`, when not given.
    """
    version = TRAJECTORY_VERSIONS[dump["model"]] if trajectory is None else trajectory
    text = json.dumps({"trajectory": version, **_canonical(dump)}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def trajectory_of(dump: Mapping[str, Any], run: str) -> int | None:
    """The version of trajectories with which a dump is that of a run; None where it cannot be: one of them was changed.

    >>> trajectory_of(RunSpec(seed=0).model_dump(mode="json"), RunSpec(seed=0).id) == TRAJECTORY_VERSIONS["lstm"]
    True
    """
    current = TRAJECTORY_VERSIONS[dump["model"]]
    versions = (current, *range(1, current), *range(current + 1, current + 10))
    return next((version for version in versions if identify(dump, version) == run), None)


def _canonical(dump: Mapping[str, Any]) -> dict[str, Any]:
    usual = defaults(dump["model"], dump["optimizer"])
    return {name: v for name, v in _identity(dump).items() if name in SEEDS or v != usual.get(name)}


def _identity(dump: Mapping[str, Any]) -> dict[str, Any]:
    dropped = (*_OPERATIONAL, "seed")
    return {name: v + 0.0 if isinstance(v, float) else v for name, v in dump.items() if name not in dropped}  # -0.0


def defaults(model: str, optimizer: str) -> Mapping[str, Any]:
    """What the settings that identify a run are when only its model and optimizer are given."""
    key = (model, optimizer)
    if key not in _DEFAULTS:
        _DEFAULTS[key] = _identity(RunSpec(model=model, optimizer=optimizer).model_dump(mode="json"))
        del _DEFAULTS[key]["model"], _DEFAULTS[key]["optimizer"]
    return _DEFAULTS[key]


_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {}
