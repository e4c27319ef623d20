"""Quantisation of matrices to a few bits per number, and back; functions on tensors.

Absmax quantisation to m-bit integers (:mod:`~shoal.quantisation.absmax`), and 4-bit floats in blocks of 64, NF4 and FP4
(:mod:`~shoal.quantisation.blocks`), whose largest values can be quantised once more
(:mod:`~shoal.quantisation.dynamic`).
"""

from shoal.quantisation.absmax import AbsmaxCodes, quantise_absmax
from shoal.quantisation.blocks import BlockCodes, quantise_blocks

__all__ = ["AbsmaxCodes", "BlockCodes", "quantise_absmax", "quantise_blocks"]
