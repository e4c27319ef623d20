"""What models write: tokens, one after the other, of many models and many rows at once.

Nothing here knows a family. A model is ``start(batch_size, length) -> state`` and
``step(tokens, state, counts) -> (logits, state)`` (:mod:`shoal.models.cache`), and has a ``context_length``, or None.
"""

from shoal.decoding.choice import Decoder, decoder_for
from shoal.decoding.fast_gpt import FastGPT
from shoal.decoding.fast_lstm import FastLSTM
from shoal.decoding.generate import Generated, generate
from shoal.decoding.sampling import Sampling, check_sampling, draw, filtered
from shoal.decoding.stacked import Stacked

__all__ = [
    "Decoder",
    "FastGPT",
    "FastLSTM",
    "Generated",
    "Sampling",
    "Stacked",
    "check_sampling",
    "decoder_for",
    "draw",
    "filtered",
    "generate",
]
