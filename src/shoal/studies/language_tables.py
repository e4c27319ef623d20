"""Tables of the study of language, and frames for them."""

from collections.abc import Mapping
from typing import Any

import polars as pl

from shoal.analysis.trends import student
from shoal.report import Cell, Table
from shoal.report.panels import MODELS
from shoal.report.words import NOTHING, counted, in_ranges, number, with_interval
from shoal.spec import RunSpec
from shoal.studies.answers import bare_p
from shoal.studies.equal_compute import FLOP_RULE, between_positions, flop_per_step, multiplying, tokens_per_step
from shoal.studies.language_scores import counts_of, stride_of
from shoal.studies.results import Results
from shoal.tasks.text.units import UNITS, units

_NAMES = {
    "nats_per_token": "nats per token",
    "bits_per_character": "bits per character",
    "bits_per_byte": "bits per byte",
    "perplexity_per_token": "perplexity per token",
    "perplexity_per_word": "perplexity per word",
}


def best_ngram(measured: Mapping[str, Any]) -> tuple[str, float]:
    """Name and loss per token of the n-gram order that is best on the validation split, the smallest of equals."""
    best = min(measured["ngrams"], key=lambda order: (order["nats"], order["order"]))
    return f"{best['order']}-gram", best["nats"] / measured["counts"]["tokens"]


def over_seeds(frame: pl.DataFrame, by: list[str], column: str) -> pl.DataFrame:
    """Frame of ``by``, ``n``, ``mean`` and Student's 95 % interval ``low``, ``high``, null for fewer than two runs."""
    rows = []
    for key, group in frame.group_by(by, maintain_order=True):
        values = group[column].to_list()
        low, high, _ = student(values)
        rows.append(dict(zip(by, key, strict=True)) | {"n": len(values), "mean": group[column].mean()})
        rows[-1] |= {"low": low, "high": high}
    ends = {"mean": pl.Float64, "low": pl.Float64, "high": pl.Float64}
    return pl.DataFrame(rows, schema_overrides=ends, infer_schema_length=None)


def by_place(scored: pl.DataFrame) -> pl.DataFrame:
    """Frame of ``run``, ``model``, ``position`` from 1 and ``loss``."""
    long = scored.select("run", "model", pl.col("by_position").alias("loss")).explode("loss")
    return long.with_columns(position=pl.int_range(1, pl.len() + 1).over("run"))


def ngram_by_place(measured: Mapping[str, Any]) -> tuple[str, pl.DataFrame]:
    """Name of the best n-gram model, and its losses in the form of :func:`by_place`."""
    name, _ = best_ngram(measured)
    (losses,) = (order["by_position"] for order in measured["ngrams"] if f"{order['order']}-gram" == name)
    frame = pl.DataFrame({"run": name, "model": name, "loss": losses})
    return name, frame.with_columns(position=pl.int_range(1, pl.len() + 1))


def in_groups(long: pl.DataFrame, per_doubling: int) -> pl.DataFrame:
    """Mean losses of groups of places: ``run``, ``model``, ``first``, ``last`` and mean ``position``, ``loss``."""
    S = int(long["position"].max())  # type: ignore[arg-type]  # positions are integers
    ends = sorted({min(S, round(2 ** (k / per_doubling))) for k in range(per_doubling * S.bit_length() + 1)})
    last = pl.col("position").map_elements(
        lambda position: next(end for end in ends if end >= position), return_dtype=pl.Int64
    )
    grouped = long.with_columns(last.alias("last")).group_by("run", "model", "last", maintain_order=True)
    return grouped.agg(pl.col("position").min().alias("first"), pl.col("position").mean(), pl.col("loss").mean())


def runs_of_each(frame: pl.DataFrame) -> str:
    """Number of runs of each model, in words."""
    counts = sorted(set(frame.group_by("model").agg(pl.col("run").n_unique())["run"].to_list()))
    return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"


