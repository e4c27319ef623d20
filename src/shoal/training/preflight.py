"""Preflight of parts from outside of shoal: a trial on a few examples before anything of their runs is written."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor

from shoal.errors import UserError
from shoal.lab.frames import ALWAYS
from shoal.lab.shapes import Member
from shoal.measures import SPLITS
from shoal.registry import KINDS, short
from shoal.spec import RunSpec
from shoal.tasks.build import counts_of
from shoal.training.plan import Cohort, plan
from shoal.training.stack import Stack

_EXAMPLES = 3
_TRIED: set[str] = set()  # ids of cohorts


def check_parts(specs: Iterable[RunSpec], device: torch.device) -> None:
    """Raise :class:`UserError` for a part from outside of shoal that breaks its contract.

    One or two runs of each shape are tried, once in a process; the full test suites are in
    :mod:`shoal.testing`.
    """
    outside = [spec for spec in specs if any(KINDS[kind].is_outside(name) for kind, name in spec.names.items())]
    for cohort in plan(outside):
        if cohort.id in _TRIED:
            continue
        _check_record(cohort.shared)
        with _in_one_line(cohort.shared, "cannot be built"):
            Stack(Cohort(cohort.members[:2]), device)  # two, which must agree in what they share
            stack = Stack(Cohort(cohort.members[:1]), device)
        if set(stack.scored) != set(SPLITS):
            raise UserError(
                f"task {short(cohort.shared.task)} must score the splits {' and '.join(SPLITS)}, got "
                f"{' '.join(stack.scored) or 'none'}"
            )
        _check_counts(stack)
        _check_scores(stack)
        _check_update(stack)
        _TRIED.add(cohort.id)


def check_final_files(specs: Iterable[RunSpec]) -> None:
    """Raise :class:`UserError` for a file that would be read only when the runs are done, and cannot be or is wrong."""
    different: dict[tuple[Any, ...], Any] = {}
    for spec in specs:
        part = spec.task_part
        files = tuple(str(getattr(part, name)) for name in part.having("operational"))
        different.setdefault((type(part), files), part)
    for part in different.values():
        part.check_final()


def _check_record(spec: RunSpec) -> None:
    """Check that a lab can read again the settings that it would write."""
    try:
        Member.model_validate({"run": spec.id, "spec": spec.dump()})
    except ValidationError as error:
        name = next((str(place) for place in error.errors()[0]["loc"] if str(place) in set(spec)), "")
        raise UserError(
            f"setting {name!r} of this run cannot be written down as {spec.get(name)!r}: a lab keeps numbers, true or "
            "false, words, and lists of small integers or of words"
        ) from None
    if taken := sorted(set(spec) & {*ALWAYS, *spec.task_part.measures().columns}):
        raise UserError(f"setting {taken[0]!r} has the name of a recorded column: it needs another")


def _check_counts(stack: Stack) -> None:
    """Check the task's counts of its data, by which time and memory are estimated."""
    spec = stack.cohort.shared
    counts = counts_of(spec)
    actual = {"drawn": int(stack.n_drawn[0]), "scored": sum(n.shape[1] for n in stack.scored.values())}
    for name, n in actual.items():
        if (counted := getattr(counts, name)) != n:
            raise UserError(f"task {short(spec.task)} counts {counted:,} {name} examples, and there are {n:,}")


def _check_scores(stack: Stack) -> None:
    """Check that the objective gives the task's measures, in training and in evaluation."""
    spec = stack.cohort.shared
    measures = spec.task_part.measures()
    with _in_one_line(spec, "fails on a few examples"):
        stack.sampler.prepare(stack.steps)
        drawn = stack.draw()[0][:, :_EXAMPLES]  # (1, B)
        scored = [indices[:, :_EXAMPLES] for indices in stack.scored.values()]
        asked = [(drawn, True, stack.form), *((some, False, stack.task.form_of(some[0])) for some in scored)]
        results = [(stack.score(indices, training, form), indices.shape) for indices, training, form in asked]
    for scores, shape in results:
        _check_shapes(scores, shape, spec)
    for scores, _ in results[1:]:
        names = {measure.name for measure in measures.recorded}
        if lacking := sorted(names - set(scores)):
            raise UserError(
                f"task {short(spec.task)} measures {', '.join(sorted(names))}, and its objective gives no {lacking[0]}"
            )
        if more := sorted(set(scores) - names - {"weight"}):
            raise UserError(
                f"the objective of task {short(spec.task)} gives {more[0]}, which is none of the task's measures: "
                f"{', '.join(sorted(names))}"
            )


def _check_shapes(scores: Mapping[str, Tensor], shape: torch.Size, spec: RunSpec) -> None:
    whose = f"the objective of task {short(spec.task)}"
    if "loss" not in scores:
        raise UserError(f"{whose} must give a loss, got {', '.join(sorted(scores)) or 'nothing'}")
    for name, values in scores.items():
        if values.shape != shape:
            shape_of_example, B = tuple(values.shape[1:]), shape[1]
            raise UserError(
                f"{whose} must give {name} as one number per example, ({B},) of {B}, got shape {shape_of_example}"
            )
        if not values.is_floating_point():
            raise UserError(f"{whose} must give {name} as floating-point numbers, got {values.dtype}")


def _check_update(stack: Stack) -> None:
    """Check that the rule takes a step with the state and the numbers that it names."""
    spec = stack.cohort.shared
    theta = stack.theta.detach().clone()
    state = {name: tensor.clone() for name, tensor in stack.optimizer_state.items()}
    step = torch.ones(1, 1, dtype=torch.float64, device=theta.device)
    with _in_one_line(spec, "cannot take a step", "optimizer"):
        stack.update(theta, torch.ones_like(theta), state, stack.hyper_at(step), step, stack.layout)
    for name, tensor in {"parameters": theta, **state}.items():
        known = name == "parameters" or name in stack.optimizer_state
        if not known or tensor.shape != stack.theta.shape:
            raise UserError(
                f"optimizer {short(spec.optimizer)} must keep {' '.join(spec.rule.state) or 'nothing'} as it says, "
                f"(R, P) each, got {name} of shape {tuple(tensor.shape)}"
            )


@contextmanager
def _in_one_line(spec: RunSpec, what: str, *kinds: str) -> Iterator[None]:
    """Context that turns an error of foreign code into a :class:`UserError` of one line."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        whose = " with ".join(f"{kind} {short(spec.names[kind])}" for kind in kinds or ("task", "model"))
        reason = " ".join(str(error).split())
        raise UserError(f"{whose} {what}: {type(error).__name__}: {reason}") from error
