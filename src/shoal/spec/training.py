"""How a run learns: optimizer, objective, schedule and seeds."""

from collections.abc import Mapping
from typing import Any

from shoal.errors import UserError
from shoal.spec.fields import SEED, SHARE, Period, Settings, choice, refuse, set_default, setting

# The settings that only some optimizers have, with their defaults.
OPTIMIZERS: Mapping[str, Mapping[str, Any]] = {
    "sgd": {},
    "momentum": {"momentum": 0.9},
    "adam": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "adamw": {"beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
    "lion": {"beta1": 0.9, "beta2": 0.99},
    "muon": {"momentum": 0.95, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8},
}
SCHEDULES = ("constant", "linear", "cosine")
PRECISIONS = ("float32", "tf32", "bfloat16")
SEEDS = ("init_seed", "split_seed", "order_seed")
# The practical gives weight decay 1 for AdamW, and so it is where the decay shrinks the parameters themselves; the
# others add it to the gradient, where 1 would drown it.
_WEIGHT_DECAY = {"adamw": 1.0, "lion": 1.0, "muon": 1.0}


# what training computes with in float32
FLOATS = ("lr", "weight_decay", "momentum", "beta1", "beta2", "eps", "clip", "label_smoothing", "dropout")


class OptimizerSettings(Settings):
    """What moves the parameters."""

    optimizer: str = choice("adamw", "optimizer", OPTIMIZERS)
    lr: float = setting(1e-3, "learning rate", "a finite number above 0", gt=0, allow_inf_nan=False)
    lr_schedule: str = choice("constant", "learning rate after the warm-up: constant, or falling to 0", SCHEDULES)
    warmup_steps: int = setting(0, "steps over which the learning rate rises", "an integer of at least 0", ge=0)
    warmup_from_zero: bool = setting(False, "take the first step at learning rate 0", "true or false")
    weight_decay: float | None = setting(
        None,
        "weight decay; 1 for adamw, lion and muon, otherwise 0, when not given",
        "a finite number of at least 0",
        ge=0,
        allow_inf_nan=False,
    )
    momentum: float | None = setting(None, "momentum, muon: decay of the momentum", **SHARE)
    beta1: float | None = setting(None, "adam, adamw, lion, muon: decay of the first moment", **SHARE)
    beta2: float | None = setting(None, "adam, adamw, lion, muon: decay of the second moment", **SHARE)
    eps: float | None = setting(
        None, "adam, adamw, muon: added to the denominator", "a finite number above 0", gt=0, allow_inf_nan=False
    )
    clip: float = setting(1.0, "largest norm of the gradient", "a number above 0; inf for no clipping", gt=0)
    decay_all: bool = setting(True, "decay biases and norms too", "true or false")
    label_smoothing: float = setting(0.0, "share of the target spread over all tokens while training", **SHARE)

    def resolve_optimizer(self) -> None:
        """Fill in what was left open; raise :class:`UserError` for what the optimizer does not have."""
        used = OPTIMIZERS[self.optimizer]
        for name in dict.fromkeys(name for own in OPTIMIZERS.values() for name in own):
            if name in used:
                set_default(self, name, used[name])
            else:
                refuse(self, [name], "optimizer", " ".join(o for o, own in OPTIMIZERS.items() if name in own))
        set_default(self, "weight_decay", _WEIGHT_DECAY.get(self.optimizer, 0.0))
        if self.warmup_from_zero and not self.warmup_steps:
            raise UserError("warmup_from_zero does not apply to warmup_steps=0; it applies to 1 or more")


class TrainingSettings(Settings):
    """How long, how exactly, and what is kept on the way."""

    n_steps: int = setting(10_001, "training steps", "an integer of at least 1", ge=1)
    stop_after_generalizing: int | None = setting(
        None,
        "end a run this many steps after its validation accuracy has reached 0.99",
        "an integer of at least 0",
        ge=0,
    )
    precision: str = choice("float32", "type in which products are computed", PRECISIONS)
    eval_first: int = setting(100, "evaluate at every step up to this one", "an integer of at least 0", ge=0)
    eval_period: int = setting(100, "then evaluate every this many steps", "an integer of at least 1", ge=1)
    save_model_step: Period = setting(
        None,
        "save the model every this many steps, besides the last",
        "an integer of at least 1; inf for the last only",
        ge=1,
    )
    save_statistic_step: Period = setting(
        None, "flush the records every this many steps, besides every 20 s", "an integer of at least 1", ge=1
    )


class SeedSettings(Settings):
    """Where randomness comes from; three streams that follow ``seed`` unless set apart."""

    seed: int = setting(42, "seed of everything not set apart", **SEED)
    init_seed: int | None = setting(None, "seed of the initial parameters", **SEED)
    split_seed: int | None = setting(None, "seed of the split", **SEED)
    order_seed: int | None = setting(None, "seed of batch order and dropout", **SEED)

    def resolve_seeds(self) -> None:
        """Let the three streams follow ``seed`` where they were left open."""
        for name in SEEDS:
            set_default(self, name, self.seed)


def check_warmup(warmup_steps: int, from_zero: bool, n_steps: int) -> None:
    """Raise :class:`UserError` where the learning rate would not be reached."""
    if warmup_steps + from_zero > n_steps:
        most = "less than n_steps where it rises from zero" if from_zero else "at most n_steps"
        raise UserError(f"warmup_steps must be {most}, got warmup_steps={warmup_steps} and n_steps={n_steps}")


def check_precision(dropout: float, precision: str) -> None:
    """Raise :class:`UserError` where a precision has no way to train."""
    if dropout > 0 and precision != "float32":
        raise UserError(f"dropout={dropout} does not apply to precision {precision!r}, only to float32")
