"""Small fine-tuned runs that tests and the scripts of their vectors share."""

import json
import re
import tempfile
from pathlib import Path
from typing import Any

import torch

import shoal
from shoal.fast.denormals import flushed_denormals
from shoal.lab.tensors import save_tensors
from shoal.tasks.build import build_model
from shoal.testing.base import stack_of
from shoal.training.step import train_step

STEPS = 30
SENTENCES = "".join(f"{i} of {i * i} sheep run over hill {i % 7}. " for i in range(120))


def text_file(folder: Path) -> Path:
    """File of a short text."""
    path = Path(folder) / "sheep.txt"
    path.write_text(SENTENCES, encoding="utf-8")
    return path


def tokens() -> torch.Tensor:
    """Tokens on which logits are compared, ``(2, 12)``."""
    return torch.arange(24).reshape(2, 12) * 37 % 256


def specs(folder: Path) -> list[shoal.RunSpec]:
    """Two adapters of a GPT-2, of different rank, scale, learning rate, decay and seed."""
    text = text_file(Path(tempfile.mkdtemp()))
    shared = {"text": str(text), "tokenizer": "bytes", "context_length": 16, "train_batch_size": 4, "n_steps": STEPS}
    shared |= {"lr_schedule": "constant", "lr_floor": 0.0, "warmup_steps": 0, "windows": "random"}
    shared |= {"base_model": str(folder), "lora_targets": "ffn", "lora_width": 4, "eval_batch_size": 64}
    settings = [
        {"lora_rank": 2, "lora_alpha": 4.0, "lr": 1e-2, "weight_decay": 0.1, "seed": 1},
        {"lora_rank": 4, "lora_alpha": 16.0, "lr": 3e-3, "weight_decay": 0.0, "seed": 2},
    ]
    return [shoal.RunSpec(task="text", model="finetuned", **shared, **own) for own in settings]


def batches(of: list[shoal.RunSpec], member: int) -> list[dict[str, torch.Tensor]]:
    """Batches of one member at each step."""
    stack = stack_of(*of)
    tensors = {name: tensor[member] for name, tensor in stack.tensors.items()}
    drawn = []
    for _ in range(STEPS):
        stack.sampler.prepare(stack.steps)
        stack.at += 1
        drawn.append(stack.task.batch(tensors, stack.draw()[0][member]))
        stack.steps += 1
    return drawn


def ours(name: str) -> str:
    """Our name of a parameter of peft: ``decoder.blocks.0.ffn.0.A``."""
    layer, of_mlp, side = re.search(r"h\.(\d+)\.mlp\.(c_fc|c_proj)\.lora_([AB])", name).groups()  # type: ignore[union-attr]
    return f"decoder.blocks.{layer}.ffn.{0 if of_mlp == 'c_fc' else 2}.{side}"


def trained(stack, steps: int) -> torch.Tensor:
    """Losses of the members before each step, on the batches of that step, ``(steps, R)``."""
    losses = []
    with flushed_denormals():
        for _ in range(steps):
            stack.sampler.prepare(stack.steps)
            stack.at += 1
            indices, _ = stack.draw()
            with torch.no_grad():
                losses.append(stack.score(indices)["loss"].mean(1))
            stack.at -= 1
            train_step(stack)
    return torch.stack(losses)


def large_base(folder: Path) -> None:
    """Base of 13 MB and a text in a folder."""
    text_file(folder)
    spec = shoal.RunSpec(
        **_large(folder), model="gpt", num_layers=4, embedding_size=256, num_heads=4, context_length=64
    )
    save_tensors(Path(folder) / "base.safetensors", build_model(spec).state_dict(), {"spec": json.dumps(spec.dump())})


def large(folder: Path, seed: int) -> shoal.RunSpec:
    """Adapter of rank 8 on the base of :func:`large_base`."""
    base = str(Path(folder) / "base.safetensors")
    return shoal.RunSpec(**_large(folder), model="finetuned", base_model=base, context_length=8, seed=seed)


def _large(folder: Path) -> dict[str, Any]:
    return {"task": "text", "text": str(Path(folder) / "sheep.txt"), "tokenizer": "bytes", "train_batch_size": 1}
