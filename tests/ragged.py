"""A small task of pairs of unequal lengths, as one from outside of shoal: ``ragged:Ragged``."""

from collections.abc import Mapping
from functools import cache, partial
from typing import Any, ClassVar

import torch
from torch import Tensor

from shoal.objectives import token_losses
from shoal.spec import setting
from shoal.tasks.base import Task
from shoal.tasks.pairs.buckets import Buckets, BucketSampler
from shoal.tasks.settings import Counts, Sizes, TaskSettings

V = 7  # 0 is padding
LONGEST = 9, 8  # of sources, of targets


class Ragged(TaskSettings):
    """Random sources of random lengths, and targets that have to be learned by heart."""

    name: ClassVar[str] = "ragged"
    usual_model: ClassVar[str] = "gpt"

    n_train: int = setting(40, "pairs that train", "an integer of at least 1", ge=1)
    n_valid: int = setting(12, "pairs that validate", "an integer of at least 1", ge=1)
    batch_tokens: int = setting(0, "positions of a batch instead of pairs; 0 for pairs", "an integer", ge=0)
    bucket_seed: int = setting(0, "of the order of buckets", "an integer", ge=0)
    is_split_by_seed: bool = setting(False, "whether runs of other seeds have other pairs", "true or false")

    def sizes(self) -> Sizes:
        """See :class:`TaskSettings`."""
        return Sizes(V, sum(LONGEST), padding_index=0)

    def counts(self) -> Counts:
        """See :class:`TaskSettings`."""
        return Counts(drawn=self.n_train, scored=self.n_train // 2 + self.n_valid)

    def build(self, split_seed: int) -> Task:
        """See :class:`TaskSettings`; the same task to all who ask."""
        given: Mapping[str, Any] = self.model_dump()
        return built(split_seed if self.is_split_by_seed else 0, **given)


@cache
def built(seed: int, n_train: int, n_valid: int, batch_tokens: int, bucket_seed: int, is_split_by_seed: bool) -> Task:
    """The pairs."""
    generator = torch.Generator().manual_seed(seed)
    N = n_train + n_valid
    lengths = [1 + torch.randint(longest, (N,), generator=generator) for longest in LONGEST]
    tokens = [1 + torch.randint(V - 1, (N, longest), generator=generator) for longest in LONGEST]
    tokens = [x.where(torch.arange(x.shape[1]) < n.unsqueeze(1), 0) for x, n in zip(tokens, lengths, strict=True)]
    buckets = Buckets(*lengths, drawn=n_train, multiple=2, least=0.1)
    sampler = partial(BucketSampler, buckets=buckets, batch_tokens=batch_tokens or None, bucket_seed=bucket_seed)
    names = ("source", "target", "source_length", "target_length")
    return Task(
        tensors=dict(zip(names, (*tokens, *lengths), strict=True)),
        drawn=n_train,
        scored={"train": torch.arange(n_train // 2), "valid": n_train + torch.arange(n_valid)},
        objective=ragged_objective,
        batch=joined,
        sampler=sampler,
        forms=buckets.forms,
    )


def joined(tensors: Mapping[str, Tensor], indices: Tensor, widths: tuple[int, int]) -> dict[str, Tensor]:
    """A source and its target as one sequence, padded to both widths: ``(B, S + T)``."""
    source, target, s, t = (tensors[name][indices] for name in ("source", "target", "source_length", "target_length"))
    at = torch.arange(sum(widths), device=indices.device).expand(len(indices), -1)  # (B, W)
    s, t = s.unsqueeze(1), t.unsqueeze(1)  # (B, 1)
    first = source.gather(1, at.clamp(max=source.shape[1] - 1))
    second = target.gather(1, (at - s).clamp(0, target.shape[1] - 1))
    tokens = torch.where(at < s, first, second).where(at < s + t, 0)
    scored = (at[:, 1:] >= s) & (at[:, 1:] < s + t)
    return {"inputs": tokens[:, :-1], "targets": tokens[:, 1:], "scored": scored, "indices": indices}


def ragged_objective(model: Any, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Loss and accuracy of the target's tokens."""
    logits, *_ = model(batch["inputs"])  # (B, W, V)
    scored, n = batch["scored"], batch["scored"].sum(-1)
    losses = token_losses(logits, batch["targets"], 0.0)
    right = (logits.argmax(-1) == batch["targets"]) & scored
    loss = torch.where(scored, losses, 0.0).sum(-1) / n
    return {"loss": loss, "accuracy": right.sum(-1) / n, "weight": n.to(losses.dtype)}
