"""Random numbers as pure functions of a key: no state to save, no order to keep, nothing shared between members.

A key is an int64 value per member and purpose. ``fold`` derives keys from keys; ``bits`` and ``uniform`` expand one key
into many numbers by hashing their index. Everything is elementwise integer arithmetic, so the same numbers come out
under ``vmap``, on any device, and whatever else is computed beside them.

The mixing function is ``lowbias32``-style 32-bit hashing (Chris Wellons, hash-prospector), done in int64 so that it
means the same on every device; it is not for cryptography.
"""

import torch
from torch import Tensor

_MASK = 0xFFFFFFFF


def _mix(x: Tensor) -> Tensor:
    """Bijective mixing of 32-bit values held in int64."""
    x = x ^ (x >> 16)
    x = (x * 0x21F0AAAD) & _MASK
    x = x ^ (x >> 15)
    x = (x * 0x735A2D97) & _MASK
    return x ^ (x >> 15)


def fold(key: Tensor, data: Tensor | int) -> Tensor:
    """New key from ``key`` and ``data``, broadcast against each other.

    Args:
        key: int64, values in ``[0, 2**32)``.
        data: int64 tensor or int; its low and high 32 bits both count.

    Returns:
        int64, values in ``[0, 2**32)``.
    """
    low, high = data & _MASK, (data >> 32) & _MASK  # of an int: numbers, that nothing be copied to the device
    return _mix(_mix(_mix(key ^ 0x9E3779B9) ^ low) ^ high)


def bits(key: Tensor, n: int, device: torch.device | None = None) -> Tensor:
    """Random bits: ``n`` values in ``[0, 2**32)`` for each key: ``(*dims) -> (*dims, n)``, int64."""
    index = torch.arange(n, device=device if device is not None else key.device)  # (n,)
    return fold(key.unsqueeze(-1), index)  # (*dims, n)


def uniform(key: Tensor, n: int, device: torch.device | None = None) -> Tensor:
    """Uniform numbers in ``[0, 1)``, ``n`` for each key, multiples of 2**-24: ``(*dims) -> (*dims, n)``, float32."""
    return (bits(key, n, device) >> 8).to(torch.float32) * 2**-24
