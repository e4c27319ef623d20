"""Construction of models that read a source (:mod:`~shoal.models.pair_settings`), and their numbers of parameters.

Counts are as in :mod:`~shoal.models.families`: all learnable parameters except token and position embeddings; a
classifier that is tied to an embedding counts as one.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from shoal.models.encoder_decoder import EncoderDecoder
from shoal.models.encoder_translator import EncoderTranslator
from shoal.models.families import (
    attention_parameters,
    decoder_parameters,
    initialised,
    lstm_parameters,
    norm_parameters,
    usual_roles,
    variant_of,
)
from shoal.models.gpt import Variant
from shoal.models.lstm_encoder_decoder import LSTMEncoderDecoder
from shoal.models.non_autoregressive import NonAutoregressive
from shoal.models.settings import table_numbers

if TYPE_CHECKING:
    from shoal.models.pair_settings import (
        EncoderDecoderSettings,
        EncoderTranslatorSettings,
        LSTMEncoderDecoderSettings,
        NonAutoregressiveSettings,
        PairModel,
        TransformerOfSources,
    )
    from shoal.tasks.settings import Sizes


def pair_roles(model: nn.Module) -> Mapping[str, str]:
    """Role of each parameter: both embeddings are tables, the classifier is the head."""
    embeddings = [name for name, _ in model.named_children() if name.endswith("_embedding")]
    return usual_roles(model, tables=embeddings, heads=("classifier",))


def source_sizes(config: "PairModel", sizes: "Sizes") -> tuple[int, int]:
    """Size of the sources' vocabulary and largest length of a source.

    Raises:
        UserError: all embeddings are to be tied, and there are two vocabularies.
    """
    vocabulary, length = sizes.source_vocabulary_size, sizes.source_length
    if vocabulary is None or length is None:
        raise ValueError(f"a model of sources needs their sizes, got {sizes}")
    if config.tie_embeddings == "all" and vocabulary != sizes.vocabulary_size:
        raise config.tied_across_vocabularies()
    return vocabulary, length


def build_encoder_decoder(config: "EncoderDecoderSettings", sizes: "Sizes") -> nn.Module:
    """Transformer encoder-decoder of these settings and sizes."""
    assert config.num_encoder_layers is not None and config.num_decoder_layers is not None
    source_vocabulary_size, source_length = source_sizes(config, sizes)
    model = EncoderDecoder(
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        vocabulary_size=sizes.vocabulary_size,
        sequence_length=sizes.sequence_length,
        source_vocabulary_size=source_vocabulary_size,
        source_length=source_length,
        padding_index=sizes.padding_index,
        table_widths=(sizes.source_table_width, sizes.table_width),
        **_of_transformer(config),
    )
    return initialised(model, config, default="torch")


def build_non_autoregressive(config: "NonAutoregressiveSettings", sizes: "Sizes") -> nn.Module:
    """Non-autoregressive transformer of these settings and sizes."""
    assert config.num_encoder_layers is not None and config.num_decoder_layers is not None
    source_vocabulary_size, source_length = source_sizes(config, sizes)
    model = NonAutoregressive(
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        vocabulary_size=sizes.vocabulary_size,
        source_vocabulary_size=source_vocabulary_size,
        length=max(source_length, sizes.sequence_length),
        padding_index=sizes.padding_index,
        table_width=sizes.source_table_width,
        **_of_transformer(config),
    )
    return initialised(model, config, default="torch")


def build_encoder_translator(config: "EncoderTranslatorSettings", sizes: "Sizes") -> nn.Module:
    """Encoder-only translator of these settings and sizes."""
    source_vocabulary_size, source_length = source_sizes(config, sizes)
    model = EncoderTranslator(
        num_layers=config.num_layers,
        source_vocabulary_size=source_vocabulary_size,
        vocabulary_size=sizes.vocabulary_size,
        source_length=source_length,
        table_width=sizes.source_table_width,
        **_of_transformer(config),
    )
    return initialised(model, config, default="torch")


def build_lstm_encoder_decoder(config: "LSTMEncoderDecoderSettings", sizes: "Sizes") -> nn.Module:
    """LSTM encoder-decoder with attention of these settings and sizes."""
    assert config.hidden_size is not None
    assert config.num_encoder_layers is not None and config.num_decoder_layers is not None
    model = LSTMEncoderDecoder(
        vocabulary_size=sizes.vocabulary_size,
        source_vocabulary_size=source_sizes(config, sizes)[0],
        embedding_size=config.embedding_size,
        hidden_size=config.hidden_size,
        num_encoder_layers=config.num_encoder_layers,
        num_decoder_layers=config.num_decoder_layers,
        dropout=config.dropout,
        padding_index=sizes.padding_index,
        bias_lstm=config.bias,
        bias_classifier=config.bias_classifier,
        bidirectional=config.bidirectional,
        tie_embeddings=config.tie_embeddings,
    )
    return initialised(model, config, default="")


def count_encoder_decoder(config: "EncoderDecoderSettings", sizes: "Sizes") -> int:
    """Number of parameters P of :func:`build_encoder_decoder`: its decoder has a second attention per layer."""
    assert config.num_encoder_layers is not None and config.num_decoder_layers is not None
    cross = attention_parameters(config.num_heads, config.embedding_size // config.num_heads, config.bias)
    cross += norm_parameters(config.embedding_size, Variant(**variant_of(config)))
    layers = _blocks(config, config.num_encoder_layers) + _blocks(config, config.num_decoder_layers)
    return layers + config.num_decoder_layers * cross + _classifier(config, config.embedding_size, sizes)


def count_encoder_translator(config: "EncoderTranslatorSettings", sizes: "Sizes") -> int:
    """Number of parameters P of :func:`build_encoder_translator`."""
    return _blocks(config, config.num_layers) + _classifier(config, config.embedding_size, sizes)


def count_lstm_encoder_decoder(config: "LSTMEncoderDecoderSettings", sizes: "Sizes") -> int:
    """Number of parameters P of :func:`build_lstm_encoder_decoder`: attention has three ``(D, D)`` matrices."""
    assert config.hidden_size is not None
    assert config.num_encoder_layers is not None and config.num_decoder_layers is not None
    D, directions = config.hidden_size, 1 + config.bidirectional
    encoder = directions * sum(
        lstm_parameters(D if layer else config.embedding_size, D // directions, 1, config.bias)
        for layer in range(config.num_encoder_layers)
    )
    decoder = lstm_parameters(config.embedding_size, D, config.num_decoder_layers, config.bias)
    return encoder + decoder + 3 * D**2 + _classifier(config, D, sizes)


def count_pair_tables(config: "PairModel", sizes: "Sizes") -> int:
    """Number of parameters of embeddings, those of positions and projections included."""
    rows, length = source_sizes(config, sizes)
    has_target, has_positions = config.reads == "pair", getattr(config, "positions", None) == "learned"
    D = config.embedding_size
    count = table_numbers(rows, D, sizes.source_table_width)
    if has_target and config.tie_embeddings != "all":
        count += table_numbers(sizes.vocabulary_size, D, sizes.table_width)
    if has_positions:
        count += (length + (sizes.sequence_length if has_target else 0)) * D
    return count


def count_non_autoregressive_tables(config: "NonAutoregressiveSettings", sizes: "Sizes") -> int:
    """As :func:`count_pair_tables`: of the target there is a row for BOS, and places as many as the source's."""
    rows, length = source_sizes(config, sizes)
    D, places = config.embedding_size, 2 * max(length, sizes.sequence_length) * (config.positions == "learned")
    return table_numbers(rows, D, sizes.source_table_width) + (1 + places) * D


def _of_transformer(config: "TransformerOfSources") -> dict[str, Any]:
    """Arguments that the transformers among these models share."""
    return {
        "num_heads": config.num_heads,
        "embedding_size": config.embedding_size,
        "multiplier": config.multiplier,
        "dropout": config.dropout,
        "non_linearity": config.non_linearity,
        "bias_attention": config.bias,
        "bias_classifier": config.bias_classifier,
        "tie_embeddings": config.tie_embeddings,
        "scale_embeddings": config.scale_embeddings,
        **variant_of(config),
    }


def _blocks(config: "TransformerOfSources", num_layers: int) -> int:
    """Number of parameters of a stack of blocks without cross-attention."""
    head_size, variant = config.embedding_size // config.num_heads, Variant(**variant_of(config))
    form = (config.multiplier, config.bias, config.non_linearity, variant)
    return decoder_parameters(config.num_heads, head_size, num_layers, *form)


def _classifier(config: "PairModel", width: int, sizes: "Sizes") -> int:
    weight = width * sizes.vocabulary_size if config.tie_embeddings == "none" else 0
    return weight + sizes.vocabulary_size * config.bias_classifier
