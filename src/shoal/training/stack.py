"""Stack: the members of a cohort as one set of tensors with a leading axis ``R``.

Parameters are one flat leaf ``theta`` ``(R, P)``; the model is written for one member and lifted over the stack, by
``torch.func`` or by the faster engines of :mod:`shoal.fast`. Every random number comes from a member's own keys, so
that a member does not depend on its neighbours.
"""

import math
import sys
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.fast.engine import choose_scorer, fused_update
from shoal.fast.scorer import CompiledScorer, Members, unflattened
from shoal.fast.windows import WindowScorer
from shoal.keyed import fold
from shoal.models.dropout import Dropout
from shoal.rules.layout import Layout, tied_names
from shoal.rules.schedules import schedule_of
from shoal.rules.updates import Hyper
from shoal.tasks.base import Batch, Task, example_shares
from shoal.tasks.build import build_model, build_task, calling, initial_model
from shoal.tasks.sampling import Form, FormSampler
from shoal.training.forms import check_forms, in_order, passes_of
from shoal.training.frozen import differing_buffers, of_each, shared_by_all, with_one_table
from shoal.training.launches import Launches

if TYPE_CHECKING:
    from shoal.training.plan import Cohort

ORDER_STREAM, DROPOUT_STREAM = 1, 2  # purposes that share order_seed


