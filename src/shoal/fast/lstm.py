"""LSTM language model over the distinct prefixes of a batch.

Equal to :class:`shoal.models.LSTMLM` on every example; see there for the equations.
"""

from collections.abc import Mapping

from torch import Tensor

from shoal.fast.ops import Array, Ops
from shoal.fast.prefixes import Nodes

GATES = ("forget_gate", "input_gate", "output_gate", "candidate_cell")  # as LSTMCell.fused


def lstm_outputs(parameters: Mapping[str, Array], num_layers: int, nodes: Nodes, first: int, ops: Ops[Array]) -> Array:
    """Outputs of the last layer at the nodes from level ``first`` on, ``(R, n, D)``.

    Inputs of the first layer are rows of the embedding, so only its V rows are projected.
    """
    x = parameters["embedding.weight"]  # (R, V, D)
    rows: Tensor | None = nodes.tokens
    for layer in range(num_layers):
        names = [f"lstm.layers.{layer}.{gate}" for gate in GATES]
        weight = ops.join([parameters[f"{name}.weight"] for name in names])  # (R, 4 D, D_in + D)
        biases = [parameters[f"{name}.bias"] for name in names if f"{name}.bias" in parameters]
        x = ops.lstm_layer(x, rows, weight, ops.join(biases) if biases else None, nodes)  # (R, M, D)
        rows = None
    return ops.tail(x, nodes.starts[first])
