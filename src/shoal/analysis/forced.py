"""Teacher-forced evaluation: loss and accuracy of each target token, also behind exchanged sources and prefixes.

A target's token can be predicted from the source, and from the target's tokens before it. The worth of either shows
where it is exchanged: the source for that of another sentence, or the order of the tokens before for a random order.

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
    """Teacher-forced loss and accuracy of each token of each target, ``(N, T)``.

    Attributes:
        nats: −ln p, float64; 0 where there is no token.
        right: true where the token is the model's likeliest.
        counts: true where there is a token; EOS is one.
    """

    nats: Tensor
    right: Tensor
    counts: Tensor

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return int(self.counts.sum())

    @property
    def total(self) -> float:
        """Sum of the nats of all tokens."""
        return float(self.nats.sum())


@torch.no_grad()
def forced(
    model: nn.Module, reads: str, pairs: Pairs, at_once: int = AT_ONCE, calling: Mapping[str, Any] = {}
) -> Forced:
    """Teacher-forced evaluation of every token of every target, behind the right tokens before it.

    Args:
        model: the model, in evaluation mode.
        reads: ``pair`` or ``source``, see :attr:`shoal.models.settings.ModelSettings.reads`.
        pairs: sources and targets.
        at_once: number of pairs per forward pass; another number changes only the last bits of the result.
        calling: keyword arguments of the model's call.
    """
    result = _nothing(pairs)
    for rows, widths in _portions(pairs, at_once):
        batch = pair_batch(pairs.tensors, rows, widths, reads=reads)
        read = (batch["source"], batch["inputs"]) if reads == "pair" else (batch["source"],)
        logits = model(*read, batch["seen"], **calling)[0]  # (B, T', V)
        scored, targets = batch["scored"], batch["targets"]
        T = min(widths[1], scored.shape[1])
        nats = torch.where(scored, token_losses(logits, targets).double(), 0.0)
        result.nats[rows, :T] = nats[:, :T]
        result.right[rows, :T] = ((logits.argmax(-1) == targets) & scored)[:, :T]
    return result


@torch.no_grad()
def forced_shuffled(
    model: nn.Module, pairs: Pairs, seed: int = 0, at_once: int = AT_ONCE, calling: Mapping[str, Any] = {}
) -> Forced:
    """Teacher-forced evaluation behind the right tokens in a random order, BOS staying first.

    The model sees no later token: each position of a target is a forward pass of its own.

    Args:
        model: of a family that reads a source and the target so far, in evaluation mode.
        pairs: sources and targets.
        seed: seed of the random orders.
        at_once: number of pairs per forward pass.
        calling: keyword arguments of the model's call.
    """
    result, generator = _nothing(pairs), torch.Generator().manual_seed(seed)
    for rows, widths in _portions(pairs, at_once):
        batch = pair_batch(pairs.tensors, rows, widths, reads="pair")
        for t in range(widths[1]):
            there = batch["scored"][:, t]  # (B,)
            if not there.any():
                continue
            before, targets = batch["targets"][there, :t], batch["targets"][there, t]  # (B', t), (B',)
            order = torch.rand(before.shape, generator=generator).argsort(1)
            inputs = torch.nn.functional.pad(before.gather(1, order), (1, 0), value=BOS)  # (B', t + 1)
            logits = model(batch["source"][there], inputs, batch["seen"][there], **calling)[0][:, -1]  # (B', V)
            result.nats[rows[there], t] = token_losses(logits, targets).double()
            result.right[rows[there], t] = logits.argmax(-1) == targets
    return result


def with_other_sources(pairs: Pairs) -> Pairs:
    """The same targets, each with the source of another pair: the next shorter one."""
    order = pairs.source_length.argsort(stable=True)
    others = torch.empty_like(order)
    others[order] = order.roll(1)
    return Pairs(pairs.source[others], pairs.target, pairs.source_length[others], pairs.target_length)


def some_pairs(pairs: Pairs, n: int) -> Pairs:
    """Subset of ``n`` pairs, evenly over all; all pairs where there are no more."""
    n = min(n, len(pairs))
    rows = torch.arange(n) * len(pairs) // max(n, 1)
    return Pairs(*(part[rows] for part in pairs.tensors.values()))


def right_by_position(right: Tensor, counts: Tensor) -> list[tuple[int, int]]:
    """Numbers of tokens and of right tokens at each position of a target, ``T`` of both."""
    return list(zip(counts.sum(0).tolist(), (right & counts).sum(0).tolist(), strict=True))


def free_right(answers: Sequence[Sequence[int]], pairs: Pairs) -> Tensor:
    """Tensor that is true where a freely decoded answer has the target's token, ``(N, T)`` bool.

    Args:
        answers: the decoded tokens, with EOS where the answer has one, one row for each pair.
        pairs: pairs that hold the targets.
    """
    right = torch.zeros_like(pairs.target, dtype=torch.bool)
    for row, tokens in enumerate(answers):
        n = min(len(tokens), int(pairs.target_length[row]))
        right[row, :n] = pairs.target[row, :n] == torch.tensor(tokens[:n], dtype=torch.int64)
    return right


def _nothing(pairs: Pairs) -> Forced:
    N, T = pairs.target.shape
    counts = torch.arange(T) < pairs.target_length.unsqueeze(1)
    return Forced(torch.zeros(N, T, dtype=torch.float64), torch.zeros(N, T, dtype=torch.bool), counts)


def _portions(pairs: Pairs, at_once: int) -> list[tuple[Tensor, tuple[int, int]]]:
    """Batches of pairs of about the same length, each with the widths that it needs."""
    order = (pairs.source_length + pairs.target_length).argsort(stable=True)
    parts = torch.split(order, at_once)
    return [(part, (int(pairs.source_length[part].max()), int(pairs.target_length[part].max()))) for part in parts]
