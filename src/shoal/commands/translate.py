"""``shoal translate RUN… FILE``: let kept models answer every line of a file, and score what they write."""

import argparse
import re
import sys
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.kept_models import add_models, add_search, read_beam, read_steps
from shoal.commands.parsing import Parser, add_lab
from shoal.errors import DiskError, UserError, printable
from shoal.output import say

if TYPE_CHECKING:
    from shoal.decoding.answers import Answered
    from shoal.decoding.beam import Beam
    from shoal.lab import Records
    from shoal.report.table import Table
    from shoal.tasks.pairs.codec import PairCodec


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids or their beginnings, or names of runs or groups")
    parser.add_argument(
        "file", metavar="FILE", help="file with a source on each line: UTF-8, gzip-compressed if its name ends in .gz"
    )
    add_lab(parser)
    parser.flag("reference", metavar="FILE", help="references, line by line: prints scores instead of answers")
    add_search(parser)
    parser.flag(
        "max-new-tokens", type=int, help="tokens of an answer at most, its end included; default those of the model"
    )
    add_models(parser, several=True)
    parser.flag("name", help="name under which the lab keeps the answers; default that of the file")
    parser.flag(
        "tree",
        metavar="FILE",
        help="file for the search tree of one run and one line; it ends in .html .svg .png .pdf .txt or .json",
    )


def run(options: argparse.Namespace) -> int:
    """Print the translations of each run, or their scores against references; keep the translations in the lab."""
    from shoal.lab import Lab
    from shoal.lab.names import check_name

    beam = read_beam(options, "tree")
    steps = read_steps(options.step)
    name = check_name(_name(options), "decode")
    lines = _lines(options.file)
    references = None if options.reference is None else _lines(options.reference)
    if references is not None and len(references) != len(lines):
        raise UserError(
            f"a source and its reference must have as many lines, got {len(lines):,} in {printable(options.file)} and "
            f"{len(references):,} in {printable(options.reference)}"
        )
    records = Lab(options.lab).records(options.runs)
    _check(records, steps, lines, options)
    names = [] if references is None else _names(records)
    groups, notes = _translate(records, lines, options, beam, steps)
    answers = [answered for answered, _ in groups]
    texts = {model: answered.best(model) for answered in answers for model in answered.runs}
    scores = None if references is None else _scores(records, steps, texts, lines, references, names, answers)
    table, about, warnings = scores or (None, [], [])
    # What is kept is kept once nothing else can be wrong any more, and what the lab refuses is shown all the same.
    if options.tree is not None:
        _draw(options, *groups[0], lines)
    paths, refused = _keep(records, steps, texts, lines, name, _settings(options, beam))
    for note in [*notes, *warnings]:  # beside what may be piped into a file, line by line
        print(printable(note), file=sys.stderr)
    if table is None:
        shown = {_shown(run, step, steps): texts[_model(run, step, steps)] for run in records.ids for step in steps}
        _print_texts(shown)
    else:
        from shoal.report.console import print_table

        print_table(table)
        for line in [*about, *(f"kept: {path}" for path in paths)]:
            say(line)
    if refused is not None:
        raise refused
    return 0


def _model(run: str, step: int | str | None, steps: Sequence[int | str | None]) -> str:
    """Name of a run's model, unique among those that answer: ``RUN``, or ``RUN@STEP`` where there are several steps."""
    return f"{run}@{step}" if len(steps) > 1 else run


def _shown(run: str, step: int | str | None, steps: Sequence[int | str | None]) -> str:
    """As :func:`_model`, with the beginning of the run's id."""
    return _model(run[:8], step, steps)


def _name(options: argparse.Namespace) -> str:
    """Name under which the lab keeps the hypotheses: that of ``--name``, or of the file with ``_`` for other signs."""
    if options.name is not None:
        return str(options.name)
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", Path(options.file).name.partition(".")[0])
    return stem.strip("_-")[:80] or "source"


def _lines(path: str) -> list[str]:
    """The lines of a file.

    Raises:
        UserError: it is a folder, missing, empty, damaged or not UTF-8.
    """
    from shoal.tasks.text.corpus import read_corpus
    from shoal.tasks.translation.corpus import lines_of

    if Path(path).is_dir():
        raise UserError(f"{printable(path)} is a folder; translate reads one file, line by line")
    return lines_of(read_corpus([path]).text)


