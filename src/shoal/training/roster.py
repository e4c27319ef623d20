"""Roster of a cohort: members in the stack, members that wait for a place, and members that have left.

The stack holds as many members as there are places; the others wait. Members leave when they are done; when enough
places are free, the stack is compacted and waiting members take them. Where there have to be fewer places than before,
members that have begun wait with their state. Where batches have forms, which repeat with a period, all members of a
stack are at the same step of that period: a waiting member joins when the stack reaches its step.

``R`` members of the stack.
"""

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from shoal.lab.continuing import counts
from shoal.spec import RunSpec
from shoal.tasks.build import form_period
from shoal.training.plan import Cohort
from shoal.training.stack import Stack

COMPACT = 8  # the stack is compacted when at least one place in so many is free

State = Mapping[str, Tensor]
Ending = dict[str, object]  # {"state": "done" or "diverged", "step": …}


class Roster:
    """Roster of the members of a cohort, by their runs.

    Attributes:
        stack: stack of the members that have a place; None where none has.
        members: runs in the stack, in its order.
        gone: mask of members that have left and still have a place, ``(R,)`` bool.
        parked: states of runs that have begun and have no place, each as that of a stack of one.
        finished: endings of runs that have left.
        n_waiting: number of runs that wait for a place.
        begins: steps within a period at which one of them could take a place.
        until: step at which each run pauses; a run without an entry stays where it is. None where none pauses.
        pauses: the same of each member of the stack, ``(R,)`` int64.
        tried: number of members of the last stack that was made or tried.

    Args:
        specs: the runs.
        places: number of members that train side by side.
        device: device of the stack.
        engine: engine of the stack.
        products: library of its matrix products.
        until: step at which each run pauses.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        places: int,
        device: torch.device,
        engine: str,
        products: str = "torch",
        until: Mapping[str, int] | None = None,
    ) -> None:
        self.specs, self.until = {spec.id: spec for spec in specs}, until
        self.places, self.device, self.tried = places, device, places
        self.engine, self.products = engine, products
        self.clear()

    def clear(self) -> None:
        """Reset to the state in which no member has begun."""
        self.stack: Stack | None = None
        self.members: list[str] = []
        self.gone = torch.zeros(0, dtype=torch.bool)
        self.pauses = torch.zeros(0, dtype=torch.int64)
        self.parked: dict[str, State] = {}
        self.finished: dict[str, Ending] = {}
        self._look()

    def _look(self) -> None:
        """Update the numbers of waiting members, which are needed at every step."""
        waiting = self.waiting
        self.n_waiting, self.begins = len(waiting), {self._phase(run) for run in waiting}

    @cached_property
    def period(self) -> int:
        """Number of steps after which forms of batches repeat; 1 where there are none."""
        return form_period(next(iter(self.specs.values())))

    def _phase(self, run: str) -> int:
        """Step within the period of a waiting member."""
        return int(self.parked[run]["steps"]) % self.period if run in self.parked else 0

    @property
    def waiting(self) -> list[str]:
        """Runs that wait for a place; those that have begun come first, and those that pause are not among them."""
        known = self.finished.keys() | set(self.members) | self.parked.keys()
        begun = [run for run, row in self.parked.items() if int(row["steps"]) < self.pause_of(run)]
        return [*begun, *(run for run in self.specs if run not in known and self.pause_of(run) > 0)]

    def pause_of(self, run: str) -> int:
        """Step at which a run pauses; ``sys.maxsize`` where none does."""
        return sys.maxsize if self.until is None else self.until.get(run, 0)

    @property
    def is_done(self) -> bool:
        """Return True if every member has left or pauses."""
        return not self.n_waiting and bool(self.gone.all())

    @property
    def is_settled(self) -> bool:
        """Return True if there is nothing to fill: all needed places are taken, by members that train."""
        is_full = not self.n_waiting or len(self.members) >= self.places
        return self.stack is not None and not self.gone.any() and (is_full or self.until_joining() > 0)

    def until_joining(self) -> int:
        """Number of steps until a waiting member can take a place; ``sys.maxsize`` where none can."""
        if self.stack is None:
            return 0
        if not self.n_waiting or (self.places - int((~self.gone).sum())) * COMPACT < self.places:
            return sys.maxsize
        now = int(self.stack.steps[0])
        return min((begin - now) % self.period for begin in self.begins)

    def fill(self) -> Tensor:
        """Compact the stack and fill free places, where that pays; returns the mask of members that begin, ``(R,)``."""
        staying = (~self.gone).nonzero().flatten().tolist()
        free, pausing = self.places - len(staying), any(run in self.parked for run in self.members)
        joining = self._joining(staying)[:free] if free * COMPACT >= self.places else []
        if not (joining or not staying or pausing or int(self.gone.sum()) * COMPACT >= len(self.gone)):
            return torch.zeros(len(self.members), dtype=torch.bool)
        members = [self.members[place] for place in staying]
        rows: list[State] = []
        if self.stack is not None and staying:
            rows.append({name: tensor[staying].cpu() for name, tensor in self.stack.state().items()})
        rows += [self.parked.pop(run) for run in joining if run in self.parked]
        self._restack(members + joining)
        if rows and self.stack is not None:
            self.stack.load_state({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
        begun = sum(len(row["steps"]) for row in rows)
        return torch.arange(len(self.members)) >= begun

    def _joining(self, staying: list[int]) -> list[str]:
        """Waiting runs at the same step of a period as the staying members, or else as the first of the waiting."""
        waiting = self.waiting
        if not waiting or (self.begins == {0} and not staying):
            return waiting
        now = int(self.stack.steps[staying[0]]) % self.period if self.stack and staying else self._phase(waiting[0])
        return [run for run in waiting if self._phase(run) == now]

    def _restack(self, members: list[str]) -> None:
        self.tried = len(members)
        self.stack = None  # before another is made: there may not be memory for both
        if members:
            cohort = Cohort(tuple(self.specs[run] for run in members))
            self.stack = Stack(cohort, self.device, self.engine, self.products)
        self.members = members
        self.gone = torch.zeros(len(members), dtype=torch.bool)
        self.pauses = torch.tensor([self.pause_of(run) for run in members], dtype=torch.int64)
        self._look()

    def leave(self, place: int, ending: Ending) -> None:
        """Mark a member as ended; it keeps its place until the stack is compacted."""
        self.finished[self.members[place]] = ending
        self.gone[place] = True

    def pause(self) -> Tensor:
        """Take members that pause out of the stack and fill their places; returns the mask of :meth:`fill`, ``(R,)``.

        They are parked at once, because a member that stays in the stack counts on.
        """
        if self.stack is None or self.until is None:
            return torch.zeros(len(self.members), dtype=torch.bool)
        pausing = ~self.gone & (self.stack.steps >= self.pauses)
        if not pausing.any():
            return pausing
        state = self.stack.state()
        for place in pausing.nonzero().flatten().tolist():
            self.parked[self.members[place]] = {
                name: tensor[place : place + 1].cpu().clone() for name, tensor in state.items()
            }
        self.gone |= pausing
        self._look()
        return self.fill()

    def steps(self) -> dict[str, int]:
        """Number of steps taken by each run."""
        now = {} if self.stack is None else dict(zip(self.members, self.stack.steps.tolist(), strict=True))
        now |= {run: int(row["steps"]) for run, row in self.parked.items()}
        taken = {run: int(str(ending["step"])) for run, ending in self.finished.items()}
        return {run: taken.get(run, now.get(run, 0)) for run in self.specs}

    def ends(self) -> list[int]:
        """Step at which each run ends or pauses, or has."""
        steps = self.steps()
        last = {run: max(steps[run], min(spec.n_steps, self.pause_of(run))) for run, spec in self.specs.items()}
        return [int(str(self.finished[run]["step"])) if run in self.finished else last[run] for run in self.specs]

    # for a checkpoint

    def state(self) -> State:
        """State of the members in the stack, then of the parked ones, ``(R + parked, ...)`` each.

        Members that are done and still have a place are included, so that training resumes in the very same stack.
        """
        rows = [*([] if self.stack is None else [self.stack.state()]), *self.parked.values()]
        if len(rows) < 2:
            return rows[0] if rows else {}
        return {name: torch.cat([row[name].cpu() for row in rows]) for name in rows[0]}

    def where(self) -> dict[str, Any]:
        """Runs of the state in order, and endings of those that have left, as JSON."""
        return {"members": self.members, "parked": list(self.parked), "finished": self.finished}

    def restore(self, state: State, where: Mapping[str, Any], check: Callable[[State, State], None]) -> None:
        """Restore the roster of a checkpoint.

        The stack is the very same, if there are places enough and none of its members pauses; else the first that train
        have them, and the others are parked.

        Args:
            state: tensors of :meth:`state`.
            where: JSON of :meth:`where`.
            check: function that compares the state with an example of its shapes and types.
        """
        self.clear()
        self.finished = dict(where["finished"])
        begun = [*where["members"], *where.get("parked", [])]
        steps = dict(zip(begun, counts(state, "steps"), strict=False))  # whose damage is found below
        able = [run for run in begun if run not in self.finished and steps.get(run, 0) < self.pause_of(run)]
        members = [run for run in where["members"] if run in self.finished or run in able]
        if len(members) > self.places or (able and not {*able} & {*members}):
            phases = {run: steps.get(run, 0) % self.period for run in able}
            members = [run for run in phases if phases[run] == next(iter(phases.values()))][: self.places]
        self._restack(members)
        if self.stack is not None:
            example = self.stack.state()
            check(state, {name: tensor[:1].expand(len(begun), *tensor.shape[1:]) for name, tensor in example.items()})
            rows = [begun.index(run) for run in members]
            self.stack.load_state({name: tensor[rows] for name, tensor in state.items()})
        self.gone = torch.tensor([run in self.finished for run in members], dtype=torch.bool)
        self.parked = {
            run: {name: tensor[row : row + 1].clone() for name, tensor in state.items()}
            for row, run in enumerate(begun)
            if run not in members and run not in self.finished
        }
        self._look()
