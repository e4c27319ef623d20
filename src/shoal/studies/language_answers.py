"""Answers in words of the study of language, each computed with its evidence."""

from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from shoal.analysis.trends import student
from shoal.report.words import counted, listed, number, p_value, with_interval
from shoal.studies.equal_compute import flop_per_step
from shoal.studies.results import Results

LEVEL = 0.05
NOT_EQUAL = 0.02  # share by which the compute of two runs may differ and be called equal


def answers_of(scored: pl.DataFrame, tests: pl.DataFrame, baseline: tuple[str, float], results: Results) -> list[str]:
    """Sentences on losses, their differences with tests, the context, and the scope of all this."""
    models, rows = scored["model"].unique(maintain_order=True).to_list(), tests.to_dicts()
    return [
        *(_loss(scored.filter(model=model), model) for model in models),
        *(_difference(row, baseline) for row in rows if " − " in row["what"]),
        *(_context(row) for row in rows if " − " not in row["what"]),
        _corrected(tests),
        _kept(scored, results),
        _scope(results),
    ]


def _loss(scored: pl.DataFrame, model: str) -> str:
    values = {
        name: (scored[name].mean(), *student(scored[name].to_list())[:2])
        for name in ("nats_per_token", "bits_per_character", "bits_per_byte")
    }
    texts = [with_interval(*value, 4) for value in values.values()]  # type: ignore[arg-type]  # means of numbers
    best = scored.sort("nats_per_token").row(0, named=True)
    return (
        f"{model}: {texts[0]} nats per token, {texts[1]} bits per character, {texts[2]} bits per byte (mean of "
        f"{counted(len(scored), 'run')}{', with its 95 % interval' * (len(scored) > 1)}); the best run "
        f"{number(best['nats_per_token'], 4)} nats (seed {best['seed']})."
    )


def _difference(row: Mapping[str, Any], baseline: tuple[str, float]) -> str:
    first, _, second = row["what"].partition(" − ")
    what = f"{first} less {second}"
    if second == baseline[0]:
        what += f" ({baseline[1]:.4f} nats)"
    else:
        what += f", paired by seed ({counted(row['n'], 'pair')})"
    if row["difference"] is None:
        return f"{what}: no seed is shared."
    sentence = f"{what}: {with_interval(row['difference'], row['low'], row['high'])} nats per token"
    if row["p_holm"] is None:
        return f"{sentence}; there are too few runs to test whether that is more than chance."
    evidence = _evidence(row)
    if row["p_holm"] >= LEVEL:
        return f"{sentence}: no significant difference ({evidence})."
    better, worse = (first, second) if row["difference"] < 0 else (second, first)
    return f"{sentence}: the {better} is better than the {worse} ({evidence})."


def _corrected(tests: pl.DataFrame) -> str:
    n = tests["p"].drop_nulls().len()
    return (
        f"These are Student's two-sided tests, corrected by Holm's method for {counted(n, 'test')}. Losses are of the "
        "whole validation split in blocks of the context; the n-gram model looks back over the beginnings of blocks."
    )


def _context(row: Mapping[str, Any]) -> str:
    """Sentence on the gain from half a context more before the same tokens."""
    model, _, more = row["what"].partition(", ")
    gain, ends = -row["difference"], (row["high"], row["low"])
    low, high = (None if end is None else -end for end in ends)
    sentence = (
        f"{model}: {more.removesuffix(' before')} before the same tokens are worth "
        f"{with_interval(gain, low, high, 2)} nats each"
    )
    if row["p_holm"] is None:
        return f"{sentence}."
    evidence = _evidence(row)
    if row["p_holm"] >= LEVEL:
        return f"{sentence}, not significantly different from 0 ({evidence})."
    return f"{sentence}: {'they help' if gain > 0 else 'they harm'} ({evidence})."


def _evidence(row: Mapping[str, Any]) -> str:
    return f"{p_value(row['p'])}, corrected {p_value(row['p_holm']).removeprefix('p = ').removeprefix('p ')}"


def _kept(scored: pl.DataFrame, results: Results) -> str:
    """Sentence on the runs whose best kept model is the last, and on the loss of choosing the last."""
    curves = results.curves.select("run", "step", "valid_loss").filter(pl.col("valid_loss").is_finite())
    last = curves.sort("step").group_by("run").last().rename({"step": "end", "valid_loss": "last"})
    joined = scored.select("run", "step", "nats_per_token").join(last, on="run", how="left")
    early = joined.filter(pl.col("step") < pl.col("end"))
    sentence = (
        "The best checkpoint by the loss of the whole validation split was the last evaluation in "
        f"{len(joined) - len(early)} of {counted(len(joined), 'run')}"
    )
    if early.is_empty():
        return f"{sentence}: more steps might have helped."
    loss = float((early["last"].cast(pl.Float64) - early["nats_per_token"]).mean())  # type: ignore[arg-type]
    return f"{sentence}; in the others the last is worse by {number(loss, 2)} nats in the mean."


def _scope(results: Results) -> str:
    """Sentence on the equality of compute, and on the scope of the study."""
    ends = dict(results.curves.group_by("run").agg(pl.col("step").max()).iter_rows())
    spent: dict[str, list[float]] = {}
    for run, spec in results.specs.items():
        if run in ends:
            spent.setdefault(spec.model, []).append(flop_per_step(spec) * ends[run])
    least, most = min(map(min, spent.values())), max(map(max, spent.values()))
    amount = f"{most:.2g}".replace("e+", "e")
    equal = (
        f"at {amount} FLOP each"
        if most <= least * (1 + NOT_EQUAL)
        else "NOT at equal compute (" + listed([f"{model} {_span(flop)}" for model, flop in spent.items()]) + " FLOP)"
    )
    return (
        f"All of this is {equal}, for one text, one size and one learning rate of each model. Intervals are over "
        "seeds: what another text, size or budget would show, they do not say. The kept models are chosen by the loss "
        "that is reported, which is lower by that choice than a loss on text never looked at."
    )


def _span(values: Sequence[float]) -> str:
    """Range of values, ``1e+12 to 2e+12``, or ``1e+12`` where all are about the same."""
    low, high = min(values), max(values)
    return f"{high:.2g}" if high <= low * (1 + NOT_EQUAL) else f"{low:.2g} to {high:.2g}"
