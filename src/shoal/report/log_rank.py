"""Log-rank tests of the time to generalise in words, corrected for the number of tests on a page."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from shoal.analysis.columns import Names
from shoal.analysis.correction import Family
from shoal.analysis.log_rank import DRAWS, LogRankTest, logrank, logrank_pairs
from shoal.report.survival import labelled_times
from shoal.report.words import capitalised, counted, listed, number, p_value

_MOST_PAIRS = 6
_LEVEL = 0.05


@dataclass(frozen=True)
class TimesQuestion:
    """Comparison of groups of runs in their times to generalise, to be answered by a log-rank test.

    Attributes:
        times: ``time``, ``observed``, the columns below and perhaps ``state``, one row per run.
        by: the setting whose values are the groups.
        unit: columns whose values are equal in runs that share a seed.
        within: the other settings that vary; only runs that agree in them are compared.
    """

    times: pl.DataFrame
    by: str
    unit: Names = "seed"
    within: Names = ()


def logrank_sentences(questions: Sequence[TimesQuestion]) -> list[str]:
    """Result of the log-rank test of each question in words, p corrected for all questions together (Holm).

    Of more than two groups the pairs are compared where the corrected p is below 0.05, corrected for their number
    (Shaffer).

    Raises:
        UserError: a column is missing, or a question is about no runs.
    """
    labelled = [labelled_times(question.times, question.by)[0] for question in questions]
    tests = [logrank(times, "label", q.unit, q.within) for times, q in zip(labelled, questions, strict=True)]
    family = Family.of([test.p for test in tests], [test.smallest_p for test in tests])
    return [
        _sentence(question, times, test, corrected, family)
        for question, times, test, corrected in zip(questions, labelled, tests, family.corrected, strict=True)
    ]


def _sentence(
    question: TimesQuestion, labelled: pl.DataFrame, test: LogRankTest, corrected: float | None, family: Family
) -> str:
    by = question.by
    if test.groups < 2:
        return f"All runs are in one group of {by}: there is nothing to compare."
    if test.p is None or test.chi2 is None or corrected is None:
        if test.alone == len(labelled):
            return f"Nothing can be compared: no two groups of {by} have runs that agree in {listed(test.blocks)}."
        return f"Too few runs reached the threshold to compare the {test.groups} groups of {by} by a log-rank test."
    sizes = _sizes(labelled)
    parts = [
        f"Log-rank test over {test.groups} groups of {by}: χ² = {test.chi2:.2f} with {counted(test.df, 'degree')} of "
        f"freedom, {p_value(test.p)} by permutation ({_meaning(test)})"
    ]
    if family.tests > 1:
        parts.append(f"corrected for the {family.tests} log-rank tests of this page (Holm) {p_value(corrected)}")
    if test.smallest_p is not None and test.smallest_p > _LEVEL:
        parts.append(f"with {sizes} no p below {number(test.smallest_p, 2)} is possible")
    elif family.floor is not None and family.floor > _LEVEL:
        parts.append(f"with so many tests no corrected p below {number(family.floor, 2)} is possible")
    if test.alone:
        verb = "is" if test.alone == 1 else "are"
        parts.append(f"{counted(test.alone, 'run')} without such a partner in another group {verb} not exchanged")
    evidence = f"{'; '.join(parts)}."
    if corrected >= _LEVEL:
        groups = _groups(by, labelled) if test.groups == 2 else f"no two groups of {by}"
        cannot = "cannot" if test.groups == 2 else "can"
        return f"{capitalised(groups)} {cannot} be told apart by their times, with {sizes}. {evidence}"
    pairs = logrank_pairs(labelled, "label", question.unit, question.within)
    clipped = pl.col("p_corrected").clip(
        lower_bound=corrected
    )  # a pair is no clearer than that there is any difference
    if test.groups == 2:
        first, second = _in_order(pairs.row(0, named=True))
        return f"{capitalised(_group(by, first))} reached it sooner than {second}. {evidence}"
    return f"The groups of {by} differ in their times. {evidence} {_pairs(pairs.with_columns(clipped), sizes)}"


def _groups(by: str, labelled: pl.DataFrame) -> str:
    """``LSTM and GPT``, or ``weight_decay 0.5 and 1``."""
    first, second = labelled["label"].unique(maintain_order=True)
    return f"{_group(by, first)} and {second}"


def _group(by: str, label: str) -> str:
    """A group by its name, or by its setting where it is a number or a word without a capital letter."""
    return label if label[:1].isupper() else f"{by} {label}"


def _meaning(test: LogRankTest) -> str:
    """Exchanges among which the p value is a share."""
    which = "all" if test.exact else f"{DRAWS:,} random"
    where = f"runs of the same {listed(test.blocks)}" if test.blocks else "runs"
    return f"{which} exchanges of groups among {where}"


def _sizes(labelled: pl.DataFrame) -> str:
    """``2 runs in a group`` or ``2 to 4 runs in a group``."""
    sizes = labelled.group_by("label").len()["len"].to_list()
    low, high = min(sizes), max(sizes)
    count = f"{low} to {high}" if high > low else f"{low}"
    return f"{count} run{'s' if high > 1 else ''} in a group"


def _pairs(pairs: pl.DataFrame, sizes: str) -> str:
    """Pairs that differ at 5 % after Shaffer's correction; of these alone it is said which group was earlier."""
    known = pairs.filter(pl.col("p_corrected").is_not_null()).sort("p_corrected", maintain_order=True)
    floor, all_pairs = known["smallest_p_corrected"].min(), counted(len(known), "pair")
    if not isinstance(floor, float):
        return "No pair can be compared: too few runs reached the threshold."
    if floor > _LEVEL:
        return (
            f"With {sizes} no pair can differ at {_LEVEL} after correction for {all_pairs} (Shaffer): no corrected p "
            f"below {number(floor, 2)} is possible."
        )
    different = [_pair(row) for row in known.filter(pl.col("p_corrected") < _LEVEL).rows(named=True)]
    open_ones = [_pair(row) for row in known.filter(pl.col("p_corrected") >= _LEVEL).rows(named=True)]
    rest = "; …" if len(different) > _MOST_PAIRS else ""
    sentence = (
        f"Of {all_pairs} {len(different) or 'none'} differ{'s' if len(different) == 1 else ''} at {_LEVEL} after "
        f"correction for their number (Shaffer){': ' if different else ''}{'; '.join(different[:_MOST_PAIRS])}{rest}."
    )
    few = len(pairs) <= _MOST_PAIRS and open_ones
    return sentence + (f" No significant difference: {'; '.join(open_ones)}." if few else "")


def _pair(row: dict[str, Any]) -> str:
    """``GPT before LSTM (p = 0.01)`` where the pair differs, ``GPT and LSTM (p = 0.2)`` where it does not."""
    if row["p_corrected"] >= _LEVEL:
        return f"{row['first']} and {row['second']} ({p_value(row['p_corrected'])})"
    return f"{' before '.join(_in_order(row))} ({p_value(row['p_corrected'])})"


def _in_order(row: dict[str, Any]) -> tuple[str, str]:
    """Groups of a pair, the sooner one first."""
    return (row["first"], row["second"]) if row["z"] > 0 else (row["second"], row["first"])
