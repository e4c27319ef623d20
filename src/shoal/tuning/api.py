"""Tuning of settings with a budget, as a function of Python."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from shoal.errors import LabError, RunFailed
from shoal.lab import Lab
from shoal.lab.names import check_name
from shoal.lab.tunings import Final, TuningNote, note_path, read_tuning, write_tuning
from shoal.report import check_drawing, write_report
from shoal.spec import RunSpec
from shoal.training import train
from shoal.training.preflight import check_final_files, check_parts
from shoal.training.requests import check_execution, check_precision
from shoal.training.snapshot import Snapshot
from shoal.tuning.final import Verdict, compare, verdict_of
from shoal.tuning.proposals import check_optuna
from shoal.tuning.request import Request, command_of, read_request
from shoal.tuning.search import Search
from shoal.tuning.standing import Standing
from shoal.tuning.trials import Trial, ranked


@dataclass(frozen=True)
class Tuning:
    """Result of a tuning.

    Attributes:
        name: its name.
        request: what was asked for.
        trials: all trials, from the best; diverged ones last.
        winner: the run of the best finished setting, with the first seed of the trials.
        final: scores of winner and default on fresh seeds; None where they were not compared.
        verdict: difference of these scores; None likewise.
        finals: all comparisons that were made under this name: a larger budget can bring another winner.
        spent: cost of all trials, in the unit of the budget, counted from the lab.
        page: path of its report.
    """

    name: str
    request: Request
    trials: Sequence[Trial]
    winner: RunSpec
    final: Final | None
    verdict: Verdict | None
    finals: Sequence[Final]
    spent: float
    page: Path | None = None

    def table(self) -> pl.DataFrame:
        """One row per trial, from the best: ``trial``, ``generation``, searched settings, ``state``, ``step``, the
        objective, ``steps`` of all its runs, and ``runs``."""
        column = self.request.objective.column
        rows = [
            {
                "trial": trial.number,
                "generation": trial.generation,
                **trial.settings,
                "state": trial.state,
                "step": trial.step,
                column: trial.value,
                "steps": trial.steps,
                "runs": list(trial.runs),
            }
            for trial in self.trials
        ]
        return pl.DataFrame(rows, infer_schema_length=None)


def tune(
    specs: RunSpec | Iterable[RunSpec],
    search: str | Iterable[str],
    budget: str,
    lab: str | Path | Lab = "lab",
    *,
    sampler: str = "tpe",
    halving: int = 3,
    generation: int = 9,
    tune_seed: int = 0,
    fresh_seeds: int = 5,
    objective: str | None = None,
    name: str = "tuning",
    report: bool = True,
    say: Callable[[str], None] = lambda line: None,
    watch: Callable[[Snapshot], None] | None = None,
    follow: Callable[[Standing], None] = lambda standing: None,
    **execution: Any,
) -> Tuning:
    """Tune settings of runs with a budget, and compare the winner with the default on fresh seeds.

    Every trial is a run of the lab, and a generation of them trains as cohorts. At each rung the worse settings leave
    the stack, and keep their state. The same call goes on with what an interrupted one has left, to the same proposals
    and the same curves; with a larger budget it goes on beyond.

    Args:
        specs: the default, whose other settings are fixed; several that differ in their seed have a setting tried on
            each of these seeds, and ranked by the mean.
        search: searched settings, ``lr=log:1e-4:3e-3``, ``dropout=linear:0:0.3`` or ``weight_decay=0,0.1,1``.
        budget: most that all trials cost in total, asked for once or several times: ``60000steps`` of all runs
            together, ``2PFLOP``, ``600s`` of a processor, ``20settings``. Fresh seeds come on top.
        lab: the lab, or its folder.
        sampler: ``random``, ``qmc`` or ``tpe``, of optuna.
        halving: η: the better 1/η of a generation go on at a rung, to η times as many steps; 1 stops none.
        generation: number of settings that are proposed and trained together.
        tune_seed: seed of the proposals.
        fresh_seeds: number of seeds of the comparison; 0 for none.
        objective: recorded column that settings are ranked by; ``valid_loss`` when not given.
        name: name of the tuning; a lab can hold several.
        report: whether its page is written, to ``reports/tune-NAME``.
        say: callback with lines about its course.
        watch: callback with snapshots of the training, see :func:`shoal.train`.
        follow: callback with the standing of the search before each rung and before the fresh seeds.
        execution: ``device``, ``workers``, ``threads``, ``engine``, ``places`` and ``flush_seconds`` of
            :func:`shoal.train`.

    Raises:
        UserError: the request is wrong; nothing is written then. Or a tuning of this name was asked for otherwise.
        RunFailed: no trial has finished.
        Interrupted: training was stopped; the same call goes on.
    """
    check_optuna()
    request = read_request(specs, search, budget, sampler, halving, generation, tune_seed, fresh_seeds, objective)
    lab = lab if isinstance(lab, Lab) else Lab(lab)
    note = noted(lab, check_name(name, "tuning"), request, execution)
    if report:
        check_drawing()
    write_tuning(lab.create().path, name, note)
    tuning = _result(Search(name, request, note, lab, _training(lab, execution, say, watch), say, follow))
    return _reported(tuning, lab) if report else tuning


def _result(course: Search) -> Tuning:
    """Result of a search, which trains, with the comparison of its winner.

    Raises:
        RunFailed: no trial has finished.
    """
    course.run()
    name, request, best = course.name, course.request, course.best()
    if best is None:
        course.end()
        states = ", ".join(f"{n} {state}" for state, n in _counts(course.trials).items())
        raise RunFailed(f"none of {len(course.trials)} finished ({states}); no setting of tuning {name!r} is the best")
    final = compare(course, best)
    course.end()
    verdict = None if final is None else verdict_of(final, request.objective)
    trials = ranked(course.trials, request.objective.higher_is_better)
    winner = request.base.replace(**best.settings)
    return Tuning(name, request, trials, winner, final, verdict, course.note.finals, course.spent())


def noted(lab: Lab, name: str, request: Request, execution: Mapping[str, Any]) -> TuningNote:
    """Note of the tuning with this request, new or from the lab, after all checks; nothing is written."""
    device = check_execution(**{"device": None, "workers": None, "threads": None, "flush_seconds": 20.0, **execution})
    check_precision(request.specs, device, execution.get("engine"))
    check_parts(request.specs, device)
    check_final_files(request.specs)
    lab.report_folder(f"tune-{name}")
    note = read_tuning(lab.path, name) or TuningNote(asked=request.to_json())
    request.check_same(name, note)
    _check_generations(lab, name, request, note)
    note.asked, note.done = {**request.to_json(), "command": command_of(name, request)}, False
    return note


def _check_generations(lab: Lab, name: str, request: Request, note: TuningNote) -> None:
    """Raise :class:`LabError` where a generation is not one that this request could have proposed.

    The note may be someone else's: trials outside of the space cannot be gone on from, and runs that are not those of
    their settings would be trained for others.
    """
    axes = {axis.name: axis for axis in request.space.axes}
    for number, generation in enumerate(note.generations):
        trials, runs = generation.settings, generation.runs
        is_whole = len(trials) == len(runs) > 0 and len(generation.rungs) == len(generation.sizes) > 0
        if not is_whole or any(
            settings.keys() != axes.keys()
            or not all(axes[key].holds(value) for key, value in settings.items())
            or [spec.id for spec in request.runs_of(settings)] != of_trial
            for settings, of_trial in zip(trials, runs, strict=True)
        ):
            path = note_path(lab.path, name)
            raise LabError(
                f"{path} is damaged: generation {number} is none of this search; move {path} out of the lab, and ask "
                "for the tuning again"
            )


def _training(
    lab: Lab,
    execution: Mapping[str, Any],
    say: Callable[[str], None],
    watch: Callable[[Snapshot], None] | None,
) -> Callable[[Sequence[RunSpec], int | None], None]:
    """Function that trains runs up to a step; a line about engines is passed on once."""
    seen: set[str] = set()

    def once(line: str) -> None:
        if line not in seen:
            seen.add(line)
            say(line)

    def act(specs: Sequence[RunSpec], until: int | None) -> None:
        train(specs, lab, until=until, say=once, watch=watch, **execution)

    return act


def _counts(trials: Sequence[Trial]) -> dict[str, int]:
    states = [trial.state for trial in trials]
    return {state: states.count(state) for state in dict.fromkeys(states)}


def _reported(tuning: Tuning, lab: Lab) -> Tuning:
    from shoal.tuning.report import report_tuning

    records = lab.records([run for trial in sorted(tuning.trials, key=lambda t: t.number) for run in trial.runs])
    index = lab.index()
    final = tuning.final.runs.values() if tuning.final else ()
    fresh = lab.records(run for runs in final for run in runs if run in index)
    page = write_report(report_tuning(tuning, records, fresh, str(lab.path)), lab.report_folder(f"tune-{tuning.name}"))
    return Tuning(**{**tuning.__dict__, "page": page})
