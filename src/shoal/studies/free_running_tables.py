"""Tables of the answers of free-running models."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import polars as pl

from shoal.analysis.translation import ScoreDifference
from shoal.report import Cell, Table
from shoal.report.words import NOTHING, capitalised, counted, number
from shoal.studies.answers import bare_p
from shoal.studies.free_running_frames import share_right
from shoal.studies.free_running_scores import Asked
from shoal.studies.results import Results
from shoal.tasks.pairs.settings import MEASURES

EXAMPLES = 4  # of each model that are wrong; one more is right
_INTERVAL = (
    "mean over runs with a 95 % interval over seeds and items together, which are crossed because all runs are asked "
    "the same; where all runs are right equally often, Wilson's over the items"
)


def percent(share: Mapping[str, Any]) -> str:
    """Share with its interval, ``97.3 [96.5, 98.1]``; of one item, which has no interval, ``100.0 [–, –]``."""
    low, high = (NOTHING if math.isnan(share[end]) else f"{share[end]:.1f}" for end in ("low", "high"))
    return f"{share['mean']:.1f} [{low}, {high}]"


def exact_table(asked: Asked, scored: pl.DataFrame, results: Results) -> Table:
    """Table of shares right, free-running and teacher-forced, of each model, and of the rules."""
    rows, data = [], []
    items = scored["item"].n_unique()
    for model in scored["model"].unique(maintain_order=True):
        of_model = scored.filter(model=model)
        free, forced = share_right(of_model), share_right(of_model, "forced")
        runs = of_model["run"].unique(maintain_order=True).to_list()
        tokens = [100 * results.measured["runs"][run]["tokens"] for run in runs]
        each = [100 * of_model.filter(run=run)["right"].sum() / items for run in runs]
        differing = of_model.filter(pl.col("right") != pl.col("forced")).height
        row = {"model": model, **free, "forced": forced["mean"], "forced_low": forced["low"]}
        row |= {"forced_high": forced["high"], "tokens": sum(tokens) / len(tokens), "differing": differing}
        row |= {"lowest": min(each), "highest": max(each)}
        data.append(row)
        spread = f"{row['lowest']:.1f} to {row['highest']:.1f}"
        cells = [percent(free), spread, percent(forced), str(differing), f"{row['tokens']:.2f}"]
        rows.append((f"{model} (N = {len(runs)})", [Cell(text) for text in cells]))
    for name, share in results.measured["rules"].items():
        rows.append((name, [Cell(f"{100 * share:.1f}"), *[Cell(NOTHING)] * 4]))
        data.append({"model": name, "mean": 100 * share, "items": items})
    caption = (
        f"Shares of {items:,} held-out {asked.things}, in percent. Written: by the model alone, greedily, all of it "
        f"right. {capitalised(_INTERVAL)}. Runs: the lowest and the highest. Under teacher forcing: all tokens of the "
        "target, EOS included, right where each is predicted behind the right ones. Differ: in how many answers of "
        "all runs these two do. Tokens: share right under teacher forcing. Below: what rules have right that learn "
        "nothing."
    )
    header = ["", "written", "runs", "under teacher forcing", "differ", "tokens"]
    return Table("exact-match", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))


def differences_table(asked: Asked, tests: Sequence[ScoreDifference]) -> Table:
    """Table of the differences between all pairs of models."""
    rows = [
        (
            f"{one.first} − {one.second}",
            [Cell(f"{one.score:.1f} [{one.low:.1f}, {one.high:.1f}]".replace("-", "−"))]
            + [Cell(bare_p(p)) for p in (one.p, one.corrected)],
        )
        for one in tests
    ]
    caption = (
        f"Differences in the share of {asked.things} written right, in percentage points, paired over seeds and "
        f"items: mean with its 95 % interval, p, and p by Holm's method for {counted(len(tests), 'comparison')}."
    )
    data = pl.DataFrame(
        [
            {"first": t.first, "second": t.second, "difference": t.score, "low": t.low, "high": t.high, "p": t.p}
            | {"p_holm": t.corrected}
            for t in tests
        ]
    )
    return Table("differences", ["", "difference [95 %]", "p", "p (Holm)"], rows, caption, data)


def group_table(asked: Asked, name: str, frame: pl.DataFrame, prefix: str = "by") -> Table:
    """Table of shares right, one row per group."""
    models = frame["model"].unique(maintain_order=True).to_list()
    rows = []
    for group in frame["group"].unique().sort():
        cells, items = [], 0
        for model in models:
            shares = frame.filter(model=model, group=group).to_dicts()
            cells.append(Cell(percent(shares[0]) if shares else NOTHING))
            items = shares[0]["items"] if shares else items
        rows.append((str(group), [Cell(f"{items:,}"), *cells]))
    of = "Longer than any that was trained on: s" if prefix == "beyond" else "S"
    caption = (
        f"{of}hare of the {asked.things} of each group that are written right, in percent, by {name}. "
        f"{capitalised(_INTERVAL)}. Items: {asked.things} of the group."
    )
    return Table(f"{prefix}-{name}", [name, "items", *models], rows, caption, frame)


def times_table(times: pl.DataFrame) -> Table:
    """Table of the first evaluated steps at which measures reached shares."""
    symbols = {measure.name: measure.symbol_of("valid") for measure in MEASURES.recorded}
    columns = list(dict.fromkeys(times.select("measure", "share").rows()))
    rows = []
    for model in times["model"].unique(maintain_order=True):
        of_model = [times.filter(model=model, measure=m, share=s).row(0, named=True) for m, s in columns]
        rows.append((f"{model} (N = {of_model[0]['runs']})", [Cell(_time(row)) for row in of_model]))
    caption = (
        "First evaluated step at which a run reached a share on the validation split: the median of the runs, and the "
        "first to the last of them; of runs that are not all there how many are. "
        f"{symbols['accuracy']}: share of tokens right under teacher forcing; {symbols['forced_exact']}: of whole "
        "targets, which greedy search writes right where it is so."
    )
    header = ["", *(f"{symbols[measure]} ≥ {share:g}" for measure, share in columns)]
    return Table("times", header, rows, caption, times)


def _time(row: Mapping[str, Any]) -> str:
    if not row["reached"]:
        return "none"
    span = f"{row['first']:,}" if row["first"] == row["last"] else f"{row['first']:,} to {row['last']:,}"
    if row["median"] is None:
        return f"{row['reached']} of {row['runs']}: {span}"
    return span if row["first"] == row["last"] else f"{number(row['median'], 4)} ({span})"


def errors_table(asked: Asked, scored: pl.DataFrame) -> Table:
    """Table of the number of answers with each kind of error."""
    models = scored["model"].unique(maintain_order=True).to_list()
    counts = scored.filter(pl.col("error").is_not_null()).group_by("model", "error").len()
    kinds = counts.group_by("error").agg(pl.col("len").sum()).sort(["len", "error"], descending=[True, False])["error"]
    answers = dict(scored.group_by("model").len().iter_rows())
    rows, data = [], []
    for kind in kinds:
        by_model = dict(counts.filter(error=kind).select("model", "len").iter_rows())
        data += [{"error": kind, "model": model, "answers": by_model.get(model, 0)} for model in models]
        rows.append((kind, [Cell(f"{by_model.get(model, 0):,}") for model in models]))
    wrong = dict(counts.group_by("model").agg(pl.col("len").sum()).iter_rows())
    rows.append(("wrong in all", [Cell(f"{wrong.get(model, 0):,}") for model in models]))
    rows.append(("of", [Cell(f"{answers[model]:,}") for model in models]))
    caption = (
        f"Answers of all runs to the held-out {asked.things} that are wrong, by the kind of error; each counts once, "
        "with the first kind that applies."
    )
    data_frame = pl.DataFrame(data, schema={"error": pl.String, "model": pl.String, "answers": pl.Int64})
    return Table("errors", ["", *models], rows, caption, data_frame)


def examples_table(asked: Asked, scored: pl.DataFrame) -> Table:
    """Table of examples of each model's runs: the first wrong answer of each kind of error, and a right one."""
    rows, shown = [], []
    for (model,), every in scored.group_by("model", maintain_order=True):
        in_order = every.sort("item", maintain_order=True)
        wrong = in_order.filter(pl.col("error").is_not_null()).unique("error", keep="first", maintain_order=True)
        good = in_order.filter("right")
        middle = good[len(good) // 2 : len(good) // 2 + 1]
        for row in pl.concat([wrong.head(EXAMPLES), middle]).to_dicts():
            texts = [row["source"], row["target"], row["wrote"], row["error"] or "right"]
            rows.append((f"{model}, seed {row['seed']}", [Cell(text) for text in texts]))
            shown.append({"model": model, **{k: row[k] for k in ("seed", "source", "target", "wrote", "error")}})
    caption = (
        f"What runs of each model wrote for held-out {asked.things}: of up to {EXAMPLES} kinds of error the first in "
        "the order of the split, and one that is right."
    )
    data = pl.DataFrame(shown, schema_overrides={"error": pl.String}, infer_schema_length=None)
    return Table("examples", ["", "source", "right answer", "written", ""], rows, caption, data)