def units_table(scored: pl.DataFrame, measured: Mapping[str, Any]) -> Table:
    """Table of the losses in all units, of each model and of the n-gram model."""
    counts, rows, data = counts_of(measured), [], []
    name, loss = best_ngram(measured)
    columns = [*UNITS, "strided"]
    for model in scored["model"].unique(maintain_order=True):
        means = [over_seeds(scored.filter(model=model), ["model"], column).row(0, named=True) for column in columns]
        cells = [Cell(with_interval(unit_mean["mean"], unit_mean["low"], unit_mean["high"], 4)) for unit_mean in means]
        rows.append((f"{model} (N = {means[0]['n']})", cells))
        data += [{"model": model, "unit": u, **unit_mean} for u, unit_mean in zip(columns, means, strict=True)]
    whole = units(loss * counts.tokens, counts)
    rows.append((name, [*(Cell(number(whole[unit], 4)) for unit in UNITS), Cell(NOTHING)]))
    data += [{"model": name, "unit": unit, "n": 1, "mean": whole[unit]} for unit in UNITS]
    stride = stride_of(int(scored["context_length"][0]))
    caption = (
        f"The kept models of the lowest validation loss, scored on {counts.tokens:,} tokens ({measured['tokenizer']}, "
        f"vocabulary {measured['vocabulary_size']:,}), which are {counts.characters:,} characters, {counts.bytes:,} "
        f"bytes and {counts.words:,} words: all of the validation split but its first token. Mean over runs with "
        "Student's 95 % interval. Scored in blocks of the context length; last column: nats per token with a stride of "
        f"{stride}, so that all tokens but the first few have at least {stride} before them. Perplexity per word: of "
        "runs of characters between white space."
    )
    header = ["", *(_NAMES[unit] for unit in UNITS), f"nats per token, stride {stride}"]
    return Table("units", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def tests_table(tests: pl.DataFrame) -> Table:
    """Table of the differences of :func:`shoal.studies.language.compared`."""
    rows = []
    for row in tests.iter_rows(named=True):
        difference = with_interval(row["difference"], row["low"], row["high"])
        rows.append((row["what"], [Cell(str(row["n"])), Cell(difference), *map(Cell, _ps(row))]))
    caption = (
        "Differences in nats per token, negative where the first is better: between models within pairs of runs of the "
        "same seed, of each run to the n-gram model, and of each run with half a context more before the tokens of the "
        "first halves of blocks to without. Mean with Student's 95 % interval, p of the two-sided test, "
        f"corrected by Holm's method for {counted(tests['p'].drop_nulls().len(), 'test')}."
    )
    return Table("differences", ["", "N", "difference [95 %]", "p", "p (Holm)"], rows, caption, tests)


def _ps(row: Mapping[str, Any]) -> list[str]:
    return [bare_p(row["p"]), bare_p(row["p_holm"])]


def places_table(scored: pl.DataFrame, measured: Mapping[str, Any]) -> Table:
    """Table of the loss in groups of places of the context, whose sizes double."""
    name, ngram_losses = ngram_by_place(measured)
    means = over_seeds(in_groups(by_place(scored), 1), ["model", "first", "last"], "loss")
    places = means.select("first", "last").unique(maintain_order=True).rows()
    rows = []
    for model in means["model"].unique(maintain_order=True):
        cells = means.filter(model=model).select("mean", "low", "high").rows()
        rows.append((model, [Cell(with_interval(*cell)) for cell in cells]))
    rows.append((name, [Cell(number(loss)) for loss in in_groups(ngram_losses, 1)["loss"]]))
    caption = (
        "Loss in nats of tokens behind so many tokens of a block: mean over places and runs with Student's 95 % "
        f"interval over runs; and of the {name} on the same tokens. The file has every place."
    )
    every = over_seeds(
        pl.concat([by_place(scored), ngram_losses.select(by_place(scored).columns)]), ["model", "position"], "loss"
    )
    header = ["tokens seen", *(str(first) if first == last else f"{first} to {last}" for first, last in places)]
    return Table("context", header, rows, caption, every)


def ngrams_table(measured: Mapping[str, Any]) -> Table:
    """Table of the loss of every n-gram order, the best in bold."""
    tokens, best = measured["counts"]["tokens"], best_ngram(measured)[0]
    data = pl.DataFrame(measured["ngrams"]).drop("by_position").with_columns(nats_per_token=pl.col("nats") / tokens)
    rows = [
        (f"{row['order']}-gram", [Cell(f"{row['nats_per_token']:.4f}", f"{row['order']}-gram" == best)])
        for row in data.iter_rows(named=True)
    ]
    caption = (
        f"Interpolated Witten–Bell n-grams of the {measured['trained']:,} training tokens on the same {tokens:,} "
        "tokens, in nats per token; their histories run through the whole split. In bold the best order, chosen on the "
        "split that it is scored on, which makes it no easier to beat. There are no hyper-parameters."
    )
    return Table("ngrams", ["", "nats per token"], rows, caption, data)


def samples(measured: Mapping[str, Any], specs: Mapping[str, RunSpec]) -> list[str]:
    """Paragraphs with samples of the best run of each model."""
    paragraphs = [
        "Each model continues the beginning of the validation split, at temperature 0.8 from all tokens; a slash "
        "stands for the end of a line."
    ]
    for model, sample in measured["samples"].items():
        if sample["run"] in specs:
            text = " / ".join(f"{sample['prompt']}▸{sample['text']}".split("\n"))
            seed = specs[sample["run"]].seed
            paragraphs.append(f"{MODELS.get(model, model)}, seed {seed}, step {sample['step']:,} (behind ▸): {text}")
    return paragraphs


def spent_table(results: Results) -> Table:
    """Table of each model's size and training compute."""
    rows, data = [], []
    ends = dict(results.curves.group_by("run").agg(pl.col("step").max()).iter_rows())
    for model in results.models:
        specs = [spec for run, spec in results.specs.items() if spec.model == model and run in ends]
        spec, steps = specs[0], sorted({ends[spec_of_run.id] for spec_of_run in specs})
        flop = flop_per_step(spec) * steps[-1]
        row = {
            "layers": spec.get("num_layers"),
            "width": spec.get("embedding_size"),
            "parameters": multiplying(spec),
            "lr": spec.lr,
            "steps": steps[-1],
            "tokens": steps[-1] * tokens_per_step(spec),
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
        "of what is counted. The learning rates are each model's own: those of the quick form from a few shorter runs "
        "on another seed, those of the full form half of them."
    )
    header = ["", "layers", "width", "parameters", "lr", "steps", "tokens", "FLOP", "between positions"]
    return Table("spent", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))
