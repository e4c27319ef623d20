"""Feed-forward layer of a transformer block, which acts at each position alone."""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

from shoal.models.dropout import Dropout

ACTIVATIONS = {"gelu": nn.GELU, "relu": nn.ReLU}
NON_LINEARITIES = (*ACTIVATIONS, "swiglu")


class TanhGELU(nn.Module):
    """GELU approximated by tanh, as in GPT-2."""

    def forward(self, x: Tensor) -> Tensor:
        """Apply the activation, ``(*dims) -> (*dims)``."""
        return F.gelu(x, approximate="tanh")


OF_CHECKPOINTS = {"gelu_new": TanhGELU}  # activations of checkpoints from elsewhere


class SwiGLU(nn.Module):
    """Gated feed-forward layer, ``W_down(silu(W_gate x) * W_up x)`` (Shazeer 2020).

    ``dropout`` acts on the inputs of ``W_down``; None: there is no dropout.
    """

    def __init__(self, d_model: int, d_ff: int, bias: bool = False, dropout: float | None = None) -> None:
        super().__init__()
        self.W_gate = nn.Linear(d_model, d_ff, bias=bias)
        self.W_up = nn.Linear(d_model, d_ff, bias=bias)
        self.drop = nn.Identity() if dropout is None else Dropout(dropout)
        self.W_down = nn.Linear(d_ff, d_model, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: ``(*dims, d_model) -> (*dims, d_model)``."""
        outputs: Tensor = self.W_down(self.drop(F.silu(self.W_gate(x)) * self.W_up(x)))
        return outputs


def feed_forward_width(d_model: int, multiplier: float, non_linearity: str) -> int:
    """Number of neurons of a feed-forward layer: ``multiplier d_model``, or two thirds of that in SwiGLU.

    The three matrices of SwiGLU then have as many parameters as the two of the others.

    >>> feed_forward_width(96, 4, "relu"), feed_forward_width(96, 4, "swiglu")
    (384, 256)
    """
    return int(2 * multiplier * d_model / 3 if non_linearity == "swiglu" else multiplier * d_model)


def feed_forward(
    d_model: int, multiplier: float, non_linearity: str, bias: bool, dropout: float | None = None
) -> nn.Module:
    """Feed-forward layer of a block, ``(*dims, d_model) -> (*dims, d_model)``.

    ``dropout`` acts on the neurons, behind the activation; None: there is no dropout.
    """
    d_ff = feed_forward_width(d_model, multiplier, non_linearity)
    if non_linearity == "swiglu":
        return SwiGLU(d_model, d_ff, bias, dropout)
    layers: OrderedDict[str, nn.Module] = OrderedDict()  # parameters keep their names, 0.weight and 2.weight
    layers["0"] = nn.Linear(d_model, d_ff, bias=bias)
    layers["1"] = {**ACTIVATIONS, **OF_CHECKPOINTS}[non_linearity]()
    if dropout is not None:
        layers["drop"] = Dropout(dropout)
    layers["2"] = nn.Linear(d_ff, d_model, bias=bias)
    return nn.Sequential(layers)
