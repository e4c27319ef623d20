"""Settings of the model families, from which models are built and their sizes counted.

``torch`` is imported where a model is built, not with its settings.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.spec.fields import Part, choice, set_default, setting

if TYPE_CHECKING:
    from torch import nn

    from shoal.spec.run import RunSpec
    from shoal.tasks.settings import Sizes

NON_LINEARITIES = ("gelu", "relu", "swiglu")
NORMS = ("layernorm", "rmsnorm", "none")
NORM_POSITIONS = ("post", "pre", "pre_stream")
DROPOUT_AT = ("feed_forward", "everywhere", "neurons_too")
POSITIONS = ("sinusoidal", "vaswani", "learned", "rotary", "none")


class ModelSettings(Part):
    """Settings of a model family, from which a model is built.

    A family is a ``torch.nn.Module`` whose ``forward(tokens (B, S))`` gives logits ``(B, S, V)`` first and anything
    else after them, or whatever its tasks take. It is written for one model: the engine lifts it to a stack.

    Attributes:
        reads: inputs of its ``forward``: ``sequence``, tokens ``(B, S)`` of which each predicts the next; ``pair``, a
            source ``(B, S)``, the target so far ``(B, T)`` and a mask of the source's tokens that count ``(B, S)``
            bool; or ``source``, a source and the mask of its tokens, with a prediction for each place, of the target's
            token there; or ``observations``, sequences of symbols or vectors, of a model that is no such module.
        shares_prefixes: equal prefixes have equal states, and the engines that compute them once support the family.
        reads_windows: engine ``windows`` has been written for the module of the family; a class from outside says so
            itself, or counts as one for which it has not.
        fitted_by: kind of update rule that fits it: ``gradient``; or ``em``, of models that are no modules of PyTorch.
        calling: keyword arguments of the module's call where only its logits are used.
        projects: its module can have tables of tokens of another width
            (:attr:`shoal.tasks.settings.Sizes.table_width`).
        fusing: further keyword arguments, for attention in one operation, whose rounding differs; used where the task
            allows it (:func:`shoal.tasks.build.calling`).
    """

    reads: ClassVar[str] = "sequence"
    fitted_by: ClassVar[str] = "gradient"
    shares_prefixes: ClassVar[bool] = False
    reads_windows: ClassVar[bool] = False
    projects: ClassVar[bool] = False
    calling: ClassVar[Mapping[str, Any]] = {}
    fusing: ClassVar[Mapping[str, Any]] = {}

    def build(self, sizes: "Sizes") -> "nn.Module":
        """Module with initial values from torch's global generator."""
        raise NotImplementedError

    def computing(self) -> "ModelSettings":
        """Settings of the family that computes: these, or those of a base."""
        return self

    def count(self, sizes: "Sizes") -> int:
        """Number of learnable parameters P without embeddings; by default counted on a model without values."""
        import torch

        from shoal.models.families import count_parameters

        with torch.device("meta"):
            module = self.build(sizes)
        return count_parameters(module, self.roles(module))

    def count_tables(self, sizes: "Sizes") -> int:
        """Approximate number of learnable parameters of embeddings."""
        return table_numbers(sizes.vocabulary_size, int(getattr(self, "embedding_size", 0)), sizes.table_width)

    def count_base(self) -> int:
        """Number of parameters of the base, which all members share; 0 where there is none."""
        return 0

    def tables(self) -> Mapping[str, str]:
        """Names of the parameters that are tables of tokens: of the ``source``, which is the one sequence of a model
        that reads one, and of the ``target``. Only those named here can begin with pretrained rows."""
        return {}

    def tied_tables(self) -> list[str]:
        """Sides, as in :meth:`tables`, whose table is the classifier's weight, too."""
        return []

    def roles(self, module: "nn.Module") -> Mapping[str, str]:
        """Role of each parameter, by name: ``table``, ``head``, ``matrix`` or ``vector``.

        The default goes by the module that holds it: parameters of ``nn.Embedding`` are tables, others of at least two
        dimensions are matrices, and the rest are vectors.
        """
        from shoal.models.families import usual_roles

        return usual_roles(module)

    def without_effect(self, names: Sequence[str]) -> list[str]:
        """Names of the parameters on which the outputs do not depend, so that rounding alone moves them."""
        return []

    def floats_per_position(self) -> float:
        """Number of floats kept for the backward pass at each position of a batch, gradients included."""
        width = int(getattr(self, "embedding_size", 0)) or 64
        return 40.0 * width * int(getattr(self, "num_layers", 2))

    def warnings(self, precision: str) -> list[str]:
        """Warnings about training the family in a precision, one line each."""
        return []

    def check_run(self, spec: "RunSpec") -> None:
        """Raise :class:`UserError` for a run whose task or update rule does not go with the model."""

    def describe(self) -> str:
        """Short description of the size: ``"2 layers, d 128"``; empty where there is none."""
        layers, width = getattr(self, "num_layers", None), getattr(self, "embedding_size", None)
        depth = [] if layers is None else [f"{layers} layer{'s' * (layers > 1)}"]
        return ", ".join([*depth, *([] if width is None else [f"d {width}"])])

    def sizes_named(self) -> list[str]:
        """Names of the settings that determine the model's size."""
        return [name for name in ("num_layers", "embedding_size") if name in type(self).model_fields]


