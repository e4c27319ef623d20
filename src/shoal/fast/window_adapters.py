"""Low-rank adapters of layers that do not train, in a program: LoRA, also on weights in codes.

See :class:`shoal.models.adapters.LoRALinear` for the equations. Rows of A and columns of B that pad them up to a larger
rank are zeros, and so are their gradients: each is a product with the others.

``R`` members, ``n`` rows, ``D`` inputs, ``E`` outputs, ``r`` width of the adapter.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from shoal.fast.kernels import Library
from shoal.fast.program import Program, Value
from shoal.fast.window_lstm import RecurrentKernelOps
from shoal.fast.window_ops import Adapter


class AdapterKernelOps(RecurrentKernelOps):
    """Operations of :class:`~shoal.fast.window_ops.WindowOps` on adapters and frozen weights; arguments as there.

    Args:
        library: the kernels on trees.
        windows: the kernels of windows.
        program: program that records the operations.
    """

    def __init__(self, library: Library, windows: Library, program: Program) -> None:
        super().__init__(library, windows, program)
        self.join = self._join

    def _join(self, values: Sequence[Value]) -> Value:
        """See :class:`~shoal.fast.ops.Ops`. Parameters that do not train are joined once, and where members agree,
        for all of them."""
        if not all(value.is_constant and value.is_parameter for value in values):
            return self.program.join(values)
        arrays = [value.data for value in values]
        if any(value.write is not None for value in values):
            sizes = [array.shape[1] for array in arrays]

            def write(out: Tensor) -> None:
                for value, part in zip(values, torch.split(out, sizes), strict=True):
                    if value.write is None:
                        part.copy_(value.data[0])
                    else:
                        value.write(part)

            shape = torch.cat([array.to("meta") for array in arrays], 1)
            return Value(shape, is_parameter=True, is_constant=True, write=write)
        R = len(arrays[0])
        one = 1 if all(array.stride(0) == 0 for array in arrays) else R
        joined = self.program.arena.joined
        key = tuple((array.data_ptr(), array[:one].shape) for array in arrays)
        if key not in joined:
            joined[key] = torch.cat([array[:one] for array in arrays], 1)
        whole = joined[key]
        return Value(whole.expand(R, *whole.shape[1:]), is_parameter=True, is_constant=True)

    def low_rank(self, y: Value, x: Value, adapter: Adapter[Value], place: int) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`. It overwrites ``y``."""
        assert self._is_free(y)
        self._read.add(x)
        program, A, B, scale = self.program, adapter.A, adapter.B, adapter.scale.view(-1, 1, 1)  # (R, 1, 1)
        R, n, _ = x.data.shape
        E, r = B.data.shape[1:]
        columns = slice(place * E, (place + 1) * E)
        inner = program.take(R, n, r)  # scale x A^T
        program.multiply(inner, x.data, A.data.transpose(1, 2))
        program.lay(inner.mul_, scale)
        program.multiply(y.data[:, :, columns], inner, B.data.transpose(1, 2), add=True)
        y.is_constant = False

        def lay_backward() -> None:
            d_y = program.zeroed_grad(y)[:, :, columns]
            d_inner = program.take(R, n, r)
            program.multiply(d_inner, d_y, B.data)
            program.lay(d_inner.mul_, scale)
            program.multiply_grad(B, d_y.transpose(1, 2), inner)
            program.multiply_grad(A, d_inner.transpose(1, 2), x.data)
            program.multiply_grad(x, d_inner, A.data)
            program.give_back(d_inner)

        program.operation(None, lay_backward, inner)
        if not program.is_differentiable:
            program.give_back(inner)
        return y

    def merged(self, weight: Value, adapter: Adapter[Value] | None) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`."""
        program, out = self.program, self.program.value(*weight.data.shape)
        with program.held(weight) as array:
            program.lay(out.data.copy_, array)
        if adapter is None:
            out.is_constant = True
            program.operation(out, lambda: None)
            return out
        A, B, scale = adapter.A, adapter.B, adapter.scale.view(-1, 1, 1)  # (R, 1, 1)
        scaled = program.take(*B.data.shape)  # scale B, (R, E, r)
        program.lay(torch.mul, B.data, scale, out=scaled)
        program.multiply(out.data, scaled, A.data, add=True)

        def lay_backward() -> None:
            d_out, _ = program.grad(out)
            program.multiply_grad(A, scaled.transpose(1, 2), d_out)
            d_B = program.take(*B.data.shape)
            program.multiply(d_B, d_out, A.data.transpose(1, 2))
            program.lay(d_B.mul_, scale)
            program.add_to_grad(B, d_B)
            program.give_back(d_B)

        program.operation(out, lay_backward, scaled)
        return out