def _check(
    records: "Records", steps: Sequence[int | str | None], lines: Sequence[str], options: argparse.Namespace
) -> None:
    """Raise :class:`UserError` where a run is of a task without sources, or a tree cannot be drawn."""
    for run, spec in records.specs.items():
        if "pair" not in spec.task_part.offers:
            raise UserError(
                f"translate answers sources, and run {run[:8]} has task {spec.task}; generate continues texts"
            )
        if "codec" not in records.kept(run):
            raise UserError(f"task {spec.task} of run {run[:8]} keeps no vocabularies: its models read no lines")
    if options.tree is None:
        return
    from shoal.report.tree_file import check_tree_file

    if len(steps) > 1:
        raise UserError(f"--tree shows one model, got {len(steps)} steps")
    if len(records) != 1 or len(lines) != 1:
        raise UserError(f"--tree shows one run and one line, got {len(records)} runs and {len(lines):,} lines")
    if not lines[0].strip():
        raise UserError("--tree needs a line to search, and this one is empty")
    check_tree_file(options.tree, options.lab, [file for file in (options.file, options.reference) if file is not None])


def _translate(
    records: "Records",
    lines: Sequence[str],
    options: argparse.Namespace,
    beam: "Beam | None",
    steps: Sequence[int | str | None],
) -> "tuple[list[tuple[Answered, PairCodec]], list[str]]":
    """Translations by all models, those of one shape together, each with its vocabularies; and notes for the user.

    Raises:
        UserError: a run has no such model; or its model can answer no such lines, or not by this search.
    """
    from shoal.commands.kept_models import notes_of_steps
    from shoal.decoding.answers import answer
    from shoal.lab.alike import models_by_shape
    from shoal.tasks.pairs.codec import PairCodec

    notes = [note for step in steps for note in notes_of_steps(records, step, options.average)]
    by_step = [models_by_shape(records, "codec", PairCodec.from_json, step, options.average) for step in steps]
    answers = []
    for groups in zip(*by_step, strict=True):  # of one shape, one for each step
        first, codec, spec = next(iter(groups[0].models)), groups[0].kept, groups[0].spec
        models = {
            _model(run, step, steps): model
            for step, group in zip(steps, groups, strict=True)
            for run, model in group.models.items()
        }
        most = spec.task_part.sizes().sequence_length
        tokens = most if options.max_new_tokens is None else options.max_new_tokens
        if not 1 <= tokens <= most:
            raise UserError(f"--max-new-tokens must be from 1 to {most}, the positions of the model, got {tokens}")
        if codec.cuts and (long := codec.too_long(lines)):
            notes.append(
                f"warning: {len(long):,} of {len(lines):,} lines have more than {codec.max_length:,} tokens, which is "
                f"the most that run {first[:8]} reads: they are cut there; the first is line {long[0] + 1:,}"
            )
        record = options.tree is not None
        answers.append((answer(models, spec.model_part.reads, codec, lines, tokens, beam, record=record), codec))
    return answers, notes


def _settings(options: argparse.Namespace, beam: "Beam | None") -> dict[str, Any]:
    """Settings of the search, which are kept with the hypotheses."""
    from dataclasses import asdict

    how: dict[str, Any] = {"beams": 1} if beam is None else asdict(beam)
    how |= {"max_new_tokens": options.max_new_tokens, "average": options.average}
    return {name: value for name, value in how.items() if value is not None}


def _keep(
    records: "Records",
    steps: Sequence[int | str | None],
    texts: Mapping[str, Sequence[str]],
    lines: Sequence[str],
    name: str,
    how: Mapping[str, Any],
) -> tuple[list[str], UserError | DiskError | None]:
    """Keep the translations in the lab; return their paths, and the first error where it refused some."""
    paths, refused = [], None
    for run, step in product(records.ids, steps):
        at = records.model_steps(run, step, how["average"])[-1]
        most = {"max_new_tokens": records.spec_of(run).task_part.sizes().sequence_length, **how}
        most |= {} if step is None else {"step": str(step)}
        try:
            paths.append(str(records.keep_hypotheses(run, at, name, texts[_model(run, step, steps)], lines, most).path))
        except (UserError, DiskError) as error:
            refused = refused or error
    return paths, refused


