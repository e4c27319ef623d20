"""What the study of translation measures beside training: kept models' losses, answers, scores and attention.

All of it is JSON, kept with the study's note, so that the report needs neither models nor text. What models wrote is
kept in the lab with its scores, so that others can score it again.
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
SHUFFLED = 200  # pairs whose history is shuffled: each place of a target is a pass of its own
GROUPS = 4  # of source lengths
_DIGITS = 9  # of scores in percent, behind the point; more are rounding


@dataclass
class Models:
    """The kept models of one family, those of the lowest validation loss.

    Attributes:
        name: the family's.
        runs: by seed, in the order of the runs.
        steps: of the models, by run.
        models: by run.
        codec: their vocabularies.
        spec: of one of them.
        answers: by search.
        scores: likewise, of the best text for each line.
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
        """How they read."""
        return self.spec.model_part.reads

    def seeded(self, statistics: SentenceStatistics, seeds: Sequence[int]) -> SentenceStatistics:
        """Of these seeds' models, in this order."""
        own = list(self.runs)
        return replace(statistics, values=statistics.values[[own.index(seed) for seed in seeds]])


def measured(
    specs: Sequence[RunSpec],
    records: Records,
    searches: Mapping[str, Beam | None] = SEARCHES,
    max_new_tokens: int | None = None,
) -> dict[str, Any]:
    """Everything that the report needs and training does not record.

    Args:
        specs: of the runs on the same files, which say where they lie now.
        records: the same runs.
        searches: by which models answer; those with a beam are left out for models that answer at once.
        max_new_tokens: of an answer, its end included; as many as the models can where it is not given.

    Returns:
        ``split`` (``test`` or ``valid``), ``lines``, ``left_out`` (pairs without a perplexity), ``tokens``,
        ``real_share``; ``runs``, of each its loss and what it rests on; ``scores``, ``differences``, ``by_length``,
        ``examples``, ``maps``, ``warnings``.

    Raises:
        UserError: a file cannot be read, or sacrebleu is missing.
    """
    task: Any = specs[0].task_part
    split, sources, references = task.final_lines()
    found = families(specs, records)
    if not found:
        return {}
    pairs, left_out = encoded(found[0].codec, sources, references)
    runs: dict[str, dict[str, Any]] = {}
    for own in found:
        with flushed_denormals():
            for search in _searches_of(own, searches):
                own.answers[search] = _answers(own, sources, searches[search], max_new_tokens)
                texts = [own.answers[search].best(run) for run in own.runs.values()]
                own.scores[search] = text_scores(texts, [references])
            runs |= {run: _losses(own, run, seed, pairs, left_out) for seed, run in own.runs.items()}
        _keep(own, records, runs, (split, sources, references), searches)
    best = {own.name: min(own.runs.values(), key=lambda run: runs[run]["nats"]) for own in found}
    return {
        "split": split,
        "lines": len(sources),
        "left_out": len(left_out),
        "tokens": int(pairs.target_length.sum()),
        "real_share": task.buckets().real_share() if task.batching == "buckets" else None,
        "runs": runs,
        "scores": _scores(found),
        "differences": _differences(found),
        "by_length": by_length(found, sources),
        "examples": examples(found, best, sources, references),
        "maps": attention_maps(found, best, sources),
        "warnings": list(
            dict.fromkeys(line for own in found for kept in own.scores.values() for line in kept.warnings)
        ),
    }


def families(specs: Sequence[RunSpec], records: Records) -> list[Models]:
    """The kept models of each family, in the order of the runs."""
    steps = best_steps(records)
    found: dict[str, list[RunSpec]] = {}
    for spec in specs:
        if spec.id in steps:
            found.setdefault(spec.model, []).append(spec)
    out = []
    for name, own in found.items():
        models = {spec.id: records.model(spec.id, steps[spec.id]) for spec in own}
        codec = codec_of(records.kept(own[0].id))
        out.append(Models(name, {spec.seed: spec.id for spec in own}, steps, models, codec, own[0]))
    return out


def encoded(codec: PairCodec, sources: Sequence[str], references: Sequence[str]) -> tuple[Pairs, set[int]]:
    """Pairs in tokens, and the places of those that are not among them: a side is empty, or longer than models read.

    Raises:
        UserError: none is left.
    """
    rows = [
        (codec.source.encode(codec.prepared(source)), codec.target.encode(codec.prepared(target)))
        for source, target in zip(sources, references, strict=True)
    ]
    out = {place for place, row in enumerate(rows) if not all(row) or max(map(len, row)) > codec.max_length}
    kept = [row for place, row in enumerate(rows) if place not in out]
    if not kept:
        raise UserError(
            f"none of the {len(rows):,} pairs that final scores are of can be scored: each has an empty side, or one "
            f"of more than max_length={codec.max_length} tokens"
        )
    return Pairs.of(*zip(*kept, strict=True)), out


def _searches_of(own: Models, searches: Mapping[str, Beam | None]) -> list[str]:
    return [name for name, beam in searches.items() if beam is None or own.reads != "source"]


def _answers(own: Models, sources: Sequence[str], beam: Beam | None, most: int | None) -> Answered:
    longest = own.spec.task_part.sizes().sequence_length
    return answer(own.models, own.reads, own.codec, sources, min(longest, most or longest), beam)


