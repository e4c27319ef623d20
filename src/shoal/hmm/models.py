"""Hidden Markov models, R at a time.

p(Z, Y) = π(Z_1) ∏ P(Z_i, Z_{i+1}) ∏ p(Y_i | Z_i), with K states. What is computed of one model is computed of R at
once: the first axis of every array is that of the models, be they restarts, seeds or resamples.

Shapes: ``R`` models, ``K`` states, ``V`` symbols, ``D`` dimensions, ``S`` sequences, ``n`` observations of all of them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from shoal.errors import UserError
from shoal.hmm.data import Array, Integers
from shoal.hmm.emissions import Categorical, Emissions, Gaussian
from shoal.hmm.probabilities import check_distributions, numbers_of


@dataclass(frozen=True, eq=False)
class HMM:
    """R hidden Markov models of one shape.

    Attributes:
        start: π, ``(R, K)``.
        transitions: P, ``(R, K, K)``: from the state of the row to that of the column.
        emissions: distributions of observations in each state.

    Raises:
        UserError: shapes do not agree, or a row is no distribution; it is named by its indices.

    >>> import numpy as np
    >>> even = Categorical(np.full((1, 2, 3), 1 / 3))
    >>> model = HMM(np.array([[0.5, 0.5]]), np.array([[[0.9, 0.1], [0.2, 0.8]]]), even)
    >>> model.K, model.n_parameters
    (2, 7)
    """

    start: Array
    transitions: Array
    emissions: Emissions

    def __post_init__(self) -> None:
        for name in ("start", "transitions"):
            array = numbers_of(name, getattr(self, name))
            object.__setattr__(self, name, np.ascontiguousarray(array, dtype=np.float64))
        R, K = self.emissions.size
        for name, array, shape in (("start", self.start, (R, K)), ("transitions", self.transitions, (R, K, K))):
            if array.shape != shape:
                raise UserError(f"{name} must be of shape {shape}, as the emissions are; got {array.shape}")
            check_distributions(name, array)

    def __len__(self) -> int:
        return len(self.start)

    @property
    def K(self) -> int:
        """Number of states."""
        return int(self.start.shape[1])

    @property
    def n_parameters(self) -> int:
        """Number of free parameters of one model: (K - 1) + K (K - 1) + those of the emissions."""
        return (self.K - 1) + self.K * (self.K - 1) + self.emissions.n_parameters

    def select(self, chosen: int | Sequence[int] | NDArray[Any]) -> "HMM":
        """Some of the models, by their numbers or a mask."""
        rows = np.atleast_1d(np.asarray(chosen))
        return HMM(self.start[rows], self.transitions[rows], self.emissions.select(rows))

    def permuted(self, order: Integers) -> "HMM":
        """The same models with other numbers of states: state k is ``order[:, k]`` of these; ``(R, K)``."""
        rows = np.arange(len(self))[:, None]
        transitions = self.transitions[rows[:, :, None], order[:, :, None], order[:, None, :]]
        return HMM(self.start[rows, order], transitions, self.emissions.permuted(order))


def stacked(models: Sequence[HMM]) -> HMM:
    """Models of one shape as one stack.

    Raises:
        UserError: there is none, or they are not of one shape.
    """
    if not models:
        raise UserError("there is no model to stack")
    try:
        start = np.concatenate([model.start for model in models])
        transitions = np.concatenate([model.transitions for model in models])
        return HMM(start, transitions, _stacked_emissions([model.emissions for model in models]))
    except UserError:
        raise
    except ValueError:
        raise UserError("models of a stack must have the same numbers of states, symbols and dimensions") from None


def arrays_of(model: HMM) -> dict[str, Array]:
    """Arrays of models by name, ``(R, …)`` each, from which :func:`model_of` makes them again.

    >>> even = Categorical(np.full((1, 2, 3), 1 / 3))
    >>> list(arrays_of(HMM(np.array([[0.5, 0.5]]), np.array([[[0.9, 0.1], [0.2, 0.8]]]), even)))
    ['start', 'transitions', 'probabilities']
    """
    arrays = {"start": model.start, "transitions": model.transitions}
    if isinstance(model.emissions, Categorical):
        return {**arrays, "probabilities": model.emissions.probabilities}
    return {**arrays, "means": model.emissions.means, "covariances": model.emissions.covariances}


def model_of(arrays: Mapping[str, Array]) -> HMM:
    """Models of the arrays of :func:`arrays_of`.

    Raises:
        UserError: arrays are missing, their shapes do not agree, or they are no distributions.
    """
    names = {"start", "transitions", *({"probabilities"} if "probabilities" in arrays else {"means", "covariances"})}
    if arrays.keys() != names:
        raise UserError(f"a model has the arrays {' '.join(sorted(names))}, got {' '.join(sorted(arrays))}")
    if "probabilities" in arrays:
        return HMM(arrays["start"], arrays["transitions"], Categorical(arrays["probabilities"]))
    return HMM(arrays["start"], arrays["transitions"], Gaussian(arrays["means"], arrays["covariances"]))


def _stacked_emissions(emissions: Sequence[Emissions]) -> Emissions:
    categorical = [part for part in emissions if isinstance(part, Categorical)]
    gaussian = [part for part in emissions if isinstance(part, Gaussian)]
    if categorical and gaussian:
        raise UserError("models of a stack must have one kind of emissions")
    if categorical:
        return Categorical(np.concatenate([part.probabilities for part in categorical]))
    means = np.concatenate([part.means for part in gaussian])
    return Gaussian(means, np.concatenate([part.covariances for part in gaussian]))
