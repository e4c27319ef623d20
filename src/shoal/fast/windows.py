"""Objective of windows of tokens, computed with the operations of :mod:`shoal.fast.window_ops`.

``R`` members, ``B`` examples of a batch, ``T`` positions that are predicted, ``n = B T`` rows, ``V`` tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import vmap

from shoal.errors import UserError
from shoal.fast.blocks import Stacked
from shoal.fast.families import FAMILIES, Windows
from shoal.fast.kernels import Library
from shoal.fast.ops import Array
from shoal.fast.program import Arena, Program, Replay, Value
from shoal.fast.scorer import NO_KEYS, Keys, Members, unflattened
from shoal.fast.window_kernels import WindowKernelOps, window_library
from shoal.fast.window_ops import Drop, TorchWindowOps, WindowOps
from shoal.models.dropout import Dropout
from shoal.rules.layout import tied_names
from shoal.spec.fields import Part
from shoal.tasks.base import Batch, Task, TokenObjective
from shoal.tasks.sampling import Form

MOST = 2048  # tokens to score at once without a gradient, where training has fewer in a step
Key = tuple[int, int, int, bool, bool]  # B, S, T, true in training, true with a gradient


def windows_refusal(config: Any) -> str | None:
    """Reason why the objective of a run with these settings is not computed over windows; None where it is."""
    if not makes_windows(config.task_part):
        return f"the batches of task {config.task!r} are not said to be windows of tokens"
    if not _says(config.model_part, "reads_windows"):
        return f"model {config.model!r} has not been written for windows"
    return None


def makes_windows(task: Part) -> bool:
    """Return True if a task says that its batches are windows of tokens."""
    return _says(task, "makes_windows")


def _says(part: Part, name: str) -> bool:
    """Class attribute of a part, which one from outside sets itself: it may differ from what it inherits."""
    kind = type(part)
    return bool(getattr(kind, name)) and (name in vars(kind) or kind.__module__.startswith("shoal."))


def check_windows(model: nn.Module, task: Task) -> None:
    """Raise :class:`UserError` for models and tasks that settings do not describe and windows would miscompute."""
    if not all(isinstance(one, TokenObjective) for one in (task.objective, task.training_objective or task.objective)):
        why = "the objectives of the task are not those of single tokens"
    elif type(model) not in FAMILIES:
        why = f"{type(model).__name__} has not been written for it"
    elif not all(parameter.requires_grad for parameter in model.parameters()):
        why = "some parameters do not train"
    else:
        return
    raise UserError(f"engine windows does not serve this run, because {why}: ask for engine plain")


class WindowScorer:
    """Scorer of every member's windows, equal to the task's objective of the model.

    Losses of tokens come from a program for each form and number of examples, with a gradient or without. Without a
    gradient examples are scored in parts of no more tokens than a step of training has, or than ``MOST``.

    Args:
        members: the members.
        library_for: function from a program to the kernels on trees, besides which there must be those on windows; None
            for operations of PyTorch's, without programs.
        products: library of the matrix products.
    """

    def __init__(
        self, members: Members, library_for: Callable[[Program], Library] | None, products: str = "torch"
    ) -> None:
        self.products = products
        self.members, self.config, self.task, self.tensors = members, members.config, members.task, members.tensors
        self.theta, self.layout, self.library_for = members.theta, members.layout, library_for
        self.window_library = window_library()
        self.family = FAMILIES[type(members.model)]
        self.tables = dict(members.model.named_buffers())  # (X, D) each
        R = len(self.theta)
        self.drops = {  # whose keys change at every step
            name: Drop(module.p, torch.zeros(R, dtype=torch.int64))
            for name, module in members.model.named_modules()
            if isinstance(module, Dropout) and module.p > 0
        }
        self.tied = tied_names(members.model)
        self.is_shared = R == 1 or all(tensor.stride(0) == 0 for tensor in self.tensors.values())
        self.batch_size = min(members.config.train_batch_size, members.task.n_drawn)
        self.arena, self.gradient = Arena(), torch.zeros_like(self.theta, requires_grad=False)  # (R, P)
        self.programs: dict[Key, tuple[Program, Windows]] = {}

    def __call__(
        self, indices: Tensor, training: bool = False, form: Form | None = None, keys: Keys = NO_KEYS
    ) -> dict[str, Tensor]:
        """Measures of the examples at ``indices``, ``(R, B)`` each. A gradient is valid until the next is computed.

        Args:
            indices: ``(R, B)``.
            training: true for dropout, and for the loss that training minimises.
            form: form of the batch, where the task has forms.
            keys: key of each place of dropout, ``(R,)`` int64 each, by the names of the modules' ``key``.
        """
        objective = (self.task.training_objective if training else None) or self.task.objective
        assert isinstance(objective, TokenObjective)
        for name, key in keys.items():
            self.drops[name.removesuffix(".key")].key.copy_(key)
        batch, parts = self._batch(indices, form), 1
        if not torch.is_grad_enabled():
            tokens = sum(batch[name].shape[-1] for name in ("source", "inputs") if name in batch)
            parts = window_parts(indices.shape[1], self.batch_size, tokens)
        pieces = {name: tensor.tensor_split(parts, 1) for name, tensor in batch.items()}
        scores = [
            self._measures({name: each[part] for name, each in pieces.items()}, objective, training)
            for part in range(parts)
        ]
        return {name: torch.cat([one[name] for one in scores], 1) for name in scores[0]} if parts > 1 else scores[0]

    def _batch(self, indices: Tensor, form: Form | None) -> Batch:
        """Batch of every member, ``(R, B, ...)`` each; examples of shared data as one batch."""
        make = self.task.batch_in(form)
        if not self.is_shared:
            return vmap(make)(self.tensors, indices)
        whole = make({name: tensor[0] for name, tensor in self.tensors.items()}, indices.flatten())
        return {name: tensor.view(*indices.shape, *tensor.shape[1:]) for name, tensor in whole.items()}

    def _measures(self, batch: Batch, objective: TokenObjective, training: bool) -> dict[str, Tensor]:
        """Measures of a batch that is computed at once, ``(R, B)`` each."""
        R, B, T = batch["targets"].shape
        if self.library_for is None:
            windows = _windows(batch, self.family.by_position)
            parameters = unflattened(self.theta, self.layout)
            losses, right = self._scores(parameters, windows, objective, training, TorchWindowOps())
        else:
            losses, right = self._replayed(batch, objective, training)
        if self.family.by_position:
            losses, right = (x.view(R, T, B).transpose(1, 2) for x in (losses, right))
        return objective.summary(losses.reshape(R, B, T), right.reshape(R, B, T) > 0, batch)

    def _replayed(self, batch: Batch, objective: TokenObjective, training: bool) -> tuple[Tensor, Tensor]:
        """Losses and right answers of a batch by its program, ``(R, n)`` each."""
        windows = _windows(batch, self.family.by_position)
        key = (windows.B, windows.S, windows.T, training, torch.is_grad_enabled())
        if key in self.programs:
            program, held = self.programs[key]
            held.copy_(windows)
            program.prepare()
        else:
            program, _ = self.programs[key] = self._laid(windows.clone(), objective, training)
        scores: tuple[Tensor, Tensor] = Replay.apply(self.theta, program)  # type: ignore[no-untyped-call]
        return scores

    def _laid(self, windows: Windows, objective: TokenObjective, training: bool) -> tuple[Program, Windows]:
        assert self.library_for is not None and self.window_library is not None
        program = Program(self.arena, self.gradient, torch.is_grad_enabled(), self.products)
        data, gradients = unflattened(self.theta.detach(), self.layout), unflattened(self.gradient, self.layout)
        parameters = {name: Value(data[name], gradients[name], is_parameter=True) for name in self.layout}
        ops = WindowKernelOps(self.library_for(program), self.window_library, program)
        self._scores(parameters, windows, objective, training, ops)
        program.finish()
        return program, windows

    def _scores(
        self,
        parameters: Mapping[str, Array],
        windows: Windows,
        objective: TokenObjective,
        training: bool,
        ops: WindowOps[Array],
    ) -> tuple[Tensor, Tensor]:
        """Losses and right answers of a batch, ``(R, n)`` each."""
        every = {**parameters, **{alias: parameters[name] for alias, name in self.tied.items()}}
        model = Stacked(every, self.tables, self.drops if training else {}, self.config, ops)
        logits = model.linear(self.family.outputs(model, windows), "classifier")  # (R, n, V)
        return ops.token_scores(logits, windows.targets, objective.label_smoothing, objective.convention)


def window_parts(n: int, batch_size: int, tokens: int) -> int:
    """Number of parts in which ``n`` examples of some tokens are scored without a gradient.

    Args:
        n: number of examples.
        batch_size: number of examples in a step of training.
        tokens: number of tokens of an example, its source included.
    """
    return -(-n // max(batch_size, MOST // tokens))


def _windows(batch: Batch, by_position: bool) -> Windows:
    """Batch ``(R, B, ...)`` as rows."""
    _, B, T = batch["targets"].shape
    inputs, targets = (_rows(batch.get(name), by_position) for name in ("inputs", "targets"))
    assert targets is not None
    if "source" not in batch:
        return Windows(B, T, targets, inputs)
    return Windows(B, T, targets, inputs, batch["source"].shape[-1], batch["source"].flatten(1), batch["seen"])


def _rows(tokens: Tensor | None, by_position: bool) -> Tensor | None:
    """Tokens ``(R, B, T)`` as rows."""
    return None if tokens is None else (tokens.transpose(1, 2) if by_position else tokens).flatten(1)
