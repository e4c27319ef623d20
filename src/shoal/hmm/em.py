"""Expectation maximisation of R hidden Markov models at once.

Source: Baum, Petrie, Soules and Weiss 1970; Dempster, Laird and Rubin 1977. The transitions come from the pairwise
posteriors p(Z_i = j, Z_{i+1} = k | y). With the conditional p(Z_{i+1} = k | Z_i = j, y) in their place the update is
not EM, and the likelihood can fall; it is here by its name, to be shown.

Shapes: ``R`` models, ``K`` states, ``D`` dimensions, ``S`` sequences.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import ArrayLike

from shoal.errors import UserError, nearest
from shoal.hmm.counts import Counts, check_weights, conditional_counts, expected_counts, impossible_observations
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.emissions import Categorical, Emissions, Gaussian
from shoal.hmm.models import HMM, stacked
from shoal.hmm.probabilities import COUNTED, shares

FLOOR = 1e-6  # of a variance, as a share of the variance of all data in its dimension
FALL = 1e-9  # as :func:`falls` has it; larger than rounding
PARTS = ("start", "transitions", "emissions")
UPDATES = ("pairwise", "conditional")


@dataclass(frozen=True)
class Problem:
    """Problem of a fit, for which it is never chosen as the best.

    Attributes:
        kind: ``fell`` (the likelihood did), ``impossible`` (an observation is), ``empty`` (no observation belongs to a
            state) or ``floor`` (a variance is at its floor).
        states: numbers of the states it is about.
        text: words for it.
    """

    kind: str
    states: tuple[int, ...]
    text: str


@dataclass(frozen=True, eq=False)
class Fit:
    """Fitted models.

    Attributes:
        model: the R models.
        log_likelihood: of all sequences, each times its weight, ``(R,)``, in nats.
        history: the same before each update and after the last, ``(updates + 1, R)``; NaN after a model's last.
        iterations: number of updates of each model, ``(R,)``.
        converged: True where the last update gained less than the tolerance, ``(R,)``.
        problems: problems of each model; none of a sound one.
        variance_floor: smallest variance allowed in each dimension, ``(D,)``; None of symbols.
    """

    model: HMM
    log_likelihood: Array
    history: Array
    iterations: Integers
    converged: np.ndarray
    problems: tuple[tuple[Problem, ...], ...]
    variance_floor: Array | None

    @property
    def sound(self) -> np.ndarray:
        """True for each model without a problem, ``(R,)``."""
        return np.array([not problems for problems in self.problems], dtype=bool)


def fit(
    model: HMM,
    data: Sequences,
    *,
    weights: ArrayLike | None = None,
    iterations: int = 1000,
    tolerance: float = 1e-6,
    learn: Sequence[str] = PARTS,
    floor: float = FLOOR,
    update: str = "pairwise",
) -> Fit:
    """Fit models by EM, without priors; each stops on its own.

    Args:
        model: where each begins.
        data: the sequences.
        weights: how often each sequence counts, ``(R, S)`` or ``(S,)``; by default once.
        iterations: largest number of updates; with 0 the models stay as they are.
        tolerance: gain of the log-likelihood, in nats, below which a model has converged.
        learn: parts that are updated, of ``start``, ``transitions`` and ``emissions``.
        floor: smallest variance, as a share of the variance of all data in its dimension; of a full covariance matrix
            the smallest eigenvalue, after each dimension is divided by the standard deviation of the data.
        update: ``pairwise``; or ``conditional``, which is not EM.

    Raises:
        UserError: data that do not fit the models, or cannot be fitted: fewer observations than states, numbers that do
            not vary, variances below the floor; or an unknown name.
    """
    _check_request(model, data, iterations, tolerance, learn, update)
    checked = check_weights(weights, len(model), data)
    smallest = variance_floor(data, floor) if isinstance(model.emissions, Gaussian) else None
    if isinstance(model.emissions, Gaussian) and smallest is not None:
        _check_variances(model.emissions, smallest)
    state = _Fitting(model, iterations)
    for _ in range(iterations + 1):
        counts = expected_counts(state.current, data, checked[state.active])
        if update == "conditional":
            counts = replace(counts, pairs=conditional_counts(state.current, data, checked[state.active]))
        going = state.observe(counts, checked, data, tolerance, stops_at_fall=update == "pairwise")
        if not going.any():
            break
        state.advance(going, counts, smallest, tuple(learn))
    return state.result(smallest)


def falls(before: Array, after: Array) -> Array:
    """Falls of log-likelihoods, as a share of each or, below 1 nat, in nats; 0 where one is not finite."""
    with np.errstate(invalid="ignore"):
        shares_of = (before - after) / np.maximum(np.abs(before), 1.0)
    return np.where(np.isfinite(shares_of), np.maximum(shares_of, 0.0), 0.0)


def maximised(model: HMM, counts: Counts, variance_floor: Array | None = None, learn: Sequence[str] = PARTS) -> HMM:
    """Models that maximise the expected log-likelihood of the complete data: the M-step.

    A row of transitions, or the emissions of a state, of which less than 1e-9 observations are expected stay as
    they were.
    """
    start = shares(counts.starts, model.start) if "start" in learn else model.start
    transitions = shares(counts.pairs, model.transitions) if "transitions" in learn else model.transitions
    if "emissions" not in learn:
        return HMM(start, transitions, model.emissions)
    emissions: Emissions
    if isinstance(model.emissions, Categorical):
        emissions = Categorical(shares(counts.emitted, model.emissions.probabilities))
    else:
        emissions = _maximised_gaussian(model.emissions, counts, variance_floor)
    return HMM(start, transitions, emissions)


def variance_floor(data: Sequences, share: float = FLOOR) -> Array:
    """Smallest variance allowed in each dimension, ``(D,)``: a share of the variance of all data.

    Raises:
        UserError: the share is not from 0 to 1, both excluded, or the data do not vary in a dimension.
    """
    if not 0 < share < 1:
        raise UserError(f"floor must be a share of the variance between 0 and 1, got {share}")
    values = data.values[data.seen]
    if not len(values):
        raise UserError("all observations are missing")
    constant = np.flatnonzero(values.min(axis=0) == values.max(axis=0)).tolist()
    if constant:
        raise UserError(
            f"dimension {constant[0]} is {values[0, constant[0]]} everywhere: a Gaussian needs data that vary"
        )
    result: Array = share * values.var(axis=0)
    if not (result > 0).all():
        raise UserError("the data vary by less than float64 can square")
    return result


class _Fitting:
    """State of a fit: the models that still learn, and those that have stopped."""

    def __init__(self, model: HMM, iterations: int) -> None:
        R = len(model)
        self.current, self.active = model, np.arange(R)
        self.history = np.full((iterations + 1, R), np.nan)
        self.iterations, self.converged = np.zeros(R, dtype=np.int64), np.zeros(R, dtype=bool)
        self.stopped: dict[int, HMM] = {}
        self.problems: list[dict[str, Problem]] = [{} for _ in range(R)]
        self.visits = np.full((R, model.K), np.inf)
        self.step = 0

    def observe(
        self, counts: Counts, weights: Array, data: Sequences, tolerance: float, stops_at_fall: bool
    ) -> np.ndarray:
        """Record the likelihoods, and return True for each active model that is to be updated."""
        active = weights[self.active]
        with np.errstate(invalid="ignore"):
            values = np.where(active > 0, counts.log_likelihood * active, 0.0).sum(axis=1)
        self.history[self.step, self.active] = values
        self.visits[self.active] = counts.visits
        is_impossible = values == -np.inf
        for i in np.flatnonzero(is_impossible).tolist():
            self.problems[int(self.active[i])]["impossible"] = _impossible(counts, active, i, data)
        going: np.ndarray = ~is_impossible & (self.step + 1 < len(self.history))
        if self.step:
            going &= self._is_going(values, is_impossible, tolerance, stops_at_fall)
        for stopped in np.flatnonzero(~going).tolist():
            self.stopped[int(self.active[stopped])] = self.current.select(stopped)
        return going

    def _is_going(self, values: Array, is_impossible: np.ndarray, tolerance: float, stops_at_fall: bool) -> np.ndarray:
        """Return True for each active model that has neither converged nor fallen."""
        before = self.history[self.step - 1, self.active]
        fell = ~is_impossible & (falls(before, values) > FALL)
        for i in np.flatnonzero(fell).tolist():
            text = f"the log-likelihood fell from {before[i]:.9g} to {values[i]:.9g} at update {self.step}"
            self.problems[int(self.active[i])].setdefault("fell", Problem("fell", (), text))
        converged = ~is_impossible & ~fell & (np.abs(values - before) < tolerance)
        self.converged[self.active] = converged
        going: np.ndarray = ~converged & ~(fell & stops_at_fall)
        return going

    def advance(self, going: np.ndarray, counts: Counts, smallest: Array | None, learn: tuple[str, ...]) -> None:
        """Update the models that are going, and drop the others."""
        if not going.all():
            self.current, self.active = self.current.select(going), self.active[going]
            counts = counts.select(going)
        self.current = maximised(self.current, counts, smallest, learn)
        self.iterations[self.active] += 1
        self.step += 1

    def result(self, smallest: Array | None) -> Fit:
        model = stacked([self.stopped[r] for r in range(len(self.iterations))])
        last = self.history[self.iterations, np.arange(len(self.iterations))]
        problems = tuple(
            (*noted.values(), *degeneracies(model.select(r), self.visits[r], smallest))
            for r, noted in enumerate(self.problems)
        )
        history = self.history[: self.step + 1]
        return Fit(model, last, history, self.iterations, self.converged, problems, smallest)


def _impossible(counts: Counts, weights: Array, i: int, data: Sequences) -> Problem:
    places = [place for place in impossible_observations(counts, data) if place.model == i]
    first = next(place for place in places if weights[i, place.sequence] > 0)
    return Problem("impossible", (), str(first))


def degeneracies(model: HMM, visits: Array, smallest: Array | None) -> list[Problem]:
    """Problems of one fitted model: states without observations, and variances at their floor.

    Args:
        model: one model.
        visits: expected observations in each state, ``(K,)``.
        smallest: smallest variance allowed in each dimension, ``(D,)``; None of symbols.
    """
    problems = []
    if empty := tuple(np.flatnonzero(visits < COUNTED).tolist()):
        problems.append(Problem("empty", empty, f"no observation belongs to {_states(empty)}"))
    if smallest is not None and isinstance(model.emissions, Gaussian):
        lowest = _relative_variances(model.emissions, smallest)[0]
        if low := tuple(np.flatnonzero(lowest <= 1 + 1e-6).tolist()):
            problems.append(Problem("floor", low, f"a variance of {_states(low)} is at its floor"))
    return problems


def _states(numbers: tuple[int, ...]) -> str:
    return f"state{'s' if len(numbers) > 1 else ''} {', '.join(map(str, numbers))}"


def _relative_variances(emissions: Gaussian, smallest: Array) -> Array:
    """Smallest variance of each state in units of the floor, ``(R, K)``: the smallest eigenvalue of full matrices."""
    if not emissions.is_full:
        ratios: Array = (emissions.covariances / smallest).min(axis=2)
        return ratios
    scale = np.sqrt(smallest)
    eigenvalues = np.linalg.eigvalsh(emissions.covariances / scale[:, None] / scale)
    return np.asarray(eigenvalues[..., 0], dtype=np.float64)


def _check_variances(emissions: Gaussian, smallest: Array) -> None:
    low = np.argwhere(_relative_variances(emissions, smallest) < 1 - 1e-9).tolist()
    if low:
        r, k = low[0]
        raise UserError(
            f"a variance of state {k} of model {r} is below the floor ({smallest.min():.3g} at the smallest): EM would "
            "lower the likelihood; begin with larger ones or give a smaller floor"
        )


def _maximised_gaussian(emissions: Gaussian, counts: Counts, smallest: Array | None) -> Gaussian:
    assert counts.firsts is not None and counts.seconds is not None
    is_counted = counts.emitted > COUNTED  # (R, K)
    visits = np.where(is_counted, counts.emitted, 1.0)[..., None]
    shift = counts.firsts / visits  # (R, K, D)
    means = np.where(is_counted[..., None], emissions.means + shift, emissions.means)
    if emissions.is_full:
        matrices = counts.seconds / visits[..., None] - shift[..., :, None] * shift[..., None, :]
        bounded = matrices if smallest is None else _bounded(matrices, smallest)
        return Gaussian(means, np.where(is_counted[..., None, None], bounded, emissions.covariances))
    variances = counts.seconds / visits - np.square(shift)
    bounded = variances if smallest is None else np.maximum(variances, smallest)
    return Gaussian(means, np.where(is_counted[..., None], bounded, emissions.covariances))


def _bounded(matrices: Array, smallest: Array) -> Array:
    """Matrices with eigenvalues of at least 1 in units of the floor: the likeliest ones that have."""
    scale = np.sqrt(smallest)
    values, vectors = np.linalg.eigh(matrices / scale[:, None] / scale)
    raised = np.maximum(values, 1.0)
    bounded = np.einsum("rkde,rke,rkfe->rkdf", vectors, raised, vectors) * scale[:, None] * scale
    is_low = np.asarray((values < 1.0).any(axis=2))[..., None, None]
    result: Array = np.where(is_low, bounded, matrices)
    return 0.5 * (result + result.swapaxes(2, 3))


def _check_request(
    model: HMM, data: Sequences, iterations: int, tolerance: float, learn: Sequence[str], update: str
) -> None:
    model.emissions.check(data)
    if data.n_seen < model.K:
        raise UserError(f"{data.n_seen} observations for {model.K} states: there must be at least as many as states")
    if iterations < 0:
        raise UserError(f"iterations must be at least 0, got {iterations}")
    if not tolerance >= 0:
        raise UserError(f"tolerance must be at least 0 nats, got {tolerance}")
    for name in learn:
        if name not in PARTS:
            raise UserError(f"unknown part {name!r} to learn: of {', '.join(PARTS)}{nearest(name, PARTS)}")
    if update not in UPDATES:
        raise UserError(f"unknown update {update!r}: one of {', '.join(UPDATES)}{nearest(update, UPDATES)}")
