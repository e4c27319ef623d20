"""Worker processes that are measured: they set up, then train a window each time they are asked to.

Each baseline is one process with all threads, as its reader would run it. shoal is one process per core, as
:func:`shoal.train` runs it, each with its share of the members, in its own lab. A team's processes begin each
window together; in between they wait and take no time from others.
"""

import importlib
import math
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import nanogpt
from benchmarks.cases import FLUSH_SECONDS, Run, TextRun, Window
from shoal import UserError
from shoal.errors import RunFailed
from shoal.fast.engine import choose_engine
from shoal.lab import Lab
from shoal.training.executor import Execution
from shoal.training.loop import Session
from shoal.training.plan import plan
from shoal.training.stack import Stack

Measure = Callable[[], Window]
PRODUCT_SECONDS = 0.3  # of one measurement of the machine's rate


@dataclass(frozen=True)
class Job:
    """Job of one process of a team.

    Attributes:
        method: one of :data:`benchmarks.cases.METHODS`, or ``products``.
        specs: the runs it trains.
        steps: ordinary steps of a window.
        threads: threads of torch; torch's default when not given.
        processes: number of processes that share the machine, itself included.
        shape: ``products``: sizes ``(m, k, n)`` of a matrix product.
        device: device on which PyTorch trains.
    """

    method: str
    specs: tuple[Run, ...] = ()
    steps: int = 1
    threads: int | None = None
    processes: int = 1
    shape: tuple[int, int, int] = (1, 1, 1)
    device: str = "cpu"


@dataclass(frozen=True)
class Ready:
    """Message that a process has set up and trained its first window.

    Attributes:
        seconds: duration, without starting Python and importing.
        engine: engine, where one was chosen.
    """

    seconds: float
    engine: str = ""


class Team:
    """Team of processes that train side by side."""

    def __init__(self, jobs: Sequence[Job], scratch: Path) -> None:
        context = multiprocessing.get_context("spawn")
        self.barrier = context.Barrier(len(jobs))  # kept: a process that is starting still has to find it
        self.pipes: list[Connection] = []
        self.processes = []
        for number, job in enumerate(jobs):
            pipe, theirs = context.Pipe()
            arguments = (job, theirs, self.barrier, scratch / str(number))
            process = context.Process(target=_work, args=arguments, name=f"{job.method} {number}", daemon=True)
            process.start()
            theirs.close()  # so that the pipe ends with the process
            self.pipes.append(pipe)
            self.processes.append(process)

    def receive(self) -> list[Any]:
        """Messages of all processes, one each.

        Raises:
            RunFailed: a process failed.
        """
        messages = []
        for pipe, process in zip(self.pipes, self.processes, strict=True):
            try:
                message = pipe.recv()
            except (EOFError, OSError):
                process.join()
                raise RunFailed(f"process {process.name} ended with exit code {process.exitcode}") from None
            if isinstance(message, RunFailed):
                raise message
            messages.append(message)
        return messages

    def ask(self, what: str) -> list[Any]:
        """Ask every process for something and wait for the answers."""
        for pipe in self.pipes:
            with suppress(OSError):  # a process that is gone shows when it should answer
                pipe.send(what)
        return self.receive()

    def windows(self) -> list[Window]:
        """Train a window in all processes at the same time."""
        return self.ask("window")

    def peak(self) -> float:
        """Largest resident memory of each process so far, summed, in MiB."""
        return float(sum(self.ask("peak")))

    def close(self) -> None:
        for pipe in self.pipes:
            pipe.close()
        for process in self.processes:
            process.join(timeout=10)
            process.terminate()
            process.join()


@contextmanager
def team(jobs: Sequence[Job]) -> Iterator[tuple[Team, list[Ready]]]:
    """Context of a team that has set up and trained its first window; its processes end with it."""
    with tempfile.TemporaryDirectory(prefix="shoal-bench-", ignore_cleanup_errors=True) as scratch:
        one = Team(jobs, Path(scratch))
        try:
            yield one, one.receive()
        finally:
            one.close()


