"""Matrix products of many members in one call of a library compiled for this machine, on the CPU.

Operands and results are float32; products are of float32 (``matmul.c``), or of operands rounded to bfloat16 and
added up in float32 (``bfloat16.c``).

The bits of a row of a product depend on its own row of the left matrix and on the right matrix alone: not on the number
of rows or members, on where in memory the matrices lie, or on the number of threads.

Shapes: ``R`` members, ``G`` groups of a member, such as heads, ``S`` summands, ``(M, K) (K, N) -> (M, N)``.
"""

import ctypes
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shoal.fast.build import Kernels, compiled

SOURCE = Path(__file__).with_name("matmul.c")
SOURCES = {"float32": SOURCE, "bfloat16": Path(__file__).with_name("bfloat16.c")}  # by the precision of the products
_Pointer, _Index = ctypes.c_void_p, ctypes.c_int64


class Matrix(ctypes.Structure):
    """Place of a matrix: its first number, and the steps to the next row, column, member, group and summand."""

    _fields_ = (("data", _Pointer), *((name, _Index) for name in ("row", "column", "member", "group", "summand")))


class Product(ctypes.Structure):
    """Arguments of ``product``; a program may keep it and call ``product(const Product *)`` itself.

    ``products.h`` has the same. ``matmul.c`` does not read the last two.
    """

    _fields_ = (
        *((name, _Index) for name in ("M", "N", "K", "R", "G", "S")),
        *(("a", Matrix), ("b", Matrix), ("c", _Pointer)),
        *((name, _Index) for name in ("c_row", "c_member", "c_group")),
        *(("bias", _Pointer), ("bias_member", _Index), ("alpha", ctypes.c_float), ("add", _Index)),
        *(("packed", _Pointer), ("packed_member", _Index)),
    )


def library(precision: str = "float32") -> Kernels:
    """Library of products for this machine, compiled on first use: one of :data:`SOURCES`."""
    return compiled(SOURCES[precision])


def bound(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    accumulate: bool = False,
    summed: bool = False,
    precision: str = "float32",
) -> Callable[[], Any]:
    """Call ``out = alpha a b + bias (+ out)``, to be made later, any number of times; see :func:`product`.

    The tensors must stay in their memory until then; the call holds them.

    Raises:
        RuntimeError: there is no library on this machine; :func:`library` says why.
    """
    of = product(out, a, b, bias=bias, alpha=alpha, accumulate=accumulate, summed=summed)
    return bound_call("product", of, (out, a, b, bias), precision)


def bound_call(name: str, of: Product, tensors: Any, precision: str) -> Callable[[], Any]:
    """Call of a function of a library with the arguments of a product, to be made later; it holds the tensors.

    Raises:
        RuntimeError: there is no library on this machine; :func:`library` says why.
    """
    compiled_library = library(precision)
    if compiled_library.library is None:
        raise RuntimeError(compiled_library.note)
    function = compiled_library.library[name]
    function.restype = None
    address = ctypes.c_void_p(ctypes.addressof(of))

    def call(held: Any = (of, tensors)) -> None:
        function(address)

    return call


def several(products: Sequence[Product], precision: str = "float32") -> tuple[int, Tensor, int]:
    """Address of ``product`` in a library, the arguments of several calls as bytes, and how many a call has.

    The matrices must stay in their memory until the last call.
    """
    compiled_library = library(precision)
    assert compiled_library.library is not None
    address = ctypes.cast(compiled_library.library["product"], _Pointer).value
    assert address is not None
    every = bytearray(b"".join(bytes(one) for one in products))
    arguments = torch.frombuffer(every, dtype=torch.uint8).clone() if every else torch.empty(0, dtype=torch.uint8)
    return address, arguments, ctypes.sizeof(Product)


def packed_size(K: int, N: int) -> int:
    """Size of a matrix ``(K, N)`` in the order of ``bfloat16.c``, in units of 32 bits."""
    compiled_library = library("bfloat16").library
    assert compiled_library is not None
    function = compiled_library["packed_size"]
    function.restype = _Index
    return int(function(ctypes.byref(Product(K=K, N=N))))


def multiply(out: Tensor, a: Tensor, b: Tensor, **options: Any) -> Tensor:
    """Compute a product at once; see :func:`product` for the arguments.

    Returns:
        ``out``.
    """
    bound(out, a, b, **options)()
    return out


