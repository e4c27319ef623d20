"""Signum: the sign of a momentum (Bernstein et al. 2018, https://arxiv.org/abs/1802.04434, algorithm 2)."""

from typing import TYPE_CHECKING, ClassVar

from shoal.parts import Rule, setting

if TYPE_CHECKING:
    from torch import Tensor

    from shoal.parts import Hyper, Layout, State, Update


class Signum(Rule):
    """Steps of one size in every parameter, in the direction of a decaying mean of the gradient."""

    name: ClassVar[str] = "signum"
    label: ClassVar[str] = "Signum"
    state: ClassVar[tuple[str, ...]] = ("m",)
    is_decoupled: ClassVar[bool] = True

    momentum: float = setting(0.9, "decay of the momentum", "in [0, 1)", member=True, in_float32=True, ge=0, lt=1)

    def build(self) -> "Update":
        """See :class:`shoal.parts.Rule`."""
        return signum


def signum(
    theta: "Tensor", gradient: "Tensor", state: "State", hyper: "Hyper", step: "Tensor", layout: "Layout"
) -> None:
    """``m ← μ m + (1 − μ) g``; ``θ ← (1 − lr λ) θ − lr sign(m)``; parameters, state ``(R, P)``, numbers ``(R, 1)``."""
    lr, decay, mu = (hyper[name] for name in ("lr", "weight_decay", "momentum"))  # float64
    m = state["m"]
    m.mul_(mu.to(m.dtype)).add_((1 - mu).to(m.dtype) * gradient)
    theta.mul_((1 - lr * decay).to(theta.dtype)).sub_(lr.to(theta.dtype) * m.sign())
