"""Comparison of the winner of a tuning with the default: both trained anew on fresh seeds, with as many steps.

The best of many trials is too good by selection. So both settings are retrained on seeds that no trial had, scored once
on the test split where the task has one and else on the validation split, and compared pair by pair.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from shoal.analysis.paired import sign_flip_test
from shoal.analysis.trends import student
from shoal.lab import Lab
from shoal.lab.tunings import Final, write_tuning
from shoal.spec import RunSpec
from shoal.spec.training import SEEDS
from shoal.tuning.request import Request
from shoal.tuning.search import Search
from shoal.tuning.trials import Objective, Stand, Trial

SIDES = ("winner", "default")


@dataclass(frozen=True)
class Verdict:
    """Difference of the winner's scores from the default's, over fresh seeds.

    Attributes:
        winner, default: mean scores over the pairs; None where there is no pair.
        difference: mean of winner − default.
        low, high: its 95 % interval, Student's over pairs; None where there are fewer than two.
        p: p value of the sign-flip test.
        smallest_p: the smallest that this many pairs can reach.
        pairs: number of pairs of which neither run diverged.
        diverged: number of diverged runs, of the winner and of the default.
        is_better: true where the interval holds better values alone, and no run of the winner diverged.
        is_worse: true where it holds worse values alone.
    """

    winner: float | None
    default: float | None
    difference: float | None
    low: float | None
    high: float | None
    p: float | None
    smallest_p: float | None
    pairs: int
    diverged: tuple[int, int]
    is_better: bool
    is_worse: bool


def judge(winner: Sequence[float | None], default: Sequence[float | None], higher_is_better: bool) -> Verdict:
    """Verdict on scores by seed, ``(n,)`` each and in one order; None is a run that diverged."""
    pairs = [(w, d) for w, d in zip(winner, default, strict=True) if w is not None and d is not None]
    diverged = (sum(w is None for w in winner), sum(d is None for d in default))
    if not pairs:
        return Verdict(None, None, None, None, None, None, None, 0, diverged, False, diverged[0] > diverged[1])
    differences = np.array([w - d for w, d in pairs])
    low, high, _ = student(differences.tolist())
    p, smallest = sign_flip_test(differences)
    is_larger, is_smaller = low is not None and low > 0, high is not None and high < 0
    better, worse = (is_larger, is_smaller) if higher_is_better else (is_smaller, is_larger)
    means = [float(np.mean(side)) for side in zip(*pairs, strict=True)]
    return Verdict(
        means[0],
        means[1],
        float(differences.mean()),
        low,
        high,
        p,
        smallest,
        len(pairs),
        diverged,
        better and diverged[0] == 0,
        worse,
    )


def verdict_of(final: Final, objective: Objective) -> Verdict:
    """Verdict on a comparison that was scored."""
    winner, default = ([final.scores.get(run) for run in final.runs[side]] for side in SIDES)
    return judge(winner, default, objective.higher_is_better)


def fresh_seeds(request: Request) -> list[int]:
    """Seeds that no trial has had."""
    used = [int(getattr(spec, name)) for spec in request.specs for name in ("seed", *SEEDS)]
    return [max(used) + 1 + place for place in range(request.fresh_seeds)]


def compare(search: Search, winner: Trial) -> Final | None:
    """Comparison of the winner with the default, from the lab's note where it was made before.

    None where none was asked for, or the winner is the default.
    """
    request, seeds = search.request, fresh_seeds(search.request)
    sides = {
        "winner": [request.base.replace(**{**winner.settings, "seed": seed}) for seed in seeds],
        "default": [request.base.replace(seed=seed) for seed in seeds],
    }
    runs = {side: [spec.id for spec in specs] for side, specs in sides.items()}
    if not seeds or runs["winner"] == runs["default"]:
        return None
    known = next((final for final in search.note.finals if final.runs == runs), None)
    if known is not None and known.scores.keys() == {run for ids in runs.values() for run in ids}:
        return known
    search.follow(search.standing_of_comparison())
    search.train([*sides["winner"], *sides["default"]], None)
    column, scores = _scores(search.lab, request, sides)
    final = Final(winner=dict(winner.settings), seeds=seeds, runs=runs, column=column, scores=scores)
    search.note.finals.append(final)
    write_tuning(search.lab.path, search.name, search.note)
    return final


def _scores(lab: Lab, request: Request, sides: dict[str, list[RunSpec]]) -> tuple[str, dict[str, float | None]]:
    """Column of the final scores, and the score of each run; None where it diverged."""
    specs = [spec for of_side in sides.values() for spec in of_side]
    stand = Stand.of(lab, [spec.id for spec in specs], request.objective)
    values = {spec.id: stand.value(spec.id, spec.n_steps) for spec in specs}
    measure = request.objective.column.partition("_")[2]
    task: Any = request.base.task_part
    if not getattr(task, "test_source", "") or measure not in ("loss", "accuracy"):
        return request.objective.column, values
    return f"test_{measure}", {
        spec.id: None if values[spec.id] is None else _on_test(lab, spec, measure, request.objective) for spec in specs
    }


def _on_test(lab: Lab, spec: RunSpec, measure: str, objective: Objective) -> float | None:
    """Loss or accuracy of the tokens of a translation's test split, behind the right tokens before each."""
    from shoal.analysis.forced import forced
    from shoal.fast.denormals import flushed_denormals
    from shoal.studies.language_scores import best_steps
    from shoal.studies.translation_scores import encoded
    from shoal.tasks.build import calling
    from shoal.tasks.pairs.codec import codec_of

    task: Any = spec.task_part
    records = lab.records([spec.id])
    _, sources, references = task.final_lines()
    pairs, _ = encoded(codec_of(records.kept(spec.id)), sources, references)
    step = best_steps(records)[spec.id] if objective.takes_best else None
    with flushed_denormals():
        scored = forced(records.model(spec.id, step).eval(), spec.model_part.reads, pairs, calling=calling(spec))
    value = scored.total / scored.tokens if measure == "loss" else float(scored.right[scored.counts].double().mean())
    return value if math.isfinite(value) else None
