"""Settings of every run: length, precision, evaluations and kept models of its training, and its seeds."""

from typing import ClassVar

from shoal.errors import UserError
from shoal.spec.fields import SEED, Part, Period, choice, set_default, setting

PRECISIONS = ("float32", "tf32", "bfloat16")
SEEDS = ("init_seed", "split_seed", "order_seed")


class Training(Part):
    """Length, precision and evaluations of training, and the models that are kept."""

    name: ClassVar[str] = "training"

    train_batch_size: int = setting(512, "examples per step", "an integer of at least 1", ge=1)
    eval_batch_size: int = setting(
        4096, "examples per evaluation pass", "an integer of at least 1", operational=True, ge=1
    )
    n_steps: int = setting(10_001, "training steps", "an integer of at least 1", member=True, ge=1)
    stop_after_generalizing: int | None = setting(
        None,
        "end a run this many steps after it has generalised (equations: validation accuracy 0.99)",
        "an integer of at least 0",
        member=True,
        ge=0,
    )
    patience: int | None = setting(
        None,
        "end a run after this many evaluations without a lower validation loss",
        "an integer of at least 1",
        ge=1,
    )
    keep_best: bool = setting(
        False, "keep the model of the lowest validation loss too, not only the last", "true or false"
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
        None,
        "number of steps between two writes to the lab, besides one every 20 s",
        "an integer of at least 1",
        operational=True,
        ge=1,
    )


class Seeds(Part):
    """Seeds of three random streams, which follow ``seed`` unless set apart."""

    name: ClassVar[str] = "seeds"

    seed: int = setting(42, "seed of everything that has no seed of its own", member=True, **SEED)
    init_seed: int | None = setting(None, "seed of the initial parameters", member=True, follows="seed", **SEED)
    split_seed: int | None = setting(None, "seed of the split", member=True, follows="seed", **SEED)
    order_seed: int | None = setting(None, "seed of batch order and dropout", member=True, follows="seed", **SEED)

    def fill(self) -> None:
        """Let the three streams follow ``seed`` where they were left open."""
        for name in SEEDS:
            set_default(self, name, self.seed)


ALWAYS: tuple[type[Part], ...] = (Training, Seeds)  # parts that every run has


def check_together(warmup_steps: int, from_zero: bool, n_steps: int) -> None:
    """Raise :class:`UserError` for a learning rate that is never reached."""
    if warmup_steps + from_zero > n_steps:
        most = "less than n_steps where it rises from zero" if from_zero else "at most n_steps"
        raise UserError(f"warmup_steps must be {most}, got warmup_steps={warmup_steps} and n_steps={n_steps}")
