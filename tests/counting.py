"""A task, a model family and an update rule that stand outside of shoal, and tasks that measure other things.

Named by their places, ``counting:Count`` and so on; processes of their own find them with this folder in PYTHONPATH.
"""

import math
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.measures import ACCURACY, LOSS, Generalised, Measure, Measures
from shoal.models.settings import ModelSettings
from shoal.rules.settings import Rule
from shoal.spec import setting
from shoal.tasks.base import Task
from shoal.tasks.settings import Counts, Sizes, TaskSettings

SQUARED = Measure("loss", "E", "squared error", "ones²", is_log=True)


def squared_error(model, batch):
    """How far the first number at the last position is from how many ones there are."""
    out, *_ = model(batch["inputs"])  # (B, S, V)
    return {"loss": (out[:, -1, 0] - batch["ones"]).square()}


class Count(TaskSettings):
    """How many of some bits are ones: nothing is measured but the squared error."""

    name: ClassVar[str] = "count"

    length: int = setting(5, "bits", "an integer from 2 to 10", ge=2, le=10)
    held_out: float = setting(0.25, "share that validates", "in (0, 1)", member=True, gt=0, lt=1)

    def measures(self):
        return Measures((SQUARED,), things="rows of bits")

    def sizes(self):
        return Sizes(2, self.length)

    def counts(self):
        return Counts(self._n_train(), 2**self.length)

    def build(self, split_seed):
        every = torch.arange(2**self.length)
        inputs = (every.unsqueeze(1) >> torch.arange(self.length)) & 1  # (N, S)
        order = torch.randperm(len(every), generator=torch.Generator().manual_seed(split_seed))
        train, valid = order[: self._n_train()], order[self._n_train() :]
        tensors = {"inputs": inputs, "ones": inputs.sum(1).float()}
        return Task(tensors, train, {"train": train, "valid": valid}, self.objective())

    def objective(self):
        return squared_error

    def _n_train(self):
        return 2**self.length - math.ceil(self.held_out * 2**self.length)


def parity_scores(model, batch):
    """Cross-entropy of the parity, whether it is wrong, and by how much its logit is ahead."""
    out, *_ = model(batch["inputs"])
    logits, parity = out[:, -1], batch["ones"].long() % 2  # (B, 2), (B,)
    own = logits.gather(1, parity.unsqueeze(1)).squeeze(1)
    margin = 2 * own - logits.sum(1)
    loss = F.cross_entropy(logits, parity, reduction="none")
    return {"loss": loss, "mistakes": (margin <= 0).to(loss.dtype), "margin": margin}


class Parity(Count):
    """Whether there are an odd number of ones: three measures, of which one that falls says what generalised means."""

    name: ClassVar[str] = "parity"

    def measures(self):
        mistakes = Measure("mistakes", "M", "share of mistakes", bounds=(0.0, 1.0), thresholds=(0.6,))
        margin = Measure("margin", "D", "margin", "logits", higher_is_better=True)
        return Measures((LOSS, mistakes, margin), Generalised("mistakes", 0.55), "rows of bits")

    def objective(self):
        return parity_scores


def token_scores(model, batch):
    """Mean cross-entropy of the next bits, and how many of them are right."""
    logits, *_ = model(batch["inputs"][:, :-1])  # (B, S, V)
    targets = batch["inputs"][:, 1:]
    loss = F.cross_entropy(logits.mT, targets, reduction="none").mean(1)
    return {"loss": loss, "accuracy": (logits.argmax(-1) == targets).to(loss.dtype).mean(1)}


class NextBits(Count):
    """What comes next, as a language model is measured: per token, and nothing that would be generalising."""

    name: ClassVar[str] = "next_bits"

    def measures(self):
        loss = Measure("loss", "L", "loss", "nats per token", is_log=True)
        right = Measure("accuracy", ACCURACY.symbol, "accuracy", "", True, (0.0, 1.0), about="next tokens right")
        return Measures((loss, right), things="rows of bits")

    def objective(self):
        return token_scores


class Mean(nn.Module):
    """The mean of what was read so far, through two layers."""

    def __init__(self, V: int, width: int) -> None:
        super().__init__()
        self.table = nn.Embedding(V, width)
        self.hidden = nn.Linear(width, width)
        self.head = nn.Linear(width, V)

    def forward(self, tokens: Tensor) -> tuple[Tensor, None]:
        x = self.table(tokens)  # (B, S, D)
        n = torch.arange(1, x.shape[1] + 1, device=x.device).unsqueeze(1)  # (S, 1)
        return self.head(torch.relu(self.hidden(x.cumsum(1) / n))), None


class MeanModel(ModelSettings):
    """A model family of a few lines."""

    name: ClassVar[str] = "mean"
    label: ClassVar[str] = "mean of tokens"

    width: int = setting(8, "width of the layers", "an integer of at least 1", ge=1)

    def build(self, sizes):
        return Mean(sizes.vocabulary_size, self.width)


def signum(theta, gradient, state, hyper, step, layout):
    """``m ← μ m + (1 − μ) g``; ``θ ← θ − lr sign(m)`` (Bernstein et al. 2018)."""
    share = hyper["momentum"].to(theta.dtype)
    state["m"].mul_(share).add_((1 - share) * gradient)
    theta.sub_(hyper["lr"].to(theta.dtype) * state["m"].sign())


class Signum(Rule):
    """The sign of the momentum."""

    name: ClassVar[str] = "signum"
    state: ClassVar[tuple[str, ...]] = ("m",)

    momentum: float = setting(0.9, "decay of the momentum", "in [0, 1)", member=True, ge=0, lt=1)

    def build(self):
        return signum
