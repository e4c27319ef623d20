"""States of different models matched before anything is compared: the number of a state means nothing.

Shapes: ``R`` models, ``K`` states, ``D`` dimensions, ``n`` observations.
"""

import numpy as np
from scipy.optimize import linear_sum_assignment

from shoal.errors import UserError
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.emissions import Categorical, Gaussian
from shoal.hmm.models import HMM
from shoal.hmm.posterior import messages


def match_states(reference: HMM, others: HMM) -> Integers:
    """States of other models that are most like those of a reference.

    Emissions, start and transitions count. States are first assigned by what does not depend on how the others are
    (Kuhn's assignment), and then exchanged in pairs as long as that makes :func:`state_distance` smaller.

    Returns:
        ``(R, K)``: state k of the reference is state ``[r, k]`` of model r; as :meth:`HMM.permuted` takes it.

    Raises:
        UserError: the reference is not one model, or the models are of another shape.
    """
    distances = _emission_distances(_checked(reference, others), others)  # (R, K, K)
    start = np.abs(reference.start[0][None, :, None] - others.start[:, None, :])
    sorted_rows = np.sort(others.transitions, axis=2)
    rows = 0.5 * np.abs(np.sort(reference.transitions[0], axis=1)[None, :, None] - sorted_rows[:, None]).sum(axis=3)
    stays = np.diagonal(others.transitions, axis1=1, axis2=2)
    staying = np.abs(np.diagonal(reference.transitions[0])[None, :, None] - stays[:, None, :])
    costs = distances + start + rows + staying
    orders = np.stack([linear_sum_assignment(cost)[1] for cost in costs]).astype(np.int64)
    return np.stack([_exchanged(reference, others.select(r), distances[r], order) for r, order in enumerate(orders)])


def state_distance(reference: HMM, others: HMM) -> Array:
    """Distance of each model from the reference, after their states are matched, ``(R,)``, from 0 to 3.

    The mean over states of the squared Hellinger distance of the emissions, plus that of the total variation of the
    rows of transitions, plus the total variation of the starts. 0 where models differ in the numbers of states alone.
    """
    distances, orders = _emission_distances(_checked(reference, others), others), match_states(reference, others)
    return np.array([_total(reference, others.select(r), distances[r], order) for r, order in enumerate(orders)])


def posterior_agreement(reference: HMM, others: HMM, data: Sequences) -> Array:
    """Share of the posterior of states that models have in common with the reference, ``(R,)``: 1 if all.

    The mean over observations of the sum over states of the smaller probability, after their states are matched.
    """
    theirs = messages(others.permuted(match_states(reference, others)), data).posteriors
    shares: Array = np.minimum(messages(reference, data).posteriors, theirs).sum(axis=2).mean(axis=1)
    return shares


def _checked(reference: HMM, others: HMM) -> HMM:
    if len(reference) != 1:
        raise UserError(f"the reference must be one model, got {len(reference)}: choose one with select")
    ours, theirs = reference.emissions, others.emissions
    shapes = [
        (type(part).__name__, *(part.probabilities if isinstance(part, Categorical) else part.covariances).shape[1:])
        for part in (ours, theirs)
    ]
    if shapes[0] != shapes[1]:
        raise UserError(f"models to match must be of one shape, got {shapes[0]} and {shapes[1]}")
    return reference


def _emission_distances(reference: HMM, others: HMM) -> Array:
    """Squared Hellinger distances of all pairs of states, ``(R, K, K)``, from 0 to 1."""
    ours, theirs = reference.emissions, others.emissions
    if isinstance(ours, Categorical) and isinstance(theirs, Categorical):
        overlap: Array = np.einsum("jv,rkv->rjk", np.sqrt(ours.probabilities[0]), np.sqrt(theirs.probabilities))
        return np.maximum(1 - overlap, 0.0)
    assert isinstance(ours, Gaussian) and isinstance(theirs, Gaussian)
    a, b = _matrices(ours)[:, :, None], _matrices(theirs)[:, None]  # (1, K, 1, D, D), (R, 1, K, D, D)
    middle, difference = 0.5 * (a + b), ours.means[:, :, None] - theirs.means[:, None]
    solved = np.linalg.solve(middle, difference[..., None])[..., 0]
    squares = (difference * solved).sum(axis=-1)
    logs = [np.linalg.slogdet(part)[1] for part in (a, b, middle)]
    distances: Array = 1 - np.exp(0.25 * (logs[0] + logs[1]) - 0.5 * logs[2] - 0.125 * squares)
    return np.maximum(distances, 0.0)


def _matrices(emissions: Gaussian) -> Array:
    if emissions.is_full:
        return emissions.covariances
    return emissions.covariances[..., None] * np.eye(emissions.means.shape[2])


def _total(reference: HMM, other: HMM, distances: Array, order: Integers) -> float:
    K = reference.K
    emissions = distances[np.arange(K), order].sum() / K
    moves = np.abs(reference.transitions[0] - other.transitions[0][order][:, order]).sum() / (2 * K)
    return float(emissions + moves + 0.5 * np.abs(reference.start[0] - other.start[0][order]).sum())


def _exchanged(reference: HMM, other: HMM, distances: Array, order: Integers) -> Integers:
    """The order after every exchange of two states that brings the models nearer."""
    best, is_better = _total(reference, other, distances, order), True
    while is_better and best > 0:
        is_better = False
        for j in range(reference.K):
            for k in range(j):
                order[[j, k]] = order[[k, j]]
                total = _total(reference, other, distances, order)
                if total < best - 1e-12:
                    best, is_better = total, True
                else:
                    order[[j, k]] = order[[k, j]]
    return order
