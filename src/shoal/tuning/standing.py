"""Standing of a tuning while it trains: generation, rung, number of trials by state, what was spent, and the best."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from shoal.training.snapshot import Snapshot
from shoal.tuning.budget import Budget


@dataclass(frozen=True)
class Standing:
    """Standing of a tuning at the beginning of the training up to a rung.

    Attributes:
        generation: number of the generation, from 1; 0 while winner and default train on fresh seeds.
        rung: number of the rung, from 1.
        n_rungs: number of rungs of the generation.
        from_step: least step of the runs that train.
        to_step: step up to which they train.
        states: number of trials of all generations so far, by state; those that train are ``waiting``.
        spent: cost of all trials so far, in the unit of the budget.
        cost: further cost of the training up to this rung; 0 where it is not known before, or not counted.
        budget: most that all trials may cost.
        column: recorded column that settings are ranked by.
        best: best value so far: of a finished setting, or of the one that came farthest; None where there is none.
    """

    generation: int
    rung: int
    n_rungs: int
    from_step: int
    to_step: int
    states: Mapping[str, int]
    spent: float
    cost: float
    budget: Budget
    column: str
    best: float | None

    def step(self, done: float) -> int:
        """Step of the settings that train, when this share of their steps up to the rung is done."""
        return self.from_step + int(done * (self.to_step - self.from_step))

    def spent_so_far(self, done: float) -> float:
        """Cost of all trials, when this share of the steps up to the rung is done."""
        return self.spent + done * self.cost


def share_done(first: Sequence[Snapshot], last: Sequence[Snapshot]) -> float:
    """Share of the steps of some cohorts that is done, by their first and last snapshots of one call."""
    steps = sum(snapshot.members * (snapshot.n_steps - snapshot.step) for snapshot in first)
    taken = sum(after.members * (after.step - before.step) for before, after in zip(first, last, strict=True))
    return min(1.0, max(0.0, taken / steps)) if steps > 0 else 1.0
