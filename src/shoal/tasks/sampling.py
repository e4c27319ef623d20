"""Samplers of the training examples of a step: pure functions of each member's key and the step.

``R`` members, ``B`` examples per step.
"""

import sys
from collections.abc import Hashable
from typing import Protocol

import torch
from torch import Tensor

from shoal.keyed import bits, fold

Form = Hashable  # of a batch: for pairs the widths to which both sides are padded


class Sampler(Protocol):
    """Sampler that draws the training examples of every member of a stack at once.

    All work on the host is done in ``prepare``: drawing is the same work on the device at every step, so that many
    steps can be recorded for a GPU and launched at once.
    """

    def __init__(self, keys: Tensor, sizes: Tensor, batch_size: int) -> None:
        """Take ``keys`` ``(R,)`` int64 and ``sizes`` of the training sets ``(R,)`` int64, on the stack's device."""

    def prepare(self, taken: Tensor) -> int:
        """Do host work, such as reshuffling, before the next step of every member.

        Args:
            taken: number of steps that each member has taken, ``(R,)`` int64, on the host.

        Returns:
            Number of steps for which ``__call__`` may be used before this must be called again.
        """

    def __call__(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the training split ``(R, B)``, and a mask that is true where they count ``(R, B)`` bool.

        ``steps`` ``(R,)`` int64, on the stack's device: the step of each member, from 1 on. Where the batch is the same
        at every step, the same tensors may be returned; another batch must be in new tensors.
        """


class FormSampler(Sampler, Protocol):
    """Sampler whose batches have forms: functions of the step alone, the same for every member and every pass.

    Members of a stack have the same form at every step if their numbers of steps differ by whole passes alone.

    Attributes:
        period: number of steps of a pass, after which forms repeat in the same order.
        form: form of the prepared steps.
        size: number of examples of each of these steps.
    """

    period: int
    form: Form
    size: int


class EpochSampler:
    """Sampler of passes over the training set, each in a new order, with the last, smaller batch of a pass kept.

    A member whose training set fits in one batch sees it whole, in the order of the data, at every step: shuffling it
    would change nothing but rounding.
    """

    def __init__(self, keys: Tensor, sizes: Tensor, batch_size: int) -> None:
        self.keys = keys
        self.sizes = sizes.unsqueeze(1)  # (R, 1)
        self.batch_size = batch_size
        self.longest = int(sizes.max())
        self.offsets = torch.arange(min(batch_size, self.longest), device=sizes.device)  # (B,)
        self.batches = -(-sizes // batch_size)  # (R,) in a pass
        self.host_batches = self.batches.cpu()
        self.shuffled = self.host_batches > 1  # (R,), on the host
        self.epoch = torch.full_like(self.host_batches, -1)  # for which ``order`` holds
        self.order = torch.arange(self.longest, device=sizes.device).repeat(len(keys), 1)  # (R, longest)
        self.always = None if self.shuffled.any() else self._batch(torch.ones_like(self.batches))

    def prepare(self, taken: Tensor) -> int:
        """See :class:`Sampler`: shuffle where a member begins a pass."""
        if self.always is not None:
            return sys.maxsize
        epoch = taken // self.host_batches  # (R,), of the next step
        if (self.shuffled & (epoch != self.epoch)).any():
            self._shuffle(epoch)
        return int((self.host_batches - taken % self.host_batches)[self.shuffled].min())

    def __call__(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Sampler`."""
        return self._batch(steps) if self.always is None else self.always

    def _batch(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        start = (steps - 1) % self.batches * self.batch_size  # (R,)
        positions = start.unsqueeze(1) + self.offsets  # (R, B)
        counts = positions < self.sizes  # (R, B)
        return self.order.gather(1, positions.where(counts, 0)), counts

    def _shuffle(self, epoch: Tensor) -> None:
        """Set every member's order for its epoch in place: examples sorted by a hash of key, epoch and position."""
        self.epoch = epoch
        hashes = bits(fold(self.keys, epoch.to(self.keys.device)), self.longest)  # (R, longest)
        positions = torch.arange(self.longest, device=hashes.device).expand_as(hashes)
        hashes = hashes.where(positions < self.sizes, 2**32)  # beyond the member's own data: sorted to the end
        whole = (self.batches == 1).unsqueeze(1)  # (R, 1)
        self.order.copy_(positions.where(whole, hashes.argsort(dim=1, stable=True)))


class RandomSampler:
    """Sampler with replacement: a pure function of key and step, without host work."""

    def __init__(self, keys: Tensor, sizes: Tensor, batch_size: int) -> None:
        self.keys, self.sizes, self.batch_size = keys, sizes.unsqueeze(1), batch_size

    def prepare(self, taken: Tensor) -> int:
        """See :class:`Sampler`."""
        return sys.maxsize

    def __call__(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Sampler`."""
        drawn = bits(fold(self.keys, steps), self.batch_size) % self.sizes  # (R, B)
        return drawn, torch.ones_like(drawn, dtype=torch.bool)
