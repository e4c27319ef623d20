"""Operations on windows of tokens as kernels with their own backward passes, for float32 on the CPU, in a program.

Equal to :class:`~shoal.fast.window_ops.TorchWindowOps` but for rounding; ``windows.c`` describes each kernel.

An operation that may overwrite its argument returns that argument, changed in place: the gradient is changed in place
too, after its readers have added to it and before earlier ones do. So it takes no memory and no pass of its own. It
works on a copy where the argument is a parameter, a part of another value, or read by the backward pass of another.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from shoal.fast.build import Kernels, compiled
from shoal.fast.kernels import CompiledLibrary, Library
from shoal.fast.ops import Norm
from shoal.fast.prefixes import Nodes
from shoal.fast.program import Program, Value
from shoal.fast.window_adapters import AdapterKernelOps
from shoal.fast.window_arguments import all_constant, drop_arguments, norm_arguments, placed, shares, stride, strides
from shoal.fast.window_ops import Drop, View
from shoal.models.positions import rotary_angles

SOURCE = Path(__file__).with_name("windows.c")
EPS = 1e-5  # of the norms
ACTIVATIONS = ("gelu", "relu", "swiglu", "tanh", "gelu_new")  # by their numbers in windows.c
BLOCK = 64  # rows of a block there


def window_kernels() -> Kernels:
    """Kernels of windows for this machine; see :func:`~shoal.fast.build.compiled`."""
    return compiled(SOURCE)


def window_library() -> Library | None:
    """Library of the kernels of windows; None where they cannot be compiled."""
    library = window_kernels().library
    return None if library is None else CompiledLibrary(library)


class WindowKernelOps(AdapterKernelOps):
    """See :class:`~shoal.fast.window_ops.WindowOps`.

    Args:
        library: the kernels on trees.
        windows: the kernels of windows.
        program: program that records the operations.
    """

    def __init__(self, library: Library, windows: Library, program: Program) -> None:
        super().__init__(library, windows, program)
        self.apply, self.tail = self._apply, self._tail  # type: ignore[assignment]

    # operations on trees whose backward pass reads what they are given

    def linear(self, x: Value, weight: Value, bias: Value | None = None) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        self._read |= {x, weight}
        return super().linear(x, weight, bias)

    def lstm_layer(self, x: Value, rows: Tensor | None, weight: Value, bias: Value | None, nodes: Nodes) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        h = super().lstm_layer(x, rows, weight, bias, nodes)
        self._read |= {x, weight, h}
        return h

    def attend(self, q: Value, q_rows: Tensor | None, kv: Value, paths: Tensor, lengths: Tensor, H: int) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        self._read |= {q, kv}
        return super().attend(q, q_rows, kv, paths, lengths, H)

    def _apply(self, function: Callable[..., Tensor], *values: Value) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        self._read |= set(values)
        return self.program.apply(function, *values)

    def _tail(self, x: Value, start: int) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        self._read.add(x)
        return self.program.tail(x, start)

    # operations on windows

    def embed(
        self, table: Value, tokens: Tensor, S: int, positions: Value | Tensor | None, scale: float | None
    ) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`."""
        program, (R, n), D, factor = self.program, tokens.shape, table.data.shape[2], 1.0 if scale is None else scale
        learned = positions if isinstance(positions, Value) else None
        rows = learned.data if learned is not None else positions
        assert rows is None or isinstance(rows, Tensor)
        if rows is not None and learned is None:
            rows = rows.to(torch.float32).contiguous()
        y = program.value(R, n, D)
        y.is_constant = table.is_constant and (learned is None or learned.is_constant)
        self._lay_window(
            *("embed_forward", R, n, D, S, table.data, stride(table.data), tokens, float(factor)),
            *(rows, 0 if learned is None else stride(learned.data), y.data),
        )

        def lay_backward() -> None:
            d_y = program.grad(y)[0]
            d_rows = [None if x is None or x.is_constant else program.zeroed_grad(x) for x in (table, learned)]
            self._lay_window(
                *("embed_backward", R, n, D, S, tokens, float(factor), d_y),
                *(part for d in d_rows for part in (d, 0 if d is None else stride(d))),
            )

        program.operation(y, lay_backward)
        return y

    def attention(
        self, q: Value, kv: Value, view: View, H: int, drop: Drop | None = None, factor: float | None = None
    ) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`."""
        program, R, D = self.program, q.data.shape[0], q.data.shape[2]
        B, Q, K = view.B, view.Q, view.K
        assert not view.causal or Q == K
        self._read |= {q, kv}
        context = program.value(R, B * Q, D)
        context.is_constant = q.is_constant and kv.is_constant
        rows = program.take(R, B * H * Q, 2) if program.is_differentiable else None
        seen = view.seen
        assert seen is None or (seen.is_contiguous() and seen.shape == (R, B, K))
        where = (
            *(R, B, Q, K, H, D // H, int(view.causal), q.data, *strides(q.data), kv.data, *strides(kv.data)),
            *(factor or 0.0, seen, *drop_arguments(drop, B * H * Q * K)),
        )
        self._lay_window("window_attention", *where, rows, context.data)

        def lay_backward() -> None:
            d_context = program.grad(context)[0]
            with program.written_grad(q) as (d_q, add_q), program.written_grad(kv) as (d_kv, add_kv):
                self._lay_window(
                    *("window_attention_backward", *where, rows, d_context),
                    *(d_q, *strides(d_q), int(add_q), d_kv, *strides(d_kv), int(add_kv)),
                )

        program.operation(context, lay_backward, *([] if rows is None else [rows]))
        return context

    def rotated(self, x: Value, S: int, H: int, width: int) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`. It overwrites ``x``."""
        R, n, E = x.data.shape
        angles = rotary_angles(torch.arange(S), width // H)  # (S, width / H / 2)
        turns = torch.stack([angles.cos(), angles.sin()], -1).to(torch.float32).contiguous()

        def lay(back: float, data: Tensor, to: Tensor) -> None:
            sizes = (R, n, E, S, width // H, width)
            self._lay_window("turn_rows", *sizes, turns, back, data, stride(data), to, stride(to))

        return self._in_place(x, lambda data, to: lay(1.0, data, to), lambda data: lay(-1.0, data, data))

    def dropout(self, x: Value, drop: Drop, positions_first: int | None = None) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`. It overwrites ``x``."""
        R, n, D = x.data.shape
        S = 1 if positions_first is None else positions_first

        def lay(data: Tensor, to: Tensor) -> None:
            sizes = (R, n // S, S, D, int(positions_first is not None))
            self._lay_window("drop_rows", *sizes, data, stride(data), to, stride(to), *drop_arguments(drop, n * D))

        return self._in_place(x, lay, lambda data: lay(data, data))

    def _in_place(self, x: Value, lay: Callable[[Tensor, Tensor], None], lay_back: Callable[[Tensor], None]) -> Value:
        """Result of a linear function of a value, changed in place where that is possible.

        ``lay`` records the function of an array to an array, ``lay_back`` its transpose in place.
        """
        program = self.program
        if self._is_free(x):
            lay(x.data, x.data)
            if not x.is_constant:
                program.operation(None, lambda: lay_back(program.zeroed_grad(x)))
            return x
        y = program.value(*x.data.shape)
        y.is_constant = x.is_constant
        lay(x.data, y.data)

        def lay_backward() -> None:
            d_y = program.grad(y)[0]
            lay_back(d_y)
            program.add_to_grad(x, d_y)

        program.operation(y, lay_backward)
        return y

    def gelu(self, x: Value) -> Value:
        """See :class:`~shoal.fast.ops.Ops`. It overwrites ``x``."""
        return self.activation(x, "gelu")

    def activation(self, x: Value, kind: str) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`. It overwrites ``x``."""
        program, (R, n, E) = self.program, x.data.shape
        E, number = E // 2 if kind == "swiglu" else E, ACTIVATIONS.index(kind)
        y = program.value(R, n, E)
        y.is_constant = x.is_constant
        slopes, temporaries = None, []
        if program.is_differentiable and not x.is_constant and self._is_free(x):
            slopes = x.data
        elif program.is_differentiable and not x.is_constant:
            slopes = program.take(*x.data.shape)
            temporaries.append(slopes)
        of_slopes = 0 if slopes is None else stride(slopes)
        self._lay_window("activate_forward", number, R, n, E, x.data, stride(x.data), slopes, of_slopes, y.data)

        def lay_backward() -> None:
            d_y, (d_x, add) = program.grad(y)[0], program.grad(x)
            self._lay_window(
                *("activate_backward", number, R, n, E, slopes, of_slopes, d_y, d_x, stride(d_x), int(add))
            )

        program.operation(y, lay_backward, *temporaries)
        return y

    def residual(self, x: Value, added: Value, bias: Value | None, drop: Drop | None, norm: Norm[Value]) -> Value:
        """See :class:`~shoal.fast.window_ops.WindowOps`. It overwrites ``added``."""
        program, shape = self.program, added.data.shape
        is_free = added is not x and self._is_free(added)
        total = added if is_free else Value(program.take(*shape))
        is_constant = all_constant(x, added, bias, *(norm or ())[:2])
        if norm is None:
            self._lay_residual(x, added, bias, drop, norm, total.data, None)
            total.is_constant = is_constant
            if is_constant:
                return total
            out = None if is_free else total
            program.operation(out, lambda: self._lay_residual_backward(total, (), total, x, added, bias, drop, norm))
            return total
        y = program.value(*shape)
        y.is_constant = is_constant
        moments = self._lay_residual(x, added, bias, drop, norm, total.data, y)
        temporaries = [*moments, *([] if is_free else [total.data])]
        program.operation(
            y, lambda: self._lay_residual_backward(y, moments, total, x, added, bias, drop, norm), *temporaries
        )
        return y

    def norm(self, x: Value, norm: Norm[Value]) -> Value:
        """See :class:`~shoal.fast.ops.Ops`."""
        if norm is None:
            return x
        self._read.add(x)
        program, y = self.program, self.program.value(*x.data.shape)
        y.is_constant = all_constant(x, *norm[:2])
        moments = self._lay_residual(x, None, None, None, norm, None, y)
        program.operation(y, lambda: self._lay_residual_backward(y, moments, x, x, None, None, None, norm), *moments)
        return y

    def add_norm(self, x: Value, rows: Tensor | None, added: Value, bias: Value | None, norm: Norm[Value]) -> Value:
        """See :class:`~shoal.fast.ops.Ops`. It overwrites ``added``."""
        if rows is None:
            return self.residual(x, added, bias, None, norm)
        self._read |= {x, added}
        return super().add_norm(x, rows, added, bias, norm)

    def _lay_residual(
        self,
        x: Value,
        added: Value | None,
        bias: Value | None,
        drop: Drop | None,
        norm: Norm[Value],
        total: Tensor | None,
        y: Value | None,
    ) -> Sequence[Tensor]:
        """Record the kernel of a sum and its norm; means and inverse deviations of the rows, ``(R, n)`` each."""
        R, n, D = x.data.shape
        moments = () if norm is None else (self.program.take(R, n), self.program.take(R, n))
        self._lay_window(
            *("residual_forward", R, n, D, *placed(x), *placed(added), *placed(bias), *drop_arguments(drop, n * D)),
            *(total, 0 if total is None else stride(total), *norm_arguments(norm), EPS, *(moments or (None, None))),
            None if y is None else y.data,
        )
        return moments

    def _lay_residual_backward(
        self,
        y: Value,
        moments: Sequence[Tensor],
        total: Value,
        x: Value,
        added: Value | None,
        bias: Value | None,
        drop: Drop | None,
        norm: Norm[Value],
    ) -> None:
        """Record its backward pass; where ``y`` is ``added``, its gradient becomes that of ``added`` in place."""
        program, (R, n, D) = self.program, x.data.shape
        d_y = program.zeroed_grad(y)
        weight, shift = (None, None) if norm is None else norm[:2]
        learned = [None if value is None or value.is_constant else value for value in (bias, weight, shift)]
        vectors = [None if value is None else program.zeroed_grad(value) for value in learned]
        d_x, add_x = (None, False) if x.is_constant else program.grad(x)
        d_added, add_added = (d_y, False) if added is y else (None, False) if added is None else program.grad(added)
        sums = program.take(R, -(-n // BLOCK), 3, D)
        kind, of_weight, of_weight_stride, _, _ = norm_arguments(norm)
        self._lay_window(
            *("residual_backward", R, n, D, total.data, stride(total.data), *(moments or (None, None))),
            *(kind, of_weight, of_weight_stride, d_y, *drop_arguments(drop, n * D)),
            *(d_x, 0 if d_x is None else stride(d_x), int(add_x)),
            *(d_added, 0 if d_added is None else stride(d_added), int(add_added)),
            *(part for vector in vectors for part in (vector, 0 if vector is None else vector.stride(0))),
            sums,
        )
        program.give_back(sums)

    def token_scores(
        self, logits: Value, targets: Tensor, label_smoothing: float, convention: str
    ) -> tuple[Tensor, Tensor]:
        """See :class:`~shoal.fast.window_ops.WindowOps`. The backward starts from ``program.d_loss``."""
        program, (R, n, V) = self.program, logits.data.shape
        program.loss, program.accuracy, program.d_loss = (logits.data.new_zeros(R, n) for _ in range(3))
        is_free, differentiate = self._is_free(logits), int(program.is_differentiable)
        scored = logits.data if is_free else program.take(R, n, V)
        if not is_free:
            program.lay(scored.copy_, logits.data)
        self._lay_window(
            "token_scores",
            R,
            n,
            V,
            scored,
            targets,
            *shares(label_smoothing, convention, V),
            differentiate,
            program.loss,
            program.accuracy,
        )

        def lay_backward() -> None:
            self._lay_window("scale_rows", R, n, V, scored, program.d_loss)
            if is_free:
                logits.grad, logits.is_written = logits.data, True
            else:
                program.add_to_grad(logits, scored)

        program.operation(None, lay_backward, *([] if is_free else [scored]))
        return program.loss, program.accuracy
