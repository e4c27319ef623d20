"""Right matrix of many products of a pass, copied once into panels of adjacent columns.

The library of products (``matmul.c``) reads such a panel where it lies. Of a matrix that lies otherwise it makes this
copy for each product, which takes a quarter of the time of a product with few rows, such as those of a time step. No
bit of a product changes by that. A matrix that is rounded to bfloat16 is copied in any case, by ``bfloat16.c`` itself.
"""

import torch
from torch import Tensor

from shoal.fast import matmul
from shoal.fast.program import Program

COLUMNS = 32  # of a panel: those of a tile of the library with the widest vectors, and whole tiles of it with others
WORTH = 8  # products with one matrix, from which on its copy is worth its time


class Panels:
    """Right matrix ``(R, K, N)`` in panels, ``(R, N / 32, K, 32)``.

    Args:
        program: program that records the copy at once, and the products.
        matrix: the matrix, of which N is a multiple of 32.
    """

    def __init__(self, program: Program, matrix: Tensor) -> None:
        R, K, N = matrix.shape
        self.program, self.panels = program, program.take(R, N // COLUMNS, K, COLUMNS)
        program.lay(self.panels.copy_, matrix.view(R, K, N // COLUMNS, COLUMNS).transpose(1, 2))

    def multiply(self, out: Tensor, a: Tensor, *, add: bool = False) -> None:
        """Record the product of ``a`` ``(R, M, K)`` and the matrix, written or added to ``out`` ``(R, M, N)``."""
        self.program.multiply(*self._operands(out, a), add=add)

    def added(self, out: Tensor, a: Tensor) -> matmul.Product:
        """Arguments of the product that is added to ``out``, for a kernel that calls it."""
        return matmul.product(*self._operands(out, a), accumulate=True)

    def _operands(self, out: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of the result, of ``a`` and of the matrix."""
        of_panels = out.view(*out.shape[:2], -1, COLUMNS).transpose(1, 2)  # (R, N / 32, M, 32)
        return of_panels, a.unsqueeze(1), self.panels

    def give_back(self) -> None:
        """Release the memory to the operations that are recorded from here on."""
        self.program.give_back(self.panels)


class Rounded:
    """Right matrix ``(R, K, N)`` rounded to bfloat16, in the order of ``bfloat16.c``; see :class:`Panels`."""

    def __init__(self, program: Program, matrix: Tensor) -> None:
        self.program, self.matrix = program, matrix
        self.copy = program.take(len(matrix), matmul.packed_size(*matrix.shape[1:]))
        any_out = torch.empty(len(matrix), 1, matrix.shape[2])
        program.lay(matmul.bound_call("pack", self._product(any_out, matrix[:, :, :1].mT), matrix, "bfloat16"))

    def multiply(self, out: Tensor, a: Tensor, *, add: bool = False) -> None:
        """See :meth:`Panels.multiply`."""
        if not out.numel():  # a level that is not there
            return
        held = (out, a, self.matrix, self.copy)
        self.program.lay(matmul.bound_call("product", self._product(out, a, add), held, "bfloat16"))

    def added(self, out: Tensor, a: Tensor) -> matmul.Product:
        """See :meth:`Panels.added`."""
        return self._product(out, a, True)

    def _product(self, out: Tensor, a: Tensor, add: bool = False) -> matmul.Product:
        assert out.stride(-1) == 1  # else the matrix would be the left one
        product = matmul.product(out, a, self.matrix, accumulate=add)
        product.packed, product.packed_member = self.copy.data_ptr(), self.copy.stride(0)
        return product

    def give_back(self) -> None:
        """See :meth:`Panels.give_back`."""
        self.program.give_back(self.copy)


class Whole:
    """Right matrix ``(R, K, N)`` where it lies; see :class:`Panels`."""

    def __init__(self, program: Program, matrix: Tensor) -> None:
        self.program, self.matrix = program, matrix

    def multiply(self, out: Tensor, a: Tensor, *, add: bool = False) -> None:
        """See :meth:`Panels.multiply`."""
        self.program.multiply(out, a, self.matrix, add=add)

    def added(self, out: Tensor, a: Tensor) -> matmul.Product:
        """See :meth:`Panels.added`."""
        return matmul.product(out, a, self.matrix, accumulate=True)

    def give_back(self) -> None:
        """Nothing to release."""


def right_matrix(program: Program, matrix: Tensor, count: int) -> Panels | Rounded | Whole:
    """Right matrix of a number of products, in panels where that is worth a copy."""
    if program.products == "own" and program.precision == "bfloat16" and count > 1:
        return Rounded(program, matrix)
    is_worth = program.products == "own" and count >= WORTH and matrix.shape[2] % COLUMNS == 0
    return Panels(program, matrix) if is_worth else Whole(program, matrix)
