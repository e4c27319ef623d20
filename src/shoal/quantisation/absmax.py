"""Absmax quantisation: a matrix as m-bit integers times one step, which its largest absolute value determines.

Source: the document's ``quant(W) = ⌊W / Δ⌋``, ``Δ = max |W| / (2^(m - 1) - 1)``, ``dequant = Δ W̃``. The brackets are
read as rounding to the nearest integer, or as the floor where that is asked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shoal.errors import UserError, nearest
from shoal.quantisation.packing import pack, unpack

ROUNDINGS = ("nearest", "floor")
BITS = range(2, 9)


@dataclass(frozen=True)
class AbsmaxCodes:
    """Matrix in ``m``-bit integers.

    Attributes:
        codes: packed integers, each plus ``2**(m - 1)``, uint8.
        delta: step Δ, a float32 scalar.
        shape: shape of the matrix.
        bits: number of bits ``m``.
    """

    codes: Tensor
    delta: Tensor
    shape: torch.Size
    bits: int

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Stored tensors by name."""
        return {"codes": self.codes, "delta": self.delta}

    def of(self, tensors: Mapping[str, Tensor]) -> "AbsmaxCodes":
        """The same with other stored tensors, such as those on another device."""
        return replace(self, codes=tensors["codes"], delta=tensors["delta"])

    def integers(self) -> Tensor:
        """Integers ``W̃``, of the matrix's shape, int16."""
        return unpack(self.codes, self.bits, self.shape.numel()).reshape(self.shape).to(torch.int16) - _half(self.bits)

    def dequantise(self, out: Tensor | None = None) -> Tensor:
        """Matrix ``Δ W̃``, float32; written to ``out`` where it is given."""
        return torch.mul(self.integers().to(torch.float32), self.delta, out=out)


def quantise_absmax(weight: Tensor, bits: int = 4, rounding: str = "nearest") -> AbsmaxCodes:
    """Quantise a matrix to ``m``-bit integers; one of zeros alone has the step 0.

    >>> quantise_absmax(torch.tensor([-4.0, 1, 2.6, 4]), 4).integers().tolist()
    [-7, 2, 5, 7]

    Args:
        weight: matrix of any shape, finite.
        bits: number of bits ``m``, from 2 to 8.
        rounding: one of :data:`ROUNDINGS`; ties of ``nearest`` go to the even integer.

    Raises:
        UserError: the bits or the rounding are none of these, or a number is not finite.
    """
    if bits not in BITS:
        raise UserError(f"quantization_bits must be an integer from {BITS[0]} to {BITS[-1]}, got {bits!r}")
    if rounding not in ROUNDINGS:
        raise UserError(f"unknown rounding {rounding!r}: one of {' '.join(ROUNDINGS)}{nearest(rounding, ROUNDINGS)}")
    weight = weight.detach().to(torch.float32)
    check_finite(weight)
    largest = weight.abs().max() if weight.numel() else weight.new_zeros(())
    delta = largest / (_half(bits) - 1)
    scaled = weight * (_half(bits) - 1) / torch.where(largest > 0, largest, 1.0)
    # the largest, whose quotient float32 may round to below its integer: the floor would lose a whole step
    scaled = torch.where(weight.abs() == largest, weight.sign() * (_half(bits) - 1), scaled)
    integers = (scaled.round() if rounding == "nearest" else scaled.floor()).clamp(-_half(bits), _half(bits) - 1)
    codes = integers.to(torch.int16).reshape(-1) + _half(bits)
    return AbsmaxCodes(pack(codes, bits), delta, weight.shape, bits)


def check_finite(weight: Tensor) -> None:
    """Raise :class:`UserError` for a matrix with a number that is not finite, which has no codes."""
    if not weight.isfinite().all():
        raise UserError("a matrix with numbers that are not finite cannot be quantised")


def _half(bits: int) -> int:
    return 1 << (bits - 1)
