"""Page of a tuning: the winner on fresh seeds, regret against the budget, and all settings that were tried."""

import math
import shlex
from typing import TYPE_CHECKING, Any

import altair as alt
import polars as pl

from shoal.lab import Records
from shoal.lab.tunings import Final
from shoal.measures import Measure
from shoal.report import Cell, Figure, Report, Section, Table
from shoal.report.certificates import certificates
from shoal.report.figures import COLOURS, styled
from shoal.report.summary import provenance
from shoal.report.words import counted, number, p_value, setting_text, with_interval
from shoal.tuning.budget import SECONDS, SETTINGS
from shoal.tuning.edges import edge_text, edges_of
from shoal.tuning.final import SIDES, Verdict
from shoal.tuning.request import command_of
from shoal.tuning.trials import Trial

if TYPE_CHECKING:
    from shoal.tuning.api import Tuning

_DIGITS = 4
_SPLITS = {"valid": "validation", "test": "test"}


def report_tuning(tuning: "Tuning", records: Records, fresh: Records, lab: str) -> Report:
    """Report of a tuning.

    Args:
        tuning: the tuning.
        records: records of the trials' runs.
        fresh: records of the runs on fresh seeds; of none where nothing was compared.
        lab: path of the lab, for commands.
    """
    finals = [final_table(tuning, tuning.final, tuning.verdict)] if tuning.final and tuning.verdict else []
    certified, certificate_tables = certificates(fresh.cohorts()) if len(fresh) else ([], [])
    cohorts = [cohorts_of_fresh(tuning.final, fresh, lab)] if tuning.final and len(fresh) else []
    request = tuning.request
    return Report(
        title=f"Tuning {tuning.name}",
        lead=f"Which of the settings {', '.join(request.space.texts)} does best with "
        f"{request.budget.told(request.budget.amount)}, and is it better than the default?",
        answers=answers(tuning),
        sections=[
            Section(
                "Winner and default",
                [_how_judged(tuning), *cohorts, *certified],
                tables=[*finals, *certificate_tables],
                about="both settings trained anew on seeds that no trial had.",
            ),
            Section("Regret", figures=[regret_figure(tuning)], about="what the budget bought, trial after trial."),
            Section("What was tried", tables=[trials_table(tuning)], about="every setting, from the best."),
            provenance(records, command_of(tuning.name, request)),
        ],
    )


def answers(tuning: "Tuning") -> list[str]:
    """Results in sentences: what was spent, the winner, and whether it is better than the default."""
    request, best = tuning.request, tuning.trials[0]
    states = [trial.state for trial in tuning.trials]
    parts = [f"{states.count(state)} {words}" for state, words in _STATES.items() if state in states]
    sentences = [
        f"Spent {request.budget.told(tuning.spent)} of {request.budget.told(request.budget.amount)} on "
        f"{counted(len(states), 'setting')}: {', '.join(parts)}.",
        f"Winner: {settings_text(best.settings)}, {_words(tuning)} {number(best.value, _DIGITS)} in the search, which "
        "is too good by selection.",
        *map(edge_text, edges_of(request.base, request.space, best.settings)),
    ]
    if tuning.final is None or tuning.verdict is None:
        why = "no fresh seeds were asked for" if not request.fresh_seeds else "the winner is the default"
        return [*sentences, f"Winner and default were not compared: {why}."]
    return [*sentences, verdict_sentence(tuning, tuning.final, tuning.verdict)]


_STATES = {
    "finished": "trained to the end",
    "left": "left at a rung",
    "diverged": "diverged",
    "waiting": "not trained",
}


