"""Settings of hidden Markov models, from which their sizes are counted."""

from typing import TYPE_CHECKING, ClassVar

from shoal.errors import UserError
from shoal.models.settings import ModelSettings
from shoal.spec.fields import choice, setting

if TYPE_CHECKING:
    from torch import nn

    from shoal.tasks.settings import Sizes

EMISSIONS = ("categorical", "gaussian")
COVARIANCES = ("diagonal", "full")


class HMMSettings(ModelSettings):
    """Settings of a hidden Markov model; a run is one restart of EM from a random model, by ``init_seed``."""

    name: ClassVar[str] = "hmm"
    label: ClassVar[str] = "HMM"
    reads: ClassVar[str] = "observations"
    fitted_by: ClassVar[str] = "em"

    num_states: int = setting(2, "hidden states K", "an integer in [1, 10000]", ge=1, le=10_000)
    emissions: str = choice("categorical", "distribution of an observation in a state", EMISSIONS)
    covariance: str = choice("diagonal", "covariances of Gaussian emissions", COVARIANCES)

    def check(self) -> None:
        """See :class:`Part`."""
        if self.covariance != "diagonal" and self.emissions != "gaussian":
            raise UserError(
                f"covariance={self.covariance} does not apply to emissions {self.emissions!r}; it applies to gaussian"
            )

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`.

        Raises:
            UserError: always: the model is arrays, :class:`shoal.hmm.HMM`, and no module.
        """
        raise UserError("model 'hmm' is arrays of probabilities and no module of PyTorch")

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`: free parameters, in closed form."""
        K, size = self.num_states, sizes.vocabulary_size
        if self.emissions == "categorical":
            each = size - 1
        else:
            each = size + (size * (size + 1) // 2 if self.covariance == "full" else size)
        return (K - 1) + K * (K - 1) + K * each

    def count_tables(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`."""
        return 0

    def describe(self) -> str:
        """See :class:`ModelSettings`: ``"3 states, full gaussian"``."""
        kind = f"{self.covariance} gaussian" if self.emissions == "gaussian" else self.emissions
        return f"{self.num_states} state{'s' * (self.num_states > 1)}, {kind}"

    def sizes_named(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["num_states"]
