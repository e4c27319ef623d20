"""LSTM language model over the distinct prefixes of a batch.

Equal to :class:`shoal.models.LSTMLM` on every example; see there for the equations.
"""

from collections.abc import Mapping

from torch import Tensor

from shoal.fast.ops import Array, Ops
from shoal.fast.parameters import linear_of
from shoal.fast.prefixes import Nodes

GATES = ("forget_gate", "input_gate", "output_gate", "candidate_cell")  # as LSTMCell.fused


def lstm_outputs(parameters: Mapping[str, Array], num_layers: int, nodes: Nodes, first: int, ops: Ops[Array]) -> Array:
    """Outputs of the last layer at the nodes from level ``first`` on, ``(R, n, D)``.

    Inputs of the first layer are rows of the embedding, so only its V rows are projected.
    """
    x: Array = parameters["embedding.weight"]
    rows: Tensor | None = nodes.tokens
    for layer in range(num_layers):
        weight, bias = linear_of(parameters, ops, *(f"lstm.layers.{layer}.{gate}" for gate in GATES))
        x, rows = ops.lstm_layer(x, rows, weight, bias, nodes), None  # weight (R, 4 D, D_in + D)
    return ops.tail(x, nodes.starts[first])