def _draw(options: argparse.Namespace, found: "Answered", codec: "PairCodec", lines: Sequence[str]) -> None:
    from shoal.report.tree_file import token_names, write_tree

    ((tree,),) = found.trees
    assert tree is not None
    names = token_names(codec.target.size, codec.decode_target, ("PAD", "BOS", "EOS"))
    write_tree(options.tree, tree, f"Run {found.runs[0][:8]}, beam {options.beams}: {printable(lines[0])}", names)


def _print_texts(texts: Mapping[str, Sequence[str]]) -> None:
    """Print the translations line by line, of several models behind their names; to files and pipes as they are."""
    is_seen = sys.stdout.isatty()
    for several in zip(*texts.values(), strict=True):
        for name, text in zip(texts, several, strict=True):
            line = text.replace("\n", " ")
            print(("" if len(texts) == 1 else f"{name}  ") + (printable(line) if is_seen else line))


def _names(records: "Records") -> list[str]:
    """Names of the scores that all tasks of these runs have.

    Raises:
        UserError: one of them needs sacrebleu, which is missing.
    """
    from shoal.analysis.sentence_scores import check_scores
    from shoal.tasks.pairs.settings import PairSettings

    tasks = [spec.task_part for spec in records.specs.values()]
    of_tasks = [(task if isinstance(task, PairSettings) else PairSettings).scores for task in tasks]
    names = [name for name in of_tasks[0] if all(name in of_task for of_task in of_tasks)]
    check_scores(names)
    return names


def _scores(
    records: "Records",
    steps: Sequence[int | str | None],
    texts: Mapping[str, Sequence[str]],
    lines: Sequence[str],
    references: Sequence[str],
    names: Sequence[str],
    answers: "Sequence[Answered]",
) -> "tuple[Table, list[str], list[str]]":
    """Table of the scores of each setting and step over its seeds, lines on the rules of the scores, and warnings."""
    from shoal.analysis.sentence_scores import text_scores
    from shoal.analysis.translation import ScoreInterval, score_interval
    from shoal.report.translation import settings_of, translation_table

    groups = {
        label if len(steps) == 1 else f"{label}, step {step}": [_model(run, step, steps) for run in runs]
        for label, runs in settings_of(records.specs.values()).items()
        for step in steps
    }
    rows: dict[str, dict[str, ScoreInterval]] = {}
    signatures: dict[str, str] = {}
    warnings = []
    for label, runs in groups.items():
        scored = text_scores([texts[run] for run in runs], [references], names=names)
        warnings += [f"warning: {label}: {warning}" for warning in scored.warnings]
        rows[label] = {name: score_interval(scored.statistics[name]) for name in names}
        signatures |= scored.signatures
    saved = {run: share for answered in answers for run, share in zip(answered.runs, _saved(answered), strict=True)}
    table = translation_table(rows, {label: [saved[run] for run in runs] for label, runs in groups.items()})
    seeds = max(map(len, groups.values()))
    over = f"seeds and sentences: up to {seeds} seeds × {len(references):,}" if seeds > 1 else f"{len(references):,}"
    about = [f"{name}: {signature}" for name, signature in signatures.items()]
    about.append(
        f"[95 % intervals] over {over} sentences; exact match: texts that equal the reference, character for character"
        + _empty_lines(lines, references)
    )
    return table, about, warnings


def _empty_lines(lines: Sequence[str], references: Sequence[str]) -> str:
    """Clause on empty sources, which no model is asked about: their number, and the number of exact matches."""
    empty = [reference for line, reference in zip(lines, references, strict=True) if not line.strip()]
    right = sum(not reference for reference in empty)
    if not empty:
        return ""
    return f"; empty sources, whose answers are empty: {len(empty):,}, of which {right:,} count as exact matches"


def _saved(answered: "Answered") -> list[float]:
    """Share of steps that the rule of stopping saved, for each run."""
    steps, saved = answered.steps.sum(1), answered.saved.sum(1)
    shares: list[float] = (saved / (steps + saved).clamp(min=1)).tolist()
    return shares
