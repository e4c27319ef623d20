"""Checks and times that need a GPU: ``python -m benchmarks.gpu``, on an idle one.

For both models, with the whole training set in a step and with a part of it: differences between recorded and called
steps, between a member alone and in a stack, and between engines and the CPU, and the duration of a step. With ``cpu``
as argument the script itself is tried.
"""

import sys
import time
from typing import Any

import torch
from torch import Tensor

from shoal.fast.denormals import flushed_denormals
from shoal.fast.fused import fused_kernels
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_steps

STEPS = 24  # the first three are called, then ten are launched at once, and one at a time
MEMBERS = 32  # of the stack that is timed


def trained(specs: list[RunSpec], device: torch.device, engine: str, called: bool = False) -> Stack:
    """Stack after a few steps and evaluations."""
    stack = Stack(Cohort(tuple(specs)), device, engine)
    if called:
        stack.launches.record = None
    for _ in range(4):
        train_steps(stack, STEPS // 4)
        evaluate(stack, {})
    return stack


def apart(one: Tensor, other: Tensor) -> str:
    """Largest difference between two tensors, as text."""
    difference = float((one.detach().cpu() - other.detach().cpu()).abs().max())
    return "0" if torch.equal(one.cpu(), other.cpu()) else f"{difference:.1e}"


def compare(settings: dict[str, Any], device: torch.device, engine: str) -> list[str]:
    """Row of the table."""
    specs = [RunSpec(**settings, seed=seed) for seed in range(MEMBERS)]
    many, specs = trained(specs, device, engine), specs[:3]
    stack, host = trained(specs, device, engine), trained(specs, torch.device("cpu"), engine)
    called, alone = trained(specs, device, engine, called=True), trained(specs[1:2], device, engine)
    wild = trained([specs[0], specs[1].replace(lr=1e30), specs[2]], device, engine)
    contained = wild.alive.tolist() == [True, False, True] and torch.equal(wild.theta[::2], stack.theta[::2])
    losses = [evaluate(one, {})["train_loss"] for one in (stack, host)]
    return [
        apart(stack.theta, called.theta),
        apart(stack.theta[1:2], alone.theta),
        "contained" if contained else "NOT CONTAINED",
        apart(*losses),
        *(f"{1e3 * seconds(one):.3f}" for one in (alone, many)),
    ]


def seconds(stack: Stack, steps: int = 100) -> float:
    """Duration of a step in seconds."""
    train_steps(stack, 20)
    float(stack.theta.detach().sum())  # waits for the GPU
    start = time.perf_counter()
    train_steps(stack, steps)
    float(stack.theta.detach().sum())
    return (time.perf_counter() - start) / steps


def main() -> None:
    """Print the table."""
    device = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "the CPU"
    print(f"{name}, torch {torch.__version__}; fused kernels: {fused_kernels(device).note}\n")
    print(f"| | engine | called | alone | divergence | loss on the CPU | 1 member, ms | {MEMBERS} members, ms |")
    print("| --- | --- | ---: | ---: | --- | ---: | ---: | ---: |")
    torch.set_num_threads(1)  # on the CPU sums are divided between threads
    with flushed_denormals():
        for model in ("lstm", "gpt"):
            for batch_size in (512, 64):
                for engine in ("compiled", "prefixes"):
                    row = compare({"model": model, "train_batch_size": batch_size}, device, engine)
                    print(f"| {model}, B = {batch_size} | {engine} | {' | '.join(row)} |", flush=True)


if __name__ == "__main__":
    main()