def product(
    out: Tensor,
    a: Tensor,
    b: Tensor,
    *,
    bias: Tensor | None = None,
    alpha: float = 1.0,
    accumulate: bool = False,
    summed: bool = False,
) -> Product:
    """Arguments of the product ``out = alpha a b + bias (+ out)`` of every member: pointers, sizes and steps.

    Any view will do: transposed matrices, rows and members any distance apart, operands expanded over the members. The
    memory of ``out`` must not be that of an operand.

    Args:
        out: ``(R, M, N)`` or ``(R, G, M, N)``; ``(M, N)`` of one member; more axes where they can be merged to two.
        a: ``(R, M, K)``, with as many leading axes as ``out``, where 1 stands for any size; ``(M, K)`` of all members.
        b: ``(R, K, N)``, likewise.
        bias: a row that is added to each row, ``(R, N)`` or ``(N,)``.
        alpha: factor of the product.
        accumulate: True where the product is added to ``out``.
        summed: True where ``a`` and ``b`` have one more axis ``S``, before their last two, over which products add up.

    Raises:
        ValueError: shapes, types or strides do not fit.
    """
    *leading, M, N = out.shape
    K, S = a.shape[-1], a.shape[-3] if summed else 1
    if any(tensor.dtype != torch.float32 or tensor.device.type != "cpu" for tensor in (out, a, b)):
        raise ValueError(f"products are of float32 on the CPU, got {out.dtype}, {a.dtype}, {b.dtype}")
    extra = (S,) if summed else ()
    try:
        a, b = a.expand(*leading, *extra, M, K), b.expand(*leading, *extra, K, N)
        bias = None if bias is None else bias.expand(*leading[:1], N)
    except RuntimeError as error:
        shapes = " ".join(str(tuple(tensor.shape)) for tensor in (a, b))
        raise ValueError(f"shapes do not fit: {shapes} -> {tuple(out.shape)}, {error}") from None
    if 0 in (*out.shape, K, S):
        raise ValueError(f"a product has no size 0, got {tuple(a.shape)} {tuple(b.shape)} -> {tuple(out.shape)}")
    if N > 1 and out.stride(-1) != 1 and bias is None:  # the transposed product, whose numbers are the same bits
        a, b, out, M, N = b.mT, a.mT, out.mT, N, M
    if (N > 1 and out.stride(-1) != 1) or (bias is not None and N > 1 and bias.stride(-1) != 1):
        raise ValueError(f"columns of the result and of its bias must be adjacent, got strides {out.stride()}")
    members = 0 if bias is None or bias.ndim == 1 else bias.stride(0)  # which are the first axis, if there are any
    of_bias = (members, *(0 for _ in leading[1:]))[: len(leading)]
    (R, G), steps = _two_axes(leading, [*(tensor.stride()[: len(leading)] for tensor in (out, a, b)), of_bias])
    return Product(
        *(M, N, K, R, G, S),
        *(_matrix(a, M, K, steps[1], summed), _matrix(b, K, N, steps[2], summed)),
        *(out.data_ptr(), out.stride(-2), *steps[0]),
        *(None if bias is None else bias.data_ptr(), steps[3][0], alpha, int(accumulate)),
    )


def _matrix(tensor: Tensor, rows: int, columns: int, steps: Sequence[int], summed: bool) -> Matrix:
    """Place of a matrix; the step of an axis of size 1 is any, and 1 is the best."""
    row, column = tensor.stride(-2), tensor.stride(-1)
    if columns == 1:
        column = 1
    elif rows == 1:
        row = columns if column == 1 else 1
    return Matrix(tensor.data_ptr(), row, column, *steps, tensor.stride(-3) if summed else 0)


def _two_axes(sizes: Sequence[int], strides: Sequence[Sequence[int]]) -> tuple[tuple[int, int], list[tuple[int, int]]]:
    """Sizes of two axes, and their strides in each array, to which leading axes are merged.

    Raises:
        ValueError: there are more that are not adjacent in all arrays.
    """
    axes: list[tuple[int, tuple[int, ...]]] = []  # size, stride in each array
    for size, *steps in zip(sizes, *strides, strict=True):
        if size == 1:
            continue
        if axes and all(before == size * step for before, step in zip(axes[-1][1], steps, strict=True)):
            axes[-1] = (axes[-1][0] * size, tuple(steps))
        else:
            axes.append((size, tuple(steps)))
    if len(axes) > 2:
        raise ValueError(f"leading axes {tuple(sizes)} with strides {strides} cannot be merged to two")
    none = (1, (0,) * len(strides))
    (R, of_member), (G, of_group) = (*axes, none, none)[:2]
    return (R, G), list(zip(of_member, of_group, strict=True))
