"""What a block of a transformer computes at each position alone."""

from torch import Tensor, nn
from torch.nn import functional as F

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}
NON_LINEARITIES = (*ACTIVATIONS, "swiglu")


class SwiGLU(nn.Module):
    """``W_down(silu(W_gate x) * W_up x)``: a feed-forward layer whose activation is gated (Shazeer 2020)."""

    def __init__(self, d_model: int, d_ff: int, bias: bool = False) -> None:
        super().__init__()
        self.W_gate = nn.Linear(d_model, d_ff, bias=bias)
        self.W_up = nn.Linear(d_model, d_ff, bias=bias)
        self.W_down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """``(*dims, d_model) -> (*dims, d_model)``."""
        outputs: Tensor = self.W_down(F.silu(self.W_gate(x)) * self.W_up(x))
        return outputs


def feed_forward_width(d_model: int, multiplier: float, non_linearity: str) -> int:
    """Neurons of a feed-forward layer: ``multiplier d_model``, of which SwiGLU has two thirds.

    So its three matrices have as many parameters as the two of the others.

    >>> feed_forward_width(96, 4, "relu"), feed_forward_width(96, 4, "swiglu")
    (384, 256)
    """
    return int(2 * multiplier * d_model / 3 if non_linearity == "swiglu" else multiplier * d_model)


def feed_forward(d_model: int, multiplier: float, non_linearity: str, bias: bool) -> nn.Module:
    """What a block computes at each position alone, ``(*dims, d_model) -> (*dims, d_model)``."""
    d_ff = feed_forward_width(d_model, multiplier, non_linearity)
    if non_linearity == "swiglu":
        return SwiGLU(d_model, d_ff, bias)
    return nn.Sequential(
        nn.Linear(d_model, d_ff, bias=bias),
        ACTIVATIONS[non_linearity](),
        nn.Linear(d_ff, d_model, bias=bias),
    )
