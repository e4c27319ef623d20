"""Training loop of a cohort by gradients: steps, evaluations, and exact continuation."""

import sys
import time
import warnings
from collections.abc import Callable, Mapping

import polars as pl
import torch
from torch import Tensor

from shoal.errors import LabError, UserError
from shoal.fast.denormals import flushed_denormals
from shoal.fast.engine import engine_kernels
from shoal.fast.memory import keep_freed_memory
from shoal.lab.cohort import CohortFolder
from shoal.measures import SPLITS
from shoal.training.continuation import engine_of, kernels_of, products_of
from shoal.training.due import is_evaluated, is_saved, steps_until_due
from shoal.training.em import EMSession
from shoal.training.engines import is_fitted_by_em
from shoal.training.frozen import tables_agree
from shoal.training.memory import is_out_of_memory, places, release_memory
from shoal.training.roster import Roster
from shoal.training.session import BaseSession, Options
from shoal.training.stack import Stack
from shoal.training.step import Metric, evaluate, l2_norm, train_steps

__all__ = ["Options", "Session", "train_cohort"]

AT_ONCE = 100  # most steps between two checks of the schedule
CHECKED = 0.05  # seconds of steps after which a CPU checks it, so that a request to stop is heard


def train_cohort(folder: CohortFolder, options: Options) -> str:
    """Train a cohort from its last flush to its end or to where its runs pause, or until asked to stop.

    Returns:
        ``done`` or ``interrupted``.

    Raises:
        LabError: the checkpoint is damaged, or another process trains this cohort.
        DiskError: a flush failed; earlier flushes are intact.
    """
    with folder.training():
        if folder.is_finished():  # by a process that held it until now, and may have been killed at the very end
            folder.finish()
            return "done"
        folder.clean()
        if is_fitted_by_em(folder.manifest()["members"][0]["spec"]["model"]):
            return EMSession(folder, options).run()
        with flushed_denormals():
            return Session(folder, options).run()


