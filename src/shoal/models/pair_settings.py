"""Settings of the model families that read a source: with a target that they write, or position by position.

``torch`` is imported where a model is built, not with its settings.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

from shoal.errors import UserError
from shoal.models.settings import (
    DROPOUT_AT,
    NON_LINEARITIES,
    NORM_POSITIONS,
    NORMS,
    POSITIONS,
    ModelSettings,
    check_transformer,
)
from shoal.spec.fields import choice, extra, set_default, setting

if TYPE_CHECKING:
    from torch import nn

    from shoal.tasks.settings import Sizes

TIES = ("none", "decoder", "all")
_INITIAL = {
    "torch": "as in torch.nn.Linear",
    "xavier": "inner layers from Xavier's distribution",
    "xavier_all": "embeddings and classifier, too",
    "xavier_weights": "so, with biases as in torch.nn.Linear",
    "torch_attention": "attention as in torch.nn",
    "scaled_normal": "all from N(0, 1/embedding_size)",
    "gpt2": "all from N(0, 0.02²), what is added to the residual stream more narrowly",
}


def _initialisation(default: str, names: Sequence[str]) -> str:
    explained = "; ".join(f"{name}, {_INITIAL[name]}" for name in names)
    start: str = choice(default, f"initialisation of linear layers; {explained}", names, may_be_open=True)
    return start


class PairModel(ModelSettings):
    """Settings that all families which read a source share."""

    reads: ClassVar[str] = "pair"

    num_layers: int = setting(2, "layers", "an integer of at least 1", ge=1)
    embedding_size: int = setting(128, "width of the embeddings", "an integer of at least 1", ge=1)
    dropout: float = setting(0.1, "dropout probability", "in [0, 1)", in_float32=True, ge=0, lt=1, allow_inf_nan=False)
    bias: bool = setting(True, "biases in the LSTM gates or the attention", "true or false")
    bias_classifier: bool = setting(True, "bias in the classifier", "true or false")
    tie_embeddings: str = choice(
        "none", "tie the classifier's weight to the target's embedding, or both to the source's as well", TIES
    )

    def tied_across_vocabularies(self) -> UserError:
        """Error for embeddings that are all to be tied across two vocabularies."""
        other = [name for name in extra(type(self), "tie_embeddings")["choices"] if name != "all"]
        return UserError(
            "tie_embeddings=all needs one vocabulary for sources and targets, and there are two, to which "
            f"{' and '.join(other)} {'apply' if len(other) > 1 else 'applies'}"
        )

    def tables(self) -> Mapping[str, str]:
        """See :class:`ModelSettings`; the one table of both sides counts as the source's."""
        sides = ("source",) if self.reads == "source" or self.tie_embeddings == "all" else ("source", "target")
        table = "tokens.weight" if self.projects else "weight"
        return {side: f"{side}_embedding.{table}" for side in sides}

    def tied_tables(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return {"none": [], "decoder": ["target"], "all": ["source"]}[self.tie_embeddings]

    def roles(self, module: "nn.Module") -> Mapping[str, str]:
        """See :class:`ModelSettings`."""
        from shoal.models.pair_families import pair_roles

        return pair_roles(module)

    def count_tables(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.pair_families import count_pair_tables

        return count_pair_tables(self, sizes)


class TransformerOfSources(PairModel):
    """Settings that the transformers among them share, with the variants that GPT has."""

    projects: ClassVar[bool] = True

    num_heads: int = setting(
        4, "attention heads", "an integer of at least 1 that divides embedding_size", may_be_open=True, ge=1
    )
    multiplier: float = setting(
        4.0, "feed-forward width over embedding_size", "a positive number", may_be_open=True, gt=0, allow_inf_nan=False
    )
    non_linearity: str = choice("relu", "activation", NON_LINEARITIES, may_be_open=True)
    norm: str = choice("layernorm", "normalisation layer", NORMS, may_be_open=True)
    norm_position: str = choice(
        "pre",
        "normalise after each residual, before each branch, or the stream itself before self-attention",
        NORM_POSITIONS,
        may_be_open=True,
    )
    positions: str = choice(
        "learned", "position encoding (vaswani: sinusoidal as in the original)", POSITIONS, may_be_open=True
    )
    bias_norm: bool = setting(True, "shift of each LayerNorm", "true or false")
    dropout_at: str = choice(
        "everywhere",
        "place of dropout: outputs of feed-forward layers; everywhere, as in the original; or on their neurons, too",
        DROPOUT_AT,
    )
    bias_ffn: bool = setting(True, "biases in the feed-forward layers", "true or false", may_be_open=True)
    scale_embeddings: bool = setting(
        False, "multiply embeddings of tokens by the root of embedding_size, as in the original", "true or false"
    )
    initialisation: str = _initialisation("gpt2", tuple(_INITIAL))

    def check(self) -> None:
        """See :class:`Part`."""
        check_transformer(self)

    def without_effect(self, names: Sequence[str]) -> list[str]:
        """See :class:`ModelSettings`: biases of keys; rotary positions rotate self-attention alone."""
        without = ("cross_attn.W_K.bias",) if self.positions == "rotary" else ("W_K.bias",)
        return [name for name in names if name.endswith(without)]

    def _floats_of_layer(self) -> float:
        """Number of floats per position kept for the backward pass by attention (some 32 keys) and feed-forward."""
        neurons = 12 if self.non_linearity == "swiglu" else 9
        neurons += 2 * (self.dropout_at == "neurons_too")
        return 36 * self.embedding_size + 5 * 32 * self.num_heads + neurons * self.multiplier * self.embedding_size


class EncoderDecoderSettings(TransformerOfSources):
    """Settings of the transformer encoder-decoder.

    Its defaults are for some ten thousand sentence pairs and a CPU, where time goes with parameters: two layers of
    width 128 on either side, 0.9 million beside embeddings and classifier; norms before the layers, which train
    without a warm-up of the learning rate (Xiong et al. 2020); and initial values from N(0, 0.02²) with learned
    positions, as in GPT-2, with which the loss begins within 0.1 of ``ln V`` up to a width of 500, whatever the
    vocabulary: logits have a variance of 0.02² times the width, and the loss half of that more.
    """

    name: ClassVar[str] = "encoder_decoder"
    label: ClassVar[str] = "encoder-decoder"
    reads_windows: ClassVar[bool] = True

    num_encoder_layers: int | None = setting(
        None, "layers of the encoder", "an integer of at least 1", follows="num_layers", ge=1
    )
    num_decoder_layers: int | None = setting(
        None, "layers of the decoder", "an integer of at least 1", follows="num_layers", ge=1
    )

    def fill(self) -> None:
        """Set the depths of encoder and decoder to ``num_layers`` where not given."""
        set_default(self, "num_encoder_layers", self.num_layers)
        set_default(self, "num_decoder_layers", self.num_layers)

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`."""
        from shoal.models.pair_families import build_encoder_decoder

        return build_encoder_decoder(self, sizes)

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.pair_families import count_encoder_decoder

        return count_encoder_decoder(self, sizes)

    def floats_per_position(self) -> float:
        """See :class:`ModelSettings`; of the deeper of the two, as one may have nearly all positions."""
        assert self.num_encoder_layers is not None and self.num_decoder_layers is not None
        layer = self._floats_of_layer()
        of_decoder = self.num_decoder_layers * (layer + self._floats_of_cross_attention())
        return max(self.num_encoder_layers * layer, of_decoder) + 4 * self.embedding_size

    def _floats_of_cross_attention(self) -> float:
        """Number of floats per position that the second attention of a decoder's layer keeps beside the rest of it."""
        return 16 * self.embedding_size + 5 * 32 * self.num_heads

    def describe(self) -> str:
        """Short description of the size: ``"2 + 2 layers, d 128"``."""
        return _depths(self.num_encoder_layers, self.num_decoder_layers, self.embedding_size)

    def sizes_named(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["num_encoder_layers", "num_decoder_layers", "embedding_size", "multiplier"]


class NonAutoregressiveSettings(EncoderDecoderSettings):
    """Settings of the non-autoregressive transformer, whose decoder reads no token of the target."""

    name: ClassVar[str] = "non_autoregressive"
    label: ClassVar[str] = "non-autoregressive encoder-decoder"
    reads: ClassVar[str] = "source"

    positions: str = choice(
        "learned",
        "position encoding (vaswani: sinusoidal as in the original)",
        [name for name in POSITIONS if name not in ("rotary", "none")],
        may_be_open=True,
    )
    tie_embeddings: str = choice("none", "tie the classifier's weight to the source's embedding", ("none", "all"))

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`."""
        from shoal.models.pair_families import build_non_autoregressive

        return build_non_autoregressive(self, sizes)

    def floats_per_position(self) -> float:
        """See :class:`ModelSettings`; of both stacks, as they have the same positions."""
        assert self.num_encoder_layers is not None and self.num_decoder_layers is not None
        layers = (self.num_encoder_layers + self.num_decoder_layers) * self._floats_of_layer()
        return layers + self.num_decoder_layers * self._floats_of_cross_attention() + 8 * self.embedding_size

    def count_tables(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.pair_families import count_non_autoregressive_tables

        return count_non_autoregressive_tables(self, sizes)


class EncoderTranslatorSettings(TransformerOfSources):
    """Settings of the encoder-only translator, by default as in the homework: one layer, post-norm, ReLU."""

    name: ClassVar[str] = "encoder_translator"
    label: ClassVar[str] = "encoder translator"
    reads: ClassVar[str] = "source"
    reads_windows: ClassVar[bool] = True

    num_layers: int = setting(1, "layers", "an integer of at least 1", ge=1)
    norm_position: str = choice(
        "post",
        "normalise after each residual, before each branch, or the stream itself before self-attention",
        NORM_POSITIONS,
        may_be_open=True,
    )
    tie_embeddings: str = choice("none", "tie the classifier's weight to the source's embedding", ("none", "all"))

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`."""
        from shoal.models.pair_families import build_encoder_translator

        return build_encoder_translator(self, sizes)

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.pair_families import count_encoder_translator

        return count_encoder_translator(self, sizes)

    def floats_per_position(self) -> float:
        """See :class:`ModelSettings`."""
        return self.num_layers * self._floats_of_layer() + 4 * self.embedding_size

    def sizes_named(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["num_layers", "embedding_size", "multiplier"]


class LSTMEncoderDecoderSettings(PairModel):
    """Settings of the LSTM encoder-decoder with attention.

    One layer on either side is the default: an LSTM computes its positions one after the other, so that on a CPU depth
    costs time as length does.
    """

    name: ClassVar[str] = "lstm_encoder_decoder"
    label: ClassVar[str] = "LSTM encoder-decoder"
    reads_windows: ClassVar[bool] = True

    num_layers: int = setting(1, "layers", "an integer of at least 1", ge=1)
    hidden_size: int | None = setting(
        None, "width of the states", "an integer of at least 1", follows="embedding_size", ge=1
    )
    num_encoder_layers: int | None = setting(
        None, "layers of the encoder", "an integer of at least 1", follows="num_layers", ge=1
    )
    num_decoder_layers: int | None = setting(
        None, "layers of the decoder", "an integer of at least 1", follows="num_layers", ge=1
    )
    bidirectional: bool = setting(
        True, "the encoder runs both ways, with half of hidden_size each", "true or false", may_be_open=True
    )
    initialisation: str = _initialisation(
        "xavier", ("torch", "xavier", "xavier_all", "xavier_weights", "scaled_normal")
    )

    def fill(self) -> None:
        """Set the width of the states and the depths of encoder and decoder where not given."""
        set_default(self, "hidden_size", self.embedding_size)
        set_default(self, "num_encoder_layers", self.num_layers)
        set_default(self, "num_decoder_layers", self.num_layers)

    def check(self) -> None:
        """See :class:`Part`."""
        assert self.hidden_size is not None
        if self.bidirectional and self.hidden_size % 2:
            raise UserError(f"bidirectional=True needs an even hidden_size, got {self.hidden_size}")
        if self.tie_embeddings != "none" and self.hidden_size != self.embedding_size:
            raise UserError(
                f"tie_embeddings={self.tie_embeddings!r} needs hidden_size equal to embedding_size, got "
                f"{self.hidden_size} and {self.embedding_size}"
            )

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`."""
        from shoal.models.pair_families import build_lstm_encoder_decoder

        return build_lstm_encoder_decoder(self, sizes)

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.pair_families import count_lstm_encoder_decoder

        return count_lstm_encoder_decoder(self, sizes)

    def floats_per_position(self) -> float:
        """See :class:`ModelSettings`; of the deeper of the two, and of attention."""
        assert self.hidden_size is not None
        assert self.num_encoder_layers is not None and self.num_decoder_layers is not None
        deepest = max((1 + self.bidirectional) * self.num_encoder_layers, self.num_decoder_layers)
        return deepest * 32 * self.hidden_size + 16 * self.hidden_size + 5 * 32 + 4 * self.embedding_size

    def describe(self) -> str:
        """Short description of the size: ``"1 + 1 layers, d 128"``."""
        return _depths(self.num_encoder_layers, self.num_decoder_layers, self.embedding_size)

    def sizes_named(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["num_encoder_layers", "num_decoder_layers", "embedding_size", "hidden_size"]


def _depths(encoder: int | None, decoder: int | None, width: int) -> str:
    return f"{encoder} + {decoder} layers, d {width}"
