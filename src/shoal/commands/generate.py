"""``shoal generate RUN``: let kept models go on with a text."""

import argparse
from typing import TYPE_CHECKING

from shoal.commands.parsing import Parser, add_lab
from shoal.errors import LabError, UserError
from shoal.output import say

if TYPE_CHECKING:
    from torch import nn

    from shoal.lab import Records
    from shoal.tasks.text.tokenizers import TextTokenizer


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("runs", nargs="+", metavar="RUN", help="ids, or unambiguous beginnings, of runs of one shape")
    add_lab(parser)
    parser.flag("prompt", nargs="+", help="what to go on with, one text or several")
    parser.flag("max-new-tokens", type=int, default=200, help="tokens of each sample (200)")
    parser.flag(
        "temperature",
        type=float,
        help="of the softmax (1 where --top-k, --top-p or several --samples ask for draws; else the likeliest token)",
    )
    parser.flag("top-k", type=int, help="draw from the k likeliest tokens")
    parser.flag("top-p", type=float, help="draw from the likeliest tokens that have this probability together")
    parser.flag("samples", type=int, default=1, help="samples of each run and prompt (1)")
    parser.flag("seed", type=int, default=0, help="of the samples (0)")
    parser.flag(
        "step",
        type=int,
        help="of the models that were kept; --keep-best keeps that of the lowest loss besides the last (the last)",
    )


def run(options: argparse.Namespace) -> int:
    """Print what each run makes of each prompt."""
    if not 0 <= options.seed < 2**32:
        raise UserError(f"--seed must be an integer in [0, 2**32), got {options.seed}")
    if not options.prompt:
        raise UserError("generate needs a text to go on with: --prompt TEXT")

    from shoal.decoding.sampling import Sampling, check_sampling
    from shoal.decoding.text import generate_texts
    from shoal.lab import Lab

    records = Lab(options.lab).records(options.runs)
    models, tokenizer = _models(records, options.step)
    drawn = (options.temperature, options.top_k, options.top_p)
    sampling = None
    if any(value is not None for value in drawn) or options.samples > 1:
        temperature = 1.0 if options.temperature is None else options.temperature
        check_sampling(temperature, options.top_k, options.top_p, tokenizer.vocabulary_size)
        sampling = Sampling(temperature, options.top_k, options.top_p)
    found = generate_texts(
        models, tokenizer, options.prompt, options.max_new_tokens, sampling, options.samples, options.seed
    )
    for sample in found:
        number = f", sample {sample.number}" if options.samples > 1 else ""
        say(f"── run {sample.run[:8]}{number}: {-sum(sample.log_p) / len(sample.log_p):.3f} nats per token")
        for line in (sample.prompt + sample.text).split("\n"):
            say(line)
    return 0


def _models(records: "Records", step: int | None) -> "tuple[dict[str, nn.Module], TextTokenizer]":
    """The models by run, and their tokenizer.

    Raises:
        UserError: a run is of another task than text, or they have not one shape and one vocabulary.
        LabError: the tokenizer is damaged, or is not that of the models.
    """
    from shoal.tasks.text.tokenizers import from_json

    specs = records.specs
    kept = {run: records.kept(run).get("tokenizer") for run in specs}
    for run, tokenizer in kept.items():
        if tokenizer is None:
            raise UserError(f"generate goes on with texts, and run {run[:8]} has task {specs[run].task}")
    for folder in records.cohorts():
        folder.check_sources()
    first = next(iter(specs))
    models = {run: records.model(run, step) for run in specs}
    shapes = {run: {name: p.shape for name, p in model.named_parameters()} for run, model in models.items()}
    for run in specs:
        same = specs[run].names == specs[first].names and shapes[run] == shapes[first] and kept[run] == kept[first]
        if not same:
            raise UserError(
                f"runs {first[:8]} and {run[:8]} have not one shape and vocabulary: ask for them one by one"
            )
    with records.cohorts()[0].with_way_out():
        tokenizer = from_json(kept[first])
        size, wanted = tokenizer.vocabulary_size, specs[first].sizes().vocabulary_size
        if size != wanted:
            raise LabError(f"the tokenizer of run {first[:8]} is damaged: it has {size:,} tokens, its model {wanted:,}")
    return models, tokenizer
