"""Adam and AdamW as one kernel, equal to :mod:`shoal.rules.updates` but for rounding."""

from collections.abc import Mapping

import torch
from torch import Tensor

from shoal.fast.kernels import Library


class FusedAdam:
    """One pass over the parameters of every member.

    Args:
        library: the kernels.
        decoupled: whether weight decay shrinks the parameters (AdamW) or is added to the gradient (Adam).
    """

    def __init__(self, library: Library, decoupled: bool) -> None:
        self.library, self.decoupled = library, decoupled

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
        """Change parameters and state of the members that move, in place; put parameters back that are not finite then.

        Args:
            theta: ``(R, P)`` float32.
            gradient: likewise.
            scale: what the gradient is multiplied by first, ``(R, 1)``.
            state: ``m`` and ``v``, ``(R, P)``.
            hyper: ``lr``, ``beta1``, ``beta2``, ``eps``, ``(R, 1)``, and ``weight_decay``, ``(R, 1 or P)``; float64.
            count: the step of each member, ``(R, 1)`` float64.
            moved: members to change, ``(R,)`` bool.

        Returns:
            Whether the new parameters were finite, ``(R,)`` bool.
        """
        before, finite, decay = torch.empty_like(theta), moved.clone(), hyper["weight_decay"]
        self.library.bound(
            *("adam", *theta.shape, theta, before, gradient.contiguous(), state["m"], state["v"], scale),
            *(*(hyper[name] for name in ("lr", "beta1", "beta2", "eps")), count, decay),
            *(int(decay.shape[1] > 1), int(self.decoupled), finite),
        )()
        finite |= ~moved
        if theta.device.type != "cpu" or not finite.all():  # a GPU is not looked at
            torch.where(finite.unsqueeze(1), theta, before, out=theta)
        return finite
