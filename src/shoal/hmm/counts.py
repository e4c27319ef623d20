"""Expected counts of hidden Markov models: the E-step of EM, for R models and all sequences.

With a C compiler they come from ``kernels.c``, in memory that does not grow with the sequences; without one, and for a
sequence about which float64 would lose the message of a state, from messages in logarithms.

Shapes: ``R`` models, ``K`` states, ``V`` symbols, ``D`` dimensions, ``S`` sequences, ``n`` observations.
"""

import ctypes
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.errors import UserError
from shoal.hmm import native
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.emissions import Categorical, Emissions
from shoal.hmm.models import HMM
from shoal.hmm.posterior import Messages, messages, transitions_at
from shoal.hmm.probabilities import SMALLEST, logarithms

_ROW_BYTES = 1 << 18  # of messages that are kept at a time: a part of a core's cache
_CHUNK = 1 << 20  # numbers of an array of pairs
_LATTICE = 1 << 23  # numbers of an array of messages, where models need not be computed together


@dataclass(frozen=True, eq=False)
class Counts:
    """Expected counts, each sequence times its weight.

    Attributes:
        log_likelihood: log p(y) of each sequence, ``(R, S)``, in nats, not weighted; -inf of an impossible one.
        impossible: position of the first impossible observation in each sequence, ``(R, S)``; -1 where there is none.
            Such a sequence adds nothing to the counts.
        starts: of each state at the first place, ``(R, K)``.
        pairs: of each pair of neighbouring states, ``(R, K, K)``.
        emitted: of each symbol in each state ``(R, K, V)``; or of observations in each state, ``(R, K)``.
        firsts: sums of x - mean, with the means of the models, ``(R, K, D)``; None of symbols.
        seconds: sums of (x - mean)², ``(R, K, D)``, or of outer products ``(R, K, D, D)``; None of symbols.
    """

    log_likelihood: Array
    impossible: Integers
    starts: Array
    pairs: Array
    emitted: Array
    firsts: Array | None = None
    seconds: Array | None = None

    def select(self, chosen: NDArray[Any]) -> "Counts":
        """Counts of some of the models."""
        each = {part.name: getattr(self, part.name) for part in fields(self)}
        chosen_of: dict[str, Any] = {name: None if array is None else array[chosen] for name, array in each.items()}
        return Counts(**chosen_of)

    @property
    def visits(self) -> Array:
        """Observations in each state, ``(R, K)``."""
        return self.emitted.sum(axis=2) if self.firsts is None else self.emitted


