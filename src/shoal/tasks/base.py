"""What the engine asks of a task: tensors, splits, a sampler of indices and an objective.

The engine never looks inside a batch. It asks the sampler which examples a step trains on, lets ``batch`` turn indices
into tensors, and lets ``objective`` run the model and score it. Equations gather rows; windows of a long text can index
a corpus; data made on the fly can hash the index.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from shoal.tasks.sampling import EpochSampler, Sampler

Batch = Mapping[str, Tensor]
Model = Callable[..., tuple[Tensor, Any]]
Objective = Callable[[Model, Batch], dict[str, Tensor]]


def rows(tensors: Mapping[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
    """The default ``batch``: row ``i`` of every tensor, ``(N, *dims), (B,) -> (B, *dims)``."""
    return {name: tensor[indices] for name, tensor in tensors.items()}


@dataclass(frozen=True)
class NextToken:
    """What an objective scores when it is the mean negative log-likelihood of next tokens, and all of them right.

    With it a causal model can be computed prefix by prefix, without the objective.

    Attributes:
        inputs, targets: names of the tensors of tokens, ``(N, S)`` each.
        scored: which targets of a batch count, ``(B, S)`` bool.
        label_smoothing: share of the target that the training objective spreads over all tokens.
    """

    inputs: str
    targets: str
    scored: Callable[[Batch], Tensor]
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Task:
    """One member's data and objective.

    Attributes:
        tensors: what examples are made of; members of a cohort may differ in the first dimension.
        splits: example indices by split, ``(n,)`` int64 each; ``train`` and ``valid`` are disjoint.
        objective: runs the model on a batch and returns ``loss`` (nats) and ``accuracy`` per example, ``(B,)`` each.
        vocabulary_size, sequence_length, padding_index: what a model must be built for.
        groups: subsets of the examples to report apart, ``(N,)`` bool each.
        batch: turns indices into the tensors of a batch.
        sampler: decides which training examples each step sees.
        next_token: what the objective scores, where it is of that kind.
        training_objective: what training minimises, where that is not the loss that is reported.
    """

    tensors: Mapping[str, Tensor]
    splits: Mapping[str, Tensor]
    objective: Objective
    vocabulary_size: int
    sequence_length: int
    padding_index: int | None = None
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    batch: Callable[[Mapping[str, Tensor], Tensor], Batch] = rows
    sampler: type[Sampler] = EpochSampler
    next_token: NextToken | None = None
    training_objective: Objective | None = None
