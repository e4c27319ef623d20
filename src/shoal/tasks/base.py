"""What the engine asks of a task: tensors, splits, a sampler of indices and an objective.

The engine never looks inside a batch. It asks the sampler which examples a step trains on, lets ``batch`` turn indices
into tensors, and lets ``objective`` run the model and score it. Equations gather rows; windows of a long text can index
a corpus; data made on the fly can hash the index.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from shoal.tasks.sampling import EpochSampler, Form, Sampler

Batch = Mapping[str, Tensor]
Model = Callable[..., tuple[Tensor, Any]]
Objective = Callable[[Model, Batch], dict[str, Tensor]]
MakeBatch = Callable[[Mapping[str, Tensor], Tensor], Batch]


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
class Forms:
    """The forms in which a task makes its batches, so that short examples are not padded to the longest.

    Attributes:
        each: the forms; each takes the examples of those before it, too.
        of: the first of them that takes an example, ``(N,)`` int64: its place in ``each``.
    """

    each: tuple[Form, ...]
    of: Tensor

    def taking(self, indices: Tensor) -> Form:
        """The first form that takes all of these examples."""
        return self.each[int(self.of[indices].max())]


@dataclass(frozen=True)
class Task:
    """One member's data and objective.

    What training draws from and what an evaluation scores are two things: a text is drawn from at every place and
    scored in blocks.

    Attributes:
        tensors: what examples are made of; members of a cohort may differ in the first dimension. Members whose tensors
            are the very same share them.
        drawn: the examples that training draws from: their indices ``(n,)`` int64, or how many there are where they
            have the numbers from 0 on.
        scored: indices of the examples that are evaluated, by split, ``(n,)`` int64 each: ``train`` and ``valid``.
        objective: runs the model on a batch and returns what the task measures, by name, per example, ``(B,)`` each:
            ``loss`` (nats) and the others. Where examples do not count alike it returns their ``weight``, too: tokens
            that were scored, of which each value is the mean. A measure whose examples count otherwise than those of
            the others has a ``weight_NAME`` of its own.
        groups: subsets of the examples to report apart, ``(N,)`` bool each.
        batch: turns indices into the tensors of a batch; where there are forms it is told in which:
            ``batch(tensors, indices, form)``.
        sampler: decides which training examples each step sees; where there are forms it is a
            :class:`~shoal.tasks.sampling.FormSampler`.
        next_token: what the objective scores, where it is of that kind and ``batch`` takes rows.
        training_objective: what training minimises, where that is not the loss that is reported.
        forms: in which batches are made, where there are several; the same at every step for all members of a cohort.
    """

    tensors: Mapping[str, Tensor]
    drawn: Tensor | int
    scored: Mapping[str, Tensor]
    objective: Objective
    groups: Mapping[str, Tensor] = field(default_factory=dict)
    batch: Callable[..., Batch] = rows
    sampler: Callable[[Tensor, Tensor, int], Sampler] = EpochSampler
    next_token: NextToken | None = None
    training_objective: Objective | None = None
    forms: Forms | None = None

    @property
    def n_drawn(self) -> int:
        """How many examples training draws from."""
        return self.drawn if isinstance(self.drawn, int) else len(self.drawn)

    def form_of(self, indices: Tensor) -> Form | None:
        """A form that takes these examples; None where there are none."""
        return None if self.forms is None else self.forms.taking(indices)

    def batch_in(self, form: Form | None) -> MakeBatch:
        """What makes batches of a form from tensors and indices."""
        if self.forms is None:
            return self.batch
        return lambda tensors, indices: self.batch(tensors, indices, form)
