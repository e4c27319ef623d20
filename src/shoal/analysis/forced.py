"""What a model gives each token of given targets behind the right ones, and behind what is not right.

A target's tokens can be predicted from its source, and from its own tokens before them. What either is worth shows
where it is exchanged: the source for that of another sentence, or the order of the tokens before for any other order.

Shapes: ``N`` pairs, ``B`` of them at once, ``S`` tokens of a source, ``T`` of a target, EOS included.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.objectives import token_losses
from shoal.tasks.pairs.data import Pairs, pair_batch
from shoal.tasks.pairs.vocabulary import BOS

AT_ONCE = 64  # pairs


@dataclass(frozen=True, eq=False)
class Forced:
    """Of each token of each target, ``(N, T)``.

    Attributes:
        nats: −ln p, float64; 0 where there is no token.
        right: whether it is the likeliest.
        counts: whether there is a token; EOS is one.
    """

    nats: Tensor
    right: Tensor
    counts: Tensor

    @property
    def tokens(self) -> int:
        """How many there are."""
        return int(self.counts.sum())

    @property
    def total(self) -> float:
        """Nats of all of them."""
        return float(self.nats.sum())


@torch.no_grad()
def forced(
    model: nn.Module, reads: str, pairs: Pairs, at_once: int = AT_ONCE, calling: Mapping[str, Any] = {}
) -> Forced:
    """Every token of every target, behind the right ones before it.

    Args:
        model: in evaluation mode.
        reads: ``pair`` or ``source``, see :attr:`shoal.models.settings.ModelSettings.reads`.
        pairs: sources and targets.
        at_once: pairs of a pass; another number moves nothing but the last bits.
        calling: keyword arguments with which the model is called.
    """
    found = _nothing(pairs)
    for rows, widths in _portions(pairs, at_once):
        made = pair_batch(pairs.tensors, rows, widths, reads=reads)
        read = (made["source"], made["inputs"]) if reads == "pair" else (made["source"],)
        logits = model(*read, made["seen"], **calling)[0]  # (B, T', V)
        scored, targets = made["scored"], made["targets"]
        T = min(widths[1], scored.shape[1])
        nats = torch.where(scored, token_losses(logits, targets).double(), 0.0)
        found.nats[rows, :T] = nats[:, :T]
        found.right[rows, :T] = ((logits.argmax(-1) == targets) & scored)[:, :T]
    return found


@torch.no_grad()
def forced_shuffled(
    model: nn.Module, pairs: Pairs, seed: int = 0, at_once: int = AT_ONCE, calling: Mapping[str, Any] = {}
) -> Forced:
    """Every token of every target, behind the right ones before it in an order drawn at random, BOS staying first.

    No token that comes later is shown: each place of a target is a pass of its own.

    Args:
        model: of a family that reads a source and the target so far, in evaluation mode.
        pairs: sources and targets.
        seed: of the orders.
        at_once: pairs of a pass.
        calling: keyword arguments with which the model is called.
    """
    found, generator = _nothing(pairs), torch.Generator().manual_seed(seed)
    for rows, widths in _portions(pairs, at_once):
        made = pair_batch(pairs.tensors, rows, widths, reads="pair")
        for t in range(widths[1]):
            there = made["scored"][:, t]  # (B,)
            if not there.any():
                continue
            before, targets = made["targets"][there, :t], made["targets"][there, t]  # (B', t), (B',)
            order = torch.rand(before.shape, generator=generator).argsort(1)
            inputs = torch.nn.functional.pad(before.gather(1, order), (1, 0), value=BOS)  # (B', t + 1)
            logits = model(made["source"][there], inputs, made["seen"][there], **calling)[0][:, -1]  # (B', V)
            found.nats[rows[there], t] = token_losses(logits, targets).double()
            found.right[rows[there], t] = logits.argmax(-1) == targets
    return found


def with_other_sources(pairs: Pairs) -> Pairs:
    """The same targets, each with the source of another pair, of about the same length: the next shorter one's."""
    order = pairs.source_length.argsort(stable=True)
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return Pairs(pairs.source[others], pairs.target, pairs.source_length[others], pairs.target_length)


def some_pairs(pairs: Pairs, n: int) -> Pairs:
    """So many pairs, evenly over all; all where there are no more."""
    n = min(n, len(pairs))
    rows = torch.arange(n) * len(pairs) // max(n, 1)
    return Pairs(*(part[rows] for part in pairs.tensors.values()))


def right_by_position(right: Tensor, counts: Tensor) -> list[tuple[int, int]]:
    """At each position of a target: how many there are, and how many of them are right, ``T`` of both."""
    return list(zip(counts.sum(0).tolist(), (right & counts).sum(0).tolist(), strict=True))


def free_right(answers: Sequence[Sequence[int]], pairs: Pairs) -> Tensor:
    """Whether a model that writes on its own has the target's token at each position, ``(N, T)`` bool.

    Args:
        answers: the tokens that it wrote, with EOS where it has one, one row for each pair.
        pairs: with the targets.
    """
    found = torch.zeros_like(pairs.target, dtype=torch.bool)
    for row, tokens in enumerate(answers):
        n = min(len(tokens), int(pairs.target_length[row]))
        found[row, :n] = pairs.target[row, :n] == torch.tensor(tokens[:n], dtype=torch.int64)
    return found


def _nothing(pairs: Pairs) -> Forced:
    N, T = pairs.target.shape
    counts = torch.arange(T) < pairs.target_length.unsqueeze(1)
    return Forced(torch.zeros(N, T, dtype=torch.float64), torch.zeros(N, T, dtype=torch.bool), counts)


def _portions(pairs: Pairs, at_once: int) -> list[tuple[Tensor, tuple[int, int]]]:
    """Pairs of about the same length together, and the widths that they need."""
    order = (pairs.source_length + pairs.target_length).argsort(stable=True)
    parts = torch.split(order, at_once)
    return [(part, (int(pairs.source_length[part].max()), int(pairs.target_length[part].max()))) for part in parts]
