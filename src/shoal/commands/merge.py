"""``shoal merge RUN FILE``: add adapters to their base, and write the model to a file that can be fine-tuned again."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from shoal.commands.kept_models import read_step
from shoal.commands.parsing import Options, Parser, add_lab
from shoal.errors import DiskError, RunFailed, UserError
from shoal.output import say

if TYPE_CHECKING:
    from torch import nn

    from shoal.spec import RunSpec

WINDOWS = 64  # of the validation text, on which logits are compared


def arguments(parser: Parser) -> None:
    """Flags of the command."""
    parser.add_argument("run", metavar="RUN", help="id or name of a fine-tuned run")
    parser.add_argument("file", metavar="FILE", help="file for the merged model, which ends in .safetensors")
    add_lab(parser)
    parser.flag("step", help="step at which the adapters were kept, or best; default the last")


def run(options: Options) -> int:
    """Write the merged model, and print by how much merging changes its logits."""
    path = Path(options.file)
    if path.suffix != ".safetensors":
        raise UserError(f"the file of a merged model ends in .safetensors, got {options.file!r}")
    if path.exists():
        raise UserError(f"{path} is there already; name a new file")
    from shoal.lab import Lab
    from shoal.lab.around import check_outside_labs
    from shoal.lab.tensors import save_tensors
    from shoal.models.bases import DESCRIBED
    from shoal.models.finetuned import merged

    check_outside_labs(path, options.lab, "model")
    records = Lab(options.lab).records([options.run])
    if len(records) != 1:
        raise UserError(f"merge takes one run, and {options.run} is {len(records)} runs")
    (name,) = records.ids
    spec = records.spec_of(name)
    part = spec.model_part
    if spec.model != "finetuned":
        raise UserError(f"run {name[:8]} was not fine-tuned and has no adapters")
    adapted: Any = records.model(name, read_step(options.step))
    model = merged(adapted, part)  # type: ignore[arg-type]
    lines = _changes(spec, adapted, model)
    tokenizer = "" if spec.get("tokenizer") == "bytes" else str(records.cohort_of(name).path.absolute() / "task.json")
    metadata = {DESCRIBED: str(spec.base_settings), "run": name, "tokenizer_of": tokenizer}
    state = {
        name: tensor.clone() for name, tensor in model.state_dict().items()
    }  # tied ones, which a file cannot share
    try:
        save_tensors(path, state, metadata)
    except DiskError as error:
        raise RunFailed(str(error)) from None  # of a file that no training goes on from
    for line in lines:
        say(line)
    return 0


def _changes(spec: "RunSpec", adapted: "nn.Module", model: "nn.Module") -> list[str]:
    """Lines on the largest change of a logit on windows of the validation text."""
    import torch

    from shoal.tasks.build import build_model, build_task

    task = build_task(spec)
    batch = task.batch(dict(task.tensors), task.scored["valid"][:WINDOWS])
    inputs = batch["inputs"] if "inputs" in batch else batch["source"]
    with torch.no_grad():
        expected = adapted(inputs)[0]
        if not expected.isfinite().all():
            raise UserError("the adapters give logits that are not finite: there is no model to write")
        largest = float((model(inputs)[0] - expected).abs().max())
        lines = [f"merged onto {_onto(spec)}: no logit of {len(inputs)} windows changes by more than {largest:.2g}"]
        if spec.adapter == "qlora":
            plain: Any = build_model(spec.replace(adapter="lora", quantization=None, **_OPEN))
            plain.load_state_dict(adapted.state_dict())
            other = float((plain.eval()(inputs)[0] - expected).abs().max())
            lines.append(f"onto the base before it was quantised some logit would change by {other:.2g}")
    return lines


_OPEN: dict[str, Any] = {"quantization_bits": None, "quantization_rounding": "nearest", "double_quantization": False}


def _onto(spec: "RunSpec") -> str:
    return "dequant(W) of the quantised base" if spec.adapter == "qlora" else "the base"