class SequenceModel(ModelSettings):
    """Settings that the families of the practical share."""

    num_layers: int = setting(2, "layers", "an integer of at least 1", ge=1)
    embedding_size: int = setting(128, "width of the embeddings", "an integer of at least 1", ge=1)
    dropout: float = setting(0.0, "dropout probability", "in [0, 1)", in_float32=True, ge=0, lt=1, allow_inf_nan=False)
    bias: bool = setting(True, "biases in the LSTM gates or the attention", "true or false")
    bias_classifier: bool = setting(True, "bias in the classifier", "true or false")
    share_embeddings: bool = setting(False, "tie the classifier's weight to the embedding's", "true or false")

    shares_prefixes: ClassVar[bool] = True
    reads_windows: ClassVar[bool] = True

    def roles(self, module: "nn.Module") -> Mapping[str, str]:
        """Role of each parameter: embeddings are tables, the classifier is the head."""
        from shoal.models.families import usual_roles

        return usual_roles(module, tables=("embedding",), heads=("classifier",))

    def tied_tables(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["source"] if self.share_embeddings else []

    def _check_nanda(self, initialisation: str) -> None:
        if initialisation == "nanda" and self.share_embeddings:
            raise UserError(
                "initialisation=nanda does not apply to share_embeddings=True: it draws the classifier apart"
            )


class LSTMSettings(SequenceModel):
    """Settings of the LSTM of the practical."""

    name: ClassVar[str] = "lstm"
    label: ClassVar[str] = "LSTM"
    trajectory: ClassVar[int] = 2  # gates start from Xavier's distribution, as in the practical's code

    hidden_size: int | None = setting(
        None, "width of the states", "an integer of at least 1", follows="embedding_size", ge=1
    )
    initialisation: str = choice(
        "xavier",
        "initialisation of linear layers; scaled_normal, all from N(0, 1/embedding_size); nanda, as scaled_normal with "
        "the classifier from N(0, 1/tokens)",
        ("torch", "xavier", "scaled_normal", "nanda"),
        may_be_open=True,
    )

    def fill(self) -> None:
        """Set the width of the states to that of the embeddings where not given."""
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

    def tables(self) -> Mapping[str, str]:
        """See :class:`ModelSettings`."""
        return {"source": "embedding.weight"}

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
    """Settings of the GPT of the practical, and of its variants."""

    name: ClassVar[str] = "gpt"
    label: ClassVar[str] = "GPT"
    projects: ClassVar[bool] = True
    calling: ClassVar[Mapping[str, Any]] = {"details": False}
    fusing: ClassVar[Mapping[str, Any]] = {"fused": True}

    num_heads: int = setting(
        4, "attention heads", "an integer of at least 1 that divides embedding_size", may_be_open=True, ge=1
    )
    multiplier: float = setting(
        4.0, "feed-forward width over embedding_size", "a positive number", may_be_open=True, gt=0, allow_inf_nan=False
    )
    non_linearity: str = choice("gelu", "activation", NON_LINEARITIES, may_be_open=True)
    norm: str = choice("layernorm", "normalisation layer", NORMS, may_be_open=True)
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
        "place of dropout: outputs of feed-forward layers; everywhere, as in GPT-2; or on their neurons, too",
        DROPOUT_AT,
    )
    bias_ffn: bool = setting(False, "biases in the feed-forward layers", "true or false", may_be_open=True)
    initialisation: str = choice(
        "torch",
        "initialisation of linear layers; torch_attention, attention as in torch.nn; scaled_normal, all from "
        "N(0, 1/embedding_size); nanda, as scaled_normal with the classifier from N(0, 1/tokens); "
        "gpt2, all from N(0, 0.02²), what is added to the residual stream from N(0, 0.02²/2L)",
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

    def tables(self) -> Mapping[str, str]:
        """See :class:`ModelSettings`."""
        return {"source": "embedding.tokens.weight"}

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; in closed form."""
        from shoal.models.families import count_gpt

        return count_gpt(self, sizes.vocabulary_size)

    def without_effect(self, names: Sequence[str]) -> list[str]:
        """See :class:`ModelSettings`: biases of keys, which cancel in softmax unless positions are rotary."""
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
        seeds = "in 16 seeds of a small GPT on each of two processors"
        return [f"warning: {seeds}, 8 and 11 generalised in bfloat16, 12 and 10 in float32 (p = 0.14 and 0.65)"]


def table_numbers(rows: int, width: int, table_width: int | None) -> int:
    """Number of parameters of a table, and of the matrix that maps its rows to a width where they have another."""
    return rows * width if table_width is None else (rows + width) * table_width


def check_transformer(settings: Any) -> None:
    """Raise :class:`UserError` for settings of blocks that do not go together."""
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
