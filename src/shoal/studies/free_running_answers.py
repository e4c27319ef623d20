"""Answers in words of studies of free-running models, each computed with its evidence."""

from collections.abc import Mapping, Sequence

import polars as pl

from shoal.analysis.translation import ScoreDifference
from shoal.report.words import counted, listed, number
from shoal.studies.answers import LEVEL, bare_p
from shoal.studies.base import Form
from shoal.studies.free_running_frames import longer_of, share_right, shares_of, times_of
from shoal.studies.free_running_scores import Asked
from shoal.studies.free_running_tables import percent
from shoal.studies.results import Results

GOAL = 80.0  # percent
MANY = 20  # least number of items of a group whose share is in a sentence


def answers_of(
    asked: Asked,
    results: Results,
    form: Form,
    scored: pl.DataFrame,
    tests: Sequence[ScoreDifference],
    groups: Mapping[str, pl.DataFrame],
) -> list[str]:
    """Sentences on shares of right answers, their differences, teacher forcing, and errors."""
    models = scored["model"].unique(maintain_order=True).to_list()
    return [
        *(_exact(asked, scored.filter(model=model), model) for model in models),
        *_differences(tests),
        _forcing(scored, results),
        *(_main(asked, groups[asked.main].filter(model=model), model) for model in models),
        *_lengths(asked, groups),
        *_beyond(asked, results),
        *_times(results, form),
        *(_errors(scored.filter(model=model), model) for model in models),
        _rules(asked, results),
        _scope(asked, scored, results, form),
    ]


def _exact(asked: Asked, scored: pl.DataFrame, model: str) -> str:
    overall = share_right(scored)
    each = [100 * share for share in scored.group_by("run").agg(pl.col("right").mean())["right"]]
    above = sum(share > GOAL for share in each)
    verdict = (
        f"above {GOAL:g} % in every run (the lowest {min(each):.1f} %)"
        if above == len(each)
        else f"above {GOAL:g} % in {above} of {counted(len(each), 'run')} ({min(each):.1f} to {max(each):.1f} %)"
    )
    return (
        f"{model}: it writes {percent(overall)} % of {overall['items']:,} held-out {asked.things} right on its own "
        f"(exact match, greedy; mean of {counted(int(overall['runs']), 'run')} with its 95 % interval), {verdict}."
    )


def _differences(tests: Sequence[ScoreDifference]) -> list[str]:
    if not tests:
        return []
    clear, open_ = [], []
    for one in tests:
        ahead, behind = (one.first, one.second) if one.score >= 0 else (one.second, one.first)
        if one.corrected is not None and one.corrected < LEVEL:
            clear.append(f"{ahead} above {behind} by {abs(one.score):.1f} points (corrected p {bare_p(one.corrected)})")
        else:
            p = "no p value" if one.corrected is None else f"corrected p {bare_p(one.corrected)}"
            open_.append(f"{ahead} and {behind} ({abs(one.score):.1f} points, {p})")
    how = f"{counted(len(tests), 'comparison')} paired over seeds and items, corrected by Holm's method"
    sentences = [
        f"Of {how}, {len(clear)} {'is' if len(clear) == 1 else 'are'} significant: {'; '.join(clear)}."
        if clear
        else f"Of {how}, none is significant."
    ]
    return sentences + ([f"No significant difference: {'; '.join(open_)}."] if open_ else [])


def _forcing(scored: pl.DataFrame, results: Results) -> str:
    """Sentence on teacher-forced and free-running shares side by side."""
    differing = scored.filter(pl.col("right") != pl.col("forced")).height
    parts = []
    for (model,), of_model in scored.group_by("model", maintain_order=True):
        tokens = [results.measured["runs"][run]["tokens"] for run in of_model["run"].unique()]
        free, forced = (100 * float(of_model[name].mean()) for name in ("right", "forced"))  # type: ignore[arg-type]
        parts.append(f"{model} {100 * sum(tokens) / len(tokens):.2f}, {forced:.2f} and {free:.2f} %")
    return (
        "Tokens right under teacher forcing, whole targets right under it, and whole answers written alone: "
        f"{'; '.join(parts)}. The last two differ in {differing:,} of {scored.height:,} answers"
        f"{' (by rounding)' * (differing > 0)}: greedy search that has been right so far reads what teacher forcing "
        "reads, so that both go wrong at the same token first. The share of tokens is another thing: an answer has "
        "several, all of which must be right."
    )


