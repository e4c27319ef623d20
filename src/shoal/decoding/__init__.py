"""Decoding: the tokens that models write, one after the other, for many models and many rows at once.

Searches are independent of model families. A model has ``start(batch_size, length) -> state``,
``step(tokens, state, counts) -> (logits, state)`` (:mod:`shoal.models.cache`) and a ``context_length``, or None. A
search continues from any state and the logits after it, by any object that steps (:class:`Steps`).
"""

from shoal.decoding.beam import PLACES, Beam, Searched, beam_search, check_beam
from shoal.decoding.choice import Decoder, decoder_for, decoders_for
from shoal.decoding.exhaustive import check_exhaustive, exhaustive_search
from shoal.decoding.fast_gpt import FastGPT
from shoal.decoding.fast_lstm import FastLSTM
from shoal.decoding.generate import Generated, generate, generate_from
from shoal.decoding.hypotheses import Hypotheses
from shoal.decoding.sampling import Sampling, check_sampling, draw, filtered
from shoal.decoding.stacked import Stacked
from shoal.decoding.stepping import Steps
from shoal.decoding.stopping import STOPS
from shoal.decoding.tree import BeamTree, Candidate

__all__ = [
    "PLACES",
    "STOPS",
    "Beam",
    "BeamTree",
    "Candidate",
    "Decoder",
    "FastGPT",
    "FastLSTM",
    "Generated",
    "Hypotheses",
    "Sampling",
    "Searched",
    "Stacked",
    "Steps",
    "beam_search",
    "check_beam",
    "check_exhaustive",
    "check_sampling",
    "decoder_for",
    "decoders_for",
    "draw",
    "exhaustive_search",
    "filtered",
    "generate",
    "generate_from",
]
