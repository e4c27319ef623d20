"""Stopping rules of a beam search, and scores of hypotheses by their length.

The score of a hypothesis is ``log p / length ** length_penalty`` (Wu et al. 2016 use another form), where the length
counts the tokens written, the end of the sentence among them, and neither the prompt nor padding. So at 0 it is the log
probability, at 1 the mean log probability of a token, and more favours longer ones.

``log p <= 0`` only falls, so a live hypothesis of ``t`` tokens that may have ``T`` can reach at best
``log p / max(length ** length_penalty for length in t + 1 ... T)``: at length ``T`` where the penalty is positive, and
at length ``t + 1`` where it is negative. Comparing its present score with a finished one's is right at 0 alone.
"""

import math
from dataclasses import dataclass
from numbers import Real

import torch
from torch import Tensor

from shoal.errors import UserError, nearest

STOPS = {
    "optimal": "when no live hypothesis can become better than the best finished one: the best is certain",
    "n_best": "when no live hypothesis can become better than the worst of as many finished ones as the beam is wide: "
    "the list is certain (transformers' early_stopping='never')",
    "first": "when as many have finished as the beam is wide: nothing is certain (fairseq; early_stopping=True)",
    "none": "at the longest length",
}
LARGEST_PENALTY = 50.0  # in size: 10^6 tokens to its power are still a finite number


def check_stop(stop: str, length_penalty: float) -> None:
    """Raise a :class:`UserError` for an unknown rule, or a penalty outside its range."""
    if stop not in STOPS:
        raise UserError(f"unknown stop {stop!r}: one of {' '.join(STOPS)}{nearest(stop, STOPS)}")
    is_number = isinstance(length_penalty, Real) and not isinstance(length_penalty, bool)
    if not is_number or not abs(length_penalty) <= LARGEST_PENALTY:  # NaN is refused too
        got = length_penalty if is_number else repr(length_penalty)
        raise UserError(
            f"length_penalty must be from {-LARGEST_PENALTY:g} to {LARGEST_PENALTY:g}, got {got}; 0 takes "
            "the log probability, 1 its mean over the tokens"
        )


@dataclass(frozen=True)
class Lengths:
    """Divisors of log probabilities, by length.

    Attributes:
        divisors: divisor of each length from 0 on, ``(T + 1,)``, float64; that of 0 is never used.
        largest: largest divisor of the lengths that a hypothesis can still reach, by its length, ``(T,)``, float64.
    """

    divisors: tuple[float, ...]
    largest: tuple[float, ...]

    @classmethod
    def up_to(cls, T: int, length_penalty: float) -> "Lengths":
        """Divisors of lengths up to ``T`` tokens."""
        divisors = (1.0, *(float(length) ** length_penalty for length in range(1, T + 1)))
        return cls(divisors, tuple(max(divisors[length + 1 :]) for length in range(T)))


def may_stop(stop: str, live: Tensor, pool: Tensor, lengths: Lengths, length: int) -> Tensor:
    """Mask of the searches that are over by their rule.

    Args:
        stop: one of :data:`STOPS`.
        live: log probabilities of the live hypotheses, ``(*dims, b)``; -inf is none.
        pool: scores of the finished hypotheses, the best first, ``(*dims, b)``.
        lengths: divisors of the scores.
        length: length of the live hypotheses, less than the longest.

    Returns:
        ``(*dims)``, bool.
    """
    if stop == "none":
        return torch.zeros_like(live[..., 0], dtype=torch.bool)
    is_full = pool[..., -1] > -math.inf
    if stop == "first":
        return is_full
    reachable = live.amax(-1) / lengths.largest[length]
    # At a tie the one that finished first stays first.
    return (reachable <= pool[..., 0]) if stop == "optimal" else is_full & (reachable <= pool[..., -1])
