"""Program of a forward and a backward pass, recorded once and run at every step.

The shapes of a step do not change, so neither do its operations, their order or their arrays. A program is the list of
calls, each with its arguments: running it allocates no array, looks up no parameter and records no graph, which is
most of the time that a step of a small model takes between its products.

The backward pass is recorded from the last operation to the first. It is known then whether a gradient is written or
added, and when an array is read for the last time: its memory is used again for later gradients.
"""

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor

from shoal.fast import matmul

Call = Callable[[], Any]


@dataclass(eq=False)
class Value:
    """Array of a program, ``(R, *dims)``, and the gradient of the loss with respect to it.

    Attributes:
        data: the array.
        grad: array of its gradient, once it has one.
        is_written: true where the calls recorded so far write to ``grad``.
        is_parameter: true where ``data`` is a parameter; where it trains, it is a view of the flat parameters, and
            ``grad`` of their gradient.
        is_constant: true where no parameter that trains is behind ``data``, so that its gradient is not computed.
        whole, start: the value of which this is the rows from ``start`` on.
        write: function that writes one member's array, which is that of all, of a constant in codes; ``data`` has its
            shape alone, see :meth:`Program.held`.
    """

    data: Tensor
    grad: Tensor | None = None
    is_written: bool = False
    is_parameter: bool = False
    whole: "Value | None" = None
    start: int = 0
    is_constant: bool = False
    write: Callable[[Tensor], Any] | None = None


class Arena:
    """Memory that several programs use in turns; a new forward pass of any overwrites the values of the one before.

    ``joined`` has concatenations of parameters that do not train, by the places of their parts.
    """

    def __init__(self) -> None:
        self.blocks: list[Tensor] = []
        self.joined: dict[tuple[tuple[int, torch.Size], ...], Tensor] = {}
        self.turn = 0  # number of passes so far

    @property
    def n_bytes(self) -> int:
        """Size of the memory."""
        return sum(block.nbytes for block in self.blocks)


