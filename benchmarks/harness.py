"""Harness that measures methods beside ``plain``: one window of ``plain``, one of the method, and again, in one run.

Machines are noisy and drift, so that ratios of two neighbouring windows are taken; their median
and range over the pairs are reported. At any time one team of processes trains and at most two are in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.cases import Case, Request, Subject, Window
from benchmarks.workers import Job, Ready, Team, team
from shoal.errors import RunFailed
from shoal.training.executor import cores

RATE_WINDOWS = 5
PLAIN = Subject("plain")

Tell = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """Result of a method in one case.

    Attributes:
        case: configuration and model.
        subject: method and number of members.
        processes: number of processes that trained at the same time.
        threads: number of threads of each.
        engine: engine of shoal; empty for other methods.
        milliseconds: per member and step, one number per pair.
        plain: the same of ``plain``'s window before it.
        evaluation: milliseconds of one evaluation per member, median.
        flush: milliseconds of one flush per member, median.
        set_up: seconds to build and compile, and by which the first window took longer than a later one.
        peak: largest resident memory in MiB, summed over the processes.
        operations: 6 P B S, the operations of a step as the model is written.
        machine_rate: operations per second of matrix products on all cores.
    """

    case: Case
    subject: Subject
    processes: int
    threads: int
    engine: str
    milliseconds: tuple[float, ...]
    plain: tuple[float, ...]
    evaluation: float
    flush: float
    set_up: float
    peak: float
    operations: float
    machine_rate: float

    @property
    def ratios(self) -> tuple[float, ...]:
        """Speed relative to ``plain``, pair by pair."""
        return tuple(plain / method for plain, method in zip(self.plain, self.milliseconds, strict=True))

    @property
    def rate(self) -> float:
        """Operations per second of the model as it is written."""
        return 1e3 * self.operations / median(self.milliseconds)

    @property
    def share(self) -> float:
        """Share of ``rate`` in the machine's rate of products; above 1 is possible where work is avoided."""
        return self.rate / self.machine_rate


@dataclass
class Outcome:
    """Outcome: all results, and reasons for missing ones."""

    results: list[Result]
    missing: dict[str, str]

    @property
    def is_whole(self) -> bool:
        """Return True if no result of shoal is missing."""
        return not any(name.startswith("shoal") for name in self.missing)


def measure(request: Request, tell: Tell) -> Outcome:
    """Measure every case; ``tell`` is called with a line about each result.

    A baseline that cannot run is left out and reported; without ``plain`` there is nothing to compare with.

    Raises:
        RunFailed: ``plain`` cannot run.
    """
    outcome = Outcome([], {})
    rates: dict[str, float] = {}
    for case in request.cases():
        if case.configuration.name not in rates:  # the products of its models have one shape
            rates[case.configuration.name] = _machine_rate(case, request.device)
        rate = rates[case.configuration.name]
        steps, windows = case.steps(1, request.steps), 2 + request.pairs * (1 + len(list(request.subjects(case))))
        job = Job("plain", tuple(case.specs(1, steps + 1, windows)), steps, device=request.device)
        with team([job]) as (plain, ready):
            measured = []
            for subject in request.subjects(case):
                if subject.method not in outcome.missing:
                    measured += _measured(case, subject, request, plain, rate, outcome, tell)
            alone = [] if measured else [plain.windows()[0] for _ in range(request.pairs)]
            first = _plain_result(case, measured, alone, plain, ready, rate)
        tell(_line(first))
        outcome.results += [first, *(result for result, _ in measured)]
    return outcome


def _measured(
    case: Case, subject: Subject, request: Request, plain: Team, rate: float, outcome: Outcome, tell: Tell
) -> list[tuple[Result, list[Window]]]:
    """Result with the windows of ``plain`` beside it, or nothing where the method cannot run."""
    try:
        one = _pairs(case, subject, request, plain, rate)
    except RunFailed as failure:
        # another number of members may work; a baseline that is missing is not tried again
        name = f"{title(subject)}, {case.name}" if subject.method == "shoal" else subject.method
        outcome.missing[name] = str(failure)
        tell(f"{name}: not measured: {failure}")
        return []
    tell(_line(one[0]))
    return [one]


