"""Which members of a cohort are in the stack, which wait for a place, and which have left.

The stack holds as many members as there are places; the others wait. Members leave when they are done; when enough
places are free, the stack is compacted and members that wait take them. Where there have to be fewer places than
before, members that have begun wait with what they have become. Where batches have forms, which come again every so
many steps, members of a stack are at the same place of that period: those that wait join where it is theirs.

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
    """The members of a cohort, by their runs.

    Attributes:
        stack: of those that have a place; None where none has.
        members: runs in the stack, in its order.
        gone: members that have left and still have a place, ``(R,)`` bool.
        parked: what has become of runs that have begun and have no place, each as the state of a stack of one.
        finished: how runs ended that have left.
        n_waiting: runs that want a place.
        begins: steps within a period at which one of them could take it.
        tried: members of the last stack that there was, or that there was to be.

    Args:
        specs: the runs.
        places: how many train side by side.
        device: where the stack lives.
        engine: how it is computed.
    """

    def __init__(self, specs: Sequence[RunSpec], places: int, device: torch.device, engine: str) -> None:
        self.specs = {spec.id: spec for spec in specs}
        self.places, self.device, self.engine, self.tried = places, device, engine, places
        self.clear()

    def clear(self) -> None:
        """Nobody has begun."""
        self.stack: Stack | None = None
        self.members: list[str] = []
        self.gone = torch.zeros(0, dtype=torch.bool)
        self.parked: dict[str, State] = {}
        self.finished: dict[str, Ending] = {}
        self._look()

    def _look(self) -> None:
        """Note who waits: it is asked at every step."""
        waiting = self.waiting
        self.n_waiting, self.begins = len(waiting), {self._phase(run) for run in waiting}

    @cached_property
    def period(self) -> int:
        """Steps after which forms of batches come again; 1 where there are none."""
        return form_period(next(iter(self.specs.values())))

    def _phase(self, run: str) -> int:
        """The place within a period of one that waits."""
        return int(self.parked[run]["steps"]) % self.period if run in self.parked else 0

    @property
    def waiting(self) -> list[str]:
        """Runs that want a place; those that have begun come first."""
        known = self.finished.keys() | set(self.members) | self.parked.keys()
        return [*self.parked, *(run for run in self.specs if run not in known)]

    @property
    def is_done(self) -> bool:
        """Whether every member has left."""
        return not self.n_waiting and bool(self.gone.all())

    @property
    def is_settled(self) -> bool:
        """Whether there is nothing to fill: all places that are wanted are taken, by members that train."""
        is_full = not self.n_waiting or len(self.members) >= self.places
        return self.stack is not None and not self.gone.any() and (is_full or self.until_joining() > 0)

    def until_joining(self) -> int:
        """Steps until one that waits can take a place; never where nobody waits or too few are free."""
        if self.stack is None:
            return 0
        if not self.n_waiting or (self.places - int((~self.gone).sum())) * COMPACT < self.places:
            return sys.maxsize
        now = int(self.stack.steps[0])
        return min((begin - now) % self.period for begin in self.begins)

    def fill(self) -> Tensor:
        """Compact the stack and let the waiting take free places, where that pays; who begins now, ``(R,)`` bool."""
        kept = (~self.gone).nonzero().flatten().tolist()
        free = self.places - len(kept)
        joining = self._joining(kept)[:free] if free * COMPACT >= self.places else []
        if not (joining or not kept or int(self.gone.sum()) * COMPACT >= len(self.gone)):
            return torch.zeros(len(self.members), dtype=torch.bool)
        members = [self.members[place] for place in kept]
        rows: list[State] = []
        if self.stack is not None and kept:
            rows.append({name: tensor[kept].cpu() for name, tensor in self.stack.state().items()})
        rows += [self.parked.pop(run) for run in joining if run in self.parked]
        self._restack(members + joining)
        if rows and self.stack is not None:
            self.stack.load_state({name: torch.cat([row[name] for row in rows]) for name in rows[0]})
        begun = sum(len(row["steps"]) for row in rows)
        return torch.arange(len(self.members)) >= begun

    def _joining(self, kept: list[int]) -> list[str]:
        """Those of the waiting who are at the same place of a period as those who stay, or as the first of them."""
        waiting = self.waiting
        if not waiting or (self.begins == {0} and not kept):
            return waiting
        now = int(self.stack.steps[kept[0]]) % self.period if self.stack and kept else self._phase(waiting[0])
        return [run for run in waiting if self._phase(run) == now]

    def _restack(self, members: list[str]) -> None:
        self.tried = len(members)
        self.stack = None  # before there is another: there may not be room for both
        if members:
            cohort = Cohort(tuple(self.specs[run] for run in members))
            self.stack = Stack(cohort, self.device, self.engine)
        self.members = members
        self.gone = torch.zeros(len(members), dtype=torch.bool)
        self._look()

    def leave(self, place: int, ending: Ending) -> None:
        """A member has ended; it keeps its place until the stack is compacted."""
        self.finished[self.members[place]] = ending
        self.gone[place] = True

    def steps(self) -> dict[str, int]:
        """Steps taken by each run."""
        now = {} if self.stack is None else dict(zip(self.members, self.stack.steps.tolist(), strict=True))
        now |= {run: int(row["steps"]) for run, row in self.parked.items()}
        taken = {run: int(str(ending["step"])) for run, ending in self.finished.items()}
        return {run: taken.get(run, now.get(run, 0)) for run in self.specs}

    # for a checkpoint

    def state(self) -> State:
        """What has become of the members in the stack, and then of those parked, ``(R + parked, ...)`` each.

        With the members that are done and still have a place, so that training goes on in the very same stack.
        """
        rows = [*([] if self.stack is None else [self.stack.state()]), *self.parked.values()]
        if len(rows) < 2:
            return rows[0] if rows else {}
        return {name: torch.cat([row[name].cpu() for row in rows]) for name in rows[0]}

    def where(self) -> dict[str, Any]:
        """Whose state it is, and who has left: JSON."""
        return {"members": self.members, "parked": list(self.parked), "finished": self.finished}

    def restore(self, state: State, where: Mapping[str, Any], check: Callable[[State, State], None]) -> None:
        """Stand where a checkpoint says.

        The very same stack, if there are places enough; else the first of its members have them, and the others are
        parked.

        Args:
            state: as :meth:`state` gave it.
            where: as :meth:`where` gave it.
            check: is told what the state is and what it must look like.
        """
        self.clear()
        self.finished = dict(where["finished"])
        begun = [*where["members"], *where.get("parked", [])]
        kept = list(where["members"])
        if len(kept) > self.places:
            steps = dict(zip(begun, counts(state, "steps"), strict=False))  # whose damage is found below
            phases = {run: steps.get(run, 0) % self.period for run in begun if run not in self.finished}
            kept = [run for run in phases if phases[run] == next(iter(phases.values()))][: self.places]
        self._restack(kept)
        if self.stack is not None:
            own = self.stack.state()
            check(state, {name: tensor[:1].expand(len(begun), *tensor.shape[1:]) for name, tensor in own.items()})
            rows = [begun.index(run) for run in kept]
            self.stack.load_state({name: tensor[rows] for name, tensor in state.items()})
        self.gone = torch.tensor([run in self.finished for run in kept], dtype=torch.bool)
        self.parked = {
            run: {name: tensor[row : row + 1].clone() for name, tensor in state.items()}
            for row, run in enumerate(begun)
            if run not in kept and run not in self.finished
        }
        self._look()
