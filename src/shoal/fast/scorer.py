"""Objective of a causal model, computed prefix by prefix.

``R`` members, ``N`` examples, ``B`` examples in a batch, ``S`` positions, ``V`` tokens.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from shoal.errors import UserError
from shoal.fast.gpt import gpt_outputs
from shoal.fast.kernels import KernelOps, Library
from shoal.fast.lstm import lstm_outputs
from shoal.fast.ops import Array, Ops, TorchOps
from shoal.fast.passes import Passes, Replay
from shoal.fast.prefixes import Nodes, Prefixes, pick
from shoal.fast.program import Arena, Program, Value
from shoal.models.gpt import GPT
from shoal.models.lstm import LSTMLM
from shoal.tasks.base import Task, example_shares, rows
from shoal.tasks.sampling import Form

Layout = Mapping[str, torch.Size]
Keys = Mapping[str, Tensor]  # of dropout, (R,) int64 each, by the name of the module's buffer
NO_KEYS: Keys = MappingProxyType({})


@dataclass(frozen=True)
class Path:
    """Fast path of a family, prefix by prefix.

    Attributes:
        outputs: function from ``(scorer, parameters, nodes, ops)`` to the inputs of the classifier, ``(R, n B, D)``,
            level by level.
        tokens: name of the token embedding, to which a classifier can be tied.
        has_paths: see :class:`~shoal.fast.prefixes.Prefixes`.
    """

    outputs: Callable[..., Any]
    tokens: str
    has_paths: bool


def _gpt(scorer: "PrefixScorer", parameters: Mapping[str, Array], nodes: Nodes, ops: Ops[Array]) -> Array:
    sizes = (scorer.table, scorer.vocabulary_size, scorer.config)
    return gpt_outputs(parameters, *sizes, nodes, scorer.first, ops)


def _lstm(scorer: "PrefixScorer", parameters: Mapping[str, Array], nodes: Nodes, ops: Ops[Array]) -> Array:
    return lstm_outputs(parameters, scorer.config.num_layers, nodes, scorer.first, ops)


PATHS: Mapping[type[nn.Module], Path] = {
    GPT: Path(_gpt, "embedding.tokens.weight", has_paths=True),
    LSTMLM: Path(_lstm, "embedding.weight", has_paths=False),
}
PART = 512  # examples to score at once, where training has fewer in a step


def refusal(config: Any) -> str | None:
    """Reason why the objective of a run with these settings is not computed prefix by prefix; None where it is."""
    if not config.task_part.shares_prefixes:
        return f"the examples of task {config.task!r} share no prefixes"
    if not config.model_part.shares_prefixes:
        return f"engines of shared prefixes do not serve model {config.model!r}"
    if config.get("dropout", 0.0) > 0:
        return f"dropout={config.get('dropout', 0.0)} gives equal prefixes unequal states"
    return None


def check_served(model: nn.Module, task: Task) -> None:
    """Raise :class:`UserError` for models and tasks that settings do not describe and fast paths would miscompute."""
    if task.next_token is None or task.batch is not rows:
        why = "the task does not say which next tokens it scores, or makes its batches itself"
    elif type(model) not in PATHS:
        why = f"{type(model).__name__} has not been written for them"
    elif not all(parameter.requires_grad for parameter in model.parameters()):
        why = "some parameters do not train"
    else:
        return
    raise UserError(f"the engines of shared prefixes do not serve this run, because {why}: ask for engine plain")


@dataclass(frozen=True)
class _Batch:
    """Batch of examples ``indices`` ``(R, B)`` as a tree; its targets at the scored levels, ``(R, n B)``, level by
    level, and the mask of those that count, ``(R, n, B)``."""

    indices: Tensor
    nodes: Nodes
    targets: Tensor
    scored: Tensor

    def clone(self) -> "_Batch":
        copies = (tensor.clone(memory_format=torch.contiguous_format) for tensor in (self.targets, self.scored))
        return _Batch(self.indices.clone(), self.nodes.clone(), *copies)

    def of_members(self, members: slice) -> "_Batch":
        """View of the batch of some members."""
        parts = (tensor[members] for tensor in (self.targets, self.scored))
        return _Batch(self.indices[members], self.nodes.of_members(members), *parts)

    def copy_(self, other: "_Batch") -> None:
        self.nodes.copy_(other.nodes)
        for name in ("indices", "targets", "scored"):
            getattr(self, name).copy_(getattr(other, name))


@dataclass(frozen=True)
class Members:
    """Members whose examples are scored.

    Attributes:
        config: the settings that the members share.
        model: model of one member, for the layout of its position encodings and ties.
        task: task of one member, for its objective.
        tensors: the members' data, ``(R, N, ...)`` each.
        theta: their parameters, ``(R, P)``: the tensor that training changes in place.
        layout: shapes of one member's parameters in their order in ``theta``, by name.
        frozen: parameters that do not train, by name, ``(R, *shape)`` each: views of one where members agree.
        per_member: buffers in which members may differ, by name, ``(R, *shape)`` each.
    """

    config: Any
    model: nn.Module
    task: Task
    tensors: Mapping[str, Tensor]
    theta: Tensor
    layout: Layout
    frozen: Mapping[str, Tensor] = field(default_factory=dict)
    per_member: Mapping[str, Tensor] = field(default_factory=dict)


class PrefixScorer:
    """Scorer of every member's examples, equal to the task's objective of the model.

    Args:
        members: the members.
        ops: the operations.
    """

    def __init__(self, members: Members, ops: TorchOps) -> None:
        config, model, task, tensors = members.config, members.model, members.task, members.tensors
        assert task.next_token is not None
        self.config, self.theta, self.layout, self.ops = config, members.theta, members.layout, ops
        self.label_smoothing = task.next_token.label_smoothing
        self.inputs, self.targets = tensors[task.next_token.inputs], tensors[task.next_token.targets]  # (R, N, S)
        self.scored = torch.func.vmap(task.next_token.scored)(tensors)  # (R, N, S), bool
        self.first = int(self.scored.flatten(0, 1).any(0).nonzero().min())
        self.targets, self.scored = self.targets[:, :, self.first :], self.scored[:, :, self.first :]
        self.batch_size = min(config.train_batch_size, task.n_drawn)
        self._known: dict[tuple[int, bool], _Batch] = {}  # the last of each size, to train on and not
        self.vocabulary_size = config.task_part.sizes().vocabulary_size
        self.path = PATHS[type(model)]
        most = min(config.train_batch_size, self.inputs.shape[1])
        self.prefixes = Prefixes(self.inputs, most, self.first, self.path.has_paths)
        self.table = dict(model.named_buffers()).get("embedding.position_encoding")  # (S, D)
        self.classifier = self.path.tokens if config.share_embeddings else "classifier.weight"

    def __call__(
        self, indices: Tensor, training: bool = False, form: Form | None = None, keys: Keys = NO_KEYS
    ) -> dict[str, Tensor]:
        """Loss and accuracy ``(R, B)`` of the examples at ``indices``, ``(R, B)``; in training the loss is smoothed.

        There are no forms and there is no dropout.
        """
        label_smoothing = self.label_smoothing if training else 0.0
        parameters = unflattened(self.theta, self.layout)
        loss, accuracy = self._scores(parameters, self._batch(indices, training), label_smoothing, self.ops)
        return {"loss": loss, "accuracy": accuracy}

    def _batch(self, indices: Tensor, training: bool) -> _Batch:
        """Batch at these indices; rebuilt unless ``indices`` is the tensor of last time, as when one batch is all data.

        A recorded step reads its batch as long as the stack exists, so that no evaluation may overwrite it.
        """
        key = indices.shape[1], training
        known = self._known.get(key)
        if known is not None and known.indices is indices:
            return known
        self._known[key] = batch = self._new_batch(indices)
        return batch

    def _new_batch(self, indices: Tensor) -> _Batch:
        return _Batch(
            indices=indices,
            nodes=self.prefixes.nodes(indices),
            targets=pick(self.targets, indices).transpose(1, 2).flatten(1),
            scored=pick(self.scored, indices).transpose(1, 2),
        )

    def _scores(
        self, parameters: Mapping[str, Array], batch: _Batch, label_smoothing: float, ops: Ops[Array]
    ) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of a batch, ``(R, B)`` each."""
        outputs = self.path.outputs(self, parameters, batch.nodes, ops)  # (R, n B, D), level by level
        logits = ops.linear(outputs, parameters[self.classifier], parameters.get("classifier.bias"))  # (R, n B, V)
        return ops.score(logits, batch.targets, batch.scored, label_smoothing)


