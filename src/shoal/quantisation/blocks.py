"""4-bit floats in blocks of 64: NF4, whose levels are quantiles of a normal distribution, and FP4.

Source: Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", with its double quantisation. Codes and
scales have the bits of bitsandbytes on a CPU.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.errors import UserError, nearest
from shoal.quantisation.absmax import check_finite
from shoal.quantisation.dynamic import DynamicCodes, quantise_dynamic
from shoal.quantisation.packing import pack

BLOCK = 64
SMALLEST = 1e-38  # of an absmax by which a block is divided
_FP4 = (0, 0.0625, 8, 12, 4, 6, 2, 3)  # by the bits of exponent and fraction, before they are divided by 12
_NF4 = (
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635),
    *(-0.18477343022823334, -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725),
    *(0.24611230194568634, 0.33791524171829224, 0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
)
LEVELS: Mapping[str, Tensor] = {
    "nf4": torch.tensor(_NF4, dtype=torch.float32),
    "fp4": torch.tensor([*_FP4, *(-level for level in _FP4)], dtype=torch.float32) / 12,
}
_ORDER = {"nf4": list(range(16)), "fp4": [11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3]}  # codes by level


@dataclass(frozen=True)
class BlockCodes:
    """Matrix in 4-bit floats.

    Attributes:
        codes: codes, two per byte, the first in the high half, ``(ceil(n / 2),)`` uint8.
        absmax: largest absolute value of each block, ``(ceil(n / 64),)`` float32; or these less ``offset``, in 8 bits.
        offset: mean of the absmax; None where they are stored as they are.
        shape: shape of the matrix.
        kind: ``nf4`` or ``fp4``.
    """

    codes: Tensor
    absmax: Tensor | DynamicCodes
    offset: Tensor | None
    shape: torch.Size
    kind: str

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """Stored tensors by name."""
        if isinstance(self.absmax, Tensor):
            return {"codes": self.codes, "absmax": self.absmax}
        assert self.offset is not None
        scales = {"absmax_codes": self.absmax.codes, "absmax_absmax": self.absmax.absmax, "offset": self.offset}
        return {"codes": self.codes, **scales}

    def of(self, tensors: Mapping[str, Tensor]) -> "BlockCodes":
        """The same with other stored tensors, such as those on another device."""
        if "absmax" in tensors:
            return replace(self, codes=tensors["codes"], absmax=tensors["absmax"])
        absmax = DynamicCodes(tensors["absmax_codes"], tensors["absmax_absmax"])
        return replace(self, codes=tensors["codes"], absmax=absmax, offset=tensors["offset"])

    def scales(self) -> Tensor:
        """Absmax of each block as dequantisation takes it, ``(ceil(n / 64),)`` float32."""
        if isinstance(self.absmax, Tensor):
            return self.absmax
        assert self.offset is not None
        return self.absmax.dequantise() + self.offset

    def dequantise(self, out: Tensor | None = None) -> Tensor:
        """Matrix of each code's level times its block's absmax, float32; written to ``out`` where it is given."""
        n, pairs = self.shape.numel(), _pairs(self.kind).to(self.codes.device)
        if n % BLOCK == 0 and out is not None and out.is_contiguous():
            torch.index_select(pairs, 0, self.codes.to(torch.int32), out=out.view(-1).view(torch.int64))
            out.view(-1, BLOCK).mul_(self.scales().unsqueeze(1))
            return out
        levels = pairs.index_select(0, self.codes.to(torch.int32)).view(torch.float32)  # n, and 1 more where n is odd
        padded = F.pad(levels, (0, -len(levels) % BLOCK)).reshape(-1, BLOCK) * self.scales().unsqueeze(1)
        matrix = padded.reshape(-1)[:n].reshape(self.shape)
        return matrix if out is None else out.copy_(matrix)


@cache
def _pairs(kind: str) -> Tensor:
    """Levels of the two codes of each byte, two float32 as one int64: ``(256,)``."""
    byte = torch.arange(256)
    return torch.stack([LEVELS[kind][byte >> 4], LEVELS[kind][byte & 15]], 1).view(torch.int64).squeeze(1)


def quantise_blocks(weight: Tensor, kind: str = "nf4", double: bool = False) -> BlockCodes:
    """Quantise a matrix to 4-bit floats, the nearest level each, of two equally near the lower.

    A last block that is not full is divided by its absmax, the others are multiplied by its reciprocal, as in
    bitsandbytes: the two round differently.

    Args:
        weight: matrix of any shape, finite.
        kind: one of :data:`LEVELS`.
        double: true to store the absmax in 8 bits.

    Raises:
        UserError: the kind is none of these, or a number is not finite.
    """
    if kind not in LEVELS:
        raise UserError(f"unknown quantization {kind!r}: one of {' '.join(LEVELS)}{nearest(kind, LEVELS)}")
    flat = weight.detach().to(torch.float32).reshape(-1)
    check_finite(flat)
    full = len(flat) - len(flat) % BLOCK
    blocks, rest = flat[:full].reshape(-1, BLOCK), flat[full:]
    absmax = blocks.abs().amax(1)
    scaled = [(blocks * (1.0 / absmax.clamp(min=SMALLEST)).unsqueeze(1)).clamp(-1, 1).reshape(-1)]
    if len(rest):
        last = rest.abs().max().clamp(min=SMALLEST)
        absmax, scaled = torch.cat([absmax, last.unsqueeze(0)]), [*scaled, (rest / last).clamp(-1, 1)]
    numbers = torch.cat(scaled)
    numbers = F.pad(numbers, (0, len(numbers) % 2))  # the half of a byte that stands for no number is that of 0
    order = torch.tensor(_ORDER[kind], device=flat.device)
    levels = LEVELS[kind].to(flat.device)[order]  # (16,), in order
    codes = order[torch.bucketize(numbers, (levels[:-1] + levels[1:]) / 2)]
    packed = pack(codes, 4)
    if not double:
        return BlockCodes(packed, absmax, None, weight.shape, kind)
    offset = absmax.mean()
    return BlockCodes(packed, quantise_dynamic(absmax - offset), offset, weight.shape, kind)
