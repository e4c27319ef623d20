"""The members of a cohort as one set of tensors with a leading axis ``R``.

Parameters are one flat leaf ``theta`` ``(R, P)``; the model is written for one member and lifted over the stack, by
``torch.func`` or by the faster engines of :mod:`shoal.fast`. Every random number comes from a member's own keys, so a
member does not notice its neighbours.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.fast.engine import choose_scorer, fused_update
from shoal.fast.scorer import Members, unflattened
from shoal.keyed import fold
from shoal.models.dropout import Dropout
from shoal.tasks.base import Batch, Task
from shoal.tasks.build import build_model, build_task
from shoal.training.launches import Launches
from shoal.training.muon import Partition
from shoal.training.optimizers import OPTIMIZERS, Hyper
from shoal.training.schedules import schedule_of

if TYPE_CHECKING:
    from shoal.training.plan import Cohort

ORDER_STREAM, DROPOUT_STREAM = 1, 2  # purposes that share order_seed


class Stack:
    """Parameters, optimizer state, hyper-parameters and data of every member of a cohort.

    Attributes:
        theta: parameters, ``(R, P)``, float32, a leaf that requires its gradient.
        optimizer_state: as the optimizer keeps it, ``(R, P)`` each.
        hyper: one number per member, ``(R, 1)`` each; the learning rate before its schedule.
        schedule: what the learning rate is multiplied by at each step, or None.
        steps: steps taken by each member, ``(R,)`` int64, on the host.
        last_steps: the step at which each member ends, ``(R,)`` int64, on the host.
        passes: indices of all examples, split after split, in the parts in which they are evaluated.
        at: the step that each member takes, and then has taken, ``(R,)`` int64, on the device.
        ends: ``last_steps`` on the device.
        alive: members still learning, ``(R,)`` bool.
        diverged_at: the step at which a member's loss was no longer finite, ``(R,)`` int64, -1 where it was.
        scores: of the last evaluation, by column, ``(R,)`` float64 each.
        weights: which evaluated examples belong to each split and each group within it, ``(R, N)`` bool each.

    Args:
        cohort: the members.
        device: where the tensors live.
        engine: how the models are computed, one of :data:`shoal.fast.engine.ENGINES`.
    """

    def __init__(self, cohort: "Cohort", device: torch.device, engine: str = "plain") -> None:
        self.cohort, self.device, self.engine = cohort, device, engine
        tasks = [build_task(spec) for spec in cohort.members]
        models = [build_model(spec, task) for spec, task in zip(cohort.members, tasks, strict=True)]
        self.task = tasks[0]
        self.model = models[0].to(device)
        self.layout = {name: p.shape for name, p in self.model.named_parameters()}
        self.tied = _tied(self.model)
        self.sizes = [shape.numel() for shape in self.layout.values()]
        theta = [torch.cat([p.detach().cpu().flatten() for p in model.parameters()]) for model in models]
        self.theta = torch.stack(theta).to(device).requires_grad_()  # (R, P)
        self._place_optimizer()
        self.steps = torch.zeros(len(cohort), dtype=torch.int64)
        self.last_steps = torch.tensor([spec.n_steps for spec in cohort.members])
        self.at = torch.zeros_like(self.steps, device=device)
        self.ends = self.last_steps.clone().to(device)
        self.alive = torch.ones(len(cohort), dtype=torch.bool, device=device)
        self.diverged_at = torch.full((len(cohort),), -1, device=device)
        self._place_data(tasks)
        self._place_keys()
        members = Members(cohort.shared, self.model, self.task, self.tensors, self.theta, self.layout)
        self.scorer = choose_scorer(engine, members)
        self.launches = Launches(device)
        self.scores: dict[str, Tensor] = {}
        self.weights: dict[str, Tensor] = {}

    def _place_optimizer(self) -> None:
        shared = self.cohort.shared
        self.optimizer = OPTIMIZERS[shared.optimizer]
        self.fused_update = fused_update(self.engine, shared.optimizer, self.device)
        self.optimizer_state = self.optimizer.init(self.theta.detach())
        self.partition = Partition.of(self.layout, self.device)
        self.schedule = schedule_of(self.cohort.members, self.device)
        self.hyper = {name: self._column(name) for name in (*self.optimizer.hyper, "clip")}
        if not shared.decay_all:
            self.hyper["weight_decay"] = self.hyper["weight_decay"] * self._matrices()  # (R, P)

    def _column(self, name: str) -> Tensor:
        values = [[float(getattr(spec, name))] for spec in self.cohort.members]
        return torch.tensor(values, dtype=torch.float64, device=self.device)

    def _matrices(self) -> Tensor:
        """1 for the parameters of weight matrices, 0 for biases and norms, ``(1, P)``."""
        parts = [torch.full((shape.numel(),), float(len(shape) > 1)) for shape in self.layout.values()]
        return torch.cat(parts).unsqueeze(0).to(self.device)

    def _place_data(self, tasks: list[Task]) -> None:
        names = tasks[0].tensors
        self.tensors = {name: self._stacked([task.tensors[name] for task in tasks]) for name in names}  # (R, N, ...)
        self.splits = {}  # name -> (R, n) indices
        self.counts = {}  # name -> (R, n) which of them are real
        for split in tasks[0].splits:
            indices = [task.splits[split] for task in tasks]
            self.splits[split] = self._stacked(indices)
            self.counts[split] = self._stacked([torch.ones_like(i, dtype=torch.bool) for i in indices])
        every = torch.cat(list(self.splits.values()), dim=1)  # (R, N)
        self.passes = torch.split(every, self.cohort.shared.eval_batch_size, dim=1)
        self.groups = {name: self._stacked([task.groups[name] for task in tasks]) for name in tasks[0].groups}

    def _stacked(self, tensors: list[Tensor]) -> Tensor:
        """``R`` tensors ``(n_r, ...)`` as one ``(R, max n, ...)``, padded with zeros; a shared one is not copied."""
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
        sizes = self.counts["train"].sum(1)  # (R,)
        self.sampler = self.task.sampler(order_keys, sizes, self.cohort.shared.train_batch_size)
        self._drawn: tuple[Tensor, Tensor] | None = None  # the last positions, and their examples
        self.dropouts = [
            f"{name}.key" for name, module in self.model.named_modules() if isinstance(module, Dropout) and module.p > 0
        ]

    def set_steps(self, steps: Tensor) -> None:
        """Let the members have taken so many steps, ``(R,)``."""
        self.steps.copy_(steps)
        self.at.copy_(steps)

    def set_last_steps(self, last_steps: Tensor) -> None:
        """Let the members end at these steps, ``(R,)``."""
        self.last_steps.copy_(last_steps)
        self.ends.copy_(last_steps)

    def draw(self) -> tuple[Tensor, Tensor]:
        """The training examples of the step that members are at, ``(R, B)``, and which of them count.

        Where they are the same at every step, so is the tensor.
        """
        positions, counts = self.sampler(self.at)  # (R, B), (R, B)
        if self._drawn is None or self._drawn[0] is not positions:
            self._drawn = positions, self.splits["train"].gather(1, positions)
        return self._drawn[1], counts

    def hyper_at(self, step: Tensor) -> Hyper:
        """The hyper-parameters at each member's own step, ``(R, 1)``, counted from 1."""
        return self.hyper if self.schedule is None else {**self.hyper, "lr": self.hyper["lr"] * self.schedule(step)}

    def parameters(self) -> dict[str, Tensor]:
        """Views of ``theta`` by parameter name, ``(R, *shape)`` each."""
        return unflattened(self.theta, self.layout)

    def score(self, indices: Tensor, training: bool = False) -> dict[str, Tensor]:
        """The objective of every member on its own examples: loss and accuracy per example, ``(R, B)`` each.

        Args:
            indices: examples of each member, ``(R, B)``.
            training: whether the models are in training mode; they drop out by keys of the members' steps then, and
                the loss is the one that training minimises.
        """
        if self.scorer is not None:
            return self.scorer(indices, training)
        self.model.train(training)
        objective = (self.task.training_objective if training else None) or self.task.objective
        keys = self._dropout_keys() if training else {}

        def one(parameters: Mapping[str, Tensor], keys: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
            return objective(lambda *x: functional_call(self.model, {**parameters, **keys}, x), batch)

        return vmap(one)(self.parameters(), keys, vmap(self.task.batch)(self.tensors, indices))

    def _dropout_keys(self) -> dict[str, Tensor]:
        at_step = fold(self.dropout_keys, self.at)  # (R,)
        return {name: fold(at_step, site) for site, name in enumerate(self.dropouts)}

    def member(self, index: int) -> dict[str, Tensor]:
        """The state dict of one member's model, buffers included, on the CPU."""
        state = {name: buffer.detach().cpu().clone() for name, buffer in self.model.named_buffers()}
        own = torch.split(self.theta.detach()[index], self.sizes)
        named = zip(self.layout.items(), own, strict=True)
        state |= {name: part.reshape(shape).cpu().clone() for (name, shape), part in named}
        return state | {alias: state[name].clone() for alias, name in self.tied.items()}

    def state(self) -> dict[str, Tensor]:
        """All that training changes, for a checkpoint, ``(R, ...)`` each."""
        optimizer = {f"optimizer.{name}": tensor for name, tensor in self.optimizer_state.items()}
        where = {"steps": self.steps, "last_steps": self.last_steps, "diverged_at": self.diverged_at}
        return {"theta": self.theta.detach(), "alive": self.alive, **where, **optimizer}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Continue the first members from a state; it may be of fewer members than this stack has."""
        for name, tensor in self.state().items():
            tensor[: len(state[name])].copy_(state[name])
        self.at.copy_(self.steps)
        self.ends.copy_(self.last_steps)

    def built_model(self, index: int) -> nn.Module:
        """A stand-alone model with the member's current parameters."""
        model = build_model(self.cohort.members[index], self.task)
        model.load_state_dict(self.member(index))
        return model.eval()


def _tied(model: nn.Module) -> dict[str, str]:
    """Further names of shared parameters, with the name under which ``named_parameters`` lists each."""
    first = {parameter: name for name, parameter in model.named_parameters()}
    every = model.named_parameters(remove_duplicate=False)
    return {name: first[parameter] for name, parameter in every if name != first[parameter]}
