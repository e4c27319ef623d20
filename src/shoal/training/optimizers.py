"""SGD, momentum, Adam and AdamW over a stack, equal to ``torch.optim`` member by member.

Parameters, gradients and state are flat, ``(R, P)``; every hyper-parameter is one number per member, ``(R, 1)``. Steps
are functions that change parameters and state in place.

Source: ``torch.optim`` (Kingma & Ba 2015; Loshchilov & Hutter 2019); clipping as ``clip_grad_norm_``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Hyper = Mapping[str, Tensor]  # (R, 1) each
State = dict[str, Tensor]  # (R, P) each


def sgd(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """``θ ← θ − lr (g + λ θ)``."""
    gradient = gradient + hyper["weight_decay"] * theta
    theta.sub_(hyper["lr"] * gradient)


def momentum(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """``v ← μ v + g + λ θ``; ``θ ← θ − lr v``."""
    state["v"].mul_(hyper["momentum"]).add_(gradient + hyper["weight_decay"] * theta)
    theta.sub_(hyper["lr"] * state["v"])


def adam(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """Adam with the decay added to the gradient (L2)."""
    _adam_update(theta, gradient + hyper["weight_decay"] * theta, state, hyper, step)


def adamw(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """Adam with the decay taken off the parameters, ``θ ← (1 − lr λ) θ`` first."""
    theta.mul_(1 - hyper["lr"] * hyper["weight_decay"])
    _adam_update(theta, gradient, state, hyper, step)


def _adam_update(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    m, v = state["m"], state["v"]
    m.lerp_(gradient, 1 - beta1)
    v.mul_(beta2).add_((1 - beta2) * gradient * gradient)
    # float64, as torch.optim computes these two on the host
    correction1 = 1 - beta1.double() ** step  # (R, 1)
    correction2 = 1 - beta2.double() ** step
    denominator = (v.sqrt() / correction2.sqrt().to(v.dtype)).add_(hyper["eps"])
    theta.sub_((hyper["lr"] / correction1).to(v.dtype) * (m / denominator))


@dataclass(frozen=True)
class Optimizer:
    """An update rule, the state it keeps for each parameter and the hyper-parameters it reads."""

    update: Callable[[Tensor, Tensor, State, Hyper, Tensor], None]
    state: tuple[str, ...]
    hyper: tuple[str, ...]

    def init(self, theta: Tensor) -> State:
        """Zero state for ``theta``, ``(R, P)``."""
        return {name: torch.zeros_like(theta) for name in self.state}


OPTIMIZERS = {
    "sgd": Optimizer(sgd, state=(), hyper=("lr", "weight_decay")),
    "momentum": Optimizer(momentum, state=("v",), hyper=("lr", "weight_decay", "momentum")),
    "adam": Optimizer(adam, state=("m", "v"), hyper=("lr", "weight_decay", "beta1", "beta2", "eps")),
    "adamw": Optimizer(adamw, state=("m", "v"), hyper=("lr", "weight_decay", "beta1", "beta2", "eps")),
}


def clip_by_norm(gradient: Tensor, max_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Scale each member's gradient down to ``max_norm`` where its ℓ₂ norm exceeds it.

    Args:
        gradient: ``(R, P)``.
        max_norm: ``(R, 1)``; infinite where a member is not clipped.

    Returns:
        The clipped gradient ``(R, P)`` and the norm before clipping ``(R, 1)``.
    """
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (R, 1)
    # 1e-6 as in torch.nn.utils.clip_grad_norm_
    return gradient * (max_norm / (norm + 1e-6)).clamp(max=1.0), norm
