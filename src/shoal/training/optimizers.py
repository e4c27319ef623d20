"""SGD, momentum, Adam and AdamW over a stack, equal to ``torch.optim`` member by member.

Parameters, gradients and state are flat, ``(R, P)``; every hyper-parameter is one number per member, ``(R, 1)``. Steps
are functions that change parameters and state in place.

Source: ``torch.optim`` (Kingma & Ba 2015; Loshchilov & Hutter 2019); clipping as ``clip_grad_norm_``.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Hyper = Mapping[str, Tensor]  # (R, 1) each, or (R, P) for the weight decay; float64
State = dict[str, Tensor]  # (R, P) each


def sgd(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """``θ ← θ − lr (g + λ θ)``."""
    theta.sub_(_as(theta, hyper["lr"]) * _with_decay(gradient, theta, hyper))


def momentum(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """``v ← μ v + g + λ θ``; ``θ ← θ − lr v``."""
    state["v"].mul_(_as(theta, hyper["momentum"])).add_(_with_decay(gradient, theta, hyper))
    theta.sub_(_as(theta, hyper["lr"]) * state["v"])


def adam(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """Adam with the decay added to the gradient (L2)."""
    _adam_update(theta, _with_decay(gradient, theta, hyper), state, hyper, step)


def adamw(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    """Adam with the decay taken off the parameters, ``θ ← (1 − lr λ) θ`` first."""
    theta.mul_(_as(theta, 1 - hyper["lr"] * hyper["weight_decay"]))
    _adam_update(theta, gradient, state, hyper, step)


def _adam_update(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    m, v = state["m"], state["v"]
    m.lerp_(gradient, _as(m, 1 - beta1))
    v.mul_(_as(v, beta2)).add_(_as(v, 1 - beta2) * gradient * gradient)
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step  # (R, 1)
    denominator = (v.sqrt() / _as(v, correction2.sqrt())).add_(_as(v, hyper["eps"]))
    theta.sub_(_as(theta, hyper["lr"] / correction1) * (m / denominator))


def _with_decay(gradient: Tensor, theta: Tensor, hyper: Hyper) -> Tensor:
    return gradient + _as(theta, hyper["weight_decay"]) * theta


def _as(like: Tensor, value: Tensor) -> Tensor:
    """A hyper-parameter in the type of the parameters; until then it is float64, as torch.optim computes with it."""
    return value.to(like.dtype)


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


def clip_scale(gradient: Tensor, max_norm: Tensor) -> tuple[Tensor, Tensor]:
    """What to multiply each member's gradient by so that its ℓ₂ norm is at most ``max_norm``.

    Args:
        gradient: ``(R, P)``.
        max_norm: ``(R, 1)``; infinite where a member is not clipped.

    Returns:
        The factors ``(R, 1)`` and the norms before clipping ``(R,)``.
    """
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (R, 1)
    # 1e-6 as in torch.nn.utils.clip_grad_norm_
    return (_as(norm, max_norm) / (norm + 1e-6)).clamp(max=1.0), norm.squeeze(1)
