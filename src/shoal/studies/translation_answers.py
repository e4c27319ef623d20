"""Answers in words of the study of translation, each computed with its evidence."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from shoal.analysis.trends import student
from shoal.report.each_run import model_label
from shoal.report.translation_figures import FORCED, FREE
from shoal.report.words import counted, number, p_value, with_interval
from shoal.studies.results import Results
from shoal.studies.translation_scores import BEAM, GREEDY
from shoal.studies.translation_tables import (
    families_of,
    per_token,
    perplexity,
    position_frame,
    runs_of,
    scored_lines,
)
from shoal.tasks.build import count_run_parameters

LEVEL = 0.05
STEPS = ("encoder_translator", "non_autoregressive", "encoder_decoder")  # each has one thing more than that before it
ROUTES = {  # by which a decoder reads the source
    "encoder_decoder": ", which the decoder reads by cross-attention alone",
    "lstm_encoder_decoder": ", which the decoder reads by attention and in its first state",
}
Found = Mapping[str, Any]


def answers_of(measured: Found) -> list[str]:
    """Sentences on scores, their differences with tests, and the reasons for them."""
    names = families_of(measured)
    return [
        *(_family(measured, model) for model in names),
        *(_difference(row) for row in measured["differences"] if row["name"] == "BLEU"),
        _corrected(measured),
        *(_history(measured, model) for model in names if any(run["part"] for run in runs_of(measured, model))),
        *_translator(measured),
        *_explained(measured),
        *_positions(measured),
        *_saved(measured),
        *_buckets(measured),
        _scope(measured),
    ]


def _score(measured: Found, model: str, search: str, name: str) -> Mapping[str, Any] | None:
    wanted = (model, search, name)
    return next((row for row in measured["scores"] if (row["model"], row["search"], row["name"]) == wanted), None)


def _family(measured: Found, model: str) -> str:
    runs = runs_of(measured, model)
    value = with_interval(*perplexity([per_token(run) for run in runs]))
    scores = []
    for search in dict.fromkeys(row["search"] for row in measured["scores"] if row["model"] == model):
        score = _score(measured, model, search, "BLEU")
        assert score is not None
        scores.append(f"{with_interval(score['score'], score['low'], score['high'])} by {search} search")
    return (
        f"{model_label(model)}: perplexity {value} per token and BLEU {' and '.join(scores)} on "
        f"{scored_lines(measured)}, mean of {counted(len(runs), 'run')} with 95 % intervals."
    )


def _difference(row: Mapping[str, Any]) -> str:
    (first, by), (second, other) = (row[side].split(", ", 1) for side in ("first", "second"))
    names = [model_label(first), model_label(second)] if first != second else [f"{by} search", f"{other} search"]
    whose = f"{model_label(first)}, " if first == second else ""
    sentence = f"{whose}{names[0]} less {names[1]}: {with_interval(row['score'], row['low'], row['high'])} BLEU"
    if row["corrected"] is None:
        return f"{sentence}; there are too few runs to test whether that is more than chance."
    evidence = f"{p_value(row['p'])}, corrected {p_value(row['corrected']).removeprefix('p = ').removeprefix('p ')}"
    if row["corrected"] >= LEVEL:
        return f"{sentence}: no significant difference ({evidence})."
    better, worse = names if row["score"] > 0 else names[::-1]
    return f"{sentence}: {better} scores above {worse} ({evidence})."


def _corrected(measured: Found) -> str:
    n = sum(row["p"] is not None for row in measured["differences"])
    return f"These are paired over seeds and sentences, and corrected by Holm's method for {counted(n, 'test')}."


def _history(measured: Found, model: str) -> str:
    """Sentence on the value of source and history for a family that reads both."""
    runs = runs_of(measured, model)
    as_is, other = (perplexity([per_token(run, what) for run in runs]) for what in ("nats", "other_source"))
    parts = [run["part"] for run in runs if run["part"]]
    worth = [per_token(run, "other_source") - per_token(run) for run in runs]
    order = [per_token(part, "shuffled") - per_token(part) for part in parts]
    return (
        f"{model_label(model)}: with the source of another sentence{ROUTES.get(model, '')}, where the tokens before "
        f"are all that helps, its perplexity is {with_interval(*other)} and not {with_interval(*as_is)}: "
        f"{_nats(worth)} nats per token more, the most that the right source is worth, as a wrong one misleads, too. "
        f"With the tokens before in a random order it loses {_nats(order)} nats per token: the most that their order "
        "is worth, as the model was never trained on tokens in a random order."
    )


def _nats(values: list[float]) -> str:
    low, high, _ = student(values)
    return with_interval(sum(values) / len(values), low, high)


def _translator(measured: Found) -> list[str]:
    """Sentences on the difference of the family without a history from the others, in nats."""
    names = families_of(measured)
    if "encoder_translator" not in names or len(names) < 2:
        return []
    encoder = perplexity([per_token(run) for run in runs_of(measured, "encoder_translator")])
    out = []
    for model in names:
        runs = runs_of(measured, model)
        if not any(run["part"] for run in runs):
            continue
        value, alone = (perplexity([per_token(run, what) for run in runs])[0] for what in ("nats", "other_source"))
        gap = math.log(encoder[0]) - math.log(value)
        side = "below" if alone < encoder[0] else "above"
        out.append(
            f"The encoder translator, which reads the source and no tokens before, has perplexity "
            f"{with_interval(*encoder)}: {number(abs(gap))} nats per token {'more' if gap > 0 else 'less'} than the "
            f"{model_label(model)}. Tokens before without the right source give the latter {number(alone)}, {side} "
            "what the source without tokens before gives the translator."
        )
    return out


def _explained(measured: Found) -> list[str]:
    """Sentences on what decoders have and the encoder translator lacks, and what each of it is worth."""
    names = families_of(measured)
    decoders = [model for model in names if model in ROUTES]
    if "encoder_translator" not in names or not decoders:
        return []
    labels = " and the ".join(map(model_label, decoders))
    steps = _steps(measured) if set(STEPS) <= set(names) else None
    others = [model_label(model) for model in decoders if model not in STEPS]
    missing = "How much of the difference is owed to either is not measured"
    reason = (
        f"Two things set the {labels} apart from the encoder translator. They predict a token from the tokens before "
        "it, which are the right ones where a perplexity is measured (teacher forcing), and their own where they "
        "write. And cross-attention looks the source up anew for each token, where the translator gives one token for "
        "each place of the source."
    )
    if steps is None:
        return [f"{reason} {missing}: that would take models trained without one of them."]
    return [f"{reason} {missing} for the {' and the '.join(others)}." if others else reason, steps]


def _steps(measured: Found) -> str | None:
    """Sentences on both steps from the encoder translator to the encoder-decoder, in nats and in BLEU, paired."""
    nats = [{run["seed"]: per_token(run) for run in runs_of(measured, model)} for model in STEPS]
    seeds = [seed for seed in nats[0] if all(seed in family for family in nats)]
    gains = []
    for (first, second), (before, after) in zip(pairwise(STEPS), pairwise(nats), strict=True):
        sides = {"first": f"{second}, {GREEDY}", "second": f"{first}, {GREEDY}", "name": "BLEU"}
        row = next((row for row in measured["differences"] if sides.items() <= row.items()), None)
        if row is None or not seeds:
            return None
        in_nats = [before[seed] - after[seed] for seed in seeds]
        low, high, _ = student(in_nats)
        corrected = "" if row["corrected"] is None else f", corrected {p_value(row['corrected'])}"
        gains.append(
            f"{_gained(sum(in_nats) / len(in_nats), low, high)} nats per token and "
            f"{_gained(row['score'], row['low'], row['high'])} BLEU{corrected}"
        )
    return (
        "The non-autoregressive encoder-decoder has cross-attention and no history: it is the encoder-decoder with BOS "
        "in place of every token before. Beside the encoder translator, a decoder with cross-attention, which comes "
        f"with more layers, more parameters and another place of the norms, {gains[0]}. Beside that, the history of "
        f"tokens before, which alone sets the encoder-decoder apart from it, {gains[1]}. Both are paired over "
        f"{counted(len(seeds), 'seed')}, with 95 % intervals, and BLEU is of greedy search. A history without "
        "cross-attention was not trained; taken in that order, the two may share the sum differently."
    )


def _gained(value: float, low: float | None, high: float | None) -> str:
    """A gain or a loss with its interval: ``gains 0.4 [0.1, 0.7]``, ``loses 0.4 [0.1, 0.7]``."""
    if value >= 0:
        return f"gains {with_interval(value, low, high)}"
    least, most = (None if end is None else -end for end in (high, low))
    return f"loses {with_interval(-value, least, most)}"


def still_falling(results: Results, measured: Found) -> list[str]:
    """Sentence on the runs whose lowest validation loss is that of their last step, by family."""
    counts = []
    for model in families_of(measured):
        runs = {run: about for run, about in measured["runs"].items() if about["model"] == model}
        n = sum(about["step"] == results.specs[run].n_steps for run, about in runs.items())
        if n:
            counts.append(f"{model_label(model)} {n} of {counted(len(runs), 'run')}")
    if not counts:
        return []
    beginning = "The lowest validation loss is that of the last step, and might have become lower still"
    return [f"{beginning}: {', '.join(counts)}."]


def apart_of(results: Results, measured: Found) -> list[str]:
    """Sentence on what else the families differ in: depth, place of norms, size; and on their learning rates."""
    names = families_of(measured)
    if len(names) < 2:
        return []
    specs = [next(spec for spec in results.specs.values() if spec.model == model) for model in names]
    parts = []
    for spec in specs:
        place = getattr(spec.model_part, "norm_position", None)
        norms = "" if place is None else f", norms {place}"
        size = f"{count_run_parameters(spec):,} parameters without embeddings"
        parts.append(f"{model_label(spec.model)}: {spec.model_part.describe()}{norms}, {size}")
    rates = " and ".join(dict.fromkeys(f"{spec.lr:g}" for spec in specs))
    return [
        f"The families differ in more than what they read ({'; '.join(parts)}), and each has one learning rate "
        f"({rates}), with no other tried. So a difference between them need not be owed to what they read alone"
        + (
            ", but for the non-autoregressive encoder-decoder and the encoder-decoder: they have the same layers, and "
            "beside them the latter has a table of the target's tokens."
            if set(STEPS[1:]) <= set(names)
            else "."
        )
    ]


def _positions(measured: Found) -> list[str]:
    """Sentences on teacher-forced and free-running accuracy early and late in the target."""
    frame = position_frame(measured)
    out = []
    for model in frame["model"].unique(maintain_order=True):
        of_model = frame.filter(model=model)
        shares = {(row["how"], row["position"]): row["share"] for row in of_model.to_dicts()}
        last = int(of_model["position"].max())  # type: ignore[arg-type]  # positions are integers
        middle = min(last, 8)
        out.append(
            f"{model}: of tokens at position 1 {shares[FORCED, 1]:.0%} are right, at position {middle} "
            f"{shares[FORCED, middle]:.0%} behind the right tokens and {shares[FREE, middle]:.0%} in what it writes on "
            f"its own, at position {last} {shares[FORCED, last]:.0%} and {shares[FREE, last]:.0%}."
        )
    return out


def _saved(measured: Found) -> list[str]:
    out = []
    for model in families_of(measured):
        saved = [run["searches"][BEAM]["saved"] for run in runs_of(measured, model) if BEAM in run["searches"]]
        if saved:
            out.append(
                f"{model_label(model)}: the optimal rule of stopping, which never loses the best hypothesis, saved "
                f"{sum(saved) / len(saved):.0%} of the steps of {BEAM}."
            )
    return out


def _buckets(measured: Found) -> list[str]:
    share = measured["real_share"]
    if share is None:
        return []
    return [f"In batches of buckets {share['both']:.0%} of all positions hold tokens and no padding."]


def _scope(measured: Found) -> str:
    warned = "".join(f" {line}." for line in measured["warnings"][:3])
    return (
        f"Scored are the kept models of the lowest validation loss, on {scored_lines(measured)}: "
        + (
            "chosen on another split than they are scored on. "
            if measured["split"] == "test"
            else "on the split that they were chosen on, which flatters them. "
        )
        + "Searched by "
        + f"{GREEDY} search and, where there is something to search, {BEAM}. All of this is of one text, one size and "
        "one learning rate of each family; intervals are over seeds and sentences." + warned
    )
