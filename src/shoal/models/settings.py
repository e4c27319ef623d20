"""Who learns: what each model family can be asked for, how it is built from that, and how large it is.

``torch`` is imported by what is built, not by what is asked for.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.spec.fields import Part, choice, set_default, setting

if TYPE_CHECKING:
    from torch import nn

    from shoal.tasks.settings import Sizes

NON_LINEARITIES = ("gelu", "relu", "swiglu")
NORMS = ("layernorm", "rmsnorm", "none")
NORM_POSITIONS = ("post", "pre", "pre_stream")
DROPOUT_AT = ("feed_forward", "everywhere", "neurons_too")
POSITIONS = ("sinusoidal", "vaswani", "learned", "rotary", "none")


class ModelSettings(Part):
    """The settings of a model family, from which it is built.

    A family is a ``torch.nn.Module`` whose ``forward(tokens (B, S))`` gives logits ``(B, S, V)`` first and anything
    else after them, or whatever its tasks take. It knows nothing of stacks: the engine lifts it.

    Attributes:
        reads: what its ``forward`` is called with: ``sequence``, tokens ``(B, S)`` of which each predicts the next;
            ``pair``, a source ``(B, S)``, the target so far ``(B, T)`` and which tokens of the source count ``(B, S)``
            bool; or ``source``, a source and which of its tokens count, and each predicts the token of the target in
            its place.
        shares_prefixes: equal prefixes have equal states, and the engines that compute them once know the family.
        calling: keyword arguments with which the module is called where nothing but its logits is wanted.
        fusing: further ones, for attention in one operation, which rounds otherwise than written out; where the task
            allows it (:func:`shoal.tasks.build.calling`).
    """

    reads: ClassVar[str] = "sequence"
    shares_prefixes: ClassVar[bool] = False
    calling: ClassVar[Mapping[str, Any]] = {}
    fusing: ClassVar[Mapping[str, Any]] = {}

    def build(self, sizes: "Sizes") -> "nn.Module":
        """A module with initial values from torch's global generator."""
        raise NotImplementedError

    def count(self, sizes: "Sizes") -> int:
        """P: learnable parameters without embeddings; counted on a model without values, where no closed form is."""
        import torch

        from shoal.models.families import count_parameters

        with torch.device("meta"):
            module = self.build(sizes)
        return count_parameters(module, self.roles(module))

    def count_tables(self, sizes: "Sizes") -> int:
        """Learnable parameters of embeddings, about."""
        return sizes.vocabulary_size * int(getattr(self, "embedding_size", 0))

    def roles(self, module: "nn.Module") -> Mapping[str, str]:
        """What each parameter is for, by name: ``table``, ``head``, ``matrix`` or ``vector``.

        By the kind of module that holds it, of what is not said otherwise: those of ``nn.Embedding`` are tables, what
        has at least two dimensions is a matrix, and all else a vector.
        """
        from shoal.models.families import usual_roles

        return usual_roles(module)

    def without_effect(self, names: Sequence[str]) -> list[str]:
        """Those of the parameters on which the outputs do not depend, so that rounding alone moves them."""
        return []

    def floats_per_position(self) -> float:
        """Numbers that the forward pass keeps for the backward pass at each position of a batch, with gradients."""
        width = int(getattr(self, "embedding_size", 0)) or 64
        return 40.0 * width * int(getattr(self, "num_layers", 2))

    def warnings(self, precision: str) -> list[str]:
        """Lines about what is known of training the family in a precision."""
        return []

    def describe(self) -> str:
        """``"2 layers, d 128"``; nothing where there is nothing to say."""
        layers, width = getattr(self, "num_layers", None), getattr(self, "embedding_size", None)
        said = [] if layers is None else [f"{layers} layer{'s' * (layers > 1)}"]
        return ", ".join([*said, *([] if width is None else [f"d {width}"])])

    def sizes_named(self) -> list[str]:
        """The settings that make the model large."""
        return [name for name in ("num_layers", "embedding_size") if name in type(self).model_fields]