def _work(job: Job, pipe: Connection, barrier: Any, scratch: Path) -> None:
    """Body of a process of a team: set up, then answer requests until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent ends its teams
    try:
        scratch.mkdir()
        if job.threads is not None:
            torch.set_num_threads(job.threads)
        if job.method in BASELINES:
            importlib.import_module(BASELINES[job.method])
        began = time.perf_counter()
        measure, engine = (_baseline if job.method in BASELINES else OURS[job.method])(job, scratch)
        measure()
        pipe.send(Ready(time.perf_counter() - began, engine))
        while True:
            what = pipe.recv()
            if what == "window":
                barrier.wait()
            pipe.send(measure() if what == "window" else _peak(job.device))
    except EOFError:  # the parent needs no more, or is gone
        pass
    except (ImportError, UserError) as error:
        _give_up(pipe, str(error))
    except Exception as error:
        traceback.print_exc()  # the parent gets one line; the traceback is known here alone
        _give_up(pipe, f"{type(error).__name__}: {error}".partition("\n")[0])


def _give_up(pipe: Connection, why: str) -> None:
    with suppress(OSError):  # another process of the team has said so before, and the parent is gone
        pipe.send(RunFailed(why))


def _peak(device: str) -> float:
    """Largest memory so far, resident or of the GPU, in MiB."""
    if device == "cuda":
        return torch.cuda.max_memory_reserved() / 2**20
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("VmHWM")) / 2**10
    except (OSError, StopIteration):  # not Linux
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / 2 ** (20 if sys.platform == "darwin" else 10)


# work of the processes: a job -> function that trains a window, and the engine where one was chosen


def _baseline(job: Job, scratch: Path) -> tuple[Measure, str]:
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(scratch)  # code of earlier runs would hide the time of compiling
    trainer = _trainer(job)

    def measure() -> Window:
        ordinary = _seconds(lambda: trainer.step(job.steps))
        last = _seconds(lambda: trainer.step(1))  # and the evaluation that is due, which cannot be timed within it
        evaluation = _seconds(trainer.evaluate)
        return Window(ordinary / job.steps, evaluation, 0.0, ordinary + last + evaluation)

    return measure, ""


def _trainer(job: Job) -> Any:
    """Trainer of the job's runs; it has ``step(n)`` and ``evaluate()``."""
    first = job.specs[0]
    options: dict[str, Any] = {"compiled": True} if job.method == "compiled" else {}
    if isinstance(first, TextRun):
        return nanogpt.Trainer(first.seed, first.read(), device=job.device, **options)
    if job.method != "jax":  # which chooses for itself
        options["device"] = job.device
    return importlib.import_module(BASELINES[job.method]).Trainer(first, len(job.specs), **options)


class _Clocked(Session):
    """Session that records the durations of its last evaluation and its last flush, in seconds.

    They cannot be computed from the difference between a step with and a step without: steps of small models are no
    longer than disturbances.
    """

    evaluation = flushing = 0.0

    def _evaluate(self, stack: Stack, evaluated: Tensor) -> None:
        _wait(self.options.device.type)
        self.evaluation = _seconds(lambda: super(_Clocked, self)._evaluate(stack, evaluated))

    def _flush(self) -> None:
        self.flushing = _seconds(super()._flush)


def _shoal(job: Job, scratch: Path) -> tuple[Measure, str]:
    session, engine = _session(job, scratch)

    def advance(steps: int, flush_seconds: float = math.inf) -> float:
        session.options.flush_seconds = flush_seconds
        began = time.perf_counter()
        while steps > 0:
            steps -= session.advance(steps)
        _wait(job.device)
        return time.perf_counter() - began

    def measure() -> Window:
        session.evaluation = session.flushing = 0.0
        ordinary = advance(job.steps)
        others = advance(1, flush_seconds=0.0) + advance(1)  # the second is evaluated
        return Window(ordinary / job.steps, session.evaluation, session.flushing, ordinary + others)

    if job.device == "cuda":
        measure()  # the first steps are called; those after them are recorded in the window of the set-up
    return measure, engine


def _session(job: Job, scratch: Path) -> tuple[_Clocked, str]:
    """Session of one process's share of a cohort in its own lab, set up as by :func:`shoal.train`; no member waits."""
    (cohort,) = plan([run.spec() if isinstance(run, TextRun) else run for run in job.specs])
    execution = Execution(torch.device(job.device), FLUSH_SECONDS, {}, places=len(job.specs))
    choice = choose_engine(cohort.shared, cohort.seconds, execution.device)
    folder = Lab(scratch).create().cohort(cohort.id)
    how = {"engine": choice.engine, "why": choice.why, "products": choice.products}
    folder.create(list(cohort.members), job.threads or 1, **how)
    options = execution.options(lambda snapshot: None, lambda: False, job.processes)
    return _Clocked(folder, options), choice.engine


def _products(job: Job, scratch: Path) -> tuple[Measure, str]:
    m, k, n = job.shape
    a, b = torch.rand(m, k, device=job.device), torch.rand(k, n, device=job.device)
    out = torch.empty(m, n, device=job.device)
    at_once = 1 if job.device == "cpu" else 100  # between two looks at the time

    def measure() -> Window:
        began, products = time.perf_counter(), 0
        while (elapsed := time.perf_counter() - began) < PRODUCT_SECONDS:
            for _ in range(at_once):
                torch.mm(a, b, out=out)
            _wait(job.device)
            products += at_once
        return Window(elapsed / products, 0.0, 0.0, elapsed)

    return measure, ""


def _wait(device: str) -> None:
    """Wait until a GPU has finished its work."""
    if device == "cuda":
        torch.cuda.synchronize()


def _seconds(act: Callable[[], object]) -> float:
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


BASELINES = {
    "plain": "benchmarks.plain",
    "compiled": "benchmarks.plain",
    "torch_nn": "benchmarks.torch_nn",
    "jax": "benchmarks.jax_baseline",
}
OURS: dict[str, Callable[[Job, Path], tuple[Measure, str]]] = {"shoal": _shoal, "products": _products}
