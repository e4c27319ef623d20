"""Objective of windows of tokens, computed with the operations of :mod:`shoal.fast.window_ops`.

``R`` members, ``B`` examples of a batch, ``T`` positions that are predicted, ``n = B T`` rows, ``V`` tokens.
"""

from collections.abc import Callable, Collection, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.func import vmap

from shoal.errors import UserError
from shoal.fast.bases import Frozen, OfBase, module_of, short
from shoal.fast.blocks import Stacked
from shoal.fast.families import FAMILIES, Windows
from shoal.fast.kernels import Library
from shoal.fast.ops import Array
from shoal.fast.passes import Passes, Replay
from shoal.fast.program import Arena, Program
from shoal.fast.scorer import NO_KEYS, Keys, Members, constants, parameter_values, unflattened
from shoal.fast.window_kernels import WindowKernelOps, window_library
from shoal.fast.window_ops import Drop, TorchWindowOps, WindowOps
from shoal.models.dropout import Dropout
from shoal.rules.layout import tied_names
from shoal.tasks.base import Batch, Task, TokenObjective, example_shares
from shoal.tasks.sampling import Form

MOST = 2048  # tokens to score at once without a gradient, where training has fewer in a step
Named = TypeVar("Named")
Key = tuple[int, int, int, bool, bool]  # B, S, T, true in training, true with a gradient


