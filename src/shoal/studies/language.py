"""Language: which of an LSTM and a GPT learns a text better, at equal compute.

Source: the language-model document, question 1 (L1.I and L1.II): a Transformer language model, and a rigorous answer to
whether something else does better. Both models are trained over the same seeds for as many FLOP; every number is of the
whole validation split, of the kept model of the lowest validation loss, and stands beside an n-gram model's.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

import polars as pl

from shoal.analysis.correction import Family
from shoal.analysis.language import UNITS, units
from shoal.analysis.trends import student
from shoal.lab import Records
from shoal.report import Cell, Figure, Report, Section, Table
from shoal.report.language import loss_against_compute, loss_in_context
from shoal.report.panels import MODELS
from shoal.report.words import NOTHING, counted, in_ranges, number, with_interval
from shoal.spec import RunSpec
from shoal.studies.answers import bare_p
from shoal.studies.base import Form, Grid
from shoal.studies.equal_compute import FLOP_RULE, between_positions, flop_per_step, multiplying, steps_for
from shoal.studies.equal_compute import tokens_per_step as tokens_of
from shoal.studies.language_answers import answers_of
from shoal.studies.language_scores import counts_of, measured, stride_of
from shoal.studies.parts import finished
from shoal.studies.results import Results

QUESTION = "Which of an LSTM and a GPT predicts a text better, at equal training compute, and do they beat n-grams?"
BUDGETS = {True: 2e12, False: 20e12}  # FLOP of a run, of the quick form and of the full one
COMMON: Mapping[str, Any] = {"task": "text", "train_batch_size": 16, "keep_best": True}
# About as many parameters each: 0.22 and 0.23 million of the quick form, 0.82 and 0.80 of the full one.
OWN: Mapping[bool, Mapping[str, Mapping[str, Any]]] = {
    True: {
        "lstm": {"num_layers": 1, "embedding_size": 160, "lr": 4e-3},
        "gpt": {"num_layers": 2, "embedding_size": 96, "lr": 4e-3},
    },
    False: {
        "lstm": {"num_layers": 2, "embedding_size": 224, "lr": 2e-3},
        "gpt": {"num_layers": 4, "embedding_size": 128, "lr": 2e-3},
    },
}
GPT: Mapping[str, Any] = {"norm_position": "pre", "positions": "learned", "initialisation": "gpt2"}
SEEDS = {True: 3, False: 5}
NEEDS = ("text",)  # settings that have no default
_NAMES = {
    "nats_per_token": "nats per token",
    "bits_per_character": "bits per character",
    "bits_per_byte": "bits per byte",
    "perplexity_per_token": "perplexity per token",
    "perplexity_per_word": "perplexity per word",
}


def grids(quick: bool) -> list[Grid]:
    """Both models over the same seeds, with steps that cost the same compute."""
    return [
        Grid(
            {"model": model, **COMMON, **own, **(GPT if model == "gpt" else {})},
            {"seed": range(SEEDS[quick])},
            completed=partial(steps_for, BUDGETS[quick]),
        )
        for model, own in OWN[quick].items()
    ]


def measure(form: Form, records: Records) -> dict[str, Any]:
    """The kept models' loss on every token of the validation split, n-grams, and samples."""
    import sys

    return measured(form.specs(sys.modules[__name__]), records)


def report(results: Results, form: Form) -> Report:
    """Losses in all units beside n-grams, what the context is worth, samples, and what was spent."""
    found = results.measured
    scored = _scored(results)
    if scored.is_empty():
        told = "Not measured yet: `shoal study run language` scores the kept models when the runs are done."
        figures = [_against_compute(results, None)]
        sections = [Section("Learning curves", figures=figures), Section("What was spent", tables=[_spent(results)])]
        return finished("language", "Language", QUESTION, [told], sections, results, form)
    baseline = best_ngram(found)
    tests = compared(scored, baseline)
    sections = [
        Section("Losses", [], [_against_compute(results, baseline)], [_units(scored, found), _tests(tests)]),
        Section("What the context is worth", [], [_in_context(scored, baseline)], [_by_position(scored)]),
        Section("n-grams", tables=[_ngrams(found)]),
        Section("What they write", samples(found, results.specs)),
        Section("What was spent", tables=[_spent(results)]),
    ]
    answers = answers_of(scored, tests, baseline, results)
    return finished("language", "Language", QUESTION, answers, sections, results, form)


