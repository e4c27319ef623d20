"""Sampling of a token from logits: temperature, then top-k, then top-p, then a draw.

The order, and that ties at k are all kept, are those of the library transformers. Sources: Fan et al. 2018 for top-k,
Holtzman et al. 2020 for top-p (nucleus sampling).
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.errors import UserError

_FLOAT32 = torch.finfo(torch.float32)


@dataclass(frozen=True)
class Sampling:
    """Settings of sampling; see :func:`filtered` for their meaning and :func:`check_sampling` for their ranges."""

    temperature: float = 1.0
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        check_sampling(self.temperature, self.top_k, self.top_p)


def check_sampling(
    temperature: float, top_k: int | None = None, top_p: float | None = None, vocabulary_size: int | None = None
) -> None:
    """Raise a :class:`UserError` for settings that no token can be drawn with.

    Args:
        temperature: a positive number that float32 takes neither for 0 nor for infinite.
        top_k: at least 1, or None; from ``vocabulary_size`` on all tokens are kept.
        top_p: in (0, 1], or None.
        vocabulary_size: for the message.
    """
    if not _FLOAT32.tiny <= temperature <= _FLOAT32.max:  # NaN is refused too
        raise UserError(
            f"temperature must be from {_FLOAT32.tiny:.2g} to {_FLOAT32.max:.2g}, which float32 holds, got "
            f"{temperature}; greedy search takes the likeliest"
        )
    if top_k is not None and (top_k < 1 or top_k != int(top_k)):
        every = "" if vocabulary_size is None else f"; {vocabulary_size} keeps all tokens"
        raise UserError(f"top_k must be an integer of at least 1, got {top_k}{every}")
    if top_p is not None and not 0 < top_p <= 1:
        raise UserError(f"top_p must be in (0, 1], got {top_p}; 1 keeps all tokens")


def filtered(logits: Tensor, temperature: float = 1.0, top_k: int | None = None, top_p: float | None = None) -> Tensor:
    """Filtered logits: over the temperature, and -inf where a token may not be drawn.

    Args:
        logits: ``(*dims, V)``; a token of -inf cannot be drawn.
        temperature: positive.
        top_k: keep the ``k`` likeliest tokens and those that are as likely as the least of them, so that more than
            ``k`` are kept at a tie; all where ``k`` is at least ``V``.
        top_p: of the remaining tokens, keep the smallest set of likeliest ones whose probability reaches ``p``, at
            least one; at a tie the lower index is first.

    Returns:
        ``(*dims, V)``, 0 for the likeliest token.
    """
    # The largest is subtracted first, which changes no probability: a low temperature would make it infinite.
    logits = (logits - logits.amax(dim=-1, keepdim=True)) / temperature
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).values[..., -1:]  # (*dims, 1)
        logits = logits.masked_fill(logits < least, -math.inf)
    if top_p is not None and top_p < 1:
        order = logits.argsort(dim=-1, descending=True, stable=True)  # (*dims, V)
        p = logits.gather(-1, order).double().softmax(dim=-1)
        before = p.cumsum(dim=-1) - p  # probability of the likelier ones, (*dims, V)
        dropped = before >= top_p  # never the first, before which there is nothing
        logits = logits.masked_fill(torch.zeros_like(dropped).scatter(-1, order, dropped), -math.inf)
    return logits


def draw(log_p: Tensor, uniform: Tensor) -> Tensor:
    """Draw tokens by the inverse of the cumulative probabilities.

    A token of probability 0 is never drawn.

    Args:
        log_p: logarithms of probabilities, ``(*dims, V)``; their sum may differ from 1, as rounded ones do.
        uniform: in [0, 1), ``(*dims)``.

    Returns:
        ``(*dims)``, int64: the first token up to which the probability is more than ``uniform``.
    """
    p = log_p.double().exp()  # (*dims, V)
    cumulative = p.cumsum(dim=-1)
    reached = (cumulative > (uniform.double() * cumulative[..., -1]).unsqueeze(-1)) & (p > 0)
    # Sums in parallel, as on a GPU, may fall by a rounding from one token to the next; then none might be reached.
    return torch.where(reached.any(-1), reached.byte().argmax(-1), p.argmax(-1))
