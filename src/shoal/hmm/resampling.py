"""Intervals for parameters by refitting to resampled sequences, or to sequences drawn from the model.

Source: Efron and Tibshirani 1993, "An Introduction to the Bootstrap", sections 6 and 13.3. Whole sequences are
resampled, because the observations of one depend on each other. Every refit begins at the estimate, and its states are
matched to those of the estimate before anything is counted.

Shapes: ``R`` refits, ``K`` states.
"""

from dataclasses import dataclass

import numpy as np

from shoal.errors import UserError, nearest
from shoal.hmm.data import Array, Sequences
from shoal.hmm.em import FLOOR, Fit, fit
from shoal.hmm.emissions import Categorical
from shoal.hmm.matching import match_states
from shoal.hmm.models import HMM, stacked
from shoal.hmm.sampling import sample

KINDS = ("sequences", "parametric")
LEVEL = 0.95


@dataclass(frozen=True, eq=False)
class Bootstrap:
    """Refits and percentile intervals.

    Attributes:
        model: sound refits, their states matched to those of the estimate.
        low: lower ends, by the name of the parameter, each of the shape of one model.
        high: upper ends.
        n_unsound: number of refits with a problem, which are left out.
    """

    model: HMM
    low: dict[str, Array]
    high: dict[str, Array]
    n_unsound: int


def bootstrap(
    estimate: HMM,
    data: Sequences,
    resamples: int = 200,
    seed: int = 0,
    *,
    kind: str = "sequences",
    level: float = LEVEL,
    iterations: int = 1000,
    tolerance: float = 1e-6,
    floor: float = FLOOR,
) -> Bootstrap:
    """Intervals for all parameters of an estimate.

    Args:
        estimate: one fitted model.
        data: what it was fitted to.
        resamples: number of refits.
        seed: seed of the draws.
        kind: ``sequences``, which are resampled; or ``parametric``: as many of the same lengths are
            drawn from the estimate.
        level: share of refits within an interval.
        iterations: see :func:`~shoal.hmm.em.fit`, as for the others.
        tolerance: gain in nats at which a refit has converged.
        floor: smallest variance, as a share of that of the data.

    Raises:
        UserError: the estimate is not one model, there is one sequence and it should be resampled, ``resamples`` is
            below 20, or no refit is sound.
    """
    if len(estimate) != 1:
        raise UserError(f"the estimate must be one model, got {len(estimate)}: choose one with select")
    if kind not in KINDS:
        raise UserError(f"unknown kind {kind!r} of bootstrap: one of {', '.join(KINDS)}{nearest(kind, KINDS)}")
    if resamples < 20:
        raise UserError(f"resamples must be at least 20, got {resamples}")
    if not 0 < level < 1:
        raise UserError(f"level must be between 0 and 1, got {level}")
    if kind == "sequences":
        fits = [_of_sequences(estimate, data, resamples, seed, iterations, tolerance, floor)]
    else:
        fits = [_of_draw(estimate, data, (seed, r), iterations, tolerance, floor) for r in range(resamples)]
    model = stacked([one.model for one in fits])
    sound = np.concatenate([one.sound for one in fits])
    if not sound.any():
        raise UserError(f"none of {resamples} refits is sound: {fits[0].problems[0][0].text}")
    model = model.select(sound)
    matched = model.permuted(match_states(estimate, model))
    low, high = {}, {}
    for name, values in _parameters(matched).items():
        low[name], high[name] = np.quantile(values, [(1 - level) / 2, (1 + level) / 2], axis=0, method="inverted_cdf")
    return Bootstrap(matched, low, high, int((~sound).sum()))


def _of_sequences(
    estimate: HMM, data: Sequences, resamples: int, seed: int, iterations: int, tolerance: float, floor: float
) -> Fit:
    """All refits at once, each with the number of times that it has drawn a sequence as its weight."""
    S = len(data.lengths)
    if S < 2:
        raise UserError("a single sequence cannot be resampled: kind='parametric' draws from the model instead")
    drawn = np.random.default_rng(seed).integers(S, size=(resamples, S))
    weights = np.stack([np.bincount(row, minlength=S) for row in drawn]).astype(np.float64)
    start = stacked([estimate] * resamples)
    return fit(start, data, weights=weights, iterations=iterations, tolerance=tolerance, floor=floor)


def _of_draw(
    estimate: HMM, data: Sequences, seed: tuple[int, int], iterations: int, tolerance: float, floor: float
) -> Fit:
    drawn, _ = sample(estimate, data.lengths, seed)
    values = drawn.values.copy()
    values[~data.seen] = -1 if drawn.is_symbols else np.nan  # the same places are missing
    return fit(estimate, Sequences(values, data.lengths), iterations=iterations, tolerance=tolerance, floor=floor)


def _parameters(model: HMM) -> dict[str, Array]:
    shared = {"start": model.start, "transitions": model.transitions}
    if isinstance(model.emissions, Categorical):
        return {**shared, "probabilities": model.emissions.probabilities}
    return {**shared, "means": model.emissions.means, "covariances": model.emissions.covariances}
