"""Best values of a training curve and the steps at which they were first reached.

Source: the practical on modular arithmetic, problem 4. ``L`` is the smallest loss up to ``T_max`` and ``A`` the largest
accuracy, on the training and the validation split; ``t_f`` is the first step at which each was reached, and
``Δt = t_f(valid) − t_f(train)``, the delay between memorising and generalising. For other tasks the same is taken of
the quantities that they measure, smallest or largest as each quantity says.

``get_extrema_performance_steps`` and its ``_per_trials`` form speak the practical's dictionaries (where validation is
called ``test``); :func:`extrema` says the same of data frames.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from shoal.analysis.columns import Names, as_names, check_columns, check_curves, is_number
from shoal.analysis.times import reaches
from shoal.errors import UserError
from shoal.measures import EQUATIONS, SPLITS, Measures

_SPLITS = {"train": "train", "valid": "test"}  # name in data frames -> in the practical's dictionaries


def first_best(values: Sequence[float], steps: Sequence[int], loss: bool, what: str = "a value") -> tuple[float, int]:
    """Best of ``values`` and the first of ``steps`` at which it was reached; NaN is ignored.

    >>> first_best([0.5, 1.0, 1.0], [0, 10, 20], loss=False)
    (1.0, 10)
    """
    known = [(value, place) for place, value in enumerate(values) if value is not None and not math.isnan(value)]
    if not known:
        raise UserError(
            f"there is nothing to take the best of: {what} is NaN in all of {len(values)} evaluations up to step "
            f"{steps[-1]}"
        )
    best, place = min(known, key=lambda one: (one[0] if loss else -one[0], one[1]))
    return float(best), int(steps[place])


def get_extrema_performance_steps(
    all_metrics: Mapping[str, Any], T_max: int | None = None, measures: Measures = EQUATIONS
) -> dict[str, Any]:
    """Extrema of one trial.

    Args:
        all_metrics: ``{"train": {"loss": [...], "accuracy": [...]}, "test": {...}, "all_steps": [...]}``, lists of
            one value per evaluation.
        T_max: use evaluations up to this step only.
        measures: the measured quantities.

    Returns:
        ``min_train_loss``, ``min_train_loss_step``, ``min_test_loss``, ``max_train_accuracy``, ``max_test_accuracy``
        and their ``_step``; on ties the first step.

    Raises:
        UserError: a curve is missing, is not as long as the steps, or has no value up to ``T_max``.
    """
    _check_t_max("T_max", T_max)
    steps = list(_entry(all_metrics, "all_steps"))
    if wrong := [step for step in steps if not is_number(step)]:
        raise UserError(f"all_steps must hold numbers, got {wrong[0]!r}")
    chosen = [i for i in sorted(range(len(steps)), key=steps.__getitem__) if T_max is None or steps[i] <= T_max]
    if not chosen:
        until = "" if T_max is None else f" up to T_max={T_max}"
        raise UserError(f"there is nothing to take the best of: no evaluation{until}")
    out: dict[str, Any] = {}
    for measure, split in ((measure, split) for measure in measures.recorded for split in _SPLITS.values()):
        what = f"{split} {measure.name}"
        curve = _entry(all_metrics, split, measure.name)
        if len(curve) != len(steps):
            raise UserError(f"{what} has {len(curve)} values of {len(steps)} steps")
        values = [curve[i] for i in chosen]
        best = first_best(values, [steps[i] for i in chosen], not measure.higher_is_better, what)
        name = f"{'max' if measure.higher_is_better else 'min'}_{split}_{measure.name}"
        out[name], out[f"{name}_step"] = best
    return out


def _entry(metrics: Mapping[str, Any], *keys: str) -> Any:
    entry: Any = metrics
    for key in keys:
        if not isinstance(entry, Mapping) or key not in entry:
            raise UserError(f"the metrics have no {' '.join(keys)}")
        entry = entry[key]
    return entry


def _check_t_max(name: str, value: Any) -> None:
    if value is not None and not (is_number(value) and value >= 0):
        raise UserError(f"{name} must be a number of steps of at least 0, got {value!r}")


def get_extrema_performance_steps_per_trials(
    all_metrics: Mapping[str, Any], T_max: int | None = None, measures: Measures = EQUATIONS
) -> dict[str, float]:
    """Mean and population standard deviation (ddof 0) of the extrema over trials.

    Args:
        all_metrics: as for one trial, but each curve is a list of one curve per trial, and so is ``all_steps``.
        T_max: use evaluations up to this step only.
        measures: the measured quantities.

    Returns:
        The keys of :func:`get_extrema_performance_steps`, holding means, and the same with ``_std``.
    """
    names = [measure.name for measure in measures.recorded]
    trials = [
        get_extrema_performance_steps(
            {split: {q: _trial(all_metrics, i, split, q) for q in names} for split in _SPLITS.values()}
            | {"all_steps": steps},
            T_max,
            measures,
        )
        for i, steps in enumerate(_entry(all_metrics, "all_steps"))
    ]
    if not trials:
        raise UserError("there are no trials to take the mean of")
    import numpy as np

    out = {}
    for name in trials[0]:
        values = [trial[name] for trial in trials]
        out[name], out[f"{name}_std"] = float(np.mean(values)), float(np.std(values))
    return out


def _trial(metrics: Mapping[str, Any], place: int, *keys: str) -> Any:
    """Curve of one trial."""
    curves = _entry(metrics, *keys)
    if len(curves) != (trials := len(_entry(metrics, "all_steps"))):
        raise UserError(f"{' '.join(keys)} has {len(curves)} trials, all_steps has {trials}")
    return curves[place]


def extrema(curves: pl.DataFrame, t_max: int | None = None, measures: Measures = EQUATIONS) -> pl.DataFrame:
    """Extrema of each run that has been evaluated.

    Args:
        curves: ``run``, ``step`` and a column per quantity: ``train_loss``, ``valid_loss``, ``train_accuracy`` …
        t_max: use evaluations up to this step only, a number of at least 0.
        measures: the quantities that the runs' task measures.

    Returns:
        One row per run: the best values under their names, the step of each as ``t_`` and the name, and ``last_step``,
        the last evaluated step. For each measure ``delay_`` and its name (Δt), in steps: ``delay_loss`` and so on.
        Null where a quantity is NaN at all evaluations of a run: one such run says nothing of the others.

    Raises:
        UserError: ``t_max`` is no such number, or the curves are none (see
            :func:`shoal.analysis.columns.check_curves`).
    """
    _check_t_max("t_max", t_max)
    names = {f"{split}_{measure.name}": measure for measure in measures.recorded for split in _SPLITS}
    check_curves(curves, names)
    chosen = curves if t_max is None else curves.filter(pl.col("step") <= t_max)
    rows = []
    for (run,), curve in chosen.sort("step").group_by("run", maintain_order=True):
        row: dict[str, Any] = {"run": run}
        for name, measure in names.items():
            known = curve.select("step", pl.col(name).cast(pl.Float64)).filter(pl.col(name).is_not_nan())
            row[name], row[f"t_{name}"] = (
                first_best(known[name].to_list(), known["step"].to_list(), loss=not measure.higher_is_better)
                if len(known)
                else (None, None)
            )
        for measure in measures.recorded:
            first, last = (row[f"t_{split}_{measure.name}"] for split in SPLITS)
            row[f"delay_{measure.name}"] = None if first is None or last is None else last - first
        rows.append({**row, "last_step": curve["step"][-1]})
    best = {column: kind for name in names for column, kind in ((name, pl.Float64), (f"t_{name}", pl.Int64))}
    delays = [f"delay_{measure.name}" for measure in measures.recorded]
    return pl.DataFrame(rows, {"run": curves.schema["run"], **best, **dict.fromkeys([*delays, "last_step"], pl.Int64)})


def with_delays(best: pl.DataFrame, measures: Measures) -> pl.DataFrame:
    """Best values with delays only of runs that reached the task's threshold on both splits, where it has one."""
    if measures.learned is None:
        return best
    shown, learned = measures.shown, measures.learned
    both = pl.all_horizontal(reaches(f"{split}_{shown.name}", learned, shown) for split in SPLITS)
    return best.with_columns(pl.when(both).then(pl.col("^delay_.*$")))


def mean_and_std(frame: pl.DataFrame, by: Names) -> pl.DataFrame:
    """Mean and population standard deviation (ddof 0) of every number, over the rows that agree in ``by``.

    Returns:
        One row per group: ``by``, ``N``, then each column's mean under its name and its deviation with ``_std``, null
        where there is one row.

    Raises:
        UserError: a column of ``by`` is unknown.
    """
    names = as_names(by)
    check_columns(frame, names)
    numbers = [name for name, kind in frame.schema.items() if kind.is_numeric() and name not in names]
    means = [pl.col(name).mean() for name in numbers]
    deviations = [deviation(name).alias(f"{name}_std") for name in numbers]
    return frame.group_by(names, maintain_order=True).agg(pl.len().alias("N"), *means, *deviations)


def deviation(column: str) -> pl.Expr:
    """Population standard deviation (ddof 0); null for a single value."""
    value = pl.col(column)
    return pl.when(value.count() > 1).then(value.std(ddof=0))
