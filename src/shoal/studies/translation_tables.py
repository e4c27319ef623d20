"""Tables and figures of the study of translation, from its measurements."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from shoal.analysis.trends import student
from shoal.report import Cell, Figure, Table
from shoal.report.each_run import model_label
from shoal.report.translation_figures import (
    FORCED,
    FREE,
    attention_maps_figure,
    by_length_figure,
    right_by_position_figure,
)
from shoal.report.words import NOTHING, counted, number, with_interval
from shoal.studies.answers import bare_p
from shoal.studies.results import Results
from shoal.tasks.build import count_run_parameters

Found = Mapping[str, Any]
LEAST = 20  # least number of targets that reach a position, for its share to be drawn


def families_of(measured: Found) -> list[str]:
    """Families that were measured, in their order."""
    return list(dict.fromkeys(run["model"] for run in measured["runs"].values()))


def runs_of(measured: Found, model: str) -> list[Mapping[str, Any]]:
    """Measurements of each run of a family."""
    return [run for run in measured["runs"].values() if run["model"] == model]


def scored_lines(measured: Found) -> str:
    """Description of the lines of the final scores."""
    if measured["split"] == "test":
        return f"the test split ({measured['lines']:,} lines)"
    return f"the validation split ({measured['lines']:,} lines), because no test split was given"


def perplexity(nats: Sequence[float]) -> tuple[float, float | None, float | None]:
    """Perplexity: exponential of the mean over runs of nats per token, with Student's 95 % interval of the mean."""
    low, high, _ = student(nats)
    ends = (None if end is None else math.exp(end) for end in (low, high))
    return (math.exp(sum(nats) / len(nats)), *ends)  # type: ignore[return-value]  # two ends


def per_token(run: Mapping[str, Any], what: str = "nats") -> float:
    """Nats per token of a run."""
    return float(run[what]) / float(run["tokens"])


def scores_table(measured: Found) -> Table:
    """Table of perplexity, scores of each search, exact match and steps saved, by family."""
    names = list(dict.fromkeys(row["name"] for row in measured["scores"]))
    rows, data = [], []
    for model, search in dict.fromkeys((row["model"], row["search"]) for row in measured["scores"]):
        by_name = {row["name"]: row for row in measured["scores"] if (row["model"], row["search"]) == (model, search)}
        runs = runs_of(measured, model)
        value = perplexity([per_token(run) for run in runs])
        saved = [run["searches"][search]["saved"] for run in runs]
        mean_saved = sum(saved) / len(saved)
        cells = [
            with_interval(*value),
            *(with_interval(by_name[n]["score"], by_name[n]["low"], by_name[n]["high"]) for n in names),
        ]
        cells.append(f"{mean_saved:.0%}" if mean_saved else NOTHING)
        rows.append((f"{model_label(model)}, {search} (N = {len(runs)})", [Cell(text) for text in cells]))
        for name in names:
            about = {"model": model, "search": search, "score": name, "N": by_name[name]["seeds"]}
            ends = {end: by_name[name][end] for end in ("low", "high")}
            more = {"by_seed": by_name[name]["by_seed"], "signature": by_name[name]["signature"]}
            data.append({**about, "mean": by_name[name]["score"], **ends, **more, "steps_saved": mean_saved})
    signed = {row["name"]: row["signature"] for row in measured["scores"] if row["signature"]}
    signatures = "; ".join(f"{name} {signature}" for name, signature in signed.items())
    sides = f", {measured['left_out']:,} lines with an empty or too long side left out" if measured["left_out"] else ""
    caption = (
        f"Final scores on {scored_lines(measured)}, of each run's kept model of the lowest validation loss. "
        f"Perplexity: exp of nats per token, EOS included, of the {measured['tokens']:,} tokens of all references"
        f"{sides}, mean over runs with Student's 95 % interval. BLEU, BLEU in lower case, chrF2 and "
        "exact match: of detokenised texts, in percent, with 95 % intervals over seeds and sentences. "
        f"Last column: steps that the optimal rule of stopping saved. Signatures: {signatures}."
    )
    return Table("scores", ["", "perplexity", *names, "steps saved"], rows, caption, pl.DataFrame(data))


