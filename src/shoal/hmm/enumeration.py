"""Messages, posteriors and likelihood as sums over every path of states: slow, and free of what it is to check.

Shapes: ``K`` states, ``n`` observations of one sequence.
"""

from dataclasses import dataclass

import numpy as np

from shoal.errors import UserError
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.models import HMM

MOST_PATHS = 1 << 20


@dataclass(frozen=True, eq=False)
class Enumerated:
    """Sums over every path, for one model and one sequence.

    Attributes:
        alpha: α_i(z) = p(Z_i = z, y_1 … y_{i-1}), ``(n, K)``.
        beta: β_i(z) = p(y_{i+1} … y_n | Z_i = z), ``(n, K)``.
        pairs: p(Z_i = j, Z_{i+1} = k | y), ``(n - 1, K, K)``; 0 where y is impossible.
        likelihood: p(y).
    """

    alpha: Array
    beta: Array
    pairs: Array
    likelihood: float


def longest(K: int, most: int = 8) -> int:
    """Largest length, up to ``most``, whose paths of K states can be enumerated.

    >>> longest(2), longest(8), longest(2000)
    (8, 6, 1)
    """
    return max(1, max((n for n in range(1, most + 1) if K**n <= MOST_PATHS), default=1))


def enumerated(model: HMM, data: Sequences) -> Enumerated:
    """Sums over all Kⁿ paths.

    Raises:
        UserError: there are several models or sequences, or more than 2²⁰ paths.
    """
    if len(model) != 1 or len(data.lengths) != 1:
        raise UserError(f"paths of one model and one sequence are enumerated, got {len(model)} and {len(data.lengths)}")
    n, K = len(data.values), model.K
    if K**n > MOST_PATHS:
        raise UserError(f"{K} states and {n} observations have {K**n:,} paths; at most {MOST_PATHS:,} are enumerated")
    start, moves, likely = model.start[0], model.transitions[0], np.exp(model.emissions.log_densities(data)[0])
    alpha, beta = np.empty((n, K)), np.empty((n, K))
    for i in range(n):
        before, after = _paths(K, i + 1), _paths(K, n - i)
        prior = start[before[0]] * _product(moves, before) * _emitted(likely, before[:-1], 0)
        alpha[i] = np.bincount(before[-1], prior, K)
        beta[i] = np.bincount(after[0], _product(moves, after) * _emitted(likely, after[1:], i + 1), K)
    paths = _paths(K, n)
    joint = start[paths[0]] * _product(moves, paths) * _emitted(likely, paths, 0)
    likelihood = float(joint.sum())
    pairs = np.zeros((n - 1, K, K))
    for i in range(n - 1):
        np.add.at(pairs[i], (paths[i], paths[i + 1]), joint)
    return Enumerated(alpha, beta, pairs / likelihood if likelihood else pairs, likelihood)


def _paths(K: int, n: int) -> Integers:
    """All paths of n states, ``(n, Kⁿ)``."""
    return np.indices((K,) * n).reshape(n, -1)


def _product(moves: Array, paths: Integers) -> Array:
    """Product of the transitions of each path."""
    result: Array = moves[paths[:-1], paths[1:]].prod(axis=0)
    return result


def _emitted(likely: Array, paths: Integers, first: int) -> Array:
    """Product of the probabilities of observations from place ``first`` on, one for each state of a path."""
    places = np.arange(first, first + len(paths))[:, None]
    result: Array = likely[places, paths].prod(axis=0)
    return result
