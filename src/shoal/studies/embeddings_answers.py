"""Tables and sentences of the study of embeddings, from its measurements."""

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from shoal.report import Cell, Table
from shoal.report.each_run import model_label
from shoal.report.words import counted, number, p_value, with_interval
from shoal.studies.answers import bare_p

LEVEL = 0.05
Measured = Mapping[str, Any]
MEANINGS = {
    "permuted": "which word has which row, as norms and deviation are the same",
    "random": "all that is in the rows but their deviation",
    "initial": "the rows as a whole, their deviation included",
    "word2vec": "the other text that they were learned from",
}


def arm_label(name: str) -> str:
    """Label of an arm: ``"encoder translator, pretrained, frozen"``."""
    model, _, rest = name.partition(", ")
    return f"{model_label(model)}, {rest}"


def scored_lines(measured: Measured) -> str:
    """Description of the lines of the final scores."""
    if measured["split"] == "test":
        return f"the test split ({measured['lines']:,} lines)"
    return f"the validation split ({measured['lines']:,} lines), because no test split was given"


def scores_table(measured: Measured) -> Table:
    """Table of perplexity and BLEU by arm."""
    rows, data = [], []
    for arm in measured["arms"]:
        state = "frozen" if arm["frozen"] else "tuned"
        mean = sum(arm["nats"]) / len(arm["nats"])
        low, high = (None if arm[end] is None else math.exp(arm[end]) for end in ("nats_low", "nats_high"))
        cells = [
            with_interval(math.exp(mean), low, high),
            with_interval(arm["bleu"], arm["bleu_low"], arm["bleu_high"]),
        ]
        label = f"{model_label(arm['model'])}, {arm['rows']}, {state} (N = {len(arm['nats'])})"
        rows.append((label, [Cell(text) for text in cells]))
        shown = {name: arm[name] for name in ("model", "rows", "frozen", "bleu", "bleu_low", "bleu_high")}
        data.append({**shown, "nats": mean, "N": len(arm["nats"]), "nats_by_seed": arm["nats"]})
    caption = (
        f"Final scores on {scored_lines(measured)}, of each run's kept model of the lowest validation loss. "
        f"Perplexity: exp of nats per token, EOS included, of {measured['tokens']:,} tokens, mean over runs with "
        "Student's 95 % interval. BLEU of greedy, detokenised translations with a 95 % interval over seeds and "
        "sentences; "
        f"{measured['signature']}. Rows: initial, drawn by the model; random, with the deviation of the pretrained "
        "ones; permuted, the pretrained ones in random order; word2vec, trained on the training split."
    )
    return Table("scores", ["", "perplexity", "BLEU"], rows, caption, pl.DataFrame(data))


def differences_table(measured: Measured) -> Table:
    """Table of paired differences between arms."""
    rows = []
    for row in measured["differences"]:
        cells = [row["score"], str(row["seeds"]), with_interval(row["mean"], row["low"], row["high"])]
        label = f"{arm_label(row['first'])} − {arm_label(row['second'])}"
        rows.append((label, [Cell(text) for text in (*cells, bare_p(row["p"]), bare_p(row["corrected"]))]))
    n = sum(row["p"] is not None for row in measured["differences"])
    caption = (
        "Differences of nats per token (fewer are better), paired over seeds with Student's 95 % interval, and of BLEU "
        "(more is better), paired over seeds and sentences; p, two-sided, of no difference, and corrected by Holm's "
        f"method for {counted(n, 'test')}."
    )
    header = ["", "score", "N", "difference [95 %]", "p", "p (Holm)"]
    data = pl.DataFrame(measured["differences"], infer_schema_length=None) if rows else None
    return Table("differences", header, rows, caption, data)


def coverage_table(measured: Measured) -> Table:
    """Table of types and tokens that have a pretrained row, by side and split."""
    rows, data = [], []
    for side, one in measured["coverage"].get("sides", {}).items():
        for split, n in one["splits"].items():
            shown = [f"{n[f'{what}_{rule}']:,}" for what in ("types", "tokens") for rule in ("as_is", "lower", "none")]
            rows.append((f"{side}, {split}", [Cell(text) for text in shown]))
            data.append({"side": side, "split": split, **n})
    first = next(iter(measured["coverage"].get("sides", {}).values()), None)
    about = f" Vectors: {first['form']}, {first['words']:,} words of {measured['coverage']['width']}." if first else ""
    caption = (
        "Types of the vocabulary and tokens by the rule that gave them a row: as they are, lower-cased, or none; words "
        f"that are no type count as tokens without a row.{about}"
    )
    header = ["", "types as is", "lower-cased", "none", "tokens as is", "lower-cased", "none"]
    return Table("coverage", header, rows, caption, pl.DataFrame(data) if data else None)


def answers_of(measured: Measured) -> list[str]:
    """Sentences on what pretrained rows gain over each control, in nats per token, with tests."""
    nats = [row for row in measured["differences"] if row["score"] == "nats"]
    n = sum(row["p"] is not None for row in measured["differences"])
    note = f"Tests are paired over seeds and corrected by Holm's method for {counted(n, 'test')}."
    return [*(_answer(row) for row in nats if "word2vec" not in row["first"]), note] if nats else []


def _answer(row: Mapping[str, Any]) -> str:
    (model, rows, state), (_, other, other_state) = (row[side].split(", ") for side in ("first", "second"))
    gain = f"{with_interval(row['mean'], row['low'], row['high'])} nats per token"
    if state != other_state:
        head = f"{model_label(model)}, {rows} rows: tuned less frozen {gain}"
    else:
        head = f"{model_label(model)}, {state}: {rows} less {other} rows {gain}, which is due to {MEANINGS[other]}"
    if row["corrected"] is None:
        return f"{head}; there are too few runs to test whether that is more than chance."
    evidence = f"{p_value(row['p'])}, corrected {number(row['corrected'])}"
    if row["corrected"] >= LEVEL:
        return f"{head}: no significant difference ({evidence})."
    return f"{head}: a difference beyond chance ({evidence})."
