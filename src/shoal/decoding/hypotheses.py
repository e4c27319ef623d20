"""Hypotheses of a search as tensors, the best first.

Shapes: ``R`` members, ``N`` prompts, ``b`` hypotheses of each, ``T`` tokens of the longest.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from shoal.decoding.stepping import gathered


@dataclass(frozen=True)
class Hypotheses:
    """Best hypotheses of a search for each prompt, the best first.

    Among equal scores the one that finished first is first, then the one that was ranked first (:mod:`.ranking`).

    Attributes:
        tokens: tokens, EOS included, then padding, ``(R, N, b, T)``, int64.
        lengths: number of tokens of each, ``(R, N, b)``, int64; 0 where there are fewer hypotheses.
        log_p: log probability of all tokens, in nats, ``(R, N, b)``, float64; -inf where there is no hypothesis.
        scores: scores that order them (:mod:`.stopping`), ``(R, N, b)``, float64.
        finished: true where it has ended, ``(R, N, b)``; others were cut at the longest length.
    """

    tokens: Tensor
    lengths: Tensor
    log_p: Tensor
    scores: Tensor
    finished: Tensor

    @classmethod
    def none(cls, shape: tuple[int, ...], T: int, device: torch.device, padding: int = 0) -> "Hypotheses":
        """Empty places for hypotheses, ``shape = (R, N, b)``."""
        never = torch.full(shape, -math.inf, dtype=torch.float64, device=device)
        lengths = torch.zeros(shape, dtype=torch.int64, device=device)
        tokens = torch.full((*shape, T), padding, dtype=torch.int64, device=device)
        return cls(tokens, lengths, never, never.clone(), torch.zeros(shape, dtype=torch.bool, device=device))

    @classmethod
    def of_groups(cls, groups: Sequence["Hypotheses"]) -> "Hypotheses":
        """Hypotheses of groups of members, one after the other."""
        return cls(*(torch.cat([getattr(group, field.name) for group in groups]) for field in fields(cls)))

    def copied(self) -> "Hypotheses":
        """Copy in new tensors."""
        return Hypotheses(*(getattr(self, field.name).clone() for field in fields(self)))

    def take(self, index: Tensor) -> "Hypotheses":
        """Hypotheses of some prompts, ``(R, N')``, or some hypotheses of each prompt, ``(R, N, b')``."""
        return Hypotheses(*(gathered(getattr(self, field.name), index) for field in fields(self)))

    def joined(self, other: "Hypotheses", best: int) -> "Hypotheses":
        """Best hypotheses of both; among equal scores those of ``self`` are first."""
        both = Hypotheses(
            *(torch.cat([getattr(one, field.name) for one in (self, other)], dim=2) for field in fields(self))
        )
        return both.take(both.scores.argsort(dim=-1, descending=True, stable=True)[..., :best])

    def only(self, counts: Tensor, padding: int = 0) -> "Hypotheses":
        """Hypotheses for which ``counts`` ``(R, N, b)`` is true; the places of the others become empty."""
        return replace(
            self,
            tokens=self.tokens.masked_fill(~counts.unsqueeze(-1), padding),
            lengths=self.lengths.masked_fill(~counts, 0),
            log_p=self.log_p.masked_fill(~counts, -math.inf),
            scores=self.scores.masked_fill(~counts, -math.inf),
            finished=self.finished & counts,
        )

    def written(self, member: int, prompt: int, which: int = 0) -> list[int]:
        """Tokens of one hypothesis."""
        tokens: list[int] = self.tokens[member, prompt, which, : int(self.lengths[member, prompt, which])].tolist()
        return tokens
