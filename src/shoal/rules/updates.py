"""SGD, momentum, Adam, AdamW, Lion and Muon over a stack, equal to ``torch.optim`` member by member.

Parameters, gradients and state are flat, ``(R, P)``; every hyper-parameter is one number per member, ``(R, 1)``. Steps
are functions that change parameters and state in place; the layout says which parameters are hidden matrices.

Source: ``torch.optim`` (Kingma & Ba 2015; Loshchilov & Hutter 2019; Jordan 2024, see :mod:`shoal.rules.muon`); Chen
et al. 2023 (arXiv 2302.06675, algorithm 2) for Lion; clipping as ``clip_grad_norm_``.
"""

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from shoal.rules.layout import Layout
from shoal.rules.muon import muon_steps

Hyper = Mapping[str, Tensor]  # (R, 1) each, or (R, P) for the weight decay; float64
State = dict[str, Tensor]  # (R, P) each
Update = Callable[[Tensor, Tensor, State, Hyper, Tensor, Layout], None]  # theta, gradient, state, hyper, step, layout


def sgd(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor, layout: Layout) -> None:
    """Gradient descent: ``θ ← θ − lr (g + λ θ)``."""
    theta.sub_(_as(theta, hyper["lr"]) * _with_decay(gradient, theta, hyper))


def momentum(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor, layout: Layout) -> None:
    """Gradient descent with momentum: ``v ← μ v + g + λ θ``; ``θ ← θ − lr v``."""
    state["v"].mul_(_as(theta, hyper["momentum"])).add_(_with_decay(gradient, theta, hyper))
    theta.sub_(_as(theta, hyper["lr"]) * state["v"])


def adam(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor, layout: Layout) -> None:
    """Adam with the weight decay added to the gradient (L2)."""
    _adam_update(theta, _with_decay(gradient, theta, hyper), state, hyper, step)


def adamw(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor, layout: Layout) -> None:
    """Adam with decoupled weight decay, ``θ ← (1 − lr λ) θ`` first."""
    _shrink(theta, hyper)
    _adam_update(theta, gradient, state, hyper, step)


def lion(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor, layout: Layout) -> None:
    """Lion: ``θ ← (1 − lr λ) θ − lr sign(β₁ m + (1 − β₁) g)``; ``m ← β₂ m + (1 − β₂) g``."""
    beta1, beta2 = (_as(theta, hyper[name]) for name in ("beta1", "beta2"))
    rest1, rest2 = (_as(theta, 1 - hyper[name]) for name in ("beta1", "beta2"))
    m = state["m"]
    direction = (beta1 * m).add_(rest1 * gradient).sign_()
    _shrink(theta, hyper)
    theta.sub_(_as(theta, hyper["lr"]) * direction)
    m.mul_(beta2).add_(rest2 * gradient)


def muon(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor, layout: Layout) -> None:
    """Muon for the hidden matrices, which keep their momentum in ``m`` and leave ``v`` at 0; AdamW for the rest."""
    _shrink(theta, hyper)
    lr, decay = (_as(theta, hyper[name])[:, :, None, None] for name in ("lr", "momentum"))  # (R, 1, 1, 1)
    for matrices in layout.hidden:
        momentum = matrices.take(state["m"])  # (R, k, m, n)
        matrices.subtract(theta, lr * muon_steps(matrices.take(gradient), momentum, decay))
        matrices.replace(state["m"], momentum)
    rest = layout.rest
    every = {"theta": theta, **state}
    others = {name: tensor.index_select(1, rest) for name, tensor in every.items()}  # (R, P')
    _adam_update(others["theta"], gradient.index_select(1, rest), others, hyper, step)
    for name, tensor in every.items():
        tensor.index_copy_(1, rest, others[name])


def _adam_update(theta: Tensor, gradient: Tensor, state: State, hyper: Hyper, step: Tensor) -> None:
    beta1, beta2 = hyper["beta1"], hyper["beta2"]
    m, v = state["m"], state["v"]
    m.lerp_(gradient, _as(m, 1 - beta1))
    v.mul_(_as(v, beta2)).add_((_as(v, 1 - beta2) * gradient).mul_(gradient))
    correction1, correction2 = 1 - beta1**step, 1 - beta2**step  # (R, 1)
    denominator = v.sqrt().div_(_as(v, correction2.sqrt())).add_(_as(v, hyper["eps"]))
    theta.sub_((m / denominator).mul_(_as(theta, hyper["lr"] / correction1)))


def _shrink(theta: Tensor, hyper: Hyper) -> None:
    theta.mul_(_as(theta, 1 - hyper["lr"] * hyper["weight_decay"]))


def _with_decay(gradient: Tensor, theta: Tensor, hyper: Hyper) -> Tensor:
    return gradient + _as(theta, hyper["weight_decay"]) * theta


def _as(like: Tensor, value: Tensor) -> Tensor:
    """Hyper-parameter in the type of the parameters; it is float64 before, as in torch.optim."""
    return value.to(like.dtype)


def clip_scale(gradient: Tensor, max_norm: Tensor) -> tuple[Tensor, Tensor]:
    """Clipping factors of each member's gradient, after which its ℓ₂ norm is at most ``max_norm``.

    Args:
        gradient: ``(R, P)``.
        max_norm: ``(R, 1)``; infinite where a member is not clipped.

    Returns:
        The factors ``(R, 1)`` and the norms before clipping ``(R,)``.
    """
    norm = torch.linalg.vector_norm(gradient, dim=1, keepdim=True)  # (R, 1)
    # 1e-6 as in torch.nn.utils.clip_grad_norm_
    return (_as(norm, max_norm) / (norm + 1e-6)).clamp(max=1.0), norm.squeeze(1)
