"""``shoal score HYPOTHESES --reference FILE``: BLEU and chrF of translations, their intervals, and paired tests."""

import argparse
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser
from shoal.errors import UserError, nearest, printable
from shoal.output import say

if TYPE_CHECKING:
    from shoal.analysis.sentence_scores import TextScores
    from shoal.analysis.translation import ScoreDifference, ScoreInterval
    from shoal.report.table import Table

_TOKENIZERS = ("13a", "intl", "char", "zh", "none")  # shoal.analysis.sentence_scores.TOKENIZERS, without its numpy


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "hypotheses",
        nargs="+",
        metavar="HYPOTHESES",
        help="what one system wrote: a file of one text per line (perhaps .gz), or several joined by commas, one per "
        "seed, in the same order for each system; the first system is the one that others are compared with",
    )
    parser.flag("reference", nargs="+", metavar="FILE", help="references: a file of as many lines, or several files")
    parser.flag(
        "tokenize", default="13a", metavar="NAME", help=f"tokenizer of BLEU: {' '.join(_TOKENIZERS)}; default 13a"
    )
    parser.flag(
        "resamples",
        type=int,
        default=1000,
        help="bootstrap resamples of the test set for an interval, 20 to 100,000; 0 for no intervals; default 1000",
    )
    parser.flag(
        "trials",
        type=int,
        default=10_000,
        help="random exchanges for the p value of two systems of one seed each, 20 to 100,000, or 0; default 10000",
    )
    parser.flag("seed", type=int, default=0, help="seed of the resampling and the exchanges; default 0")


def run(options: argparse.Namespace) -> int:
    """Score every system, and compare each with the first."""
    if not options.reference:
        raise UserError("score needs references: --reference FILE")
    if options.tokenize not in _TOKENIZERS:
        close = nearest(options.tokenize, _TOKENIZERS)
        raise UserError(f"--tokenize must be one of {' '.join(_TOKENIZERS)}, got {options.tokenize!r}{close}")
    systems = _files(options.hypotheses)

    from shoal.analysis.bootstrap import check_resampling
    from shoal.analysis.sentence_scores import text_scores

    check_resampling(options.resamples, options.seed)
    if options.trials != 0 and not 20 <= options.trials <= 100_000:
        raise UserError(f"--trials must be 0 or an integer from 20 to 100,000, got {options.trials}")
    references = [_lines(path) for path in options.reference]
    n, first = len(references[0]), options.reference[0]
    for path, lines in zip(options.reference, references, strict=True):
        _check_count(path, len(lines), first, n)
    scores = {}
    for name, paths in systems.items():
        texts = [_lines(path) for path in paths]
        for path, lines in zip(paths, texts, strict=True):
            _check_count(path, len(lines), first, n)
        scores[name] = text_scores(texts, references, options.tokenize)
    _show(scores, options)
    return 0


def _files(words: Sequence[str]) -> dict[str, list[str]]:
    """The files of each system, by its word.

    Raises:
        UserError: a word is there twice, names no file, or has another number of files than the first.
    """
    systems: dict[str, list[str]] = {}
    seen: list[list[str]] = []
    for word in words:
        paths = word.split(",")
        if not all(paths):
            raise UserError(f"{word!r} must be files joined by commas, and has a comma with no file beside it")
        files = [os.path.realpath(path) for path in paths]  # h1 and ./h1 are one
        if files in seen or len(set(files)) < len(files):
            raise UserError(f"{word!r} is given twice: it would be compared with itself")
        seen.append(files)
        systems[word] = paths
    first = words[0]
    for word, paths in systems.items():
        if len(paths) != len(systems[first]):
            raise UserError(
                f"{first!r} has {len(systems[first])} files and {word!r} {len(paths)}: to be paired, systems need the "
                "same seeds in the same order"
            )
    return systems


def _lines(path: str) -> list[str]:
    r"""The lines of a file, which end at ``\n`` alone, as for sacreBLEU.

    Raises:
        UserError: it is missing, empty, or not UTF-8 (the first such byte is named).
    """
    from shoal.tasks.text.corpus import read_corpus

    lines = read_corpus([path]).text.split("\n")
    return lines if lines[-1] else lines[:-1]


def _check_count(path: str, lines: int, reference: str, n: int) -> None:
    if lines != n:
        raise UserError(f"{path} has {lines:,} lines and {reference} has {n:,}: they must have equally many")


def _show(scores: "Mapping[str, TextScores]", options: argparse.Namespace) -> None:
    from shoal.analysis.sentence_scores import BLEU, CHRF2
    from shoal.analysis.translation import compare_all, score_interval
    from shoal.report.console import print_table, print_titled

    for name, scored in scores.items():
        for warning in scored.warnings:
            say(f"warning: {printable(name)}: {printable(warning)}")
    intervals = {
        name: [score_interval(s, options.resamples, options.seed) for s in scored.statistics.values()]
        for name, scored in scores.items()
    }
    first = next(iter(intervals.values()))[0]
    print_table(_scores_table(intervals))
    for name, signature in next(iter(scores.values())).signatures.items():
        say(f"{name}: {signature}")
    say(_about(first, options))
    if len(scores) < 2:
        return
    differences = [
        difference
        for score in (BLEU, CHRF2)
        for difference in compare_all(
            {name: scored.statistics[score] for name, scored in scores.items()},
            next(iter(scores)),
            options.resamples,
            options.trials,
            options.seed,
        )
    ]
    print_titled("paired", _differences_table(differences, next(iter(scores))))
    say(_about_tests(differences[0], options))


def _about(first: "ScoreInterval", options: argparse.Namespace) -> str:
    """Numbers of seeds, sentences and resamples behind the intervals, in words."""
    from shoal.report.words import counted

    files = f"{first.seeds} seeds × " if first.seeds > 1 else ""
    size = f"{files}{counted(first.sentences, 'sentence')}"
    if not options.resamples or first.low != first.low:
        return f"{size}; no intervals"
    over = first.over if first.seeds > 1 else "sentences alone, not over seeds"
    return f"[95 % intervals] over {over}: {size}, {options.resamples:,} resamples, seed {options.seed}"


def _about_tests(first: "ScoreDifference", options: argparse.Namespace) -> str:
    if first.p is None:
        return "no p values"
    how = (
        f"approximate randomisation over sentences, {options.trials:,} trials: of these models, not of other seeds"
        if first.seeds == 1
        else "of the distribution of the interval, over seeds and sentences"
    )
    return f"p: two-sided, {how}; Holm: corrected for the number of systems compared"


def _interval(found: "ScoreInterval", sign: str = "") -> str:
    middle = f"{found.score:{sign}.2f}"
    return middle if found.low != found.low else f"{middle} [{found.low:{sign}.2f}, {found.high:{sign}.2f}]"


def _scores_table(intervals: "Mapping[str, Sequence[ScoreInterval]]") -> "Table":
    from shoal.report.table import Cell, Table

    header = ["system", *(interval.name for interval in next(iter(intervals.values())))]
    rows = [(name, [Cell(_interval(interval)) for interval in of_system]) for name, of_system in intervals.items()]
    return Table("scores", header, rows, "Scores of each system.")


def _differences_table(found: "Sequence[ScoreDifference]", baseline: str) -> "Table":
    from shoal.report.table import Cell, Table

    rows = [
        (it.first, [Cell(it.name), Cell(_interval(it, "+")), Cell(_p(it.p)), Cell(_p(it.corrected))]) for it in found
    ]
    return Table("paired", ["system", "score", "difference", "p", "p (Holm)"], rows, f"Differences from {baseline}.")


def _p(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}" if value >= 1e-4 else "< 0.0001"
