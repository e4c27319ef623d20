"""Comparison of a published score with those of our runs: the rule, and its words."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import polars as pl

from shoal.analysis import holm
from shoal.analysis.prediction import Prediction, fit_log_normal, predict
from shoal.report import Cell, Table
from shoal.report.words import NOTHING, number
from shoal.studies.answers import bare_p
from shoal.studies.reproductions.verdict import ALPHA, CONSISTENT, INCONSISTENT, NOT_RUN, TOO_FEW
from shoal.studies.results import Results

NEAR = 1.1  # largest factor from the middle to an end of an interval that still decides
SCORE_RULE = (
    "Rule: logarithms of a score over seeds are taken to be normal, and the published one, which is of one run, is "
    "compared with the interval that holds one more run of ours with 95 %, ȳ ± t s √(1 + 1/N); sentences are the same "
    "for all and add nothing to it. P values are corrected by Holm over the published scores that were tried. Not "
    "consistent: the corrected p is at most 0.05. Too few runs to tell: it is not, but the interval, widened for what "
    f"was tried, reaches further than a factor of {NEAR} to a side, or there are fewer than two runs. Consistent: "
    "neither."
)


@dataclass(frozen=True)
class PublishedScore:
    """Published score of one run.

    Attributes:
        what: description of the score.
        value: published value.
        source: source of the value.
        name: name of the same score of our runs.
        where: settings of our runs that it is compared with.
    """

    what: str
    value: float
    source: str
    name: str
    where: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class ScoreVerdict:
    """Verdict of our runs on a published score.

    Attributes:
        published: the score.
        ours: score of each of our runs.
        word: as in a :class:`~shoal.studies.reproductions.verdict.Verdict`.
        prediction: prediction interval of one more run of ours, and the p of the published one; None of fewer than two
            runs.
        p_holm: p value corrected for all comparisons of the reproduction.
    """

    published: PublishedScore
    ours: tuple[float, ...]
    word: str
    prediction: Prediction | None = None
    p_holm: float | None = None


def judge_scores(
    published: Sequence[PublishedScore], ours: Mapping[str, Mapping[str, float]], results: Results
) -> list[ScoreVerdict]:
    """Verdicts on published scores, corrected for their number.

    Args:
        published: the published scores.
        ours: our scores by name, by run.
        results: results of the runs, for their settings.
    """
    verdicts = []
    for score in published:
        runs = results.of(**score.where).specs
        verdicts.append(compare_score(score, [value for run, value in ours.get(score.name, {}).items() if run in runs]))
    ps = [None if one.prediction is None else one.prediction.p for one in verdicts]
    tests = sum(p is not None for p in ps)
    return [_worded(one, p, tests) for one, p in zip(verdicts, holm(ps), strict=True)]


def compare_score(published: PublishedScore, values: Sequence[float]) -> ScoreVerdict:
    """Verdict on a published score by our scores, before correction for others."""
    ours = fit_log_normal(values, [True] * len(values))
    if ours is None:
        return ScoreVerdict(published, tuple(values), TOO_FEW if values else NOT_RUN)
    return ScoreVerdict(published, tuple(values), CONSISTENT, predict(ours, published.value))


def _worded(verdict: ScoreVerdict, p_holm: float | None, tests: int) -> ScoreVerdict:
    if verdict.prediction is None or p_holm is None:
        return verdict
    word = TOO_FEW if verdict.prediction.factor(tests) > NEAR else CONSISTENT
    return replace(verdict, word=INCONSISTENT if p_holm <= ALPHA else word, p_holm=p_holm)


def told_scores(verdicts: Sequence[ScoreVerdict]) -> list[str]:
    """Sentences on the verdicts."""
    return [_sentence(verdict) for verdict in verdicts]


def _sentence(verdict: ScoreVerdict) -> str:
    score, ours = verdict.published, verdict.ours
    text = f"{score.what}: published {score.value:g}"
    if not ours:
        return f"{text}; none of our runs has these settings."
    mean = sum(ours) / len(ours)
    text += f", ours {number(mean, 4)} (mean of {len(ours)})"
    if verdict.prediction is None:
        return f"{text}: {verdict.word}."
    low, high = (number(end, 4) for end in (verdict.prediction.low, verdict.prediction.high))
    return (
        f"{text}, one more run of ours would have {low} to {high} with 95 %: {verdict.word} "
        f"(p {bare_p(verdict.prediction.p)}, by Holm {bare_p(verdict.p_holm)})."
    )


def scores_beside(verdicts: Sequence[ScoreVerdict]) -> Table:
    """Table of published scores beside ours."""
    rows, data = [], []
    for verdict in verdicts:
        score, ours, prediction = verdict.published, verdict.ours, verdict.prediction
        mean = sum(ours) / len(ours) if ours else None
        spans = NOTHING if prediction is None else f"{number(prediction.low, 4)} to {number(prediction.high, 4)}"
        ps = (None if prediction is None else prediction.p, verdict.p_holm)
        texts = [
            f"{score.value:g}",
            score.source,
            str(len(ours)),
            number(mean, 4),
            spans,
            *map(bare_p, ps),
            verdict.word,
        ]
        rows.append((score.what, [Cell(text) for text in texts]))
        ends = {
            "low": prediction and prediction.low,
            "high": prediction and prediction.high,
            "p": ps[0],
            "p_holm": ps[1],
        }
        about = {"what": score.what, "published": score.value, "N": len(ours), "mean": mean, "by_run": list(ours)}
        data.append({**about, **ends, "verdict": verdict.word})
    caption = (
        "Published scores beside ours: how many runs, their mean, where one more of ours would lie with 95 %, p of the "
        "published score, corrected by Holm for those that were tried, and the verdict by the rule above."
    )
    header = ["score", "published", "by", "N", "ours", "95 % of runs", "p", "p (Holm)", "verdict"]
    return Table("published", header, rows, caption, pl.DataFrame(data, infer_schema_length=None))