class Session(BaseSession):
    """Session of one process that trains one cohort by gradients.

    A member that has reached its last step or diverged leaves the stack; one that pauses leaves it with its state.
    Where memory runs out in spite of the estimates, half as many members train side by side from the last flush on.
    """

    roster: Roster

    def __init__(self, folder: CohortFolder, options: Options) -> None:
        keep_freed_memory()
        super().__init__(folder, options)
        self.engine, self.products = engine_of(folder, options.device), products_of(folder, options.device)
        self.metrics = {"l2_norm": l2_norm, **self._registered()}
        specs = self.specs
        self._check_precision()
        largest = max(specs, key=lambda spec: spec.task_part.counts().drawn)
        sizes = (largest, len(specs), options.device, self.engine, options.memory_share)
        self.planned = options.places or places(*sizes, one_table=tables_agree(specs))
        self.roster = Roster(specs, self.planned, options.device, self.engine, self.products, options.until)
        self.most = len(specs)  # members for which memory has not run out yet
        self._fitting(self._restore)
        how = {"precision": self.shared.precision, "engine": self.engine, "products": self.products}
        sessions = folder.status()["sessions"]
        kernels = kernels_of(folder, sessions, self.engine, self.products, self.shared, options.device)
        self._begin(options.device, {**how, **kernels})

    def _check_precision(self) -> None:
        if self.shared.precision == "tf32" and self.options.device.type != "cuda":
            raise LabError(f"cohort {self.folder.id} has precision tf32, which needs device cuda")
        if self.shared.precision != "float32" and self.engine == "plain":
            wanted = str(self.manifest["engine"])
            why = engine_kernels(wanted, self.options.device).note
            raise LabError(
                f"cohort {self.folder.id} has precision {self.shared.precision}, which needs engine {wanted}: {why}"
            )

    def _registered(self) -> dict[str, Metric]:
        """Further metrics that the cohort was begun with, all of them and no others."""
        names = self.manifest["metrics"]
        missing = [name for name in names if name not in self.options.metrics]
        if missing:
            raise LabError(
                f"cohort {self.folder.id} records {missing[0]!r} at every evaluation; "
                "resume it from Python, with the same function in metrics"
            )
        return {name: self.options.metrics[name] for name in names}

    def _restore(self) -> None:
        """Restore the state of the last flush."""
        roster = self.roster
        if (flushed := self._last_flush()) is not None:
            state, where = flushed
            self.planned = self.options.places or where["places"]
            roster.places = min(self.most, self.planned)
            roster.restore(state, where, self.folder.check_checkpoint)

    def guarded(self, act: Callable[[], None]) -> None:
        """See :class:`BaseSession`: memory may run out."""
        self._fitting(act)

    def _fitting(self, act: Callable[[], None]) -> None:
        """Call a function; where memory runs out, return to the last flush with half as many members side by side."""
        while True:
            try:
                act()
                return
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                reason = str(error).partition("\n")[0] or type(error).__name__
            self._shrink(reason)  # now that the error is gone, and with it what it held
            act = self._restore

    def _shrink(self, reason: str) -> None:
        roster = self.roster
        tried = min(roster.tried, self.most)  # fewer where memory ran out before there was a stack to try
        if tried <= 1:
            raise UserError(f"cohort {self.folder.id} ran out of memory with one member in its stack: {reason}")
        roster.places = self.most = tried // 2
        roster.clear()
        release_memory(self.options.device)
        warnings.warn(
            f"cohort {self.folder.id} ran out of memory with {tried} members side by side; it goes back to its "
            f"last flush and trains {self.most} side by side ({reason})",
            stacklevel=2,
        )

    # one step

    def advance(self, most: int = sys.maxsize) -> int:
        """Train up to the next step at which an evaluation, model or flush is due, and do that; done members leave.

        A check of the schedule takes as long as many operations of a small model, and on a GPU it must wait for the
        device; so there may be many steps between two, at most ``most``. Returns the number of steps.
        """
        taken = 0

        def act() -> None:
            nonlocal taken
            taken = self._advance(most)

        self._fitting(act)
        return taken

    def _advance(self, most: int) -> int:
        if not self.roster.is_settled:
            self._record(self.roster.fill())
        stack = self._stack
        n = min(most, self._ahead(stack))
        self._timed(stack, n)
        due = is_evaluated(self.shared, stack.steps) | is_saved(self.shared, stack.steps)
        due = (due | (stack.steps == stack.last_steps)) & (stack.steps <= stack.last_steps)  # (R,)
        self._record(due & stack.alive.cpu())
        self._retire(stack)
        self._record(self.roster.pause())
        if self._flush_is_due():
            self._flush()
        self._watch("running")
        return n

    def _timed(self, stack: Stack, n: int) -> None:
        """Train ``n`` steps and time them; the session's first do not count towards its pace."""
        began = time.monotonic()
        train_steps(stack, n)
        self.pace.steps.add(stack, n * len(self.roster.members), time.monotonic() - began)
        self.since = self.since or (time.monotonic(), self._mean_step())

    @property
    def _stack(self) -> Stack:
        assert self.roster.stack is not None
        return self.roster.stack

    def _ahead(self, stack: Stack) -> int:
        most = min(AT_ONCE, self.roster.until_joining())
        if stack.device.type == "cpu":
            seconds = self.pace.steps.each * len(self.roster.members)  # of a step; 0 before one was measured
            most = min(most, max(1, int(CHECKED / seconds))) if seconds else 1
        ends = torch.minimum(stack.last_steps, self.roster.pauses)
        return most if most == 1 else min(most, steps_until_due(self.shared, stack.steps, ends))

    def _record(self, due: Tensor) -> None:
        """Evaluate members and save their models where the schedule says so, and at their last step."""
        if not due.any():
            return
        stack = self._stack
        evaluated = due & (is_evaluated(self.shared, stack.steps) | (stack.steps == stack.last_steps))
        if evaluated.any():
            self._evaluate(stack, evaluated)
        saved = due & (is_saved(self.shared, stack.steps) | (stack.steps == stack.last_steps))
        for place in saved.nonzero().flatten().tolist():
            spec = self.roster.specs[self.roster.members[place]]
            self.folder.save_model(spec, int(stack.steps[place]), stack.member(place))

    def _evaluate(self, stack: Stack, evaluated: Tensor) -> None:
        began = time.monotonic()
        values = evaluate(stack, self.metrics)
        self.pace.evaluations.add(stack, int(evaluated.sum()), time.monotonic() - began)
        columns = {name: column[evaluated].to(torch.float32).numpy() for name, column in values.items()}
        runs = [run for run, keep in zip(self.roster.members, evaluated.tolist(), strict=True) if keep]
        self.rows.append(pl.DataFrame({"run": runs, "step": stack.steps[evaluated].numpy(), **columns}))
        self.evaluated = int(stack.steps[evaluated].double().mean())
        for split in SPLITS:
            shown = values[f"{split}_{self.measures.shown.name}"][evaluated]
            self.shown[split] = (float(shown.min()), float(shown.quantile(0.5)), float(shown.max()))
        self._end_early(stack, evaluated, values)

    def _end_early(self, stack: Stack, evaluated: Tensor, values: Mapping[str, Tensor]) -> None:
        """End members that have generalised, or no longer improve, where their settings ask for it."""
        specs = [self.roster.specs[run] for run in self.roster.members]
        reached = evaluated & self.measures.has_generalised(values)
        self.generalised.update(specs[place].id for place in reached.nonzero().flatten().tolist())
        tired = evaluated & stack.keep_best(values["valid_loss"], evaluated)
        last_steps = stack.last_steps.clone()
        for place in (reached | tired).nonzero().flatten().tolist():
            after = 0 if tired[place] else specs[place].stop_after_generalizing
            if after is not None:
                last_steps[place] = min(int(last_steps[place]), int(stack.steps[place]) + after)
        stack.set_last_steps(last_steps)

    def _retire(self, stack: Stack) -> None:
        """Remove members that are done or diverged; the last finite parameters of diverged ones are kept."""
        roster = self.roster
        leaving = ~roster.gone & (~stack.alive.cpu() | (stack.steps >= stack.last_steps))
        for place in leaving.nonzero().flatten().tolist():
            diverged = int(stack.diverged_at[place])
            if diverged >= 0:
                self.folder.save_model(roster.specs[roster.members[place]], diverged - 1, stack.member(place))
                roster.leave(place, {"state": "diverged", "step": diverged})
            else:
                roster.leave(place, {"state": "done", "step": int(stack.last_steps[place])})
            if (best := stack.best_member(place)) is not None:
                self.folder.save_model(roster.specs[roster.members[place]], *best)

    def _flush_is_due(self) -> bool:
        period, stack = self.shared.save_statistic_step, self.roster.stack
        timely = time.monotonic() - self.flushed >= self.options.flush_seconds
        return timely or (period is not None and stack is not None and bool((stack.steps % period == 0).any()))
