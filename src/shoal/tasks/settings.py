"""What a task can be asked for, and what is known of it from that alone: sizes, counts, what is measured.

``torch`` and the data are read by what is built, not by what is asked for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from shoal.measures import LOSS_AND_ACCURACY, Measures
from shoal.spec.fields import Part

if TYPE_CHECKING:
    from shoal.spec.run import RunSpec
    from shoal.tasks.base import Task


@dataclass(frozen=True)
class Sizes:
    """What a model must be built for.

    Attributes:
        vocabulary_size: ``V``, tokens that there are; of a task that has sources, in their targets.
        sequence_length: ``S``, positions that it reads at most; of a task that has sources, of a target.
        padding_index: of the token that stands where there is none, if there is one.
        source_vocabulary_size: tokens that there are in sources; None where a task has none.
        source_length: positions of a source at most; likewise.
    """

    vocabulary_size: int
    sequence_length: int
    padding_index: int | None = None
    source_vocabulary_size: int | None = None
    source_length: int | None = None

    @property
    def positions(self) -> int:
        """Tokens of an example at most, its source included."""
        return self.sequence_length + (self.source_length or 0)

    def joined(self) -> "Sizes":
        """For a model that reads a source and its target as one sequence."""
        return Sizes(self.vocabulary_size, self.positions, self.padding_index)


@dataclass(frozen=True)
class Counts:
    """How much data there is, for estimates of time and memory.

    Attributes:
        drawn: examples that training draws from.
        scored: examples that an evaluation scores, of all splits together.
        held: numbers of 8 bytes that all data of one member take; what members share is counted once.
    """

    drawn: int
    scored: int
    held: int = 0


def fitting(suggests: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """What a task suggests beside settings that were given: a warm-up that ends, and a floor where there can be one."""
    own = dict(suggests)
    schedule = given.get("lr_schedule", own.get("lr_schedule", "constant"))
    n_steps, from_zero = given.get("n_steps", own.get("n_steps")), given.get("warmup_from_zero", False)
    if n_steps is not None and own.get("warmup_steps", 0) + from_zero > n_steps:
        own["warmup_steps"] = max(n_steps // 10, int(from_zero or schedule == "inverse_sqrt"))
    if schedule not in ("linear", "cosine"):
        own.pop("lr_floor", None)
    return own


class TaskSettings(Part):
    """The settings of a task, from which its data and objective are built.

    Attributes:
        suggests: defaults of other parts' settings under this task; see :meth:`suggest`.
        offers: what models can read of it, see :attr:`shoal.models.settings.ModelSettings.reads`.
        usual_model: the family that learns it where none is named; that of equations where nothing is said.
        shares_prefixes: examples have prefixes in common and the objective is that of next tokens
            (:class:`~shoal.tasks.base.NextToken`), so that engines which compute a prefix once are worth their while.
        fuses: engine ``plain`` may compute attention, and on the CPU the update of Adam, in one operation each where
            there is one; both are sooner and round otherwise than many.
    """

    suggests: ClassVar[Mapping[str, Any]] = {}
    offers: ClassVar[Sequence[str]] = ("sequence",)
    usual_model: ClassVar[str] = ""
    shares_prefixes: ClassVar[bool] = False
    fuses: ClassVar[bool] = False

    @classmethod
    def suggest(cls, given: Mapping[str, Any]) -> Mapping[str, Any]:
        """:attr:`suggests`, but for what does not go with settings that were given: nobody asked for it.

        Args:
            given: by name, without those that are left open or are none.
        """
        return cls.suggests

    def measures(self) -> Measures:
        """What is measured, and what generalised means; where nothing else is said, loss and accuracy per example.

        The same whatever the settings in which members of a cohort may differ.
        """
        return LOSS_AND_ACCURACY

    def sizes(self) -> Sizes:
        """What a model must be built for; from the settings alone, so that a model is loaded without its data."""
        raise NotImplementedError

    def counts(self) -> Counts:
        """How much data there is; from the settings alone."""
        raise NotImplementedError

    def batch_positions(self, train_batch_size: int) -> int:
        """Positions of a training batch at most, padding and sources included: for estimates of time and memory."""
        return min(train_batch_size, self.counts().drawn) * self.sizes().positions

    def shuffled(self) -> int:
        """Examples that a pass of training brings into an order, of each member: for estimates of memory."""
        return self.counts().drawn

    def build(self, split_seed: int) -> "Task":
        """The data and the objective.

        Raises:
            UserError: the data are not there, or are not those that the settings name.
        """
        raise NotImplementedError

    def build_for(self, reads: str, split_seed: int) -> "Task":
        """The data and the objective for models that read them in one of the ways that it offers.

        Args:
            reads: see :attr:`shoal.models.settings.ModelSettings.reads`.
            split_seed: of the split.
        """
        return self.build(split_seed)

    def kept(self) -> Mapping[str, Any]:
        """What is needed to use a model without its data, such as a tokenizer: JSON, kept with each cohort."""
        return {}

    def place(self) -> tuple[str, Mapping[str, Any]] | None:
        """What data that lie outside of the settings are, by a hash, and the settings that say where they lie.

        They may be elsewhere when a run goes on.
        """
        return None

    @classmethod
    def units(cls, kept: Mapping[str, Any]) -> Mapping[str, float]:
        """Further units of the loss by name, each as what a loss is multiplied by; shown and never recorded.

        Args:
            kept: what :meth:`kept` gave when the run began.
        """
        return {}

    @classmethod
    def beside(cls, kept: Mapping[str, Any]) -> list[str]:
        """What results have to be seen beside, such as a baseline: lines of text.

        Args:
            kept: what :meth:`kept` gave when the run began.
        """
        return []

    def check_model(self, spec: "RunSpec") -> None:
        """Raise :class:`UserError` for a run whose other parts do not go with the task."""

    def sizes_named(self) -> list[str]:
        """The settings that make the data large."""
        return []
