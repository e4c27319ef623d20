"""Hypotheses, the best first, as tensors.

Shapes: ``R`` members, ``N`` prompts, ``b`` hypotheses of each, ``T`` tokens of the longest.
"""

import math
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from shoal.decoding.stepping import gathered


@dataclass(frozen=True)
class Hypotheses:
    """The best that a search has found for each prompt, the best first.

    Of equal scores that which was finished first is first, then that which was ranked first (:mod:`.ranking`).

    Attributes:
        tokens: what was written, its end among it, then padding, ``(R, N, b, T)``, int64.
        lengths: tokens of each, ``(R, N, b)``, int64; 0 where there are fewer hypotheses.
        log_p: of all of its tokens, in nats, ``(R, N, b)``, float64; -inf where there is none.
        scores: what they are ordered by, likewise (:mod:`.stopping`).
        finished: whether it has ended; the others were cut at the longest length.
    """

    tokens: Tensor
    lengths: Tensor
    log_p: Tensor
    scores: Tensor
    finished: Tensor

    @classmethod
    def none(cls, shape: tuple[int, ...], T: int, device: torch.device, padding: int = 0) -> "Hypotheses":
        """Places for hypotheses, ``shape = (R, N, b)``."""
        never = torch.full(shape, -math.inf, dtype=torch.float64, device=device)
        lengths = torch.zeros(shape, dtype=torch.int64, device=device)
        tokens = torch.full((*shape, T), padding, dtype=torch.int64, device=device)
        return cls(tokens, lengths, never, never.clone(), torch.zeros(shape, dtype=torch.bool, device=device))

    def copied(self) -> "Hypotheses":
        """The same in other tensors."""
        return Hypotheses(*(getattr(self, field.name).clone() for field in fields(self)))

    def take(self, index: Tensor) -> "Hypotheses":
        """Some prompts, ``(R, N')``, or some hypotheses of each, ``(R, N, b')``."""
        return Hypotheses(*(gathered(getattr(self, field.name), index) for field in fields(self)))

    def joined(self, other: "Hypotheses", best: int) -> "Hypotheses":
        """The best of both; of equal scores those of this one are first."""
        both = Hypotheses(
            *(torch.cat([getattr(own, field.name) for own in (self, other)], dim=2) for field in fields(self))
        )
        return both.take(both.scores.argsort(dim=-1, descending=True, stable=True)[..., :best])

    def only(self, counts: Tensor, padding: int = 0) -> "Hypotheses":
        """Those of which ``counts`` ``(R, N, b)`` is true; the others become none, and stay where they are."""
        return replace(
            self,
            tokens=self.tokens.masked_fill(~counts.unsqueeze(-1), padding),
            lengths=self.lengths.masked_fill(~counts, 0),
            log_p=self.log_p.masked_fill(~counts, -math.inf),
            scores=self.scores.masked_fill(~counts, -math.inf),
            finished=self.finished & counts,
        )

    def written(self, member: int, prompt: int, which: int = 0) -> list[int]:
        """The tokens of one of them."""
        own: list[int] = self.tokens[member, prompt, which, : int(self.lengths[member, prompt, which])].tolist()
        return own
