"""Checks of probabilities, and their logarithms."""

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from shoal.errors import UserError
from shoal.hmm.data import Array

_TOLERANCE = 1e-6  # of a sum, as float32 would give it


def numbers_of(name: str, given: ArrayLike) -> NDArray[Any]:
    """Array of numbers, as they were given.

    Raises:
        UserError: rows are of unequal length, or there is something else than numbers.
    """
    try:
        array = np.asarray(given)
    except ValueError:
        raise UserError(f"{name} must be one array: its rows are of unequal length") from None
    if array.dtype.kind not in "iuf":
        raise UserError(f"{name} must be numbers, got {array.dtype}")
    return array


def check_distributions(name: str, probabilities: Array) -> None:
    """Refuse what is not a distribution over the last axis.

    Raises:
        UserError: a number is negative or not finite, or a row does not sum to 1 within 1e-6; the place is named by its
            indices: model, then state.
    """
    bad = np.argwhere(~np.isfinite(probabilities) | (probabilities < 0)).tolist()
    if bad:
        raise UserError(
            f"{name}[{', '.join(map(str, bad[0]))}] is {probabilities[tuple(bad[0])]}: a probability is from 0 to 1"
        )
    sums = probabilities.sum(axis=-1)
    bad = np.argwhere(np.abs(sums - 1) > _TOLERANCE).tolist()
    if bad:
        raise UserError(f"{name}[{', '.join(map(str, bad[0]))}] sums to {sums[tuple(bad[0])]:.9g}: it must sum to 1")


def logarithms(probabilities: Array) -> Array:
    """Natural logarithms, -inf of 0."""
    with np.errstate(divide="ignore"):
        result: Array = np.log(probabilities)
    return result


def log_sum(logarithms: Array, axis: int) -> Array:
    """Logarithm of the sum of exponentials over an axis; -inf where all are -inf, never NaN."""
    largest = logarithms.max(axis=axis, keepdims=True)
    largest = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):
        result: Array = np.log(np.exp(logarithms - largest).sum(axis=axis)) + largest.squeeze(axis)
    return result


def shares(counts: Array, empty: Array) -> Array:
    """Counts as shares of the sum over their last axis; rows without a count are those of ``empty``.

    Shares below 1e-100 become 0: they are posterior counts of what the data do not need.
    """
    sums = counts.sum(axis=-1, keepdims=True)
    is_counted = sums > COUNTED
    result = np.where(is_counted, counts / np.where(is_counted, sums, 1.0), empty)
    return np.where(result < SMALLEST, 0.0, result)


COUNTED = 1e-9  # expected observations, from which a state learns; with fewer it keeps its parameters
SMALLEST = 1e-100
