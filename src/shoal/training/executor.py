"""Execution of cohorts: in this process, or in one worker process per cohort, up to the number of cores.

Several small stacks share cores best as one process each with few threads. The number of threads is recorded
with the cohort, because it can change the order of a sum and so the last bit: a resumed cohort keeps it.
"""

import multiprocessing
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from shoal.errors import DiskError, RunFailed, UserError
from shoal.interrupts import ignore_interrupts
from shoal.lab.cohort import CohortFolder
from shoal.output import printing
from shoal.training.continuation import Places
from shoal.training.groups import cores_allowed
from shoal.training.loop import Options, train_cohort
from shoal.training.memory import SHARE
from shoal.training.snapshot import Snapshot
from shoal.training.step import Metric

Watch = Callable[[Snapshot], None]


def cores() -> int:
    """Number of cores that this process may use."""
    there = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(there, cores_allowed() or there)


def threads_per_worker(workers: int) -> int:
    """Number of threads per worker: the cores divided, at most ``OMP_NUM_THREADS`` where that is set."""
    share = max(1, cores() // workers)
    allowed = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()
    return min(share, int(allowed)) if allowed.isdecimal() and int(allowed) else share


_LAST_FLUSH = 5.0  # seconds that a worker has for its last flush after it was asked to end
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopFlag:
    """Flag that the first Ctrl-C or SIGTERM sets; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Context that listens to the signals, where this thread may."""

        def ask(signum: int, frame: FrameType | None) -> None:
            if self.asked and signum == signal.SIGINT:
                ignore_interrupts()  # a third would interrupt the cleaning up after the second
                raise KeyboardInterrupt
            self.asked = True

        try:
            before = {number: signal.signal(number, ask) for number in _SIGNALS}
        except ValueError:  # not the main thread: whoever has it decides
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                if handler is not None:  # None: it was not Python's, which cannot put it back
                    signal.signal(number, handler)


@dataclass(frozen=True)
class Execution:
    """Options of the training, independent of the process: see :class:`~shoal.training.loop.Options`."""

    device: torch.device
    flush_seconds: float
    metrics: Mapping[str, Metric]
    places: int | None = None
    data: Places = field(default_factory=dict)
    until: Mapping[str, int] | None = None

    def options(self, watch: Watch, stop: Callable[[], bool], processes: int) -> Options:
        """Options for one of several processes that share the memory."""
        share = SHARE / processes
        return Options(
            self.device, self.flush_seconds, self.metrics, watch, stop, self.places, share, self.data, self.until
        )


def execute(
    folders: Sequence[CohortFolder],
    *,
    workers: int,
    execution: Execution,
    watch: Watch,
    failures: Sequence[UserError] = (),
) -> bool:
    """Train cohorts to their ends.

    Args:
        folders: the cohorts.
        workers: number of cohorts that train at the same time, each in its own process.
        execution: options of the training.
        watch: callback with a snapshot of each cohort's progress.
        failures: errors of other cohorts, to be raised together with those of these cohorts, after the training.

    Returns:
        False when stopped by a signal before the end; everything is flushed then.

    Raises:
        UserError: a cohort cannot be trained, after the others were.
        DiskError, RunFailed: the disk or a process failed; the others are stopped and flushed.
    """
    stop = StopFlag()
    with stop.listening():
        if workers <= 1 or len(folders) <= 1:
            outcomes = _execute_here(folders, execution.options(watch, stop, processes=1))
        else:
            outcomes = _execute_in_workers(folders, workers, (execution, min(workers, len(folders))), watch, stop)
    errors = [outcome for outcome in outcomes if isinstance(outcome, UserError)]
    for outcome in outcomes:
        if isinstance(outcome, BaseException) and outcome not in errors:
            raise outcome
    if outcomes.count("done") + len(errors) < len(folders):
        return False
    if failed := list({str(failure): failure for failure in [*failures, *errors]}.values()):
        raise failed[0] if len(failed) == 1 else type(failed[0])("; ".join(map(str, failed)))
    return True


def _execute_here(folders: Sequence[CohortFolder], options: Options) -> list[Any]:
    """Outcome of each cohort: done, interrupted, or its error; cohorts after an interruption have none."""
    threads = torch.get_num_threads()
    outcomes: list[Any] = []
    try:
        for folder in folders:
            if options.stop() or "interrupted" in outcomes:
                break
            try:
                torch.set_num_threads(folder.manifest()["threads"])
                outcomes.append(train_cohort(folder, options))
            except UserError as error:  # of this cohort alone: the others can train
                outcomes.append(error)
    finally:
        torch.set_num_threads(threads)
    return outcomes


class _Worker:
    """Process that trains one cohort, and the pipe to it: snapshots and its outcome come in, "stop" goes out."""

    def __init__(self, folder: CohortFolder, settings: tuple[Any, ...]) -> None:
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(
            target=_work, args=(folder.path, settings, theirs), name=f"shoal {folder.id}", daemon=True
        )
        with _unheard(), _without_main(settings[0].metrics):
            self.process.start()
        theirs.close()  # so that the pipe ends with the process
        self.outcome: Any = None

    def listen(self, watch: Watch) -> bool:
        """Receive one message; returns False once there will be no more."""
        try:
            message = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            if self.outcome is None:
                code = self.process.exitcode
                why = ": perhaps for lack of memory" if code in (-signal.SIGKILL, -signal.SIGABRT) else ""
                self.outcome = RunFailed(f"{self.process.name} ended with exit code {code}{why}")
            return False
        if isinstance(message, Snapshot):
            watch(message)
        else:
            self.outcome = message
        return True

    def stop(self) -> None:
        with suppress(OSError):
            self.pipe.send("stop")


@contextmanager
def _unheard() -> Iterator[None]:
    """Context in which signals are blocked, also in processes that it starts, until these listen themselves.

    Otherwise Ctrl-C, which reaches the whole group, would end a worker in the middle of its imports. What another
    thread of this process hears meanwhile, whose signals are not blocked, is put off until the end: it would interrupt
    the main thread before a worker has been told what to do.
    """
    resource_tracker.ensure_running()  # of multiprocessing, which would unblock them when it starts
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    heard: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        heard.append(signum)

    try:
        handlers = {number: signal.signal(number, note) for number in _SIGNALS}
    except ValueError:  # not the main thread, which alone is interrupted
        handlers = {}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            if handler is not None:  # None: it was not Python's, which cannot put it back
                signal.signal(number, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        for signum in heard:
            signal.raise_signal(signum)


@contextmanager
def _without_main(metrics: Mapping[str, Metric]) -> Iterator[None]:
    """Context in which a process that is started does not run the main script again.

    Workers need nothing of it, unless a metric is defined there: then the script has to hide what it does behind
    ``if __name__ == "__main__"``.
    """
    main = sys.modules["__main__"]
    needed = any(getattr(metric, "__module__", None) == "__main__" for metric in metrics.values())
    names = () if needed else ("__file__", "__spec__")
    hidden: dict[str, Any] = {name: main.__dict__[name] for name in names if name in main.__dict__}
    main.__dict__.update(dict.fromkeys(hidden))
    try:
        yield
    finally:
        main.__dict__.update(hidden)


def _execute_in_workers(
    folders: Sequence[CohortFolder], workers: int, settings: tuple[Any, ...], watch: Watch, stop: StopFlag
) -> list[Any]:
    waiting = list(folders)
    running: list[_Worker] = []
    outcomes: list[Any] = []
    stopping = False
    try:
        while running or (waiting and not stopping):
            while waiting and len(running) < workers and not stopping:
                running.append(_Worker(waiting.pop(0), settings))
            for ready in wait([worker.pipe for worker in running], timeout=0.1):
                worker = next(worker for worker in running if worker.pipe is ready)
                if not worker.listen(watch):
                    running.remove(worker)
                    outcomes.append(worker.outcome)
            if not stopping and (stop.asked or any(isinstance(o, DiskError | RunFailed) for o in outcomes)):
                stopping = True
                for worker in running:
                    worker.stop()
    finally:
        _end(running)  # an error of ours, or the second Ctrl-C
    return outcomes


def _end(workers: Sequence[_Worker]) -> None:
    """Ask workers to flush and end, and kill those that do not."""
    for worker in workers:
        worker.process.terminate()
    until = time.monotonic() + _LAST_FLUSH
    for worker in workers:
        worker.process.join(max(0.0, until - time.monotonic()))
        worker.process.kill()
        worker.process.join()


def _work(path: Path, settings: tuple[Any, ...], pipe: Connection) -> None:
    """Body of a worker: train one cohort, report to the parent, and stop when it asks or is gone."""
    asked = StopFlag()
    ignore_interrupts()  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: setattr(asked, "asked", True))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    execution, processes = settings

    def tell(message: object) -> None:
        with suppress(OSError):  # the parent is gone, which stop() will see
            pipe.send(message)

    def stop() -> bool:
        return asked() or pipe.poll()  # a message, or the end of the pipe

    try:
        with printing():  # a warning that cannot be printed is no reason to fail
            folder = CohortFolder(path)
            torch.set_num_threads(folder.manifest()["threads"])
            tell(train_cohort(folder, execution.options(tell, stop, processes)))
    except (UserError, DiskError) as error:
        tell(error)
    except Exception as error:
        with printing():
            traceback.print_exc()  # the parent gets one line; the traceback is known here alone
        tell(RunFailed(f"cohort {path.name} failed: {type(error).__name__}: {error}"))
