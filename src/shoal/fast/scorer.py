"""The objective of a causal model, computed prefix by prefix.

``R`` members, ``N`` examples, ``B`` examples in a batch, ``S`` positions, ``V`` tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.fast.gpt import gpt_outputs
from shoal.fast.lstm import lstm_outputs
from shoal.fast.ops import Ops
from shoal.fast.prefixes import Nodes, Prefixes, pick
from shoal.models.gpt import GPT
from shoal.models.lstm import LSTMLM
from shoal.tasks.base import Task


def covers(config: Any, model: nn.Module, task: Task) -> bool:
    """Whether a model's objective can be computed prefix by prefix.

    Dropout gives equal prefixes unequal states; other models and objectives have not been written for it.
    """
    return task.next_token is not None and type(model) in (GPT, LSTMLM) and config.dropout == 0


@dataclass(frozen=True)
class _Batch:
    """Examples ``indices`` ``(R, B)`` as a tree; their targets at the levels that are scored, ``(R, n B)``, level by
    level, which of them count, ``(R, n, B)``, and how many, ``(R, B)``, at least 1."""

    indices: Tensor
    nodes: Nodes
    targets: Tensor
    scored: Tensor
    n_scored: Tensor


class PrefixScorer:
    """Loss and accuracy of every member's examples, equal to the task's objective of the model.

    Args:
        config: the settings that the members share.
        model: one member's, for the layout of its position encodings and ties.
        task: one member's, for its objective.
        tensors: the members' data, ``(R, N, ...)`` each.
        ops: how to compute what is not a product.
    """

    def __init__(self, config: Any, model: nn.Module, task: Task, tensors: Mapping[str, Tensor], ops: Ops) -> None:
        assert task.next_token is not None
        self.config, self.ops = config, ops
        self.label_smoothing = task.next_token.label_smoothing
        self.inputs, self.targets = tensors[task.next_token.inputs], tensors[task.next_token.targets]  # (R, N, S)
        self.scored = torch.func.vmap(task.next_token.scored)(tensors)  # (R, N, S), bool
        self.first = int(self.scored.flatten(0, 1).any(0).nonzero().min())
        self.targets, self.scored = self.targets[:, :, self.first :], self.scored[:, :, self.first :]
        self.prefixes = Prefixes(self.inputs, min(config.train_batch_size, self.inputs.shape[1]), self.first)
        self._known: dict[int, _Batch] = {}  # the last batch of each size
        self.is_gpt = isinstance(model, GPT)
        self.positions = dict(model.named_buffers()).get("embedding.position_encoding")  # (S, D)
        self.classifier = ("embedding.tokens" if self.is_gpt else "embedding") + ".weight"
        if not config.share_embeddings:
            self.classifier = "classifier.weight"

    def __call__(self, parameters: Mapping[str, Tensor], indices: Tensor, training: bool = False) -> dict[str, Tensor]:
        """Loss and accuracy ``(R, B)`` of the examples at ``indices``, ``(R, B)``; in training the loss is smoothed."""
        R, B = indices.shape
        batch = self._batch(indices)
        outputs = self._outputs(parameters, batch.nodes)  # (R, n B, D), level by level
        logits = self.ops.linear(outputs, parameters[self.classifier], parameters.get("classifier.bias"))  # (R, n B, V)
        label_smoothing = self.label_smoothing if training else 0.0
        losses, right = self.ops.cross_entropy(logits, batch.targets, label_smoothing)  # (R, n B) each
        loss = torch.where(batch.scored, losses.reshape(R, -1, B), 0.0).sum(1) / batch.n_scored
        right = right.reshape(R, -1, B) | ~batch.scored
        return {"loss": loss, "accuracy": right.all(1).to(loss.dtype)}

    def _batch(self, indices: Tensor) -> "_Batch":
        """The tree and the targets of a batch; those of a full batch are the same at every step."""
        known = self._known.get(indices.shape[1])
        if known is not None and indices.device.type == "cpu" and torch.equal(known.indices, indices):
            return known
        scored = pick(self.scored, indices).transpose(1, 2)
        batch = _Batch(
            indices=indices,
            nodes=self.prefixes.nodes(indices),
            targets=pick(self.targets, indices).transpose(1, 2).flatten(1),
            scored=scored,
            n_scored=scored.sum(1).clamp(min=1),
        )
        self._known[indices.shape[1]] = batch
        return batch

    def _outputs(self, parameters: Mapping[str, Tensor], nodes: Nodes) -> Tensor:
        if self.is_gpt:
            positions = parameters.get("embedding.positions.weight", self.positions)
            return gpt_outputs(parameters, positions, self.config, nodes, self.first, self.ops)
        return lstm_outputs(parameters, self.config.num_layers, nodes, self.first, self.ops)
