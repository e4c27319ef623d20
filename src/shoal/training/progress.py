"""Progress of training in Python: one line that is written anew in a terminal or a notebook, and silence elsewhere."""

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


class Place(Protocol):
    """Somewhere to write a line."""

    def show(self, pieces: list[str], last: bool) -> None:
        """Write the line in the place of the one before; of its pieces the first matter most."""


class Terminal:
    """The last line of a terminal, never longer than it is wide."""

    def __init__(self, stream: Output) -> None:
        self.stream, self.before = stream, 0

    def show(self, pieces: list[str], last: bool) -> None:
        """Write over what was there; after the last, go on below."""
        width = self._width() - 1
        pieces = [spelled(piece, self.stream.encoding) for piece in pieces]
        while len(pieces) > 1 and len(_joined(pieces)) > width:
            pieces = pieces[:-1]
        line = _joined(pieces)[:width]
        self.stream.write(f"\r{line:<{min(self.before, width)}}" + "\n" * last)
        self.before = len(line)

    def _width(self) -> int:
        try:
            return os.get_terminal_size(self.stream.fileno()).columns or _COLUMNS
        except (OSError, ValueError):
            return _COLUMNS


class Notebook:
    """One output of a cell, updated."""

    def __init__(self, display: Any) -> None:
        self.display, self.handle = display, None

    def show(self, pieces: list[str], last: bool) -> None:
        """Update the output."""
        content = {"text/plain": _joined(pieces)}
        if self.handle is None:
            self.handle = self.display.display(content, raw=True, display_id=True)
        else:
            self.handle.update(content, raw=True)


class Lines:
    """A file or a pipe: a line now and then, and the last."""

    def __init__(self, stream: Output) -> None:
        self.stream, self.due = stream, time.monotonic() + _LINE_SECONDS

    def show(self, pieces: list[str], last: bool) -> None:
        """Write a line, if it is time for one."""
        if last or time.monotonic() >= self.due:
            self.stream.write(spelled(_joined(pieces), self.stream.encoding) + "\n")
            self.due = time.monotonic() + _LINE_SECONDS


def _joined(pieces: list[str]) -> str:
    return printable(" · ".join(pieces))


class Line:
    """Told of snapshots, shows how far all cohorts are. A context manager, which says at its end how long it took.

    Args:
        place: where it is shown.
        runs: how many are trained.
    """

    def __init__(self, place: Place, runs: int) -> None:
        self.place, self.runs = place, runs
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
            self.place.show(
                [f"{_runs(self.runs)}: {self._share():.0%} of the steps", *self._left(), *self._known()], False
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        took = duration(time.monotonic() - self.begun)
        how = f"trained in {took}" if kind is None else f"stopped after {took}, at {self._share():.0%} of the steps"
        self.place.show([f"{_runs(self.runs)}: {how}", *self._known()], True)

    def _share(self) -> float:
        """Of all steps, those that are done."""
        done = sum(s.members * (s.step / s.n_steps if s.state in _STILL else 1.0) for s in self.latest.values())
        return min(1.0, done / max(self.runs, 1))

    def _left(self) -> list[str]:
        """The time that is left, once it can be told: of cohorts that all train now the longest, else from the pace."""
        running = [s for s in self.latest.values() if s.state in _STILL]
        if sum(s.members for s in self.latest.values()) >= self.runs:
            known = [s.seconds_left for s in running if s.seconds_left is not None]
            return [f"{duration(max(known))} left"] if running and len(known) == len(running) else []
        elapsed, gained = time.monotonic() - self.begun, self._share() - (self.first or 0.0)
        if elapsed < _SURE or gained < 0.01:
            return []
        return [f"about {duration(elapsed * (1 - self._share()) / gained)} left"]

    def _known(self) -> list[str]:
        """How many have generalised and between what they stand, where all cohorts measure the same."""
        told = [s for s in self.latest.values() if s.valid is not None]
        if not told or len({s.measures for s in told}) > 1:
            return []
        measures, diverged = told[0].measures, sum(s.diverged for s in told)
        lowest = min(s.valid[0] for s in told if s.valid)
        highest = max(s.valid[2] for s in told if s.valid)
        there = sum(s.generalised for s in told)
        return [
            *([f"{there} generalised ({measures.arrived})"] if measures.arrived else []),
            f"{measures.shown.symbol_of('valid')} {lowest:.2f} to {highest:.2f}",
            *([f"{diverged} diverged"] if diverged else []),
        ]


def _runs(n: int) -> str:
    return f"{n:,} run{'s' * (n != 1)}"


def duration(seconds: float) -> str:
    """``0:02:10``.

    >>> duration(129.6)
    '0:02:10'
    """
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"


def progress_place(progress: bool | None) -> Place | None:
    """Where progress is shown: a notebook, a terminal behind standard error, where asked for any stream, else nowhere.

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
    """The one that is told of snapshots: ``watch``, where there is one, else a line where it can be shown, else nobody.

    Args:
        watch: a function that was given for it.
        progress: see :func:`progress_place`.
        runs: how many are to be trained; where there are none, the line says so.
        wanted: how many were asked for.
    """
    place = progress_place(progress)
    if watch is not None or place is None:
        return nullcontext(watch or _nobody)
    if runs:
        return Line(place, runs)
    place.show([f"{_runs(wanted)}: trained before, and read from the lab"], True)
    return nullcontext(_nobody)


def _nobody(snapshot: Snapshot) -> None:
    """Tell nobody."""