class CompiledScorer(PrefixScorer):
    """Scorer with fused kernels, in programs for each number of examples, with a gradient or without.

    Without a gradient many examples are scored in parts no larger than a batch of training, or than ``PART``.

    Args:
        members: the members.
        library_for: function from a program to the kernels.
        products: library of the matrix products.
    """

    def __init__(self, members: Members, library_for: Callable[[Program], Library], products: str = "torch") -> None:
        super().__init__(members, TorchOps())
        self.library_for, self.products, self.arena = library_for, products, Arena()
        self.gradient = torch.zeros_like(self.theta, requires_grad=False)  # (R, P)
        self.passes: dict[tuple[int, float, bool], tuple[Passes, _Batch]] = {}
        self._made_of: dict[tuple[int, float, bool], tuple[Tensor, int]] = {}  # of each program, its batch

    def __call__(
        self, indices: Tensor, training: bool = False, form: Form | None = None, keys: Keys = NO_KEYS
    ) -> dict[str, Tensor]:
        """See :class:`PrefixScorer`. A gradient is valid until the next one is computed."""
        n, label_smoothing = indices.shape[1], self.label_smoothing if training else 0.0
        parts = 1 if torch.is_grad_enabled() else parts_of(n, self.batch_size)
        pieces = enumerate(indices.tensor_split(parts, 1))
        scores = [self._replayed(piece, indices, part, label_smoothing) for part, piece in pieces]
        loss, accuracy = (torch.cat(pieces, 1) if parts > 1 else pieces[0] for pieces in zip(*scores, strict=True))
        return {"loss": loss, "accuracy": accuracy}

    def gradient_of(
        self, indices: Tensor, counts: Tensor, form: Form | None = None, keys: Keys = NO_KEYS
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Scores of a training step, and the gradient of every member's loss, ``(R, P)``.

        Args:
            indices: ``(R, B)``.
            counts: mask of those that count, ``(R, B)``.
            form: form of the batch, where the task has forms.
            keys: see :meth:`__call__`.
        """
        passes = self._passes((indices, 0), indices, self.label_smoothing, is_differentiable=True)
        loss, accuracy = passes.backward(example_shares(counts))
        return {"loss": loss, "accuracy": accuracy}, self.gradient

    def _replayed(self, indices: Tensor, whole: Tensor, part: int, label_smoothing: float) -> tuple[Tensor, Tensor]:
        """Scores of a part of a batch."""
        passes = self._passes((whole, part), indices, label_smoothing, torch.is_grad_enabled())
        scores: tuple[Tensor, Tensor] = Replay.apply(self.theta, passes)  # type: ignore[no-untyped-call]
        return scores

    def _passes(
        self, made_of: tuple[Tensor, int], indices: Tensor, label_smoothing: float, is_differentiable: bool
    ) -> Passes:
        """Passes over a batch, which is rebuilt unless it is the same part of the same tensor as last time."""
        key = (indices.shape[1], label_smoothing, is_differentiable)
        if key not in self.passes:
            batch = self._new_batch(indices).clone()

            def lay(program: Program, members: slice) -> None:
                ops = KernelOps(self.library_for(program), program)
                parameters = parameter_values(self.theta.detach(), self.gradient, self.layout, members)
                self._scores(parameters, batch.of_members(members), label_smoothing, ops)

            how = (self.products, self.config.precision)
            self.passes[key] = Passes(lay, self.gradient, self.arena, is_differentiable, *how), batch
            self._made_of[key] = made_of
        passes, batch = self.passes[key]
        (tensor, part), (last, last_part) = made_of, self._made_of[key]
        if last is not tensor or last_part != part:
            batch.copy_(self._new_batch(indices))
            passes.prepare()
            self._made_of[key] = made_of
        return passes


def parameter_values(theta: Tensor, gradient: Tensor, layout: Layout, members: slice) -> dict[str, Value]:
    """Parameters of some members, with the arrays of their gradients, by name."""
    data, gradients = unflattened(theta[members], layout), unflattened(gradient[members], layout)
    return {name: Value(data[name], gradients[name], is_parameter=True) for name in layout}


def constants(frozen: Mapping[str, Tensor], members: slice) -> dict[str, Value]:
    """Parameters of some members that do not train, by name."""
    return {name: Value(data[members], is_parameter=True, is_constant=True) for name, data in frozen.items()}


def parts_of(n: int, batch_size: int) -> int:
    """Number of parts in which ``n`` examples are scored without a gradient, for training batches of ``batch_size``."""
    return -(-n // max(batch_size, PART))


def unflattened(flat: Tensor, layout: Layout) -> dict[str, Tensor]:
    """Views of flat parameters, or of tensors of their layout, by name: ``(R, P) -> (R, *shape)`` each."""
    parts = torch.split(flat, [shape.numel() for shape in layout.values()], dim=1)
    return {name: part.reshape(-1, *shape) for (name, shape), part in zip(layout.items(), parts, strict=True)}
