"""Small exact models: understood completely, and computed without training.

:class:`BidirectionalRNN` has its gradients derived by hand; :class:`ThresholdNeuron`, :data:`AND` and :data:`OR` are
single neurons, and :func:`certify` proves in exact fractions that a Boolean function such as :data:`XOR` has none;
:func:`parity_cell` is an LSTM whose cell state is the parity of the bits that it has read. Beside them stand small
computations about models: :func:`recurrence` and the norms of a matrix's powers, :func:`moments` of normalisation
layers, :func:`message_passing` on a graph.

>>> from shoal.exact import XOR, bit_strings, cell_states, certify, parities
>>> certify(XOR).contradiction()
'0 ≤ (w2 + b) + (w1 + b) = (b) + (w1 + w2 + b) < 0'
>>> bool((cell_states(bit_strings(12)) == parities(bit_strings(12))).all())
True
"""

from shoal.exact.bidirectional import BidirectionalRNN, Gradients, States, state_jacobian
from shoal.exact.graphs import (
    Graph,
    attention_by_messages,
    fully_connected,
    message_passing,
    seen_graph,
    softmax_average,
    total,
)
from shoal.exact.linear_recurrence import jordan_block, power_norms, recurrence, spectral_radius
from shoal.exact.normalisation import AXES, Moments, moments, normalise
from shoal.exact.parity import (
    HARD,
    Gates,
    bit_strings,
    cell_states,
    hard_sigmoid,
    hard_tanh,
    parities,
    parity_cell,
    soft_gates,
)
from shoal.exact.threshold import (
    AND,
    NAND,
    OR,
    XOR,
    Infeasible,
    ThresholdNeuron,
    certify,
    inputs,
    separable_functions,
)

__all__ = [
    "AND",
    "AXES",
    "HARD",
    "NAND",
    "OR",
    "XOR",
    "BidirectionalRNN",
    "Gates",
    "Gradients",
    "Graph",
    "Infeasible",
    "Moments",
    "States",
    "ThresholdNeuron",
    "attention_by_messages",
    "bit_strings",
    "cell_states",
    "certify",
    "fully_connected",
    "hard_sigmoid",
    "hard_tanh",
    "inputs",
    "jordan_block",
    "message_passing",
    "moments",
    "normalise",
    "parities",
    "parity_cell",
    "power_norms",
    "recurrence",
    "seen_graph",
    "separable_functions",
    "soft_gates",
    "softmax_average",
    "spectral_radius",
    "state_jacobian",
    "total",
]
