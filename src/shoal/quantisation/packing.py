"""Packing of small codes into bytes.

``n`` codes of ``m`` bits take ``ceil(n / 8) m`` bytes, those of 4 bits ``ceil(n / 2)``.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

GROUP = 8  # codes whose bits fill whole bytes, whatever their number


def pack(codes: Tensor, bits: int) -> Tensor:
    """Pack codes in bytes, the first code in the highest bits of its byte.

    >>> pack(torch.tensor([7, 1, 15]), 4).tolist()
    [113, 240]

    Args:
        codes: codes from 0 to ``2**bits - 1``, ``(n,)``, of any integer type.
        bits: number of bits ``m`` of a code, from 1 to 8.

    Returns:
        Bytes, uint8; the last are filled with zero bits.
    """
    codes = codes.to(torch.uint8)
    if bits == 8:
        return codes
    if bits == 4:
        codes = F.pad(codes, (0, len(codes) % 2))
        return codes[::2] << 4 | codes[1::2]
    groups = F.pad(codes, (0, -len(codes) % GROUP)).reshape(-1, GROUP, 1)
    single = groups >> _shifts(bits, codes) & 1  # (n / 8, 8, m), bit by bit
    return (single.reshape(-1, 8) << _shifts(8, codes)).sum(1).to(torch.uint8)


def unpack(packed: Tensor, bits: int, n: int) -> Tensor:
    """Codes of :func:`pack`, ``(n,)`` uint8."""
    if bits == 8:
        return packed[:n]
    if bits == 4:
        return torch.stack([packed >> 4, packed & 15], 1).reshape(-1)[:n]
    single = packed.unsqueeze(1) >> _shifts(8, packed) & 1  # (bytes, 8)
    return (single.reshape(-1, bits) << _shifts(bits, packed)).sum(1).to(torch.uint8)[:n]


def _shifts(bits: int, like: Tensor) -> Tensor:
    """Shift of each of some bits, the highest first, ``(bits,)`` uint8."""
    return torch.arange(bits - 1, -1, -1, dtype=torch.uint8, device=like.device)
