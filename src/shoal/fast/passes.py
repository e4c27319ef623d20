"""Passes over all members of a stack by programs, and the gradient that a training step or PyTorch asks for."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from shoal.fast.program import Arena, Program

CACHE = 8 * 2**20  # bytes of values that stay in a core's caches
GROUPS = 8  # most groups: each has a program of its own for each form of a batch, which takes time and memory, too


class Passes:
    """Passes over all members of a stack, group by group, each by its own program, in one memory.

    The values of a group stay in the processor's caches from its forward pass to its backward pass, and take the memory
    of those of the group before. With one thread no bit of a member depends on its group; with several, PyTorch's
    products round otherwise in a group of fewer members than threads, and our own do not.

    Args:
        lay: function that records the forward pass of some members in a program.
        gradient: gradient of all parameters, ``(R, P)``; see :class:`Program`.
        arena, is_differentiable, products, precision: see :class:`Program`.
        in_groups: true where members pass in groups, false where all pass at once: what is computed of all members
            alike, such as a weight from its codes, is then computed once.
    """

    def __init__(
        self,
        lay: Callable[[Program, slice], None],
        gradient: Tensor,
        arena: Arena,
        is_differentiable: bool,
        products: str,
        precision: str,
        in_groups: bool = True,
    ) -> None:
        self.gradient, self.arena = gradient, arena

        def laid(members: slice, arena: Arena) -> Program:
            program = Program(arena, gradient[members], is_differentiable, products, precision)
            lay(program, members)
            program.finish()
            return program

        R, size, trial = len(gradient), len(gradient), Arena()
        if in_groups and gradient.device.type == "cpu" and torch.get_num_threads() < R:
            laid(slice(0, 1), trial)
            size = group_size(trial.n_bytes, torch.get_num_threads(), R)
        self.groups = [slice(first, min(first + size, R)) for first in range(0, R, size)]
        self.programs = [laid(members, arena) for members in self.groups]

    def prepare(self) -> None:
        """Compute the values that depend on the batch alone."""
        for program in self.programs:
            program.prepare()

    def forward(self) -> tuple[Tensor, Tensor]:
        """Loss and accuracy of each example, ``(R, B)`` each."""
        self.arena.turn += 1
        for program in self.programs:
            program.forward()
        return self._outputs()

    def backward(self, d_loss: Tensor) -> tuple[Tensor, Tensor]:
        """Compute ``gradient`` from that of the losses, ``(R, B)``, by a forward and a backward pass.

        Returns:
            Loss and accuracy of each example, ``(R, B)`` each.
        """
        self.arena.turn += 1
        for members, program in zip(self.groups, self.programs, strict=True):
            program.forward()
            program.d_loss.copy_(d_loss[members])
            program.backward()
        return self._outputs()

    def _outputs(self) -> tuple[Tensor, Tensor]:
        losses, accuracies = ([getattr(one, name) for one in self.programs] for name in ("loss", "accuracy"))
        return torch.cat(losses), torch.cat(accuracies)


def group_size(n_bytes: int, threads: int, members: int) -> int:
    """Number of members that pass together: as many per thread as fit its caches, and enough for few groups.

    Args:
        n_bytes: memory of one member's program.
        threads: number of threads.
        members: number of members of the stack.
    """
    return min(members, max(threads * max(1, CACHE // max(n_bytes, 1)), -(-members // GROUPS)))


class Replay(Function):
    """Passes as one operation of PyTorch, from the parameters to losses and accuracies.

    For whoever asks PyTorch for a gradient: it computes the forward pass twice, which a training step does not.
    """

    @staticmethod
    def forward(ctx: Any, theta: Tensor, passes: Passes) -> tuple[Tensor, Tensor]:
        """Losses and accuracies, ``(R, B)`` each."""
        loss, accuracy = passes.forward()
        ctx.save_for_backward(theta)  # so that PyTorch notices if it is changed before the backward
        ctx.passes, ctx.turn = passes, passes.arena.turn
        ctx.mark_non_differentiable(accuracy)
        return loss, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, d_accuracy: Tensor) -> tuple[Tensor, None]:
        """Gradient of the parameters: a tensor that the next backward pass overwrites."""
        _ = ctx.saved_tensors  # raises if the parameters have been changed since
        if ctx.turn != ctx.passes.arena.turn:
            raise RuntimeError("another pass has changed the batch since: there is nothing left to go back over")
        ctx.passes.backward(d_loss)
        return ctx.passes.gradient, None
