"""GPT over the distinct prefixes of a batch.

Equal to :class:`shoal.models.GPT` on every example; see there for the equations.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.fast.ops import Array, Ops, take
from shoal.fast.parameters import linear_of, norm_of
from shoal.fast.prefixes import Nodes
from shoal.models.positions import rotary_angles, rotate


def gpt_outputs(
    parameters: Mapping[str, Array],
    table: Tensor | None,
    V: int,
    config: Any,
    nodes: Nodes,
    first: int,
    ops: Ops[Array],
) -> Array:
    """Inputs of the classifier at the nodes from level ``first`` on, ``(R, n, D)``.

    The last layer is computed for these nodes alone; before it every node has keys and values.

    Args:
        parameters: parameters of the members by their names in the model, ``(R, *shape)`` each.
        table: fixed table of positions that is added to the embeddings, ``(S, D)``, where there is one.
        V: size of the vocabulary.
        config: the settings that the members share.
        nodes: the tree.
        first: a level of the tree that is not shared.
        ops: the operations.
    """
    D, H = config.embedding_size, config.num_heads
    x, rows, levels = _embedded(parameters, table, V, nodes, ops)  # (R, X, D), (R, M) or None, (X,)
    for layer in range(config.num_layers):
        block, attention = f"decoder.blocks.{layer}", f"decoder.blocks.{layer}.self_attn"
        norms = tuple(norm_of(parameters, f"{block}.{part}_norm", config.norm) for part in ("self_attn", "ffn"))
        before, after = ((None, None), norms) if config.norm_position == "post" else (norms, (None, None))
        start = nodes.starts[first] if layer == config.num_layers - 1 else 0
        paths, asking_rows = _places(rows, nodes, start, ops)  # (R, n, S), (R, n) or None, rows of x
        normed = ops.norm(x, before[0])  # (R, X or M, D)
        if config.norm_position == "pre_stream":
            x = normed
        asking = ops.tail(x, start) if rows is None else x  # (R, X or n, D)
        queries = asking if normed is x else ops.tail(normed, start) if rows is None else normed
        q = ops.linear(queries, *linear_of(parameters, ops, f"{attention}.W_Q"))  # (R, X or n, D)
        kv = ops.linear(normed, *linear_of(parameters, ops, f"{attention}.W_K", f"{attention}.W_V"))  # (R, X or M, 2 D)
        if config.positions == "rotary":
            angles = rotary_angles(levels, D // H).unsqueeze(0)  # (1, X or M, D / H / 2)
            asked = angles[:, start:] if rows is None else angles
            q = ops.apply(partial(_rotated, angles=asked, H=H), q)
            kv = ops.apply(partial(_rotated_keys, angles=angles, H=H), kv)
        context = ops.attend(q, asking_rows, kv, paths, nodes.lengths[start:], H)  # (R, n, D)
        weight, bias = linear_of(parameters, ops, f"{attention}.W_O")
        h = ops.add_norm(asking, asking_rows, ops.linear(context, weight), bias, after[0])
        out, bias = _feed_forward(parameters, f"{block}.ffn", ops.norm(h, before[1]), config.non_linearity, ops)
        x, rows, levels = ops.add_norm(h, None, out, bias, after[1]), None, nodes.lengths - 1
    return ops.norm(x, norm_of(parameters, "decoder.norm", config.norm))


def _embedded(
    parameters: Mapping[str, Array], table: Tensor | None, V: int, nodes: Nodes, ops: Ops[Array]
) -> tuple[Array, Tensor | None, Tensor]:
    """Inputs of the first layer, the row of it that each node has, and the level of each row.

    They depend on a node's token and level alone: where there are fewer such pairs than nodes, each pair has a row.
    """
    names = ("embedding.tokens.weight", "embedding.positions.weight")
    values = [parameters[name] for name in names if name in parameters]  # (R, V, D) and, where it learns, (R, S, D)
    S, levels = len(nodes.sizes), nodes.lengths - 1

    def of_pairs(tokens: Tensor, positions: Tensor) -> Tensor:
        return (tokens.unsqueeze(1) + positions[:, :S].unsqueeze(2)).flatten(1, 2)

    def of_nodes(tokens: Tensor, positions: Tensor | None = table) -> Tensor:
        x = take(tokens, nodes.tokens)  # (R, M, D)
        return x if positions is None else x + positions[..., levels, :]

    if nodes.starts[-1] <= S * V:
        return ops.apply(of_nodes, *values), None, levels
    rows = ops.prepared(lambda: nodes.tokens + levels * V)
    if len(values) == 1:
        pairs = ops.pairs(values[0], torch.zeros(S, 1, device=levels.device) if table is None else table[:S])
    else:
        pairs = ops.apply(of_pairs, *values)
    return pairs, rows, torch.arange(S, device=levels.device).repeat_interleave(V)


def _places(rows: Tensor | None, nodes: Nodes, start: int, ops: Ops[Array]) -> tuple[Tensor, Tensor | None]:
    """Rows of a table, or without it nodes, along the path of each query, and those of the queries."""
    if rows is None:
        return ops.prepared(lambda: nodes.paths[:, start:]), None
    paths = nodes.paths[:, start:]
    along = ops.prepared(lambda: rows.gather(1, paths.flatten(1)).reshape(paths.shape))
    return along, ops.prepared(lambda: rows[:, start:])


def _feed_forward(
    parameters: Mapping[str, Array], name: str, x: Array, non_linearity: str, ops: Ops[Array]
) -> tuple[Array, Array | None]:
    """Feed-forward layer without its last bias, ``(R, n, D)``, and that bias, ``(R, D)``."""
    if non_linearity == "swiglu":
        both = ops.linear(x, *linear_of(parameters, ops, f"{name}.W_gate", f"{name}.W_up"))
        inner, last = ops.apply(_swiglu, both), f"{name}.W_down"  # (R, n, d_ff)
    else:
        inner = ops.linear(x, *linear_of(parameters, ops, f"{name}.0"))
        inner, last = ops.gelu(inner) if non_linearity == "gelu" else ops.apply(torch.relu, inner), f"{name}.2"
    return ops.linear(inner, parameters[f"{last}.weight"]), parameters.get(f"{last}.bias")


def _swiglu(both: Tensor) -> Tensor:
    """SwiGLU activation ``silu(gate) up``: ``(R, n, 2 d_ff) -> (R, n, d_ff)``."""
    gate, up = both.chunk(2, -1)
    return F.silu(gate) * up


def _rotated(x: Tensor, angles: Tensor, H: int) -> Tensor:
    """Queries or keys of every head, ``(R, X, D)``, rotated by the angles of their rows, ``(1, X, D / H / 2)``."""
    R, X, D = x.shape
    return rotate(x.reshape(R, X, H, D // H), angles.unsqueeze(2)).flatten(2)


def _rotated_keys(kv: Tensor, angles: Tensor, H: int) -> Tensor:
    """Rotated keys and unchanged values, ``(R, X, 2 D)``."""
    k, v = kv.chunk(2, -1)
    return torch.cat([_rotated(k, angles, H), v], -1)
