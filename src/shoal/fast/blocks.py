"""Transformer blocks over windows of tokens, in terms of operations.

Equal to :class:`shoal.models.gpt.Block` and :class:`shoal.models.encoder_decoder.CrossBlock`; see there for the
equations. States of a window are rows, example by example: ``(R, n, D)``, ``n = B S``.

``R`` members, ``B`` examples, ``S`` positions, ``n`` rows, ``D`` width, ``X`` rows of a table.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic

import torch
from torch import Tensor

from shoal.fast.ops import Array, Norm
from shoal.fast.parameters import linear_of, norm_of
from shoal.fast.window_ops import Adapter, Drop, View, WindowOps

# from the model, a name and inputs (R, n, D) to outputs (R, n, D), and their bias (R, D), which is not in them
Branch = Callable[["Stacked[Array]", str, Array], tuple[Array, Array | None]]


@dataclass(frozen=True)
class Stacked(Generic[Array]):
    """Model of every member of a stack.

    Attributes:
        parameters: parameters by their names in the model, ``(R, *shape)`` each; tied ones under each of their names.
        tables: fixed tables of positions by their names, ``(X, D)`` each.
        drops: dropout by the names of its modules; empty where nothing drops out.
        config: the settings that the members share.
        ops: the operations.
        adapters: low-rank adapters by the names of their layers.
    """

    parameters: Mapping[str, Array]
    tables: Mapping[str, Tensor]
    drops: Mapping[str, Drop]
    config: Any
    ops: WindowOps[Array]
    adapters: Mapping[str, Adapter[Array]] = field(default_factory=dict)

    def linear(self, x: Array, *names: str) -> Array:
        """Outputs of one or more linear layers over the same input, side by side: ``(R, n, D) -> (R, n, E)``."""
        return self._adapted(self.ops.linear(x, *linear_of(self.parameters, self.ops, *names)), x, names)

    def product(self, x: Array, name: str) -> tuple[Array, Array | None]:
        """Outputs of a linear layer without its bias, ``(R, n, E)``, and that bias, ``(R, E)``."""
        weight, bias = linear_of(self.parameters, self.ops, name)
        return self._adapted(self.ops.linear(x, weight), x, (name,)), bias

    def _adapted(self, y: Array, x: Array, names: Sequence[str]) -> Array:
        """Outputs ``y`` of linear layers over ``x``, and those of their adapters added."""
        for place, name in enumerate(names):
            if name in self.adapters:
                drop = self.drops.get(f"{name}.drop")
                inputs = x if drop is None else self.ops.dropout(x, drop)  # a copy, as the layers have read x
                y = self.ops.low_rank(y, inputs, self.adapters[name], place)
        return y

    def norm(self, name: str) -> Norm[Array]:
        """Norm of the model; None where it has no such norm."""
        return norm_of(self.parameters, name, self.config.norm)


def embedded(model: Stacked[Array], name: str, tokens: Tensor, S: int) -> Array:
    """Embeddings of the tokens ``(R, n)`` of windows of ``S`` positions, by a ``GPTEmbedding``: ``(R, n, D)``.

    Rows of a table of another width are scaled, and then projected.
    """
    parameters, config = model.parameters, model.config
    positions = parameters.get(f"{name}.positions.weight", model.tables.get(f"{name}.position_encoding"))
    scale = math.sqrt(config.embedding_size) if config.get("scale_embeddings", False) else None
    table = parameters[f"{name}.tokens.weight"]
    if f"{name}.projection.weight" not in parameters:
        x = model.ops.embed(table, tokens, S, positions, scale)
    else:
        x = model.linear(model.ops.embed(table, tokens, S, None, scale), f"{name}.projection")
        if positions is not None:  # each row is its own token's
            rows = torch.arange(tokens.shape[1]).expand(tokens.shape).contiguous()
            x = model.ops.embed(x, rows, S, positions, None)
    drop = model.drops.get(f"{name}.drop")
    return x if drop is None else model.ops.dropout(x, drop)


def blocks(
    model: Stacked[Array], name: str, x: Array, num_layers: int, view: View, memory: tuple[Array, View] | None = None
) -> Array:
    """Outputs of a stack of blocks and its last norm: ``(R, B S, D) -> (R, B S, D)``.

    Args:
        model: the model.
        name: name of the stack.
        x: inputs of the first block.
        num_layers: number of blocks.
        view: keys that self-attention sees.
        memory: states of the source, ``(R, n, D)``, and the view of them, in blocks with cross-attention.
    """
    self_attention: Branch[Array] = partial(attention, view=view, is_rotary=model.config.positions == "rotary")
    for layer in range(num_layers):
        block = f"{name}.blocks.{layer}"
        x = _around(model, f"{block}.self_attn", x, self_attention)
        if memory is not None:  # without rotary positions: the two sequences have none in common
            x = _around(model, f"{block}.cross_attn", x, partial(attention, source=memory[0], view=memory[1]))
        x = _around(model, f"{block}.ffn", x, feed_forward)
    return model.ops.norm(x, model.norm(f"{name}.norm"))


def _around(model: Stacked[Array], name: str, x: Array, branch: Branch[Array]) -> Array:
    """Branch of a block with its residual, dropout and norm."""
    ops, position = model.ops, model.config.norm_position
    norm, drop = model.norm(f"{name}_norm"), model.drops.get(f"{name}_drop")
    if position == "post":
        return ops.residual(x, *branch(model, name, x), drop, norm)
    normed = ops.norm(x, norm)
    is_stream = position == "pre_stream" and name.endswith("self_attn")  # where the stream itself is normalised
    return ops.residual(normed if is_stream else x, *branch(model, name, normed), drop, None)


def attention(
    model: Stacked[Array], name: str, x: Array, view: View, source: Array | None = None, is_rotary: bool = False
) -> tuple[Array, Array | None]:
    """Attention of ``x`` ``(R, B Q, D)`` to ``source`` ``(R, B K, D)``, or to itself, and the bias of its outputs."""
    ops, D, H = model.ops, model.config.embedding_size, model.config.num_heads
    q = model.linear(x, f"{name}.W_Q")
    kv = model.linear(x if source is None else source, f"{name}.W_K", f"{name}.W_V")  # (R, B K, 2 D)
    if is_rotary:
        q, kv = ops.rotated(q, view.Q, H, D), ops.rotated(kv, view.K, H, D)
    context = ops.attention(q, kv, view, H, model.drops.get(f"{name}.weights_drop"))  # (R, B Q, D)
    return model.product(context, f"{name}.W_O")


def feed_forward(model: Stacked[Array], name: str, x: Array) -> tuple[Array, Array | None]:
    """Feed-forward layer, ``(R, n, D) -> (R, n, D)``, and the bias of its outputs."""
    kind = model.config.non_linearity
    first, last = ((f"{name}.W_gate", f"{name}.W_up"), "W_down") if kind == "swiglu" else ((f"{name}.0",), "2")
    neurons = model.ops.activation(model.linear(x, *first), kind)  # (R, n, d_ff)
    drop = model.drops.get(f"{name}.drop")
    return model.product(neurons if drop is None else model.ops.dropout(neurons, drop), f"{name}.{last}")
