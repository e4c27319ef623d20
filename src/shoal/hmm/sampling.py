"""Sequences drawn from a hidden Markov model."""

from collections.abc import Sequence

import numpy as np

from shoal.errors import UserError
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.emissions import Categorical
from shoal.hmm.models import HMM


def sample(model: HMM, lengths: Sequence[int] | Integers, seed: int | Sequence[int] = 0) -> tuple[Sequences, Integers]:
    """Sequences of given lengths from one model, and their states ``(n,)``.

    Raises:
        UserError: there are several models, or a length is below 1.
    """
    if len(model) != 1:
        raise UserError(f"one model at a time is drawn from, got {len(model)}: choose one with select")
    sizes = np.asarray(lengths)
    if sizes.ndim != 1 or not sizes.size or sizes.dtype.kind not in "iu" or (sizes < 1).any():
        raise UserError(f"lengths must be integers of at least 1, got {lengths}")
    generator = np.random.default_rng(seed)
    begin = np.concatenate([[0], np.cumsum(sizes)])
    states, uniform = np.zeros(begin[-1], dtype=np.int64), generator.random(begin[-1])
    start, transitions = _cumulative(model.start[0]), _cumulative(model.transitions[0])
    order = np.argsort(-sizes, kind="stable")
    counts = np.searchsorted(-sizes[order], -np.arange(int(sizes.max())), side="left")
    for t, m in enumerate(counts):
        places = begin[:-1][order[:m]] + t
        rows = np.broadcast_to(start, (m, model.K)) if t == 0 else transitions[states[places - 1]]
        states[places] = (uniform[places, None] >= rows).sum(axis=1)
    if isinstance(model.emissions, Categorical):
        rows = _cumulative(model.emissions.probabilities[0])[states]
        symbols = (generator.random(len(states))[:, None] >= rows).sum(axis=1)
        return Sequences(symbols, sizes), states
    emissions = model.emissions
    noise = generator.standard_normal((len(states), emissions.means.shape[2]))
    if emissions.is_full:
        noise = np.einsum("nde,ne->nd", np.linalg.cholesky(emissions.covariances[0])[states], noise)
    else:
        noise *= np.sqrt(emissions.covariances[0])[states]
    return Sequences(emissions.means[0][states] + noise, sizes), states


def _cumulative(probabilities: Array) -> Array:
    """Upper ends of the intervals of all but impossible last values; a draw in [0, 1) never lies behind them."""
    sums = np.cumsum(probabilities, axis=-1)
    sums /= sums[..., -1:]
    return np.where(sums >= 1, 1.0, sums)
