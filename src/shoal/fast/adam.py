"""Adam and AdamW as one kernel, equal to :mod:`shoal.training.optimizers` but for rounding."""

import ctypes
from collections.abc import Mapping

import torch
from torch import Tensor

from shoal.fast.kernels import Library


class FusedAdam:
    """One pass over the parameters of every member.

    Args:
        library: the compiled kernels.
        decoupled: whether weight decay shrinks the parameters (AdamW) or is added to the gradient (Adam).
    """

    def __init__(self, library: ctypes.CDLL, decoupled: bool) -> None:
        self.library, self.decoupled = Library(library), decoupled

    def __call__(
        self,
        theta: Tensor,
        gradient: Tensor,
        scale: Tensor,
        state: Mapping[str, Tensor],
        hyper: Mapping[str, Tensor],
        count: Tensor,
        moved: Tensor,
    ) -> Tensor:
        """Change parameters and state of the members that move, in place.

        Args:
            theta: ``(R, P)`` float32.
            gradient: likewise.
            scale: what the gradient is multiplied by first, ``(R, 1)``.
            state: ``m`` and ``v``, ``(R, P)``.
            hyper: ``lr``, ``beta1``, ``beta2``, ``eps``, ``(R, 1)``, and ``weight_decay``, ``(R, 1 or P)``; float64.
            count: the step of each member, ``(R, 1)`` float64.
            moved: members to change, ``(R,)`` bool.

        Returns:
            Whether the new parameters are finite, ``(R,)`` bool.
        """
        R, P = theta.shape
        lr, beta1, beta2, decay = (hyper[name] for name in ("lr", "beta1", "beta2", "weight_decay"))
        correction1, correction2 = 1 - beta1**count, 1 - beta2**count
        scalars = (scale, 1 - beta1, beta2, 1 - beta2, correction2.sqrt(), hyper["eps"], lr / correction1)
        columns = torch.cat([scalar.double() for scalar in scalars], 1).float()  # (R, 7)
        keep = (1 - lr * decay if self.decoupled else torch.ones_like(decay)).float().contiguous()
        add = (torch.zeros_like(decay) if self.decoupled else decay).float().contiguous()
        finite = moved.to(torch.uint8)
        per_parameter = int(decay.shape[1] > 1)
        self.library.call(
            *("adam", R, P, theta, gradient.contiguous(), state["m"], state["v"], columns),
            *(keep, add, per_parameter, finite),
        )
        return finite.bool() | ~moved
