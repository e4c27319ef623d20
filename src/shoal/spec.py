"""RunSpec: one frozen, validated value that says everything about one run, in the practical's vocabulary."""

import hashlib
import itertools
import json
import math
from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from shoal.equations import OPERATORS, check_arithmetic, split_sizes
from shoal.errors import UserError, nearest

# Raised when the same spec would give another trajectory than before, so that old records are not taken for new ones.
TRAJECTORY_VERSION = 1
_MOST_EQUATIONS = 10_000_000  # of all splits; more would not fit into memory while they are made

# The settings that only one model family has, with their defaults; None means equal to embedding_size.
FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "lstm": {"hidden_size": None},
    "gpt": {"num_heads": 4, "multiplier": 4.0, "non_linearity": "gelu"},
}
NON_LINEARITIES = ("gelu", "relu")
# The settings that only some optimizers have.
OPTIMIZERS: Mapping[str, tuple[str, ...]] = {
    "sgd": (),
    "momentum": ("momentum",),
    "adam": ("beta1", "beta2", "eps"),
    "adamw": ("beta1", "beta2", "eps"),
}
PRECISIONS = ("float32", "tf32", "bfloat16")
_OPTIMIZER_DEFAULTS = {"momentum": 0.9, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8}
# The practical gives weight decay 1 for AdamW; the others add the decay to the gradient, where 1 would drown it.
_WEIGHT_DECAY = {"adamw": 1.0}
_SEEDS = ("init_seed", "split_seed", "order_seed")
# What does not change the trajectory or the record of a finished run, and so is no part of its identity.
_OPERATIONAL = ("eval_batch_size", "save_statistic_step")


def _setting(default: Any, description: str, allowed: str, choices: Iterable[str] = (), **limits: Any) -> Any:
    return Field(
        default,
        description=f"{description} ({allowed})",
        json_schema_extra={"allowed": allowed, "choices": list(choices)},
        **limits,
    )


def _orders(value: Any) -> Any:
    """``2``, ``"2,3"`` and ``[3, 2]`` all become a sorted tuple."""
    if isinstance(value, str):
        value = value.split(",")
    orders = list(value) if isinstance(value, Iterable) else [value]
    if not all(str(order).strip() in ("2", "3") for order in orders):
        raise ValueError
    return tuple(sorted({int(order) for order in orders}))


def _period(value: Any) -> Any:
    """Infinity, which the practical uses for "never", becomes None."""
    return None if value in (math.inf, "inf") else value


Orders = Annotated[tuple[int, ...], BeforeValidator(_orders)]
Period = Annotated[int | None, BeforeValidator(_period)]


