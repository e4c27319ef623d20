"""The objective of a causal model, computed prefix by prefix.

``R`` members, ``N`` examples, ``B`` examples in a batch, ``S`` positions, ``V`` tokens.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.fast.gpt import gpt_outputs
from shoal.fast.lstm import lstm_outputs
from shoal.fast.ops import Ops
from shoal.fast.prefixes import Nodes, Prefixes, pick
from shoal.models.gpt import GPT
from shoal.models.lstm import LSTMLM
from shoal.tasks.base import Task

_NON_LINEARITIES: Mapping[str, Callable[[Tensor], Tensor]] = {"gelu": F.gelu, "relu": F.relu}


def covers(config: Any, model: nn.Module, task: Task) -> bool:
    """Whether a model's objective can be computed prefix by prefix.

    Dropout gives equal prefixes unequal states; other models and objectives have not been written for it.
    """
    return task.next_token is not None and type(model) in (GPT, LSTMLM) and config.dropout == 0


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
        self.inputs, self.targets = tensors[task.next_token.inputs], tensors[task.next_token.targets]  # (R, N, S)
        self.scored = torch.func.vmap(task.next_token.scored)(tensors)  # (R, N, S), bool
        self.first = int(self.scored.flatten(0, 1).any(0).nonzero().min())
        self.targets, self.scored = self.targets[:, :, self.first :], self.scored[:, :, self.first :]
        self.prefixes = Prefixes(self.inputs, min(config.train_batch_size, self.inputs.shape[1]), self.first)
        self.positions = model.embedding.position_encoding if isinstance(model, GPT) else None  # (S, D)
        self.classifier = ("embedding.tokens" if isinstance(model, GPT) else "embedding") + ".weight"
        if not config.share_embeddings:
            self.classifier = "classifier.weight"

    def __call__(self, parameters: Mapping[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
        """Loss and accuracy ``(R, B)`` of the examples at ``indices``, ``(R, B)``."""
        R, B = indices.shape
        nodes = self.prefixes.nodes(indices)
        outputs = self._outputs(parameters, nodes)  # (R, n B, D), level by level
        logits = self.ops.linear(outputs, parameters[self.classifier], parameters.get("classifier.bias"))  # (R, n B, V)
        targets = pick(self.targets, indices).transpose(1, 2)  # (R, n, B)
        scored = pick(self.scored, indices).transpose(1, 2)  # (R, n, B)
        flat = targets.reshape(R, -1, 1)
        nll = -logits.log_softmax(dim=-1).gather(-1, flat).reshape(R, -1, B)  # (R, n, B)
        right = (logits.argmax(-1, keepdim=True) == flat).reshape(R, -1, B) | ~scored
        loss = torch.where(scored, nll, 0.0).sum(1) / scored.sum(1).clamp(min=1)
        return {"loss": loss, "accuracy": right.all(1).to(loss.dtype)}

    def _outputs(self, parameters: Mapping[str, Tensor], nodes: Nodes) -> Tensor:
        config = self.config
        if self.positions is None:
            return lstm_outputs(parameters, config.num_layers, nodes, self.first, self.ops)
        sizes, non_linearity = (config.num_heads, config.num_layers), _NON_LINEARITIES[config.non_linearity]
        return gpt_outputs(parameters, self.positions, *sizes, non_linearity, nodes, self.first, self.ops)
