"""Small exact models: understood completely, and computed without training.

:class:`BidirectionalRNN` has its gradients derived by hand; :class:`ThresholdNeuron`, :data:`AND` and :data:`OR` are
single neurons, and :func:`certify` proves in exact fractions that a Boolean function such as :data:`XOR` has none;
:func:`parity_cell` is an LSTM whose cell state is the parity of the bits that it has read.

>>> from shoal.exact import XOR, bit_strings, cell_states, certify, parities
>>> certify(XOR).contradiction()
'0 ≤ (w2 + b) + (w1 + b) = (b) + (w1 + w2 + b) < 0'
>>> bool((cell_states(bit_strings(12)) == parities(bit_strings(12))).all())
True
"""

from shoal.exact.bidirectional import BidirectionalRNN, Gradients, States, state_jacobian
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
    "HARD",
    "NAND",
    "OR",
    "XOR",
    "BidirectionalRNN",
    "Gates",
    "Gradients",
    "Infeasible",
    "States",
    "ThresholdNeuron",
    "bit_strings",
    "cell_states",
    "certify",
    "hard_sigmoid",
    "hard_tanh",
    "inputs",
    "parities",
    "parity_cell",
    "separable_functions",
    "soft_gates",
    "state_jacobian",
]
