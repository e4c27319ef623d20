"""Progress of training from Python: one line that is updated in a terminal or a notebook, and silence elsewhere."""

import os
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType
from typing import Any, Protocol, Self

from shoal.errors import UserError, printable
from shoal.output import Output, notebook_display, spelled
from shoal.training.snapshot import Snapshot

Watch = Callable[[Snapshot], None]
_EACH = 0.2  # seconds between two states of the line
_LINE_SECONDS = 10.0  # between two lines where none can be written anew
_SURE = 2.0  # seconds of training from which the time that is left is estimated from all of it
_COLUMNS = 80  # of a terminal that does not say how wide it is
_STILL = ("starting", "running")


class Display(Protocol):
    """Destination of the progress line."""

    def show(self, pieces: list[str], last: bool) -> None:
        """Replace the line that is shown.

        Args:
            pieces: parts of the line, the most important first.
            last: no other line will follow.
        """


class Terminal:
    """Progress on the current line of a terminal, never longer than the terminal is wide."""

    def __init__(self, stream: Output) -> None:
        self.stream, self.before = stream, 0

    def show(self, pieces: list[str], last: bool) -> None:
        """Overwrite the line; the last one ends with a line feed. Pieces at the end that do not fit are left out."""
        width = self._width() - 1
        while len(pieces) > 1 and len(self._line(pieces)) > width:
            pieces = pieces[:-1]
        line = self._line(pieces)[:width]
        self.stream.write(f"\r{line:<{min(self.before, width)}}" + "\n" * last)
        self.before = len(line)

    def _line(self, pieces: list[str]) -> str:
        return spelled(_joined(pieces), self.stream.encoding)

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or _COLUMNS
        except (OSError, ValueError):
            return _COLUMNS


class Notebook:
    """Progress as one output of a notebook's cell, which is updated."""

    def __init__(self, display: Any) -> None:
        self.display, self.handle = display, None

    def show(self, pieces: list[str], last: bool) -> None:
        """Update the output of the cell."""
        content = {"text/plain": _joined(pieces)}
        if self.handle is None:
            self.handle = self.display.display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


class Lines:
    """Progress in a file or a pipe, where nothing can be overwritten: a line every ten seconds, and the last."""

    def __init__(self, stream: Output) -> None:
        self.stream, self.due = stream, time.monotonic() + _LINE_SECONDS

    def show(self, pieces: list[str], last: bool) -> None:
        """Write a line, unless the one before is younger than ten seconds."""
        if last or time.monotonic() >= self.due:
            self.stream.write(_joined(pieces) + "\n")
            self.due = time.monotonic() + _LINE_SECONDS


def _joined(pieces: list[str]) -> str:
    return printable(" · ".join(pieces))


class Line:
    """Progress line of a training, over all of its cohorts: a callback for snapshots, and a context manager.

    Args:
        display: destination of the line.
        runs: number of runs that are trained.
    """

    def __init__(self, display: Display, runs: int) -> None:
        self.display, self.runs = display, runs
        self.latest: dict[str, Snapshot] = {}
        self.begun = self.shown = time.monotonic()
        self.first: float | None = None  # share of the steps that were there when this began

    def __enter__(self) -> Self:
        return self

    def __call__(self, snapshot: Snapshot) -> None:
        self.latest[snapshot.cohort] = snapshot
        if self.first is None:
            self.first = self._share()
        if time.monotonic() - self.shown >= _EACH:
            self.shown = time.monotonic()
            self.display.show(
                [f"{_runs(self.runs)}: {self._share():.0%} of the steps", *self._left(), *self._known()], False
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = duration(time.monotonic() - self.begun)
        how = f"trained in {took}" if kind is None else f"stopped after {took}, at {self._share():.0%} of the steps"
        self.display.show([f"{_runs(self.runs)}: {how}", *self._known()], True)

    def _share(self) -> float:
        """Share of all steps that is done."""
        done = sum(s.members * (1.0 if s.state == "done" else s.step / s.n_steps) for s in self.latest.values())
        return min(1.0, done / max(self.runs, 1))

    def _left(self) -> list[str]:
        """Estimated time left, if any: the longest of cohorts that all train now, else by the pace so far."""
        running = [s for s in self.latest.values() if s.state in _STILL]
        if sum(s.members for s in self.latest.values()) >= self.runs:
            known = [s.seconds_left for s in running if s.seconds_left is not None]
            return [f"{duration(max(known))} left"] if running and len(known) == len(running) else []
        elapsed, gained = time.monotonic() - self.begun, self._share() - (self.first or 0.0)
        if elapsed < _SURE or gained < 0.01:
            return []
        return [f"about {duration(elapsed * (1 - self._share()) / gained)} left"]

    def _known(self) -> list[str]:
        """Number of runs that have generalised, and the range of their measure, where all cohorts have the same."""
        snapshots = [s for s in self.latest.values() if s.valid is not None]
        if not snapshots or len({s.measures for s in snapshots}) > 1:
            return []
        measures, diverged = snapshots[0].measures, sum(s.diverged for s in snapshots)
        lowest = min(s.valid[0] for s in snapshots if s.valid)
        highest = max(s.valid[2] for s in snapshots if s.valid)
        there = sum(s.generalised for s in snapshots)
        return [
            *([f"{there} generalised ({measures.arrived})"] if measures.arrived else []),
            f"{measures.shown.symbol_of('valid')} {lowest:.2f} to {highest:.2f}",
            *([f"{diverged} diverged"] if diverged else []),
        ]


def _runs(n: int) -> str:
    return f"{n:,} run{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """Time as hours, minutes and seconds.

    >>> duration(129.6)
    '0:02:10'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def progress_display(progress: bool | None) -> Display | None:
    """Destination of the progress line: a notebook, or standard error; None where nothing is shown.

    Standard error is used where it is a terminal, and with ``progress=True`` in any case.

    Raises:
        UserError: ``progress`` is neither True, False nor None.
    """
    if progress not in (True, False, None):
        raise UserError(f"progress must be True, False or None, got {progress!r}")
    if progress is False:
        return None
    if (display := notebook_display()) is not None:
        return Notebook(display)
    stream = Output(sys.stderr)
    if stream.isatty():
        return Terminal(stream)
    return Lines(stream) if progress else None


def watching(watch: Watch | None, progress: bool | None, runs: int, wanted: int) -> AbstractContextManager[Watch]:
    """Callback for snapshots, as a context: ``watch`` where it is given, else a progress line, else one without effect.

    Args:
        watch: a callback of the caller.
        progress: see :func:`progress_display`.
        runs: number of runs to be trained; where it is 0, the line says that all are in the lab.
        wanted: number of runs that were asked for.
    """
    display = progress_display(progress)
    if watch is not None or display is None:
        return nullcontext(watch or _nobody)
    if runs:
        return Line(display, runs)
    display.show([f"{_runs(wanted)}: trained before, and read from the lab"], True)
    return nullcontext(_nobody)


def _nobody(snapshot: Snapshot) -> None:
    """Ignore the snapshot."""