class RunSpec(BaseModel):
    """One run.

    Settings left at None take the value that fits the others (``hidden_size`` that of ``embedding_size``, the seeds
    that of ``seed``, ``weight_decay`` 1 for AdamW). A setting that does not apply to the model or optimizer is refused.

    >>> RunSpec(model="gpt", seed=0).num_heads
    4
    >>> RunSpec(seed=0) == RunSpec(seed=0, weight_decay=1.0)
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="constants")

    # data
    p: int = _setting(31, "modulus of the operands", "an integer of at least 2", ge=2)
    q: int | None = _setting(None, "modulus of the results", "an integer of at least 2; p when not given", ge=2)
    operator: str = _setting("+", "operation", f"one of {' '.join(OPERATORS)}", OPERATORS)
    r_train: float = _setting(0.5, "share of the equations that train", "in (0, 1)", gt=0, le=1, allow_inf_nan=False)
    operation_orders: Orders = _setting((2,), "operands per equation", "2, 3 or 2,3 for both")
    is_symmetric: bool = _setting(False, "keep only a <= b (<= c)", "true or false")
    split_per_order: bool = _setting(False, "split binary and ternary equations each at r_train", "true or false")
    train_batch_size: int = _setting(512, "equations per step", "an integer of at least 1", ge=1)
    eval_batch_size: int = _setting(4096, "equations per evaluation pass", "an integer of at least 1", ge=1)

    # model
    model: str = _setting("lstm", "model family", f"one of {' '.join(FAMILIES)}", FAMILIES)
    num_layers: int = _setting(2, "layers", "an integer of at least 1", ge=1)
    embedding_size: int = _setting(128, "width of the embeddings", "an integer of at least 1", ge=1)
    hidden_size: int | None = _setting(None, "lstm: width of the states", "an integer of at least 1", ge=1)
    num_heads: int | None = _setting(
        None, "gpt: attention heads", "an integer of at least 1 that divides embedding_size", ge=1
    )
    multiplier: float | None = _setting(
        None, "gpt: feed-forward width over embedding_size", "a positive number", gt=0, allow_inf_nan=False
    )
    non_linearity: str | None = _setting(
        None, "gpt: activation", f"one of {' '.join(NON_LINEARITIES)}", NON_LINEARITIES
    )
    dropout: float = _setting(0.0, "dropout probability", "in [0, 1)", ge=0, lt=1, allow_inf_nan=False)
    bias: bool = _setting(True, "biases in the LSTM gates or the attention", "true or false")
    bias_classifier: bool = _setting(True, "bias in the classifier", "true or false")
    share_embeddings: bool = _setting(False, "tie the classifier's weight to the embedding's", "true or false")

    # optimisation
    optimizer: str = _setting("adamw", "optimizer", f"one of {' '.join(OPTIMIZERS)}", OPTIMIZERS)
    lr: float = _setting(1e-3, "learning rate", "a finite number above 0", gt=0, allow_inf_nan=False)
    weight_decay: float | None = _setting(
        None,
        "weight decay; 1 for adamw, otherwise 0, when not given",
        "a finite number of at least 0",
        ge=0,
        allow_inf_nan=False,
    )
    momentum: float | None = _setting(None, "momentum of optimizer momentum", "in [0, 1)", ge=0, lt=1)
    beta1: float | None = _setting(None, "adam, adamw: decay of the first moment", "in [0, 1)", ge=0, lt=1)
    beta2: float | None = _setting(None, "adam, adamw: decay of the second moment", "in [0, 1)", ge=0, lt=1)
    eps: float | None = _setting(
        None, "adam, adamw: added to the denominator", "a finite number above 0", gt=0, allow_inf_nan=False
    )
    clip: float = _setting(1.0, "largest norm of the gradient", "a number above 0; inf for no clipping", gt=0)
    decay_all: bool = _setting(True, "decay biases and norms too", "true or false")

    # training
    n_steps: int = _setting(10_001, "training steps", "an integer of at least 1", ge=1)
    stop_after_generalizing: int | None = _setting(
        None,
        "end a run this many steps after its validation accuracy has reached 0.99",
        "an integer of at least 0",
        ge=0,
    )
    precision: str = _setting(
        "float32", "type in which products are computed", f"one of {' '.join(PRECISIONS)}", PRECISIONS
    )
    eval_first: int = _setting(100, "evaluate at every step up to this one", "an integer of at least 0", ge=0)
    eval_period: int = _setting(100, "then evaluate every this many steps", "an integer of at least 1", ge=1)
    save_model_step: Period = _setting(
        None,
        "save the model every this many steps, besides the last",
        "an integer of at least 1; inf for the last only",
        ge=1,
    )
    save_statistic_step: Period = _setting(
        None, "flush the records every this many steps, besides every 20 s", "an integer of at least 1", ge=1
    )

    # seeds
    seed: int = _setting(42, "seed of everything not set apart", "an integer in [0, 2**32)", ge=0, lt=2**32)
    init_seed: int | None = _setting(None, "seed of the initial parameters", "an integer in [0, 2**32)", ge=0, lt=2**32)
    split_seed: int | None = _setting(None, "seed of the split", "an integer in [0, 2**32)", ge=0, lt=2**32)
    order_seed: int | None = _setting(
        None, "seed of batch order and dropout", "an integer in [0, 2**32)", ge=0, lt=2**32
    )

    def __init__(self, **settings: Any) -> None:
        try:
            super().__init__(**settings)
        except ValidationError as error:
            raise UserError(_one_line(error)) from None

    def model_post_init(self, _context: object) -> None:
        for name in ("model", "operator", "optimizer", "non_linearity", "precision"):
            _check_choice(name, getattr(self, name))
        self._resolve_family()
        self._resolve_optimizer()
        self._set_default("q", self.p)
        for name in _SEEDS:
            self._set_default(name, self.seed)
        self._check_model()
        self._check_data()

    @cached_property
    def id(self) -> str:
        """Name of the run: 16 hexadecimal digits, a hash of the canonical form."""
        text = json.dumps({"trajectory": TRAJECTORY_VERSION, **self.canonical()}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> "RunSpec":
        """As pydantic's, with an id of its own."""
        copy = super().model_copy(update=update, deep=deep)
        copy.__dict__.pop("id", None)
        return copy

    def canonical(self) -> dict[str, Any]:
        """What identifies the run: every setting that differs from the default of its model and optimizer.

        Settings at their defaults are left out so that a setting added later does not rename the runs made before it.
        """
        settings, defaults = self._identity(), _defaults(self.model, self.optimizer)
        return {name: value for name, value in settings.items() if name in _SEEDS or value != defaults.get(name)}

    def given(self) -> dict[str, Any]:
        """The settings that were asked for, as they were asked for; the rest are defaults."""
        return {name: getattr(self, name) for name in self.model_fields_set}

    @classmethod
    def restored(cls, dump: Mapping[str, Any]) -> "RunSpec":
        """The spec of a :meth:`model_dump`, with what it had derived from other settings derived again.

        So that a grid over a spec read from a lab varies the seeds that follow ``seed``, as it would have at first.
        """
        source = {"q": "p", "hidden_size": "embedding_size", **dict.fromkeys(_SEEDS, "seed")}
        return cls(**{name: v for name, v in dump.items() if name not in source or v != dump[source[name]]})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RunSpec) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def _identity(self) -> dict[str, Any]:
        dropped = (*_OPERATIONAL, "seed")
        settings = self.model_dump(mode="json", exclude=set(dropped))
        return {**settings, "model": self.model, "optimizer": self.optimizer}

    def _set_default(self, name: str, value: Any) -> None:
        if getattr(self, name) is None:
            object.__setattr__(self, name, value)  # the class is frozen for everyone else

    def _resolve_family(self) -> None:
        for family, own in FAMILIES.items():
            if family == self.model:
                for name, default in own.items():
                    self._set_default(name, self.embedding_size if default is None else default)
            else:
                self._refuse(own, "model", family)

    def _resolve_optimizer(self) -> None:
        used = OPTIMIZERS[self.optimizer]
        for name, default in _OPTIMIZER_DEFAULTS.items():
            if name in used:
                self._set_default(name, default)
            else:
                self._refuse([name], "optimizer", " ".join(o for o, own in OPTIMIZERS.items() if name in own))
        self._set_default("weight_decay", _WEIGHT_DECAY.get(self.optimizer, 0.0))

    def _refuse(self, names: Iterable[str], by: str, fitting: str) -> None:
        for name in names:
            value = getattr(self, name)
            if value is not None:
                raise UserError(f"{name}={value} does not apply to {by} {getattr(self, by)!r}; it applies to {fitting}")

    def _check_model(self) -> None:
        if self.num_heads is not None and self.embedding_size % self.num_heads:
            raise UserError(
                f"num_heads must divide embedding_size, got num_heads={self.num_heads} and "
                f"embedding_size={self.embedding_size}"
            )
        if self.multiplier is not None and int(self.multiplier * self.embedding_size) < 1:
            raise UserError(
                f"multiplier={self.multiplier} leaves no feed-forward neuron at embedding_size={self.embedding_size}"
            )
        if self.model == "lstm" and self.dropout > 0 and self.num_layers == 1:
            raise UserError(f"dropout={self.dropout} does not apply to an lstm of one layer: it acts between layers")
        if self.dropout > 0 and self.precision != "float32":
            raise UserError(f"dropout={self.dropout} does not apply to precision {self.precision!r}, only to float32")
        if self.share_embeddings and self.hidden_size not in (None, self.embedding_size):
            raise UserError(
                f"share_embeddings needs hidden_size equal to embedding_size, got {self.hidden_size} and "
                f"{self.embedding_size}"
            )

    def _check_data(self) -> None:
        assert self.q is not None
        check_arithmetic(self.p, self.q, self.operator, self.r_train, self.operation_orders)
        if self.split_per_order and len(self.operation_orders) == 1:
            raise UserError(
                f"split_per_order does not apply to one order, got operation_orders={self.operation_orders[0]}"
            )
        n_train, n_valid = split_sizes(
            self.p, self.operator, self.r_train, self.operation_orders, self.is_symmetric, self.split_per_order
        )
        if n_train + n_valid > _MOST_EQUATIONS:
            raise UserError(f"p={self.p} makes {n_train + n_valid:,} equations; at most {_MOST_EQUATIONS:,} fit")
        if n_train == 0 or n_valid == 0:
            empty = "training" if n_train == 0 else "validation"
            raise UserError(
                f"r_train={self.r_train} leaves the {empty} split empty ({n_train + n_valid} equations in all); "
                "both splits need at least one"
            )


