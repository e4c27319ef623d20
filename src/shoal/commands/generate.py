"""``shoal generate RUN``: let kept models go on with a text."""

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from shoal.commands.kept_models import add_models, add_search, read_beam, read_step
from shoal.commands.parsing import Parser, add_lab
from shoal.errors import LabError, UserError, printable
from shoal.output import say

if TYPE_CHECKING:
    from shoal.decoding.beam import Beam
    from shoal.decoding.sampling import Sampling
    from shoal.decoding.text import Sample
    from shoal.decoding.text_search import Search
    from shoal.lab import Records
    from shoal.lab.alike import Alike
    from shoal.tasks.text.tokenizers import TextTokenizer

NEW_TOKENS = 200
_DRAWN = ("temperature", "top_k", "top_p", "samples", "seed")  # what draws are asked by, and no beam
_LONGEST_ROOT = 14
_WRITTEN = {"\\n": "\n", "\\t": "\t"}  # what is hard to type


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids or their beginnings, or names of runs or groups")
    add_lab(parser)
    parser.flag("prompt", nargs="+", help="text to continue, one or several")
    parser.flag(
        "max-new-tokens",
        type=int,
        help=f"tokens of each sample or hypothesis; default {NEW_TOKENS}, with --beams what the context has room for",
    )
    parser.flag(
        "end",
        metavar="TOKEN",
        help=r"one token at which a text ends, such as \n; default none: texts of equal length",
    )
    parser.flag(
        "temperature",
        type=float,
        help="temperature of the softmax (1 where --top-k, --top-p or several --samples ask for draws; else greedy "
        "search)",
    )
    parser.flag("top-k", type=int, help="draw from the k likeliest tokens")
    parser.flag(
        "top-p", type=float, help="draw from the fewest tokens that together have this probability, the likeliest first"
    )
    parser.flag("samples", type=int, default=1, help="samples of each run and prompt; default 1")
    parser.flag("seed", type=int, default=0, help="seed of the samples; default 0")
    add_search(parser)
    add_models(parser)
    parser.flag(
        "tree",
        metavar="FILE",
        help="file for the search tree of one run and one prompt; it ends in .html .svg .png .pdf .txt or .json",
    )


def run(options: argparse.Namespace) -> int:
    """Print what each run makes of each prompt."""
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed must be an integer in [0, 2**32), got {options.seed}")
    if not options.prompt:
        raise UserError("generate needs a text to continue: --prompt TEXT")
    beam, step = read_beam(options, "tree"), read_step(options.step)
    if beam is not None:
        _refuse_draws(options)

    from shoal.commands.kept_models import notes_of_steps
    from shoal.lab import Lab
    from shoal.lab.alike import models_by_shape

    records = Lab(options.lab).records(options.runs)
    _check(records, options)
    groups = models_by_shape(records, "tokenizer", _tokenizer, step, options.average)
    for group in groups:
        _check_size(group)
    notes = notes_of_steps(records, step, options.average)
    if beam is None:
        _print_samples(_samples(groups, options), options)
    else:
        _print_searches(_searches(groups, options, beam), options, beam)
    for note in notes:
        print(printable(note), file=sys.stderr)
    return 0


def _refuse_draws(options: argparse.Namespace) -> None:
    given = getattr(options, "given", {})
    for name in _DRAWN:
        if name in given:
            raise UserError(
                f"{given[name]} does not apply to --beams {options.beams}: a beam searches and draws nothing"
            )


def _check(records: "Records", options: argparse.Namespace) -> None:
    """Raise :class:`UserError` where a run is of another task than text, or a tree cannot be drawn."""
    for run, spec in records.specs.items():
        if records.kept(run).get("tokenizer") is None:
            other = "; translate answers sources" if "pair" in spec.task_part.offers else ""
            raise UserError(f"generate continues texts, and run {run[:8]} has task {spec.task}{other}")
    if options.tree is None:
        return
    from shoal.report.tree_file import check_tree_file

    if len(records) != 1 or len(options.prompt) != 1:
        raise UserError(
            f"--tree shows one run and one prompt, got {len(records)} runs and {len(options.prompt)} prompts"
        )
    check_tree_file(options.tree, options.lab)


def _tokenizer(kept: Any) -> "TextTokenizer":
    from shoal.tasks.text.tokenizers import from_json

    return from_json(kept)


def _check_size(group: "Alike") -> None:
    """Raise :class:`LabError` where a tokenizer is not that of its models."""
    size, wanted = group.kept.vocabulary_size, group.spec.sizes().vocabulary_size
    if size != wanted:
        first = next(iter(group.models))
        raise LabError(f"the tokenizer of run {first[:8]} is damaged: it has {size:,} tokens, its model {wanted:,}")