class Stack:
    """Stack of every member's parameters, optimizer state, hyper-parameters and data.

    Attributes:
        theta: parameters, ``(R, P)``, float32, a leaf that requires its gradient.
        optimizer_state: state of the optimizer, ``(R, P)`` each.
        hyper: hyper-parameters, one number per member, ``(R, 1)`` each; the learning rate before its schedule.
        schedule: factor of the learning rate at each step, or None.
        steps: number of steps taken by each member, ``(R,)`` int64, on the host.
        last_steps: the step at which each member ends, ``(R,)`` int64, on the host.
        layout: place of each parameter in ``theta``, and its role.
        measured: names of the task's measures; other outputs of its objective are not recorded.
        frozen: parameters that do not train, by name: one for all members.
        frozen_each: those in which members differ, by name, ``(R, *shape)`` each.
        per_member: buffers in which members may differ, by name, ``(R, ...)`` each.
        passes: indices of all scored examples, split after split, in the parts in which they are evaluated, and the
            form of each part.
        at: step that each member takes, and then has taken, ``(R,)`` int64, on the device.
        ends: ``last_steps`` on the device.
        best: loss and step of each member's best evaluation, number of evaluations since, and its parameters; empty
            where no setting asks for them.
        alive: mask of members that still learn, ``(R,)`` bool.
        diverged_at: step at which a member's loss was no longer finite, ``(R,)`` int64, -1 where it is finite.
        scores: scores of the last evaluation, by column, ``(R,)`` float64 each.
        weights: masks of the evaluated examples of each split and each group within it, ``(R, N)`` bool each.

    Args:
        cohort: the members.
        device: device of the tensors.
        engine: engine of the models, one of :data:`shoal.fast.engine.ENGINES`.
        products: library of matrix products; the one that is faster here where not given.
    """

    def __init__(
        self, cohort: "Cohort", device: torch.device, engine: str = "plain", products: str | None = None
    ) -> None:
        self.cohort, self.device, self.engine = cohort, device, engine
        tasks = [build_task(spec) for spec in cohort.members]
        tables = cohort.shared.task_part.frozen_tables(cohort.shared)
        models = with_one_table(map(initial_model, cohort.members), tables)
        self.task = tasks[0]
        self.measured = [measure.name for measure in cohort.shared.task_part.measures().recorded]
        self.model = models[0].to(device)
        self.calling = calling(cohort.shared)
        self.layout = Layout.of(self.model, cohort.shared.model_part.roles(self.model), device)
        self.tied = tied_names(self.model)
        self.theta = torch.stack([_flat(model) for model in models]).to(device).requires_grad_()  # (R, P)
        self.frozen = shared_by_all(models, device, tables)
        self.frozen_each = of_each(models, device, [name for name in tables if name not in self.frozen])
        differing = differing_buffers(self.model)
        self.per_member = {  # (R, ...) each
            name: torch.stack([model.get_buffer(name) for model in models]).to(device) for name in differing
        }
        self._place_optimizer()
        self.steps = torch.zeros(len(cohort), dtype=torch.int64)
        self.last_steps = torch.tensor([spec.n_steps for spec in cohort.members])
        self.at = torch.zeros_like(self.steps, device=device)
        self.ends = self.last_steps.clone().to(device)
        self.alive = torch.ones(len(cohort), dtype=torch.bool, device=device)
        self.diverged_at = torch.full((len(cohort),), -1, device=device)
        self._place_best()
        self._place_data(tasks)
        self._place_keys()
        frozen = {name: tensor.expand(len(cohort), *tensor.shape) for name, tensor in self.frozen.items()}
        parts = (cohort.shared, self.model, self.task, self.tensors, self.theta, self.layout.shapes)
        members = Members(*parts, {**frozen, **self.frozen_each}, self.per_member)
        self.scorer = choose_scorer(engine, members, products)
        self.launches = Launches(device)
        # True where one member's training pass is computed without lifting it, by form and number of examples
        self.unlifted: dict[tuple[Form | None, int], bool] = {}
        self.scores: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    def _place_optimizer(self) -> None:
        shared = self.cohort.shared
        self.update = shared.rule.build()
        self.fused_update = fused_update(self.engine, shared, self.device)
        self.optimizer_state = {name: torch.zeros_like(self.theta.detach()) for name in shared.rule.state}  # (R, P)
        self.schedule = schedule_of(self.cohort.members, self.device)
        self.hyper = {name: self._column(name) for name in (*shared.rule.numbers(), "clip")}
        if not shared.decay_all:
            self.hyper["weight_decay"] = self.hyper["weight_decay"] * self.layout.decayed  # (R, P)

    def _place_best(self) -> None:
        """Allocate the record of each member's best evaluation, where settings ask for it: on the host but theta."""
        shared, R = self.cohort.shared, len(self.cohort)
        self.best: dict[str, Tensor] = {}
        if shared.keep_best or shared.patience is not None:
            zeros = torch.zeros(R, dtype=torch.int64)
            self.best = {"loss": torch.full((R,), math.inf, dtype=torch.float64), "step": zeros, "since": zeros.clone()}
        if self.cohort.shared.keep_best:
            self.best["theta"] = self.theta.detach().clone()

    def _column(self, name: str) -> Tensor:
        values = [[float(getattr(spec, name))] for spec in self.cohort.members]
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _place_data(self, tasks: list[Task]) -> None:
        check_forms(self.cohort.shared.task, tasks)
        names = tasks[0].tensors
        self.tensors = {name: self._stacked([task.tensors[name] for task in tasks]) for name in names}  # (R, N, ...)
        drawn = [task.drawn for task in tasks]
        self.n_drawn = torch.tensor([task.n_drawn for task in tasks], device=self.device)  # (R,)
        # (R, n) indices, where they are not the numbers from 0 on
        self.drawn = None if isinstance(drawn[0], int) else self._stacked([i for i in drawn if not isinstance(i, int)])
        self.scored = {}  # name -> (R, n) indices
        self.counts = {}  # name -> (R, n) mask of those that are no padding
        for split in tasks[0].scored:
            indices = [in_order(task, task.scored[split]) for task in tasks]
            self.scored[split] = self._stacked(indices)
            self.counts[split] = self._stacked([torch.ones_like(i, dtype=torch.bool) for i in indices])
        self.passes = passes_of(tasks[0], self.scored, self.cohort.shared.eval_batch_size)
        self.groups = {name: self._stacked([task.groups[name] for task in tasks]) for name in tasks[0].groups}

    def _stacked(self, tensors: list[Tensor]) -> Tensor:
        """Stack ``R`` tensors ``(n_r, ...)`` as ``(R, max n, ...)``, padded with zeros; a shared one is not copied."""
        if all(tensor is tensors[0] for tensor in tensors):
            return tensors[0].to(self.device).expand(len(tensors), *tensors[0].shape)
        longest = max(len(tensor) for tensor in tensors)
        out = tensors[0].new_zeros((len(tensors), longest, *tensors[0].shape[1:]))
        for row, tensor in zip(out, tensors, strict=True):
            row[: len(tensor)] = tensor
        return out.to(self.device)

    def _place_keys(self) -> None:
        seeds = torch.tensor([spec.order_seed for spec in self.cohort.members], device=self.device)  # (R,)
        self.dropout_keys = fold(fold(torch.zeros_like(seeds), seeds), DROPOUT_STREAM)
        order_keys = fold(fold(torch.zeros_like(seeds), seeds), ORDER_STREAM)
        self.sampler = self.task.sampler(order_keys, self.n_drawn, self.cohort.shared.train_batch_size)
        self._drawn: tuple[Tensor, Tensor] | None = None  # the last positions, and their examples
        self.dropouts = [
            f"{name}.key" for name, module in self.model.named_modules() if isinstance(module, Dropout) and module.p > 0
        ]

    def set_steps(self, steps: Tensor) -> None:
        """Set the number of steps that the members have taken, ``(R,)``."""
        self.steps.copy_(steps)
        self.at.copy_(steps)

    def set_last_steps(self, last_steps: Tensor) -> None:
        """Set the steps at which the members end, ``(R,)``."""
        self.last_steps.copy_(last_steps)
        self.ends.copy_(last_steps)

    @property
    def form(self) -> Form | None:
        """Form of the batches of the prepared steps; None where the task has no forms."""
        return None if self.task.forms is None else cast(FormSampler, self.sampler).form

    @property
    def step_name(self) -> Hashable:
        """Name of the work of the prepared steps, for :class:`~shoal.training.launches.Launches`."""
        if self.task.forms is None:
            return "step"
        return ("step", self.form, cast(FormSampler, self.sampler).size)

    def draw(self) -> tuple[Tensor, Tensor]:
        """Training examples of the step that members are at, ``(R, B)``, and the mask of those that count.

        Where they are the same at every step, the same tensor is returned.
        """
        positions, counts = self.sampler(self.at)  # (R, B), (R, B)
        if self.drawn is None:
            return positions, counts
        if self._drawn is None or self._drawn[0] is not positions:
            self._drawn = positions, self.drawn.gather(1, positions)
        return self._drawn[1], counts

    def hyper_at(self, step: Tensor) -> Hyper:
        """Hyper-parameters at each member's step, ``(R, 1)``, counted from 1."""
        return self.hyper if self.schedule is None else {**self.hyper, "lr": self.hyper["lr"] * self.schedule(step)}

    def parameters(self) -> dict[str, Tensor]:
        """Views of ``theta`` by parameter name, ``(R, *shape)`` each."""
        return unflattened(self.theta, self.layout.shapes)

    def score(self, indices: Tensor, training: bool = False, form: Form | None = None) -> dict[str, Tensor]:
        """Objective of every member on its own examples: the task's measures, per example, ``(R, B)`` each.

        Args:
            indices: examples of each member, ``(R, B)``.
            training: true for training mode: dropout by keys of the members' steps, and the loss that training
                minimises.
            form: form of the batch, where the task has forms.
        """
        if self.scorer is not None:
            return self.scorer(indices, training, form, self._dropout_keys() if training else {})
        self.model.train(training)
        objective = (self.task.training_objective if training else None) or self.task.objective
        keys = {**self.per_member, **(self._dropout_keys() if training else {})}

        each = self.frozen_each

        def one(parameters: Mapping[str, Tensor], keys: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
            state = {**self.frozen, **parameters, **keys}
            return objective(lambda *x: functional_call(self.model, state, x, self.calling), batch)

        batch, known = self.task.batch_in(form), (form, indices.shape[1])
        lifted = partial(vmap(one), {**each, **self.parameters()}, keys, vmap(batch)(self.tensors, indices))
        if not training or len(self.cohort) > 1 or self.device.type != "cpu" or self.unlifted.get(known) is False:
            return lifted()
        first = {name: tensor[0] for name, tensor in self.tensors.items()}
        single = {name: tensor.squeeze(0) for name, tensor in {**each, **self.parameters()}.items()}
        alone = partial(one, single, {name: key[0] for name, key in keys.items()}, batch(first, indices[0]))
        if known not in self.unlifted:
            self.unlifted[known] = self._rounds_alike(lifted, alone)
        return {name: value.unsqueeze(0) for name, value in alone().items()} if self.unlifted[known] else lifted()

    def gradient(self, indices: Tensor, counts: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """Scores of a training step, ``(R, B)`` each, and the gradient of every member's loss, ``(R, P)``.

        The gradient is valid until the next one is computed.

        Args:
            indices: examples of each member, ``(R, B)``.
            counts: mask of those that count, ``(R, B)``.
        """
        if isinstance(self.scorer, CompiledScorer | WindowScorer):
            return self.scorer.gradient_of(indices, counts, self.form, self._dropout_keys())
        scores = self.score(indices, training=True, form=self.form)
        shares = example_shares(counts, scores.get("weight"))
        (gradient,) = torch.autograd.grad(scores["loss"], self.theta, shares)  # members do not share parameters
        return scores, gradient

    def _rounds_alike(self, lifted: Callable[[], dict[str, Tensor]], alone: Callable[[], dict[str, Tensor]]) -> bool:
        """Return True if a single member's loss and gradient have the same bits without being lifted.

        That is faster, but the rounding of some products of small matrices differs, depending on their shapes alone.
        """
        losses = [lifted()["loss"], alone()["loss"].unsqueeze(0)]
        gradients = [torch.autograd.grad(loss, self.theta, torch.ones_like(loss))[0] for loss in losses]
        return torch.equal(*losses) and torch.equal(*gradients)

    def _dropout_keys(self) -> dict[str, Tensor]:
        if not self.dropouts:
            return {}
        at_step = fold(self.dropout_keys, self.at)  # (R,)
        return {name: fold(at_step, site) for site, name in enumerate(self.dropouts)}

    def member(self, index: int, theta: Tensor | None = None) -> dict[str, Tensor]:
        """State dict of one member's model, buffers included, on the CPU; with other parameters if given."""
        persistent = self.model.state_dict().keys()  # without buffers that are made anew with every model
        state = {
            name: buffer.detach().cpu().clone() for name, buffer in self.model.named_buffers() if name in persistent
        }
        flat = (self.theta if theta is None else theta).detach()[index]
        state |= {name: tensor.cpu().clone() for name, tensor in self.frozen.items()}
        state |= {name: tensor[index].cpu().clone() for name, tensor in self.frozen_each.items()}
        state |= {p.name: flat[p.start : p.start + p.size].reshape(p.shape).cpu().clone() for p in self.layout}
        return state | {alias: state[name].clone() for alias, name in self.tied.items()}

    def keep_best(self, losses: Tensor, evaluated: Tensor) -> Tensor:
        """Update the best evaluations, and return the mask of the members whose patience is at its end, ``(R,)``.

        Args:
            losses: validation losses of this evaluation, ``(R,)``.
            evaluated: mask of the evaluated members, ``(R,)`` bool.
        """
        if not self.best:
            return torch.zeros_like(evaluated)
        better = evaluated & (losses < self.best["loss"])  # never where it is not a number
        self.best["loss"] = losses.where(better, self.best["loss"])
        self.best["step"] = self.steps.where(better, self.best["step"])
        self.best["since"] = (self.best["since"] + evaluated).where(~better, 0)
        if "theta" in self.best:
            moved = better.to(self.device).unsqueeze(1)
            self.best["theta"] = self.theta.detach().where(moved, self.best["theta"])
        return self.best["since"] >= (self.cohort.shared.patience or sys.maxsize)

    def best_member(self, index: int) -> tuple[int, dict[str, Tensor]] | None:
        """Step and model of a member's lowest validation loss, where they are kept and not its last."""
        if "theta" not in self.best or int(self.best["step"][index]) == int(self.steps[index]):
            return None
        return int(self.best["step"][index]), self.member(index, self.best["theta"])

    def state(self) -> dict[str, Tensor]:
        """State that training changes, for a checkpoint, ``(R, ...)`` each."""
        optimizer = {f"optimizer.{name}": tensor for name, tensor in self.optimizer_state.items()}
        where = {"steps": self.steps, "last_steps": self.last_steps, "diverged_at": self.diverged_at}
        best = {f"best.{name}": tensor for name, tensor in self.best.items()}
        return {"theta": self.theta.detach(), "alive": self.alive, **where, **optimizer, **best}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Load a state into the first members; it may be of fewer members than this stack has."""
        for name, tensor in self.state().items():
            tensor[: len(state[name])].copy_(state[name])
        self.at.copy_(self.steps)
        self.ends.copy_(self.last_steps)

    def built_model(self, index: int) -> nn.Module:
        """Stand-alone model with the member's current parameters."""
        model = build_model(self.cohort.members[index])
        model.load_state_dict(self.member(index))
        return model.eval()


def _flat(model: nn.Module) -> Tensor:
    """Flat parameters that train, one after the other, ``(P,)``."""
    return torch.cat([torch.zeros(0), *(p.detach().cpu().flatten() for p in model.parameters() if p.requires_grad)])
