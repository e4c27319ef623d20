"""Study of language modelling: an LSTM and a GPT on a text, at equal compute.

Source: the language-model document, question 1 (L1.I and L1.II): a Transformer language model, and a rigorous answer to
whether something else does better. Both models are trained over the same seeds for as many FLOP; every number is of the
whole validation split, of the kept model of the lowest validation loss, and stands beside an n-gram model's.
"""

import sys
from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from shoal.analysis.correction import Family
from shoal.analysis.trends import student
from shoal.lab import Records
from shoal.report import Figure, Report, Section
from shoal.report.language import loss_against_compute, loss_in_context
from shoal.report.panels import MODELS
from shoal.studies.base import Form, Grid
from shoal.studies.equal_compute import FLOP_RULE, flop_per_step, steps_for
from shoal.studies.language_answers import answers_of
from shoal.studies.language_scores import counts_of, measured, stride_of
from shoal.studies.language_tables import (
    best_ngram,
    by_place,
    in_groups,
    ngram_by_place,
    ngrams_table,
    over_seeds,
    places_table,
    runs_of_each,
    samples,
    spent_table,
    tests_table,
    units_table,
)
from shoal.studies.parts import finished
from shoal.studies.results import Results
from shoal.tasks.text.units import units

QUESTION = "Which of an LSTM and a GPT predicts a text better, at equal training compute, and do they beat n-grams?"
LOSSES = "validation loss against the compute that training took: of two curves the lower one learns more from as much."
SPENT = "the compute, the size and the steps of each model."
BUDGETS = {True: 2e12, False: 20e12}  # FLOP per run of the quick form and of the full one
COMMON: Mapping[str, Any] = {"task": "text", "train_batch_size": 16, "keep_best": True}
# About as many parameters each: 0.22 and 0.23 million of the quick form, 0.82 and 0.80 of the full one. The learning
# rates of the quick form are from one run each of 0.001, 0.002, … 0.032, half as long, on Tiny Shakespeare with seed
# 100: the GPT's losses were 2.164, 2.054, 2.000, 1.975, 2.031 (not tried at 0.032), the LSTM's 2.011, 1.904, 1.820,
# 1.754, 1.721, 1.710. The full form's, of larger models, are half of them and were not tried.
OWN: Mapping[bool, Mapping[str, Mapping[str, Any]]] = {
    True: {
        "lstm": {"num_layers": 1, "embedding_size": 160, "lr": 1.6e-2},
        "gpt": {"num_layers": 2, "embedding_size": 96, "lr": 8e-3},
    },
    False: {
        "lstm": {"num_layers": 2, "embedding_size": 224, "lr": 8e-3},
        "gpt": {"num_layers": 4, "embedding_size": 128, "lr": 4e-3},
    },
}
GPT: Mapping[str, Any] = {"norm_position": "pre", "positions": "learned", "initialisation": "gpt2"}
SEEDS = {True: 3, False: 5}
NEEDS = ("text",)  # settings that have no default


