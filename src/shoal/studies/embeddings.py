"""Study of pretrained embeddings: their rows, the same rows permuted, random ones, word2vec's, frozen and tuned.

Source: a homework on machine learning (2025, homework 4, problem 2 A): "Replace the embeddings with pre-trained word
embeddings such as word2vec or GloVe … Experiment with different embeddings and report the impact". The permuted rows
have the same norms and no meaning: what pretrained rows gain over them is due to which word has which row.
"""

import sys
from collections.abc import Mapping
from typing import Any

from shoal.lab import Records
from shoal.report import Figure, Report, Section
from shoal.report.figures import STEPS_NOTE
from shoal.report.gaps import GAP_NOTE
from shoal.report.panels import Axis, band_note, curve_panels
from shoal.report.quantities import panels_of
from shoal.studies.base import Form, Grid
from shoal.studies.embeddings_answers import answers_of, coverage_table, differences_table, scores_table
from shoal.studies.embeddings_scores import measured
from shoal.studies.parts import finished
from shoal.studies.results import Results, number_of_runs
from shoal.tasks.pairs.settings import MEASURES

QUESTION = "What do pretrained embeddings of the source's words gain, and is it their meaning or their scale?"
ROWS = ("initial", "random", "permuted", "pretrained", "word2vec")
COMMON: Mapping[str, Any] = {
    "task": "translation",
    "vocabularies": "separate",
    "keep_best": True,
    "dropout": 0.1,
    "embedding_projection": True,  # so that vectors of any width serve, and all arms have the same parameters
}
# Learning rates were not searched for.
SIZES: Mapping[bool, Mapping[str, Any]] = {
    True: {
        "embedding_size": 64,
        "train_batch_size": 64,
        "n_steps": 400,
        "eval_period": 100,
        "warmup_steps": 40,
        "lr": 2e-3,
    },
    False: {
        "embedding_size": 128,
        "train_batch_size": 128,
        "n_steps": 3000,
        "eval_period": 250,
        "warmup_steps": 200,
        "lr": 1e-3,
    },
}
OWN: Mapping[str, Mapping[str, Any]] = {
    "encoder_translator": {"num_layers": 1, "num_heads": 4},
    "encoder_decoder": {"num_layers": 2, "num_heads": 4},
}
SEEDS = {True: 3, False: 5}
NEEDS = ("source", "target", "valid_source", "valid_target", "embeddings")  # settings that have no default
SCORED = ("BLEU", "chrF2")  # of answers, when the runs are done


def grids(quick: bool) -> list[Grid]:
    """Grids of the homework's translator and of a transformer that writes, over all rows, frozen and tuned."""
    axes = {"embedding_rows": ROWS, "freeze_embeddings": (False, True), "seed": range(SEEDS[quick])}
    return [
        Grid({"model": model, **COMMON, **SIZES[quick], **settings}, axes, name=model)
        for model, settings in OWN.items()
    ]


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Measurements of the kept models: losses and answers with their scores, and the coverage."""
    return measured(form.specs(sys.modules[__name__]), records)


def report(results: Results, form: Form) -> Report:
    """Report with scores by rows, paired differences, coverage and learning curves."""
    measurements = results.measured
    curves = Section(
        "Learning curves",
        figures=[learning_curves(results)],
        about="loss and shares right while training, by the rows that embeddings began with.",
    )
    if not measurements:
        note = "Not measured yet: `shoal study run embeddings` scores the kept models when the runs are done."
        return finished("embeddings", "Pretrained embeddings", QUESTION, [note], [curves], results, form)
    sections = [
        Section("Scores", tables=[scores_table(measurements)], about="perplexity and BLEU by rows, frozen and tuned."),
        Section(
            "Differences",
            tables=[differences_table(measurements)],
            about="which rows are better than which, paired over seeds, and over sentences for BLEU.",
        ),
        Section(
            "Coverage", tables=[coverage_table(measurements)], about="how many of the words have a pretrained row."
        ),
        curves,
    ]
    return finished("embeddings", "Pretrained embeddings", QUESTION, answers_of(measurements), sections, results, form)


def learning_curves(results: Results) -> Figure:
    """Figure of loss and accuracies against the step, by rows."""
    axis = Axis("embedding_rows", "rows", names=tuple((name, name) for name in ROWS))
    caption = (
        "Nats per token and shares of tokens and of targets right under teacher forcing. Training values are of a "
        f"part of that split, validation values of the whole split. {STEPS_NOTE} "
        f"{band_note(number_of_runs(results.curves, ['embedding_rows']), len(ROWS))} {GAP_NOTE}"
    )
    return Figure("curves", curve_panels(results.curves, axis, "Learning curves", panels_of(MEASURES)), caption)
