"""Progress of several cohorts: a live table on a terminal, plain lines elsewhere.

On a narrow terminal the table leaves out whole columns, in the order of ``_GIVEN_UP``; what is shown is never cut. On a
short one cohorts that are done give way to those that train.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Self

from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from shoal.errors import printable
from shoal.output import readable
from shoal.training.progress import duration
from shoal.training.snapshot import Snapshot, Spread

_LINE_SECONDS = 10.0  # between two plain lines of a cohort
_UNKNOWN = "–"

_COLUMNS: Mapping[str, Callable[[Snapshot], str]] = {
    "cohort": lambda s: printable(s.cohort[:4]),
    "model": lambda s: printable(s.title),
    "runs": lambda s: f"{s.members}" + (f" ({s.diverged} diverged)" if s.diverged else ""),
    "step": lambda s: f"{s.step:,}",
    "of": lambda s: f"{s.n_steps:,}",
    "train": lambda s: _spread(s, s.train),
    "valid": lambda s: _spread(s, s.valid),
    "generalised": lambda s: f"{s.generalised}/{s.members}" if s.measures.generalised else _UNKNOWN,
    "steps/s": lambda s: _rate(s.steps_per_second),
    "left": lambda s: time_left(s),
}
_LEFT = ("cohort", "model")  # set to the left, being words
_GIVEN_UP = ("model", "steps/s", "generalised", "runs", "train", "valid", "of")


class Progress:
    """Display of training, as a context manager: shows the latest snapshot of each cohort that it is called with."""

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
            self.live.update(live_table(list(self.latest.values()), self.console.width))
            self.live.__exit__(kind, error, trace)

    def __call__(self, snapshot: Snapshot) -> None:
        self.latest[snapshot.cohort] = snapshot
        if self.live:
            shown = _fitting(list(self.latest.values()), self.console.height - 2)  # below the header, above the cursor
            self.live.update(live_table(shown, self.console.width), refresh=True)
        elif snapshot.state != "running" or self._line_is_due(snapshot.cohort):
            self.printed[snapshot.cohort] = time.monotonic()
            self.console.print(line(snapshot), soft_wrap=True, highlight=False, markup=False)

    def _line_is_due(self, cohort: str) -> bool:
        return time.monotonic() - self.printed.get(cohort, 0.0) >= _LINE_SECONDS


def live_table(snapshots: Sequence[Snapshot], width: int) -> Table:
    """One row per cohort, with as many columns as fit into ``width``."""
    return fitting_table({name: [show(s) for s in snapshots] for name, show in _COLUMNS.items()}, _GIVEN_UP, width)


def fitting_table(columns: Mapping[str, Sequence[str]], given_up: Sequence[str], width: int) -> Table:
    """Table of these columns without the first of ``given_up``, as many as it takes to fit into ``width``."""
    cells = {readable(name): list(map(readable, column)) for name, column in columns.items()}
    widths = {name: max(map(cell_len, [name, *column])) for name, column in cells.items()}
    for name in map(readable, given_up):
        if sum(widths.values()) + 2 * (len(widths) - 1) <= width:
            break
        widths.pop(name, None)
    table = Table(box=None, pad_edge=False)
    for name in widths:
        table.add_column(Text(name), justify="left" if name in _LEFT else "right", no_wrap=True)
    for row in zip(*(cells[name] for name in widths), strict=True):
        table.add_row(*map(Text, row))
    return table


def _fitting(snapshots: Sequence[Snapshot], rows: int) -> list[Snapshot]:
    """Snapshots that fit into so many rows, those that are still training first."""
    by_need = sorted(snapshots, key=lambda s: s.state not in ("starting", "running", "stopping"))
    shown = by_need[: max(1, rows)]
    return [s for s in snapshots if s in shown]


def line(s: Snapshot) -> str:
    """One snapshot in words."""
    runs = f"{s.members} run{'s' * (s.members != 1)}"
    # an evaluation may be long ago: its step is said where it is not the step that the line begins with
    when = f" at step {s.evaluated:,}" if s.evaluated is not None and s.evaluated < s.step else ""
    known = [
        f"train {_spread(s, s.train)} · valid {_spread(s, s.valid)}{when}" if s.train else "",
        f"{s.generalised}/{s.members} reached {s.measures.arrived}" if s.train and s.measures.arrived else "",
        f"{s.diverged} diverged" if s.diverged else "",
        f"{_rate(s.steps_per_second)} steps/s" if s.steps_per_second else "",
    ]
    words = [
        f"{s.cohort[:4]} {s.title}",
        runs,
        f"step {s.step:,}/{s.n_steps:,}",
        *filter(None, known),
        time_left(s),
    ]
    return printable(" · ".join(words))


def time_left(s: Snapshot) -> str:
    """``0:02:10 left``, or the state where nothing is left or it is too early to tell."""
    if s.state != "running" or s.seconds_left is None:
        return s.state
    return f"{duration(s.seconds_left)} left"


def _rate(steps_per_second: float | None) -> str:
    return _UNKNOWN if steps_per_second is None else f"{steps_per_second:,.1f}"


def _spread(s: Snapshot, values: Spread | None) -> str:
    """``A 0.98 [0.90, 1.00]``: the main measure, its median and range over the members."""
    if values is None:
        return _UNKNOWN
    lowest, median, highest = values
    return f"{s.measures.shown.symbol} {median:.2f} [{lowest:.2f}, {highest:.2f}]"
