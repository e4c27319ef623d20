"""Loop of greedy search and sampling, token by token, for any source of logits.

Shapes: ``R`` members, ``N`` rows, ``M`` places of those not yet left, ``V`` vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from shoal.decoding.rows import staying
from shoal.decoding.sampling import Sampling, draw, filtered
from shoal.decoding.stepping import Steps
from shoal.keyed import fold, uniform


class Source(Protocol):
    """Source of logits for ``size = (R, N)`` rows."""

    size: tuple[int, int]
    dtype: torch.dtype
    device: torch.device

    def next(self, new: int, chosen: Tensor | None, is_open: Tensor | None) -> Tensor:
        """Next-token logits after rows of ``new`` new tokens, the last ``chosen`` ``(R, N)``: ``(R, N, V)``.

        Called for 0, 1, … in turn. Logits of rows that are not open, ``(R, N)``, are arbitrary; all rows are open where
        it is not given.
        """
        ...


@dataclass(frozen=True)
class Choice:
    """Rule by which tokens are chosen: the likeliest, or drawn by the keys of members, rows and positions."""

    sampling: Sampling | None
    keys: Tensor | None
    rows: Tensor | None
    lengths: Tensor  # of the prompts, (N,)

    def __call__(self, logits: Tensor, new: int) -> Tensor:
        """Tokens behind ``new`` earlier ones, from their logits ``(R, N, V)``: ``(R, N)``."""
        if self.sampling is None:
            return logits.argmax(-1)
        assert self.keys is not None
        rows = torch.arange(logits.shape[1], device=logits.device) if self.rows is None else self.rows
        token_keys = fold(fold(self.keys.unsqueeze(1), rows), self.lengths + new)  # (R, N)
        logits = filtered(logits, self.sampling.temperature, self.sampling.top_k, self.sampling.top_p)
        return draw(logits.log_softmax(-1), uniform(token_keys, 1).squeeze(-1))


def write(
    source: Source, max_new_tokens: int, choice: Choice, eos: int | None, padding: int
) -> tuple[Tensor, Tensor, Tensor]:
    """New tokens ``(R, N, max_new_tokens)``, the number of each row ``(R, N)``, and their log probabilities."""
    shape = (*source.size, max_new_tokens)
    tokens = torch.full(shape, padding, dtype=torch.int64, device=source.device)
    log_p = torch.zeros(shape, dtype=source.dtype, device=source.device)
    is_open: Tensor | None = None  # as long as all are
    counts = torch.full(source.size, max_new_tokens, dtype=torch.int64, device=source.device)
    chosen: Tensor | None = None
    for new in range(max_new_tokens):
        logits = source.next(new, chosen, is_open)  # (R, N, V)
        chosen = choice(logits, new)  # (R, N)
        log_p_chosen = logits.log_softmax(-1).gather(-1, chosen.unsqueeze(-1)).squeeze(-1)
        tokens[..., new] = chosen if is_open is None else torch.where(is_open, chosen, padding)
        log_p[..., new] = log_p_chosen if is_open is None else torch.where(is_open, log_p_chosen, 0.0)
        if eos is None or not (ends := chosen == eos).any():
            continue
        ending = ends if is_open is None else ends & is_open
        counts[ending] = new + 1
        is_open = ~ends if is_open is None else is_open & ~ends
        if not is_open.any():
            break
    return tokens, counts, log_p


class FromState:
    """Source of logits from states; rows that are done are removed from time to time."""

    def __init__(self, model: Steps, state: Mapping[str, Tensor], logits: Tensor) -> None:
        R, N, _ = logits.shape
        self.model, self.state, self.logits = model, dict(state), logits
        self.size, self.dtype, self.device = (R, N), logits.dtype, logits.device
        self.rows = torch.arange(N, device=logits.device).repeat(R, 1)  # in the places that are left, (R, M)

    def next(self, new: int, chosen: Tensor | None, is_open: Tensor | None) -> Tensor:
        if chosen is None:
            return self.logits
        places = None if is_open is None else staying(is_open.gather(1, self.rows))
        if places is not None:
            self.rows, self.state = self.rows.gather(1, places), self.model.select(self.state, places)
        tokens = chosen.gather(1, self.rows).unsqueeze(-1)  # (R, M, 1)
        logits, self.state = self.model.step(tokens, self.state, last=True)  # (R, M, 1, V)
        if self.rows.shape[1] == self.size[1]:
            return logits[:, :, 0]
        every = torch.zeros_like(self.logits)
        return every.scatter(1, self.rows.unsqueeze(-1).expand(-1, -1, every.shape[-1]), logits[:, :, 0])