def differences_table(measured: Found) -> Table:
    """Table of the differences between families, and between searches."""
    rows = []
    for row in measured["differences"]:
        cells = [row["name"], str(row["seeds"]), with_interval(row["score"], row["low"], row["high"])]
        label = f"{_labelled(row['first'])} − {_labelled(row['second'])}"
        rows.append((label, [Cell(text) for text in (*cells, bare_p(row["p"]), bare_p(row["corrected"]))]))
    n = sum(row["p"] is not None for row in measured["differences"])
    caption = (
        "Differences of scores, paired over common seeds and sentences, with 95 % intervals over both; p, two-sided, "
        f"of no difference, and corrected by Holm's method for {counted(n, 'test')}."
    )
    header = ["", "score", "N", "difference [95 %]", "p", "p (Holm)"]
    data = pl.DataFrame(measured["differences"], infer_schema_length=None) if rows else None
    return Table("differences", header, rows, caption, data)


def _labelled(side: str) -> str:
    model, _, search = side.partition(", ")
    return f"{model_label(model)}, {search}"


def known_table(measured: Found) -> Table:
    """Table of the perplexity of each family with parts of its inputs exchanged."""
    rows, data = [], []
    for model in families_of(measured):
        runs = runs_of(measured, model)
        values: dict[str, tuple[float, float | None, float | None] | None] = {
            "as it is": perplexity([per_token(run) for run in runs]),
            "source of another sentence": perplexity([per_token(run, "other_source") for run in runs]),
        }
        parts = [run["part"] for run in runs if run["part"]]
        values["as it is, some"] = perplexity([per_token(part) for part in parts]) if parts else None
        values["history shuffled, some"] = (
            perplexity([per_token(part, "shuffled") for part in parts]) if parts else None
        )
        rows.append(
            (
                model_label(model),
                [Cell(NOTHING if value is None else with_interval(*value)) for value in values.values()],
            )
        )
        data += [
            {"model": model, "what": what, "perplexity": value[0], "low": value[1], "high": value[2]}
            for what, value in values.items()
            if value is not None
        ]
    caption = (
        "Perplexity per token with parts of a model's inputs exchanged: the source for that of another sentence of "
        "about the same length, which misleads, so that only the tokens before help, where a model reads any; and the "
        f"tokens before in an order drawn at random for each place, on {counted(_few(measured), 'token')} of some "
        "sentences, beside the same tokens as they are. Models were trained on neither exchange. Families without "
        "values on the right read no tokens before. Mean over runs, Student's 95 % interval."
    )
    header = ["", "as it is", "source of another sentence", "as it is, some", "history shuffled, some"]
    return Table("known", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def _few(measured: Found) -> int:
    return max((run["part"]["tokens"] for run in measured["runs"].values() if run["part"]), default=0)


def oddities_table(measured: Found) -> Table:
    """Table of oddities in the texts of each family and search."""
    rows, data = [], []
    for model in families_of(measured):
        runs = runs_of(measured, model)
        for search in runs[0]["searches"]:
            searched = [run["searches"][search] for run in runs]
            means = {
                name: sum(one[name] for one in searched) / len(searched) for name in ("repeating", "unknown", "length")
            }
            texts = [f"{means['repeating']:.1%}", f"{means['unknown']:.1%}", f"{means['length']:.2f}"]
            rows.append((f"{model_label(model)}, {search}", [Cell(text) for text in texts]))
            data.append({"model": model, "search": search, **means})
    caption = (
        "Share of texts in which a word stands twice in a row, share with a word of no type of the vocabulary, and "
        "words of all texts over words of all references; means over runs."
    )
    return Table("oddities", ["", "repeating", "unknown", "length"], rows, caption, pl.DataFrame(data))


def sizes_table(results: Results, measured: Found) -> Table:
    """Table of each family's size and training."""
    rows, data = [], []
    for model in families_of(measured):
        spec = next(spec_of_run for spec_of_run in results.specs.values() if spec_of_run.model == model)
        part = spec.model_part
        steps = [run["step"] for run in runs_of(measured, model)]
        row = {"parameters": count_run_parameters(spec), "lr": spec.lr, "steps": spec.n_steps, "kept": steps}
        data.append({"model": model, **row})
        steps_scored = f"{min(steps):,} to {max(steps):,}" if len(set(steps)) > 1 else f"{steps[0]:,}"
        texts = [part.describe(), f"{row['parameters']:,}", f"{spec.lr:g}", f"{spec.n_steps:,}", steps_scored]
        rows.append((model_label(model), [Cell(text) for text in texts]))
    caption = (
        "Parameters: all but embeddings. All families see the same batches of the same size for as many steps, which "
        "is neither equal compute nor equal size. Last column: the steps of the models that are scored, those of the "
        "lowest validation loss, chosen among evaluations. Learning rates were not searched for."
    )
    return Table("sizes", ["", "model", "parameters", "lr", "steps", "kept at"], rows, caption, pl.DataFrame(data))


def position_frame(measured: Found) -> pl.DataFrame:
    """Frame of ``model`` (its label), ``how``, ``position`` from 1, ``share`` over runs, and ``n`` targets so long."""
    rows = []
    for model in families_of(measured):
        runs = runs_of(measured, model)
        for place in range(max(len(run["by_position"]) for run in runs)):
            counts = [run["by_position"][place] for run in runs if place < len(run["by_position"])]
            n, right, free = (sum(column) for column in zip(*counts, strict=True))
            if n >= _least(measured) * len(runs):
                shares = {FORCED: right / max(n, 1), FREE: free / max(n, 1)}
                about = {"model": model_label(model), "position": place + 1, "n": n // len(runs)}
                rows += [{**about, "how": how, "share": share} for how, share in shares.items()]
    return pl.DataFrame(rows).select("model", "how", "position", "share", "n")


def _least(measured: Found) -> int:
    return max(1, min(LEAST, int(measured["lines"]) // 5))


def position_figure(measured: Found) -> Figure:
    """Figure of teacher-forced against free-running accuracy along the target."""
    caption = (
        "Share of tokens right at each position of the target, EOS included, of positions that at least "
        f"{_least(measured)} targets reach: solid, predicted behind the right tokens before them, where a model reads "
        "any (teacher forcing); "
        "dashed, in what greedy search writes, where a word left out moves all behind it, so that right words "
        "in other places count as wrong. Means over runs."
    )
    chart = right_by_position_figure(position_frame(measured), "Right tokens along the target")
    return Figure("positions", chart, caption)


def length_figure(measured: Found) -> Figure:
    """Figure of exact match by the length of the source."""
    frame = pl.DataFrame(measured["by_length"]).with_columns(
        pl.col("model").map_elements(model_label, return_dtype=pl.String),
        words=pl.when(pl.col("low") == pl.col("high"))
        .then(pl.col("low").cast(pl.String))
        .otherwise(pl.format("{} to {}", "low", "high")),
    )
    lines = frame.filter(model=frame["model"][0])
    counts = ", ".join(f"{row['words']}: {row['lines']:,}" for row in lines.to_dicts())
    caption = (
        "Greedy answers that are the reference sign for sign, and mean chrF2 of single sentences, by words of the "
        f"source; means over runs and lines. Lines by words: {counts}."
    )
    return Figure("lengths", by_length_figure(frame, "Scores by length of the source"), caption)


def map_figures(measured: Found) -> list[Figure]:
    """Figure for each sentence whose attention was kept."""
    figures = []
    for place, one in enumerate(measured["maps"], 1):
        panels = [{**panel, "title": _panel_title(panel)} for panel in one["panels"]]
        caption = (
            f"Attention from the decoder to the source for line {one['line']}, “{one['source']}”. Shown is what the "
            "best run of each family writes by greedy search. Rows: the token that is written; columns: the token of "
            "the source that is looked at; each row adds up to 1."
        )
        chart = attention_maps_figure(panels, f"Attention to the source, line {one['line']}")
        figures.append(Figure(f"attention-{place}", chart, caption))
    return figures


def _panel_title(panel: Mapping[str, Any]) -> str:
    layer = f", layer {panel['layer']}" if panel["layers"] > 1 else ""
    heads = f", mean of {panel['heads']} heads" if panel["heads"] > 1 else ""
    return f"{model_label(panel['model'])}{layer}{heads}"


def examples_table(measured: Found) -> Table:
    """Table of sentences with the answers of each family."""
    rows, data = [], []
    for example in measured["examples"]:
        label = f"{example['kind']}, line {example['line']}"
        rows.append((label, [Cell(NOTHING), Cell("source"), Cell(example["source"])]))
        rows.append((label, [Cell(NOTHING), Cell("reference"), Cell(example["reference"])]))
        for model, text in example["answers"].items():
            chrf = number(example["chrf"][model])
            rows.append((label, [Cell(chrf), Cell(model_label(model)), Cell(text or NOTHING)]))
            about = {name: example[name] for name in ("kind", "line", "source", "reference")}
            data.append({**about, "model": model, "text": text, "chrf": example["chrf"][model]})
    by = model_label(measured["examples"][0]["by"])
    caption = (
        f"The worst, the middle and the best sentences by chrF2 of the best run of the {by}, and what the best run of "
        "each family writes by greedy search."
    )
    return Table("examples", ["sentence", "chrF2", "", "text"], rows, caption, pl.DataFrame(data))
