"""Interface between the engine and a task: tensors, splits, a sampler of indices and an objective.

The engine never looks inside a batch. The sampler gives the indices of a step's examples, ``batch`` turns them into
tensors, and ``objective`` runs the model and scores it. Equations gather rows; windows of a long text can index a
corpus; data made on the fly can hash the index.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from shoal.objectives import smoothed_losses
from shoal.tasks.sampling import EpochSampler, Form, Sampler

Batch = Mapping[str, Tensor]
Model = Callable[..., tuple[Tensor, Any]]
Objective = Callable[[Model, Batch], dict[str, Tensor]]
Summary = Callable[[Tensor, Tensor, Batch], dict[str, Tensor]]
MakeBatch = Callable[[Mapping[str, Tensor], Tensor], Batch]


def rows(tensors: Mapping[str, Tensor], indices: Tensor) -> dict[str, Tensor]:
    """Rows ``indices`` of every tensor, the default ``batch``: ``(N, *dims), (B,) -> (B, *dims)``."""
    return {name: tensor[indices] for name, tensor in tensors.items()}


def example_shares(counts: Tensor, weights: Tensor | None = None) -> Tensor:
    """Share of each example in its member's loss, ``(R, B)``: its weight, of the weights of all that count.

    Args:
        counts: mask of the examples that count, ``(R, B)`` bool.
        weights: their weights, ``(R, B)``; all alike where not given.
    """
    counted = counts if weights is None else counts * weights
    return counted / counted.sum(1).unsqueeze(1)


READS = ("source", "inputs", "seen")  # tensors of a batch that a model is called with, in this order


@dataclass(frozen=True)
class TokenObjective:
    """Objective that sums up the losses of single tokens, which an engine may compute without calling the model.

    A batch has ``targets`` ``(B, T)``, and some of :data:`READS` for the model. Padding of sources is not ``seen``, and
    no scored token depends on other padding, so that its embedding has no gradient. A model that predicts in the places
    of the source reads padding where a target is longer, and trains its embedding.

    Attributes:
        summary: function from the loss of every token, true where the likeliest token is the target, both
            ``(*dims, B, T)``, and a batch ``(*dims, B, ...)`` to the measures of each example, ``(*dims, B)``.
        label_smoothing, convention: see :func:`shoal.objectives.smoothed_losses`.
    """

    summary: Summary
    label_smoothing: float = 0.0
    convention: str = "torch"

    def __call__(self, model: Model, batch: Batch) -> dict[str, Tensor]:
        """Measures of each example, ``(B,)`` each."""
        logits, *_ = model(*(batch[name] for name in READS if name in batch))  # (B, T, V)
        losses = smoothed_losses(logits, batch["targets"], self.label_smoothing, self.convention)  # (B, T)
        return self.summary(losses, logits.argmax(-1) == batch["targets"], batch)


@dataclass(frozen=True)
class NextToken:
    """Description of an objective that is the mean negative log-likelihood of next tokens, and all of them right.

    With it a causal model can be computed prefix by prefix, without the objective.

    Attributes:
        inputs: name of the tensor of the tokens that are read, ``(N, S)``.
        targets: name of the tensor of the tokens that follow them, ``(N, S)``.
        scored: function from a batch to the mask of its targets that count, ``(B, S)`` bool.
        label_smoothing: share of the target that the training objective spreads over all tokens.
    """

    inputs: str
    targets: str
    scored: Callable[[Batch], Tensor]
    label_smoothing: float = 0.0


@dataclass(frozen=True)
class Forms:
    """Forms in which a task makes its batches, so that short examples are not padded to the longest.

    Attributes:
        each: the forms; each takes the examples of those before it, too.
        of: index in ``each`` of the first form that takes the example, ``(N,)`` int64.
    """

    each: tuple[Form, ...]
    of: Tensor

    def taking(self, indices: Tensor) -> Form:
        """First form that takes all of these examples."""
        return self.each[int(self.of[indices].max())]


@dataclass(frozen=True)
class Task:
    """Data and objective of one member.

    Training and evaluation may use different examples: a text is drawn from at every place and scored in blocks.

    Attributes:
        tensors: data that batches are made of; members of a cohort may differ in the first dimension. Members whose
            tensors are identical objects share them.
        drawn: the examples that training draws from: their indices ``(n,)`` int64, or their number where the indices
            begin at 0 without gaps.
        scored: indices of the examples that are evaluated, by split, ``(n,)`` int64 each: ``train`` and ``valid``.
        objective: function that runs the model on a batch and returns the task's measures, by name, per example,
            ``(B,)`` each: ``loss`` (nats) and the others. Where examples have different weights it returns their
            ``weight``, too: the number of scored tokens that each value is the mean of. A measure whose examples are
            weighted otherwise has a ``weight_NAME`` of its own. Where it is a :class:`TokenObjective`, as
            ``training_objective`` then is, engines for windows of tokens can compute it.
        groups: subsets of the examples to report separately, ``(N,)`` bool each.
        batch: function from indices to the tensors of a batch; where there are forms it is called with the form:
            ``batch(tensors, indices, form)``.
        sampler: class that chooses the training examples of each step; where there are forms it is a
            :class:`~shoal.tasks.sampling.FormSampler`.
        next_token: description of the objective, where it is one of next tokens and ``batch`` takes rows.
        training_objective: objective that training minimises, where it is not the reported loss.
        forms: forms of the batches, where there are several; the same at every step for all members of a cohort.
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
        """Number of examples that training draws from."""
        return self.drawn if isinstance(self.drawn, int) else len(self.drawn)

    def form_of(self, indices: Tensor) -> Form | None:
        """Form that takes these examples; None where the task has no forms."""
        return None if self.forms is None else self.forms.taking(indices)

    def batch_in(self, form: Form | None) -> MakeBatch:
        """Function that makes batches of a form from tensors and indices."""
        if self.forms is None:
            return self.batch
        return lambda tensors, indices: self.batch(tensors, indices, form)