def expected_counts(model: HMM, data: Sequences, weights: ArrayLike | None = None) -> Counts:
    """Expected counts under the posterior of the states.

    Args:
        model: the models.
        data: the sequences.
        weights: how often each sequence counts, ``(R, S)`` or ``(S,)``; by default once.

    Raises:
        UserError: the data are not what the models emit, or a weight is negative or not finite.
    """
    model.emissions.check(data)
    checked = check_weights(weights, len(model), data)
    library = native.library()
    if library is None:
        step = max(1, _LATTICE // (len(data.values) * model.K))
        parts = [slice(first, first + step) for first in range(0, len(model), step)]
        rows = np.arange(len(model))
        return _joined([_by_logarithms(model.select(rows[part]), data, checked[part]) for part in parts])
    counts = _compiled(library, model, data, checked)
    is_lost = counts.impossible == native.LOST
    for r in np.flatnonzero(is_lost.any(axis=1)).tolist():
        lost = np.flatnonzero(is_lost[r])
        part = (np.cumsum(data.lengths[lost]) - 1) * model.K // _LATTICE
        for number in np.unique(part):
            _add_lost(model, data, checked, r, lost[part == number], counts)
    return counts


@dataclass(frozen=True)
class Impossible:
    """First observation of a sequence that a model cannot have emitted.

    Attributes:
        model: number of the model.
        sequence: number of the sequence.
        position: place in the sequence, from 0.
        symbol: the symbol; None of a vector.
    """

    model: int
    sequence: int
    position: int
    symbol: int | None

    def __str__(self) -> str:
        what = "the observation" if self.symbol is None else f"symbol {self.symbol}"
        return f"{what} at position {self.position} of sequence {self.sequence} is impossible"


@dataclass(frozen=True, eq=False)
class Evidence:
    """Log-likelihoods of sequences.

    Attributes:
        log_likelihood: log p(y) of each sequence, ``(R, S)``, in nats; -inf of an impossible one.
        impossible: first impossible observation of each sequence that has one.
    """

    log_likelihood: Array
    impossible: tuple[Impossible, ...]


def log_likelihood(model: HMM, data: Sequences) -> Evidence:
    """Log-likelihood of each sequence under each model, and what is impossible.

    Raises:
        UserError: the data are not what the models emit.
    """
    counts = expected_counts(model, data)
    return Evidence(counts.log_likelihood, impossible_observations(counts, data))


def impossible_observations(counts: Counts, data: Sequences) -> tuple[Impossible, ...]:
    """First impossible observation of each model and sequence that has one."""
    result = []
    for r, s in np.argwhere(counts.impossible >= 0).tolist():
        position = int(counts.impossible[r, s])
        symbol = int(data.values[data.begin[s] + position]) if data.is_symbols else None
        result.append(Impossible(r, s, position, symbol))
    return tuple(result)


def conditional_counts(model: HMM, data: Sequences, weights: ArrayLike | None = None) -> Array:
    """Sums N of the posterior transitions Ω over all places, ``(R, K, K)``: those of the update that is not EM."""
    lattice = messages(model, data)
    each = np.repeat(check_weights(weights, len(model), data), data.lengths, axis=1)[:, :, None, None]
    total = np.zeros_like(model.transitions)
    for places in _chunks(lattice.not_last, total.size):
        total += (transitions_at(model, lattice, places) * each[:, places]).sum(axis=1)
    return total


def _chunks(places: Integers, size: int) -> list[Integers]:
    """Places in parts whose arrays of ``size`` numbers per place stay small."""
    step = max(1, _CHUNK // size)
    return [places[first : first + step] for first in range(0, len(places), step)]


def _joined(parts: list[Counts]) -> Counts:
    """Counts of several stacks as those of one."""
    names = [field.name for field in fields(Counts)]
    each = {name: [getattr(part, name) for part in parts] for name in names}
    joined: dict[str, Any] = {
        name: None if arrays[0] is None else np.concatenate(arrays) for name, arrays in each.items()
    }
    return Counts(**joined)


def check_weights(weights: ArrayLike | None, R: int, data: Sequences) -> Array:
    """Weights as ``(R, S)``.

    Raises:
        UserError: another shape; or a weight that is negative or not finite.
    """
    S = len(data.lengths)
    if weights is None:
        return np.ones((R, S))
    array = np.asarray(weights, dtype=np.float64)
    if array.shape not in ((S,), (R, S)):
        raise UserError(f"weights must be of shape {(S,)} or {(R, S)}, one per sequence; got {array.shape}")
    if bad := np.argwhere(~(np.isfinite(array) & (array >= 0))).tolist():
        raise UserError(f"weight {array[tuple(bad[0])]} of sequence {bad[0][-1]}: weights are finite and not negative")
    return np.ascontiguousarray(np.broadcast_to(array, (R, S)))


def in_lanes(R: int, K: int) -> bool:
    """Return True if models are computed 8 at a time, and not one after the other."""
    return K <= 4 or (K <= native.WIDTH and R > 1)


def _kind(emissions: Emissions) -> int:
    if isinstance(emissions, Categorical):
        return native.KINDS.index("categorical")
    return native.KINDS.index("full" if emissions.is_full else "diagonal")


def _is_guarded(model: HMM) -> bool:
    """Return True if a state may be reached so seldom that float64 could lose its message."""
    checked = [model.start[model.start > 0], model.transitions]
    if isinstance(model.emissions, Categorical):
        checked.append(model.emissions.probabilities[model.emissions.probabilities > 0])
    return any(bool((array < SMALLEST).any()) for array in checked)


def rows_kept(J: int, n: int, kind: int) -> int:
    """Number of rows whose messages are kept at a time, for ``n`` observations."""
    per_row = 8 * (J * (2 if kind == 0 else 4) + native.WIDTH)
    return max(16, min(n, _ROW_BYTES // per_row))


def _compiled(library: ctypes.CDLL, model: HMM, data: Sequences, weights: Array) -> Counts:
    """Counts by ``kernels.c``, without those of sequences in which a state's message was lost."""
    R, K, S = len(model), model.K, len(data.lengths)
    is_lanes = in_lanes(R, K)
    G, J, n_rows = native.groups(R, is_lanes), (-K % 8 + K), (-K % 4 + K)
    if is_lanes:
        J, n_rows = K * native.WIDTH, K
    kind, emissions = _kind(model.emissions), model.emissions
    arrays: dict[str, np.ndarray] = {
        "begin": data.begin,
        "start": native.columns(model.start, J),
        "moves": native.columns(model.transitions.swapaxes(1, 2), J, n_rows),
        "moves_back": native.columns(model.transitions, J, n_rows),
        "weights": native.to_lanes(weights, is_lanes),
        "log_likelihood": np.empty((G, S, native.WIDTH)),
        "impossible": np.empty((G, S, native.WIDTH), dtype=np.int64),
        "starts": native.aligned((G, J)),
        "pairs": native.aligned((G, n_rows, J)),
        **_emission_arrays(emissions, data, J),
    }
    V, D = (
        (emissions.probabilities.shape[2], 0) if isinstance(emissions, Categorical) else (0, emissions.means.shape[2])
    )
    numbers = {"groups": G, "K": K, "J": J, "S": S, "kind": kind, "is_lanes": is_lanes}
    numbers |= {"V": V, "D": D, "is_guarded": _is_guarded(model)}
    T = rows_kept(J, len(data.values), kind)
    task = native.Task(**numbers, T=T, **{name: native.pointer(array) for name, array in arrays.items()})
    if library["expected_counts"](ctypes.byref(task)):
        raise MemoryError("there is no memory for the messages of these models")
    return Counts(
        native.from_lanes(arrays["log_likelihood"], R, is_lanes).copy(),
        native.from_lanes(arrays["impossible"], R, is_lanes).copy(),
        native.from_columns(arrays["starts"], R, K).copy(),
        native.from_columns(arrays["pairs"][:, :K], R, K).swapaxes(1, 2) * model.transitions,
        *_emitted(arrays["emitted"], emissions),
    )


def _emission_arrays(emissions: Emissions, data: Sequences, J: int) -> dict[str, np.ndarray]:
    if isinstance(emissions, Categorical):
        V = emissions.probabilities.shape[2]
        symbols = native.columns(emissions.probabilities, J)  # (groups, V, J)
        table = native.aligned((len(symbols), 1 + V, J))
        table[:, 0], table[:, 1:] = 1.0, symbols
        return {"symbols": data.values, "emit": table, "emitted": native.aligned(table.shape)}
    W, constants = emissions.whitening()
    D, K = emissions.means.shape[2], emissions.size[1]
    if emissions.is_full:
        W = W[:, :, *np.tril_indices(D)]
    offsets = native.columns(constants, J)
    if J != native.WIDTH * K:
        offsets[:, K:] = -np.inf  # there is no such state
    return {
        "values": data.filled,
        "seen": data.seen.view(np.uint8),
        "means": native.columns(emissions.means, J),
        "whiten": native.columns(W, J),
        "constants": offsets,
        "emitted": native.aligned((len(offsets), 1 + D + W.shape[2], J)),
    }


def _emitted(emitted: Array, emissions: Emissions) -> tuple[Array, ...]:
    """Counts of symbols; or of observations, with their moments."""
    R, K = emissions.size
    if isinstance(emissions, Categorical):
        return (native.from_columns(emitted[:, 1:], R, K).copy(),)
    D = emissions.means.shape[2]
    visits = native.from_columns(emitted[:, 0], R, K).copy()
    firsts = native.from_columns(emitted[:, 1 : 1 + D], R, K).copy()
    products = native.from_columns(emitted[:, 1 + D :], R, K).copy()
    if not emissions.is_full:
        return visits, firsts, products
    rows, columns = np.tril_indices(D)
    full = np.zeros((R, K, D, D))
    full[:, :, rows, columns] = products
    full[:, :, columns, rows] = products
    return visits, firsts, full


def _add_lost(model: HMM, data: Sequences, weights: Array, r: int, lost: Integers, counts: Counts) -> None:
    """Counts of some sequences and one model, in logarithms, into those of all."""
    one = _by_logarithms(model.select(r), data.subset(lost), weights[r : r + 1, lost])
    counts.log_likelihood[r, lost], counts.impossible[r, lost] = one.log_likelihood[0], one.impossible[0]
    for name in ("starts", "pairs", "emitted", "firsts", "seconds"):
        total, added = getattr(counts, name), getattr(one, name)
        if total is not None:
            total[r] += added[0]


def _by_logarithms(model: HMM, data: Sequences, weights: Array) -> Counts:
    """Counts from messages in logarithms, in memory of the messages and a chunk of pairs."""
    lattice = messages(model, data)
    each = np.repeat(weights, data.lengths, axis=1)[:, :, None]  # (R, n, 1)
    posteriors = lattice.posteriors * each
    starts = posteriors[:, data.begin[:-1]].sum(axis=1)
    shared = (lattice.log_likelihood, lattice.impossible, starts, _pair_counts(model, lattice, each))
    emissions = model.emissions
    if isinstance(emissions, Categorical):
        V, seen = emissions.probabilities.shape[2], data.values[data.seen]
        symbols = np.zeros_like(emissions.probabilities)
        for r, k in np.ndindex(*emissions.size):
            symbols[r, k] = np.bincount(seen, posteriors[r, data.seen, k], V)
        return Counts(*shared, symbols)
    posteriors = posteriors[:, data.seen]
    difference = data.values[data.seen][None, :, None] - emissions.means[:, None]  # (R, n, K, D)
    weighted = difference * posteriors[..., None]
    if emissions.is_full:
        seconds = np.einsum("rnkd,rnke->rkde", weighted, difference)
    else:
        seconds = (weighted * difference).sum(axis=1)
    return Counts(*shared, posteriors.sum(axis=1), weighted.sum(axis=1), seconds)


def _pair_counts(model: HMM, lattice: Messages, each: Array) -> Array:
    """Sums of pairwise posteriors, ``(R, K, K)``."""
    total, log_moves, filtered = np.zeros_like(model.transitions), logarithms(model.transitions), lattice.log_filtered
    is_possible = np.repeat(lattice.impossible < 0, np.diff(lattice.begin), axis=1)[:, :, None, None]
    for places in _chunks(lattice.not_last, total.size):
        onward = lattice.log_onward(places)[:, :, None, :]
        pairs = np.exp(filtered[:, places, :, None] + log_moves[:, None] + onward)
        total += np.where(is_possible[:, places], pairs * each[:, places, :, None], 0.0).sum(axis=1)
    return total
