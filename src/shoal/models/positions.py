"""Position encodings of a transformer.

- ``sinusoidal``: a fixed table of sines and cosines is added to the token embeddings; the practical's exponent is k/d.
- ``vaswani``: the same with the exponent of the original, 2k/d (Vaswani et al. 2017).
- ``learned``: a table that learns is added (Gehring et al. 2017, as in GPT).
- ``rotary``: queries and keys are rotated by angles that grow with the position (RoPE, Su et al. 2021), so that their
  product depends on the distance between them.
- ``none``: positions show through the causal mask alone (Haviv et al. 2022).
"""

import torch
from torch import Tensor

SINUSOIDAL = {"sinusoidal": 1, "vaswani": 2}  # kind -> c of the exponent c k/d of pair k
POSITIONS = (*SINUSOIDAL, "learned", "rotary", "none")


def rotary_angles(positions: Tensor, head_size: int) -> Tensor:
    """Rotary angles ``pos / 10000^(2i / head_size)`` for pair ``i`` of a head.

    Args:
        positions: of any shape ``(*dims)``, from 0.
        head_size: even.

    Returns:
        ``(*dims, head_size / 2)`` radians, float32.
    """
    pair = torch.arange(head_size // 2, device=positions.device)
    return positions.unsqueeze(-1) / 10000 ** (2 * pair / head_size)


def rotate(x: Tensor, angles: Tensor) -> Tensor:
    """Rotate the pairs ``(x_2i, x_2i+1)`` by an angle each, equation 34 of Su et al. 2021.

    The pairs are neighbours, as in the paper. Some libraries pair ``i`` with ``i + head_size / 2``, which is the same
    model with the rows of ``W_Q`` and ``W_K`` in another order.

    Args:
        x: queries or keys, ``(*dims, head_size)``.
        angles: ``(*dims, head_size / 2)`` or what broadcasts to it, radians.

    Returns:
        ``(*dims, head_size)``.
    """
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    even, odd = x[..., 0::2], x[..., 1::2]  # (*dims, head_size / 2) each
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)
