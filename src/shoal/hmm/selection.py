"""The best of many restarts, criteria for the number of states, and the likelihood of sequences that were held out.

Sources: Akaike 1974; Schwarz 1978; Hurvich and Tsai 1989; Efron and Tibshirani 1993 for the intervals.

Shapes: ``R`` models, ``K`` states, ``S`` sequences.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.errors import UserError
from shoal.hmm.counts import expected_counts
from shoal.hmm.data import Array, Sequences
from shoal.hmm.em import FLOOR, Fit, fit
from shoal.hmm.models import HMM
from shoal.hmm.starts import random_models

AGAIN = 0.1  # nats from the best, within which a restart has found it again
LEVEL = 0.95
RESAMPLES = 2000
_CHUNK = 1 << 21  # sequences of the resamples that are held at once


@dataclass(frozen=True, eq=False)
class Restarts:
    """Fits from many starts.

    Attributes:
        fit: all of them.
        winner: number of the likeliest without a problem; None if there is none.
        n_found: number of restarts, itself included, that are sound and within 0.1 nats of the winner.
    """

    fit: Fit
    winner: int | None
    n_found: int

    @property
    def share(self) -> float:
        """Share of all restarts that found the best; when it is small, a better one may not have been found."""
        return self.n_found / len(self.fit.problems)

    @property
    def model(self) -> HMM:
        """The winner.

        Raises:
            UserError: every fit has a problem.
        """
        return self.fit.model.select(self._checked_winner())

    @property
    def log_likelihood(self) -> float:
        """Log-likelihood of the winner, in nats.

        Raises:
            UserError: every fit has a problem.
        """
        return float(self.fit.log_likelihood[self._checked_winner()])

    def _checked_winner(self) -> int:
        if self.winner is None:
            text = self.fit.problems[int(np.nanargmax(self.fit.log_likelihood))][0].text
            raise UserError(f"none of {len(self.fit.problems)} fits is sound; of the likeliest: {text}")
        return self.winner


def best_of(
    data: Sequences,
    K: int,
    restarts: int = 16,
    seed: int = 0,
    *,
    V: int | None = None,
    covariance: str = "diagonal",
    iterations: int = 1000,
    tolerance: float = 1e-6,
    floor: float = FLOOR,
) -> Restarts:
    """Fit models of K states from many random starts and choose the likeliest that has no problem.

    Raises:
        UserError: see :func:`~shoal.hmm.starts.random_models` and :func:`~shoal.hmm.em.fit`.
    """
    start = random_models(data, K, restarts, seed, V=V, covariance=covariance)
    return chosen(fit(start, data, iterations=iterations, tolerance=tolerance, floor=floor))


def chosen(fits: Fit) -> Restarts:
    """The likeliest fit without a problem, and how often it was found."""
    values = np.where(fits.sound, fits.log_likelihood, -np.inf)
    if not fits.sound.any():
        return Restarts(fits, None, 0)
    winner = int(values.argmax())
    return Restarts(fits, winner, int((values >= values[winner] - AGAIN).sum()))


@dataclass(frozen=True)
class Criteria:
    """Criteria of a fit, each the better the smaller.

    Attributes:
        n_parameters: number of free parameters, p.
        aic: 2 p - 2 log L.
        bic: p log n - 2 log L.
        aicc: AIC + 2 p (p + 1) / (n - p - 1); infinite where n is p + 1 or less.
    """

    n_parameters: int
    aic: float
    bic: float
    aicc: float


def criteria(model: HMM, log_likelihood: float, n: float) -> Criteria:
    """Criteria of models with a log-likelihood of n observations that are not missing."""
    p = model.n_parameters
    aic = 2 * p - 2 * log_likelihood
    aicc = aic + 2 * p * (p + 1) / (n - p - 1) if n > p + 1 else float("inf")
    return Criteria(p, aic, p * float(np.log(n)) - 2 * log_likelihood, aicc)


@dataclass(frozen=True, eq=False)
class HeldOut:
    """Log-likelihood per observation of sequences that were not trained on, in nats.

    Attributes:
        value: of each model, ``(R,)``; -inf where a sequence is impossible.
        low: lower end of its interval, ``(R,)``; NaN with a single sequence, which cannot be resampled.
        high: upper end.
    """

    value: Array
    low: Array
    high: Array


def held_out(
    model: HMM, data: Sequences, seed: int = 0, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> HeldOut:
    """Log-likelihood per observation, with percentile intervals over resampled sequences."""
    return per_observation(expected_counts(model, data).log_likelihood, data, seed, resamples=resamples, level=level)


def per_observation(
    log_likelihood: Array, data: Sequences, seed: int = 0, *, resamples: int = RESAMPLES, level: float = LEVEL
) -> HeldOut:
    """Means over observations of log-likelihoods of sequences ``(R, S)``, with intervals.

    Raises:
        UserError: ``resamples`` is below 20, ``level`` not between 0 and 1, or no observation is seen.
    """
    if resamples < 20:
        raise UserError(f"resamples must be at least 20, got {resamples}")
    if not 0 < level < 1:
        raise UserError(f"level must be between 0 and 1, got {level}")
    sizes = np.add.reduceat(data.seen.astype(np.float64), data.begin[:-1])
    if not sizes.sum():
        raise UserError("all observations are missing")
    value, S = log_likelihood.sum(axis=1) / sizes.sum(), len(sizes)
    nothing = np.full(len(value), np.nan)
    if S == 1:
        return HeldOut(value, nothing, nothing)
    is_impossible = log_likelihood == -np.inf  # 0 times which is no number
    possible, impossible = np.where(is_impossible, 0.0, log_likelihood), is_impossible.astype(np.float64)
    means = np.empty((len(value), resamples))
    for first, times in _resampled(S, resamples, seed):
        totals = np.maximum(times @ sizes, 1.0)  # a resample may hold missing observations alone
        part = np.where(impossible @ times.T > 0, -np.inf, possible @ times.T / totals)
        means[:, first : first + len(times)] = part
    ends = np.quantile(means, [(1 - level) / 2, (1 + level) / 2], axis=1, method="inverted_cdf")
    return HeldOut(value, ends[0], ends[1])


def _resampled(S: int, resamples: int, seed: int) -> Iterator[tuple[int, Array]]:
    """Number of the first of some resamples, and how often each holds each sequence, ``(n, S)``."""
    random, step = np.random.default_rng(seed), max(1, _CHUNK // S)
    for first in range(0, resamples, step):
        n = min(step, resamples - first)
        rows = random.integers(S, size=(n, S)) + S * np.arange(n)[:, None]
        yield first, np.bincount(rows.ravel(), minlength=n * S).reshape(n, S).astype(np.float64)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A number of states, and what speaks for it.

    Attributes:
        K: number of states.
        restarts: fits to all sequences.
        criteria: criteria of the best of them; None where none is sound.
        held_out: log-likelihood per observation of sequences held out in turn, of one model; None with a single
            sequence, or where no fit of a fold is sound.
    """

    K: int
    restarts: Restarts
    criteria: Criteria | None
    held_out: HeldOut | None


