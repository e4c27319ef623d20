"""Construction of models from their settings, and their numbers of parameters.

Counts follow the practical: P is the number of learnable parameters except token and position embeddings, be they
learned. The closed form that it gives for the decoder leaves out the two LayerNorms of each block (4 d parameters); its
code and shoal count them.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any

from torch import nn

from shoal.models.feed_forward import feed_forward_width
from shoal.models.gpt import GPT, PRACTICAL, Variant
from shoal.models.initialisation import INITIALISATIONS
from shoal.models.lstm import LSTMLM


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
    norm = norm_parameters(d, variant)
    last = norm if variant.norm_position != "post" else 0
    return num_layers * (attention + ffn + 2 * norm) + last


def norm_parameters(width: int, variant: Variant = PRACTICAL) -> int:
    """Learnable parameters of one norm.

    >>> norm_parameters(128)
    256
    """
    return {"layernorm": width + width * variant.bias_norm, "rmsnorm": width, "none": 0}[variant.norm]


def count_parameters(model: nn.Module, roles: Mapping[str, str] | None = None) -> int:
    """Number of learnable parameters P of a built model, without tables, by default those of ``model.embedding``."""
    roles = roles or usual_roles(model, tables=("embedding",))
    return sum(p.numel() for name, p in model.named_parameters() if p.requires_grad and roles[name] != "table")


def usual_roles(model: nn.Module, tables: Sequence[str] = (), heads: Sequence[str] = ()) -> dict[str, str]:
    """Role of each parameter of a model, by name: ``table``, ``head``, ``matrix`` or ``vector``.

    Args:
        model: the model.
        tables: names of modules all of whose parameters are tables, besides every ``nn.Embedding``.
        heads: names of modules all of whose parameters belong to the head, which gives the logits.
    """
    inside = {
        "table": [*tables, *(name for name, module in model.named_modules() if isinstance(module, nn.Embedding))],
        "head": list(heads),
    }
    roles = {}
    for name, parameter in model.named_parameters():
        matching = (
            role for role, modules in inside.items() if any(name.startswith(f"{module}.") for module in modules)
        )
        roles[name] = next(matching, "matrix" if parameter.ndim >= 2 else "vector")
    return roles


def _classifier_parameters(config: Any, width: int, vocabulary_size: int) -> int:
    weight = 0 if config.share_embeddings else width * vocabulary_size
    return weight + (vocabulary_size if config.bias_classifier else 0)


def build_lstm(config: Any, sizes: Any) -> nn.Module:
    """LSTM language model of these settings (:class:`~shoal.models.settings.LSTMSettings`) and sizes."""
    model = LSTMLM(
        vocabulary_size=sizes.vocabulary_size,
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        num_layers=config.num_layers,
        dropout=config.dropout,
        padding_index=sizes.padding_index,
        bias_lstm=config.bias,
        bias_classifier=config.bias_classifier,
        share_embeddings=config.share_embeddings,
    )
    return initialised(model, config, default="xavier")


def count_lstm(config: Any, vocabulary_size: int) -> int:
    """Number of parameters P of :func:`build_lstm`."""
    lstm = lstm_parameters(config.embedding_size, config.hidden_size, config.num_layers, config.bias)
    return lstm + _classifier_parameters(config, config.hidden_size, vocabulary_size)


def build_gpt(config: Any, sizes: Any) -> nn.Module:
    """GPT of these settings (:class:`~shoal.models.settings.GPTSettings`) and sizes."""
    model = GPT(
        num_heads=config.num_heads,
        num_layers=config.num_layers,
        embedding_size=config.embedding_size,
        vocabulary_size=sizes.vocabulary_size,
        sequence_length=sizes.sequence_length,
        multiplier=config.multiplier,
        dropout=config.dropout,
        non_linearity=config.non_linearity,
        padding_index=sizes.padding_index,
        bias_attention=config.bias,
        bias_classifier=config.bias_classifier,
        share_embeddings=config.share_embeddings,
        table_width=sizes.table_width,
        **variant_of(config),
    )
    return initialised(model, config, default="torch")


def variant_of(config: Any) -> dict[str, Any]:
    """Settings that make a :class:`~shoal.models.Variant`; those that a config lacks are the practical's."""
    return {field.name: getattr(config, field.name, field.default) for field in fields(Variant)}


def count_gpt(config: Any, vocabulary_size: int) -> int:
    """Number of parameters P of :func:`build_gpt`."""
    head_size = config.embedding_size // config.num_heads
    decoder = decoder_parameters(
        config.num_heads,
        head_size,
        config.num_layers,
        config.multiplier,
        config.bias,
        config.non_linearity,
        Variant(**variant_of(config)),
    )
    return decoder + _classifier_parameters(config, config.embedding_size, vocabulary_size)


def initialised(model: nn.Module, config: Any, default: str) -> nn.Module:
    """Model with the initial values that its settings name, where these are not its ``default``."""
    if config.initialisation != default:
        INITIALISATIONS[config.initialisation](model, config.embedding_size)
    return model
