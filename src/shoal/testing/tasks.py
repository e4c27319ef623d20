"""Contract of tasks."""

import atexit
import functools
import json
import os
import subprocess
import sys
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor
from torch.func import vmap

from shoal.measures import Measures
from shoal.spec import RunSpec
from shoal.spec.known import known_settings
from shoal.tasks.base import Batch, Task
from shoal.tasks.build import build_model, build_task, calling, form_period
from shoal.testing.base import Contract, assert_close, digest, stack_of
from shoal.training.step import evaluate

_ELSEWHERE = """
import json, sys, traceback
from shoal.spec import RunSpec
from shoal.tasks.build import build_task
from shoal.testing.base import digest
answers, sys.stdout = sys.stdout, sys.stderr
for line in sys.stdin:
    sys.path[:], dumped = json.loads(line)
    try:
        answer = digest(build_task(RunSpec.restored(dumped)))
    except Exception:
        answer = traceback.format_exc()
    print(json.dumps(answer), file=answers, flush=True)
"""


@functools.cache
def _elsewhere() -> subprocess.Popen[str]:
    """Process with another hash seed that answers the settings of a task with the hash of its data, for all tests."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONHASHSEED": "7"}
    command = [sys.executable, "-c", _ELSEWHERE]
    process = subprocess.Popen(command, env=environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    atexit.register(process.communicate)  # which ends it
    return process


def _digest_elsewhere(spec: RunSpec) -> str:
    """Hash of a task's data as another process builds it, or why it did not."""
    process = _elsewhere()
    assert process.stdin is not None and process.stdout is not None
    process.stdin.write(json.dumps([sys.path, spec.dump()]) + "\n")
    process.stdin.flush()
    return str(json.loads(process.stdout.readline() or '"the process ended"'))


