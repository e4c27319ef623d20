"""Data of sources and targets for the engine: rows of tokens, batches for each way to read them, the objective.

``N`` pairs, ``B`` of a batch, ``S`` tokens of a source and ``T`` of a target, EOS included; a model reads a target
behind BOS and without EOS, which are ``T`` tokens, too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from shoal.tasks.base import Batch, Task, TokenObjective
from shoal.tasks.pairs.buckets import Buckets, BucketSampler, Widths
from shoal.tasks.pairs.codec import padded
from shoal.tasks.pairs.vocabulary import BOS, PAD
from shoal.tasks.text.units import count_text

SCORED_SHARE = 4  # the number of scored training pairs is that of validation pairs over this


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs of sources and targets in tokens, in the order of the task, such as those that train first.

    Attributes:
        source: ``(N, S)`` int64, padded on the right.
        target: ``(N, T)`` int64, padded on the right.
        source_length, target_length: tokens of each with EOS, ``(N,)`` int64.
    """

    source: Tensor
    target: Tensor
    source_length: Tensor
    target_length: Tensor

    @classmethod
    def of(cls, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> "Pairs":
        """Pairs of rows of tokens without EOS."""
        (source, source_length), (target, target_length) = padded(sources), padded(targets)
        return cls(source, target, source_length, target_length)

    def __len__(self) -> int:
        return len(self.source)

    @cached_property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name; the same objects at every call, so that members share them."""
        names = ("source", "target", "source_length", "target_length")
        return {name: getattr(self, name) for name in names}

    def real_share(self) -> float:
        """Share of the positions of sources and targets that hold tokens and no padding to the longest of all."""
        return int(self.source_length.sum() + self.target_length.sum()) / (self.source.numel() + self.target.numel())

    @property
    def held(self) -> int:
        """Number of elements of all tensors together."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Scoring:
    """Objective that training minimises, where it is not the reported loss.

    Attributes:
        reduction: ``token``, the mean over all tokens of a batch, or ``sentence``, the mean over its targets of the
            mean over each one's tokens.
        label_smoothing, convention: see :func:`shoal.objectives.smoothed_losses`.
    """

    reduction: str = "token"
    label_smoothing: float = 0.0
    convention: str = "torch"

    def objective(self) -> TokenObjective:
        """Objective of these settings."""
        summary = pair_summary if self.reduction == "token" else partial(pair_summary, is_by_target=True)
        return TokenObjective(summary, self.label_smoothing, self.convention)


@dataclass(frozen=True)
class Batching:
    """Batches of pairs of about the same lengths.

    Attributes:
        buckets: buckets of the pairs, whose ``drawn`` are those that the task draws.
        batch_tokens: see :meth:`Buckets.batches`.
        bucket_seed: seed of the order of buckets.
    """

    buckets: Buckets
    batch_tokens: int | None = None
    bucket_seed: int = 0


def pair_batch(tensors: Mapping[str, Tensor], indices: Tensor, widths: Widths | None = None, *, reads: str) -> Batch:
    """Batch of pairs for models that read them in one of three ways.

    Args:
        tensors: as :attr:`Pairs.tensors`.
        indices: ``(B,)``.
        widths: widths of sources and of targets, with EOS, at least those of the batch's longest; those of the tensors
            where not given. Another width changes padding alone.
        reads: see :attr:`shoal.models.settings.ModelSettings.reads`.

    Returns:
        Of ``pair``: ``source`` and ``seen`` ``(B, S)``, and ``inputs``, BOS and the target's tokens, ``targets``, its
        tokens and EOS, and which are ``scored``, ``(B, T)``. Of ``sequence``: ``inputs``, a source, BOS and the target
        behind it without a gap, ``targets`` and ``scored``, those of the target alone, ``(B, S + T)``. Of ``source``:
        ``source``, ``seen``, ``targets`` and ``scored``, all of the larger of both widths: there is a prediction for
        each place, of the target's token there. Tokens are int64, ``seen`` and ``scored`` bool.
    """
    S, T = widths or (tensors["source"].shape[-1], tensors["target"].shape[-1])
    source = tensors["source"][:, :S][indices]  # (B, S)
    target = tensors["target"][:, :T][indices]  # (B, T)
    S, T = source.shape[-1], target.shape[-1]
    source_length = tensors["source_length"][indices].unsqueeze(-1)  # (B, 1)
    target_length = tensors["target_length"][indices].unsqueeze(-1)
    if reads == "source":
        W = max(S, T)
        places = torch.arange(W, device=indices.device)
        return {
            "source": pad(source, (0, W - S), value=PAD),
            "seen": places < source_length,
            "targets": pad(target, (0, W - T), value=PAD),
            "scored": places < target_length,
        }
    places = torch.arange(T, device=indices.device)
    scored = places < target_length  # (B, T)
    inputs = torch.where(scored, pad(target[:, :-1], (1, 0), value=BOS), PAD)
    if reads == "pair":
        seen = torch.arange(S, device=indices.device) < source_length
        return {"source": source, "seen": seen, "inputs": inputs, "targets": target, "scored": scored}
    place = torch.arange(S + T, device=indices.device) - source_length  # (B, S + T), in the target
    within = (place >= 0) & (place < target_length)
    at = place.clamp(0, T - 1)
    whole = torch.where(place < 0, pad(source, (0, T), value=PAD), torch.where(within, inputs.gather(-1, at), PAD))
    return {"inputs": whole, "targets": torch.where(within, target.gather(-1, at), PAD), "scored": within}


def pair_summary(losses: Tensor, right: Tensor, batch: Batch, is_by_target: bool = False) -> dict[str, Tensor]:
    """Measures of each target: every token is predicted behind the right ones before it. See :class:`TokenObjective`.

    Args:
        losses: ``(*dims, B, T)``.
        right: ``(*dims, B, T)``.
        batch: see :func:`pair_batch`.
        is_by_target: true where the loss of a batch is the mean over its targets, and not over their tokens.

    Returns:
        ``loss``, nats per token, and ``accuracy``, share of tokens right, both with the ``weight`` of its tokens; and
        ``forced_exact``, 1 where all of them are right and else 0, each target counting alike. EOS counts, BOS and PAD
        do not.
    """
    scored = batch["scored"]  # (*dims, B, T)
    n = scored.sum(-1)  # (*dims, B), at least 1: EOS
    weight = n.to(losses.dtype)
    return {
        "loss": torch.where(scored, losses, 0.0).sum(-1) / n,
        "accuracy": (right & scored).sum(-1) / n,
        "forced_exact": (right | ~scored).all(-1).to(losses.dtype),
        "weight": torch.ones_like(weight) if is_by_target else weight,
        "weight_forced_exact": torch.ones_like(weight),
    }


pair_objective = TokenObjective(pair_summary)


def pair_task(
    pairs: Pairs,
    reads: str,
    train: Tensor,
    valid: Tensor,
    groups: Mapping[str, Tensor] | None = None,
    scoring: Scoring | None = None,
    batching: Batching | None = None,
) -> Task:
    """Task of pairs for the engine.

    Args:
        pairs: all pairs.
        reads: see :func:`pair_batch`.
        train: indices of the training pairs, ``(n,)`` int64; a quarter as many as validate are scored, of each group.
        valid: indices of the validation pairs, ``(n,)`` int64.
        groups: groups of pairs to report separately, ``(N,)`` bool each; no pair is in two.
        scoring: objective that training minimises.
        batching: batches by length, whose buckets must be the same for all members; else a pass is shuffled whole.
    """
    scoring = scoring or Scoring()
    is_plain = scoring.label_smoothing == 0 and scoring.reduction == "token"
    task = Task(
        tensors=pairs.tensors,
        drawn=train,
        scored={"train": some_of(train, len(valid), groups or {}), "valid": valid},
        objective=pair_objective,
        groups=groups or {},
        batch=partial(pair_batch, reads=reads),
        training_objective=None if is_plain else scoring.objective(),
    )
    if batching is None:
        return task
    sampler = partial(BucketSampler, **{field.name: getattr(batching, field.name) for field in fields(batching)})
    return replace(task, sampler=sampler, forms=batching.buckets.forms)


def n_scored(sizes: Sequence[int], n_valid: int) -> list[int]:
    """Number of scored pairs of each group of the training split: a quarter of the validation pairs in all, by share.

    Args:
        sizes: sizes of the groups in the training split, each at least 1.
        n_valid: number of validation pairs.
    """
    n_train = sum(sizes)
    n = min(n_train, n_valid // SCORED_SHARE)
    return [max(1, n * size // n_train) for size in sizes]


def some_of(train: Tensor, n_valid: int, groups: Mapping[str, Tensor]) -> Tensor:
    """Training pairs that an evaluation scores, evenly over each group: ``(n,)``, in their order."""
    parts = [train[inside[train]] for inside in groups.values()]
    grouped = torch.stack([inside[train] for inside in groups.values()]).any(0) if groups else torch.zeros_like(train)
    parts = [part for part in (*parts, train[~grouped.bool()]) if len(part)]
    counts = n_scored([len(part) for part in parts], n_valid)
    chosen = [part[torch.arange(n) * len(part) // n] for part, n in zip(parts, counts, strict=True)]
    return torch.cat(chosen).sort().values


def count_targets(lines: Sequence[str], tokens: int) -> dict[str, int]:
    """Numbers of tokens, characters, bytes and words of the scored targets; EOS counts as a token alone."""
    each = [count_text(line, 0) for line in lines]
    return {
        "targets": len(lines),
        "tokens": tokens,
        "characters": sum(one.characters for one in each),
        "bytes": sum(one.bytes for one in each),
        "words": sum(one.words for one in each),
    }
