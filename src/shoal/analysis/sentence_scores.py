"""Sentence statistics of sacreBLEU: BLEU, BLEU in lower case and chrF2; and exact match.

Texts are detokenised and cased, as a reader would see them. The counts of a sentence, its tokenisation and the
signature are the library's (extra ``translation``); corpus scores are made of their sums in
:mod:`shoal.analysis.corpus_scores` and equal the library's to 1e-9.

Source: Post 2018, "A Call for Clarity in Reporting BLEU Scores".
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from shoal.analysis.corpus_scores import BLEU_ORDERS, Array, SentenceStatistics, bleu, chrf2
from shoal.errors import UserError, nearest

if TYPE_CHECKING:
    from types import ModuleType

    from sacrebleu.metrics.base import Metric

TOKENIZERS = ("13a", "intl", "char", "zh", "none")  # of BLEU: those that need no further library and no download
BLEU, BLEU_LC, CHRF2, EXACT = SCORES = "BLEU", "BLEU lc", "chrF2", "exact match"


@dataclass(frozen=True, eq=False)
class TextScores:
    """Scores of the translations of one setting's models.

    Attributes:
        statistics: statistics of the requested scores by name, in the order of :data:`SCORES`: BLEU (cased), BLEU lc,
            chrF2, and the share of sentences that equal a reference character by character, in percent.
        signatures: sacreBLEU's signatures, by the same names; exact match has none.
        warnings: warnings to show beside these numbers, one line each.
    """

    statistics: Mapping[str, SentenceStatistics]
    signatures: Mapping[str, str]
    warnings: tuple[str, ...]


def check_scores(names: Sequence[str]) -> None:
    """Refuse scores that cannot be computed here.

    Raises:
        UserError: there is no such score, or it needs sacrebleu, which is missing.
    """
    for name in names:
        if name not in SCORES:
            raise UserError(f"unknown score {name!r}: one of {', '.join(SCORES)}{nearest(name, SCORES)}")
    if set(names) - {EXACT}:
        _import()


def text_scores(
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[str]],
    tokenizer: str = "13a",
    names: Sequence[str] = SCORES,
) -> TextScores:
    """Sentence statistics of translations for each score.

    White space at the end of a line does not count, as sacreBLEU's command strips it, and a line end within a text is
    a space, as in a file that has a line for each.

    Args:
        hypotheses: the translations of each of R seeds' models, n texts each.
        references: one or several references, n texts each.
        tokenizer: tokenizer of BLEU, one of :data:`TOKENIZERS`.
        names: names of the scores, from :data:`SCORES`; exact match alone needs no library.

    Raises:
        UserError: the numbers of texts differ or are 0, there is no such tokenizer or score, or sacrebleu is missing.
    """
    check_scores(names)
    if tokenizer not in TOKENIZERS:
        raise UserError(
            f"unknown tokenizer {tokenizer!r}: one of {' '.join(TOKENIZERS)}{nearest(tokenizer, TOKENIZERS)}"
        )
    lengths = {len(texts) for texts in (*hypotheses, *references)}
    if not hypotheses or not references or len(lengths) != 1 or 0 in lengths:
        counts = " and ".join(f"{len(texts):,}" for texts in (*hypotheses, *references)) or "none"
        raise UserError(f"hypotheses and references must have equally many sentences, at least one; got {counts}")
    systems = [[_line(text) for text in texts] for texts in hypotheses]
    wanted = [[_line(text) for text in texts] for texts in references]
    statistics, signatures = {}, {}
    with _library_warnings() as warnings:
        for name, (metric, score) in _metrics(names, wanted, tokenizer).items():
            values = [metric._extract_corpus_statistics(texts, None) for texts in systems]
            statistics[name] = SentenceStatistics(name, np.array(values, dtype=np.float64), score)
            signatures[name] = str(metric.get_signature())
    if EXACT in names:
        rows = [zip(texts, *wanted, strict=True) for texts in systems]
        right = [[100.0 * (text in options) for text, *options in row] for row in rows]
        statistics[EXACT] = SentenceStatistics.of_numbers(EXACT, np.array(right))
    if BLEU in names:
        warnings += [line for sums in statistics[BLEU].values.sum(axis=1) for line in _doubts(sums)]
    return TextScores(statistics, signatures, tuple(dict.fromkeys(warnings)))


def _metrics(
    names: Sequence[str], references: Sequence[Sequence[str]], tokenizer: str
) -> "dict[str, tuple[Metric, Callable[[Array], Array]]]":
    """Metrics of the library, each with the function from sums to its corpus score."""
    metrics: dict[str, tuple[Metric, Callable[[Array], Array]]] = {}
    for name in (BLEU, BLEU_LC):
        if name in names:
            metrics[name] = _import().BLEU(references=references, tokenize=tokenizer, lowercase=name == BLEU_LC), bleu
    if CHRF2 in names:
        metrics[CHRF2] = _import().CHRF(references=references), chrf2
    return metrics


def _line(text: str) -> str:
    return text.replace("\n", " ").rstrip()


def _doubts(sums: Array) -> Iterator[str]:
    """Warnings where a corpus BLEU, of the sums of one seed, is 0 or smoothed."""
    right, total = sums[2 : 2 + BLEU_ORDERS], sums[2 + BLEU_ORDERS :]
    if not right.any():
        yield "BLEU is 0: no word of a hypothesis is in its reference"
        return
    for order in range(1, BLEU_ORDERS + 1):
        if total[order - 1] == 0:
            yield f"BLEU is 0: no hypothesis has {order} tokens, so that there is no {order}-gram to count"
            return
        if right[order - 1] == 0:
            counted = f"1/{2 ** int((right[:order] == 0).sum())}"
            yield f"no {order}-gram of the hypotheses is in its reference: BLEU takes {counted} for one (smooth:exp)"


@contextmanager
def _library_warnings() -> Iterator[list[str]]:
    """Warnings of sacreBLEU, collected instead of printed on standard error."""
    messages: list[str] = []

    class _Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            messages.append(f"sacrebleu: {record.getMessage()}")

    logger, handler = logging.getLogger("sacrebleu"), _Handler(logging.WARNING)
    before = logger.propagate
    logger.propagate = False
    logger.addHandler(handler)
    try:
        yield messages
    finally:
        logger.removeHandler(handler)
        logger.propagate = before


def _import() -> "ModuleType":
    try:
        import sacrebleu
    except ImportError:
        raise UserError("scores of translations need the sacrebleu library: pip install 'shoal[translation]'") from None
    return sacrebleu