def compare_numbers_of_states(
    data: Sequences,
    numbers: Sequence[int],
    restarts: int = 16,
    seed: int = 0,
    *,
    folds: int = 5,
    V: int | None = None,
    covariance: str = "diagonal",
    iterations: int = 1000,
    tolerance: float = 1e-6,
    floor: float = FLOOR,
) -> list[Candidate]:
    """Fit each number of states to all sequences, and to all but one fold in turn to score that fold.

    Raises:
        UserError: ``folds`` is below 2, or see :func:`best_of`.
    """
    if folds < 2:
        raise UserError(f"folds must be at least 2, got {folds}")
    size = data.n_symbols if data.is_symbols and V is None else V  # a fold may lack the last symbols
    candidates = []
    for K in numbers:
        settings: dict[str, Any] = {
            "V": size,
            "covariance": covariance,
            "iterations": iterations,
            "tolerance": tolerance,
            "floor": floor,
        }
        best = best_of(data, K, restarts, seed, **settings)
        if best.winner is None:
            candidates.append(Candidate(K, best, None, None))
            continue
        scores = _cross_validated(data, K, restarts, seed, folds, settings)
        held = None if scores is None else per_observation(scores[None], data, seed)
        candidates.append(Candidate(K, best, criteria(best.model, best.log_likelihood, data.n_seen), held))
    return candidates


def _cross_validated(
    data: Sequences, K: int, restarts: int, seed: int, folds: int, settings: dict[str, Any]
) -> Array | None:
    """Log-likelihood of each sequence under the best model of the other folds, ``(S,)``."""
    S = len(data.lengths)
    if S == 1:
        return None
    fold = np.random.default_rng(seed).permutation(S) % min(folds, S)
    scores = np.empty(S)
    for number in range(int(fold.max()) + 1):
        out, others = np.flatnonzero(fold == number), np.flatnonzero(fold != number)
        best = best_of(data.subset(others), K, restarts, seed, **settings)
        if best.winner is None:
            return None
        scores[out] = expected_counts(best.model, data.subset(out)).log_likelihood[0]
    return scores
