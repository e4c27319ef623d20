"""Where a cohort stands, how fast it gets on, and so how long it still takes: for those who watch."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from shoal.measures import Measures
from shoal.spec import RunSpec
from shoal.training.due import evaluations_left

ENOUGH = 0.5  # seconds of steps from which there is something to estimate from
RECENT = 30.0  # seconds of which what is older counts half

Spread = tuple[float, float, float]


@dataclass(frozen=True)
class Snapshot:
    """Where a cohort stands.

    Attributes:
        measures: what its task measures.
        train, valid: (lowest, median, highest) over the members of the measure that says most, on each split; None: not
            known yet.
        step: mean over the members, as is ``n_steps``.
        state: starting, running, done or interrupted.
        steps_per_second: of this session, in the same mean steps.
        seconds_left: an estimate, of training alone.
    """

    cohort: str
    title: str
    engine: str
    members: int
    step: int
    n_steps: int
    state: str
    measures: Measures
    train: Spread | None
    valid: Spread | None
    generalised: int
    diverged: int
    steps_per_second: float | None
    seconds_left: float | None


class Cost:
    """Seconds of one of many like things; the first of a stack, which lays out what the others use, is not counted."""

    def __init__(self) -> None:
        self.seconds = self.count = 0.0
        self._of: object = None

    def add(self, of: object, count: int, seconds: float) -> None:
        """So many took so long with the stack ``of``."""
        if of is not self._of:
            self._of = of
            return
        self.seconds += seconds
        self.count += count
        if self.seconds > RECENT:
            self.seconds, self.count = self.seconds / 2, self.count / 2

    @property
    def each(self) -> float:
        """Seconds of one; 0 where none was counted."""
        return self.seconds / self.count if self.count else 0.0


class Pace:
    """What a step and an evaluation of one member cost in this session.

    Apart, because at first every step is evaluated and later one in a hundred: the seconds of the first steps say
    little of the others.
    """

    def __init__(self) -> None:
        self.steps, self.evaluations = Cost(), Cost()

    def seconds_left(self, spans: Iterable[tuple[int, int]], spec: RunSpec) -> float | None:
        """How long it takes until every member has ended; None while there is nothing to estimate from.

        Args:
            spans: the step that each member has reached, and its last.
            spec: any member's, for its schedule.
        """
        if self.steps.seconds < ENOUGH:
            return None
        steps = evaluations = 0
        for (step, last), members in Counter(spans).items():
            steps += members * max(0, last - step)
            evaluations += members * evaluations_left(spec, step, last)
        return steps * self.steps.each + evaluations * self.evaluations.each
