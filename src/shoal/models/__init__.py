"""Who learns: one readable file per family, plain ``torch.nn`` modules that know nothing of training."""

from shoal.models.attention import MultiHeadedAttention
from shoal.models.cache import DecodingState, select
from shoal.models.embedding import GPTEmbedding
from shoal.models.families import (
    attention_parameters,
    count_parameters,
    decoder_parameters,
    lstm_parameters,
)
from shoal.models.feed_forward import SwiGLU
from shoal.models.gpt import GPT, Block, Decoder, Variant
from shoal.models.lstm import LSTM, LSTMLM, LSTMCell
from shoal.models.norms import LayerNorm, RMSNorm

__all__ = [
    "GPT",
    "LSTM",
    "LSTMLM",
    "Block",
    "Decoder",
    "DecodingState",
    "GPTEmbedding",
    "LSTMCell",
    "LayerNorm",
    "MultiHeadedAttention",
    "RMSNorm",
    "SwiGLU",
    "Variant",
    "attention_parameters",
    "count_parameters",
    "decoder_parameters",
    "lstm_parameters",
    "select",
]
