"""Measurements of the study of translation: kept models' losses, answers, scores and attention.

All of it is JSON, kept with the study's note, so that the report needs neither models nor text. The models' answers are
kept in the lab with their scores, so that others can score them again.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import pairwise
from typing import Any

import numpy as np
from torch import nn

from shoal.analysis.corpus_scores import SentenceStatistics, chrf2
from shoal.analysis.correction import Family
from shoal.analysis.forced import (
    forced,
    forced_shuffled,
    free_right,
    right_by_position,
    some_pairs,
    with_other_sources,
)
from shoal.analysis.sentence_scores import BLEU, CHRF2, EXACT, TextScores, text_scores
from shoal.analysis.translation import ScoreInterval, compare_settings, score_interval
from shoal.decoding.answers import Answered, answer
from shoal.decoding.beam import Beam
from shoal.errors import UserError
from shoal.fast.denormals import flushed_denormals
from shoal.lab import Records
from shoal.spec import RunSpec
from shoal.studies.language_scores import best_steps
from shoal.studies.translation_samples import attention_maps, examples
from shoal.tasks.build import calling
from shoal.tasks.pairs.codec import PairCodec, codec_of
from shoal.tasks.pairs.data import Pairs
from shoal.tasks.pairs.vocabulary import UNK

GREEDY, BEAM = "greedy", "beam 5"
SEARCHES: Mapping[str, Beam | None] = {GREEDY: None, BEAM: Beam(5)}
TESTED = (BLEU, CHRF2)  # scores by which families are compared
SHUFFLED = 200  # pairs whose history is shuffled: each position of a target is a forward pass of its own
GROUPS = 4  # of source lengths
_DIGITS = 9  # decimals of scores in percent; more are rounding errors


@dataclass
class Models:
    """Kept models of one family, those of the lowest validation loss.

    Attributes:
        name: name of the family.
        runs: ids of the runs by seed, in their order.
        steps: steps of the models, by run.
        models: models by run.
        codec: their vocabularies.
        spec: spec of one run.
        answers: answers by search.
        scores: scores of the best text for each line, by search.
    """

    name: str
    runs: Mapping[int, str]
    steps: Mapping[str, int]
    models: Mapping[str, nn.Module]
    codec: PairCodec
    spec: RunSpec
    answers: dict[str, Answered] = field(default_factory=dict)
    scores: dict[str, TextScores] = field(default_factory=dict)

    @property
    def reads(self) -> str:
        """Way in which the models read, see :attr:`shoal.models.settings.ModelSettings.reads`."""
        return self.spec.model_part.reads

    def seeded(self, statistics: SentenceStatistics, seeds: Sequence[int]) -> SentenceStatistics:
        """Statistics of these seeds' models, in this order."""
        known_seeds = list(self.runs)
        return replace(statistics, values=statistics.values[[known_seeds.index(seed) for seed in seeds]])


