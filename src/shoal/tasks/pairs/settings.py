"""Settings and measures that all tasks of a source and its target share."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.measures import Measure, Measures
from shoal.spec.fields import SEED, SHARE, choice, setting
from shoal.tasks.settings import SPREADS, TaskSettings, fitting, smoothing_lines

if TYPE_CHECKING:
    from shoal.tasks.base import Task
    from shoal.tasks.pairs.buckets import Buckets
    from shoal.tasks.pairs.data import Batching, Scoring

CONVENTIONS = tuple(SPREADS)
MEASURES = Measures(
    (
        Measure(
            "loss", "L", "loss", "nats per token", is_log=True, about="nats per token of the targets, EOS included"
        ),
        Measure(
            "accuracy",
            "A",
            "share of tokens right",
            "",
            True,
            (0.0, 1.0),
            about="share of the targets' tokens predicted behind the right ones before them",
        ),
        Measure(
            "forced_exact",
            "X",
            "share of targets right under teacher forcing",
            "",
            True,
            (0.0, 1.0),
            about="share of targets all of whose tokens are predicted behind the right ones before them; freely "
            "decoded answers are scored separately",
        ),
    ),
    things="targets",
)


def told_filled(kept: Mapping[str, Any]) -> list[str]:
    """Line about the number of ``widths`` of batches and the ``real_share`` of their positions, where they are kept."""
    numbers = kept.get("batches")
    if not numbers:
        return []
    share, n = numbers["real_share"], numbers["widths"]
    widths = "1 width" if n == 1 else f"{n} widths"
    return [f"batches: {100 * share:.0f} % of the positions hold tokens and no padding, in {widths}"]


class PairSettings(TaskSettings):
    """Settings of a task of sources and targets: scores of its texts, and how training scores them.

    Reported losses depend on none of these settings: nats per token over the whole split, EOS included.
    """

    offers: ClassVar[tuple[str, ...]] = ("sequence", "pair", "source")
    scores: ClassVar[tuple[str, ...]] = ("exact match",)  # of texts that models write
    usual_model: ClassVar[str] = "encoder_decoder"
    makes_windows: ClassVar[bool] = True
    suggests: ClassVar[Mapping[str, Any]] = {
        "train_batch_size": 128,
        "eval_batch_size": 128,
        "n_steps": 5_001,
        "eval_first": 0,
        "eval_period": 250,
        "lr": 5e-4,
        "lr_schedule": "cosine",
        "lr_floor": 0.1,
        "warmup_steps": 100,
        "weight_decay": 0.01,
        "decay_all": False,
    }

    reduction: str = choice(
        "token",
        "training loss of a batch: the mean over its tokens, or the mean over its targets of each one's mean",
        ("token", "sentence"),
    )
    label_smoothing: float = setting(
        0.0, "label smoothing: share of the target spread over tokens while training", in_float32=True, **SHARE
    )
    label_smoothing_convention: str = choice(
        "torch",
        "tokens over which it is spread: torch, ε/V on all V; fairseq, ε/(V-1) on all but the right one; joeynmt, "
        "ε/(V-2) on all but the right one and PAD, as the Annotated Transformer",
        CONVENTIONS,
    )

    @classmethod
    def suggest(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """See :class:`TaskSettings`: a warm-up that ends, and no floor where nothing falls."""
        return fitting(cls.suggests, given)

    def measures(self) -> Measures:
        """See :class:`TaskSettings`: there is no criterion of having generalised."""
        return MEASURES

    def build(self, split_seed: int) -> "Task":
        """See :class:`TaskSettings`; for models that read a source and its target."""
        return self.build_for("pair", split_seed)

    def conventions(self) -> list[str]:
        """See :class:`TaskSettings`: label smoothing."""
        return smoothing_lines(self.label_smoothing, self.label_smoothing_convention)

    def scoring(self) -> "Scoring":
        """Objective that training minimises."""
        from shoal.tasks.pairs.data import Scoring

        return Scoring(self.reduction, self.label_smoothing, self.label_smoothing_convention)

    @classmethod
    def units(cls, kept: Mapping[str, Any]) -> Mapping[str, float]:
        """See :class:`TaskSettings`: nats per word and bits per character of the validation targets, where counted."""
        counts = kept.get("counts", {})
        factors = {"nats/word": ("words", 1.0), "bits/char": ("characters", math.log(2))}
        return {
            name: counts["tokens"] / (factor * counts[several])
            for name, (several, factor) in factors.items()
            if counts.get(several)
        }


class BucketedPairs(PairSettings):
    """Settings of a task whose lengths depend on no seed, so that all members can have the same buckets."""

    batching: str = choice(
        "buckets",
        "pairs of a training batch: of about the same lengths, or any, padded to the longest of all",
        ("buckets", "shuffled"),
    )
    batch_tokens: int | None = setting(
        None,
        "positions of the longer side of a batch of a bucket, padding included, instead of train_batch_size pairs",
        "an integer of at least 1",
        ge=1,
    )
    bucket_seed: int = setting(0, "seed of the order of buckets in a pass", **SEED)

    def check(self) -> None:
        """See :class:`Part`."""
        if self.batching != "buckets" and (self.batch_tokens is not None or self.bucket_seed):
            name = "bucket_seed" if self.batch_tokens is None else "batch_tokens"
            raise UserError(
                f"{name}={getattr(self, name)} does not apply to batching={self.batching}; it applies to buckets"
            )

    def buckets(self) -> "Buckets":
        """Buckets of all pairs."""
        raise NotImplementedError

    def batched(self) -> "Batching | None":
        """Batches by length, or None where a pass is shuffled whole."""
        from shoal.tasks.pairs.data import Batching

        is_whole = self.batching != "buckets"
        return None if is_whole else Batching(self.buckets(), self.batch_tokens, self.bucket_seed)

    def filled(self) -> dict[str, float]:
        """Number of ``widths`` of batches, and ``real_share`` of their positions that holds tokens; for ``kept``."""
        if self.batching != "buckets":
            return {}
        buckets = self.buckets()
        return {"widths": len(buckets.widths), "real_share": round(buckets.real_share()["both"], 4)}

    def batch_positions(self, train_batch_size: int) -> int:
        """See :class:`TaskSettings`."""
        if self.batching != "buckets":
            return super().batch_positions(train_batch_size)
        return self.buckets().batch_positions(train_batch_size, self.batch_tokens)