def grids(quick: bool) -> list[Grid]:
    """Grids of both models over the same seeds, with steps that cost the same compute."""
    return [
        Grid(
            {"model": model, **COMMON, **settings, **(GPT if model == "gpt" else {})},
            {"seed": range(SEEDS[quick])},
            completed=partial(steps_for, BUDGETS[quick]),
        )
        for model, settings in OWN[quick].items()
    ]


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Measurements of the kept models: loss on every token of the validation split, n-grams, and samples."""
    return measured(form.specs(sys.modules[__name__]), records)


def report(results: Results, form: Form) -> Report:
    """Report with losses in all units beside n-grams, the value of the context, samples, and training compute."""
    measured = results.measured
    scored = _scored(results)
    if scored.is_empty():
        note = "Not measured yet: `shoal study run language` scores the kept models when the runs are done."
        figures = [_against_compute(results, None)]
        sections = [
            Section("Learning curves", figures=figures, about=LOSSES),
            Section("Training compute", tables=[spent_table(results)], about=SPENT),
        ]
        return finished("language", "Language", QUESTION, [note], sections, results, form)
    baseline = best_ngram(measured)
    tests = compared(scored, baseline)
    sections = [
        Section(
            "Losses",
            [],
            [_against_compute(results, baseline)],
            [units_table(scored, measured), tests_table(tests)],
            LOSSES,
        ),
        Section(
            "Value of the context",
            [],
            [_in_context(scored, measured)],
            [places_table(scored, measured)],
            "the loss of a token by how many tokens before it a model could see: a line that goes on falling uses them",
        ),
        Section(
            "n-grams", tables=[ngrams_table(measured)], about="n-gram models, which only count tokens, as a baseline."
        ),
        Section("Samples", samples(measured, results.specs), about="continuations by the models."),
        Section("Training compute", tables=[spent_table(results)], about=SPENT),
    ]
    answers = answers_of(scored, tests, baseline, results)
    return finished("language", "Language", QUESTION, answers, sections, results, form)


def _scored(results: Results) -> pl.DataFrame:
    """Frame of one row per run whose kept model was scored: ``run``, ``model`` (its name), ``seed``, ``step``, all
    units, ``strided`` (nats per token with at least half a context), ``by_position``, and ``gain`` of half a context
    more."""
    measured, rows = results.measured, []
    for run, spec in results.specs.items():
        scores = measured.get("runs", {}).get(run)
        if scores is not None:
            counts = counts_of(measured)
            rows.append(
                {
                    "run": run,
                    "model": MODELS.get(spec.model, spec.model),
                    "seed": spec.seed,
                    "context_length": spec.get("context_length"),
                    "step": scores["step"],
                    **units(scores["nats"], counts),
                    "strided": scores["nats_strided"] / counts.tokens,
                    "by_position": scores["by_position"],
                    "gain": scores["gain"],
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def compared(scored: pl.DataFrame, baseline: tuple[str, float]) -> pl.DataFrame:
    """Differences in nats per token: between the models, paired by seed, of each to the n-gram model, and of each with
    half a context more to without, on the same tokens.

    Returns:
        ``what``, ``n``, ``difference`` with Student's 95 % interval ``low``, ``high``, ``p`` of the two-sided test, and
        ``p_holm``, corrected for all of these; null where there are fewer than two runs.
    """
    models = scored["model"].unique(maintain_order=True).to_list()
    losses = {model: dict(scored.filter(model=model).select("seed", "nats_per_token").iter_rows()) for model in models}
    cases = []
    for place, first in enumerate(models):
        for second in models[place + 1 :]:
            shared = [seed for seed in losses[first] if seed in losses[second]]
            cases.append((f"{second} − {first}", [losses[second][seed] - losses[first][seed] for seed in shared]))
    name, loss = baseline
    cases += [(f"{model} − {name}", [value - loss for value in losses[model].values()]) for model in models]
    if scored["gain"].null_count() == 0:
        more = stride_of(int(scored["context_length"][0]))
        cases += [
            (f"{model}, {more} more tokens before", [-gain for gain in scored.filter(model=model)["gain"]])
            for model in models
        ]
    rows = []
    for what, values in cases:
        low, high, p = student(values)
        mean = sum(values) / len(values) if values else None
        rows.append({"what": what, "n": len(values), "difference": mean, "low": low, "high": high, "p": p})
    corrected = Family.of([row["p"] for row in rows]).corrected  # type: ignore[misc]
    schema = {"difference": pl.Float64, "low": pl.Float64, "high": pl.Float64, "p": pl.Float64}
    frame = pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)
    return frame.with_columns(pl.Series("p_holm", corrected, dtype=pl.Float64))


def _against_compute(results: Results, baseline: tuple[str, float] | None) -> Figure:
    cost = {run: flop_per_step(spec) for run, spec in results.specs.items()}
    names = {run: MODELS.get(spec.model, spec.model) for run, spec in results.specs.items()}
    runs = results.curves.filter(pl.col("step") > 0, pl.col("valid_loss").is_finite()).select(
        "run",
        pl.col("run").replace_strict(names).alias("model"),
        (pl.col("step") * pl.col("run").replace_strict(cost)).cast(pl.Float64).alias("flop"),
        pl.col("valid_loss").cast(pl.Float64).alias("loss"),
    )
    means = over_seeds(runs, ["model", "flop"], "loss")
    caption = (
        "Loss on the whole validation split against the compute that training had spent, from the first evaluation "
        f"after its start. Thick: mean over N = {runs_of_each(runs)} runs of each model, shaded: Student's 95 % "
        "interval of this mean; thin: the runs. "
        + ("" if baseline is None else f"Across: the Witten–Bell {baseline[0]}, {baseline[1]:.3f}. ")
        + f"Compute: {FLOP_RULE}."
    )
    return Figure("loss-compute", loss_against_compute(means, runs, baseline, "Validation loss and compute"), caption)


def _in_context(scored: pl.DataFrame, measured: Mapping[str, Any]) -> Figure:
    name, by_place_of_ngram = ngram_by_place(measured)
    means = over_seeds(in_groups(by_place(scored), 2), ["model", "position", "last"], "loss")
    caption = (
        "Loss of the token that follows so many tokens of a block, mean over all blocks of the validation split, over "
        f"neighbouring places, two groups for each doubling, and over N = {runs_of_each(scored)} runs of each model; "
        "shaded: Student's 95 % interval of this mean over runs. Every place has its own tokens, some of them harder, "
        f"by which all lines move together: that of the {name}, on the same tokens, looks back over the beginnings of "
        "blocks and would be level but for them."
    )
    baseline = name, in_groups(by_place_of_ngram, 2).select("position", "loss")
    return Figure("context", loss_in_context(means, baseline, "Value of the context"), caption)
