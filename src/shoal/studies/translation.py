"""Study of translation: an encoder alone, and encoder-decoders with and without the tokens that they have written.

Source: the homework's translator (``models/encoder_translator.py``), whose experiment this is, beside models that write
a target token by token, and one that has their cross-attention and reads none of what they have written. Scores are
computed on a test split where there is one (``--test-source``, ``--test-target``), and else on the validation split.
"""

import sys
from collections.abc import Mapping
from typing import Any

from shoal.lab import Records
from shoal.report import Figure, Report, Section
from shoal.report.each_run import model_label
from shoal.report.figures import STEPS_NOTE
from shoal.report.gaps import GAP_NOTE
from shoal.report.panels import Axis, band_note, curve_panels
from shoal.report.quantities import panels_of
from shoal.studies.base import Form, Grid
from shoal.studies.parts import finished
from shoal.studies.results import Results, number_of_runs
from shoal.studies.translation_answers import answers_of, apart_of, still_falling
from shoal.studies.translation_scores import measured
from shoal.studies.translation_tables import (
    differences_table,
    examples_table,
    known_table,
    length_figure,
    map_figures,
    oddities_table,
    position_figure,
    scores_table,
    sizes_table,
)
from shoal.tasks.pairs.settings import MEASURES

QUESTION = (
    "What does a model that reads what it has written gain over one that predicts each token from the source alone?"
)
COMMON: Mapping[str, Any] = {"task": "translation", "vocabularies": "separate", "keep_best": True, "dropout": 0.1}
MAPS = "a bright cell is a token of the source (column) that is looked at while a token is written (row)."
# Learning rates were not searched for. The full form makes six and a half passes over Multi30k.
SIZES: Mapping[bool, Mapping[str, Any]] = {
    True: {
        "embedding_size": 128,
        "train_batch_size": 64,
        "n_steps": 2400,
        "eval_period": 200,
        "warmup_steps": 100,
        "lr": 2e-3,
    },
    False: {
        "embedding_size": 256,
        "train_batch_size": 128,
        "n_steps": 1500,
        "eval_period": 150,
        "warmup_steps": 250,
        "lr": 1e-3,
    },
}
OWN: Mapping[str, Mapping[str, Any]] = {
    "encoder_translator": {"num_layers": 1, "num_heads": 4},
    "non_autoregressive": {"num_layers": 2, "num_heads": 4},
    "encoder_decoder": {"num_layers": 2, "num_heads": 4},
    "lstm_encoder_decoder": {"num_layers": 1},
}
SEEDS = 3
NEEDS = ("source", "target", "valid_source", "valid_target")  # settings that have no default
SCORED = ("BLEU", "chrF2")  # of answers, when the runs are done


def grids(quick: bool) -> list[Grid]:
    """Grids of the four families over the same seeds, with the same number of steps over the same batches."""
    return [
        Grid({"model": model, **COMMON, **SIZES[quick], **settings}, {"seed": range(SEEDS)})
        for model, settings in OWN.items()
    ]


def measure_models(form: Form, records: Records) -> dict[str, Any]:
    """Measurements of the kept models: losses, answers with their scores, and attention."""
    return measured(form.specs(sys.modules[__name__]), records)


def report(results: Results, form: Form) -> Report:
    """Report with scores of the families, the value of source and history, examples and attention."""
    measured = results.measured
    curves = Section(
        "Learning curves",
        figures=[learning_curves(results)],
        about="loss and shares right in training, behind the right tokens where a model reads any (teacher forcing).",
    )
    if not measured:
        note = "Not measured yet: `shoal study run translation` scores the kept models when the runs are done."
        return finished("translation", "Translation", QUESTION, [note], [curves], results, form)
    maps = map_figures(measured)
    sections = [
        Section(
            "Scores",
            tables=[scores_table(measured), differences_table(measured)],
            about="perplexity, and scores of what each family writes; then which differences are clear.",
        ),
        curves,
        Section(
            "Source and history",
            [],
            [position_figure(measured)],
            [known_table(measured)],
            "what a model knows from the source, and what from the words that it has written.",
        ),
        Section(
            "By length of the source",
            figures=[length_figure(measured)],
            about="the same scores for short and for long sentences.",
        ),
        Section(
            "Answers",
            tables=[oddities_table(measured), examples_table(measured)],
            about="signs of trouble such as repeated words, and some translations in full.",
        ),
        *([Section("Attention of decoders", figures=maps, about=MAPS)] if maps else []),
        Section(
            "Sizes and training", tables=[sizes_table(results, measured)], about="size and training of each family."
        ),
    ]
    answers = [*answers_of(measured), *still_falling(results, measured), *apart_of(results, measured)]
    return finished("translation", "Translation", QUESTION, answers, sections, results, form)


def learning_curves(results: Results) -> Figure:
    """Figure of loss and accuracies of every family against the step."""
    axis = Axis("model", "model", names=tuple((name, model_label(name)) for name in results.models))
    caption = (
        "Nats per token and shares of tokens and of targets right under teacher forcing. Training values are of a "
        f"part of that split, validation values of the whole split. {STEPS_NOTE} "
        f"{band_note(number_of_runs(results.curves, ['model']), len(results.models))} {GAP_NOTE}"
    )
    return Figure("curves", curve_panels(results.curves, axis, "Learning curves", panels_of(MEASURES)), caption)
