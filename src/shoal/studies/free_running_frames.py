"""Data frames of free-running and teacher-forced answers, for figures, tables and sentences."""

from collections.abc import Sequence

import numpy as np
import polars as pl
from scipy import stats

from shoal.analysis import time_to
from shoal.analysis.answer_errors import UNFINISHED
from shoal.analysis.corpus_scores import SentenceStatistics
from shoal.analysis.translation import ScoreDifference, compare_all, score_interval
from shoal.report.each_run import model_label
from shoal.studies.base import THRESHOLDS, Form
from shoal.studies.free_running_scores import Asked
from shoal.studies.results import Results

SHARES = (0.8, 0.9)  # whose first step is reported, unless others are asked for
WATCHED = ("accuracy", "forced_exact")


def scored_of(asked: Asked, results: Results, which: str = "held-out") -> pl.DataFrame:
    """Frame with one row per run and item.

    Args:
        asked: question of the study.
        results: results with measurements.
        which: ``"held-out"``, or ``"longer"``.

    Returns:
        ``run``, ``model`` (its label), ``seed``, ``item``, ``source``, ``target``, ``wrote``, ``right`` (free-running),
        ``forced`` (all right under teacher forcing; of held-out items), ``error``, null where it is right, and a column
        for each of the groups.
    """
    measured = results.measured if which == "held-out" else results.measured.get("longer", {})
    rows = []
    for run, spec in results.specs.items():
        answers = measured.get("runs", {}).get(run)
        if answers is None:
            continue
        unfinished, forced = set(answers["unfinished"]), set(answers.get("forced_wrong", ()))
        items = zip(measured["items"]["sources"], measured["items"]["targets"], strict=True)
        for place, (source, target) in enumerate(items):
            wrote, error = answers["wrote"].get(str(place)), None
            if wrote is not None:
                error = UNFINISHED if place in unfinished else asked.error(source, target, wrote)
            rows.append(
                {
                    "run": run,
                    "model": model_label(spec.model),
                    "seed": spec.seed,
                    "item": place,
                    "source": source,
                    "target": target,
                    "wrote": target if wrote is None else wrote,
                    "right": wrote is None,
                    "forced": place not in forced,
                    "error": error,
                    **{name: label(spec, source) for name, label in asked.groups.items()},
                }
            )
    return pl.DataFrame(rows, schema_overrides={"error": pl.String}, infer_schema_length=None)


def statistics_of(scored: pl.DataFrame, column: str = "right") -> SentenceStatistics:
    """Sentence statistics of the shares right in percent, of one model's runs, ``(R, n)``."""
    rows = scored.sort("seed", "run", "item").group_by("seed", "run", maintain_order=True).agg(column)
    return SentenceStatistics.of_numbers("exact match", 100 * np.array(rows[column].to_list(), dtype=np.float64))


def share_right(scored: pl.DataFrame, column: str = "right") -> dict[str, float | int]:
    """Share right of one model's runs: ``mean``, ``low`` and ``high`` in percent, ``runs`` and ``items``.

    The interval is over seeds and items; where all runs are right at the same items it is too short, and Wilson's
    interval for one run replaces it where that is wider.
    """
    statistics = statistics_of(scored, column)
    score = score_interval(statistics)
    low, high = score.low, score.high
    n = statistics.sentences
    if len(set(score.by_seed)) == 1:
        right = round(score.score / 100 * n)
        wilson = stats.binomtest(right, n).proportion_ci(0.95, method="wilson")
        low, high = min(low, 100 * wilson.low), max(high, 100 * wilson.high)
    return {"mean": score.score, "low": low, "high": high, "runs": score.seeds, "items": n}


def by_group(scored: pl.DataFrame, name: str) -> pl.DataFrame:
    """Frame of ``model``, ``group``, and the columns of :func:`share_right`; groups in their order."""
    rows = []
    for (model,), of_model in scored.group_by("model", maintain_order=True):
        for (group,), part in of_model.sort(name).group_by(name, maintain_order=True):
            rows.append({"model": model, "group": group, **share_right(part)})
    return pl.DataFrame(rows)


def compared(scored: pl.DataFrame) -> list[ScoreDifference]:
    """Comparisons of all pairs of models, paired over the seeds and items that all have; p corrected by Holm."""
    seeds = [set(of_model["seed"]) for _, of_model in scored.group_by("model")]
    common = sorted(set.intersection(*seeds))
    models = scored["model"].unique(maintain_order=True)
    if len(models) < 2 or not common:
        return []
    shared = scored.filter(pl.col("seed").is_in(common))
    return compare_all({model: statistics_of(shared.filter(model=model)) for model in models})


def longer_of(asked: Asked, results: Results) -> pl.DataFrame:
    """Frame of :func:`by_group` by the first of the groups, for held-out items and those ``beyond`` the trained
    lengths, of the models that answered these."""
    more = scored_of(asked, results, "longer")
    if more.is_empty():
        return more
    name = next(iter(asked.groups))
    held_out = scored_of(asked, results).filter(pl.col("model").is_in(more["model"].unique().to_list()))
    return pl.concat(
        [by_group(held_out, name).with_columns(beyond=False), by_group(more, name).with_columns(beyond=True)]
    )


def shares_of(form: Form) -> Sequence[float]:
    """Shares whose first step is reported."""
    return SHARES if form.thresholds == THRESHOLDS else form.thresholds


def times_of(results: Results, form: Form) -> pl.DataFrame:
    """First steps at which each run's measures reached a share on the validation split.

    Returns:
        ``model``, ``measure``, ``share``, ``runs``, ``reached`` (their number), ``first``, ``median`` and ``last`` step
        of these, null where there are none.
    """
    states, rows = results.runs.select("run", "state", "step"), []
    for measure in WATCHED:
        for share in shares_of(form):
            times = time_to(results.curves, f"valid_{measure}", share, states=states, stay=form.stay)
            for model in results.models:
                of_model = times.filter(pl.col("run").is_in(results.runs.filter(model=model)["run"].to_list()))
                steps = of_model.filter("observed")["time"]
                about = {"model": model_label(model), "measure": measure, "share": share, "runs": len(of_model)}
                whole = (
                    steps.median() if len(steps) == len(of_model) else None
                )  # else some come later than all of these
                rows.append(
                    {**about, "reached": len(steps), "first": steps.min(), "median": whole, "last": steps.max()}
                )
    kinds = {"first": pl.Int64, "median": pl.Float64, "last": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=kinds, infer_schema_length=None)
