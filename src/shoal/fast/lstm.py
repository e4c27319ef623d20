"""LSTM language model over the distinct prefixes of a batch, or over windows, whose prefixes are their own.

Equal to :class:`shoal.models.LSTMLM` on every example; see there for the equations.
"""

from collections.abc import Callable, Mapping

from torch import Tensor

from shoal.fast.ops import Array, Ops
from shoal.fast.parameters import linear_of
from shoal.fast.prefixes import Nodes

GATES = ("forget_gate", "input_gate", "output_gate", "candidate_cell")  # as LSTMCell.fused


def lstm_outputs(parameters: Mapping[str, Array], num_layers: int, nodes: Nodes, first: int, ops: Ops[Array]) -> Array:
    """Outputs of the last layer at the nodes from level ``first`` on, ``(R, n, D)``.

    Inputs of the first layer are rows of the embedding, so only its V rows are projected.
    """
    x = lstm_layers(parameters, num_layers, parameters["embedding.weight"], nodes.tokens, nodes, ops)  # (R, M, D)
    return ops.tail(x, nodes.starts[first])


def lstm_layers(
    parameters: Mapping[str, Array],
    num_layers: int,
    x: Array,
    rows: Tensor | None,
    nodes: Nodes,
    ops: Ops[Array],
    between: Callable[[int, Array], Array] | None = None,
) -> Array:
    """Outputs of the last layer at every node, ``(R, M, D)``.

    Args:
        parameters: parameters of the members by their names in the model, ``(R, *shape)`` each.
        num_layers: number of layers.
        x: inputs of the first layer, ``(R, X, D_in)``.
        rows: the row of ``x`` at each node, ``(R, M)``; without them node ``i`` has row ``i``.
        nodes: the tree.
        ops: the operations.
        between: function from the number of a layer and its outputs to the inputs of the next.
    """
    for layer in range(num_layers):
        weight, bias = linear_of(parameters, ops, *(f"lstm.layers.{layer}.{gate}" for gate in GATES))
        x, rows = ops.lstm_layer(x, rows, weight, bias, nodes), None  # weight (R, 4 D, D_in + D)
        if between is not None and layer < num_layers - 1:
            x = between(layer, x)
    return x
