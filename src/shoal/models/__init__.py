"""Who learns: one readable file per family, plain ``torch.nn`` modules that know nothing of training."""

from shoal.models.families import (
    attention_parameters,
    count_parameters,
    decoder_parameters,
    lstm_parameters,
)
from shoal.models.gpt import GPT, Block, Decoder, GPTEmbedding, LayerNorm, MultiHeadedAttention
from shoal.models.lstm import LSTM, LSTMLM, LSTMCell

__all__ = [
    "GPT",
    "LSTM",
    "LSTMLM",
    "Block",
    "Decoder",
    "GPTEmbedding",
    "LSTMCell",
    "LayerNorm",
    "MultiHeadedAttention",
    "attention_parameters",
    "count_parameters",
    "decoder_parameters",
    "lstm_parameters",
]
