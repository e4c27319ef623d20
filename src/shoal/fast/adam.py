"""Adam and AdamW as one kernel, equal to :mod:`shoal.rules.updates` but for rounding."""

from collections.abc import Mapping

import torch
from torch import Tensor

from shoal.fast.kernels import Library


class FusedAdam:
    """Fused update of Adam or AdamW: one pass over the parameters of every member.

    Args:
        library: the kernels.
        decoupled: true where weight decay shrinks the parameters (AdamW), false where it adds to the gradient (Adam).
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
        """Update parameters and state of chosen members, in place; restore parameters that are not finite after it.

        Args:
            theta: ``(R, P)`` float32.
            gradient: ``(R, P)`` float32.
            scale: factor of the gradient, such as that of clipping, ``(R, 1)``.
            state: ``m`` and ``v``, ``(R, P)``.
            hyper: ``lr``, ``beta1``, ``beta2``, ``eps``, ``(R, 1)``, and ``weight_decay``, ``(R, 1 or P)``; float64.
            count: the step of each member, ``(R, 1)`` float64.
            moved: mask of the members to update, ``(R,)`` bool.

        Returns:
            Mask of the members whose new parameters were finite, ``(R,)`` bool.
        """
        before, finite, decay = torch.empty_like(theta), moved.clone(), hyper["weight_decay"]
        self.library.bound(
            *("adam", *theta.shape, theta, before, gradient.contiguous(), state["m"], state["v"], scale),
            *(*(hyper[name] for name in ("lr", "beta1", "beta2", "eps")), count, decay),
            *(int(decay.shape[1] > 1), int(self.decoupled), finite),
        )()
        finite |= ~moved
        if theta.device.type != "cpu" or not finite.all():  # to read from a GPU would wait for it
            torch.where(finite.unsqueeze(1), theta, before, out=theta)
        return finite
