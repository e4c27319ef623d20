"""What a task measures, said once: names, symbols, units, which way is better, and what "generalised" means there.

Training, tables, figures and sentences read it; nothing else knows what a loss or an accuracy is called.
"""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

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
        thresholds: values from which a run counts as having got there, for the times that takes; the first is the one
            without which the step of a best value is no time to anything.
        about: what a value is of or a share of, in captions; its unit, where that says it.
    """

    name: str
    symbol: str
    words: str
    unit: str = ""
    higher_is_better: bool = False
    bounds: tuple[float, float] | None = None
    is_log: bool = False
    thresholds: tuple[float, ...] = ()
    about: str = ""

    @property
    def extreme(self) -> str:
        """``largest`` or ``smallest``: which of its values is the best."""
        return "largest" if self.higher_is_better else "smallest"

    @property
    def side(self) -> str:
        """``≥`` or ``≤``: on which side of a threshold values are that have reached it."""
        return "≥" if self.higher_is_better else "≤"

    @property
    def best(self) -> float | None:
        """The value that none is better than; None where there is always a better one."""
        bound = None if self.bounds is None else self.bounds[int(self.higher_is_better)]
        return bound if bound is not None and math.isfinite(bound) else None

    @property
    def axis(self) -> str:
        """``loss (nats)``: what an axis of its values on any split is called."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

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
        things: what an example is called, in the plural.
    """

    recorded: tuple[Measure, ...]
    generalised: Generalised | None = None
    things: str = "examples"

    def __post_init__(self) -> None:
        names = [measure.name for measure in self.recorded]
        if not names or names[0] != "loss" or len(set(names)) < len(names):
            raise ValueError(f"a task measures a loss first, and each thing once, got {names}")
        if wrong := [name for name in names if not (isinstance(name, str) and name.isidentifier())]:
            raise ValueError(f"a measure's name must be a word, got {wrong[0]!r}")
        if self.generalised is not None and self.generalised.measure not in names:
            raise ValueError(f"generalised is said of {self.generalised.measure!r}, which is not measured")

    def __getitem__(self, name: str) -> Measure:
        """The measure of a name, or of a recorded column."""
        name = name.partition("_")[2] if name.startswith(("train_", "valid_")) else name
        found = next((measure for measure in self.recorded if measure.name == name), None)
        if found is None:
            raise KeyError(name)
        return found

    @property
    def shown(self) -> Measure:
        """The one that says most about a run: what generalising is said of, else the loss."""
        return self.recorded[0] if self.generalised is None else self[self.generalised.measure]

    def has_generalised(self, values: Mapping[str, Any]) -> Any:
        """Whether an evaluation, by column, is one of a run that has generalised; numbers, or tensors of them."""
        if self.generalised is None:
            return False
        value, threshold = values[self.generalised.column], self.generalised.threshold
        return value >= threshold if self.shown.higher_is_better else value <= threshold

    @property
    def arrived(self) -> str:
        """``A_val ≥ 0.99``: when a run has generalised; nothing where that is not said."""
        if self.generalised is None:
            return ""
        return f"{self.shown.symbol_of('valid')} {self.shown.side} {self.generalised.threshold:g}"

    @property
    def reached(self) -> str:
        """``validation accuracy 0.99``: the same in words."""
        return "" if self.generalised is None else f"validation {self.shown.words} {self.generalised.threshold:g}"

    @property
    def learned(self) -> float | None:
        """What a run must have reached on a split for its best step to be a time to memorise or to generalise.

        Less than what ends a run as having generalised, where the task names a first threshold; None where it does not
        say what generalised means.
        """
        if self.generalised is None:
            return None
        return next(iter(self.shown.thresholds), self.generalised.threshold)

    def learned_on(self, joined: str) -> str:
        """``A_train or A_val ≥ 0.9``, joined by a word; nothing where the task does not say what generalised means."""
        if self.learned is None:
            return ""
        both = f" {joined} ".join(self.shown.symbol_of(split) for split in SPLITS)
        return f"{both} {self.shown.side} {self.learned:g}"

    @property
    def columns(self) -> list[str]:
        """What is recorded, in order: ``train_loss``, ``train_accuracy``, ``valid_loss`` and so on."""
        return [f"{split}_{measure.name}" for split in SPLITS for measure in self.recorded]

    def to_json(self) -> dict[str, Any]:
        """For a record that can be read where the task is not: as JSON gives it back, with lists."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> "Measures":
        """What :meth:`to_json` gave; what a later version says besides is passed over.

        Raises:
            ValueError: it is nothing of the kind.
        """
        try:
            recorded = tuple(Measure(**_known(own, Measure)) for own in said["recorded"])
            generalised = said.get("generalised")
            meant = Generalised(**_known(generalised, Generalised)) if generalised else None
            return cls(recorded, meant, str(said.get("things", cls.things)))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no measures of a task: {error}") from None


def union(several: Iterable[Measures]) -> Measures:
    """All that several tasks measure, each thing once: for tables of runs of all of them.

    What generalised means is kept where all mean the same.
    """
    every = list(dict.fromkeys(several))
    if len(every) == 1:
        return every[0]
    recorded: dict[str, Measure] = {}
    for measures in every:
        for measure in measures.recorded:
            recorded.setdefault(measure.name, measure)
    meant, things = {measures.generalised for measures in every}, {measures.things for measures in every}
    return Measures(
        tuple(recorded.values()),
        meant.pop() if len(meant) == 1 else None,
        things.pop() if len(things) == 1 else Measures.things,
    )


def _known(said: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Of what JSON says the fields of a class, lists as the tuples that they were."""
    names = {field.name for field in fields(kind)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in said.items() if name in names}


def perplexity(nats: float) -> float:
    """``exp`` of a loss in nats; infinite where that is beyond all numbers."""
    return math.exp(nats) if nats < 700 else math.inf


ACCURACY = Measure("accuracy", "A", "accuracy", "", True, (0.0, 1.0), thresholds=(0.9, 0.99))
LOSS = Measure("loss", "L", "loss", "nats", is_log=True)
LOSS_AND_ACCURACY = Measures((LOSS, ACCURACY), Generalised("accuracy", 0.99))
EQUATIONS = Measures(
    (
        replace(LOSS, about="nats per scored token, which are the result and, where equations end with it, EOS"),
        replace(ACCURACY, about="share of equations whose right-hand side is predicted whole"),
    ),
    LOSS_AND_ACCURACY.generalised,
    "equations",
)
