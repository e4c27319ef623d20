"""A forward and a backward pass, laid out once and run again at every step.

The shapes of a step do not change, so neither do its operations, their order or their arrays. A program is the list of
calls, each with its arguments: running it makes no array, looks up no parameter and records no graph. Between the
products of small models that is most of what a step costs.

The backward is laid out from the last operation to the first. Whether a gradient is written or added is known then, and
so is when an array has been read for the last time: it is used again for gradients still to come.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

Call = Callable[[], Any]


@dataclass(eq=False)
class Value:
    """An array of a program, ``(R, *dims)``, and the gradient of the loss with respect to it.

    Attributes:
        data: what it is.
        grad: where its gradient is or will be.
        is_written: whether the calls laid so far leave something in ``grad``.
        is_parameter: whether ``data`` and ``grad`` are views of the flat parameters and their gradient.
        whole, start: of what this is the rows from ``start`` on.
    """

    data: Tensor
    grad: Tensor | None = None
    is_written: bool = False
    is_parameter: bool = False
    whole: "Value | None" = None
    start: int = 0


class Arena:
    """Memory that several programs use in turns; a new forward pass of any ends what the one before has left."""

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.turn = 0


class Program:
    """Calls in their order, and the memory they work on.

    Attributes:
        loss, accuracy: of each example, ``(R, B)``: where the forward leaves them.
        d_loss: where the backward looks for the gradient of the losses, ``(R, B)``.

    Args:
        arena: where its memory comes from.
        gradient: of all parameters, ``(R, P)``; zeros, of which the backward overwrites what it knows of.
        is_differentiable: whether there will be a backward.
    """

    loss: Tensor
    accuracy: Tensor
    d_loss: Tensor

    def __init__(self, arena: Arena, gradient: Tensor, is_differentiable: bool = True) -> None:
        self.arena, self.gradient, self.is_differentiable = arena, gradient, is_differentiable
        self._free = list(arena.blocks)
        self._blocks = {block.data_ptr(): block for block in arena.blocks}
        self._preparation: list[Call] = []
        self._forward: list[Call] = []
        self._backward: list[Call] = []
        self._laid = self._forward  # where calls are added
        self._operations: list[tuple[Value | None, Call, Sequence[Tensor]]] = []

    # running it

    def prepare(self) -> None:
        """Compute what depends on the batch alone."""
        for call in self._preparation:
            call()

    def forward(self) -> None:
        """Compute the values."""
        self.arena.turn += 1
        for call in self._forward:
            call()

    def backward(self) -> Tensor:
        """Compute the gradient of the parameters, ``(R, P)``: the same tensor every time."""
        for call in self._backward:
            call()
        return self.gradient

    # laying it out

    def lay(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Add a call."""
        self._laid.append(partial(function, *arguments, **named) if arguments or named else function)

    def operation(self, out: Value | None, lay_backward: Call, *temporaries: Tensor) -> None:
        """Say how to lay the backward of what has been laid for ``out``, and which arrays only that backward reads."""
        if self.is_differentiable:
            self._operations.append((out, lay_backward, temporaries))

    def prepared(self, compute: Callable[[], Tensor]) -> Tensor:
        """What depends on the batch alone; the same array for every batch."""
        found = compute().clone(memory_format=torch.contiguous_format)
        self._preparation.append(lambda: found.copy_(compute()))
        return found

    def take(self, *shape: int) -> Tensor:
        """Memory for an array, float32, with anything in it."""
        size = prod(shape)
        fitting = [block for block in self._free if size <= block.numel() <= 2 * size]
        if fitting:
            block = min(fitting, key=Tensor.numel)
            self._free = [free for free in self._free if free is not block]
        else:
            block = self.gradient.new_empty(max(size, 1))
            self.arena.blocks.append(block)
            self._blocks[block.data_ptr()] = block
        return block[:size].view(shape)

    def give_back(self, array: Tensor) -> None:
        """Let memory be used again by what is laid from here on."""
        self._free.append(self._blocks[array.untyped_storage().data_ptr()])

    def value(self, *shape: int) -> Value:
        """A new value."""
        return Value(self.take(*shape))

    def grad(self, value: Value) -> tuple[Tensor, bool]:
        """Where the gradient of a value is to be left, and whether it is to be added to what is there."""
        add, value.is_written = value.is_written, True
        if value.grad is None and value.whole is not None:
            whole, add = self.grad(value.whole)
            if not add:
                self.lay(whole[:, : value.start].zero_)
            value.grad = whole[:, value.start :]
        elif value.grad is None:
            value.grad = self.take(*value.data.shape)
        return value.grad, add

    def zeroed_grad(self, value: Value) -> Tensor:
        """Where to add to the gradient of a value."""
        grad, add = self.grad(value)
        if not add:
            self.lay(grad.zero_)
        return grad

    def add_to_grad(self, value: Value, part: Tensor) -> None:
        """Leave the values of an array, when the call is made, in the gradient of a value."""
        grad, add = self.grad(value)
        self.lay(grad.add_ if add else grad.copy_, part)

    def write_grad(self, value: Value, function: Callable[..., Any], *arguments: Any) -> None:
        """Leave what a function with an argument ``out`` computes in the gradient of a value."""
        grad, add = self.grad(value)
        if not add and (grad.is_contiguous() or grad.device.type != "cpu"):
            self.lay(function, *arguments, out=grad)
            return
        computed = self.take(*grad.shape)
        self.lay(function, *arguments, out=computed)
        self.lay(grad.add_ if add else grad.copy_, computed)
        self.give_back(computed)

    def multiply_grad(self, value: Value, a: Tensor, b: Tensor) -> None:
        """Leave the products ``a b`` in the gradient of a value."""
        if value.is_written and not value.is_parameter and value.whole is None:
            self.lay(self.grad(value)[0].baddbmm_, a, b)
        else:  # a part of something is contiguous in a stack of one alone, and has to be rounded as in any other
            self.write_grad(value, torch.bmm, a, b)

    def tail(self, value: Value, start: int) -> Value:
        """The rows of a value from ``start`` on."""
        return Value(value.data[:, start:], whole=value, start=start) if start else value

    def join(self, values: Sequence[Value]) -> Value:
        """Side by side, ``(R, n_i, *dims) -> (R, sum n_i, *dims)``."""
        R, _, *dims = values[0].data.shape
        sizes = [value.data.shape[1] for value in values]
        out = self.value(R, sum(sizes), *dims)
        self.lay(torch.cat, [value.data for value in values], 1, out=out.data)

        def lay_backward() -> None:
            for value, part in zip(values, torch.split(self.grad(out)[0], sizes, 1), strict=True):
                self.add_to_grad(value, part)

        self.operation(out, lay_backward)
        return out

    def apply(self, function: Callable[..., Tensor], *values: Value) -> Value:
        """Any function of tensors whose backward PyTorch knows."""
        with torch.no_grad():
            out = self.value(*function(*[value.data for value in values]).shape)
        inputs: list[Tensor] = []
        outputs: list[Tensor] = []
        is_differentiable = self.is_differentiable

        def forward() -> None:
            with torch.enable_grad():
                inputs[:] = [value.data.detach().requires_grad_(is_differentiable) for value in values]
                outputs[:] = [function(*inputs)]
            out.data.copy_(outputs[0].detach())

        def lay_backward() -> None:
            d_out, grads = self.grad(out)[0], [self.grad(value) for value in values]

            def backward() -> None:
                for (grad, add), own in zip(grads, torch.autograd.grad(outputs, inputs, [d_out]), strict=True):
                    (grad.add_ if add else grad.copy_)(own)
                outputs.clear()

            self.lay(backward)

        self.lay(forward)
        self.operation(out, lay_backward)
        return out

    def finish(self) -> None:
        """Lay the backward, where there is one: the program is whole then."""
        self._laid = self._backward
        for out, lay, temporaries in reversed(self._operations):
            lay()
            for array in temporaries:
                self.give_back(array)
            if out is not None:
                assert out.grad is not None
                self.give_back(out.grad)
                self.give_back(out.data)
        self._operations.clear()  # they know the program, which would keep all its memory until they are collected


class Replay(Function):
    """A program as one operation of PyTorch: from the parameters, which it knows, to losses and accuracies."""

    @staticmethod
    def forward(ctx: Any, theta: Tensor, program: Program) -> tuple[Tensor, Tensor]:
        """Losses and accuracies, ``(R, B)`` each."""
        program.forward()
        ctx.save_for_backward(theta)  # so that PyTorch notices if it is changed before the backward
        ctx.program, ctx.turn = program, program.arena.turn
        loss, accuracy = program.loss.clone(), program.accuracy.clone()
        ctx.mark_non_differentiable(accuracy)
        return loss, accuracy

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_loss: Tensor, d_accuracy: Tensor) -> tuple[Tensor, None]:
        """The gradient of the parameters: the program's own tensor, valid until the next backward."""
        _ = ctx.saved_tensors  # raises if the parameters have been changed since
        if ctx.turn != ctx.program.arena.turn:
            raise RuntimeError("another pass has used this memory since: there is nothing left to go back over")
        ctx.turn = None  # the backward uses up the values
        ctx.program.d_loss.copy_(d_loss)
        return ctx.program.backward(), None
