"""Progress of several cohorts: a live table on a terminal, plain lines elsewhere."""

import time
from datetime import timedelta
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live
from rich.table import Table

from shoal.training.loop import GENERALISED, Snapshot

_LINE_SECONDS = 10.0  # between two plain lines of a cohort


class Progress:
    """Told of snapshots, shows the latest of each cohort. A context manager."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console()
        self.latest: dict[str, Snapshot] = {}
        self.printed: dict[str, float] = {}
        self.live = Live(console=self.console, auto_refresh=False) if self.console.is_terminal else None

    def __enter__(self) -> Self:
        if self.live:
            self.live.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self.live.__exit__(kind, error, trace)

    def __call__(self, snapshot: Snapshot) -> None:
        self.latest[snapshot.cohort] = snapshot
        if self.live:
            self.live.update(self._table(), refresh=True)
        elif snapshot.state != "running" or self._line_is_due(snapshot.cohort):
            self.printed[snapshot.cohort] = time.monotonic()
            try:
                self.console.print(line(snapshot), soft_wrap=True, highlight=False, markup=False)
            except BrokenPipeError:  # nobody reads any more, which is no reason to stop training
                self.console.quiet = True

    def _line_is_due(self, cohort: str) -> bool:
        return time.monotonic() - self.printed.get(cohort, 0.0) >= _LINE_SECONDS

    def _table(self) -> Table:
        table = Table(box=None, pad_edge=False)
        for name in ("cohort", "runs", "step", "train acc.", "valid acc.", f"A_val ≥ {GENERALISED}", "steps/s", "left"):
            table.add_column(name, justify="left" if name == "cohort" else "right", no_wrap=True)
        for s in self.latest.values():
            table.add_row(
                f"{s.cohort[:4]} {s.title}",
                f"{s.members}" + (f" ({s.diverged} diverged)" if s.diverged else ""),
                f"{s.step:,}/{s.n_steps:,}",
                _accuracy(s.train_accuracy),
                _accuracy(s.valid_accuracy),
                f"{s.generalised}/{s.members}",
                f"{s.steps_per_second:.1f}",
                time_left(s),
            )
        return table


def line(s: Snapshot) -> str:
    """One snapshot in words."""
    runs = f"{s.members} run{'s' * (s.members != 1)}"
    diverged = f" · {s.diverged} diverged" if s.diverged else ""
    return (
        f"{s.cohort[:4]} {s.title} · {runs} · step {s.step:,}/{s.n_steps:,} · train {_accuracy(s.train_accuracy)} · "
        f"valid {_accuracy(s.valid_accuracy)} · {s.generalised}/{s.members} at A_val ≥ {GENERALISED}{diverged} · "
        f"{s.steps_per_second:.1f} steps/s · {time_left(s)}"
    )


def time_left(s: Snapshot) -> str:
    """``0:02:10 left``, or the state when nothing is left."""
    if s.state != "running" or s.steps_per_second == 0:
        return s.state
    return f"{timedelta(seconds=round((s.n_steps - s.step) / s.steps_per_second))} left"


def _accuracy(values: tuple[float, float, float]) -> str:
    lowest, median, highest = values
    return f"{median:.2f} [{lowest:.2f}, {highest:.2f}]"
