"""Right matrix of many products of a pass, copied once into panels of adjacent columns.

The library of products (``matmul.c``) reads such a panel where it lies. Of a matrix that lies otherwise it makes this
copy for each product, which takes a quarter of the time of a product with few rows, such as those of a time step. No
bit of a product changes by that.
"""

from torch import Tensor

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
        self.program.multiply(*self.operands(out, a), add=add)

    def operands(self, out: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Views of the result, of ``a`` and of the matrix, with which the product is called."""
        of_panels = out.view(*out.shape[:2], -1, COLUMNS).transpose(1, 2)  # (R, N / 32, M, 32)
        return of_panels, a.unsqueeze(1), self.panels

    def give_back(self) -> None:
        """Release the memory to the operations that are recorded from here on."""
        self.program.give_back(self.panels)


class Whole:
    """Right matrix ``(R, K, N)`` where it lies; see :class:`Panels`."""

    def __init__(self, program: Program, matrix: Tensor) -> None:
        self.program, self.matrix = program, matrix

    def multiply(self, out: Tensor, a: Tensor, *, add: bool = False) -> None:
        """See :meth:`Panels.multiply`."""
        self.program.multiply(*self.operands(out, a), add=add)

    def operands(self, out: Tensor, a: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """See :meth:`Panels.operands`."""
        return out, a, self.matrix

    def give_back(self) -> None:
        """Nothing to release."""


def right_matrix(program: Program, matrix: Tensor, count: int) -> Panels | Whole:
    """Right matrix of a number of products, in panels where that is worth a copy."""
    is_worth = program.products == "own" and count >= WORTH and matrix.shape[2] % COLUMNS == 0
    return Panels(program, matrix) if is_worth else Whole(program, matrix)
