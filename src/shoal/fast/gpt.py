"""GPT over the distinct prefixes of a batch.

Equal to :class:`shoal.models.GPT` on every example; see there for the equations.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from shoal.fast.ops import Ops, take
from shoal.fast.prefixes import Nodes


def gpt_outputs(
    parameters: Mapping[str, Tensor],
    positions: Tensor,
    num_heads: int,
    num_layers: int,
    non_linearity: str,
    nodes: Nodes,
    first: int,
    ops: Ops,
) -> Tensor:
    """Outputs of the last layer at the nodes from level ``first`` on, ``(R, n, D)``.

    The last layer is computed only where outputs are asked for; before it every node has keys and values.

    Args:
        parameters: of the members, ``(R, *shape)`` each.
        positions: position encodings, ``(S, D)``.
        num_heads: as in the model.
        num_layers: as in the model.
        non_linearity: as in the model.
        nodes: the tree.
        first: a level of the tree that is not shared.
        ops: how to compute what is not a product.
    """
    x, rows = _embedded(parameters["embedding.tokens.weight"], positions, nodes)  # (R, X, D), (R, M) or None
    for layer in range(num_layers):
        block, attention = f"decoder.blocks.{layer}", f"decoder.blocks.{layer}.self_attn"
        paths = nodes.paths if rows is None else _along(rows, nodes.paths)  # (R, M, S), rows of x
        start = nodes.starts[first] if layer == num_layers - 1 else 0
        queries, rows = (x[:, start:], None) if rows is None else (x, rows[:, start:])
        q = ops.linear(queries, *_linear(parameters, f"{attention}.W_Q"))  # (R, X or n, D)
        kv = ops.linear(x, *_linear(parameters, f"{attention}.W_K", f"{attention}.W_V"))  # (R, X or M, 2 D)
        context = ops.attend(q, rows, kv, paths[:, start:], nodes.lengths[start:], num_heads)  # (R, n, D)
        weight, bias = _linear(parameters, f"{attention}.W_O")
        h = ops.add_norm(queries, rows, ops.linear(context, weight), bias, _norm(parameters, f"{block}.self_attn_norm"))
        inner = ops.linear(h, parameters[f"{block}.ffn.0.weight"])  # (R, n, multiplier D)
        inner = ops.gelu(inner) if non_linearity == "gelu" else inner.relu()
        out = ops.linear(inner, parameters[f"{block}.ffn.2.weight"])
        x, rows = ops.add_norm(h, None, out, None, _norm(parameters, f"{block}.ffn_norm")), None
    return x


def _embedded(tokens: Tensor, positions: Tensor, nodes: Nodes) -> tuple[Tensor, Tensor | None]:
    """What enters the first layer, and which row of it each node has.

    It depends on a node's token and level alone: where there are fewer such pairs than nodes, a row for each pair.
    """
    V, S = tokens.shape[1], len(nodes.sizes)
    if nodes.starts[-1] > S * V:
        pairs = tokens.unsqueeze(1) + positions[:S].unsqueeze(1)  # (R, S, V, D)
        return pairs.flatten(1, 2), nodes.tokens + (nodes.lengths - 1) * V
    return take(tokens, nodes.tokens) + positions[nodes.lengths - 1], None


def _along(rows: Tensor, paths: Tensor) -> Tensor:
    """The row of each node along each path: ``(R, M), (R, M, S) -> (R, M, S)``."""
    return rows.gather(1, paths.flatten(1)).reshape(paths.shape)


def _linear(parameters: Mapping[str, Tensor], *names: str) -> tuple[Tensor, Tensor | None]:
    """Weight and bias of one or more linear layers over the same input, ``(R, E, D)`` and ``(R, E)``."""
    weights = [parameters[f"{name}.weight"] for name in names]
    biases = [parameters[f"{name}.bias"] for name in names if f"{name}.bias" in parameters]
    return torch.cat(weights, 1), torch.cat(biases, 1) if biases else None


def _norm(parameters: Mapping[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return parameters[f"{name}.weight"], parameters[f"{name}.bias"]
