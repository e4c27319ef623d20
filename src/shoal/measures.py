"""Measures of a task, defined once: names, symbols, units, direction of the better, and the criterion of generalising.

Training, tables, figures and sentences read them here; no other module names a loss or an accuracy.
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
    """Quantity that an objective gives for each example, recorded for each split as ``train_NAME``, ``valid_NAME``.

    Attributes:
        name: a word, part of the recorded column.
        symbol: symbol in figures and tables, with the split as its index: ``L`` of the training split is L_train.
        words: name in sentences.
        unit: unit of its values; empty for shares.
        higher_is_better: true where the largest value is the best, false where the smallest is.
        bounds: smallest and largest possible value, where it is bounded.
        is_log: true where it is drawn on a logarithmic axis.
        thresholds: thresholds to which times are measured; below the first, the step of a best value does not count
            as a time to memorise or to generalise.
        about: explanation of a value in captions: unit, and the examples that it is a mean or a share of.
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
        """Best extreme of the values: ``largest`` or ``smallest``."""
        return "largest" if self.higher_is_better else "smallest"

    @property
    def side(self) -> str:
        """Side of a threshold on which values have reached it: ``≥`` or ``≤``."""
        return "≥" if self.higher_is_better else "≤"

    @property
    def best(self) -> float | None:
        """Best possible value; None where there is always a better one."""
        bound = None if self.bounds is None else self.bounds[int(self.higher_is_better)]
        return bound if bound is not None and math.isfinite(bound) else None

    @property
    def axis(self) -> str:
        """Title of an axis of its values on any split: ``loss (nats)``."""
        return f"{self.words} ({self.unit})" if self.unit else self.words

    def symbol_of(self, split: str) -> str:
        """Symbol of the measure on a split: ``L_val`` and the like."""
        return f"{self.symbol}_{SPLIT_SYMBOLS.get(split, split)}"


@dataclass(frozen=True)
class Generalised:
    """Criterion of having memorised and of having generalised: a measure reaches a value on each split."""

    measure: str
    threshold: float

    @property
    def column(self) -> str:
        """Recorded column of the measure on the validation split."""
        return f"valid_{self.measure}"


@dataclass(frozen=True)
class Measures:
    """Measures of a task.

    Attributes:
        recorded: measures in the order of figures and tables; the first, ``loss``, is minimised by training.
        generalised: criterion of having generalised, where the task has one.
        things: word for the examples, in the plural.
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
            raise ValueError(f"generalised names the measure {self.generalised.measure!r}, which is not recorded")

    def __getitem__(self, name: str) -> Measure:
        """Measure of this name, or of this recorded column."""
        name = name.partition("_")[2] if name.startswith(("train_", "valid_")) else name
        matching = next((measure for measure in self.recorded if measure.name == name), None)
        if matching is None:
            raise KeyError(name)
        return matching

    @property
    def shown(self) -> Measure:
        """Most telling measure of a run: that of the criterion of having generalised, else the loss."""
        return self.recorded[0] if self.generalised is None else self[self.generalised.measure]

    def has_generalised(self, values: Mapping[str, Any]) -> Any:
        """Return True if an evaluation, by column, is of a run that has generalised; numbers, or tensors of them."""
        if self.generalised is None:
            return False
        value, threshold = values[self.generalised.column], self.generalised.threshold
        return value >= threshold if self.shown.higher_is_better else value <= threshold

    @property
    def arrived(self) -> str:
        """Criterion of having generalised in symbols, ``A_val ≥ 0.99``; empty where there is none."""
        if self.generalised is None:
            return ""
        return f"{self.shown.symbol_of('valid')} {self.shown.side} {self.generalised.threshold:g}"

    @property
    def reached(self) -> str:
        """Criterion of having generalised in words, ``validation accuracy 0.99``; empty where there is none."""
        return "" if self.generalised is None else f"validation {self.shown.words} {self.generalised.threshold:g}"

    @property
    def learned(self) -> float | None:
        """Smallest value on a split at which the best step of a run counts as a time to memorise or to generalise.

        It is the first of the measure's thresholds, where it has any; None where there is no criterion of having
        generalised.
        """
        if self.generalised is None:
            return None
        return next(iter(self.shown.thresholds), self.generalised.threshold)

    def learned_on(self, joined: str) -> str:
        """Condition of :attr:`learned` on both splits, ``A_train or A_val ≥ 0.9``; empty where there is none."""
        if self.learned is None:
            return ""
        both = f" {joined} ".join(self.shown.symbol_of(split) for split in SPLITS)
        return f"{both} {self.shown.side} {self.learned:g}"

    @property
    def columns(self) -> list[str]:
        """Recorded columns, in order: ``train_loss``, ``train_accuracy``, ``valid_loss`` and so on."""
        return [f"{split}_{measure.name}" for split in SPLITS for measure in self.recorded]

    def to_json(self) -> dict[str, Any]:
        """JSON record that can be read where the task is missing, with lists for tuples."""
        plain: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return plain

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> "Measures":
        """Measures from the record of :meth:`to_json`; entries of later versions are ignored.

        Raises:
            ValueError: it is no such record.
        """
        try:
            recorded = tuple(Measure(**_known(entry, Measure)) for entry in record["recorded"])
            generalised = record.get("generalised")
            criterion = Generalised(**_known(generalised, Generalised)) if generalised else None
            return cls(recorded, criterion, str(record.get("things", cls.things)))
        except (TypeError, KeyError, AttributeError) as error:
            raise ValueError(f"no measures of a task: {error}") from None


def union(several: Iterable[Measures]) -> Measures:
    """Measures of several tasks, each once: for tables of runs of all of them.

    The criterion of having generalised is kept where all tasks have the same.
    """
    every = list(dict.fromkeys(several))
    if len(every) == 1:
        return every[0]
    recorded: dict[str, Measure] = {}
    for measures in every:
        for measure in measures.recorded:
            recorded.setdefault(measure.name, measure)
    criteria, things = {measures.generalised for measures in every}, {measures.things for measures in every}
    return Measures(
        tuple(recorded.values()),
        criteria.pop() if len(criteria) == 1 else None,
        things.pop() if len(things) == 1 else Measures.things,
    )


def _known(record: Mapping[str, Any], kind: type) -> dict[str, Any]:
    """Fields of a class from a JSON record, with tuples for lists."""
    names = {field.name for field in fields(kind)}
    return {name: tuple(value) if isinstance(value, list) else value for name, value in record.items() if name in names}


def perplexity(nats: float) -> float:
    """Perplexity of a loss in nats, its exponential; infinite where that exceeds the range of floats."""
    return math.exp(nats) if nats < 700 else math.inf


ACCURACY = Measure("accuracy", "A", "accuracy", "", True, (0.0, 1.0), thresholds=(0.9, 0.99))
LOSS = Measure("loss", "L", "loss", "nats", is_log=True)
LOSS_AND_ACCURACY = Measures((LOSS, ACCURACY), Generalised("accuracy", 0.99))
EQUATIONS = Measures(
    (
        replace(
            LOSS,
            about="nats per scored token; the tokens of the result are scored, and EOS where equations end with it",
        ),
        replace(ACCURACY, about="share of equations whose right-hand side is predicted whole"),
    ),
    LOSS_AND_ACCURACY.generalised,
    "equations",
)
