"""Emissions of R hidden Markov models with K states each: categorical, and Gaussian with diagonal or full covariances.

Shapes: ``R`` models, ``K`` states, ``V`` symbols, ``D`` dimensions, ``n`` observations.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UserError
from shoal.hmm.data import Array, Integers, Sequences
from shoal.hmm.probabilities import check_distributions, logarithms, numbers_of

_LOG_2_PI = float(np.log(2 * np.pi))


@dataclass(frozen=True, eq=False)
class Categorical:
    """Probabilities of V symbols in each state.

    Attributes:
        probabilities: ``(R, K, V)``; each row sums to 1.

    Raises:
        UserError: see :func:`~shoal.hmm.probabilities.check_distributions`; or the shape is another.
    """

    probabilities: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "probabilities", _stacked("emissions.probabilities", self.probabilities, 3))
        check_distributions("emissions.probabilities", self.probabilities)

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of models and states."""
        return self.probabilities.shape[0], self.probabilities.shape[1]

    @property
    def n_parameters(self) -> int:
        """Number of free parameters of one model: K (V - 1)."""
        _, K, V = self.probabilities.shape
        return int(K * (V - 1))

    def check(self, data: Sequences) -> None:
        """Refuse data that are no symbols of these models.

        Raises:
            UserError: they are vectors, or a symbol is V or more; its place is named.
        """
        V = self.probabilities.shape[2]
        if not data.is_symbols:
            raise UserError("categorical emissions need symbols, integers from 0; the data are numbers")
        if data.n_symbols > V:
            first = int(np.flatnonzero(data.values >= V)[0])
            raise UserError(f"symbol {data.values[first]} at {data.place(first)}: the models have symbols 0 to {V - 1}")

    def log_densities(self, data: Sequences) -> Array:
        """Log-probabilities of each observation in each state, ``(R, n, K)``, in nats; 0 where one is missing."""
        R, K, _ = self.probabilities.shape
        table = np.concatenate([logarithms(self.probabilities), np.zeros((R, K, 1))], axis=2)  # (R, K, V + 1)
        return np.ascontiguousarray(table[:, :, data.values].transpose(0, 2, 1))  # -1 is the last

    def select(self, chosen: NDArray[Any]) -> "Categorical":
        """Emissions of some of the models."""
        return Categorical(self.probabilities[chosen])

    def permuted(self, order: Integers) -> "Categorical":
        """Emissions whose state k is ``order[:, k]`` of these; ``order`` is ``(R, K)``."""
        return Categorical(np.take_along_axis(self.probabilities, order[:, :, None], axis=1))


