"""The best of many restarts, criteria for the number of states, and the likelihood of sequences that were held out.

Sources: Akaike 1974; Schwarz 1978; Hurvich and Tsai 1989; Tukey 1958 and Miller 1974 for the intervals.

Shapes: ``R`` models, ``K`` states, ``S`` sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.special import stdtrit

from shoal.errors import UserError
from shoal.hmm.counts import expected_counts
from shoal.hmm.data import Array, Sequences
from shoal.hmm.em import FLOOR, Fit, fit
from shoal.hmm.models import HMM
from shoal.hmm.starts import random_models

AGAIN = 0.1  # nats from the best, within which a restart has found it again
LEVEL = 0.95


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
        low: lower end of its interval, ``(R,)``; NaN where a sequence is impossible, and where no spread can be
            estimated: of a single sequence with observations that are seen, or of sequences that are all alike.
        high: upper end.
    """

    value: Array
    low: Array
    high: Array


def held_out(model: HMM, data: Sequences, *, level: float = LEVEL) -> HeldOut:
    """Log-likelihood per observation, with intervals as :func:`per_observation` gives them.

    Raises:
        UserError: see :func:`per_observation`.
    """
    return per_observation(expected_counts(model, data).log_likelihood, data, level=level)


def per_observation(log_likelihood: Array, data: Sequences, *, level: float = LEVEL) -> HeldOut:
    """Means over observations of log-likelihoods of sequences ``(R, S)``, with intervals.

    The sequences are the independent units. With m of them that have observations, the interval is the mean ± t(m - 1)
    times the jackknife's standard error, which leaves out one sequence at a time. Simulated at 95 %, it holds the truth
    in 93 to 95 % of data sets of two to five sequences of 5 to 200 observations, 94 % of 10 and 95 % of 30 or more.
    It is too narrow where few of the sequences decide: in 91 to 92 % where one is a hundred times as long as the other
    9 or 29, and in 79 to 86 % where two to five short ones (of 6 observations) are mostly alike and rarely very
    different. Percentiles of resampled sequences hold it in 51, 84, 90 and 92 % of two, five, 10 and 30.

    Raises:
        UserError: ``level`` is not between 0 and 1, or no observation is seen.
    """
    if not 0 < level < 1:
        raise UserError(f"level must be between 0 and 1, got {level}")
    sizes = np.add.reduceat(data.seen.astype(np.float64), data.begin[:-1])
    if not sizes.sum():
        raise UserError("all observations are missing")
    value = log_likelihood.sum(axis=1) / sizes.sum()
    reach = _reach(log_likelihood[:, sizes > 0], sizes[sizes > 0], level)
    return HeldOut(value, value - reach, value + reach)


def _reach(log_likelihood: Array, sizes: Array, level: float) -> Array:
    """Half of Student's interval of totals of log-likelihoods over totals of sizes, ``(R,)``; NaN without spread."""
    m, nothing = len(sizes), np.full(len(log_likelihood), np.nan)
    if m < 2:
        return nothing
    is_finite = np.isfinite(log_likelihood.sum(axis=1, keepdims=True))  # (R, 1)
    finite = np.where(is_finite, log_likelihood, 0.0)
    without = (finite.sum(axis=1, keepdims=True) - finite) / (sizes.sum() - sizes)  # each sequence left out, (R, m)
    spread = without - without.mean(axis=1, keepdims=True)
    error = np.sqrt((m - 1) / m * (spread**2).sum(axis=1))
    has_spread = np.ptp(without, axis=1) > 1e-12 * np.abs(without).max(axis=1)
    return np.where(is_finite[:, 0] & has_spread, float(stdtrit(m - 1, (1 + level) / 2)) * error, nothing)


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
        held = None if scores is None else per_observation(scores[None], data)
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