def verdict_sentence(tuning: "Tuning", final: Final, verdict: Verdict) -> str:
    """Comparison of winner and default in a sentence, which claims a winner only where the interval is clear of 0."""
    measure = _measure(tuning)
    split = _SPLITS[final.column.partition("_")[0]]
    steps = f"{tuning.request.base.n_steps:,} steps each"
    where = f"On {len(final.seeds)} fresh seeds, beyond the budget, {split} split, {steps}"
    lost = ""
    if any(verdict.diverged):
        lost = f" Diverged: {verdict.diverged[0]} of the winner's runs, {verdict.diverged[1]} of the default's."
    if verdict.difference is None:
        return f"{where}: no pair of runs finished, so that nothing can be said.{lost}"
    difference = with_interval(verdict.difference, verdict.low, verdict.high)
    result = "no difference is shown, and the default can stay"
    if verdict.is_better:
        result = "by Student's interval the winner is better"
    elif verdict.is_worse:
        result = "by Student's interval the winner is worse"
    pairs, p = counted(verdict.pairs, "pair"), p_value(verdict.p)
    if verdict.p is not None and verdict.p == verdict.smallest_p:
        p += f", the smallest that {pairs} can have"
    return (
        f"{where}: {measure.words} {number(verdict.default, _DIGITS)} of the default, "
        f"{number(verdict.winner, _DIGITS)} of the winner, difference {difference} over "
        f"{pairs} ({p}): {result}.{lost}"
    )


def final_table(tuning: "Tuning", final: Final, verdict: Verdict) -> Table:
    """Scores of winner and default by seed, and their difference."""
    rows: list[tuple[str, list[Cell]]] = []
    data: list[dict[str, Any]] = []
    for place, seed in enumerate(final.seeds):
        scores = [final.scores.get(final.runs[side][place]) for side in SIDES]
        difference = None if None in scores else scores[0] - scores[1]  # type: ignore[operator]  # both are there
        shown = ["diverged" if score is None else number(score, _DIGITS) for score in scores]
        rows.append((f"{seed}", [*map(Cell, shown), Cell(number(difference))]))
        data.append({"seed": seed, **dict(zip(SIDES, scores, strict=True)), "difference": difference})
    means = [number(verdict.winner, _DIGITS), number(verdict.default, _DIGITS)]
    rows.append(("mean", [*map(Cell, means), Cell(with_interval(verdict.difference, verdict.low, verdict.high))]))
    split = _SPLITS[final.column.partition("_")[0]]
    caption = (
        f"{_measure(tuning).words.capitalize()} on the {split} split of both settings by seed. Difference: winner "
        f"less default, with Student's 95 % interval of its mean over pairs; {p_value(verdict.p)} by flipping signs, "
        f"at least {number(verdict.smallest_p, 2)} for so many pairs."
    )
    return Table("final", ["seed", "winner", "default", "difference"], rows, caption, pl.DataFrame(data))


def cohorts_of_fresh(final: Final, fresh: Records, lab: str) -> str:
    """Sentence on the cohorts that winner and default trained in, with the command that certifies a run of each."""
    members = {folder.id: sum(fresh.cohort_of(run) is folder for run in fresh.ids) for folder in fresh.cohorts()}
    named = ", ".join(f"{cohort} ({counted(n, 'run')})" for cohort, n in members.items())
    first = " ".join(final.runs[side][0][:8] for side in SIDES)
    trained = f"The runs on fresh seeds trained in {'cohort' if len(members) == 1 else 'cohorts'} {named}."
    return f"{trained} To compare them with the same runs trained alone: shoal certify {first} --lab {shlex.quote(lab)}"


def trials_table(tuning: "Tuning") -> Table:
    """All trials, from the best; diverged ones last."""
    names = tuning.request.space.names
    rows = [
        (
            f"{trial.number}",
            [
                *(Cell(setting_text(trial.settings[name])) for name in names),
                Cell(number(trial.value, _DIGITS), best=trial is tuning.trials[0]),
                Cell(f"{trial.step:,}"),
                Cell(_STATES[trial.state]),
                Cell(f"{trial.generation + 1}"),
                Cell(trial.runs[0][:8]),
            ],
        )
        for trial in tuning.trials
    ]
    counts = "its best evaluation" if tuning.request.objective.takes_best else "its last evaluation"
    caption = (
        f"Every setting that was tried, from the best: those that trained to the end, those that left at a rung, and "
        f"diverged ones last. The {_words(tuning)} is that of {counts} up to the step; run: the first run's id."
    )
    header = ["trial", *names, tuning.request.objective.column, "step", "state", "generation", "run"]
    return Table("trials", header, rows, caption, tuning.table())


