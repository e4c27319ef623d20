"""Random models at which EM begins.

Shapes: ``R`` models, ``K`` states, ``V`` symbols, ``D`` dimensions.
"""

import numpy as np

from shoal.errors import UserError, nearest
from shoal.hmm.data import Array, Sequences
from shoal.hmm.emissions import Categorical, Emissions, Gaussian
from shoal.hmm.models import HMM

COVARIANCES = ("diagonal", "full")
_FEW = 10_000  # observations, of which means are drawn


def random_models(
    data: Sequences, K: int, R: int, seed: int = 0, *, V: int | None = None, covariance: str = "diagonal"
) -> HMM:
    """R models of K states; the r-th depends on the seed and r alone, not on R.

    Start, transitions and probabilities of symbols are drawn evenly from all distributions; means are observations that
    lie apart (Arthur and Vassilvitskii 2007), and covariances those of all data.

    Args:
        data: sequences that they are to be fitted to.
        K: number of states.
        R: number of models.
        seed: seed of the draws.
        V: number of symbols; by default as many as the data have.
        covariance: ``diagonal`` or ``full``, for data that are numbers.

    Raises:
        UserError: K or R is below 1, there are fewer observations than states, a symbol is V or more, or numbers do not
            vary.
    """
    for name, number, least in (("the number of states", K, 1), ("the number of models", R, 1), ("seed", seed, 0)):
        if not isinstance(number, int | np.integer) or number < least:
            raise UserError(f"{name} must be an integer of at least {least}, got {number!r}")
    if covariance not in COVARIANCES:
        known = ", ".join(COVARIANCES)
        raise UserError(f"unknown covariance {covariance!r}: one of {known}{nearest(covariance, COVARIANCES)}")
    if data.n_seen < K:
        raise UserError(f"{data.n_seen} observations for {K} states: there must be at least as many as states")
    generators = [np.random.default_rng([seed, r]) for r in range(R)]
    start = np.stack([generator.dirichlet(np.ones(K)) for generator in generators])
    transitions = np.stack([generator.dirichlet(np.ones(K), size=K) for generator in generators])
    emissions: Emissions
    if data.is_symbols:
        size = data.n_symbols if V is None else V
        table = np.stack([generator.dirichlet(np.ones(max(1, size)), size=K) for generator in generators])
        emissions = Categorical(table)
        emissions.check(data)
    else:
        emissions = _gaussian(data.values[data.seen], K, generators, covariance == "full")
    return HMM(start, transitions, emissions)


def _gaussian(values: Array, K: int, generators: list[np.random.Generator], is_full: bool) -> Gaussian:
    variances = values.var(axis=0)  # (D,)
    if constant := np.flatnonzero(values.min(axis=0) == values.max(axis=0)).tolist():
        raise UserError(
            f"dimension {constant[0]} is {values[0, constant[0]]} everywhere: a Gaussian needs data that vary"
        )
    scaled = values / np.sqrt(variances)
    means = np.stack([values[_apart(scaled, K, generator)] for generator in generators])
    if not is_full:
        return Gaussian(means, np.broadcast_to(variances, means.shape))
    D = values.shape[1]
    matrix = np.cov(values.T, bias=True).reshape(D, D)
    deviations = np.sqrt(variances)
    if np.linalg.eigvalsh(matrix / deviations[:, None] / deviations)[0] < 1e-3:  # dimensions that follow each other
        matrix = np.diag(variances)
    return Gaussian(means, np.broadcast_to(matrix, (*means.shape, D)))


def _apart(values: Array, K: int, generator: np.random.Generator) -> np.ndarray:
    """Numbers of K observations, each drawn by its squared distance from those before it."""
    few = generator.permutation(len(values))[: max(_FEW, K)]
    chosen = [0]
    distances = np.square(values[few] - values[few[0]]).sum(axis=1)
    for _ in range(K - 1):
        total = distances.sum()
        shares = distances / total if total > 0 else np.full(len(few), 1 / len(few))
        chosen.append(int(generator.choice(len(few), p=shares)))
        distances = np.minimum(distances, np.square(values[few] - values[few[chosen[-1]]]).sum(axis=1))
    return few[chosen]
