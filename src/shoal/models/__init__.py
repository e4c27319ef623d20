"""Model families: one readable file per family, plain ``torch.nn`` modules without any code of training."""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from shoal.models.attention import MultiHeadedAttention
    from shoal.models.cache import DecodingState, select
    from shoal.models.embedding import GPTEmbedding
    from shoal.models.encoder import Encoder
    from shoal.models.encoder_decoder import CrossBlock, CrossDecoder, EncoderDecoder
    from shoal.models.encoder_translator import EncoderTranslator
    from shoal.models.families import attention_parameters, count_parameters, decoder_parameters, lstm_parameters
    from shoal.models.feed_forward import SwiGLU
    from shoal.models.gpt import GPT, Block, Decoder, Variant
    from shoal.models.lstm import LSTM, LSTMLM, LSTMCell
    from shoal.models.lstm_encoder_decoder import LSTMEncoder, LSTMEncoderDecoder, LuongAttention
    from shoal.models.non_autoregressive import NonAutoregressive
    from shoal.models.norms import LayerNorm, RMSNorm
    from shoal.models.settings import ModelSettings

__all__ = [
    "GPT",
    "LSTM",
    "LSTMLM",
    "Block",
    "CrossBlock",
    "CrossDecoder",
    "Decoder",
    "DecodingState",
    "Encoder",
    "EncoderDecoder",
    "EncoderTranslator",
    "GPTEmbedding",
    "LSTMCell",
    "LSTMEncoder",
    "LSTMEncoderDecoder",
    "LayerNorm",
    "LuongAttention",
    "ModelSettings",
    "MultiHeadedAttention",
    "NonAutoregressive",
    "RMSNorm",
    "SwiGLU",
    "Variant",
    "attention_parameters",
    "count_parameters",
    "decoder_parameters",
    "lstm_parameters",
    "select",
]

# loaded when asked for: settings are read without torch
_HOMES = {
    "families": ("attention_parameters", "count_parameters", "decoder_parameters", "lstm_parameters"),
    "attention": ("MultiHeadedAttention",),
    "cache": ("DecodingState", "select"),
    "embedding": ("GPTEmbedding",),
    "encoder": ("Encoder",),
    "encoder_decoder": ("CrossBlock", "CrossDecoder", "EncoderDecoder"),
    "encoder_translator": ("EncoderTranslator",),
    "feed_forward": ("SwiGLU",),
    "gpt": ("GPT", "Block", "Decoder", "Variant"),
    "lstm": ("LSTM", "LSTMLM", "LSTMCell"),
    "lstm_encoder_decoder": ("LSTMEncoder", "LSTMEncoderDecoder", "LuongAttention"),
    "non_autoregressive": ("NonAutoregressive",),
    "norms": ("LayerNorm", "RMSNorm"),
    "settings": ("ModelSettings",),
}


def __getattr__(name: str) -> Any:
    home = next((home for home, names in _HOMES.items() if name in names), None)
    if home is None:
        raise AttributeError(f"module 'shoal.models' has no attribute {name!r}")
    return getattr(importlib.import_module(f"shoal.models.{home}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