def _losses(own: Models, run: str, seed: int, pairs: Pairs, left_out: set[int]) -> dict[str, Any]:
    """What a model gives the tokens of the targets, as they are and with parts of what it reads exchanged."""
    model, how = own.models[run], calling(own.spec)
    as_is = forced(model, own.reads, pairs, calling=how)
    exchanged = forced(model, own.reads, with_other_sources(pairs), calling=how)
    few = some_pairs(pairs, SHUFFLED)
    part = None
    if own.reads == "pair":
        plain, shuffled = forced(model, own.reads, few, calling=how), forced_shuffled(model, few, calling=how)
        part = {"tokens": plain.tokens, "nats": plain.total, "shuffled": shuffled.total}
    answered = own.answers[GREEDY].answers[own.answers[GREEDY].runs.index(run)]
    written = [found[0].tokens if found else () for place, found in enumerate(answered) if place not in left_out]
    at = zip(
        right_by_position(as_is.right, as_is.counts),
        right_by_position(free_right(written, pairs), as_is.counts),
        strict=True,
    )
    return {
        "model": own.name,
        "seed": seed,
        "step": own.steps[run],
        "tokens": as_is.tokens,
        "nats": as_is.total,
        "other_source": exchanged.total,
        "part": part,
        "by_position": [[n, right, free] for (n, right), (_, free) in at],
        "searches": {},
    }


def _keep(
    own: Models,
    records: Records,
    runs: dict[str, dict[str, Any]],
    final: tuple[str, Sequence[str], Sequence[str]],
    searches: Mapping[str, Beam | None],
) -> None:
    """Keep what models wrote and what it scores in the lab, and say where, and what is odd in it."""
    split, sources, references = final
    for search, answered in own.answers.items():
        beam = searches[search]
        how = {"beams": 1} if beam is None else asdict(beam)
        steps, saved = answered.steps.sum(1), answered.saved.sum(1)
        for place, run in enumerate(answered.runs):
            decode = records.keep_hypotheses(run, own.steps[run], split, answered.best(run), sources, how)
            records.keep_scores(decode, [references])
            tokens = [found[0].tokens if found else () for found in answered.answers[place]]
            runs[run]["searches"][search] = {
                "decode": decode.id,
                "saved": float(saved[place] / (steps[place] + saved[place]).clamp(min=1)),
                **oddities(answered.best(run), tokens, references, own.codec),
            }


def oddities(
    texts: Sequence[str], tokens: Sequence[Sequence[int]], references: Sequence[str], codec: PairCodec
) -> dict[str, float]:
    """What is odd in texts without reading their sources.

    Returns:
        ``repeating``: the share of texts in which a word stands twice in a row; ``unknown``: the share with a word that
        is in no vocabulary; ``length``: words of all over words of all references.
    """
    has_unknown = getattr(codec.target, "has_unknown", False)
    words = [text.split() for text in texts]
    n = max(1, len(texts))
    return {
        "repeating": sum(any(a == b for a, b in pairwise(own)) for own in words) / n,
        "unknown": sum(has_unknown and UNK in own for own in tokens) / n,
        "length": sum(map(len, words)) / max(1, sum(len(text.split()) for text in references)),
    }


def _scores(found: Iterable[Models]) -> list[dict[str, Any]]:
    """Each score of each family and search, over its seeds, with the signature by which it was computed."""
    out = []
    for own in found:
        for search, scores in own.scores.items():
            for name, statistics in scores.statistics.items():
                interval = score_interval(statistics)
                about = {"model": own.name, "search": search, "signature": scores.signatures.get(name, "")}
                out.append({**about, **_told(interval)})
    return out


def _told(found: ScoreInterval) -> dict[str, Any]:
    said = asdict(found)
    said["by_seed"] = [round(value, _DIGITS) for value in found.by_seed]
    for name in ("score", "low", "high"):
        said[name] = None if math.isnan(said[name]) else round(said[name], _DIGITS)  # JSON has no NaN
    return said


def _differences(found: Sequence[Models]) -> list[dict[str, Any]]:
    """Families by greedy search, and of each the beam against that, paired over seeds and sentences; corrected by Holm
    for all of them at once."""
    pairs = [(first, GREEDY, second, GREEDY) for place, second in enumerate(found) for first in found[place + 1 :]]
    pairs += [(own, search, own, GREEDY) for own in found for search in own.scores if search != GREEDY]
    out = []
    for first, first_by, second, second_by in pairs:
        seeds = [seed for seed in first.runs if seed in second.runs]
        for name in TESTED if seeds else ():
            above, below = (
                own.seeded(own.scores[by].statistics[name], seeds)
                for own, by in ((first, first_by), (second, second_by))
            )
            compared = compare_settings(above, below, (f"{first.name}, {first_by}", f"{second.name}, {second_by}"))
            out.append(_told(compared))
    corrected = Family.of([row["p"] for row in out]).corrected
    return [row | {"corrected": p} for row, p in zip(out, corrected, strict=True)]


def by_length(found: Sequence[Models], sources: Sequence[str]) -> list[dict[str, Any]]:
    """Exact match and the mean chrF2 of a sentence by words of the source, in groups of about as many lines.

    Returns:
        One row per family and group: ``model``, ``low`` and ``high`` (words), ``lines``, ``exact`` and ``chrf`` in
        percent, means over seeds and lines, both of greedy search.
    """
    words = np.array([len(source.split()) for source in sources])
    ends = sorted({int(end) for end in np.quantile(words, np.arange(1, GROUPS + 1) / GROUPS, method="inverted_cdf")})
    out = []
    for own in found:
        statistics = own.scores[GREEDY].statistics
        exact, chrf = statistics[EXACT].values[..., 0], chrf2(statistics[CHRF2].values)  # (R, n) each
        low = 0
        for high in ends:
            inside = (words > low) & (words <= high) if low else words <= high
            about = {"model": own.name, "low": int(words[inside].min()), "high": high, "lines": int(inside.sum())}
            means = {"exact": float(exact[:, inside].mean()), "chrf": float(chrf[:, inside].mean())}
            out.append({**about, **means})
            low = high
    return out
