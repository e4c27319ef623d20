"""Orthogonalised momentum for the hidden weight matrices of a stack.

Source: Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon/), with the length of a step of Liu et al. 2025
(arXiv 2502.16982). As ``torch.optim.Muon(adjust_lr_fn="match_rms_adamw")``, but iterated in the type of the parameters,
float32, and not in bfloat16, which would save nothing on small matrices: a step is as exact as that of other rules.

``R`` members, ``P`` parameters, ``k`` matrices of one shape ``(m, n)``.
"""

import math

import torch
from torch import Tensor

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # steepest at 0; singular values end in about [0.7, 1.2], not at 1
ITERATIONS = 5
EPS = 1e-7  # a smaller matrix is not scaled up to length 1
RMS = 0.2  # of AdamW's steps, which these shall match


def orthogonalised(matrices: Tensor) -> Tensor:
    """Approximate ``U Vᵀ`` of each matrix ``U Σ Vᵀ``, by Newton-Schulz iteration: ``(N, m, n) -> (N, m, n)``."""
    a, b, c = COEFFICIENTS
    tall = matrices.shape[1] > matrices.shape[2]
    x = matrices.mT if tall else matrices  # (N, m, n) with m <= n, so that the products are the smaller ones
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=EPS)
    for _ in range(ITERATIONS):
        gram = torch.bmm(x, x.mT)  # (N, m, m)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if tall else x


def muon_steps(gradient: Tensor, momentum: Tensor, decay: Tensor) -> Tensor:
    """Muon's steps of the hidden matrices of one shape at learning rate 1; their momentum is updated in place.

    Args:
        gradient: ``(R, k, m, n)``.
        momentum: ``(R, k, m, n)``.
        decay: decay of the momentum, ``(R, 1, 1, 1)``.

    Returns:
        ``(R, k, m, n)``.
    """
    momentum.lerp_(gradient, 1 - decay)
    nesterov = gradient.lerp(momentum, decay)
    directions = orthogonalised(nesterov.flatten(0, 1)).reshape(gradient.shape)
    return RMS * math.sqrt(max(gradient.shape[2:])) * directions
