"""``shoal finetune RUN``: fine-tune a kept model on a text, by low-rank adapters or as a whole."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.dry_run import add_dry_run, dry_run
from shoal.commands.kept_models import read_step
from shoal.commands.parsing import (
    GRID,
    Options,
    Parser,
    add_execution,
    add_lab,
    add_label,
    add_settings,
    read_execution,
    read_values,
)
from shoal.errors import UserError
from shoal.models.hub import downloaded, located_model
from shoal.output import say
from shoal.report.words import listed

if TYPE_CHECKING:
    from shoal.spec import RunSpec

PARTS = {"task": "text", "model": "finetuned"}
SET_HERE = (
    "base_model",
    "lora_width",
    "tokenizer",
    "tokenizer_of",
    "vocabulary_size",
    *PARTS,
)  # by the base or the grid


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument(
        "base",
        metavar="RUN",
        help="the base: id or name of a run of text, a folder or downloaded model (organisation/name) of GPT-2's "
        "architecture, or a file of shoal merge",
    )
    add_lab(parser)
    parser.flag("step", help="step at which the base was kept, or best (the last)")
    add_label(parser)
    add_execution(parser)
    add_dry_run(parser)
    parser.words = [*(f"--{kind}={name}" for kind, name in PARTS.items()), *parser.words]
    add_settings(parser, GRID)


def run(options: Options) -> int:
    """Fine-tune, then print how each run did."""
    values = read_values(options)
    for name in SET_HERE:
        if name in values:
            given = options.given.get(name, f"--{name.replace('_', '-')}")
            raise UserError(f"{given} cannot be given to finetune: the base and the other flags determine it")
    if "text" not in values:
        raise UserError("finetune needs a text: --text FILE")
    specs = fine_tuned(base_of(options.base, options.lab, read_step(options.step)), values)
    from shoal.commands.training import read_label, train_with_progress
    from shoal.report.console import print_runs

    if options.dry_run:
        return dry_run(specs, options.lab, read_execution(options), label=read_label(options))
    for line in outline(specs):
        say(line)
    records = train_with_progress(specs, options.lab, **read_execution(options), **read_label(options))
    return print_runs(records)


def base_of(name: str, lab: str, step: int | str | None = None) -> dict[str, Any]:
    """Settings that a base gives: its file, the tokenizer that it needs, and the length of its context.

    Args:
        name: id or name of a run of the lab, a folder with a checkpoint, the name of a downloaded one
            (``organisation/name``), or a file of ``shoal merge``.
        lab: the lab's folder.
        step: step of the model; the last that was kept where not given, or ``best``.

    Raises:
        UserError: there is no such run or folder, or the run has another task than text.
        LabError: no model of it was kept.
    """
    if Path(name, "config.json").is_file():
        return _checkpoint(name)
    if (model := downloaded(name)) is not None and not Path(name).exists():
        return _checkpoint(str(model))
    if name.endswith(".safetensors") and Path(name).is_file():
        return _merged(name)
    if "/" in name:  # no id and no name of a run
        located_model(name)
    from shoal.lab import Lab

    records = Lab(lab).records([name])
    if len(records) != 1:
        raise UserError(f"finetune takes one base, and {name} is {len(records)} runs")
    (run,) = records.ids
    spec, folder = records.spec_of(run), records.cohort_of(run)
    if spec.task != PARTS["task"]:
        raise UserError(f"finetune goes on with models of text, and run {run[:8]} has task {spec.task}")
    if spec.model == PARTS["model"]:
        raise UserError(
            f"run {run[:8]} is an adapter and no base: fine-tune its base, or merge the two with shoal merge"
        )
    folder.check_sources()
    (at,) = records.model_steps(run, step)
    of_tokens = (
        {"tokenizer": "bytes"} if spec.tokenizer == "bytes" else {"tokenizer_of": str(folder.path / "task.json")}
    )
    return {"base_model": str(folder.models(run)[at]), "context_length": spec.context_length, **of_tokens}


def _checkpoint(folder: str) -> dict[str, Any]:
    """Settings that a checkpoint gives, with its own tokenizer; one without, of 256 tokens, reads bytes."""
    from shoal.models.bases import read_base
    from shoal.models.families_of_bases import part_of
    from shoal.tasks.text.pretrained_bpe import FILES, tokenizer_files

    sizes = part_of(read_base(folder).described)[1]
    if tokenizer_files(Path(folder)):
        of_tokens = {"tokenizer_of": folder}
    elif sizes.vocabulary_size == 256:
        of_tokens = {"tokenizer": "bytes"}
    else:
        raise UserError(
            f"the checkpoint {folder} has {sizes.vocabulary_size:,} tokens and no tokenizer: neither {FILES[0]} nor "
            f"{' and '.join(FILES[1:])}; a vocabulary of 256 bytes needs none"
        )
    return {"base_model": folder, "context_length": min(sizes.sequence_length, 1024), **of_tokens}


def _merged(path: str) -> dict[str, Any]:
    """Settings that a merged model gives; its metadata name the file of its tokenizer."""
    from safetensors import SafetensorError, safe_open

    from shoal.models.bases import read_base
    from shoal.models.families_of_bases import part_of

    length = part_of(read_base(path).described)[1].sequence_length
    try:
        with safe_open(path, "pt") as file:
            tokenizer = (file.metadata() or {}).get("tokenizer_of", "")
    except SafetensorError as error:
        raise UserError(f"{path} is damaged: {error}") from None
    tokens = ("tokenizer_of", tokenizer) if tokenizer else ("tokenizer", "bytes")
    return {"base_model": path, "context_length": length, **dict([tokens])}


def fine_tuned(base: Mapping[str, Any], values: Mapping[str, Sequence[Any]]) -> "list[RunSpec]":
    """Runs that fine-tune a base: the grid of these values, whose ranks are padded to the largest.

    Raises:
        UserError: a value is not allowed, or ranks differ and no alpha is given.
    """
    from shoal.models.adapter_settings import FineTunedSettings
    from shoal.spec import grid
    from shoal.spec.fields import read_value

    ranks, adapters = values.get("lora_rank", []), values.get("adapter", ["lora"])
    if len(ranks) > 1 and "lora_alpha" not in values:
        raise UserError(
            f"ranks {listed([str(rank) for rank in ranks])} need --lora-alpha, by which their scales differ"
        )
    specs: list[RunSpec] = []
    for adapter in adapters:
        asked = {name: several for name, several in values.items() if len(adapters) == 1 or _applies(name, adapter)}
        given: dict[str, Any] = {**PARTS, **base, **asked, "adapter": [adapter]}
        if ranks and _applies("lora_rank", adapter):
            try:
                width = max(read_value(FineTunedSettings, "lora_rank", rank) for rank in ranks)
            except ValueError:  # said where the run is made
                width = None
            given |= {"lora_width": [width]} if width else {}
        specs += grid(None, **given)
    return specs


def _applies(name: str, adapter: str) -> bool:
    """Return True if a setting applies to an adapter; used where several adapters are asked for at once."""
    if name.startswith("lora_"):
        return adapter != "full"
    return adapter == "qlora" or not name.startswith(("quantization", "double_quantization"))


def outline(specs: "Sequence[RunSpec]") -> list[str]:
    """Lines on the base of runs and on the number of parameters that each trains."""
    from shoal.models.finetuned import size_of
    from shoal.tasks.build import count_run_parameters

    part: Any = specs[0].model_part
    base = size_of(part.base_settings)
    counts = [count_run_parameters(spec) for spec in specs]
    least, most = min(counts), max(counts)
    several = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    runs = f"{len(specs)} run{'s' * (len(specs) != 1)}"
    return [
        f"{runs} on one base of {base['all']:,} parameters, {base['quantised']:,} of them in linear layers; "
        f"each trains {several}"
    ]
