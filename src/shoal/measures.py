"""What a task measures, said once: names, symbols, units, which way is better, and what "generalised" means there.

Training, tables, figures and sentences read it; nothing else knows what a loss or an accuracy is called.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

Value = Callable[[float], float]
SPLITS = ("train", "valid")
SPLIT_SYMBOLS = {"train": "train", "valid": "val"}


@dataclass(frozen=True)
class Measure:
    """One quantity that an objective gives for each example, recorded for each split as ``train_NAME``, ``valid_NAME``.

    Attributes:
        name: a word, part of the recorded column.
        symbol: what figures and tables call it, with the split as its index: ``L`` of the training split is L_train.
        words: what sentences call it.
        unit: of its values; none for shares.
        higher_is_better: which extreme is the best.
        bounds: the values that it can take, where it is bounded.
        is_log: drawn on a logarithmic axis.
        thresholds: values from which a run counts as having got there, for the times that takes.
    """

    name: str
    symbol: str
    words: str
    unit: str = ""
    higher_is_better: bool = False
    bounds: tuple[float, float] | None = None
    is_log: bool = False
    thresholds: tuple[float, ...] = ()

    def symbol_of(self, split: str) -> str:
        """``L_val`` and the like."""
        return f"{self.symbol}_{SPLIT_SYMBOLS.get(split, split)}"


@dataclass(frozen=True)
class Generalised:
    """When a run has memorised, and when it has generalised: a measure that reaches a value on each split."""

    measure: str
    threshold: float

    @property
    def column(self) -> str:
        """What is recorded of it on the validation split."""
        return f"valid_{self.measure}"


@dataclass(frozen=True)
class Measures:
    """Everything that a task measures.

    Attributes:
        recorded: in the order of figures and tables; the first is what training minimises, its name is ``loss``.
        generalised: what that means, if anything.
        units: further units of the loss, by their words, each a factor of it or the name of a function of it: values
            that are shown and never recorded.
    """

    recorded: tuple[Measure, ...]
    generalised: Generalised | None = None

    def __post_init__(self) -> None:
        names = [measure.name for measure in self.recorded]
        if not names or names[0] != "loss" or len(set(names)) < len(names):
            raise ValueError(f"a task measures a loss first, and each thing once, got {names}")
        if self.generalised is not None and self.generalised.measure not in names:
            raise ValueError(f"generalised is said of {self.generalised.measure!r}, which is not measured")

    def __getitem__(self, name: str) -> Measure:
        """The measure of a name, or of a recorded column."""
        name = name.partition("_")[2] if name.startswith(("train_", "valid_")) else name
        return next(measure for measure in self.recorded if measure.name == name)

    @property
    def shown(self) -> Measure:
        """The one that says most about a run: what generalising is said of, else the loss."""
        return self.recorded[0] if self.generalised is None else self[self.generalised.measure]

    def has_arrived(self, values: Any) -> Any:
        """Whether values of :attr:`shown` are such as generalising is said of; a number, or tensors of them."""
        assert self.generalised is not None
        threshold = self.generalised.threshold
        return values >= threshold if self.shown.higher_is_better else values <= threshold

    @property
    def arrived(self) -> str:
        """``A_val ≥ 0.99``: when a run has generalised; nothing where that is not said."""
        if self.generalised is None:
            return ""
        sign = "≥" if self.shown.higher_is_better else "≤"
        return f"{self.shown.symbol_of('valid')} {sign} {self.generalised.threshold:g}"

    @property
    def columns(self) -> list[str]:
        """What is recorded, in order: ``train_loss``, ``train_accuracy``, ``valid_loss`` and so on."""
        return [f"{split}_{measure.name}" for split in SPLITS for measure in self.recorded]

    def to_json(self) -> dict[str, Any]:
        """For a record that can be read where the task is not."""
        return asdict(self)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Measures":
        """What :meth:`to_json` gave.

        Raises:
            ValueError: it is nothing of the kind.
        """
        try:
            recorded = tuple(
                Measure(**{**own, "bounds": _pair(own.get("bounds")), "thresholds": tuple(own.get("thresholds", ()))})
                for own in said["recorded"]
            )
            generalised = said.get("generalised")
            return cls(recorded, Generalised(**generalised) if generalised else None)
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no measures of a task: {error}") from None


def _pair(bounds: Any) -> tuple[float, float] | None:
    if bounds is None:
        return None
    low, high = bounds
    return float(low), float(high)


def perplexity(nats: float) -> float:
    """``exp`` of a loss in nats; infinite where that is beyond all numbers."""
    return math.exp(nats) if nats < 700 else math.inf


ACCURACY = Measure("accuracy", "A", "accuracy", "", True, (0.0, 1.0), thresholds=(0.9, 0.99))
LOSS = Measure("loss", "L", "loss", "nats", is_log=True)
EQUATIONS = Measures((LOSS, ACCURACY), Generalised("accuracy", 0.99))
