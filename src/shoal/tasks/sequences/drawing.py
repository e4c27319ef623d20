"""Sequences drawn from a random hidden Markov model with a known number of states.

Shapes: ``K`` states, ``V`` symbols, ``D`` dimensions, ``S`` sequences, ``n`` observations of all of them.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from shoal.tasks.sequences.data import Rows

if TYPE_CHECKING:
    from shoal.tasks.sequences.settings import SequencesSettings

STAYS = 0.8  # mean probability of staying in a state
APART = 3.0  # distance of neighbouring means, in standard deviations


@dataclass(frozen=True)
class Truth:
    """Model that sequences are drawn from.

    Attributes:
        start: π, ``(K,)``.
        transitions: P, ``(K, K)``.
        emissions: probabilities of symbols ``(K, V)``, or means ``(K, D)`` of unit variance.
    """

    start: NDArray[np.float64]
    transitions: NDArray[np.float64]
    emissions: NDArray[np.float64]


def truth(settings: "SequencesSettings") -> Truth:
    """Random model of these settings: states that stay, and emissions that tell them apart.

    Each state has its own share of the symbols, three times as likely as in the others; means are a few standard
    deviations apart.
    """
    K, size = settings.drawn_states or 1, settings.drawn_size
    generator = np.random.default_rng([settings.data_seed, 1])
    moves = generator.dirichlet(np.ones(K), size=K)
    transitions = (1 - STAYS) * moves + STAYS * np.eye(K)
    start = generator.dirichlet(np.full(K, 5.0))
    if settings.values == "numbers":
        means = APART * (np.arange(K)[:, None] + generator.normal(0, 0.2, (K, size)))
        means[:, 1:] = APART * generator.normal(0, 1, (K, size - 1))
        return Truth(start, transitions, means)
    weights = generator.dirichlet(np.full(size, 2.0), size=K)
    weights[np.arange(size) % K == np.arange(K)[:, None]] *= 6.0
    return Truth(start, transitions, weights / weights.sum(axis=1, keepdims=True))


def drawn(settings: "SequencesSettings") -> Rows:
    """Sequences of :func:`truth`, all of one length."""
    model, S, length = truth(settings), settings.drawn_sequences, settings.drawn_length
    generator = np.random.default_rng([settings.data_seed, 2])
    states = np.empty((S, length), dtype=np.int64)
    uniform = generator.random((length, S))
    states[:, 0] = _draw(np.broadcast_to(model.start, (S, len(model.start))), uniform[0])
    for t in range(1, length):
        states[:, t] = _draw(model.transitions[states[:, t - 1]], uniform[t])
    flat, lengths = states.ravel(), np.full(S, length)
    if settings.values == "numbers":
        noise = generator.standard_normal((len(flat), settings.drawn_size))
        return Rows(model.emissions[flat] + noise, lengths, ())
    values = _draw(model.emissions[flat], generator.random(len(flat))).astype(np.int32)
    return Rows(values, lengths, tuple(map(str, range(settings.drawn_size))))


def _draw(rows: NDArray[np.float64], uniform: NDArray[np.float64]) -> NDArray[np.int64]:
    """Draw from each row of probabilities ``(n, K)`` by a number in [0, 1) each."""
    ends = np.cumsum(rows, axis=1)[:, :-1]
    return np.asarray((uniform[:, None] >= ends).sum(axis=1))
