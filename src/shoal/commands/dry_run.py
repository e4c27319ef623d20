"""``--dry-run`` of the commands that train: numbers of runs, and an estimate of their time and memory."""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from shoal.commands.parsing import Parser
from shoal.output import say

if TYPE_CHECKING:
    import torch

    from shoal.report.table import Table
    from shoal.spec import RunSpec
    from shoal.training.arrangement import Arrangement
    from shoal.training.forecast import Forecast, Piece


_MANY = 5000  # runs whose planning takes seconds
_PLANNING = 0.7e-3  # seconds of one, measured on a core at 2.5 GHz


def add_dry_run(parser: Parser) -> None:
    """``--dry-run``."""
    parser.flag("dry-run", action="store_true", help="say what would be trained, for how long and in how much memory")


def tell_of_planning(runs: int) -> None:
    """Print how long the planning of so many runs takes: to check, hash and write them down. Of few runs nothing."""
    from shoal.spec.grid import MOST_RUNS

    if _MANY <= runs <= MOST_RUNS:
        print(f"planning {runs:,} runs: about {runs * _PLANNING:,.0f} s")


def dry_run(
    specs: "Sequence[RunSpec]",
    path: str,
    execution: Mapping[str, Any],
    besides: str = "",
    label: Mapping[str, Any] = MappingProxyType({}),
) -> int:
    """Print the numbers of runs of a request and an estimate of its time and memory; write nothing, return 0.

    Args:
        specs: the runs.
        path: of the lab.
        execution: how to train, see :func:`shoal.commands.parsing.read_execution`.
        besides: a sentence about what the estimate leaves out.
        label: name, tag and note that the runs would have, as arguments of :meth:`shoal.Lab.check_label`.

    Raises:
        UserError: as training them would.
    """
    wanted = list(dict.fromkeys(specs))
    work, estimate, device = estimated(wanted, path, execution, label)
    say("dry run: nothing is trained and nothing is written")
    say(_counts(wanted, work, estimate, path))
    if not estimate.pieces:
        return 0
    _print(estimate, device.type)
    if besides:
        say(besides)
    return 0


def estimated(
    wanted: "Sequence[RunSpec]",
    path: str,
    execution: Mapping[str, Any],
    label: Mapping[str, Any] = MappingProxyType({}),
) -> "tuple[Arrangement, Forecast, torch.device]":
    """Arrangement of runs, each of which is wanted once, its forecast, and the device; arguments of :func:`dry_run`.

    Raises:
        UserError: as training them would.
    """
    from shoal.lab import Lab
    from shoal.training.arrangement import arrange
    from shoal.training.continuation import places_of
    from shoal.training.forecast import forecast
    from shoal.training.preflight import check_parts
    from shoal.training.requests import check_execution, check_precision

    device = check_execution(**execution)
    engine = execution.get("engine")
    check_precision(wanted, device, engine)
    check_parts(wanted, device)
    lab = Lab(path)
    lab.check_label([spec.id for spec in wanted], **label)
    with _kernels_kept_nowhere():
        work = arrange(wanted, lab, device, execution.get("workers"), execution.get("threads"), engine, {}, say)
        return work, forecast(work, device, engine, execution.get("places"), places_of(wanted)), device


@contextmanager
def _kernels_kept_nowhere() -> Iterator[None]:
    """Kernels that are compiled for a trial, where there are none yet, are not kept in the user's cache folder."""
    from shoal.fast.build import is_compiled

    if is_compiled():
        yield
        return
    before = os.environ.get("XDG_CACHE_HOME")
    with tempfile.TemporaryDirectory(prefix="shoal-") as folder:
        os.environ["XDG_CACHE_HOME"] = folder
        try:
            yield
        finally:
            if before is None:
                del os.environ["XDG_CACHE_HOME"]
            else:
                os.environ["XDG_CACHE_HOME"] = before


