"""Adapters by the clock and the allocator: the document's block against its formulas, and stacks of adapters.

``python -m benchmarks.adapters block`` measures the forward pass of LoRA and QLoRA on a block with heads as wide as the
model. ``python -m benchmarks.adapters stack lora 32 windows`` measures the peak memory of one process with so many
members (``lora``, ``qlora`` or ``full``) on an engine, and the processor time of a step of one of them. ``python -m
benchmarks.adapters engines lora 8`` compares steps of the engines ``plain`` and ``windows``, in turns.
"""

import json
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from statistics import median

import torch
from torch import nn

from shoal.fast.memory import keep_freed_memory
from shoal.lab.tensors import save_tensors
from shoal.models.adapters import adapt, adapted_names, freeze
from shoal.models.linear_block import LinearBlock
from shoal.quantisation import quantise_blocks
from shoal.spec import RunSpec
from shoal.tasks.build import build_model
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_steps

WIDTH, HEADS, TOKENS = 256, 4, 128
TEXT = "a text of bytes for a base that is not trained; "
SHARED = {"task": "text", "tokenizer": "bytes", "eval_batch_size": 64, "n_steps": 100, "train_batch_size": 1}


def multiplications(part: str, n: int, d: int, h: int, r: int) -> int:
    """Multiplications of a forward pass by the document's formulas, with their constants.

    >>> multiplications("ffn", 10, 8, 2, 1) == 10 * 8 * 8 + 2 * 10 * 8 * 1
    True
    """
    if part == "ffn":
        return n * d * d + 2 * n * d * r
    return h * (3 * (n * d * d + 2 * n * d * r) + 2 * n * n * d) + n * d * d * h


def lowest(work: Callable[[], object], rounds: int = 15) -> float:
    """Lowest processor time of some rounds, in seconds."""
    seconds = []
    for _ in range(rounds):
        begun = time.process_time()
        work()
        seconds.append(time.process_time() - begun)
    return min(seconds)


def adapted(rank: int, quantised: bool) -> LinearBlock:
    """Block with adapters of a rank; with rank 0 frozen alone."""
    torch.manual_seed(0)
    block = LinearBlock(WIDTH, HEADS)
    names = adapted_names(block)
    freeze(block, partial(quantise_blocks, double=True) if quantised else None)
    if rank:
        adapt(block, names, rank, rank, float(rank))
    return block


def measured_blocks() -> Iterator[dict[str, object]]:
    """Time, multiplications and parameters of both layers of the block, without and with adapters."""
    x = torch.randn(1, TOKENS, WIDTH)
    for quantised in (False, True):
        for rank in (0, 4, 16, 64):
            block = adapted(rank, quantised)
            parts: dict[str, nn.Module] = {"mha": block.attention, "ffn": block.ffn}
            for part, layer in parts.items():
                with torch.no_grad():
                    seconds = lowest(partial(layer, x))
                count = multiplications(part, TOKENS, WIDTH, HEADS, rank)
                trained = sum(parameter.numel() for parameter in layer.parameters())
                row = {"form": "qlora" if quantised else "lora", "part": part, "rank": rank, "trained": trained}
                yield row | {"ms": round(1e3 * seconds, 3), "GFLOP/s": round(2 * count / seconds / 1e9, 1)}


def stack_of(folder: str, adapter: str, members: int, engine: str, **sizes: int) -> Stack:
    """Stack of members on one base in a folder; ``sizes`` are its width, the rank, and those of a batch."""
    text, base = Path(folder, "text.txt"), Path(folder, "base.safetensors")
    text.write_text(TEXT * 400, encoding="utf-8")
    of_base = {"num_layers": 4, "embedding_size": sizes.pop("width"), "num_heads": 4, "norm_position": "pre"}
    spec = RunSpec(**SHARED, **of_base, text=str(text), model="gpt", context_length=64, seed=0)
    save_tensors(base, build_model(spec).state_dict(), {"spec": json.dumps(spec.dump())})
    rank = sizes.pop("lora_rank")
    of_lora = {} if adapter == "full" else {"lora_rank": rank}
    common = {**SHARED, **of_lora, **sizes, "text": str(text), "base_model": str(base), "adapter": adapter}
    specs = [RunSpec(**common, model="finetuned", seed=seed) for seed in range(members)]
    return Stack(Cohort(tuple(specs)), torch.device("cpu"), engine)


def compared_engines(adapter: str, members: int, rounds: int = 6) -> dict[str, object]:
    """Time of a step by both engines, in turns: a base of 4 layers of width 128, 8 windows of 64 tokens, rank 4."""
    with tempfile.TemporaryDirectory() as folder:
        sizes = {"width": 128, "lora_rank": 4, "context_length": 64, "train_batch_size": 8}
        stacks = {engine: stack_of(folder, adapter, members, engine, **sizes) for engine in ("plain", "windows")}
        steps = 3 if members > 1 else 10
        seconds: dict[str, list[float]] = {engine: [] for engine in stacks}
        for turn in range(rounds + 1):
            for engine in list(stacks)[:: 1 if turn % 2 else -1]:
                begun = time.process_time()
                train_steps(stacks[engine], steps)
                seconds[engine].append((time.process_time() - begun) / steps / members)
        pairs = list(zip(*seconds.values(), strict=True))[1:]  # the first warms up
        row = {f"{engine} ms": round(1e3 * median(each[1:]), 2) for engine, each in seconds.items()}
        ratios = sorted(plain / windows for plain, windows in pairs)
        return {"adapter": adapter, "members": members} | row | {"plain / windows": [round(one, 2) for one in ratios]}


def measured_stack(adapter: str, members: int, engine: str) -> dict[str, object]:
    """Peak memory of this process and time of a step, for members on one base of 3.3 million parameters."""
    with tempfile.TemporaryDirectory() as folder:
        stack = stack_of(folder, adapter, members, engine, width=256, lora_rank=8, context_length=8)
        train_steps(stack, 2)
        seconds = lowest(partial(train_steps, stack, 1), 5)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        row = {"adapter": adapter, "members": members, "engine": engine, "trained": stack.theta.shape[1]}
        return row | {"peak MiB": round(peak, 1), "ms per member": round(1e3 * seconds / members, 2)}


def main(words: list[str]) -> None:
    """Print measurements as lines of JSON."""
    torch.set_num_threads(1)
    keep_freed_memory()
    rows: Iterator[dict[str, object]] = measured_blocks()
    if words[0] == "stack":
        rows = iter([measured_stack(words[1], int(words[2]), words[3] if len(words) > 3 else "windows")])
    elif words[0] == "engines":
        rows = iter([compared_engines(words[1], int(words[2]))])
    for row in rows:
        print(json.dumps(row))


if __name__ == "__main__":
    main(sys.argv[1:])
