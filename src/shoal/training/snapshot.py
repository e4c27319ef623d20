"""Snapshots of a cohort's progress, its pace, and an estimate of the time left."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from shoal.measures import Measures
from shoal.spec import RunSpec
from shoal.training.due import evaluations_left

ENOUGH = 0.5  # seconds of steps that an estimate needs at least
RECENT = 30.0  # seconds after which older measurements count half

Spread = tuple[float, float, float]


@dataclass(frozen=True)
class Snapshot:
    """Snapshot of a cohort's progress.

    Attributes:
        measures: measures of its task.
        train, valid: (lowest, median, highest) over the members of the shown measure, on each split; None before the
            first evaluation.
        step: mean step of the members; ``n_steps`` is a mean, too.
        evaluated: mean step of the members' last evaluation in this session, of which ``train`` and ``valid`` are; None
            before there was one.
        state: starting, running, stopping, done or interrupted.
        steps_per_second: mean steps per second of this session.
        seconds_left: estimated seconds until the end of training.
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
    evaluated: int | None = None


class Cost:
    """Mean duration of repeated work; the first of a stack, which allocates for the others, is not counted."""

    def __init__(self) -> None:
        self.seconds = self.count = 0.0
        self._of: object = None

    def add(self, of: object, count: int, seconds: float) -> None:
        """Count ``count`` repetitions with the stack ``of``, which took ``seconds``."""
        if of is not self._of:
            self._of = of
            return
        self.seconds += seconds
        self.count += count
        if self.seconds > RECENT:
            self.seconds, self.count = self.seconds / 2, self.count / 2

    @property
    def each(self) -> float:
        """Seconds of one repetition; 0 where none was counted."""
        return self.seconds / self.count if self.count else 0.0


class Pace:
    """Pace of this session: durations of a step and of an evaluation of one member.

    They are measured separately, because at first every step is evaluated and later one in a hundred.
    """

    def __init__(self) -> None:
        self.steps, self.evaluations = Cost(), Cost()

    def seconds_left(self, spans: Iterable[tuple[int, int]], spec: RunSpec) -> float | None:
        """Estimated seconds until every member has ended; None while there are too few measurements.

        Args:
            spans: current and last step of each member.
            spec: spec of any member, for its schedule.
        """
        if self.steps.seconds < ENOUGH:
            return None
        steps = evaluations = 0
        for (step, last), members in Counter(spans).items():
            steps += members * max(0, last - step)
            evaluations += members * evaluations_left(spec, step, last)
        return steps * self.steps.each + evaluations * self.evaluations.each
