"""Progress of a tuning: a line with its generation, rung, trials, budget and best value, live on a terminal."""

import time
from collections.abc import Mapping
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from shoal.commands.progress import fitting_table
from shoal.errors import printable
from shoal.training.progress import duration
from shoal.training.snapshot import Snapshot
from shoal.tuning.standing import Standing, share_done

_LINE_SECONDS = 10.0  # between two plain lines
_UNKNOWN = "–"
_GIVEN_UP = ("next rung in", "diverged", "finished", "left at a rung", "in training", "rung", "step")


class TuneProgress:
    """Display of a tuning, as a context manager: called with snapshots of the cohorts that train up to a rung."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None
        self.standing: Standing | None = None
        self.first: dict[str, Snapshot] = {}  # of each cohort since the rung was begun
        self.latest: dict[str, Snapshot] = {}
        self.printed = -_LINE_SECONDS

    def __enter__(self) -> Self:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)

    def follow(self, standing: Standing) -> None:
        """Take up the standing of the tuning before a rung, and show it."""
        self.standing, self.first, self.latest = standing, {}, {}
        self._show(is_new=True)

    def __call__(self, snapshot: Snapshot) -> None:
        self.first.setdefault(snapshot.cohort, snapshot)
        self.latest[snapshot.cohort] = snapshot
        self._show(is_new=False)

    def _show(self, is_new: bool) -> None:
        if self.standing is None:
            return
        columns = cells(self.standing, self._done(), self._seconds_left())
        if self.live:
            given_up = [*_GIVEN_UP, *(name for name in columns if name not in (*_GIVEN_UP, "spent"))]
            table = fitting_table({name: [cell] for name, cell in columns.items()}, given_up, self.console.width)
            self.live.update(table, refresh=True)
        elif is_new or time.monotonic() - self.printed >= _LINE_SECONDS:
            self.printed = time.monotonic()
            self.console.print(line(columns), soft_wrap=True, highlight=False, markup=False)

    def _done(self) -> float:
        return share_done(list(self.first.values()), list(self.latest.values())) if self.latest else 0.0

    def _seconds_left(self) -> float | None:
        """Estimated seconds until the last of the cohorts has reached the rung."""
        training = [s.seconds_left for s in self.latest.values() if s.state == "running"]
        return max(seconds for seconds in training if seconds is not None) if any(training) else None


def cells(standing: Standing, done: float, seconds_left: float | None) -> Mapping[str, str]:
    """Cells of the line by column, when this share of the steps up to the rung is done."""
    states, budget = standing.states, standing.budget
    where = {"generation": f"{standing.generation}", "rung": f"{standing.rung} of {standing.n_rungs}"}
    return {
        **(where if standing.generation else {"fresh seeds": "winner and default"}),
        "step": f"{standing.step(done):,} of {standing.to_step:,}",
        "in training": f"{states['waiting']}",
        "left at a rung": f"{states['left']}",
        "finished": f"{states['finished']}",
        "diverged": f"{states['diverged']}",
        "spent": budget.told(standing.spent_so_far(done), of=budget.amount),
        f"best {standing.column}": _UNKNOWN if standing.best is None else f"{standing.best:.4g}",
        "next rung in": _UNKNOWN if seconds_left is None else duration(seconds_left),
    }


def line(columns: Mapping[str, str]) -> str:
    """The known cells in words."""
    return printable(" · ".join(f"{name} {cell}" for name, cell in columns.items() if cell != _UNKNOWN))
