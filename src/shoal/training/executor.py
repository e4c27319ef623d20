"""Who trains which cohort: this process, or one worker process per cohort, up to the number of cores.

Several small stacks share two cores best as one process each with few threads. The number of threads is written down
with the cohort, because it can change the order of a sum and so the last bit: a resumed cohort keeps it.
"""

import multiprocessing
import os
import queue
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from shoal.errors import DiskError, UserError
from shoal.lab.cohort import CohortFolder
from shoal.training.loop import Options, Snapshot, train_cohort
from shoal.training.step import Metric

Watch = Callable[[Snapshot], None]


def cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class StopFlag:
    """Asked for by the first Ctrl-C or SIGTERM; a second Ctrl-C ends the process at once."""

    def __init__(self) -> None:
        self.asked = False

    def __call__(self) -> bool:
        return self.asked

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Listen to the signals, where this thread may."""

        def ask(signum: int, frame: FrameType | None) -> None:
            if self.asked and signum == signal.SIGINT:
                raise KeyboardInterrupt
            self.asked = True

        try:
            before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
        except ValueError:  # not the main thread: whoever has it decides
            before = {}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def execute(
    folders: Sequence[CohortFolder],
    *,
    workers: int,
    device: torch.device,
    flush_seconds: float,
    metrics: Mapping[str, Metric],
    watch: Watch,
) -> bool:
    """Train cohorts to their ends.

    Returns:
        False when stopped by a signal before that; everything is flushed then.

    Raises:
        UserError, DiskError: from the first cohort that failed; the others are stopped and flushed.
    """
    stop = StopFlag()
    with stop.listening():
        if workers <= 1 or len(folders) <= 1:
            return _execute_here(folders, Options(device, flush_seconds, metrics, watch, stop))
        return _execute_in_workers(folders, workers, (device, flush_seconds, dict(metrics)), watch, stop)


def _execute_here(folders: Sequence[CohortFolder], options: Options) -> bool:
    threads = torch.get_num_threads()
    try:
        for folder in folders:
            if options.stop():
                return False
            torch.set_num_threads(folder.manifest()["threads"])
            if train_cohort(folder, options) != "done":
                return False
        return True
    finally:
        torch.set_num_threads(threads)


def _execute_in_workers(
    folders: Sequence[CohortFolder], workers: int, settings: tuple[Any, ...], watch: Watch, stop: StopFlag
) -> bool:
    context = multiprocessing.get_context("spawn")
    news = context.Queue()
    stopping = context.Event()
    waiting = list(folders)
    running: list[BaseProcess] = []
    outcomes: list[Any] = []
    try:
        while running or (waiting and not stop.asked and not _failure(outcomes)):
            while waiting and len(running) < workers and not stop.asked and not _failure(outcomes):
                folder = waiting.pop(0)
                arguments = (folder.path, settings, news, stopping, os.getpid())
                process: BaseProcess = context.Process(
                    target=_work, args=arguments, name=f"shoal {folder.id}", daemon=True
                )
                process.start()
                running.append(process)
            wait([process.sentinel for process in running], timeout=0.1)
            _drain(news, outcomes, watch)
            if stop.asked or _failure(outcomes):
                stopping.set()
            for process in [process for process in running if not process.is_alive()]:
                process.join()
                running.remove(process)
                if process.exitcode != 0:
                    outcomes.append(RuntimeError(f"{process.name} ended with exit code {process.exitcode}"))
        _drain(news, outcomes, watch)
    finally:
        stopping.set()
        for process in running:
            process.join()
    if failure := _failure(outcomes):
        raise failure
    return outcomes.count("done") == len(folders)


def _failure(outcomes: list[Any]) -> BaseException | None:
    return next((outcome for outcome in outcomes if isinstance(outcome, BaseException)), None)


def _drain(news: Any, outcomes: list[Any], watch: Watch) -> None:
    while True:
        try:
            item = news.get_nowait()
        except queue.Empty:
            return
        if isinstance(item, Snapshot):
            watch(item)
        else:
            outcomes.append(item)


def _work(path: Path, settings: tuple[Any, ...], news: Any, stopping: Any, parent: int) -> None:
    """One worker: train one cohort, tell the parent, and stop when it says so or is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    device, flush_seconds, metrics = settings
    folder = CohortFolder(path)

    def stop() -> bool:
        return bool(stopping.is_set()) or os.getppid() != parent

    try:
        torch.set_num_threads(folder.manifest()["threads"])
        news.put(train_cohort(folder, Options(device, flush_seconds, metrics, news.put, stop)))
    except (UserError, DiskError) as error:
        news.put(error)
    except Exception as error:
        traceback.print_exc()  # the parent gets one line; what led to it is only known here
        news.put(RuntimeError(f"cohort {folder.id} failed: {type(error).__name__}: {error}"))
    if os.getppid() != parent:
        news.cancel_join_thread()  # nobody reads any more
    sys.stdout.flush()
