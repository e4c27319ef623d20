"""Tree of the distinct prefixes of a batch.

A causal model gives equal prefixes equal states. For ``BOS a + b = r`` the prefixes ``BOS``, ``BOS a`` and ``BOS a +``
are few and common to many examples, so their states are computed once. Positions whose distinct prefixes are few in the
whole data set are *shared levels*; from the first other position on, every example has its own nodes.

``R`` members, ``N`` examples, ``B`` examples in a batch, ``S`` positions, ``n_t`` nodes at level ``t``, ``M`` nodes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate, pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Nodes:
    """Nodes of a batch's distinct prefixes, level by level: level ``t`` is the slice ``starts[t] : starts[t + 1]``.

    Attributes:
        tokens: last token of each node's prefix, ``(R, M)``.
        parents: for each level the place of each node's parent in the level before, ``(R, n_t)``, or None where node
            ``i`` continues node ``i``; level 0 has none.
        paths: nodes along each prefix, the node itself last and then repeated, ``(R, M, S)``; ``(R, 0, S)`` for models
            that read none.
        lengths: number of nodes of a path that count, ``(M,)``: the level plus one.
        starts: first node of each level and, last, ``M``.
        n_shared: number of shared levels; at the others node ``i`` belongs to example ``i``.
    """

    tokens: Tensor
    parents: Sequence[Tensor | None]
    paths: Tensor
    lengths: Tensor
    starts: tuple[int, ...]
    n_shared: int

    @property
    def sizes(self) -> list[int]:
        """Number of nodes at each level."""
        return [end - start for start, end in pairwise(self.starts)]

    def level(self, t: int) -> slice:
        """Slice of the nodes of level ``t``."""
        return slice(self.starts[t], self.starts[t + 1])

    def clone(self) -> "Nodes":
        """Copy of the nodes in contiguous tensors."""
        copied = partial(torch.clone, memory_format=torch.contiguous_format)
        parents = [None if parent is None else copied(parent) for parent in self.parents]
        return replace(self, tokens=copied(self.tokens), parents=parents, paths=copied(self.paths))

    def of_members(self, members: slice) -> "Nodes":
        """View of the nodes of some members."""
        parents = [None if parent is None else parent[members] for parent in self.parents]
        return replace(self, tokens=self.tokens[members], parents=parents, paths=self.paths[members])

    def copy_(self, other: "Nodes") -> None:
        """Overwrite the nodes with those of another batch of as many examples."""
        self.tokens.copy_(other.tokens)
        self.paths.copy_(other.paths)
        for mine, parent in zip(self.parents, other.parents, strict=True):
            if mine is not None and parent is not None:
                mine.copy_(parent)


class Prefixes:
    """Prefixes of every member's whole data set, from which the nodes of a batch are taken.

    Args:
        inputs: tokens, ``(R, N, S)``.
        batch_size: number of examples in a training step; a level is shared when it has at most half as many nodes.
        last_shared: levels from this one on are never shared, so that every example has nodes of its own there.
        has_paths: true where the model reads nodes along each prefix, as attention does.
    """

    def __init__(self, inputs: Tensor, batch_size: int, last_shared: int, has_paths: bool = True) -> None:
        self.inputs, self.has_paths = inputs, has_paths
        self.tokens: list[Tensor] = []  # (R, n_t) for each shared level
        self.parents: list[Tensor | None] = []
        node_of: list[Tensor] = []  # (R, N): each example's node, for each shared level
        before = torch.zeros(inputs.shape[:2], dtype=torch.int64, device=inputs.device)
        vocabulary = int(inputs.max()) + 1
        for t in range(last_shared):
            distinct, node = _distinct(before * vocabulary + inputs[:, :, t])  # (R, n_t), (R, N)
            if 2 * distinct.shape[1] > batch_size:
                break
            self.tokens.append(distinct % vocabulary)
            self.parents.append((distinct // vocabulary).contiguous() if t else None)
            node_of.append(node)
            before = node
        self.n_shared = len(self.tokens)
        starts = [0, *accumulate(tokens.shape[1] for tokens in self.tokens)]
        self.starts = starts
        self.node_of = torch.stack(node_of, -1) if node_of else inputs[:, :, :0]  # (R, N, n_shared), within its level
        self.paths = self._shared_paths(inputs.shape[2])
        self.offsets = torch.tensor(starts[: self.n_shared], dtype=torch.int64, device=inputs.device)
        self._own_parts: dict[int, tuple[Tensor, Tensor]] = {}  # examples -> what _own_part gives

    def _shared_paths(self, S: int) -> Tensor:
        """Paths of the shared nodes, ``(R, shared nodes, S)``."""
        R, paths = len(self.inputs), []
        for t, tokens in enumerate(self.tokens):
            index = torch.arange(tokens.shape[1], device=tokens.device).expand(R, -1)  # (R, n_t)
            path = [index] * (S - t)
            for s in range(t, 0, -1):
                parents = self.parents[s]
                assert parents is not None
                index = parents.gather(1, index)
                path.insert(0, index)
            offsets = torch.tensor([self.starts[min(s, t)] for s in range(S)], device=tokens.device)
            paths.append(torch.stack(path, -1) + offsets)
        return torch.cat(paths, 1) if paths else self.inputs.new_zeros(R, 0, S)

    def nodes(self, indices: Tensor) -> Nodes:
        """Nodes of the distinct prefixes of the examples at ``indices``, ``(R, B)``."""
        R, B = indices.shape
        S, c, shared = self.inputs.shape[2], self.n_shared, self.starts[-1]
        if B not in self._own_parts:
            self._own_parts[B] = self._own_part(B)
        own_paths, lengths = self._own_parts[B]
        own_tokens = pick(self.inputs, indices)[:, :, c:].transpose(1, 2)  # (R, S - c, B)
        node_of = pick(self.node_of, indices)  # (R, B, c)
        paths = self.paths[:, :0]
        if self.has_paths:
            ancestors = (node_of + self.offsets).unsqueeze(1).expand(R, S - c, B, c)  # in the tree
            all_own = torch.cat([ancestors, own_paths.expand(R, *own_paths.shape)], -1).reshape(R, -1, S)
            paths = torch.cat([self.paths, all_own], 1)
        starts = (*self.starts[:-1], *range(shared, shared + (S - c + 1) * B, B))
        first_own = node_of[:, :, -1].contiguous() if c else None  # (R, B)
        return Nodes(
            tokens=torch.cat([*self.tokens, own_tokens.reshape(R, -1)], 1),
            parents=(*self.parents, first_own, *[None] * (S - c - 1)),
            paths=paths,
            lengths=lengths,
            starts=starts,
            n_shared=c,
        )

    def _own_part(self, B: int) -> tuple[Tensor, Tensor]:
        """Paths among the examples' own nodes, ``(S - c, B, S - c)``, and lengths of the paths of all nodes, ``(M,)``,
        which depend on the number of examples alone."""
        S, c, shared, device = self.inputs.shape[2], self.n_shared, self.starts[-1], self.inputs.device
        levels = torch.arange(S - c, device=device)
        path = levels.unsqueeze(1).minimum(levels)  # (S - c, S - c): own nodes up to each level, then the level itself
        example = torch.arange(B, device=device)
        sizes = [end - start for start, end in pairwise(self.starts)] + [B] * (S - c)
        lengths = torch.cat([torch.full((size,), t + 1, device=device) for t, size in enumerate(sizes)])
        return shared + path.unsqueeze(1) * B + example.unsqueeze(1), lengths


def pick(tensor: Tensor, indices: Tensor) -> Tensor:
    """Rows of each member's tensor at its indices: ``(R, N, *dims), (R, B) -> (R, B, *dims)``.

    By one index into all rows, which takes half as long as one for each dimension.
    """
    R, N = tensor.shape[:2]
    if R == 1 or tensor.stride(0) == 0:  # all members have the same rows
        rows, at = tensor[0], indices
    else:
        rows, at = tensor.flatten(0, 1), indices + torch.arange(0, R * N, N, device=indices.device).unsqueeze(1)
    return rows.index_select(0, at.flatten()).view(*indices.shape, *tensor.shape[2:])


def _distinct(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Distinct values of each member, padded with its first, ``(R, n)``, and the index of each key, ``(R, N)``."""
    if keys.stride(0) == 0 or len(keys) == 1 or bool((keys == keys[:1]).all()):
        values, place = torch.unique(keys[0], return_inverse=True)
        return values.expand(len(keys), -1), place.expand(len(keys), -1)
    distinct = [torch.unique(of_member, return_inverse=True) for of_member in keys]
    longest = max(len(values) for values, _ in distinct)
    padded = [torch.cat([values, values[:1].expand(longest - len(values))]) for values, _ in distinct]
    return torch.stack(padded), torch.stack([place for _, place in distinct])