class Program:
    """Program: calls in their order, and the memory they work on.

    Attributes:
        loss, accuracy: outputs of the forward pass for each example, ``(R, B)``.
        d_loss: input of the backward pass, the gradient of the losses, ``(R, B)``.

    Args:
        arena: source of its memory.
        gradient: gradient of all parameters, ``(R, P)``; zeros, which the backward pass overwrites for the parameters
            that it uses.
        is_differentiable: true where there will be a backward pass.
        products: library of the matrix products, one of :data:`shoal.fast.multiplication.PRODUCTS`.
        precision: ``bfloat16`` where their operands are rounded to it.
    """

    loss: Tensor
    accuracy: Tensor
    d_loss: Tensor

    def __init__(
        self,
        arena: Arena,
        gradient: Tensor,
        is_differentiable: bool = True,
        products: str = "torch",
        precision: str = "float32",
    ) -> None:
        self.arena, self.gradient, self.is_differentiable = arena, gradient, is_differentiable
        self.products, self.precision = products, precision
        self._free = sorted(arena.blocks, key=Tensor.numel)  # by size: there may be thousands, of many forms
        self._blocks = {block.data_ptr(): block for block in arena.blocks}
        self._preparation: list[Call] = []
        self._forward: list[Call] = []
        self._backward: list[Call] = []
        self._laid = self._forward  # the list to which calls are added
        self._operations: list[tuple[Value | None, Call, Sequence[Tensor]]] = []

    # running it

    def prepare(self) -> None:
        """Compute the values that depend on the batch alone."""
        for call in self._preparation:
            call()

    def forward(self) -> None:
        """Compute the values."""
        for call in self._forward:
            call()

    def backward(self) -> Tensor:
        """Compute the gradient of the parameters, ``(R, P)``: the same tensor every time."""
        for call in self._backward:
            call()
        return self.gradient

    # laying it out

    def lay(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> None:
        """Record a call."""
        self._laid.append(partial(function, *arguments, **named) if arguments or named else function)

    def operation(self, out: Value | None, lay_backward: Call, *temporaries: Tensor) -> None:
        """Register the backward pass of the operation that gives ``out``, and arrays that only it reads.

        Of a constant there is none.
        """
        if self.is_differentiable:
            lay = _nothing if out is not None and out.is_constant else lay_backward
            self._operations.append((out, lay, temporaries))

    def prepared(self, compute: Callable[[], Tensor]) -> Tensor:
        """Value that depends on the batch alone; the same array for every batch."""
        array = compute().clone(memory_format=torch.contiguous_format)
        self._preparation.append(lambda: array.copy_(compute()))
        return array

    def take(self, *shape: int) -> Tensor:
        """Uninitialised memory for an array, float32."""
        size = prod(shape)
        at = bisect_left(self._free, max(size, 1), key=Tensor.numel)
        if at < len(self._free) and self._free[at].numel() <= 2 * max(size, 1):
            block = self._free.pop(at)
        else:
            block = self.gradient.new_empty(max(size, 1))
            self.arena.blocks.append(block)
            self._blocks[block.data_ptr()] = block
        return block[:size].view(shape)

    def give_back(self, array: Tensor) -> None:
        """Release memory to the operations that are recorded from here on."""
        insort(self._free, self._blocks[array.untyped_storage().data_ptr()], key=Tensor.numel)

    def value(self, *shape: int) -> Value:
        """New value with uninitialised memory."""
        return Value(self.take(*shape))

    @contextmanager
    def held(self, value: Value) -> Iterator[Tensor]:
        """Array of a value for the calls that are recorded meanwhile; one in codes is written before them."""
        if value.write is None:
            yield value.data
            return
        R, *dims = value.data.shape
        array = self.take(*dims)
        self.lay(value.write, array)
        yield array.expand(R, *dims)
        self.give_back(array)

    @contextmanager
    def written_grad(self, value: Value) -> Iterator[tuple[Tensor, bool]]:
        """As :meth:`grad`, for kernels that write one in any case: that of a constant is free afterwards."""
        if not value.is_constant:
            yield self.grad(value)
            return
        array = self.take(*value.data.shape)
        yield array, False
        self.give_back(array)

    def grad(self, value: Value) -> tuple[Tensor, bool]:
        """Array for the gradient of a value, and true if it must be added to the array's content."""
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
        """Array of the gradient of a value, zeroed where nothing was written to it."""
        grad, add = self.grad(value)
        if not add:
            self.lay(grad.zero_)
        return grad

    def add_to_grad(self, value: Value, part: Tensor) -> None:
        """Add an array to the gradient of a value that is no constant when the program runs."""
        if value.is_constant:
            return
        grad, add = self.grad(value)
        self.lay(grad.add_ if add else grad.copy_, part)

    def write_grad(self, value: Value, function: Callable[..., Any], *arguments: Any) -> None:
        """Add the result of a function with an argument ``out`` to the gradient of a value that is no constant."""
        if value.is_constant:
            return
        grad, add = self.grad(value)
        if not add and (grad.is_contiguous() or grad.device.type != "cpu"):
            self.lay(function, *arguments, out=grad)
            return
        computed = self.take(*grad.shape)
        self.lay(function, *arguments, out=computed)
        self.lay(grad.add_ if add else grad.copy_, computed)
        self.give_back(computed)

    def multiply(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None = None, *, add: bool = False) -> None:
        """Record products ``a b`` of every member, plus a row ``bias`` ``(R, N)``, or added to what ``out`` holds."""
        if 0 in (out.numel(), a.shape[-1]):  # no numbers, or sums of none, as of levels that are not there
            assert bias is None
            if not add:
                self.lay(out.zero_)
        elif self.products == "own":
            self.lay(matmul.bound(out, a, b, bias=bias, accumulate=add, precision=self.precision))
        elif self.precision == "bfloat16":
            self._multiply_rounded(out, a, b, bias, add)
        elif bias is not None:
            self.lay(torch.baddbmm, bias.unsqueeze(1), a, b, out=out)
        elif add or out.stride()[:2] != (out.shape[1] * out.shape[2], out.shape[2]):
            # A part of an array: torch.bmm would copy it, but not that of one member, which then rounds otherwise.
            self.lay(out.baddbmm_, a, b, beta=int(add))
        else:
            self.lay(torch.bmm, a, b, out=out)

    def _multiply_rounded(self, out: Tensor, a: Tensor, b: Tensor, bias: Tensor | None, add: bool) -> None:
        """Record products in bfloat16 by PyTorch, whose results are rounded to it too."""
        operands, product = [], self._take_bfloat16(out.shape)
        for x in (a, b):
            is_turned = x.stride(-1) != 1  # the copy lies in memory as the operand does
            copy = self._take_bfloat16(x.mT.shape if is_turned else x.shape)
            operands.append(copy.mT if is_turned else copy)
            self.lay(operands[-1].copy_, x)
        for r in range(len(product)):  # one by one: PyTorch rounds that of a member beside others otherwise than alone
            self.lay(torch.bmm, *(operand[r : r + 1] for operand in operands), out=product[r : r + 1])
        if bias is not None:
            self.lay(torch.add, product, bias.unsqueeze(1), out=out)
        else:
            self.lay(out.add_ if add else out.copy_, product)
        for array in (*operands, product):
            self.give_back(array)

    def _take_bfloat16(self, shape: Sequence[int]) -> Tensor:
        """Uninitialised memory for an array in bfloat16."""
        n = prod(shape)
        return self.take(-(-n // 2)).view(torch.bfloat16)[:n].view(*shape)

    def multiply_grad(self, value: Value, a: Tensor, b: Tensor) -> None:
        """Add the products ``a b`` to the gradient of a value that is no constant."""
        if value.is_constant:
            return
        if self.products == "own" or self.precision == "bfloat16":
            grad, add = self.grad(value)
            self.multiply(grad, a, b, add=add)
        elif value.is_written and not value.is_parameter and value.whole is None:
            self.lay(self.grad(value)[0].baddbmm_, a, b)
        else:  # a part of something is contiguous in a stack of one alone, and has to be rounded as in any other
            self.write_grad(value, torch.bmm, a, b)

    def tail(self, value: Value, start: int) -> Value:
        """Rows of a value from ``start`` on."""
        if start == 0:
            return value
        return Value(value.data[:, start:], whole=value, start=start, is_constant=value.is_constant)

    def join(self, values: Sequence[Value]) -> Value:
        """Concatenation along the second axis, ``(R, n_i, *dims) -> (R, sum n_i, *dims)``."""
        R, _, *dims = values[0].data.shape
        sizes = [value.data.shape[1] for value in values]
        out = self.value(R, sum(sizes), *dims)
        out.is_constant = all(value.is_constant for value in values)
        self.lay(torch.cat, [value.data for value in values], 1, out=out.data)

        def lay_backward() -> None:
            for value, part in zip(values, torch.split(self.grad(out)[0], sizes, 1), strict=True):
                self.add_to_grad(value, part)

        self.operation(out, lay_backward)
        return out

    def apply(self, function: Callable[..., Tensor], *values: Value) -> Value:
        """Result of a function of tensors that PyTorch can differentiate."""
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
                for (grad, add), d_input in zip(grads, torch.autograd.grad(outputs, inputs, [d_out]), strict=True):
                    (grad.add_ if add else grad.copy_)(d_input)
                outputs.clear()

            self.lay(backward)

        self.lay(forward)
        self.operation(out, lay_backward)
        return out

    def finish(self) -> None:
        """Record the backward pass, where there is one, which completes the program."""
        self._laid = self._backward
        for out, lay, temporaries in reversed(self._operations):
            lay()
            for array in temporaries:
                self.give_back(array)
            if out is not None:
                assert out.grad is not None or out.is_constant
                self.give_back(out.data)
                if (
                    out.grad is not None and out.grad is not out.data
                ):  # a gradient may have taken the place of what it is the gradient of
                    self.give_back(out.grad)
        self._operations.clear()  # they know the program, which would keep all its memory until they are collected


def _nothing() -> None:
    """Backward pass of a constant."""