def regret_figure(tuning: "Tuning") -> Figure:
    """Best value so far and its distance from the final best, against what was spent."""
    frame = regret(tuning)
    measure, budget = _measure(tuning), tuning.request.budget
    x = alt.X("spent:Q", title=f"spent ({_axis(budget.unit)})", axis=alt.Axis(format="~s", tickCount=6))
    digits = alt.Axis(format=".4~g")  # else the single tick of a value that never changes is rounded to an integer
    panels = [
        alt.Chart(frame.select("spent", pl.col(name).alias("value")))
        .mark_line(interpolate="step-after", point=alt.OverlayMarkDef(color=colour), color=colour)
        .encode(x, alt.Y("value:Q", title=title, axis=digits, scale=alt.Scale(zero=name == "regret")))
        .properties(width=340, height=215)
        for name, title, colour in (
            ("best", f"best {measure.axis} so far", COLOURS[0]),
            ("regret", f"regret{f' ({measure.unit})' if measure.unit else ''}", COLOURS[1]),
        )
    ]
    last = frame.row(-1, named=True)
    alternative = f"Best {measure.words} so far against the budget, {number(last['best'], _DIGITS)} at the end."
    caption = (
        f"Left: the best {_words(tuning)} of a setting that trained to the end, after each generation. Right: regret, "
        "its distance from the best of the whole search."
    )
    return Figure("regret", styled(alt.concat(*panels), alternative), caption)


def regret(tuning: "Tuning") -> pl.DataFrame:
    """``spent``, ``best`` and ``regret`` after each generation in which a setting has finished.

    Of a budget in seconds, of which the lab has no record by trial, seconds are shared by steps.
    """
    request = tuning.request
    sign = -1.0 if request.objective.higher_is_better else 1.0
    ordered = sorted(tuning.trials, key=lambda trial: trial.number)
    costs = [_cost(tuning, trial) for trial in ordered]
    total = math.fsum(costs)
    scale = tuning.spent / total if request.budget.unit == SECONDS and total else 1.0
    rows: list[dict[str, float]] = []
    spent, best = 0.0, None
    for trial, cost, following in zip(ordered, costs, [*ordered[1:], None], strict=True):
        spent += cost * scale
        if trial.state == "finished" and trial.value is not None:
            best = trial.value if best is None else sign * min(sign * best, sign * trial.value)
        if best is not None and (following is None or following.generation != trial.generation):
            rows.append({"spent": spent, "best": best})
    frame = pl.DataFrame(rows)
    return frame.with_columns(regret=sign * (pl.col("best") - rows[-1]["best"]))


def _cost(tuning: "Tuning", trial: Trial) -> float:
    request = tuning.request
    if request.budget.unit == SETTINGS:
        return 1.0
    return trial.steps * request.cost_of(request.runs_of(dict(trial.settings))) / len(trial.runs)


def _axis(unit: str) -> str:
    return "seconds of a processor" if unit == SECONDS else unit


def settings_text(settings: Any) -> str:
    """Settings in words: ``lr 0.00081, dropout 0.2``."""
    return ", ".join(f"{name} {setting_text(value)}" for name, value in settings.items())


def _measure(tuning: "Tuning") -> Measure:
    return tuning.request.base.task_part.measures()[tuning.request.objective.column]


def _words(tuning: "Tuning") -> str:
    return f"validation {_measure(tuning).words}"


def _how_judged(tuning: "Tuning") -> str:
    request = tuning.request
    times = len(tuning.finals)
    again = f" This tuning has been compared {times} times, with another winner or other seeds." if times > 1 else ""
    return (
        f"The best of {counted(len(tuning.trials), 'setting')} looks better than it is, because it was chosen by what "
        f"it is shown by. So both were trained anew, with {request.base.n_steps:,} steps each, on "
        f"{counted(request.fresh_seeds, 'seed')} that no trial had, and scored once.{again}"
    )