def _main(asked: Asked, frame: pl.DataFrame, model: str) -> str:
    ordered = frame.sort("mean")
    parts = [f"{row['group']} {percent(row)} % of {row['items']:,}" for row in ordered.to_dicts()]
    return f"{model}, by {asked.main}, the hardest first: {'; '.join(parts)}."


def _lengths(asked: Asked, groups: Mapping[str, pl.DataFrame]) -> list[str]:
    """Sentences on the groups in which each model is worst, for the other ways of grouping."""
    sentences = []
    for name, frame in groups.items():
        if name == asked.main:
            continue
        parts = []
        for (model,), of_model in frame.group_by("model", maintain_order=True):
            many = of_model.filter(pl.col("items") >= MANY)
            low = (of_model if many.is_empty() else many).sort("mean").row(0, named=True)
            parts.append(f"{model} at {low['group']} ({percent(low)} % of {low['items']:,})")
        sentences.append(f"By {name}, of groups of {MANY} and more, each is worst: {'; '.join(parts)}.")
    return sentences


def _beyond(asked: Asked, results: Results) -> list[str]:
    if asked.longer is None:
        return []
    frame = longer_of(asked, results)
    if frame.is_empty():
        return []
    name, sentences = next(iter(asked.groups)), []
    for (model,), of_model in frame.group_by("model", maintain_order=True):
        inside, more = of_model.filter(~pl.col("beyond")).sort("group"), of_model.filter("beyond").sort("group")
        last = inside.row(-1, named=True)
        parts = [f"{row['group']}: {percent(row)} %" for row in more.to_dicts()]
        first = more.row(0, named=True)
        verdict = (
            "it generalises to longer ones"
            if first["low"] > GOAL
            else "it does not generalise to longer ones"
            if first["high"] < last["low"]
            else "whether it generalises to longer ones is open"
        )
        sentences.append(
            f"{model}, longer than trained, where {last['group']} {name} have {percent(last)} %: {'; '.join(parts)}: "
            f"{verdict}."
        )
    return sentences


def _times(results: Results, form: Form) -> list[str]:
    """Sentences on the steps at which shares of whole targets were first right."""
    times, sentences = times_of(results, form).filter(measure="forced_exact"), []
    for share in shares_of(form):
        parts = []
        for row in times.filter(share=share).to_dicts():
            when = "not by the end" if not row["reached"] else f"step {row['first']:,}"
            if row["reached"] and row["last"] != row["first"]:
                when += f" to {row['last']:,}"
            some = f" ({row['reached']} of {row['runs']} runs)" if 0 < row["reached"] < row["runs"] else ""
            parts.append(f"{row['model']} {when}{some}")
        sentences.append(f"Of whole answers {100 * share:g} % were first right at: {'; '.join(parts)}.")
    return sentences


def _errors(scored: pl.DataFrame, model: str) -> str:
    counts = (
        scored.filter(pl.col("error").is_not_null())["error"].value_counts().sort(["count", "error"], descending=True)
    )
    if counts.is_empty():
        return f"{model}: none of {scored.height:,} answers is wrong."
    wrong = int(counts["count"].sum())
    parts = [f"{kind} ({n:,})" for kind, n in counts.head(3).iter_rows()]
    return f"{model}: {wrong:,} of {scored.height:,} answers are wrong, most often by {listed(parts)}."


def _rules(asked: Asked, results: Results) -> str:
    parts = [f"{name} {number(100 * share)} %" for name, share in results.measured["rules"].items()]
    return f"Without learning, on the same {asked.things}: {'; '.join(parts)}."


def _scope(asked: Asked, scored: pl.DataFrame, results: Results, form: Form) -> str:
    seeds = scored["seed"].n_unique()
    steps = sorted({one["step"] for one in results.measured["runs"].values()})
    settings = f" {asked.chosen}" if form.quick and not form.settings.keys() - {"text"} else ""
    return (
        f"All of this is of one split, {counted(seeds, 'seed')} and the last models, after "
        f"{listed([f'{step:,}' for step in steps])} steps, none chosen by what it scores here; each family has one "
        f"size and one learning rate, and with others the order of families may be another.{settings}"
    )
