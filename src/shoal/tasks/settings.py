"""Settings of a task, and what follows from them alone: sizes, counts, measures.

``torch`` and the data are loaded where a task is built, not with its settings.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.measures import LOSS_AND_ACCURACY, Measures
from shoal.spec.fields import Part

if TYPE_CHECKING:
    from torch import Tensor, nn

    from shoal.spec.run import RunSpec
    from shoal.tasks.base import Task


@dataclass(frozen=True)
class Sizes:
    """Sizes that a model is built for.

    Attributes:
        vocabulary_size: size of the vocabulary ``V``; of the targets' in a task that has sources.
        sequence_length: largest number of positions ``S``; of a target in a task that has sources.
        padding_index: index of the padding token, where there is one.
        source_vocabulary_size: size of the sources' vocabulary; None in a task without sources.
        source_length: largest number of positions of a source; None in a task without sources.
        table_width: width of the table of tokens where its rows are mapped to the model's width; of the targets' in a
            task that has sources. None where the table has the model's width.
        source_table_width: as ``table_width``, of the sources' table.
    """

    vocabulary_size: int
    sequence_length: int
    padding_index: int | None = None
    source_vocabulary_size: int | None = None
    source_length: int | None = None
    table_width: int | None = None
    source_table_width: int | None = None

    @property
    def positions(self) -> int:
        """Largest number of tokens of an example, its source included."""
        return self.sequence_length + (self.source_length or 0)

    def joined(self) -> "Sizes":
        """Sizes for a model that reads a source and its target as one sequence."""
        return Sizes(self.vocabulary_size, self.positions, self.padding_index, table_width=self.source_table_width)


@dataclass(frozen=True)
class Counts:
    """Amounts of data, for estimates of time and memory.

    Attributes:
        drawn: number of examples that training draws from.
        scored: number of examples that an evaluation scores, of all splits together.
        held: number of 8-byte elements of all data of one member, without data that members share.
    """

    drawn: int
    scored: int
    held: int = 0


def fitting(suggests: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Suggested defaults that go with given settings: a warm-up that ends, and a floor where the schedule falls."""
    defaults = dict(suggests)
    schedule = given.get("lr_schedule", defaults.get("lr_schedule", "constant"))
    n_steps, from_zero = given.get("n_steps", defaults.get("n_steps")), given.get("warmup_from_zero", False)
    if n_steps is not None and defaults.get("warmup_steps", 0) + from_zero > n_steps:
        defaults["warmup_steps"] = max(n_steps // 10, int(from_zero or schedule == "inverse_sqrt"))
    if schedule not in ("linear", "cosine"):
        defaults.pop("lr_floor", None)
    return defaults


SPREADS = {
    "torch": "{}/V on each of the V tokens, the right one included, as PyTorch",
    "fairseq": "{}/(V-1) on each token but the right one, as fairseq",
    "joeynmt": "{}/(V-2) on each token but the right one and PAD, as joeynmt and the Annotated Transformer",
}


def smoothing_lines(label_smoothing: float, convention: str = "torch") -> list[str]:
    """Line that names the convention of label smoothing; none where nothing is smoothed.

    >>> smoothing_lines(0.1, "fairseq")[0].split("; ")[0]
    'label smoothing 0.1, convention fairseq: 0.1/(V-1) on each token but the right one, as fairseq'
    """
    if not label_smoothing:
        return []
    spread = SPREADS[convention].format(f"{label_smoothing:g}")
    return [f"label smoothing {label_smoothing:g}, convention {convention}: {spread}; reported losses are without it"]


class TaskSettings(Part):
    """Settings of a task, from which its data and objective are built.

    Attributes:
        suggests: defaults of other parts' settings under this task; see :meth:`suggest`.
        offers: ways in which models can read it, see :attr:`shoal.models.settings.ModelSettings.reads`.
        usual_model: default model family; where empty, that of equations.
        shares_prefixes: true where examples have prefixes in common and the objective is that of next tokens
            (:class:`~shoal.tasks.base.NextToken`), so that engines which compute a prefix once save time.
        fuses: true where engine ``plain`` may compute attention, and on the CPU the update of Adam, in one operation
            each where there is one; both are faster and have another rounding.
        makes_windows: true where batches are windows of tokens without common prefixes, and the objectives are those of
            single tokens (:class:`~shoal.tasks.base.TokenObjective`), which engine ``windows`` computes; a class from
            outside says so itself, or counts as one that does not.
    """

    suggests: ClassVar[Mapping[str, Any]] = {}
    offers: ClassVar[Sequence[str]] = ("sequence",)
    usual_model: ClassVar[str] = ""
    shares_prefixes: ClassVar[bool] = False
    fuses: ClassVar[bool] = False
    makes_windows: ClassVar[bool] = False

    @classmethod
    def suggest(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """Defaults of :attr:`suggests`, without those that do not go with settings that were given.

        Args:
            given: the given settings by name, without those that are left open or are None.
        """
        return cls.suggests

    def measures(self) -> Measures:
        """Measures of the task; by default loss and accuracy per example.

        They must not depend on settings in which members of a cohort may differ.
        """
        return LOSS_AND_ACCURACY

    def sizes(self) -> Sizes:
        """Sizes that a model is built for; from the settings alone, so that a model is loaded without its data."""
        raise NotImplementedError

    def check_final(self) -> None:
        """Check files that are read only when training is done; there are none by default.

        Raises:
            UserError: a file cannot be read, or is not as it must be.
        """

    def counts(self) -> Counts:
        """Amounts of data; from the settings alone."""
        raise NotImplementedError

    def batch_positions(self, train_batch_size: int) -> int:
        """Largest number of positions of a training batch, padding and sources included: for estimates."""
        return min(train_batch_size, self.counts().drawn) * self.sizes().positions

    def shuffled(self) -> int:
        """Number of examples that a pass of training shuffles, per member: for estimates of memory."""
        return self.counts().drawn

    def build(self, split_seed: int) -> "Task":
        """Data and objective of the task.

        Raises:
            UserError: the data are missing, or are not those that the settings name.
        """
        raise NotImplementedError

    def build_for(self, reads: str, split_seed: int) -> "Task":
        """Data and objective for models that read examples in one of the ways that the task offers.

        Args:
            reads: see :attr:`shoal.models.settings.ModelSettings.reads`.
            split_seed: seed of the split.
        """
        return self.build(split_seed)

    def kept(self) -> Mapping[str, Any]:
        """Record that is needed to use a model without its data, such as a tokenizer: JSON, kept with each cohort."""
        return {}

    def place(self) -> tuple[str, Mapping[str, Any]] | None:
        """Identity of data outside of the settings, by a hash, and the settings that hold their paths.

        The paths may be others when a run is resumed.
        """
        return None

    @classmethod
    def units(cls, kept: Mapping[str, Any]) -> Mapping[str, float]:
        """Further units of the loss: the factor of each by name; shown and never recorded.

        Args:
            kept: record of :meth:`kept` from when the run began.
        """
        return {}

    @classmethod
    def beside(cls, kept: Mapping[str, Any]) -> list[str]:
        """Reference values to show beside results, such as a baseline: lines of text.

        Args:
            kept: record of :meth:`kept` from when the run began.
        """
        return []

    def initial_tables(self, spec: "RunSpec", model: "nn.Module") -> Mapping[str, "Tensor"]:
        """Values that parameters of a run's model begin with in place of those that the model draws, by name.

        Args:
            spec: the run.
            model: its model.
        """
        return {}

    def frozen_tables(self, spec: "RunSpec") -> list[str]:
        """Names of parameters of a run's model that do not train, and in which members of a cohort may differ."""
        return []

    @classmethod
    def before(cls, kept: Mapping[str, Any]) -> list[str]:
        """Lines to say before a cohort trains, and again beside its results.

        Args:
            kept: record of :meth:`kept`.
        """
        return []

    def conventions(self) -> list[str]:
        """Lines to say before a cohort trains: how its settings change the examples, or the loss that it minimises."""
        return []

    def check_model(self, spec: "RunSpec") -> None:
        """Raise :class:`UserError` for a run whose model or update rule does not go with the task."""

    def sizes_named(self) -> list[str]:
        """Names of the settings that determine the amount of data."""
        return []
