"""Which training examples a step sees: pure functions of each member's key and the step.

``R`` members, ``B`` examples per step.
"""

from typing import Protocol

import torch
from torch import Tensor

from shoal.keyed import bits, fold


class Sampler(Protocol):
    """Draws the training examples of every member of a stack at once."""

    def __init__(self, keys: Tensor, sizes: Tensor, batch_size: int) -> None:
        """``keys`` ``(R,)`` int64, ``sizes`` of the training sets ``(R,)`` int64, both on the stack's device."""

    def __call__(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """Positions in the training split ``(R, B)`` and which of them count ``(R, B)`` bool.

        ``steps`` ``(R,)`` int64, on the host: the step of each member, from 1 on.
        """


class EpochSampler:
    """Passes over the training set in a new order each time, the last, smaller batch of a pass kept.

    A member whose training set fits in one batch sees it whole, in its own order, at every step: shuffling it would
    change nothing but rounding.
    """

    def __init__(self, keys: Tensor, sizes: Tensor, batch_size: int) -> None:
        self.keys = keys
        self.sizes = sizes.unsqueeze(1)  # (R, 1)
        self.batch_size = batch_size
        self.longest = int(sizes.max())
        self.offsets = torch.arange(min(batch_size, self.longest), device=sizes.device)  # (B,)
        self.batches = -(-sizes.cpu() // batch_size)  # (R,), on the host: only it decides when to reshuffle
        self.epoch = torch.full_like(self.batches, -1)
        self.order = torch.arange(self.longest, device=sizes.device).expand(len(keys), -1)  # (R, longest)
        self.always = self._batch(torch.ones_like(self.batches)) if (self.batches == 1).all() else None

    def __call__(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`Sampler`."""
        return self._batch(steps) if self.always is None else self.always

    def _batch(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        epoch = (steps - 1) // self.batches  # (R,)
        if ((epoch != self.epoch) & (self.batches > 1)).any():
            self._shuffle(epoch)
        start = ((steps - 1) % self.batches * self.batch_size).to(self.offsets.device)  # (R,)
        positions = start.unsqueeze(1) + self.offsets  # (R, B)
        counts = positions < self.sizes  # (R, B)
        return self.order.gather(1, positions.where(counts, 0)), counts

    def _shuffle(self, epoch: Tensor) -> None:
        """Every member's order for its epoch: its examples sorted by a hash of key, epoch and position."""
        self.epoch = epoch
        hashes = bits(fold(self.keys, epoch.to(self.keys.device)), self.longest)  # (R, longest)
        positions = torch.arange(self.longest, device=hashes.device).expand_as(hashes)
        hashes = hashes.where(positions < self.sizes, 2**32)  # beyond the member's own data: sorted to the end
        whole = (self.batches == 1).to(hashes.device).unsqueeze(1)  # (R, 1)
        self.order = positions.where(whole, hashes.argsort(dim=1, stable=True))
