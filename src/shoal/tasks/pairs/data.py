"""Sources and their targets as the engine takes them: rows of tokens, batches for each way to read them, the objective.

``N`` pairs, ``B`` of a batch, ``S`` tokens of a source and ``T`` of a target, EOS included; what a model reads of a
target begins with BOS, and so has as many.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from functools import cached_property, partial

import torch
from torch import Tensor
from torch.nn.functional import pad

from shoal.objectives import smoothed_losses
from shoal.tasks.base import Batch, Model, Task
from shoal.tasks.pairs.buckets import Buckets, BucketSampler, Widths
from shoal.tasks.pairs.codec import padded
from shoal.tasks.pairs.vocabulary import BOS, PAD
from shoal.tasks.text.units import count_text

SCORED_SHARE = 4  # of the training split as many pairs are scored as this part of the validation split's


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pairs in tokens, those that train and then those that validate, or as the task has them.

    Attributes:
        source: ``(N, S)`` int64, padded on the right.
        target: ``(N, T)`` int64, likewise.
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
        """By name; the same tensors whenever they are asked for, so that members share them."""
        names = ("source", "target", "source_length", "target_length")
        return {name: getattr(self, name) for name in names}

    @property
    def held(self) -> int:
        """Numbers that they take."""
        return sum(tensor.numel() for tensor in self.tensors.values())


@dataclass(frozen=True)
class Scoring:
    """What training minimises, where that is not the loss that is reported.

    Attributes:
        reduction: ``token``, the mean over all tokens of a batch, or ``sentence``, over its targets the mean of each
            one's mean over its tokens.
        label_smoothing, convention: see :func:`shoal.objectives.smoothed_losses`.
    """

    reduction: str = "token"
    label_smoothing: float = 0.0
    convention: str = "torch"


@dataclass(frozen=True)
class Batching:
    """Batches of pairs of about the same lengths.

    Attributes:
        buckets: of the pairs, those that train among them as the task draws them.
        batch_tokens: see :meth:`Buckets.batches`.
        bucket_seed: of the order of buckets.
    """

    buckets: Buckets
    batch_tokens: int | None = None
    bucket_seed: int = 0


def pair_batch(tensors: Mapping[str, Tensor], indices: Tensor, widths: Widths | None = None, *, reads: str) -> Batch:
    """Pairs by number, for models that read them in one of three ways.

    Args:
        tensors: as :attr:`Pairs.tensors`.
        indices: ``(B,)``.
        widths: of sources and of targets, with EOS, at least those of the batch's longest; all that there is where not
            given. Another width moves padding alone.
        reads: see :attr:`shoal.models.settings.ModelSettings.reads`.

    Returns:
        Of ``pair``: ``source`` and ``seen`` ``(B, S)``, and ``inputs``, BOS and the target's tokens, ``targets``, its
        tokens and EOS, and which are ``scored``, ``(B, T)``. Of ``sequence``: ``inputs``, a source, BOS and the target
        behind it without a gap, ``targets`` and ``scored``, those of the target alone, ``(B, S + T)``. Of ``source``:
        ``source``, ``seen``, ``targets`` and ``scored``, all of the larger of both widths: the token of the target in
        a place is predicted from the source there. Tokens are int64, ``seen`` and ``scored`` bool.
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


def pair_objective(model: Model, batch: Batch, scoring: Scoring | None = None) -> dict[str, Tensor]:
    """What is measured of each target, ``(B,)`` each: every token is predicted behind the right ones before it.

    Returns:
        ``loss``, nats per token, and ``accuracy``, share of tokens right, both with the ``weight`` of its tokens; and
        ``forced_exact``, 1 where all of them are right and else 0, each target counting alike. EOS counts, BOS and PAD
        do not. With ``scoring``, the loss that training minimises.
    """
    if "source" not in batch:
        logits, *_ = model(batch["inputs"])
    elif "inputs" in batch:
        logits, *_ = model(batch["source"], batch["inputs"], batch["seen"])
    else:
        logits, *_ = model(batch["source"], batch["seen"])
    scored, targets = batch["scored"], batch["targets"]  # (B, T)
    asked = scoring or Scoring()
    losses = smoothed_losses(logits, targets, asked.label_smoothing, asked.convention)  # (B, T)
    right = logits.argmax(-1) == targets
    n = scored.sum(-1)  # (B,), at least 1: EOS
    weight = n.to(losses.dtype)
    return {
        "loss": torch.where(scored, losses, 0.0).sum(-1) / n,
        "accuracy": (right & scored).sum(-1) / n,
        "forced_exact": (right | ~scored).all(-1).to(losses.dtype),
        "weight": torch.ones_like(weight) if asked.reduction == "sentence" else weight,
        "weight_forced_exact": torch.ones_like(weight),
    }


def pair_task(
    pairs: Pairs,
    reads: str,
    train: Tensor,
    valid: Tensor,
    groups: Mapping[str, Tensor] | None = None,
    scoring: Scoring | None = None,
    batching: Batching | None = None,
) -> Task:
    """Pairs as the engine takes them.

    Args:
        pairs: all of them.
        reads: see :func:`pair_batch`.
        train: which train, ``(n,)`` int64; a quarter as many as validate are scored, of each group.
        valid: which validate, likewise.
        groups: to report apart, ``(N,)`` bool each; no pair is in two.
        scoring: what training minimises.
        batching: in buckets, which must be the same for all members; else a pass is shuffled whole.
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
        training_objective=None if is_plain else partial(pair_objective, scoring=scoring),
    )
    if batching is None:
        return task
    sampler = partial(BucketSampler, **{field.name: getattr(batching, field.name) for field in fields(batching)})
    return replace(task, sampler=sampler, forms=batching.buckets.forms)


def n_scored(sizes: Sequence[int], n_valid: int) -> list[int]:
    """How many pairs of each group of the training split an evaluation scores: a quarter of what validates, by share.

    Args:
        sizes: of the groups in the training split, each at least 1.
        n_valid: pairs that validate.
    """
    n_train = sum(sizes)
    n = min(n_train, n_valid // SCORED_SHARE)
    return [max(1, n * size // n_train) for size in sizes]


def some_of(train: Tensor, n_valid: int, groups: Mapping[str, Tensor]) -> Tensor:
    """The pairs of the training split that an evaluation scores, evenly over each group: ``(n,)``, in their order."""
    parts = [train[inside[train]] for inside in groups.values()]
    grouped = torch.stack([inside[train] for inside in groups.values()]).any(0) if groups else torch.zeros_like(train)
    parts = [part for part in (*parts, train[~grouped.bool()]) if len(part)]
    found = n_scored([len(part) for part in parts], n_valid)
    chosen = [part[torch.arange(n) * len(part) // n] for part, n in zip(parts, found, strict=True)]
    return torch.cat(chosen).sort().values


def count_targets(lines: Sequence[str], tokens: int) -> dict[str, int]:
    """Tokens, characters, bytes and words of the targets that are scored, EOS counted as a token alone."""
    each = [count_text(line, 0) for line in lines]
    return {
        "targets": len(lines),
        "tokens": tokens,
        "characters": sum(one.characters for one in each),
        "bytes": sum(one.bytes for one in each),
        "words": sum(one.words for one in each),
    }