def _scored(results: Results) -> pl.DataFrame:
    """One row per run whose kept model was scored: ``run``, ``model`` (its name), ``seed``, ``step``, all units,
    ``strided`` (nats per token with at least half a context) and ``by_position``."""
    found, rows = results.measured, []
    for run, spec in results.specs.items():
        own = found.get("runs", {}).get(run)
        if own is not None:
            counts = counts_of(found)
            rows.append(
                {
                    "run": run,
                    "model": MODELS.get(spec.model, spec.model),
                    "seed": spec.seed,
                    "context_length": spec.get("context_length"),
                    "step": own["step"],
                    **units(own["nats"], counts),
                    "strided": own["nats_strided"] / counts.tokens,
                    "by_position": own["by_position"],
                }
            )
    return pl.DataFrame(rows, infer_schema_length=None)


def best_ngram(found: Mapping[str, Any]) -> tuple[str, float]:
    """The name and the loss per token of the order that is best on the validation split, the smallest of equals."""
    best = min(found["ngrams"], key=lambda own: (own["nats"], own["order"]))
    return f"{best['order']}-gram", best["nats"] / found["counts"]["tokens"]


def compared(scored: pl.DataFrame, baseline: tuple[str, float]) -> pl.DataFrame:
    """Differences in nats per token: between the models, paired by seed, and of each to the n-gram model.

    Returns:
        ``what``, ``n``, ``difference`` with Student's 95 % interval ``low``, ``high``, ``p`` of his two-sided test, and
        ``p_holm``, corrected for all of these; null where there are fewer than two runs.
    """
    models = scored["model"].unique(maintain_order=True).to_list()
    own = {model: dict(scored.filter(model=model).select("seed", "nats_per_token").iter_rows()) for model in models}
    cases = []
    for place, first in enumerate(models):
        for second in models[place + 1 :]:
            shared = [seed for seed in own[first] if seed in own[second]]
            cases.append((f"{second} − {first}", [own[second][seed] - own[first][seed] for seed in shared]))
    name, loss = baseline
    cases += [(f"{model} − {name}", [value - loss for value in own[model].values()]) for model in models]
    rows = []
    for what, values in cases:
        low, high, p = student(values)
        mean = sum(values) / len(values) if values else None
        rows.append({"what": what, "n": len(values), "difference": mean, "low": low, "high": high, "p": p})
    corrected = Family.of([row["p"] for row in rows]).corrected  # type: ignore[misc]
    schema = {"difference": pl.Float64, "low": pl.Float64, "high": pl.Float64, "p": pl.Float64}
    frame = pl.DataFrame(rows, schema_overrides=schema, infer_schema_length=None)
    return frame.with_columns(pl.Series("p_holm", corrected, dtype=pl.Float64))


def over_seeds(frame: pl.DataFrame, by: list[str], column: str) -> pl.DataFrame:
    """``by``, ``n``, ``mean``, and Student's 95 % interval ``low`` and ``high``, null of fewer than two runs."""
    rows = []
    for key, own in frame.group_by(by, maintain_order=True):
        values = own[column].to_list()
        low, high, _ = student(values)
        rows.append(dict(zip(by, key, strict=True)) | {"n": len(values), "mean": own[column].mean()})
        rows[-1] |= {"low": low, "high": high}
    ends = {"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema_overrides=ends, infer_schema_length=None)


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
        f"after its start. Thick: mean over N = {_counts(runs)} runs of each model, shaded: Student's 95 % interval of "
        "this mean; thin: the runs. "
        + ("" if baseline is None else f"Across: the Witten–Bell {baseline[0]}, {baseline[1]:.3f}. ")
        + f"Compute: {FLOP_RULE}."
    )
    return Figure("loss-compute", loss_against_compute(means, runs, baseline, "Validation loss and compute"), caption)


