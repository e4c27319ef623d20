"""Messages α and β, posteriors, pairwise posteriors and posterior transitions of hidden Markov models.

Source: Baum, Petrie, Soules and Weiss 1970, with the convention that α excludes the observation of its own place:
α_i(z) = p(Z_i = z, y_1 … y_{i-1}), α_1 = π; β_i(z) = p(y_{i+1} … y_n | Z_i = z), β_n = 1; ℓ_i(z) = p(y_i | Z_i = z), 1
where y_i is missing. Everything is in logarithms, each message relative to the probability of what was seen until then,
so that nothing underflows, however long a sequence or however unlikely an observation.

Shapes: ``R`` models, ``K`` states, ``S`` sequences, ``n`` observations of all of them, one sequence after the other.
"""

from dataclasses import dataclass

import numpy as np

from shoal.hmm import native
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.models import HMM
from shoal.hmm.probabilities import log_sum, logarithms


@dataclass(frozen=True, eq=False)
class Messages:
    """Messages of R models about all sequences, in nats.

    Attributes:
        log_predicted: log p(Z_i | y_1 … y_{i-1}), ``(R, n, K)``: α_i over its sum; -inf behind what is impossible.
        log_norms: log p(y_i | y_1 … y_{i-1}), ``(R, n)``; -inf of an impossible observation and behind it.
        log_future: log of β_i over p(y_{i+1} … y_n | y_1 … y_i), ``(R, n, K)``.
        log_densities: log ℓ_i, ``(R, n, K)``.
        begin: first place of each sequence, and ``n``; ``(S + 1,)``.
    """

    log_predicted: Array
    log_norms: Array
    log_future: Array
    log_densities: Array
    begin: Integers

    @property
    def log_alpha(self) -> Array:
        """Logarithm of α, ``(R, n, K)``: its rounding grows with its size, that of the messages above does not."""
        sums = self._running(self.log_norms)
        before: Array = np.concatenate([np.zeros((len(sums), 1)), sums[:, :-1]], axis=1)
        before[:, self.begin[:-1]] = 0.0
        return self.log_predicted + before[:, :, None]

    @property
    def log_beta(self) -> Array:
        """Logarithm of β, ``(R, n, K)``."""
        norms = np.where(np.isfinite(self.log_norms), self.log_norms, 0.0)
        totals = np.repeat(np.add.reduceat(norms, self.begin[:-1], axis=1), np.diff(self.begin), axis=1)
        result: Array = self.log_future + (totals - self._running(norms))[:, :, None]
        return result

    @property
    def log_likelihood(self) -> Array:
        """Logarithm of p(y) of each sequence, ``(R, S)``; -inf of an impossible one."""
        sums: Array = np.add.reduceat(self.log_norms, self.begin[:-1], axis=1)
        return sums

    @property
    def impossible(self) -> Integers:
        """Position of the first impossible observation in each sequence, ``(R, S)``; -1 where there is none."""
        positions = np.full((len(self.log_norms), len(self.begin) - 1), -1)
        is_impossible = self.log_norms == -np.inf
        for s, (first, end) in enumerate(zip(self.begin[:-1], self.begin[1:], strict=True)):
            within = is_impossible[:, first:end]
            positions[:, s] = np.where(within.any(axis=1), within.argmax(axis=1), -1)
        return positions

    @property
    def log_filtered(self) -> Array:
        """Logarithm of p(Z_i | y_1 … y_i), ``(R, n, K)``; -inf from an impossible observation on."""
        norms = np.where(np.isfinite(self.log_norms), self.log_norms, np.inf)[:, :, None]
        return self.log_predicted + self.log_densities - norms

    @property
    def posteriors(self) -> Array:
        """p(Z_i | y), ``(R, n, K)``; 0 for a sequence that is impossible, which has none."""
        return self._of_possible(np.exp(self.log_filtered + self.log_future))

    def _running(self, norms: Array) -> Array:
        """Sums within each sequence up to each place, ``(R, n)``."""
        sums = np.empty_like(norms)
        for first, end in zip(self.begin[:-1], self.begin[1:], strict=True):
            np.cumsum(norms[:, first:end], axis=1, out=sums[:, first:end])
        return sums

    def _of_possible(self, values: Array) -> Array:
        """Values ``(R, n, …)`` with 0 for each impossible sequence."""
        is_possible = np.repeat(self.impossible < 0, np.diff(self.begin), axis=1)
        return np.where(is_possible.reshape(is_possible.shape + (1,) * (values.ndim - 2)), values, 0.0)

    @property
    def not_last(self) -> Integers:
        """Places that have a next one in their sequence, ``(n - S,)``."""
        is_last = np.zeros(int(self.begin[-1]), dtype=bool)
        is_last[self.begin[1:] - 1] = True
        return np.flatnonzero(~is_last)

    def log_onward(self, places: Integers) -> Array:
        """Logarithm of ℓ β of the next place over its norm, ``(R, len(places), K)``."""
        norms = np.where(np.isfinite(self.log_norms), self.log_norms, 0.0)[:, places + 1, None]
        return self.log_densities[:, places + 1] + self.log_future[:, places + 1] - norms