def _pairs(case: Case, subject: Subject, request: Request, plain: Team, rate: float) -> tuple[Result, list[Window]]:
    jobs = _jobs(case, subject, request)
    beside: list[Window] = []
    method_windows: list[list[Window]] = []
    with team(jobs) as (others, ready):
        for _ in range(request.pairs):
            beside += plain.windows()
            method_windows.append(others.windows())
        peak = others.peak()
    R = subject.members
    result = Result(
        case=case,
        subject=subject,
        processes=len(jobs),
        threads=jobs[0].threads or cores(),
        engine=ready[0].engine,
        milliseconds=tuple(
            max(map(case.milliseconds, windows)) / R for windows in method_windows
        ),  # the slowest process
        plain=tuple(map(case.milliseconds, beside)),
        evaluation=1e3 * median(max(window.evaluation for window in windows) for windows in method_windows) / R,
        flush=1e3 * median(max(window.flush for window in windows) for windows in method_windows) / R,
        set_up=_set_up(ready, method_windows),
        peak=peak,
        operations=operations(case),
        machine_rate=rate,
    )
    return result, beside


def _plain_result(
    case: Case,
    own: Sequence[tuple[Result, list[Window]]],
    alone: list[Window],
    plain: Team,
    ready: list[Ready],
    rate: float,
) -> Result:
    """Result of ``plain`` over all its windows, each as fast as itself."""
    windows = [window for _, beside in own for window in beside] + alone
    milliseconds = tuple(map(case.milliseconds, windows))
    return Result(
        case=case,
        subject=PLAIN,
        processes=1,
        threads=cores(),
        engine="",
        milliseconds=milliseconds,
        plain=milliseconds,
        evaluation=1e3 * median(window.evaluation for window in windows),
        flush=0.0,
        set_up=_set_up(ready, [[window] for window in windows]),
        peak=plain.peak(),
        operations=operations(case),
        machine_rate=rate,
    )


def _jobs(case: Case, subject: Subject, request: Request) -> list[Job]:
    """Job of each process of a team: shoal's members are divided between the cores, and not on a GPU."""
    R, device = subject.members, request.device
    steps = case.steps(R, request.steps)
    if subject.method != "shoal":
        return [Job(subject.method, tuple(case.specs(R, steps + 1, 2 + request.pairs)), steps, device=device)]
    specs, n = case.specs(R, steps + 2, 2 + request.pairs), min(cores(), R) if device == "cpu" else 1
    shares = [tuple(specs[R * i // n : R * (i + 1) // n]) for i in range(n)]
    return [Job("shoal", share, steps, threads=max(1, cores() // n), processes=n, device=device) for share in shares]


def operations(case: Case) -> float:
    """Operations of a training step of one member, forward and backward: 6 P B S multiplications and additions."""
    return 6 * case.parameters * case.positions


def _machine_rate(case: Case, device: str) -> float:
    """Operations per second of float32 products ``(B S, D) (D, 4 D)``, one process per core, all at once.

    On a GPU large products, of 64 times as many rows, in one process: small ones would measure its launches.
    """
    D, n = case.width, cores() if device == "cpu" else 1
    shape = (round(case.positions) * (1 if device == "cpu" else 64), D, 4 * D)
    jobs = [Job("products", threads=1, processes=n, shape=shape, device=device) for _ in range(n)]
    with team(jobs) as (one, _):
        rates = [sum(1 / window.step for window in one.windows()) for _ in range(RATE_WINDOWS)]
    m, k, n = shape
    return median(rates) * 2 * m * k * n


def _set_up(ready: Sequence[Ready], windows: Sequence[Sequence[Window]]) -> float:
    later = median(max(window.total for window in together) for together in windows)
    return max(0.0, max(one.seconds for one in ready) - later)


def title(subject: Subject) -> str:
    """Title of a subject: ``plain``, ``shoal, R = 8``."""
    return f"{subject.method}, R = {subject.members}" if subject.method in ("shoal", "jax") else subject.method


def _line(result: Result) -> str:
    low, middle, high = min(result.ratios), median(result.ratios), max(result.ratios)
    return (
        f"{result.case.name} · {title(result.subject)} · {median(result.milliseconds):.3g} ms per member and step · "
        f"{middle:.2f} × plain [{low:.2f}, {high:.2f}]"
    )