def check_windows(model: nn.Module, task: Task, frozen_tables: Collection[str] = ()) -> None:
    """Raise :class:`UserError` for models and tasks that settings do not describe and windows would miscompute."""
    if not all(isinstance(one, TokenObjective) for one in (task.objective, task.training_objective or task.objective)):
        why = "the objectives of the task are not those of single tokens"
    elif type(module_of(model)) not in FAMILIES:
        why = f"{type(module_of(model)).__name__} has not been written for it"
    elif not all(one.requires_grad or name in frozen_tables for name, one in model.named_parameters()):
        why = "some parameters do not train that are no tables of embeddings"
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
        self.family = FAMILIES[type(module_of(members.model))]
        self.computing = self.config if module_of(members.model) is members.model else OfBase(self.config)
        self.base = Frozen.of(members.model, members.per_member)
        self.tables = dict(module_of(members.model).named_buffers())  # (X, D) each
        R = len(self.theta)
        self.drops = {  # whose keys change at every step
            name: Drop(module.p, torch.zeros(R, dtype=torch.int64))
            for name, module in members.model.named_modules()
            if isinstance(module, Dropout) and module.p > 0
        }
        tied = self._short(tied_names(members.model))
        self.tied = {alias: short(members.model, name) for alias, name in tied.items()}
        self.is_shared = R == 1 or all(tensor.stride(0) == 0 for tensor in self.tensors.values())
        self.batch_size = min(members.config.train_batch_size, members.task.n_drawn)
        self.arena, self.gradient = Arena(), torch.zeros_like(self.theta, requires_grad=False)  # (R, P)
        self.passes: dict[Key, tuple[Passes, Windows]] = {}

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
        objective = self._objective(training, keys)
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

    def gradient_of(
        self, indices: Tensor, counts: Tensor, form: Form | None = None, keys: Keys = NO_KEYS
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Scores of a training step, and the gradient of every member's loss, ``(R, P)``.

        The gradient of an example's loss with respect to those of its tokens does not depend on them: it is a mean.

        Args:
            indices: ``(R, B)``.
            counts: mask of those that count, ``(R, B)``.
            form: form of the batch, where the task has forms.
            keys: see :meth:`__call__`.
        """
        if self.library_for is None:
            scores = self(indices, True, form, keys)
            shares = example_shares(counts, scores.get("weight"))
            return scores, torch.autograd.grad(scores["loss"], self.theta, shares)[0]
        objective, batch = self._objective(True, keys), self._batch(indices, form)
        zeros = torch.zeros(batch["targets"].shape, requires_grad=True)  # (R, B, T)
        scores = objective.summary(zeros, batch["targets"] < 0, batch)
        (d_losses,) = torch.autograd.grad(scores["loss"], zeros, example_shares(counts, scores.get("weight")))
        passes = self._passes(batch, objective, True, is_differentiable=True)
        with torch.no_grad():
            return self._summed(*passes.backward(self._in_rows(d_losses)), objective, batch), self.gradient

    def _objective(self, training: bool, keys: Keys) -> TokenObjective:
        """Objective of a pass, whose keys of dropout are set."""
        objective = (self.task.training_objective if training else None) or self.task.objective
        assert isinstance(objective, TokenObjective)
        for name, key in keys.items():
            self.drops[name.removesuffix(".key")].key.copy_(key)
        return objective

    def _batch(self, indices: Tensor, form: Form | None) -> Batch:
        """Batch of every member, ``(R, B, ...)`` each; examples of shared data as one batch."""
        make = self.task.batch_in(form)
        if not self.is_shared:
            return vmap(make)(self.tensors, indices)
        whole = make({name: tensor[0] for name, tensor in self.tensors.items()}, indices.flatten())
        return {name: tensor.view(*indices.shape, *tensor.shape[1:]) for name, tensor in whole.items()}

    def _measures(self, batch: Batch, objective: TokenObjective, training: bool) -> dict[str, Tensor]:
        """Measures of a batch that is computed at once, ``(R, B)`` each."""
        if self.library_for is None:
            windows = _windows(batch, self.family.by_position)
            parameters = {**unflattened(self.theta, self.layout), **self.members.frozen}
            of_base, drops = self.base.arrays(len(self.theta)), self.drops if training else {}
            every = slice(0, len(self.theta))
            scores = self._scores(
                {**of_base, **self._short(parameters)}, windows, objective, drops, TorchWindowOps(), every
            )
        else:
            passes = self._passes(batch, objective, training, torch.is_grad_enabled())
            scores = Replay.apply(self.theta, passes)  # type: ignore[no-untyped-call]
        return self._summed(*scores, objective, batch)

    def _in_rows(self, tokens: Tensor) -> Tensor:
        """Numbers of tokens ``(R, B, T)`` in the order of a program's rows, ``(R, n)``."""
        return (tokens.transpose(1, 2) if self.family.by_position else tokens).flatten(1)

    def _summed(self, losses: Tensor, right: Tensor, objective: TokenObjective, batch: Batch) -> dict[str, Tensor]:
        """Measures of examples, ``(R, B)`` each, from the losses and right answers of tokens, ``(R, n)`` each."""
        R, B, T = batch["targets"].shape
        if self.family.by_position:
            losses, right = (x.view(R, T, B).transpose(1, 2) for x in (losses, right))
        return objective.summary(losses.reshape(R, B, T), right.reshape(R, B, T) > 0, batch)

    def _passes(self, batch: Batch, objective: TokenObjective, training: bool, is_differentiable: bool) -> Passes:
        """Passes over a batch by the programs of its form."""
        windows = _windows(batch, self.family.by_position)
        key = (windows.B, windows.S, windows.T, training, is_differentiable)
        if key in self.passes:
            passes, held = self.passes[key]
            held.copy_(windows)
            passes.prepare()
        else:
            held = windows.clone()

            def lay(program: Program, members: slice) -> None:
                assert self.library_for is not None and self.window_library is not None
                ops = WindowKernelOps(self.library_for(program), self.window_library, program)
                parameters = parameter_values(self.theta.detach(), self.gradient, self.layout, members)
                parameters |= constants(self.members.frozen, members)
                parameters = {**self.base.values(members.stop - members.start), **self._short(parameters)}
                drops = {name: drop.of_members(members) for name, drop in self.drops.items()} if training else {}
                self._scores(parameters, held.of_members(members), objective, drops, ops, members)

            in_groups = not self.base.coded  # or each group would dequantise every weight
            how = (self.products, self.config.precision, in_groups)
            passes = Passes(lay, self.gradient, self.arena, is_differentiable, *how)
            self.passes[key] = passes, held
        return passes

    def _short(self, named: Mapping[str, Named]) -> dict[str, Named]:
        """Parameters or modules by the names that the family gives them."""
        return {short(self.members.model, name): value for name, value in named.items()}

    def _scores(
        self,
        parameters: Mapping[str, Array],
        windows: Windows,
        objective: TokenObjective,
        drops: Mapping[str, Drop],
        ops: WindowOps[Array],
        members: slice,
    ) -> tuple[Tensor, Tensor]:
        """Losses and right answers of a batch of some members, ``(R, n)`` each."""
        every = {**parameters, **{alias: parameters[name] for alias, name in self.tied.items()}}
        every, adapters = self.base.adapted(every, members, ops)
        model = Stacked(every, self.tables, self._short(drops), self.computing, ops, adapters)
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
