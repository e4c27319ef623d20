"""Settings of fine-tuning: the base, and what of it is trained: low-rank adapters, or everything."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.models.settings import ModelSettings
from shoal.spec.fields import choice, set_default, setting

if TYPE_CHECKING:
    from torch import nn

    from shoal.spec.run import RunSpec
    from shoal.tasks.settings import Sizes

ADAPTERS = ("lora", "qlora", "full")
QUANTIZATIONS = ("nf4", "fp4", "absmax")
RANK = 8
_OF_LORA = ("lora_rank", "lora_alpha", "lora_width", "lora_targets")
_OF_QLORA = ("quantization", "quantization_bits")


class FineTunedSettings(ModelSettings):
    """Settings of a fine-tuned model.

    The identity of a run depends on the content of its base (``base_key``), not on its path.
    """

    name: ClassVar[str] = "finetuned"
    label: ClassVar[str] = "fine-tuned"
    reads_files: ClassVar[bool] = True
    reads_windows: ClassVar[bool] = True

    base_model: str = setting(
        "",
        "model that is fine-tuned",
        "a file of a lab's models, or a folder or downloaded model of GPT-2's architecture",
        operational=True,
    )
    base_key: str | None = setting(
        None,
        "the base's content, as the first digits of a SHA-256; computed where the base is given",
        "16 hexadecimal digits",
        derived=True,
        pattern="^[0-9a-f]{16}$",
    )
    base_settings: str | None = setting(
        None, "family, settings and sizes of the base; read where the base is given", "a JSON object", derived=True
    )
    adapter: str = choice(
        "lora", "what is trained: low-rank adapters, the same on a quantised base, or the whole base", ADAPTERS
    )
    lora_rank: int | None = setting(
        None, f"rank of the adapters ({RANK} when not given)", "an integer of at least 1", member=True, ge=1
    )
    lora_alpha: float | None = setting(
        None,
        "factor of the adapters, before it is divided by the rank; the rank when not given",
        "a positive number",
        member=True,
        follows="lora_rank",
        gt=0,
        allow_inf_nan=False,
    )
    lora_width: int | None = setting(
        None,
        "rank up to which adapters are padded with zeros, so that several ranks train as one cohort",
        "an integer of at least lora_rank",
        operational=True,
        follows="lora_rank",
        ge=1,
    )
    lora_targets: str | None = setting(
        None,
        "linear layers that are adapted; all but W_O and the classifier when not given",
        "parts of their names, joined by commas, such as W_Q,W_V",
    )
    lora_dropout: float = setting(
        0.0,
        "dropout probability of the adapters' inputs",
        "in [0, 1)",
        in_float32=True,
        ge=0,
        lt=1,
        allow_inf_nan=False,
    )
    quantization: str | None = choice(None, "form of a quantised base; nf4 when not given", QUANTIZATIONS)
    quantization_bits: int | None = setting(
        None, "bits of absmax (4 when not given)", "an integer from 2 to 8", ge=2, le=8
    )
    quantization_rounding: str = choice("nearest", "rounding of absmax", ("nearest", "floor"))
    double_quantization: bool = setting(False, "store the scales of nf4 and fp4 in 8 bits", "true or false")
    dropout: float = setting(
        0.0, "dropout probability of the base", "in [0, 1)", in_float32=True, ge=0, lt=1, allow_inf_nan=False
    )

    def fill(self) -> None:
        """Set the rank, its factor and the quantisation where the adapter has them."""
        if self.adapter != "full":
            set_default(self, "lora_rank", RANK)
            set_default(self, "lora_alpha", float(self.lora_rank or RANK))
            set_default(self, "lora_width", self.lora_rank)
        if self.adapter == "qlora":
            set_default(self, "quantization", QUANTIZATIONS[0])
            if self.quantization == "absmax":
                set_default(self, "quantization_bits", 4)

    def derived(self) -> list[str]:
        """See :class:`Part`: the key and the description of the base."""
        return ["base_key", "base_settings"] if self.base_model else []

    def check(self) -> None:
        """See :class:`Part`."""
        self._check_adapter()
        if not self.base_model and self.base_key is None:
            raise UserError(
                "model finetuned needs a base: shoal finetune RUN, or --base-model FILE (base_model=… from Python)"
            )
        if self.base_key is None or self.base_settings is None:
            from shoal.models.bases import read_base
            from shoal.models.hub import located_model

            base = read_base(self.base_model)
            object.__setattr__(self, "base_model", str(located_model(self.base_model).absolute()))
            object.__setattr__(self, "base_key", base.key)
            object.__setattr__(self, "base_settings", base.described)
        if self.adapter != "full":
            self._check_rank()

    def check_new(self) -> None:
        """See :class:`Part`: the base must be the one that its key names."""
        super().check_new()
        if self.base_model and "base_key" in self.model_fields_set:
            from shoal.models.bases import check_key, read_base

            check_key(read_base(self.base_model), str(self.base_key), self.base_model)

    def _check_adapter(self) -> None:
        for names, adapters in ((_OF_LORA, ("lora", "qlora")), (_OF_QLORA, ("qlora",))):
            for name in names:
                value = getattr(self, name)
                if value is not None and self.adapter not in adapters:
                    raise UserError(
                        f"{name}={value} does not apply to adapter {self.adapter!r}; it applies to {' '.join(adapters)}"
                    )
        if self.quantization_bits is not None and self.quantization != "absmax":
            raise UserError(
                f"quantization_bits={self.quantization_bits} does not apply to quantization {self.quantization!r}, "
                "which has 4; it applies to absmax"
            )
        if self.double_quantization and self.quantization not in ("nf4", "fp4"):
            raise UserError(
                f"double_quantization=True does not apply to quantization {self.quantization!r}; it applies to nf4 fp4"
            )

    def _check_rank(self) -> None:
        from shoal.models.finetuned import adapted_shapes

        assert self.lora_rank is not None and self.lora_width is not None and self.base_settings is not None
        shapes = adapted_shapes(self.base_settings, self.targets)
        name, least = min(((name, min(shape)) for name, shape in shapes.items()), key=lambda pair: pair[1])
        for setting_name, value in (("lora_rank", self.lora_rank), ("lora_width", self.lora_width)):
            if value > least:
                raise UserError(f"{setting_name} must be at most {least}, the smaller side of {name}, got {value}")
        if self.lora_width < self.lora_rank:
            raise UserError(f"lora_width must be at least lora_rank={self.lora_rank}, got {self.lora_width}")

    def check_run(self, spec: "RunSpec") -> None:
        """See :class:`ModelSettings`: the task must have the vocabulary of the base, and no longer sequences."""
        wanted, sizes = self._base()[1], spec.sizes()
        if sizes.vocabulary_size != wanted.vocabulary_size:
            raise UserError(
                f"the base has a vocabulary of {wanted.vocabulary_size:,} tokens, and the task one of "
                f"{sizes.vocabulary_size:,}: it needs the tokenizer of its base"
            )
        if sizes.positions > wanted.positions:
            raise UserError(f"the base has {wanted.positions:,} positions, and the task asks for {sizes.positions:,}")

    @property
    def targets(self) -> tuple[str, ...]:
        """Parts of the names of the layers that are adapted; none for the usual ones."""
        return tuple(part.strip() for part in (self.lora_targets or "").split(",") if part.strip())

    @property
    def quantised_by(self) -> tuple[Any, ...]:
        """Settings that determine the codes of a quantised base."""
        return (self.quantization, self.quantization_bits, self.quantization_rounding, self.double_quantization)

    def _base(self) -> "tuple[ModelSettings, Sizes]":
        from shoal.models.families_of_bases import part_of

        return part_of(str(self.base_settings))

    def computing(self) -> ModelSettings:
        """See :class:`ModelSettings`: those of the base."""
        return self._base()[0]

    @property
    def reads(self) -> str:  # type: ignore[override]
        """See :class:`ModelSettings`: those of the base."""
        return self._base()[0].reads

    @property
    def calling(self) -> Mapping[str, Any]:  # type: ignore[override]
        """See :class:`ModelSettings`: those of the base."""
        return self._base()[0].calling

    @property
    def fusing(self) -> Mapping[str, Any]:  # type: ignore[override]
        """See :class:`ModelSettings`: those of the base."""
        return self._base()[0].fusing

    def build(self, sizes: "Sizes") -> "nn.Module":
        """See :class:`ModelSettings`; the base is read from its file."""
        from shoal.models.finetuned import build_finetuned

        return build_finetuned(self)

    def count(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`: of adapters ``rank (in + out)`` for each layer, without what is padded."""
        part, base_sizes = self._base()
        if self.adapter == "full":
            return part.count(base_sizes)
        return (self.lora_rank or RANK) * self._sides()

    def count_tables(self, sizes: "Sizes") -> int:
        """See :class:`ModelSettings`; for adapters the numbers that are padded."""
        part, base_sizes = self._base()
        if self.adapter == "full":
            return part.count_tables(base_sizes)
        return ((self.lora_width or RANK) - (self.lora_rank or RANK)) * self._sides()

    def count_base(self) -> int:
        """See :class:`ModelSettings`."""
        from shoal.models.finetuned import size_of

        return size_of(str(self.base_settings))["all"]

    def _sides(self) -> int:
        from shoal.models.finetuned import adapted_shapes

        return sum(map(sum, adapted_shapes(str(self.base_settings), self.targets).values()))

    def roles(self, module: "nn.Module") -> Mapping[str, str]:
        """See :class:`ModelSettings`; adapters count as heads: a rule for hidden matrices would see their padding."""
        if self.adapter != "full":
            return {name: "head" for name, _ in module.named_parameters()}
        of_base = self._base()[0].roles(module.get_submodule("base"))
        return {f"base.{name}": role for name, role in of_base.items()}

    def without_effect(self, names: Sequence[str]) -> list[str]:
        """See :class:`ModelSettings`: those of a base that trains; and of keys nothing."""
        short = {name.removeprefix("base."): name for name in names}
        return [short[name] for name in self._base()[0].without_effect(list(short))] if self.adapter == "full" else []

    def floats_per_position(self) -> float:
        """See :class:`ModelSettings`: those of the base, and of the adapters' inputs and products."""
        return 1.3 * self._base()[0].floats_per_position()

    def describe(self) -> str:
        """See :class:`ModelSettings`: ``"qlora nf4 on gpt, 2 layers, d 128"``."""
        part = self._base()[0]
        how = " ".join(filter(None, [self.adapter, self.quantization]))
        return f"{how} on {', '.join(filter(None, [part.name, part.describe()]))}"

    def sizes_named(self) -> list[str]:
        """See :class:`ModelSettings`."""
        return ["adapter", "lora_rank"]