def _end(options: argparse.Namespace, tokenizer: "TextTokenizer") -> int | None:
    """The token at which a text ends.

    Raises:
        UserError: it is no token, or several.
    """
    if options.end is None:
        return None
    tokens = tokenizer.encode(_WRITTEN.get(options.end, options.end)).tolist()
    if len(tokens) != 1:
        raise UserError(f"--end must be one token, and {options.end!r} is {len(tokens)} tokens of {tokenizer.kind}")
    return int(tokens[0])


def _sampling(options: argparse.Namespace, vocabulary_size: int) -> "Sampling | None":
    """Rule by which tokens are drawn; None for the likeliest token each time."""
    from shoal.decoding.sampling import Sampling, check_sampling

    drawn = (options.temperature, options.top_k, options.top_p)
    if all(value is None for value in drawn) and options.samples <= 1:
        return None
    temperature = 1.0 if options.temperature is None else options.temperature
    check_sampling(temperature, options.top_k, options.top_p, vocabulary_size)
    return Sampling(temperature, options.top_k, options.top_p)


def _samples(groups: "Sequence[Alike]", options: argparse.Namespace) -> "list[Sample]":
    """Samples of all prompts and runs, sorted by prompt, then by number, then by run."""
    from shoal.decoding.text import generate_texts

    new = NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens
    samples = []
    for group in groups:
        sampling = _sampling(options, group.kept.vocabulary_size)
        end = _end(options, group.kept)
        how = (new, sampling, options.samples, options.seed, end)
        samples += generate_texts(group.models, group.kept, options.prompt, *how)
    place = {prompt: at for at, prompt in enumerate(options.prompt)}
    return sorted(samples, key=lambda sample: (place[sample.prompt], sample.number))


def _print_samples(found: "Sequence[Sample]", options: argparse.Namespace) -> None:
    for sample in found:
        number = f", sample {sample.number}" if options.samples > 1 else ""
        loss = -sum(sample.log_p) / len(sample.log_p)
        say(f"── run {sample.run[:8]}{number}: {loss:.3f} nats per token of what it wrote, by its own probabilities")
        _print_text(sample.prompt + sample.text)


def _searches(groups: "Sequence[Alike]", options: argparse.Namespace, beam: "Beam") -> "list[Search]":
    """Beam searches of all prompts and runs, sorted by prompt, then by run; the tree of one is written to a file."""
    from shoal.decoding.text_search import search_texts

    searches: list[Search] = []
    for group in groups:
        end, new, is_drawn = _end(options, group.kept), options.max_new_tokens, options.tree is not None
        searches += search_texts(group.models, group.kept, options.prompt, new, beam, end=end, record=is_drawn)
    if options.tree is not None:
        from shoal.report.tree_file import token_names, write_tree

        (only,), tokenizer = searches, groups[0].kept
        assert only.tree is not None
        title = f"Run {only.run[:8]}, beam {beam.width}, after {only.prompt!r}"
        names = token_names(tokenizer.vocabulary_size, tokenizer.decode)
        write_tree(options.tree, only.tree, title, names, _shown(only.prompt))
    place = {prompt: at for at, prompt in enumerate(options.prompt)}
    return sorted(searches, key=lambda search: place[search.prompt])


def _print_searches(searches: "Sequence[Search]", options: argparse.Namespace, beam: "Beam") -> None:
    """Print the hypotheses of each run and prompt with their log probabilities, and the number of steps saved."""
    for search in searches:
        for rank, hypothesis in enumerate(search.found, 1):
            score = f", score {hypothesis.score:.4g}" if beam.length_penalty else ""
            how = "" if options.end is None else ", ended" if hypothesis.finished else ", cut"
            tokens = f"{hypothesis.length} token{'s' * (hypothesis.length != 1)}"
            say(
                f"── run {search.run[:8]}, {rank} of {len(search.found)}: log p {hypothesis.log_p:.2f}{score}, "
                f"{tokens}{how}"
            )
            _print_text(search.prompt + hypothesis.text)
    mean = sum(search.steps for search in searches) / len(searches)
    longest = sum(search.steps + search.saved for search in searches) / len(searches)
    several = f" (mean of {len(searches)})" if len(searches) > 1 else ""
    best = ", ".join(f"{search.found[0].log_p:.2f}" if search.found else "none" for search in searches)
    say(f"beam {beam.width}, {beam.stop} stop: {mean:.3g} of {longest:.3g} steps needed{several}; best log p {best}")
    if options.end is None:
        say("without --end no hypothesis ends early: all have the same number of tokens")


def _shown(prompt: str) -> str:
    """A prompt, or its end, as the root of a tree."""
    text = printable(repr(prompt))
    return text if len(text) <= _LONGEST_ROOT else f"…{text[1 - _LONGEST_ROOT :]}"


def _print_text(text: str) -> None:
    for line in text.split("\n"):
        say(line)