def _in_context(scored: pl.DataFrame, baseline: tuple[str, float]) -> Figure:
    means = over_seeds(_long(scored), ["model", "position"], "loss")
    caption = (
        "Loss of the token that follows so many tokens of a block, mean over all blocks of the validation split and "
        f"then over N = {_counts(scored)} runs of each model; shaded: Student's 95 % interval of this mean over runs. "
        f"Across: the {baseline[0]}, which looks back over the beginnings of blocks."
    )
    return Figure("context", loss_in_context(means, baseline, "What the context is worth"), caption)


def _long(scored: pl.DataFrame) -> pl.DataFrame:
    """``run``, ``model``, ``position`` from 1 and ``loss``."""
    long = scored.select("run", "model", pl.col("by_position").alias("loss")).explode("loss")
    return long.with_columns(position=pl.int_range(1, pl.len() + 1).over("run"))


def _counts(frame: pl.DataFrame) -> str:
    counts = sorted(set(frame.group_by("model").agg(pl.col("run").n_unique())["run"].to_list()))
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def _units(scored: pl.DataFrame, found: Mapping[str, Any]) -> Table:
    """All units of each model and of the n-gram model."""
    counts, rows, data = counts_of(found), [], []
    name, loss = best_ngram(found)
    columns = [*UNITS, "strided"]
    for model in scored["model"].unique(maintain_order=True):
        means = [over_seeds(scored.filter(model=model), ["model"], column).row(0, named=True) for column in columns]
        cells = [Cell(with_interval(own["mean"], own["low"], own["high"], 4)) for own in means]
        rows.append((f"{model} (N = {means[0]['n']})", cells))
        data += [{"model": model, "unit": u, **own} for u, own in zip(columns, means, strict=True)]
    whole = units(loss * counts.tokens, counts)
    rows.append((name, [*(Cell(number(whole[unit], 4)) for unit in UNITS), Cell(NOTHING)]))
    data += [{"model": name, "unit": unit, "n": 1, "mean": whole[unit]} for unit in UNITS]
    stride = stride_of(int(scored["context_length"][0]))
    caption = (
        f"The kept models of the lowest validation loss, scored on {counts.tokens:,} tokens ({found['tokenizer']}, "
        f"vocabulary {found['vocabulary_size']:,}), which are {counts.characters:,} characters, {counts.bytes:,} bytes "
        f"and {counts.words:,} words: all of the validation split but its first token. Mean over runs with Student's "
        "95 % interval. Scored in blocks of the context length; last column: nats per token with a stride of "
        f"{stride}, so that all tokens but the first few have at least {stride} before them. Perplexity per word: of "
        "runs of characters between white space."
    )
    header = ["", *(_NAMES[unit] for unit in UNITS), f"nats per token, stride {stride}"]
    return Table("units", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def _tests(tests: pl.DataFrame) -> Table:
    rows = []
    for row in tests.iter_rows(named=True):
        difference = with_interval(row["difference"], row["low"], row["high"])
        rows.append((row["what"], [Cell(str(row["n"])), Cell(difference), *map(Cell, _ps(row))]))
    caption = (
        "Differences in nats per token, negative where the first is better: between models within pairs of runs of the "
        "same seed, and of each run to the n-gram model. Mean with Student's 95 % interval, p of his two-sided test, "
        f"corrected by Holm's method for {counted(tests['p'].drop_nulls().len(), 'test')}."
    )
    return Table("differences", ["", "N", "difference [95 %]", "p", "p (Holm)"], rows, caption, tests)


def _ps(row: Mapping[str, Any]) -> list[str]:
    return [bare_p(row["p"]), bare_p(row["p_holm"])]


def _by_position(scored: pl.DataFrame) -> Table:
    """The loss at places of the context that double."""
    means = over_seeds(_long(scored), ["model", "position"], "loss")
    last = int(means["position"].max())  # type: ignore[arg-type]  # positions are integers
    shown = sorted({2**k for k in range(last.bit_length()) if 2**k <= last} | {last})
    rows = []
    for model in means["model"].unique(maintain_order=True):
        own = {row["position"]: row for row in means.filter(model=model).iter_rows(named=True)}
        cells = [Cell(with_interval(own[at]["mean"], own[at]["low"], own[at]["high"])) for at in shown]
        rows.append((model, cells))
    caption = (
        "Loss in nats of the token behind so many tokens of a block: mean over runs with Student's 95 % interval. The "
        "file has every place."
    )
    return Table("context", ["tokens seen", *map(str, shown)], rows, caption, means)


def _ngrams(found: Mapping[str, Any]) -> Table:
    tokens, best = found["counts"]["tokens"], best_ngram(found)[0]
    data = pl.DataFrame(found["ngrams"]).with_columns(nats_per_token=pl.col("nats") / tokens)
    rows = [
        (f"{row['order']}-gram", [Cell(f"{row['nats_per_token']:.4f}", f"{row['order']}-gram" == best)])
        for row in data.iter_rows(named=True)
    ]
    caption = (
        f"Interpolated Witten–Bell n-grams of the {found['trained']:,} training tokens on the same {tokens:,} tokens, "
        "in nats per token; their histories run through the whole split. In bold the best order, chosen on the split "
        "that it is scored on, which makes it no easier to beat. There is nothing to tune."
    )
    return Table("ngrams", ["", "nats per token"], rows, caption, data)


def samples(found: Mapping[str, Any], specs: Mapping[str, RunSpec]) -> list[str]:
    """What the best run of each model goes on with, in paragraphs."""
    told = [
        "Each model goes on with the beginning of the validation split, at temperature 0.8 from all tokens; a slash "
        "stands for the end of a line."
    ]
    for model, own in found["samples"].items():
        if own["run"] in specs:
            text = " / ".join(f"{own['prompt']}▸{own['text']}".split("\n"))
            seed = specs[own["run"]].seed
            told.append(f"{MODELS.get(model, model)}, seed {seed}, step {own['step']:,} (behind ▸): {text}")
    return told


def _spent(results: Results) -> Table:
    """What each model is, and what its training cost by the rule."""
    rows, data = [], []
    ends = dict(results.curves.group_by("run").agg(pl.col("step").max()).iter_rows())
    for model in results.models:
        specs = [spec for run, spec in results.specs.items() if spec.model == model and run in ends]
        spec, steps = specs[0], sorted({ends[own.id] for own in specs})
        flop = flop_per_step(spec) * steps[-1]
        row = {
            "layers": spec.get("num_layers"),
            "width": spec.get("embedding_size"),
            "parameters": multiplying(spec),
            "lr": spec.lr,
            "steps": steps[-1],
            "tokens": steps[-1] * tokens_of(spec),
            "flop": flop,
            "between_positions": between_positions(spec),
        }
        data.append({"model": MODELS.get(model, model), **row})
        texts = [f"{row['layers']}", f"{row['width']}", f"{row['parameters']:,}", f"{row['lr']:g}", in_ranges(steps)]
        texts += [f"{row['tokens']:,}", f"{flop:.3g}".replace("e+", "e"), f"{row['between_positions']:.1%}"]
        rows.append((MODELS.get(model, model), [Cell(text) for text in texts]))
    caption = (
        f"Training compute of a run: {FLOP_RULE}. Parameters: those that multiply something. Steps follow from the "
        "budget, so that they differ between models. Last column: what attention computes between positions, in shares "
        "of what is counted. Learning rates were chosen for each model beforehand, by one run each on another seed."
    )
    header = ["", "layers", "width", "parameters", "lr", "steps", "tokens", "FLOP", "between positions"]
    return Table("spent", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))
