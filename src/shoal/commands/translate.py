"""``shoal translate RUN… FILE``: let kept models answer every line of a file, and score what they write."""

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.parsing import Parser, add_lab
from shoal.errors import UserError, nearest, printable
from shoal.output import say

if TYPE_CHECKING:
    from shoal.decoding.answers import Answered
    from shoal.decoding.beam import Beam
    from shoal.lab import Records

_SEARCH = ("finished", "stop", "length_penalty")  # what only a search with several beams can be asked for


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids, or unambiguous beginnings, of runs")
    parser.add_argument("file", metavar="FILE", help="a source on each line: UTF-8, packed if it ends in .gz")
    add_lab(parser)
    parser.flag("reference", metavar="FILE", help="what is right, line by line: prints scores instead of texts")
    parser.flag("beams", type=int, default=1, help="places of the beam; 1 takes the likeliest token each time (1)")
    parser.flag(
        "finished",
        help="what a hypothesis that ends does with its place: releases it to the next, or keeps it (releases)",
    )
    parser.flag("stop", help="when the search is over: optimal, n_best, first or none (optimal)")
    parser.flag("length-penalty", type=float, help="compare log p / length ** x of hypotheses (0)")
    parser.flag("max-new-tokens", type=int, help="tokens of an answer at most, its end included (those of the model)")
    parser.flag("step", help="of the models: a step at which they were kept, or best (the last)")
    parser.flag("average", type=int, default=1, help="models of so many kept steps up to there, averaged (1)")
    parser.flag("name", help="what the hypotheses are kept as in the lab (that of the file)")


def run(options: argparse.Namespace) -> int:
    """Print what each run makes of each line, or how good that is; what was written is kept in the lab."""
    from shoal.lab import Lab
    from shoal.tasks.text.corpus import read_corpus
    from shoal.tasks.translation.corpus import lines_of

    beam = _beam(options)
    lines = lines_of(read_corpus([options.file]).text)
    references = None if options.reference is None else lines_of(read_corpus([options.reference]).text)
    if references is not None and len(references) != len(lines):
        raise UserError(
            f"a source and its reference must have as many lines, got {len(lines):,} in {printable(options.file)} and "
            f"{len(references):,} in {printable(options.reference)}"
        )
    records = Lab(options.lab).records(options.runs)
    found = _translate(records, lines, options, beam)
    texts = {run: answered.best(run) for answered in found for run in answered.runs}
    paths = _keep(records, texts, lines, options, beam)
    if references is None:
        _print_texts(texts)
        return 0
    _print_scores(records, texts, references, found)
    for path in paths:
        say(f"kept: {printable(path)}")
    return 0


def _beam(options: argparse.Namespace) -> "Beam | None":
    """How to search; None takes the likeliest token each time.

    Raises:
        UserError: what only a beam can be asked for, or no beam has.
    """
    asked = {name: value for name in _SEARCH if (value := getattr(options, name)) is not None}
    if options.beams == 1:
        for name in asked:
            raise UserError(
                f"--{name.replace('_', '-')} does not apply to one beam; it applies to --beams of 2 or more"
            )
        return None
    from shoal.decoding.beam import Beam

    return Beam(options.beams, **asked)


def _translate(
    records: "Records", lines: Sequence[str], options: argparse.Namespace, beam: "Beam | None"
) -> "list[Answered]":
    """What the runs answer, those of one shape at once.

    Raises:
        UserError: a run is of a task without sources, or has no such model; or the lines or the search do not go.
    """
    from shoal.commands.kept_models import models_by_shape
    from shoal.decoding.answers import answer
    from shoal.tasks.pairs.codec import codec_of

    for run, spec in records.specs.items():
        if "pair" not in spec.task_part.offers:
            raise UserError(
                f"translate needs sources, and run {run[:8]} has task {spec.task}; generate goes on with texts"
            )
    found = []
    for models in models_by_shape(records, "codec", _step(options.step), options.average):
        first = next(iter(models))
        spec = records.specs[first]
        codec = codec_of(records.kept(first))
        most = spec.task_part.sizes().sequence_length
        tokens = most if options.max_new_tokens is None else options.max_new_tokens
        if not 1 <= tokens <= most:
            raise UserError(f"--max-new-tokens must be from 1 to {most}, the positions of the model, got {tokens}")
        found.append(answer(models, spec.model_part.reads, codec, lines, tokens, beam))
    return found


def _step(value: str | None) -> int | str | None:
    if value is None or value == "best":
        return value
    if not value.isdecimal():
        raise UserError(
            f"--step must be a step at which models were kept, or best, got {value!r}{nearest(value, ['best'])}"
        )
    return int(value)


def _keep(
    records: "Records",
    texts: Mapping[str, Sequence[str]],
    lines: Sequence[str],
    options: argparse.Namespace,
    beam: "Beam | None",
) -> list[str]:
    """Keep what was written in the lab; where."""
    from dataclasses import asdict

    name = options.name or Path(options.file).name.partition(".")[0]
    how: dict[str, Any] = {"beams": 1} if beam is None else asdict(beam)
    how |= {"max_new_tokens": options.max_new_tokens, "step": options.step, "average": options.average}
    paths = []
    for run, own in texts.items():
        step = max(records.model_files(run)) if options.step in (None, "best") else int(options.step)
        kept = records.keep_hypotheses(run, step, name, own, lines, {k: v for k, v in how.items() if v is not None})
        paths.append(str(kept.path))
    return paths


def _print_texts(texts: Mapping[str, Sequence[str]]) -> None:
    """Line by line; which run wrote what, where there are several."""
    for several in zip(*texts.values(), strict=True):
        for run, text in zip(texts, several, strict=True):
            say(text if len(texts) == 1 else f"{run[:8]}  {text}")


def _print_scores(
    records: "Records", texts: Mapping[str, Sequence[str]], references: Sequence[str], found: "Sequence[Answered]"
) -> None:
    """The scores of each setting over its seeds, and by which rules they were computed."""
    from shoal.analysis.sentence_scores import text_scores
    from shoal.analysis.translation import score_interval
    from shoal.report.console import print_table
    from shoal.report.translation import settings_of, translation_table
    from shoal.tasks.pairs.settings import PairSettings

    part = next(iter(records.specs.values())).task_part
    assert isinstance(part, PairSettings)
    groups = settings_of(records.specs.values())
    rows = {}
    for label, runs in groups.items():
        scored = text_scores([texts[run] for run in runs], [references])
        for warning in scored.warnings:
            say(f"warning: {printable(warning)}")
        rows[label] = {name: score_interval(scored.statistics[name]) for name in part.scores}
        signatures = {name: said for name, said in scored.signatures.items() if name in part.scores}
    saved = {run: own for answered in found for run, own in zip(answered.runs, _saved(answered), strict=True)}
    print_table(translation_table(rows, {label: [saved[run] for run in runs] for label, runs in groups.items()}))
    for name, said in signatures.items():
        say(f"{name}: {said}")
    seeds = max(map(len, groups.values()))
    over = f"seeds and sentences: up to {seeds} seeds × {len(references):,}" if seeds > 1 else f"{len(references):,}"
    say(f"[95 % intervals] over {over} sentences; exact match: texts that are the reference, sign for sign")


def _saved(answered: "Answered") -> list[float]:
    """Of each run, the share of steps that its rule of stopping saved."""
    steps, saved = answered.steps.sum(1), answered.saved.sum(1)
    shares: list[float] = (saved / (steps + saved).clamp(min=1)).tolist()
    return shares