@dataclass(frozen=True, eq=False)
class Gaussian:
    """Normal distributions of vectors in each state.

    Attributes:
        means: ``(R, K, D)``.
        covariances: variances ``(R, K, D)``, for diagonal covariances, or matrices ``(R, K, D, D)``.

    Raises:
        UserError: a mean is not finite, a variance not positive, a matrix not symmetric or not positive definite, or
            the shapes do not agree; the place is named by its indices.
    """

    means: Array
    covariances: Array

    def __post_init__(self) -> None:
        object.__setattr__(self, "means", _stacked("emissions.means", self.means, 3))
        covariances = np.asarray(self.covariances)
        dimensions = 4 if covariances.ndim == 4 else 3
        object.__setattr__(self, "covariances", _stacked("emissions.covariances", covariances, dimensions))
        R, K, D = self.means.shape
        if self.covariances.shape not in ((R, K, D), (R, K, D, D)):
            allowed = f"{(R, K, D)} or {(R, K, D, D)}"
            raise UserError(f"emissions.covariances must be of shape {allowed}, got {self.covariances.shape}")
        if bad := np.argwhere(~np.isfinite(self.means)).tolist():
            raise UserError(
                f"emissions.means[{', '.join(map(str, bad[0]))}] is {self.means[tuple(bad[0])]}: not finite"
            )
        self._check_covariances()

    def _check_covariances(self) -> None:
        variances = self.variances
        if bad := np.argwhere(~(np.isfinite(variances) & (variances > 0))).tolist():
            value = variances[tuple(bad[0])]
            raise UserError(f"variance [{', '.join(map(str, bad[0]))}] is {value}: it must be positive and finite")
        if not self.is_full:
            return
        transposed = self.covariances.swapaxes(2, 3)
        scale = np.sqrt(variances[..., :, None] * variances[..., None, :])  # (R, K, D, D)
        is_symmetric = (np.abs(self.covariances - transposed) <= 1e-9 * scale).all(axis=(2, 3))  # False of NaN
        if bad := np.argwhere(~is_symmetric).tolist():
            raise UserError(f"emissions.covariances[{', '.join(map(str, bad[0]))}] is not symmetric")
        try:
            np.linalg.cholesky(self.covariances)
        except np.linalg.LinAlgError:
            for r, k in np.ndindex(*self.size):
                if not (np.linalg.eigvalsh(self.covariances[r, k]) > 0).all():
                    raise UserError(f"emissions.covariances[{r}, {k}] is not positive definite") from None
            raise UserError("emissions.covariances are not positive definite") from None

    @property
    def is_full(self) -> bool:
        """Return True if the covariances are matrices."""
        return self.covariances.ndim == 4

    @property
    def variances(self) -> Array:
        """Variances of each dimension, ``(R, K, D)``."""
        return np.diagonal(self.covariances, axis1=2, axis2=3) if self.is_full else self.covariances

    @property
    def size(self) -> tuple[int, int]:
        """Numbers of models and states."""
        return self.means.shape[0], self.means.shape[1]

    @property
    def n_parameters(self) -> int:
        """Number of free parameters of one model: 2 K D, or K D + K D (D + 1) / 2 with full covariances."""
        _, K, D = self.means.shape
        return int(K * D + K * (D * (D + 1) // 2 if self.is_full else D))

    def check(self, data: Sequences) -> None:
        """Refuse data that are no vectors of D dimensions.

        Raises:
            UserError: they are symbols, or have another number of dimensions.
        """
        if data.is_symbols:
            raise UserError("Gaussian emissions need numbers; the data are symbols (convert them to float)")
        D = self.means.shape[2]
        if data.values.shape[1] != D:
            raise UserError(f"the data have {data.values.shape[1]} dimensions and the models {D}")

    def whitening(self) -> tuple[Array, Array]:
        """Maps W and constants c, so that the log-density of x is ``c - |W (x - mean)|² / 2``.

        Returns:
            ``(R, K, D)``, or lower triangles ``(R, K, D, D)`` with full covariances; and ``(R, K)``.
        """
        D = self.means.shape[2]
        if self.is_full:
            triangles = np.linalg.inv(np.linalg.cholesky(self.covariances))
            W: Array = np.tril(triangles)
            logs = np.log(np.diagonal(W, axis1=2, axis2=3)).sum(axis=2)
        else:
            W = 1 / np.sqrt(self.covariances)
            logs = -0.5 * np.log(self.covariances).sum(axis=2)
        return W, logs - 0.5 * D * _LOG_2_PI

    def log_densities(self, data: Sequences) -> Array:
        """Log-densities of each observation in each state, ``(R, n, K)``, in nats; 0 where one is missing."""
        W, constants = self.whitening()
        difference = data.filled[None, :, None, :] - self.means[:, None]  # (R, n, K, D)
        whitened = np.einsum("rkde,rnke->rnkd", W, difference) if self.is_full else difference * W[:, None]
        with np.errstate(over="ignore"):  # what is so unlikely is impossible
            logs = constants[:, None] - 0.5 * np.square(whitened).sum(axis=3)
        return np.where(data.seen[None, :, None], logs, 0.0)

    def select(self, chosen: NDArray[Any]) -> "Gaussian":
        """Emissions of some of the models."""
        return Gaussian(self.means[chosen], self.covariances[chosen])

    def permuted(self, order: Integers) -> "Gaussian":
        """Emissions whose state k is ``order[:, k]`` of these; ``order`` is ``(R, K)``."""
        rows = np.arange(len(order))[:, None]
        return Gaussian(self.means[rows, order], self.covariances[rows, order])


Emissions = Categorical | Gaussian


def _stacked(name: str, array: Any, dimensions: int) -> Array:
    """Array with an axis of models, which a single model may lack."""
    numbers = numbers_of(name, array)
    numbers = np.ascontiguousarray(numbers, dtype=np.float64)
    if numbers.ndim != dimensions or not numbers.size:
        raise UserError(f"{name} must have {dimensions} axes, models first, none of them empty; got {numbers.shape}")
    return numbers
