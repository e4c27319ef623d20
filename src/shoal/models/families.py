"""The model families a run can name: how each is built from a run's settings, and how large it is.

Counts follow the practical: P is every learnable parameter except token and position embeddings, be they learned. The
closed form that it gives for the decoder leaves out the two LayerNorms of each block (4 d parameters); its code and
shoal count them.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType
from typing import Any

from torch import nn

from shoal.models.feed_forward import feed_forward_width
from shoal.models.gpt import GPT, PRACTICAL, Variant
from shoal.models.initialisation import INITIALISATIONS
from shoal.models.lstm import LSTMLM


@dataclass(frozen=True)
class Family:
    """One kind of model.

    Attributes:
        build: ``(config, vocabulary_size, sequence_length, padding_index) -> module``; ``config`` is anything with the
            settings as attributes. Initial values are the module's own.
        count: ``(config, vocabulary_size) -> P``, in closed form.
        initialisation: the name of the module's own initial values.
    """

    build: Callable[[Any, int, int, int | None], nn.Module]
    count: Callable[[Any, int], int]
    initialisation: str


def lstm_parameters(input_size: int, hidden_size: int, num_layers: int, bias: bool = True) -> int:
    """Learnable parameters of an :class:`~shoal.models.LSTM`: four gates over ``[x, h]`` in each layer.

    >>> lstm_parameters(input_size=128, hidden_size=128, num_layers=2)
    263168
    """
    d_x, d_h = input_size, hidden_size
    return 4 * (d_x + d_h) * d_h + (num_layers - 1) * 8 * d_h**2 + num_layers * 4 * d_h * bias


def attention_parameters(num_heads: int, head_size: int, bias: bool = True) -> int:
    """Learnable parameters of a :class:`~shoal.models.MultiHeadedAttention`: four projections.

    >>> attention_parameters(num_heads=4, head_size=32, bias=False)
    65536
    """
    d = num_heads * head_size
    return 4 * (d**2 + d * bias)


def feed_forward_parameters(width: int, multiplier: float = 4, non_linearity: str = "gelu", bias: bool = False) -> int:
    """Learnable parameters of a block's feed-forward layer: two matrices, or the three of SwiGLU.

    >>> feed_forward_parameters(96), feed_forward_parameters(96, non_linearity="swiglu")
    (73728, 73728)
    """
    d, d_ff = width, feed_forward_width(width, multiplier, non_linearity)
    inner = 2 if non_linearity == "swiglu" else 1  # matrices into the neurons
    return (inner + 1) * d * d_ff + (inner * d_ff + d) * bias


def decoder_parameters(
    num_heads: int,
    head_size: int,
    num_layers: int,
    multiplier: float = 4,
    bias: bool = True,
    non_linearity: str = "gelu",
    variant: Variant = PRACTICAL,
) -> int:
    """Learnable parameters of a :class:`~shoal.models.Decoder`: attention, feed-forward and two norms per block.

    >>> decoder_parameters(num_heads=4, head_size=32, num_layers=2)
    395264
    """
    d = num_heads * head_size
    attention = attention_parameters(num_heads, head_size, bias)
    ffn = feed_forward_parameters(d, multiplier, non_linearity, variant.bias_ffn)
    norm = {"layernorm": d + d * variant.bias_norm, "rmsnorm": d, "none": 0}[variant.norm]
    last = norm if variant.norm_position != "post" else 0
    return num_layers * (attention + ffn + 2 * norm) + last


def count_parameters(model: nn.Module) -> int:
    """P of a built model: its learnable parameters less those of ``model.embedding``."""
    total = sum(p.numel() for p in model.parameters() if p.requires_grad)
    embedding = model.get_submodule("embedding")
    return total - sum(p.numel() for p in embedding.parameters() if p.requires_grad)


def _classifier_parameters(config: Any, width: int, vocabulary_size: int) -> int:
    weight = 0 if config.share_embeddings else width * vocabulary_size
    return weight + (vocabulary_size if config.bias_classifier else 0)


def _build_lstm(config: Any, vocabulary_size: int, sequence_length: int, padding_index: int | None) -> nn.Module:
    return LSTMLM(
        vocabulary_size=vocabulary_size,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        dropout=config.dropout,
        padding_index=padding_index,
        bias_lstm=config.bias,
        bias_classifier=config.bias_classifier,
        share_embeddings=config.share_embeddings,
    )


def _count_lstm(config: Any, vocabulary_size: int) -> int:
    lstm = lstm_parameters(config.embedding_size, config.hidden_size, config.num_layers, config.bias)
    return lstm + _classifier_parameters(config, config.hidden_size, vocabulary_size)


def _build_gpt(config: Any, vocabulary_size: int, sequence_length: int, padding_index: int | None) -> nn.Module:
    return GPT(
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        embedding_size=config.embedding_size,
        vocabulary_size=vocabulary_size,
        sequence_length=sequence_length,
        multiplier=config.multiplier,
        dropout=config.dropout,
        non_linearity=config.non_linearity,
        padding_index=padding_index,
        bias_attention=config.bias,
        bias_classifier=config.bias_classifier,
        share_embeddings=config.share_embeddings,
        **_variant(config),
    )


def _variant(config: Any) -> dict[str, Any]:
    """The settings that make a :class:`~shoal.models.Variant`; one that a config does not have is the practical's."""
    return {field.name: getattr(config, field.name, field.default) for field in fields(Variant)}


def _count_gpt(config: Any, vocabulary_size: int) -> int:
    head_size = config.embedding_size // config.num_heads
    decoder = decoder_parameters(
        config.num_heads,
        head_size,
        config.num_layers,
        config.multiplier,
        config.bias,
        config.non_linearity,
        Variant(**_variant(config)),
    )
    return decoder + _classifier_parameters(config, config.embedding_size, vocabulary_size)


FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "lstm": Family(_build_lstm, _count_lstm, "xavier"),
        "gpt": Family(_build_gpt, _count_gpt, "torch"),
    }
)


def build(config: Any, vocabulary_size: int, sequence_length: int, padding_index: int | None) -> nn.Module:
    """The model that a config names, with initial values from torch's global generator."""
    family = FAMILIES[config.model]
    model = family.build(config, vocabulary_size, sequence_length, padding_index)
    if config.initialisation != family.initialisation:
        INITIALISATIONS[config.initialisation](model, config.embedding_size)
    return model
