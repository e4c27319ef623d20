"""Dynamic 8-bit quantisation in blocks of 256, by which the absmax of 4-bit blocks are stored.

Source: Dettmers et al. 2022, "8-bit Optimizers via Block-wise Quantization"; codes are those of bitsandbytes on a CPU,
which looks the nearest of 256 values up in a table of 65,536 entries.
"""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional as F

BLOCK = 256
LOOK_UP = 65_536
EXPONENTS = 7


@dataclass(frozen=True)
class DynamicCodes:
    """Numbers in 8 bits each.

    Attributes:
        codes: index in :func:`dynamic_map` of each number, ``(n,)`` uint8.
        absmax: largest absolute value of each block, ``(ceil(n / 256),)`` float32.
    """

    codes: Tensor
    absmax: Tensor

    def dequantise(self) -> Tensor:
        """Numbers, ``(n,)`` float32."""
        values = dynamic_map().to(self.codes.device)[self.codes.to(torch.int32)]
        return values * self.absmax.repeat_interleave(BLOCK)[: len(values)]


def quantise_dynamic(numbers: Tensor) -> DynamicCodes:
    """Quantise float32 numbers ``(n,)``."""
    absmax = F.pad(numbers, (0, -len(numbers) % BLOCK)).reshape(-1, BLOCK).abs().amax(1)
    inverse = torch.where(absmax > 0, 1 / absmax, 0.0).repeat_interleave(BLOCK)[: len(numbers)]
    place = (((numbers * inverse).clamp(-1, 1) + 1) * 0.5 * (LOOK_UP - 1) + 0.5).to(torch.int64)
    codes = _table()[place.cpu()].to(numbers.device)
    return DynamicCodes(torch.where(inverse > 0, codes, 0), absmax)  # 0 in a block of zeros, as in bitsandbytes


@cache
def dynamic_map() -> Tensor:
    """The 256 values of signed dynamic 8-bit numbers, in order, float32.

    A number has a sign, an exponent that ends with its first set bit, and a fraction in the bits that are left.
    """
    values = [0.0, 1.0]
    for exponent in range(EXPONENTS):
        boundaries = torch.linspace(0.1, 1, 2**exponent + 1, dtype=torch.float32)
        means = 10 ** (exponent - EXPONENTS + 1) * ((boundaries[:-1] + boundaries[1:]) / 2)
        values += [*means.tolist(), *(-means).tolist()]
    return torch.tensor(sorted(values), dtype=torch.float32)


@cache
def _table() -> Tensor:
    """Code of each of 65,536 even steps from -1 to 1: the nearest value, of two equally near the lower."""
    values = dynamic_map()
    steps = -1 + 2 * torch.arange(LOOK_UP, dtype=torch.float32) / (LOOK_UP - 1)
    right = torch.searchsorted(values, steps).clamp(1, len(values) - 1)
    is_right = (values[right] - steps) < (steps - values[right - 1])
    return torch.where(is_right, right, right - 1).to(torch.uint8)
