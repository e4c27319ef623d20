"""A gated recurrent unit as a language model (Cho et al. 2014, https://arxiv.org/abs/1406.1078).

The module is written for one run and knows nothing of stacks: shoal lifts it over the runs that it trains side by side.
For that it is made of plain tensor operations (``torch.nn.GRU`` cannot be lifted).
"""

from typing import TYPE_CHECKING, ClassVar

from shoal.parts import ModelSettings, Sizes, setting

if TYPE_CHECKING:
    from torch import nn


class GRU(ModelSettings):
    """Settings of a GRU of one layer."""

    name: ClassVar[str] = "gru"
    label: ClassVar[str] = "GRU"

    embedding_size: int = setting(32, "width of the embeddings", "an integer of at least 1", ge=1)
    hidden_size: int | None = setting(
        None,
        "width of the state (that of the embeddings)",
        "an integer of at least 1",
        follows="embedding_size",
        ge=1,
    )
    gate_bias: float = setting(
        0.0, "where the biases of the update gate start", "a finite number", member=True, allow_inf_nan=False
    )

    def fill(self) -> None:
        """States are as wide as embeddings where nothing else is said."""
        if self.hidden_size is None:
            object.__setattr__(self, "hidden_size", self.embedding_size)

    def build(self, sizes: Sizes) -> "nn.Module":
        """The module, with initial values from torch's global generator."""
        from tidepool.gru import GRUModel

        assert self.hidden_size is not None
        return GRUModel(sizes.vocabulary_size, self.embedding_size, self.hidden_size, self.gate_bias)

    def floats_per_position(self) -> float:
        """See :class:`shoal.parts.ModelSettings`."""
        assert self.hidden_size is not None
        return 12.0 * self.hidden_size + 2 * self.embedding_size
