"""Compute of a training run, counted in the two ways that are in use (see E7 of the project's errata).

The practical's ``C ≈ P·B·T`` counts sequences, without the tokens in each; the scaling literature counts floating-point
operations. A report gives both, and says which is which.
"""

import math


def compute_sequences(P: float, B: float, T: float) -> float:
    """The practical's compute, problem 4.6: ``C = P·B·T``, in parameter-sequences.

    Args:
        P: learnable parameters without embeddings.
        B: sequences per step.
        T: steps.

    >>> compute_sequences(267_812, 512, 20_001)
    2742531999744
    """
    return P * B * T


def sequences_per_step(n: int, B: int) -> float:
    """Mean number of training examples per step: the last batch of a pass over ``n`` holds what is left.

    >>> sequences_per_step(480, 512), sequences_per_step(480, 256), sequences_per_step(480, 120)
    (480.0, 240.0, 120.0)
    """
    return n / math.ceil(n / B)


def training_flop(P: float, B: float, S: float, T: float) -> float:
    """Floating-point operations of training, ``6·P·B·S·T``: two forward and four backward per parameter and token.

    Source: E7; Kaplan et al. 2020, "Scaling Laws for Neural Language Models", section 2.1. Attention over the sequence
    is not counted, so that for long sequences this is a lower bound.

    Args:
        P: learnable parameters without embeddings.
        B: sequences per step.
        S: tokens per sequence.
        T: steps.

    >>> training_flop(267_812, 512, 6, 1)
    4936310784
    """
    return 6 * P * B * S * T
