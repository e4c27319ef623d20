"""Parts that stand outside of shoal, as a user would write them, named by their places: ``outside:Shifted``."""

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.models.settings import ModelSettings
from shoal.rules.settings import Rule
from shoal.spec import setting
from shoal.tasks.arithmetic.settings import Arithmetic


def shifted_rows(tensors, indices):
    """Rows in which every input is the token before the one that it would be."""
    batch = {name: tensor[indices] for name, tensor in tensors.items()}
    return {**batch, "inputs": batch["inputs"].roll(1, -1)}


class Shifted(Arithmetic):
    """Equations whose inputs are moved on by one token when a batch is made."""

    name: ClassVar[str] = "shifted"

    def build(self, split_seed):
        return replace(super().build(split_seed), batch=shifted_rows)


def weighted_objective(model, batch):
    """Mean cross-entropy of the first ``weight`` targets of each row; of none it is not a number."""
    logits, *_ = model(batch["inputs"])  # (B, S, V)
    losses = F.cross_entropy(logits.mT, batch["targets"], reduction="none")  # (B, S)
    right = (logits.argmax(-1) == batch["targets"]).to(losses.dtype)
    n = batch["weight"]  # (B,)
    counts = torch.arange(losses.shape[1]) < n.unsqueeze(1)  # (B, S)
    loss, accuracy = ((x * counts).sum(1) / n.clamp(min=1) for x in (losses, right))
    return {"loss": loss, "accuracy": accuracy, "weight": n.to(losses.dtype)}


class Weighted(Arithmetic):
    """Equations of which between none and all tokens are scored, each token alike."""

    name: ClassVar[str] = "weighted"
    shares_prefixes: ClassVar[bool] = False

    def build(self, split_seed):
        task = super().build(split_seed)
        N, S = task.tensors["inputs"].shape
        tensors = {**task.tensors, "weight": (torch.arange(N) + split_seed) % (S + 1)}
        return replace(task, tensors=tensors, objective=weighted_objective, next_token=None)


class Permuted(Arithmetic):
    """Equations whose results are exchanged at random, so that nothing about those held out can be learned."""

    name: ClassVar[str] = "permuted"

    def build(self, split_seed):
        task = super().build(split_seed)
        inputs, targets = task.tensors["inputs"].clone(), task.tensors["targets"].clone()
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(split_seed))
        targets[:, 4] = inputs[:, 5] = targets[order, 4]  # BOS a o b = r EOS
        return replace(task, tensors={**task.tensors, "inputs": inputs, "targets": targets})


class Patient(Arithmetic):
    """Equations on which training does not go on for nothing unless it is asked to."""

    name: ClassVar[str] = "patient"
    suggests: ClassVar = {"patience": 5}


class Bag(nn.Module):
    """Tokens through a table, a projection that does not train, and a head that is tied to nothing."""

    def __init__(self, V: int, D: int, generator: torch.Generator | None) -> None:
        super().__init__()
        self.table = nn.Embedding(V, D)
        self.mix = nn.Linear(D, D)
        self.head = nn.Linear(D, V)
        with torch.no_grad():
            self.mix.weight.normal_(generator=generator)
        self.mix.requires_grad_(False)
        self.mix.bias.data.zero_()
        self.register_buffer("scale", torch.tensor(0.5))

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        return self.head(torch.tanh(self.mix(self.table(x)) * self.scale)), None


class HalfFrozen(ModelSettings):
    """A model of which a part does not train."""

    name: ClassVar[str] = "half_frozen"

    embedding_size: int = setting(6, "width", "an integer of at least 1", ge=1)
    drawn_by_seed: bool = setting(False, "whether runs differ in what does not train", "true or false")

    def build(self, sizes):
        generator = None if self.drawn_by_seed else torch.Generator().manual_seed(5)
        return Bag(sizes.vocabulary_size, self.embedding_size, generator)


def descend(theta, gradient, state, hyper, step, layout):
    """Plain gradient descent whose decay shrinks the parameters, at a rate that grows with each step."""
    theta.mul_((1 - hyper["weight_decay"]).to(theta.dtype))
    theta.sub_((hyper["lr"] * hyper["push"] * step).to(theta.dtype) * gradient)


class Descend(Rule):
    """A rule with a number of its own."""

    name: ClassVar[str] = "descend"

    push: float = setting(1.0, "factor of the learning rate", "a number above 0", member=True, gt=0)

    def build(self):
        return descend


class Crowded(ModelSettings):
    """Has a setting that tasks have."""

    name: ClassVar[str] = "crowded"

    p: int = 3


class Inner:
    """Holds a part where no other process finds it."""

    class Hidden(Arithmetic):
        """Not at the top of its module."""

        name: ClassVar[str] = "hidden"


NOT_A_CLASS = 3