def messages(model: HMM, data: Sequences) -> Messages:
    """Messages forwards and backwards, in time O(n K²) and memory O(n K).

    Raises:
        UserError: the data are not what the models emit.
    """
    model.emissions.check(data)
    densities = model.emissions.log_densities(data)
    start, moves = logarithms(model.start), logarithms(model.transitions)
    library = native.library()
    if library is None:
        predicted, norms = _forward(start, moves, densities, data.begin)
        future = _backward(moves, densities, norms, data.begin)
    else:
        R, n, K = densities.shape
        predicted, norms, future = np.empty((R, n, K)), np.empty((R, n)), np.empty((R, n, K))
        back = np.ascontiguousarray(moves.swapaxes(1, 2))
        shapes = (R, K, len(data.lengths))
        outputs = (predicted, norms, future)
        native.call(library["log_messages"], *shapes, data.begin, start, moves, back, densities, *outputs)
    return Messages(predicted, norms, future, densities, data.begin)


def pairwise_posteriors(model: HMM, data: Sequences) -> Array:
    """Pairwise posteriors p(Z_i = j, Z_{i+1} = k | y), for each place i that has a next one in its sequence.

    Returns:
        ``(R, n - S, K, K)``, in memory of that size; 0 for a sequence that is impossible.
    """
    lattice = messages(model, data)
    before, onward = (
        lattice.log_filtered[:, lattice.not_last, :, None],
        lattice.log_onward(lattice.not_last)[:, :, None, :],
    )
    probabilities = np.exp(before + logarithms(model.transitions)[:, None] + onward)
    is_possible = np.repeat(lattice.impossible < 0, data.lengths - 1, axis=1)
    return np.where(is_possible[:, :, None, None], probabilities, 0.0)


def posterior_transitions(model: HMM, data: Sequences) -> Array:
    """Posterior transitions Ω^(i)_{jk} = p(Z_{i+1} = k | Z_i = j, y), for each place i that has a next one.

    Returns:
        ``(R, n - S, K, K)``; rows of a state from which the rest of the sequence is impossible are 0.
    """
    lattice = messages(model, data)
    return transitions_at(model, lattice, lattice.not_last)


def transitions_at(model: HMM, lattice: Messages, places: Integers) -> Array:
    """Posterior transitions from some places, ``(R, len(places), K, K)``; see :func:`posterior_transitions`."""
    logs = logarithms(model.transitions)[:, None] + lattice.log_onward(places)[:, :, None, :]
    sums = log_sum(logs, axis=3)[..., None]
    return np.exp(logs - np.where(np.isfinite(sums), sums, np.inf))


def _steps(begin: Integers) -> list[Integers]:
    """Places of all sequences that reach each position, the longest sequence first."""
    lengths = np.diff(begin)
    order = np.argsort(-lengths, kind="stable")
    sorted_lengths, firsts = lengths[order], begin[:-1][order]
    counts = np.searchsorted(-sorted_lengths, -np.arange(sorted_lengths[0]), side="left")
    return [firsts[:m] + t for t, m in enumerate(counts)]


def _forward(start: Array, moves: Array, densities: Array, begin: Integers) -> tuple[Array, Array]:
    """Logarithms of predicted states ``(R, n, K)``, and of norms ``(R, n)``; all sequences at once."""
    predicted, norms = np.empty_like(densities), np.empty(densities.shape[:2])
    message = np.repeat(start[:, None], len(begin) - 1, axis=1)  # (R, S, K)
    for places in _steps(begin):
        message = message[:, : len(places)]
        predicted[:, places] = message
        joint = message + densities[:, places]
        sums = log_sum(joint, axis=2)
        norms[:, places] = sums
        filtered = joint - np.where(np.isfinite(sums), sums, np.inf)[:, :, None]
        message = log_sum(filtered[:, :, :, None] + moves[:, None], axis=2)
    return predicted, norms


def _backward(moves: Array, densities: Array, norms: Array, begin: Integers) -> Array:
    """Logarithms of messages backwards, ``(R, n, K)``."""
    future = np.zeros_like(densities)
    finite = np.where(np.isfinite(norms), norms, 0.0)
    steps = _steps(begin)
    for places, later in zip(steps[-2::-1], steps[:0:-1], strict=True):
        onward = densities[:, later] + future[:, later] - finite[:, later, None]
        future[:, places[: len(later)]] = log_sum(moves[:, None] + onward[:, :, None, :], axis=3)
    return future
