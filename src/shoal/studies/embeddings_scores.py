"""Measurements of the study of embeddings: losses and translations of the kept models, by arm, and paired differences.

An arm is a model family with one kind of rows, frozen or tuned. All of it is JSON, kept with the study's note.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from shoal.analysis.correction import Family
from shoal.analysis.forced import forced
from shoal.analysis.sentence_scores import BLEU, TextScores, text_scores
from shoal.analysis.translation import compare_settings, score_interval
from shoal.analysis.trends import student
from shoal.decoding.answers import answer
from shoal.fast.denormals import flushed_denormals
from shoal.lab import Records
from shoal.spec import RunSpec
from shoal.studies.language_scores import best_steps
from shoal.studies.translation_scores import encoded
from shoal.tasks.build import calling
from shoal.tasks.pairs.codec import codec_of

AGAINST = (
    ("pretrained", "permuted"),
    ("pretrained", "random"),
    ("pretrained", "initial"),
    ("pretrained", "word2vec"),
    ("word2vec", "initial"),
)


@dataclass(frozen=True)
class Arm:
    """Runs of one family with one kind of rows, by seed.

    Attributes:
        model, rows, frozen: the arm.
        specs: specs by seed.
    """

    model: str
    rows: str
    frozen: bool
    specs: Mapping[int, RunSpec]

    @property
    def name(self) -> str:
        """Name of the arm, unique."""
        return f"{self.model}, {self.rows}, {'frozen' if self.frozen else 'tuned'}"


def measured(specs: Sequence[RunSpec], records: Records) -> dict[str, Any]:
    """Measurements that the report needs and training does not record.

    Returns:
        ``split``, ``lines`` and ``tokens`` of the final scores; ``arms``, of each its ``nats`` per token and its
        ``bleu`` by seed, with an interval; ``differences``; ``coverage``, lines of text; ``signature``.

    Raises:
        UserError: a file cannot be read, or sacrebleu is missing.
    """
    task: Any = specs[0].task_part
    split, sources, references = task.final_lines()
    steps = best_steps(records)
    arms = list(_arms(specs, steps))
    if not arms:
        return {}
    rows, scores, tokens = [], {}, 0
    for arm in arms:
        with flushed_denormals():
            nats, scores[arm.name], tokens = _scored(arm, steps, records, sources, references)
        interval = score_interval(scores[arm.name].statistics[BLEU])
        low, high, _ = student(nats)
        about = {"model": arm.model, "rows": arm.rows, "frozen": arm.frozen, "seeds": list(arm.specs)}
        bleu = {"bleu": interval.score, "bleu_low": _number(interval.low), "bleu_high": _number(interval.high)}
        rows.append({**about, "nats": nats, "nats_low": low, "nats_high": high, **bleu})
    first = next(iter(arms[0].specs.values()))
    return {
        "split": split,
        "lines": len(sources),
        "tokens": tokens,
        "arms": rows,
        "differences": _differences(arms, {row["name"]: row for row in _named(arms, rows)}, scores),
        "coverage": records.kept(first.id).get("embeddings", {}),
        "signature": scores[arms[0].name].signatures.get(BLEU, ""),
    }


def _arms(specs: Sequence[RunSpec], steps: Mapping[str, int]) -> Iterator[Arm]:
    by_arm: dict[tuple[str, str, bool], dict[int, RunSpec]] = {}
    for spec in specs:
        if spec.id in steps:
            by_arm.setdefault((spec.model, spec.embedding_rows, spec.freeze_embeddings), {})[spec.seed] = spec
    for arm, of_arm in by_arm.items():
        yield Arm(*arm, of_arm)


def _named(arms: Sequence[Arm], rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for arm, row in zip(arms, rows, strict=True):
        yield {"name": arm.name, **row}


def _scored(
    arm: Arm, steps: Mapping[str, int], records: Records, sources: Sequence[str], references: Sequence[str]
) -> tuple[list[float], TextScores, int]:
    """Nats per token of each seed, scores of the greedy translations, and the number of tokens."""
    models = {spec.id: records.model(spec.id, steps[spec.id]) for spec in arm.specs.values()}
    spec = next(iter(arm.specs.values()))
    codec = codec_of(records.kept(spec.id))
    reads = spec.model_part.reads
    pairs, _ = encoded(codec, sources, references)
    losses = [forced(model, reads, pairs, calling=calling(spec)) for model in models.values()]
    answered = answer(models, reads, codec, sources, spec.task_part.sizes().sequence_length, None)
    texts = text_scores([answered.best(run) for run in models], [references])
    return [loss.total / loss.tokens for loss in losses], texts, losses[0].tokens


def _differences(
    arms: Sequence[Arm], rows: Mapping[str, Mapping[str, Any]], scores: Mapping[str, TextScores]
) -> list[dict[str, Any]]:
    """Differences of arms in nats per token, paired over seeds, and in BLEU, over seeds and sentences; p by Holm."""
    out: list[dict[str, Any]] = []
    for first, second in _compared(arms):
        seeds = [seed for seed in first.specs if seed in second.specs]
        if not seeds:
            continue
        places = [[list(arm.specs).index(seed) for seed in seeds] for arm in (first, second)]
        names = {"first": first.name, "second": second.name, "seeds": len(seeds)}
        above, below = (np.array(rows[arm.name]["nats"])[at] for arm, at in zip((first, second), places, strict=True))
        low, high, p = student((above - below).tolist())
        out.append({**names, "score": "nats", "mean": float((above - below).mean()), "low": low, "high": high, "p": p})
        statistics = [scores[arm.name].statistics[BLEU] for arm in (first, second)]
        one, other = (replace(s, values=s.values[at]) for s, at in zip(statistics, places, strict=True))
        found_difference = compare_settings(one, other)
        ends = {"low": _number(found_difference.low), "high": _number(found_difference.high)}
        p = found_difference.p
        out.append({**names, "score": BLEU, "mean": found_difference.score, **ends, "p": p})
    corrected = Family.of([row["p"] for row in out]).corrected
    return [row | {"corrected": p} for row, p in zip(out, corrected, strict=True)]


def _compared(arms: Sequence[Arm]) -> Iterator[tuple[Arm, Arm]]:
    """Arms to compare: rows of :data:`AGAINST` in the same family and state, and pretrained rows tuned and frozen."""
    by_name = {(arm.model, arm.rows, arm.frozen): arm for arm in arms}
    for model, frozen in dict.fromkeys((arm.model, arm.frozen) for arm in arms):
        for rows, other in AGAINST:
            pair = by_name.get((model, rows, frozen)), by_name.get((model, other, frozen))
            if pair[0] is not None and pair[1] is not None:
                yield pair[0], pair[1]
    for model in dict.fromkeys(arm.model for arm in arms):
        tuned, frozen_arm = (by_name.get((model, "pretrained", frozen)) for frozen in (False, True))
        if tuned is not None and frozen_arm is not None:
            yield tuned, frozen_arm


def _number(value: float) -> float | None:
    return None if value != value else value  # JSON has no NaN