def grid(base: RunSpec | None = None, **values: Iterable[Any]) -> list[RunSpec]:
    """The product of several values per setting, the last one varying fastest, each run once.

    >>> [(spec.lr, spec.seed) for spec in grid(RunSpec(model="gpt"), lr=[1e-3, 3e-3], seed=[0, 42])]
    [(0.001, 0), (0.001, 42), (0.003, 0), (0.003, 42)]
    """
    given = {} if base is None else base.given()
    choices: dict[str, list[Any]] = {}
    for name, several in values.items():
        check_setting(name)
        choices[name] = [several] if isinstance(several, str) or not isinstance(several, Iterable) else list(several)
        if not choices[name]:
            raise UserError(f"{name} was given an empty list of values; it needs at least one")
    specs = (
        RunSpec(**{**given, **dict(zip(choices, combination, strict=True))})
        for combination in itertools.product(*choices.values())
    )
    return list(dict.fromkeys(specs))


def check_setting(name: str) -> None:
    """Raise :class:`UserError` when no run has a setting of this name."""
    if name not in RunSpec.model_fields:
        raise UserError(f"unknown setting {name!r}{nearest(name, RunSpec.model_fields)}")


def _defaults(model: str, optimizer: str) -> Mapping[str, Any]:
    key = (model, optimizer)
    if key not in _DEFAULTS:
        _DEFAULTS[key] = RunSpec(model=model, optimizer=optimizer)._identity()
        del _DEFAULTS[key]["model"], _DEFAULTS[key]["optimizer"]
    return _DEFAULTS[key]


_DEFAULTS: dict[tuple[str, str], dict[str, Any]] = {}


def _extra(name: str) -> dict[str, Any]:
    extra = RunSpec.model_fields[name].json_schema_extra
    assert isinstance(extra, dict)
    return extra


def _check_choice(name: str, value: str | None) -> None:
    choices = _extra(name)["choices"]
    if value is not None and value not in choices:
        raise UserError(f"unknown {name} {value!r}: {_extra(name)['allowed']}{nearest(value, choices)}")


def _one_line(error: ValidationError) -> str:
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else ""
    if first["type"] == "extra_forbidden":
        return f"unknown setting {name!r}{nearest(name, RunSpec.model_fields)}"
    if name not in RunSpec.model_fields:
        return str(first["msg"]).removeprefix("Value error, ")
    return f"{name} must be {_extra(name)['allowed']}, got {first['input']!r}"