def measured(
    specs: Sequence[RunSpec],
    records: Records,
    searches: Mapping[str, Beam | None] = SEARCHES,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """Measurements that the report needs and training does not record.

    Args:
        specs: specs of the runs on the same files, with their current paths.
        records: records of the same runs.
        searches: searches of the answers; those with a beam are left out for models that answer at once.
        max_new_tokens: largest number of tokens of an answer, EOS included; the models' limit where it is not given.

    Returns:
        ``split`` (``test`` or ``valid``), ``lines``, ``left_out`` (pairs without a perplexity), ``tokens``,
        ``real_share``; ``runs``, for each its losses, accuracies and searches; ``scores``, ``differences``,
        ``by_length``, ``examples``, ``maps``, ``warnings``.

    Raises:
        UserError: a file cannot be read, or sacrebleu is missing.
    """
    task: Any = specs[0].task_part
    split, sources, references = task.final_lines()
    measured_families = families(specs, records)
    if not measured_families:
        return {}
    pairs, left_out = encoded(measured_families[0].codec, sources, references)
    runs: dict[str, dict[str, Any]] = {}
    for family in measured_families:
        with flushed_denormals():
            for search in _searches_of(family, searches):
                family.answers[search] = _answers(family, sources, searches[search], max_new_tokens)
                texts = [family.answers[search].best(run) for run in family.runs.values()]
                family.scores[search] = text_scores(texts, [references])
            runs |= {run: _losses(family, run, seed, pairs, left_out) for seed, run in family.runs.items()}
        _keep(family, records, runs, (split, sources, references), searches)
    best = {family.name: min(family.runs.values(), key=lambda run: runs[run]["nats"]) for family in measured_families}
    return {
        "split": split,
        "lines": len(sources),
        "left_out": len(left_out),
        "tokens": int(pairs.target_length.sum()),
        "real_share": task.buckets().real_share() if task.batching == "buckets" else None,
        "runs": runs,
        "scores": _scores(measured_families),
        "differences": _differences(measured_families),
        "by_length": by_length(measured_families, sources),
        "examples": examples(measured_families, best, sources, references),
        "maps": attention_maps(measured_families, best, sources),
        "warnings": list(
            dict.fromkeys(
                line
                for family in measured_families
                for text_scores_of in family.scores.values()
                for line in text_scores_of.warnings
            )
        ),
    }


def families(specs: Sequence[RunSpec], records: Records) -> list[Models]:
    """Kept models of each family, in the order of the runs."""
    steps = best_steps(records)
    specs_by_model: dict[str, list[RunSpec]] = {}
    for spec in specs:
        if spec.id in steps:
            specs_by_model.setdefault(spec.model, []).append(spec)
    out = []
    for name, of_family in specs_by_model.items():
        models = {spec.id: records.model(spec.id, steps[spec.id]) for spec in of_family}
        codec = codec_of(records.kept(of_family[0].id))
        out.append(Models(name, {spec.seed: spec.id for spec in of_family}, steps, models, codec, of_family[0]))
    return out


def encoded(codec: PairCodec, sources: Sequence[str], references: Sequence[str]) -> tuple[Pairs, set[int]]:
    """Pairs in tokens, and the indices of pairs that are left out: a side is empty, or longer than models read.

    Raises:
        UserError: none is left.
    """
    rows = [
        (codec.source.encode(codec.prepared(source)), codec.target.encode(codec.prepared(target)))
        for source, target in zip(sources, references, strict=True)
    ]
    out = {place for place, row in enumerate(rows) if not all(row) or max(map(len, row)) > codec.max_length}
    encoded_rows = [row for place, row in enumerate(rows) if place not in out]
    if not encoded_rows:
        raise UserError(
            f"none of the {len(rows):,} pairs that final scores are of can be scored: each has an empty side, or one "
            f"of more than max_length={codec.max_length} tokens"
        )
    return Pairs.of(*zip(*encoded_rows, strict=True)), out


def _searches_of(family: Models, searches: Mapping[str, Beam | None]) -> list[str]:
    return [name for name, beam in searches.items() if beam is None or family.reads != "source"]


def _answers(family: Models, sources: Sequence[str], beam: Beam | None, most: int | None) -> Answered:
    longest = family.spec.task_part.sizes().sequence_length
    return answer(family.models, family.reads, family.codec, sources, min(longest, most or longest), beam)


def _losses(family: Models, run: str, seed: int, pairs: Pairs, left_out: set[int]) -> dict[str, Any]:
    """Losses and accuracies of a model on the targets, with its inputs as they are and with parts of them exchanged."""
    model, how = family.models[run], calling(family.spec)
    as_is = forced(model, family.reads, pairs, calling=how)
    exchanged = forced(model, family.reads, with_other_sources(pairs), calling=how)
    few = some_pairs(pairs, SHUFFLED)
    part = None
    if family.reads == "pair":
        plain, shuffled = forced(model, family.reads, few, calling=how), forced_shuffled(model, few, calling=how)
        part = {"tokens": plain.tokens, "nats": plain.total, "shuffled": shuffled.total}
    answered = family.answers[GREEDY].answers[family.answers[GREEDY].runs.index(run)]
    written = [best[0].tokens if best else () for place, best in enumerate(answered) if place not in left_out]
    at = zip(
        right_by_position(as_is.right, as_is.counts),
        right_by_position(free_right(written, pairs), as_is.counts),
        strict=True,
    )
    return {
        "model": family.name,
        "seed": seed,
        "step": family.steps[run],
        "tokens": as_is.tokens,
        "nats": as_is.total,
        "other_source": exchanged.total,
        "part": part,
        "by_position": [[n, right, free] for (n, right), (_, free) in at],
        "searches": {},
    }


def _keep(
    family: Models,
    records: Records,
    runs: dict[str, dict[str, Any]],
    final: tuple[str, Sequence[str], Sequence[str]],
    searches: Mapping[str, Beam | None],
) -> None:
    """Keep the models' answers and scores in the lab, and add their ids and oddities to ``runs``."""
    split, sources, references = final
    for search, answered in family.answers.items():
        beam = searches[search]
        how = {"beams": 1} if beam is None else asdict(beam)
        steps, saved = answered.steps.sum(1), answered.saved.sum(1)
        for place, run in enumerate(answered.runs):
            decode = records.keep_hypotheses(run, family.steps[run], split, answered.best(run), sources, how)
            records.keep_scores(decode, [references])
            tokens = [best[0].tokens if best else () for best in answered.answers[place]]
            runs[run]["searches"][search] = {
                "decode": decode.id,
                "saved": float(saved[place] / (steps[place] + saved[place]).clamp(min=1)),
                **oddities(answered.best(run), tokens, references, family.codec),
            }


def oddities(
    texts: Sequence[str], tokens: Sequence[Sequence[int]], references: Sequence[str], codec: PairCodec
) -> dict[str, float]:
    """Oddities of texts, which show without their sources.

    Returns:
        ``repeating``: the share of texts in which a word stands twice in a row; ``unknown``: the share with a word that
        is in no vocabulary; ``length``: words of all over words of all references.
    """
    has_unknown = getattr(codec.target, "has_unknown", False)
    words = [text.split() for text in texts]
    n = max(1, len(texts))
    return {
        "repeating": sum(any(a == b for a, b in pairwise(of_text)) for of_text in words) / n,
        "unknown": sum(has_unknown and UNK in of_text for of_text in tokens) / n,
        "length": sum(map(len, words)) / max(1, sum(len(text.split()) for text in references)),
    }


def _scores(families_scored: Iterable[Models]) -> list[dict[str, Any]]:
    """Scores of each family and search, over its seeds, with the signatures by which they were computed."""
    out = []
    for family in families_scored:
        for search, scores in family.scores.items():
            for name, statistics in scores.statistics.items():
                interval = score_interval(statistics)
                about = {"model": family.name, "search": search, "signature": scores.signatures.get(name, "")}
                out.append({**about, **_as_json(interval)})
    return out


def _as_json(score: ScoreInterval) -> dict[str, Any]:
    record = asdict(score)
    record["by_seed"] = [round(value, _DIGITS) for value in score.by_seed]
    for name in ("score", "low", "high"):
        record[name] = None if math.isnan(record[name]) else round(record[name], _DIGITS)  # JSON has no NaN
    return record


def _differences(families_compared: Sequence[Models]) -> list[dict[str, Any]]:
    """Differences between families by greedy search, and of each family between beam and greedy search, paired over
    seeds and sentences, with p corrected by Holm for all of them."""
    pairs = [
        (first, GREEDY, second, GREEDY)
        for place, second in enumerate(families_compared)
        for first in families_compared[place + 1 :]
    ]
    pairs += [
        (family, search, family, GREEDY) for family in families_compared for search in family.scores if search != GREEDY
    ]
    out = []
    for first, first_by, second, second_by in pairs:
        seeds = [seed for seed in first.runs if seed in second.runs]
        for name in TESTED if seeds else ():
            above, below = (
                family.seeded(family.scores[by].statistics[name], seeds)
                for family, by in ((first, first_by), (second, second_by))
            )
            compared = compare_settings(above, below, (f"{first.name}, {first_by}", f"{second.name}, {second_by}"))
            out.append(_as_json(compared))
    corrected = Family.of([row["p"] for row in out]).corrected
    return [row | {"corrected": p} for row, p in zip(out, corrected, strict=True)]


def by_length(families_scored: Sequence[Models], sources: Sequence[str]) -> list[dict[str, Any]]:
    """Exact match and mean chrF2 by the number of words of the source, in groups of about equally many lines.

    Returns:
        One row per family and group: ``model``, ``low`` and ``high`` (words), ``lines``, ``exact`` and ``chrf`` in
        percent, means over seeds and lines, both of greedy search.
    """
    words = np.array([len(source.split()) for source in sources])
    ends = sorted({int(end) for end in np.quantile(words, np.arange(1, GROUPS + 1) / GROUPS, method="inverted_cdf")})
    out = []
    for family in families_scored:
        statistics = family.scores[GREEDY].statistics
        exact, chrf = statistics[EXACT].values[..., 0], chrf2(statistics[CHRF2].values)  # (R, n) each
        low = 0
        for high in ends:
            inside = (words > low) & (words <= high) if low else words <= high
            about = {"model": family.name, "low": int(words[inside].min()), "high": high, "lines": int(inside.sum())}
            means = {"exact": float(exact[:, inside].mean()), "chrf": float(chrf[:, inside].mean())}
            out.append({**about, **means})
            low = high
    return out
