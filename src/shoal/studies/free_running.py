"""Grids and report that studies of free-running models share.

A model that is given the right tokens before each one (teacher forcing) predicts most tokens long before it writes
whole answers. So an answer counts as right here where the model wrote it alone, token by token, without an error.
"""

from collections.abc import Mapping
from typing import Any

import polars as pl

from shoal.report import Figure, Report, Section
from shoal.report.each_run import model_label
from shoal.report.figures import STEPS_NOTE
from shoal.report.free_running import attention_maps, exact_by_group
from shoal.report.panels import Axis, band_note, curve_panels
from shoal.report.quantities import panels_of
from shoal.studies.base import Form, Grid
from shoal.studies.free_running_answers import answers_of
from shoal.studies.free_running_frames import by_group, compared, longer_of, scored_of, times_of
from shoal.studies.free_running_scores import Asked
from shoal.studies.free_running_tables import (
    differences_table,
    errors_table,
    exact_table,
    examples_table,
    group_table,
    times_table,
)
from shoal.studies.parts import finished
from shoal.studies.results import Results, number_of_runs
from shoal.tasks.pairs.settings import MEASURES

SEEDS = {True: 3, False: 5}
SPLIT = 0  # split_seed of all runs, so that all have the same held-out items
FAMILIES = ("encoder_decoder", "gpt", "lstm_encoder_decoder", "encoder_translator")
MODEL = Axis("model", "model", names=tuple((name, model_label(name)) for name in FAMILIES))
_PRE: Mapping[str, Any] = {"norm_position": "pre", "initialisation": "gpt2"}
# dropout is left out of the small form, whose runs end before they could overfit
_SHARED: Mapping[bool, Mapping[str, Any]] = {True: {"dropout": 0.0}, False: {"dropout": 0.1}}
_LAYERS = {True: 2, False: 3}


def grids(
    task: str, common: Mapping[str, Any], positions: str, quick: bool, by_family: Mapping[str, Any] = {}
) -> list[Grid]:
    """Grids of every family over the same seeds, with the same split, steps and batch size.

    Args:
        task: name of the task.
        common: settings of all families.
        positions: position encoding of the transformers.
        quick: true for the small form.
        by_family: settings by family, which replace common ones.
    """
    family_grids = []
    for model in FAMILIES:
        is_recurrent = model == "lstm_encoder_decoder"
        settings = {"num_layers": _LAYERS[quick] - is_recurrent} | (
            {} if is_recurrent else {**_PRE, "positions": positions}
        )
        whole = {"task": task, "model": model, "split_seed": SPLIT, **_SHARED[quick], **settings, **common}
        family_grids.append(Grid({**whole, **by_family.get(model, {})}, {"seed": range(SEEDS[quick])}))
    return family_grids


def report(asked: Asked, results: Results, form: Form) -> Report:
    """Report with curves; exact match of free-running answers, in all and in groups; times; errors; attention maps."""
    curves = Section(
        "Learning curves",
        figures=[_curves(asked, results)],
        tables=[times_table(times_of(results, form))],
        about="loss and shares right while training, with the right tokens before each scored one (teacher forcing).",
    )
    if not results.measured.get("runs"):
        note = f"Not measured yet: `shoal study run {asked.name}` lets the last models write when the runs are done."
        return finished(asked.name, asked.title, asked.question, [note], [curves], results, form)
    scored = scored_of(asked, results)
    tests = compared(scored)
    groups = {name: by_group(scored, name) for name in asked.groups}
    sections = [
        Section(
            f"Whole {asked.things} right",
            [],
            [],
            [exact_table(asked, scored, results), differences_table(asked, tests)],
            f"the share of {asked.things} that were not trained on and that each model writes right on its own, to "
            "the end.",
        ),
        *(_group(asked, name, frame) for name, frame in groups.items()),
        *_longer(asked, results),
        curves,
        Section(
            "Errors",
            [],
            [],
            [errors_table(asked, scored), examples_table(asked, scored)],
            "kinds of error, how often each happened, and examples of them.",
        ),
        _maps(asked, results),
    ]
    answers = answers_of(asked, results, form, scored, tests, groups)
    return finished(asked.name, asked.title, asked.question, answers, sections, results, form)


def _curves(asked: Asked, results: Results) -> Figure:
    title = f"{asked.title}: learning curves"
    n = number_of_runs(results.curves, ["model"])
    about = ". ".join(f"{m.symbol_of('train')} and {m.symbol_of('valid')}: {m.about}" for m in MEASURES.recorded)
    caption = (
        f"{title}. {about}. Training values are of a part of that split, validation values of the whole split. "
        f"{STEPS_NOTE} {band_note(n, results.curves['model'].n_unique())}"
    )
    chart = curve_panels(results.curves, MODEL, title, panels_of(MEASURES))
    return Figure("curves", chart, caption)


def _group(asked: Asked, name: str, frame: pl.DataFrame) -> Section:
    title = f"{asked.title}: whole {asked.things} right by {name}"
    caption = (
        f"Held-out {asked.things} that the models write right on their own, by {name}. Points: the share of each "
        "group, written by greedy search, mean over runs; lines: 95 % intervals as in the table."
    )
    figure = Figure(f"by-{name}", exact_by_group(frame, name, title), caption)
    about = f"the same share for {asked.things} of each group."
    return Section(f"By {name}", [], [figure], [group_table(asked, name, frame)], about)


def _longer(asked: Asked, results: Results) -> list[Section]:
    """Section on answers to sources longer than those that were trained on, beside the held-out ones."""
    if asked.longer is None:
        return []
    frame = longer_of(asked, results)
    refused = results.measured.get("longer", {}).get("refused", {})
    notes = [f"{model_label(model)}: not asked, as {why}." for model, why in refused.items()]
    if frame.is_empty():
        return [Section("Beyond the trained lengths", notes)]
    (name,) = list(asked.groups)[:1]
    trained = max(frame.filter(~pl.col("beyond"))["group"].to_list())
    title = f"{asked.title}: longer than trained"
    caption = (
        f"Share that the models write right on their own by {name}, mean over runs with 95 % intervals; those of more "
        f"than {trained} are longer than every source that was trained on."
    )
    figure = Figure("beyond", exact_by_group(frame, name, title, trained), caption)
    table = group_table(asked, name, frame.filter("beyond"), "beyond")
    about = "whether what was learned holds for sources that are longer than any that was trained on."
    return [Section("Beyond the trained lengths", notes, [figure], [table], about)]


def _maps(asked: Asked, results: Results) -> Section:
    figures = []
    for number, one in enumerate(results.measured["maps"], 1):
        if one["run"] not in results.specs:
            continue
        label = model_label(one["model"])
        title = f"{label}: {one['source']}"
        looked = "from each place to the source" if one["model"] == "encoder_translator" else "back to what was read"
        caption = (
            f"Attention weights of the {label} (seed {results.specs[one['run']].seed}) {looked} as it writes the "
            f"right answer to {one['source']!r}. Rows: the token that is written; columns: the tokens that are read; "
            "each row adds up to 1."
        )
        figures.append(
            Figure(f"attention-{number}", attention_maps(one["weights"], one["written"], one["read"], title), caption)
        )
    return Section(
        "Attention maps",
        [],
        figures,
        about="a bright cell is a token (column) that is read while one is written (row).",
    )
