"""Measurements of fitted hidden Markov models: numbers of states, restarts, intervals, the truth, the other update.

Shapes: ``K`` states, ``S`` sequences.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl

from shoal.analysis.fits import best_of_restarts
from shoal.hmm import (
    HMM,
    Categorical,
    Gaussian,
    Sequences,
    arrays_of,
    fit,
    log_likelihood,
    match_states,
    posterior_agreement,
    stacked,
    state_distance,
)
from shoal.hmm.selection import LEVEL, per_observation
from shoal.lab import Records
from shoal.spec import RunSpec
from shoal.studies.base import Form, Study
from shoal.tasks.sequences.drawing import truth

STATES, RESAMPLES, UPDATE = "numbers of states", "resamples", "the other update"  # parts of the studies


def measured(form: Form, study: Study, records: Records, n_states: int) -> dict[str, Any]:
    """All that a study of hidden Markov models measures of its kept models.

    Args:
        form: form of the study.
        study: the study.
        records: its runs.
        n_states: number of states of the resamples, and of the other update.
    """
    fits = _fits(form, study, records)
    spec = form.specs(study)[0]
    data = spec.task_part.data()  # type: ignore[attr-defined]  # of sequences
    valid = Sequences(data.values, data.lengths).subset(np.flatnonzero(data.is_valid))
    states = fits.filter(part=STATES)
    best = best_of_restarts(states, ["num_states"]).filter(pl.col("run").is_not_null())
    models = {int(row["num_states"]): records.model(row["run"]) for row in best.iter_rows(named=True)}
    out: dict[str, Any] = {
        "fits": fits.to_dicts(),
        "numbers": _numbers(best, models, valid),
        "restarts": _restarts(states, models, records, valid),
        "symbols": list(data.symbols),
        "observations": {"train": data.n_trained, "valid": valid.n_seen, "sequences": len(data.lengths)},
        "n_states": n_states,
        "example": example(),
    }
    if n_states in models:
        out["model"] = _model(models[n_states], fits.filter(part=RESAMPLES, num_states=n_states), records)
        if spec.get("drawn_states") == n_states:
            out["truth"] = _truth(spec, models[n_states], out["model"])
    return out


def _fits(form: Form, study: Study, records: Records) -> pl.DataFrame:
    """Fits with the part of the study that asks for them, and the settings in which they differ."""
    names, specs = form.names(study), records.specs
    settings = [
        {"run": run, "part": names[run], **{name: specs[run].get(name) for name in ("num_states", "bootstrap_seed")}}
        | {"seed": specs[run].seed}
        for run in records.ids
    ]
    return records.fits().join(pl.DataFrame(settings), on="run", how="left", maintain_order="left")


def _numbers(best: pl.DataFrame, models: Mapping[int, HMM], valid: Sequences) -> list[dict[str, Any]]:
    """Row for each number of states: held-out log-likelihood per observation, and how far it is below the highest.

    Where a validation sequence is impossible, its log-likelihood is -inf; the highest is then of a number of states
    without one. Where there is none, nothing is compared, and differences are NaN. The intervals of the differences
    hold together with those of all other pairs (Bonferroni), since these sequences choose which one is the highest.
    """
    each = {K: log_likelihood(model, valid).log_likelihood for K, model in models.items()}  # (1, S) each
    held = {K: per_observation(values, valid) for K, values in each.items()}
    top = max(held, key=lambda K: float(held[K].value[0]))
    level, rows = 1 - (1 - LEVEL) / max(1, math.comb(len(models), 2)), []
    for row in best.iter_rows(named=True):
        K = int(row["num_states"])
        with np.errstate(invalid="ignore"):
            gaps = each[K] - each[top] if np.isfinite(each[top]).all() else np.full_like(each[top], np.nan)
        below = per_observation(gaps, valid, level=level)
        numbers = {"held": held[K], "below": below}
        ends = {
            f"{name}{end}": float(getattr(one, what)[0])
            for name, one in numbers.items()
            for end, what in (("", "value"), ("_low", "low"), ("_high", "high"))
        }
        rows.append({**row, **ends})
    return rows


def _restarts(
    fits: pl.DataFrame, models: Mapping[int, HMM], records: Records, valid: Sequences
) -> list[dict[str, Any]]:
    """Row for each fit: nats below the best of its number of states, its distance and agreement after matching."""
    best = {
        int(K): top for K, top in best_of_restarts(fits, ["num_states"]).select("num_states", "log_likelihood").rows()
    }
    rows = []
    for row in fits.iter_rows(named=True):
        K = int(row["num_states"])
        if K not in models:
            continue
        model = records.model(row["run"])
        rows.append(
            {
                "run": row["run"],
                "num_states": K,
                "seed": row["seed"],
                "below": best[K] - row["log_likelihood"],
                "distance": float(state_distance(models[K], model)[0]),
                "agreement": float(posterior_agreement(models[K], model, valid)[0]),
                "problem": row["problem"],
            }
        )
    return rows


def _model(model: HMM, resamples: pl.DataFrame, records: Records) -> dict[str, Any]:
    """Arrays of a model, with the ends of percentile intervals over the best fits of resamples, states matched."""
    arrays = {name: array[0].tolist() for name, array in arrays_of(model).items()}
    best = best_of_restarts(resamples, ["bootstrap_seed"]).filter(pl.col("run").is_not_null())
    out = {"arrays": arrays, "resamples": len(best), "lost": resamples["bootstrap_seed"].n_unique() - len(best)}
    if len(best) < 2:
        return {**out, "low": {}, "high": {}}
    refits = stacked([records.model(run) for run in best["run"]])
    out["farthest"] = float(state_distance(model, refits).max())
    matched = arrays_of(refits.permuted(match_states(model, refits)))
    ends = {end: {} for end in ("low", "high")}  # type: dict[str, dict[str, Any]]
    for name, values in matched.items():
        for end, share in (("low", (1 - LEVEL) / 2), ("high", (1 + LEVEL) / 2)):
            ends[end][name] = np.quantile(values, share, axis=0, method="inverted_cdf").tolist()
    return {**out, **ends}


def true_model(spec: RunSpec) -> HMM:
    """Model that the sequences of a run were drawn from."""
    true = truth(spec.task_part)  # type: ignore[arg-type]  # of sequences
    start, transitions, emitted = true.start[None], true.transitions[None], true.emissions[None]
    if spec.emissions == "categorical":
        return HMM(start, transitions, Categorical(emitted))
    D = emitted.shape[2]
    covariances = (
        np.ones_like(emitted) if spec.covariance == "diagonal" else np.broadcast_to(np.eye(D), (*emitted.shape, D))
    )
    return HMM(start, transitions, Gaussian(emitted, covariances))


def _truth(spec: RunSpec, model: HMM, fitted: Mapping[str, Any]) -> dict[str, Any]:
    """The true model with states numbered as in the fit, its distance, and how many intervals hold it."""
    true = true_model(spec)
    matched = true.permuted(match_states(model, true))
    arrays = {name: array[0] for name, array in arrays_of(matched).items()}
    out: dict[str, Any] = {
        "arrays": {name: array.tolist() for name, array in arrays.items()},
        "distance": float(state_distance(true, model)[0]),
    }
    if fitted["low"]:
        names = [name for name in arrays if name not in ("start", "covariances")]
        holds = [
            (np.array(fitted["low"][name]) <= arrays[name]) & (arrays[name] <= np.array(fitted["high"][name]))
            for name in names
        ]
        out |= {"inside": int(sum(one.sum() for one in holds)), "intervals": int(sum(one.size for one in holds))}
    return out


def example(updates: int = 30) -> dict[str, list[float]]:
    """Log-likelihoods of both updates of the transitions alone, on a small example on which one of them falls.

    π = (½, ½), P = E = ((0.9, 0.1), (0.1, 0.9)), y = 0 0 0 1 1 1.
    """
    table = np.array([[[0.9, 0.1], [0.1, 0.9]]])
    start = HMM(np.array([[0.5, 0.5]]), table, Categorical(table))
    data = Sequences([0, 0, 0, 1, 1, 1])
    return {
        update: fit(start, data, learn=["transitions"], iterations=updates, tolerance=0.0, update=update)
        .history[:, 0]
        .tolist()
        for update in ("pairwise", "conditional")
    }


def pairs_of_updates(fits: Sequence[Mapping[str, Any]], n_states: int) -> list[dict[str, Any]]:
    """Row for each start of which both updates were made: where each ended, and what is said of the other update."""
    frame = pl.DataFrame(fits, infer_schema_length=None)
    usual = frame.filter(part=STATES, num_states=n_states)
    both = usual.join(frame.filter(part=UPDATE, num_states=n_states), on="seed", suffix="_other", maintain_order="left")
    names = ("seed", "log_likelihood", "log_likelihood_other", "updates", "updates_other", "problem_other")
    return both.select(names).to_dicts()
