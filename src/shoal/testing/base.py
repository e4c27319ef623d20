"""Base of the contract suites: a small run, and data that can be compared."""

import hashlib
import json
from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from shoal.lab.shapes import Member
from shoal.spec import RunSpec
from shoal.tasks.base import Task
from shoal.training.plan import Cohort, plan
from shoal.training.stack import Stack

CPU = torch.device("cpu")


class Contract:
    """Contract of any part, tested on a small run.

    Attributes:
        settings: settings of the run, as :class:`shoal.RunSpec` takes them; small enough to train in a second.
    """

    settings: ClassVar[Mapping[str, Any]] = {}

    @pytest.fixture
    def spec(self) -> RunSpec:
        """Spec of the run."""
        return RunSpec(**self.settings)

    def test_the_settings_can_be_written_down_and_read_again(self, spec: RunSpec) -> None:
        """Settings in a lab are JSON of the types that it reads, and give the same run."""
        dump = json.loads(json.dumps(spec.dump(), allow_nan=True))
        Member.model_validate_json(json.dumps({"run": spec.id, "spec": dump}))
        again = RunSpec.restored(dump)
        assert again.id == spec.id
        assert again.dump() == spec.dump()
        assert spec.replace(seed=spec.seed + 1).id != spec.id

    def test_every_setting_says_what_it_allows(self, spec: RunSpec) -> None:
        """Every setting has a description, from which ``--help`` and messages about mistakes are made."""
        for part in spec.parts.values():
            for name, field in type(part).model_fields.items():
                assert field.description, f"{name} of {type(part).__name__} has no description: use setting(...)"


def cohort_of(*specs: RunSpec) -> Cohort:
    """Cohort of runs that fit together."""
    cohorts = plan(specs)
    assert len(cohorts) == 1, "members differ in a setting that is not marked as one of members"
    return cohorts[0]


def stack_of(*specs: RunSpec, engine: str = "plain") -> Stack:
    """Stack of runs that fit together, on the CPU."""
    return Stack(cohort_of(*specs), CPU, engine)


def digest(task: Task) -> str:
    """Hash of the data of a task: tensors, groups, drawn and scored examples."""
    drawn = torch.arange(task.drawn) if isinstance(task.drawn, int) else task.drawn
    every: dict[str, Tensor] = {"drawn": drawn}
    for kind in ("tensors", "scored", "groups"):
        every |= {f"{kind} {name}": tensor for name, tensor in getattr(task, kind).items()}
    out = hashlib.sha256()
    for name, tensor in sorted(every.items()):
        out.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        out.update(tensor.contiguous().numpy().tobytes())
    return out.hexdigest()


def assert_close(found: Tensor, expected: Tensor, tolerance: float, what: str) -> None:
    """Assert that the largest difference is at most a share of the largest value, or that share of 1."""
    assert found.shape == expected.shape, f"{what}: shapes {tuple(found.shape)} and {tuple(expected.shape)}"
    scale = max(1.0, float(expected.detach().abs().max())) if expected.numel() else 1.0
    apart = float((found.detach() - expected.detach()).abs().max()) if expected.numel() else 0.0
    assert apart <= tolerance * scale, f"{what}: {apart:.3g} apart, at most {tolerance * scale:.3g}"
