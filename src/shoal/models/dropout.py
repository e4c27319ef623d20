"""Dropout whose mask can be made a pure function of a key.

``torch.nn.Dropout`` draws from a global generator, so what one member of a stack draws would depend on its neighbours.
Here a key, given from outside for each member and step, decides the mask; without a key it is ordinary dropout.
"""

from torch import Tensor, nn
from torch.nn import functional as F

from shoal.keyed import uniform


class Dropout(nn.Module):
    """Dropout: zero each element with probability ``p`` while training and scale the rest by ``1 / (1 - p)``.

    ``key`` is a buffer, None in ordinary use. The training engine sets it to an int64 scalar per member and step
    (through ``torch.func.functional_call``), which makes the mask reproducible for that member alone.
    """

    key: Tensor | None

    def __init__(self, p: float = 0.0) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"dropout must be in [0, 1), got {p}")
        self.p = p
        self.register_buffer("key", None, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Drop elements: ``(*dims) -> (*dims)``."""
        if not self.training or self.p == 0:
            return x
        if self.key is None:
            return F.dropout(x, self.p)
        mask = uniform(self.key, x.numel(), x.device).reshape(x.shape) >= self.p  # (*dims)
        return x * mask / (1 - self.p)