class SequenceModel(ModelSettings):
    """What the families of the practical share."""

    num_layers: int = setting(2, "layers", "an integer of at least 1", ge=1)
    embedding_size: int = setting(128, "width of the embeddings", "an integer of at least 1", ge=1)
    dropout: float = setting(0.0, "dropout probability", "in [0, 1)", in_float32=True, ge=0, lt=1, allow_inf_nan=False)
    bias: bool = setting(True, "biases in the LSTM gates or the attention", "true or false")
    bias_classifier: bool = setting(True, "bias in the classifier", "true or false")
    share_embeddings: bool = setting(False, "tie the classifier's weight to the embedding's", "true or false")

    shares_prefixes: ClassVar[bool] = True

    def roles(self, module: "nn.Module") -> Mapping[str, str]:
        """What each parameter is for: embeddings are tables, the classifier is the head."""
        from shoal.models.families import usual_roles

        return usual_roles(module, tables=("embedding",), heads=("classifier",))

    def _check_nanda(self, initialisation: str) -> None:
        if initialisation == "nanda" and self.share_embeddings:
            raise UserError(
                "initialisation=nanda does not apply to share_embeddings=True: it draws the classifier apart"
            )


class LSTMSettings(SequenceModel):
    """The LSTM of the practical."""

    name: ClassVar[str] = "lstm"
    label: ClassVar[str] = "LSTM"
    trajectory: ClassVar[int] = 2  # gates start from Xavier's distribution, as in the practical's code

    hidden_size: int | None = setting(
        None, "width of the states", "an integer of at least 1", follows="embedding_size", ge=1
    )
    initialisation: str = choice(
        "xavier",
        "where linear layers start; scaled_normal, all from N(0, 1/embedding_size); nanda, so but the classifier from "
        "N(0, 1/tokens)",
        ("torch", "xavier", "scaled_normal", "nanda"),
        may_be_open=True,
    )

    def fill(self) -> None:
        """States are as wide as embeddings."""
        set_default(self, "hidden_size", self.embedding_size)

    def check(self) -> None:
        """See :class:`Part`."""
        if self.dropout > 0 and self.num_layers == 1:
            raise UserError(f"dropout={self.dropout} does not apply to an lstm of one layer: it acts between layers")
        if self.share_embeddings and self.hidden_size != self.embedding_size:
            raise UserError(
                f"share_embeddings needs hidden_size equal to embedding_size, got {self.hidden_size} and "
                f"{self.embedding_size}"
            )
        self._check_nanda(self.initialisation)

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`."""
        from shoal.models.families import build_lstm

        return build_lstm(self, sizes)

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.families import count_lstm

        return count_lstm(self, sizes.vocabulary_size)

    def floats_per_position(self) -> float:
        """See :class:`ModelSettings`."""
        assert self.hidden_size is not None
        return self.num_layers * 28 * self.hidden_size + 2 * self.embedding_size

    def sizes_named(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["num_layers", "embedding_size", "hidden_size"]


class GPTSettings(SequenceModel):
    """The GPT of the practical, and its variants."""

    name: ClassVar[str] = "gpt"
    label: ClassVar[str] = "GPT"
    calling: ClassVar[Mapping[str, Any]] = {"details": False}
    fusing: ClassVar[Mapping[str, Any]] = {"fused": True}

    num_heads: int = setting(
        4, "attention heads", "an integer of at least 1 that divides embedding_size", may_be_open=True, ge=1
    )
    multiplier: float = setting(
        4.0, "feed-forward width over embedding_size", "a positive number", may_be_open=True, gt=0, allow_inf_nan=False
    )
    non_linearity: str = choice("gelu", "activation", NON_LINEARITIES, may_be_open=True)
    norm: str = choice("layernorm", "what normalises", NORMS, may_be_open=True)
    norm_position: str = choice(
        "post",
        "normalise after each residual, before each branch, or the stream itself before attention",
        NORM_POSITIONS,
        may_be_open=True,
    )
    positions: str = choice(
        "sinusoidal", "position encoding (vaswani: sinusoidal as in the original)", POSITIONS, may_be_open=True
    )
    bias_norm: bool = setting(True, "shift of each LayerNorm", "true or false")
    dropout_at: str = choice(
        "feed_forward",
        "where dropout acts: on what feed-forward layers add; everywhere, as in GPT-2; or on their neurons, too",
        DROPOUT_AT,
    )
    bias_ffn: bool = setting(False, "biases in the feed-forward layers", "true or false", may_be_open=True)
    initialisation: str = choice(
        "torch",
        "where linear layers start; torch_attention, attention as in torch.nn; scaled_normal, all from "
        "N(0, 1/embedding_size); nanda, so but the classifier from N(0, 1/tokens); gpt2, all from N(0, 0.02²), what is "
        "added to the residual stream from N(0, 0.02²/2L)",
        ("torch", "xavier", "torch_attention", "scaled_normal", "nanda", "gpt2"),
        may_be_open=True,
    )

    def check(self) -> None:
        """See :class:`Part`."""
        check_transformer(self)
        self._check_nanda(self.initialisation)

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`."""
        from shoal.models.families import build_gpt

        return build_gpt(self, sizes)

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.families import count_gpt

        return count_gpt(self, sizes.vocabulary_size)

    def without_effect(self, names: Sequence[str]) -> list[str]:
        """See :class:`ModelSettings`: biases of keys, which softmax does not see unless positions turn them."""
        return [] if self.positions == "rotary" else [name for name in names if name.endswith("W_K.bias")]

    def floats_per_position(self) -> float:
        """See :class:`ModelSettings`."""
        attention = 28 if self.norm_position != "post" else 24  # the sum is kept beside what was normalised
        neurons = 8 if self.non_linearity == "swiglu" else 6  # three arrays of two thirds as many
        neurons += 2 * (self.dropout_at == "neurons_too")
        width = self.embedding_size
        return self.num_layers * (attention * width + neurons * self.multiplier * width)

    def sizes_named(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["num_layers", "embedding_size", "multiplier"]

    def warnings(self, precision: str) -> list[str]:
        """See :class:`ModelSettings`."""
        if precision != "bfloat16":
            return []
        return ["warning: in 16 seeds of a small GPT, 8 generalised in bfloat16 and 12 in float32 (p = 0.14)"]


def check_transformer(settings: Any) -> None:
    """Raise :class:`UserError` for a form of blocks whose settings do not go together."""
    if settings.norm == "none" and settings.norm_position != "post":
        raise UserError(
            f"norm_position={settings.norm_position} does not apply to norm 'none'; it applies to layernorm rmsnorm"
        )
    if not settings.bias_norm and settings.norm != "layernorm":
        raise UserError(f"bias_norm=False does not apply to norm {settings.norm!r}; it applies to layernorm")
    if settings.embedding_size % settings.num_heads:
        raise UserError(
            f"num_heads must divide embedding_size, got num_heads={settings.num_heads} and "
            f"embedding_size={settings.embedding_size}"
        )
    neurons, form = settings.multiplier * settings.embedding_size, ""
    if settings.non_linearity == "swiglu":
        neurons, form = 2 * neurons / 3, " and non_linearity='swiglu', which has two thirds"
    if int(neurons) < 1:
        raise UserError(
            f"multiplier={settings.multiplier} leaves no feed-forward neuron at "
            f"embedding_size={settings.embedding_size}{form}"
        )
    if settings.positions == "rotary" and settings.embedding_size // settings.num_heads % 2:
        raise UserError(
            f"positions='rotary' turns pairs and needs an even embedding_size / num_heads, got "
            f"{settings.embedding_size} / {settings.num_heads}"
        )