class TaskContract(Contract):
    """Contract of a task, tested on a small run with its model.

    Attributes:
        tolerance: largest change of a score, as a share of it, with other examples or members beside it.
    """

    tolerance: ClassVar[float] = 1e-5

    @pytest.fixture
    def task(self, spec: RunSpec) -> Task:
        """Task with its data and objective."""
        return build_task(spec)

    def test_counts_are_those_of_the_data(self, spec: RunSpec, task: Task) -> None:
        """Counts, from which time and memory are estimated, agree with the data."""
        counts = spec.task_part.counts()
        assert counts.drawn == task.n_drawn
        assert counts.scored == sum(len(indices) for indices in task.scored.values())

    def test_sizes_hold_for_what_the_model_reads(self, spec: RunSpec, task: Task) -> None:
        """Tokens are below the size of the vocabulary, and sequences are not longer than the sizes."""
        read: list[tuple[Tensor, ...]] = []
        model = build_model(spec).eval()

        def reading(*inputs: Any) -> Any:
            read.append(tuple(x for x in inputs if isinstance(x, Tensor) and not x.is_floating_point()))
            return model(*inputs, **calling(spec))

        for indices in (_drawn(task), *task.scored.values()):
            task.objective(reading, _batch(task, indices))
        assert read and all(read), "the objective never gave the model a tensor of tokens"
        for inputs in read:
            for tokens, (vocabulary, length) in zip(inputs, _limits(spec), strict=False):
                assert int(tokens.min()) >= 0 and int(tokens.max()) < vocabulary
                assert tokens.shape[-1] <= length

    def test_what_is_drawn_and_scored_are_examples_of_their_splits(self, task: Task) -> None:
        """Examples are scored once; validation examples are neither drawn nor scored as training."""
        assert list(task.scored) == ["train", "valid"]
        for name, indices in task.scored.items():
            assert indices.dtype == torch.int64 and indices.ndim == 1 and len(indices) > 0, name
            assert len(set(indices.tolist())) == len(indices), f"an example of {name} is scored twice"
            assert int(indices.min()) >= 0
        train, drawn = set(task.scored["train"].tolist()), set(_drawn(task).tolist())
        valid = set(task.scored["valid"].tolist())
        assert len(drawn) == task.n_drawn > 0
        assert not valid & drawn, "training draws from what validates"
        assert not valid & train, "what validates is scored as training, too"
        for name, inside in task.groups.items():
            assert inside.dtype == torch.bool, f"group {name}"

    def test_a_batch_is_the_same_alone_and_lifted(self, task: Task) -> None:
        """Batches under ``vmap``, by which they are made for all members at once, are the same."""
        several = torch.stack([_some(task, "train"), _some(task, "train").flip(0)])  # (2, B)
        tensors = {name: torch.stack([tensor, tensor]) for name, tensor in task.tensors.items()}
        make = task.batch_in(task.form_of(several))
        lifted = vmap(make)(tensors, several)
        for place, indices in enumerate(several):
            alone = make(task.tensors, indices)
            assert set(alone) == set(lifted)
            for name, tensor in alone.items():
                assert torch.equal(lifted[name][place], tensor), name
                assert len(tensor) == len(indices), f"{name} of a batch has not one row per example"

    def test_the_objective_gives_what_the_task_measures_per_example(self, spec: RunSpec, task: Task) -> None:
        """Measures of the objective, ``(B,)`` each by name, are finite and within bounds; weights may be added."""
        measures = spec.task_part.measures()
        for split in task.scored:
            indices = _some(task, split)
            scores = self._score(spec, task, _batch(task, indices))
            weights = {name for name in scores if name.startswith("weight")}
            assert weights <= {"weight", *(f"weight_{measure.name}" for measure in measures.recorded)}
            assert set(scores) - weights == {measure.name for measure in measures.recorded}
            for name, values in scores.items():
                assert values.shape == indices.shape, f"{name} has shape {tuple(values.shape)}"
                assert values.is_floating_point() and bool(values.isfinite().all()), name
            for measure in measures.recorded:
                low, high = measure.bounds or (-torch.inf, torch.inf)
                assert bool((scores[measure.name] >= low).all() and (scores[measure.name] <= high).all()), measure.name
            for name in weights:
                assert bool((scores[name] >= 0).all()) and float(scores[name].sum()) > 0

    def test_an_example_is_scored_as_if_it_were_alone(self, spec: RunSpec, task: Task) -> None:
        """Scores of an example do not depend on the other examples of its batch."""
        indices = _some(task, "valid")
        together = self._score(spec, task, _batch(task, indices))
        for place, index in enumerate(indices):
            alone = self._score(spec, task, _batch(task, index.unsqueeze(0)))
            for name, values in alone.items():
                assert_close(together[name][place : place + 1], values, self.tolerance, f"{name} of example {index}")

    def test_another_form_moves_padding_alone(self, spec: RunSpec, task: Task) -> None:
        """Forms take the examples of the forms before them and give the same scores; steps are of forms that do."""
        if task.forms is None:
            pytest.skip("its batches have one form")
        assert len(task.forms.of) > max(int(indices.max()) for indices in (_drawn(task), *task.scored.values()))
        assert int(task.forms.of.min()) >= 0 and int(task.forms.of.max()) < len(task.forms.each)
        for number, form in enumerate(task.forms.each):
            indices = torch.cat([_drawn(task), *task.scored.values()])
            indices = indices[task.forms.of[indices] <= number][-5:]
            if len(indices):
                scores = self._score(spec, task, task.batch_in(form)(task.tensors, indices))
                expected = self._score(spec, task, _batch(task, indices))
                for name, values in expected.items():
                    assert_close(scores[name], values, self.tolerance, f"{name} in form {form}")
        stack, places = stack_of(spec), {form: number for number, form in enumerate(task.forms.each)}
        for step in range(2 * form_period(spec)):
            stack.sampler.prepare(torch.tensor([step]))
            stack.set_steps(torch.tensor([step + 1]))
            drawn, _ = stack.draw()
            assert stack.form in places and int(task.forms.of[drawn].max()) <= places[stack.form]

    def test_the_training_loss_has_a_gradient(self, spec: RunSpec) -> None:
        """Gradients of every member are finite and not 0 throughout."""
        stack = stack_of(spec, spec.replace(seed=spec.seed + 1))
        stack.at += 1
        stack.sampler.prepare(stack.steps)
        indices, counts = stack.draw()
        assert indices.shape == counts.shape and counts.dtype == torch.bool and bool(counts.any(1).all())
        loss = stack.score(indices, training=True, form=stack.form)["loss"]
        (gradient,) = torch.autograd.grad((loss * counts).sum(), stack.theta)
        assert bool(gradient.isfinite().all())
        assert bool((gradient != 0).any(1).all())

    def test_evaluations_do_not_depend_on_how_many_are_scored_at_once(self, spec: RunSpec) -> None:
        """Evaluations in batches of 1, 7 and all examples agree."""
        n = spec.task_part.counts().scored
        first: dict[str, Tensor] = {}
        for size in dict.fromkeys((n, min(7, n), 1)):
            values = evaluate(stack_of(spec.replace(eval_batch_size=size)), {})
            first = first or values
            for column in first:
                assert_close(values[column], first[column], self.tolerance, f"{column} by {size}")
        assert set(first) >= set(spec.task_part.measures().columns)

    def test_members_are_scored_as_if_they_were_alone(self, spec: RunSpec) -> None:
        """Evaluations of a member do not depend on other members, also of other splits."""
        specs = [spec.replace(seed=spec.seed + n) for n in range(3)]
        together = evaluate(stack_of(*specs), {})
        for place, member in enumerate(specs):
            alone = evaluate(stack_of(member), {})
            for column, values in alone.items():
                assert_close(together[column][place : place + 1], values, self.tolerance, f"{column} of member {place}")

    def test_the_same_settings_give_the_same_data_here_and_elsewhere(self, spec: RunSpec, task: Task) -> None:
        """Data are a function of settings and seed: a run that is resumed in another process sees the same."""
        torch.rand(1)
        assert digest(build_task(spec)) == digest(task)
        assert _digest_elsewhere(spec) == digest(task)

    def test_what_it_suggests_are_settings(self, spec: RunSpec) -> None:
        """Suggested defaults are settings of some part with allowed values, and hold where nothing else is given."""
        suggests = type(spec.task_part).suggests
        names = {name for part in spec.parts.values() for name in type(part).model_fields}
        for name, value in suggests.items():
            assert name in names | set(known_settings()), f"{name} is no setting"
            if name in names and name not in self.settings:
                assert spec.get(name) == value, name

    def test_what_is_measured_and_kept_can_be_written_down(self, spec: RunSpec) -> None:
        """Measures and the task's record survive JSON, from which both can be read where the task is missing."""
        measures = spec.task_part.measures()
        assert Measures.from_json(json.loads(json.dumps(measures.to_json()))) == measures
        record = spec.task_part.kept()
        assert json.loads(json.dumps(record)) == record

    def _score(self, spec: RunSpec, task: Task, batch: Batch) -> dict[str, Tensor]:
        model = build_model(spec).eval()
        with torch.no_grad():
            return task.objective(lambda *x: model(*x, **calling(spec)), batch)


def _limits(spec: RunSpec) -> list[tuple[int, int]]:
    """Vocabulary size and positions of each tensor of tokens that the model is given, in their order."""
    sizes = spec.sizes()
    target = (sizes.vocabulary_size, sizes.sequence_length)
    if spec.model_part.reads == "sequence":
        return [target] * 8
    assert sizes.source_vocabulary_size is not None and sizes.source_length is not None
    return [(sizes.source_vocabulary_size, sizes.source_length), target]


def _batch(task: Task, indices: Tensor) -> Batch:
    return task.batch_in(task.form_of(indices))(task.tensors, indices)


def _drawn(task: Task) -> Tensor:
    return torch.arange(task.drawn) if isinstance(task.drawn, int) else task.drawn


def _some(task: Task, split: str) -> Tensor:
    """Indices of a few examples of a split, from its beginning and its end."""
    indices = task.scored[split]
    return torch.cat([indices[:3], indices[3:][-2:]])
