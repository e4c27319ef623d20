"""GPT over the distinct prefixes of a batch.

Equal to :class:`shoal.models.GPT` on every example; see there for the equations.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.fast.ops import Norm, Ops, normalised, take
from shoal.fast.prefixes import Nodes
from shoal.models.positions import rotary_angles, rotate

Parameters = Mapping[str, Tensor]  # of the members, (R, *shape) each


def gpt_outputs(
    parameters: Parameters, positions: Tensor | None, config: Any, nodes: Nodes, first: int, ops: Ops
) -> Tensor:
    """What enters the classifier at the nodes from level ``first`` on, ``(R, n, D)``.

    The last layer is computed only where outputs are asked for; before it every node has keys and values.

    Args:
        parameters: by their names in the model.
        positions: the table added to the embeddings, ``(S, D)``, or ``(R, S, D)`` where it is learned; None where there
            is none.
        config: the settings that the members share.
        nodes: the tree.
        first: a level of the tree that is not shared.
        ops: how to compute what is not a product.
    """
    D, H = config.embedding_size, config.num_heads
    x, rows, levels = _embedded(parameters["embedding.tokens.weight"], positions, nodes)  # (R, X, D), (R, M) or None
    for layer in range(config.num_layers):
        block, attention = f"decoder.blocks.{layer}", f"decoder.blocks.{layer}.self_attn"
        norms = (_norm(parameters, f"{block}.self_attn_norm"), _norm(parameters, f"{block}.ffn_norm"))
        before, after = (norms, (None, None)) if config.norm_position == "pre" else ((None, None), norms)
        paths = nodes.paths if rows is None else _along(rows, nodes.paths)  # (R, M, S), rows of x
        start = nodes.starts[first] if layer == config.num_layers - 1 else 0
        asking, normed = _asking(x, rows, start), normalised(x, before[0])  # (R, X or n, D), (R, X or M, D)
        queries = asking if normed is x else _asking(normed, rows, start)
        q = ops.linear(queries, *_linear(parameters, f"{attention}.W_Q"))  # (R, X or n, D)
        kv = ops.linear(normed, *_linear(parameters, f"{attention}.W_K", f"{attention}.W_V"))  # (R, X or M, 2 D)
        if config.positions == "rotary":
            angles = rotary_angles(levels, D // H).unsqueeze(0)  # (1, X or M, D / H / 2)
            q = _rotated(q, _asking(angles, rows, start), H)
            kv = torch.cat([_rotated(kv[..., :D], angles, H), kv[..., D:]], -1)
        rows = None if rows is None else rows[:, start:]
        context = ops.attend(q, rows, kv, paths[:, start:], nodes.lengths[start:], H)  # (R, n, D)
        weight, bias = _linear(parameters, f"{attention}.W_O")
        h = ops.add_norm(asking, rows, ops.linear(context, weight), bias, after[0])
        out, bias = _feed_forward(parameters, f"{block}.ffn", normalised(h, before[1]), config.non_linearity, ops)
        x, rows, levels = ops.add_norm(h, None, out, bias, after[1]), None, nodes.lengths - 1
    return normalised(x, _norm(parameters, "decoder.norm"))


def _embedded(tokens: Tensor, positions: Tensor | None, nodes: Nodes) -> tuple[Tensor, Tensor | None, Tensor]:
    """What enters the first layer, which row of it each node has, and the level of each row.

    It depends on a node's token and level alone: where there are fewer such pairs than nodes, a row for each pair.
    """
    (R, V, D), S, levels = tokens.shape, len(nodes.sizes), nodes.lengths - 1
    if nodes.starts[-1] > S * V:
        pairs = tokens.unsqueeze(1).expand(R, S, V, D)
        if positions is not None:
            pairs = pairs + positions[..., :S, :].unsqueeze(-2)
        of_pairs = torch.arange(S, device=levels.device).repeat_interleave(V)  # (S V,)
        return pairs.flatten(1, 2), nodes.tokens + levels * V, of_pairs
    x = take(tokens, nodes.tokens)  # (R, M, D)
    return x if positions is None else x + positions[..., levels, :], None, levels


def _feed_forward(
    parameters: Parameters, name: str, x: Tensor, non_linearity: str, ops: Ops
) -> tuple[Tensor, Tensor | None]:
    """The feed-forward layer but for its last bias, ``(R, n, D)``, and that, ``(R, D)``."""
    if non_linearity == "swiglu":
        gate, up = ops.linear(x, *_linear(parameters, f"{name}.W_gate", f"{name}.W_up")).chunk(2, -1)
        inner, last = F.silu(gate) * up, f"{name}.W_down"  # (R, n, d_ff)
    else:
        inner = ops.linear(x, *_linear(parameters, f"{name}.0"))
        inner, last = ops.gelu(inner) if non_linearity == "gelu" else inner.relu(), f"{name}.2"
    return ops.linear(inner, parameters[f"{last}.weight"]), parameters.get(f"{last}.bias")


def _asking(x: Tensor, rows: Tensor | None, start: int) -> Tensor:
    """What the queries come from: all of a table, or the nodes from ``start`` on."""
    return x[:, start:] if rows is None else x


def _rotated(x: Tensor, angles: Tensor, H: int) -> Tensor:
    """Queries or keys of every head, ``(R, X, D)``, turned by the angles of their rows, ``(1, X, D / H / 2)``."""
    R, X, D = x.shape
    return rotate(x.reshape(R, X, H, D // H), angles.unsqueeze(2)).flatten(2)


def _along(rows: Tensor, paths: Tensor) -> Tensor:
    """The row of each node along each path: ``(R, M), (R, M, S) -> (R, M, S)``."""
    return rows.gather(1, paths.flatten(1)).reshape(paths.shape)


def _linear(parameters: Parameters, *names: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one or more linear layers over the same input, ``(R, E, D)`` and ``(R, E)``."""
    if len(names) == 1:
        return parameters[f"{names[0]}.weight"], parameters.get(f"{names[0]}.bias")
    weights = [parameters[f"{name}.weight"] for name in names]
    biases = [parameters[f"{name}.bias"] for name in names if f"{name}.bias" in parameters]
    return torch.cat(weights, 1), torch.cat(biases, 1) if biases else None


def _norm(parameters: Parameters, name: str) -> Norm:
    """A norm of the model, which has it where it has its weight."""
    weight = parameters.get(f"{name}.weight")
    return None if weight is None else (weight, parameters.get(f"{name}.bias"))
