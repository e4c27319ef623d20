"""Places of a step's tokens in caches that are written in place, and the places that they see.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``T`` places of a cache, ``H`` heads, ``L`` layers.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor


@dataclass(frozen=True)
class Places:
    """Places of a step's tokens in the text of their row and in its cache.

    Where all rows have the same length, and the tokens fit, they are written to one slice of the cache.

    Attributes:
        first: the slice's first place; None where each row has its own.
        end: number of places in use after the step.
        positions: positions of the tokens, ``(R, N, n)``, ``T`` for one without a place; None where there is a slice.
        seen: mask to add to the scores, 0 or -inf, ``(n, end)`` or ``(R N, 1, n, end)``; None where all is seen.
    """

    first: int | None
    end: int
    positions: Tensor | None
    seen: Tensor | None

    @classmethod
    def after(cls, lengths: Tensor, n: int, T: int, counts: Tensor | None, dtype: torch.dtype) -> "Places":
        """Places of the next ``n`` tokens of rows of ``lengths`` ``(R, N)``, of which ``counts`` ``(N,)`` count."""
        known = lengths.flatten().tolist() or [0]
        shortest, longest = min(known), max(known)
        is_even = shortest == longest and (counts is None or bool((counts == n).all()))
        end = min(longest + n, T)
        if is_even and n == 1 and longest < T:
            return cls(longest, end, None, None)
        place = torch.arange(end, device=lengths.device)
        if is_even and longest + n <= T:
            return cls(longest, end, None, _added(place <= place[longest:].unsqueeze(1), dtype))
        steps = torch.arange(n, device=lengths.device)
        positions = lengths.unsqueeze(-1) + steps  # (R, N, n)
        seen = _added(place <= positions.view(-1, 1, n, 1), dtype)  # (R N, 1, n, end)
        written = positions.clamp(max=T)
        if counts is not None:
            written = written.masked_fill(steps >= counts.unsqueeze(1), T)
        return cls(None, end, written, seen)


def _added(seen: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(seen.shape, dtype=dtype, device=seen.device).masked_fill_(~seen, -math.inf)


class Cache(NamedTuple):
    """A layer's keys and values: where new ones go, ``(R N, H, …)``, and those in use, ``(R N H, …)``."""

    new_keys: Tensor
    new_values: Tensor
    keys: Tensor
    values: Tensor

    @classmethod
    def of_layers(cls, state: Mapping[str, Tensor], places: Places) -> "list[Cache]":
        """Caches on ``keys`` ``(L, R, N, H, head_size, T + 1)`` and ``values`` ``(L, R, N, H, T + 1, head_size)``."""
        keys, values = state["keys"].flatten(1, 2), state["values"].flatten(1, 2)  # (L, R N, H, …) each
        used = keys.flatten(1, 2)[..., : places.end], values.flatten(1, 2)[..., : places.end, :]
        if places.first is not None:
            keys, values = keys[..., places.first : places.end], values[..., places.first : places.end, :]
        return [cls(*each) for each in zip(*(x.unbind() for x in (keys, values, *used)), strict=True)]

    def write(self, k: Tensor, v: Tensor, places: Places) -> None:
        """Write keys ``(R N, H, head_size, n)`` and values ``(R N, H, n, head_size)`` to their places."""
        if places.positions is None:
            self.new_keys.copy_(k)
            self.new_values.copy_(v)
            return
        at = places.positions.view(k.shape[0], 1, 1, -1)  # (R N, 1, 1, n)
        self.new_keys.scatter_(3, at.expand_as(k), k)
        self.new_values.scatter_(2, at.mT.expand_as(v), v)


class Heads:
    """Array of queries, keys and values of a layer, one after the other, and views of it.

    Attributes:
        qkv: ``(R, N n, 3 D)``.
        q: ``(R N, H, n, head_size)``.
        k: ``(R N, H, head_size, n)``, the layout of cached keys.
        v: ``(R N, H, n, head_size)``.
        pairs: queries and keys as complex numbers, ``(R N, n, 2, H, head_size / 2)``; None where heads are odd.
    """

    def __init__(self, sizes: tuple[int, int, int], H: int, head_size: int, like: Tensor) -> None:
        R, N, n = sizes
        self.sizes = sizes
        self.qkv = like.new_empty(R, N * n, 3 * H * head_size)
        heads = self.qkv.view(R * N, n, 3, H, head_size)
        self.q, self.v = heads[:, :, 0].transpose(1, 2), heads[:, :, 2].transpose(1, 2)
        self.k = heads[:, :, 1].permute(0, 2, 3, 1)
        self.pairs = None
        if head_size % 2 == 0:
            self.pairs = torch.view_as_complex(heads[:, :, :2].view(R * N, n, 2, H, head_size // 2, 2))

    def serve(self, sizes: tuple[int, int, int]) -> bool:
        """Return True if the array can be written to in a step of ``(R, N, n)``."""
        return self.sizes == sizes and (torch.is_inference_mode_enabled() or not self.qkv.is_inference())


def kept_in_place(wanted: list[int]) -> tuple[list[int], list[tuple[int, int]]]:
    """Places of rows that take over others' contents, with as few copies as possible.

    Args:
        wanted: the place whose contents each row takes; there are as many places as rows.

    Returns:
        The place of each row, and the copies that are needed, as pairs of places, from and to.

    >>> kept_in_place([2, 2, 1])
    ([2, 0, 1], [(2, 0)])
    """
    free = sorted(set(range(len(wanted))) - set(wanted), reverse=True)
    places, copies, taken = [], [], set()
    for place in wanted:
        if place in taken:
            copies.append((place, free[-1]))
            places.append(free.pop())
        else:
            places.append(place)
        taken.add(place)
    return places, copies


def copy_rows(state: Mapping[str, Tensor], copies: list[tuple[int, int]], used: int) -> None:
    """Copy the first ``used`` places of some of all ``R N`` rows to other rows, none of which is a source itself."""
    keys, values = state["keys"].flatten(1, 2)[..., :used], state["values"].flatten(1, 2)[..., :used, :]
    for tensor in (keys, values):
        if tensor.is_cuda:
            source, to = torch.tensor(copies, device=tensor.device).unbind(1)
            tensor[:, to] = tensor[:, source]
            continue
        # On a CPU single copies are faster: they take 0.7 of the time of 64 rows at once, 0.1 to 0.4 of that of 512.
        for here, there in copies:
            tensor[:, there].copy_(tensor[:, here])