def _counts(wanted: "Sequence[RunSpec]", work: "Arrangement", estimate: "Forecast", path: str) -> str:
    """``12 runs: 8 new, 2 that go on, 2 already in lab DIR``."""
    from shoal.report.words import counted

    new = sum(map(len, work.new))
    going_on = {folder.path for folder in work.going_on}
    begun = sum(folder.path in going_on for folder in work.held.values())
    several = {"new": new, "in cohorts that are continued": begun, f"already in lab {path}": len(work.held) - begun}
    counts = [f"{n:,} {what}" for what, n in several.items() if n]
    beside = sum(piece.runs for piece in estimate.pieces) - new - begun
    more = f"; with them {counted(beside, 'run')} of the same cohorts" if beside > 0 else ""
    return f"{counted(len(wanted), 'run')}: {', '.join(counts)}{more}"


def _print(found: "Forecast", device: str) -> None:
    import torch

    from shoal.report.console import print_table
    from shoal.report.words import counted

    print_table(_table(found))
    processes = f"{found.workers} process{'es' * (found.workers != 1)} of {counted(found.threads, 'thread')}"
    say(
        f"time: {duration(found.low)} to {duration(found.high)} in {processes} on {device}, with "
        f"{duration(found.start)} and more for starting each; {_busy(found)}"
    )
    say(memory_line(found, torch.device(device)))
    say(_how(found))
    if found.can_end_early:
        say("Runs that end early (stop_after_generalizing, patience, EM that converges) take less.")


def memory_line(found: "Forecast", device: "torch.device") -> str:
    """Line on the memory that an estimate needs, and that is free."""
    from shoal.training.memory import free_bytes

    low, high, free = (f"{size / 2**30:.2f}" for size in (found.memory, found.most_memory, free_bytes(device)))
    return f"memory: {low} GiB as measured in a trial, {high} GiB as reserved for training; {free} GiB are free"


def _table(found: "Forecast") -> "Table":
    """A row per shape: its pieces together."""
    from shoal.report.table import Cell, Table
    from shoal.training.forecast import by_shape

    header = [
        "cohort",
        "runs",
        "steps in all",
        "engine",
        "processes",
        "side by side",
        "step of a run",
        "in one process",
    ]
    rows = []
    for (title, engine), pieces in by_shape(found.pieces).items():
        texts = [
            f"{sum(piece.runs for piece in pieces):,}",
            f"{sum(piece.steps for piece in pieces):,}",
            engine,
            f"{len(pieces)}",
            f"{max(piece.side_by_side for piece in pieces):,}",
            _step(pieces),
            f"{duration(sum(piece.low for piece in pieces))} to {duration(sum(piece.high for piece in pieces))}",
        ]
        rows.append((title, [Cell(text) for text in texts]))
    return Table("forecast", header, rows, "")


def _step(pieces: "Sequence[Piece]") -> str:
    """``0.52 to 0.71 ms``: over the windows of a trial."""
    low, high = (f"{float(f'{1e3 * end(end(piece.costs.steps) for piece in pieces):.2g}'):,g}" for end in (min, max))
    return f"{low} to {high} ms" if low != high else f"{low} ms"


def _how(found: "Forecast") -> str:
    """Explanation of the estimate: its trial and its range."""
    from shoal.training.forecast import SLOWER
    from shoal.training.shape_costs import MOST_TRIED

    untried = sum(not piece.costs.is_measured for piece in found.pieces)
    rest = f" {untried} of {len(found.pieces)} cohorts had no trial: their time is estimated from their operations."
    return (
        f"estimated by a trial of {found.trial_seconds:.1f} s: up to {MOST_TRIED} runs of each shape took steps and "
        f"were evaluated in memory; {SLOWER - 1:.0%} is added to the longer time for what a trial does not see."
        f"{rest * bool(untried)}"
    )


def _busy(found: "Forecast") -> str:
    """Explanation of the two ends of the range."""
    busy = max(piece.costs.busy for piece in found.pieces)
    return f"the shorter time is of an idle machine, the longer of one as busy as this one is now ({busy:.1f} times)"


def duration(seconds: float) -> str:
    """``0:02:10``; less than ten seconds with a digit after the point.

    >>> duration(130.2), duration(4.24)
    ('0:02:10', '4.2 s')
    """
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}"
