"""Likeliest sequences of states.

Source: Viterbi 1967; Forney 1973.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UserError
from shoal.hmm import native
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.models import HMM
from shoal.hmm.probabilities import logarithms

_MOST_STATES = 65535  # a predecessor takes two bytes


@dataclass(frozen=True, eq=False)
class Path:
    """Likeliest states.

    Attributes:
        states: ``(R, n)``; -1 in a sequence that no path explains.
        log_probability: log p(states, y) of each sequence, ``(R, S)``; -inf without a path.
    """

    states: NDArray[np.int32]
    log_probability: Array


def viterbi(model: HMM, data: Sequences) -> Path:
    """Likeliest states of each sequence, all at once; of two as likely the lower, from the last place backwards.

    Raises:
        UserError: the data are not what the models emit.
    """
    model.emissions.check(data)
    if model.K > _MOST_STATES:
        raise UserError(f"Viterbi's algorithm takes up to {_MOST_STATES:,} states, got {model.K:,}")
    densities = model.emissions.log_densities(data)
    start, moves = logarithms(model.start), logarithms(model.transitions)
    R, n, K = densities.shape
    states, values = np.empty((R, n), dtype=np.int32), np.empty((R, len(data.lengths)))
    library = native.library()
    if library is None:
        for s, (first, end) in enumerate(zip(data.begin[:-1], data.begin[1:], strict=True)):
            states[:, first:end], values[:, s] = _one(start, moves, densities[:, first:end])
    else:
        back, room = np.ascontiguousarray(moves.swapaxes(1, 2)), np.empty((n, K), dtype=np.uint16)
        shapes = (R, K, len(data.lengths))
        native.call(library["viterbi"], *shapes, data.begin, start, back, densities, room, states, values)
    return Path(states, values)


def _one(start: Array, moves: Array, densities: Array) -> tuple[Integers, Array]:
    """States ``(R, n)`` and log-probabilities ``(R,)`` of one sequence."""
    R, n, K = densities.shape
    models = np.arange(R)
    best, origins = start + densities[:, 0], np.zeros((n, R, K), dtype=np.int64)
    for t in range(1, n):
        through = best[:, :, None] + moves  # (R, K, K)
        origins[t] = through.argmax(axis=1)
        best = through.max(axis=1) + densities[:, t]
    states = np.empty((R, n), dtype=np.int64)
    state = best.argmax(axis=1)
    values = best[models, state]
    for t in range(n - 1, -1, -1):
        states[:, t] = state
        state = origins[t, models, state]
    return np.where(np.isfinite(values)[:, None], states, -1), values
