"""Who learns: the model family and its settings."""

from collections.abc import Mapping
from typing import Any

from shoal.errors import UserError
from shoal.spec.fields import Settings, choice, refuse, set_default, setting

# The settings that not every model family has, or not with one default; None means equal to embedding_size.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "lstm": {"hidden_size": None, "initialisation": "xavier"},
    "gpt": {
        "num_heads": 4,
        "multiplier": 4.0,
        "non_linearity": "gelu",
        "norm": "layernorm",
        "norm_position": "post",
        "positions": "sinusoidal",
        "bias_ffn": False,
        "initialisation": "torch",
    },
}
NON_LINEARITIES = ("gelu", "relu", "swiglu")
NORMS = ("layernorm", "rmsnorm", "none")
NORM_POSITIONS = ("post", "pre", "pre_stream")
INITIALISATIONS = ("torch", "xavier", "torch_attention", "scaled_normal", "nanda")
POSITIONS = ("sinusoidal", "vaswani", "learned", "rotary", "none")


class ModelSettings(Settings):
    """The model's family, size and form."""

    model: str = choice("lstm", "model family", FAMILIES)
    num_layers: int = setting(2, "layers", "an integer of at least 1", ge=1)
    embedding_size: int = setting(128, "width of the embeddings", "an integer of at least 1", ge=1)
    hidden_size: int | None = setting(None, "lstm: width of the states", "an integer of at least 1", ge=1)
    num_heads: int | None = setting(
        None, "gpt: attention heads", "an integer of at least 1 that divides embedding_size", ge=1
    )
    multiplier: float | None = setting(
        None, "gpt: feed-forward width over embedding_size", "a positive number", gt=0, allow_inf_nan=False
    )
    non_linearity: str | None = choice(None, "gpt: activation", NON_LINEARITIES)
    norm: str | None = choice(None, "gpt: what normalises", NORMS)
    norm_position: str | None = choice(
        None,
        "gpt: normalise after each residual, before each branch, or the stream itself before attention",
        NORM_POSITIONS,
    )
    positions: str | None = choice(None, "gpt: position encoding (vaswani: sinusoidal as in the original)", POSITIONS)
    bias_ffn: bool | None = setting(None, "gpt: biases in the feed-forward layers", "true or false")
    initialisation: str | None = choice(
        None,
        "where linear layers start; gpt: torch_attention, attention as in torch.nn; scaled_normal, all from "
        "N(0, 1/embedding_size); nanda, so but the classifier from N(0, 1/tokens)",
        INITIALISATIONS,
    )
    dropout: float = setting(0.0, "dropout probability", "in [0, 1)", ge=0, lt=1, allow_inf_nan=False)
    bias: bool = setting(True, "biases in the LSTM gates or the attention", "true or false")
    bias_classifier: bool = setting(True, "bias in the classifier", "true or false")
    share_embeddings: bool = setting(False, "tie the classifier's weight to the embedding's", "true or false")

    def resolve_model(self) -> None:
        """Fill in what was left open; raise :class:`UserError` for what makes no model."""
        if self.norm == "none" and self.norm_position != "post":
            refuse(self, ["norm_position"], "norm", "layernorm rmsnorm")
        fitting = FAMILIES[self.model]
        for name, default in fitting.items():
            set_default(self, name, self.embedding_size if default is None else default)
        for family, own in FAMILIES.items():
            refuse(self, [name for name in own if name not in fitting], "model", family)
        self._check_sizes()
        self._check_initialisation()

    def _check_initialisation(self) -> None:
        if self.initialisation == "torch_attention" and self.model != "gpt":
            refuse(self, ["initialisation"], "model", "gpt")
        if self.initialisation == "nanda" and self.share_embeddings:
            raise UserError(
                "initialisation=nanda does not apply to share_embeddings=True: it draws the classifier apart"
            )

    def _check_sizes(self) -> None:
        if self.num_heads is not None and self.embedding_size % self.num_heads:
            raise UserError(
                f"num_heads must divide embedding_size, got num_heads={self.num_heads} and "
                f"embedding_size={self.embedding_size}"
            )
        if self.multiplier is not None:
            neurons, form = self.multiplier * self.embedding_size, ""
            if self.non_linearity == "swiglu":
                neurons, form = 2 * neurons / 3, " and non_linearity='swiglu', which has two thirds"
            if int(neurons) < 1:
                raise UserError(
                    f"multiplier={self.multiplier} leaves no feed-forward neuron at "
                    f"embedding_size={self.embedding_size}{form}"
                )
        if self.positions == "rotary" and self.num_heads and self.embedding_size // self.num_heads % 2:
            raise UserError(
                f"positions='rotary' turns pairs and needs an even embedding_size / num_heads, got "
                f"{self.embedding_size} / {self.num_heads}"
            )
        if self.model == "lstm" and self.dropout > 0 and self.num_layers == 1:
            raise UserError(f"dropout={self.dropout} does not apply to an lstm of one layer: it acts between layers")
        if self.share_embeddings and self.hidden_size not in (None, self.embedding_size):
            raise UserError(
                f"share_embeddings needs hidden_size equal to embedding_size, got {self.hidden_size} and "
                f"{self.embedding_size}"
            )
