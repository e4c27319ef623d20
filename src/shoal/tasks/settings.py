"""What a task can be asked for, and what is known of it from that alone: sizes, counts, what is measured.

``torch`` and the data are read by what is built, not by what is asked for.
"""

from collections.abc import Mapping
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
        vocabulary_size: ``V``, tokens that there are.
        sequence_length: ``S``, positions that it reads at most.
        padding_index: of the token that stands where there is none, if there is one.
    """

    vocabulary_size: int
    sequence_length: int
    padding_index: int | None = None


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


class TaskSettings(Part):
    """The settings of a task, from which its data and objective are built.

    Attributes:
        suggests: defaults of other parts' settings under this task; see :meth:`suggest`.
        shares_prefixes: examples have prefixes in common and the objective is that of next tokens
            (:class:`~shoal.tasks.base.NextToken`), so that engines which compute a prefix once are worth their while.
    """

    suggests: ClassVar[Mapping[str, Any]] = {}
    shares_prefixes: ClassVar[bool] = False

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

    def build(self, split_seed: int) -> "Task":
        """The data and the objective.

        Raises:
            UserError: the data are not there, or are not those that the settings name.
        """
        raise NotImplementedError

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
