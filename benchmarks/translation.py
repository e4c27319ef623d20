"""Benchmark of translation beside a plain loop.

Usage: ``python -m benchmarks.translation SOURCE TARGET VALID_SOURCE VALID_TARGET [PAIRS [MODEL ...]]``.

The same model with the same initial parameters, of the task's default settings, learns from the same batches, padded to
the same widths: in a plain loop of PyTorch (forward, cross-entropy, backward, ``torch.optim.AdamW``), one run at a
time, and as a stack of ``R`` runs by the engine that a long training of them is given, a run alone by ``plain``, too.
One thread; a pair is a window of steps of the loop, the same steps of the stack, and the loop again; medians and
quartiles of the ratios are reported, in processor time per token that is no padding, sources and targets with their
EOS. Before that, both have to have the same loss, up to dropout. The models are those that read sources, unless some
are named.

It also reports the share of positions that hold tokens, and the memory of a stack, each size in its own process.

Shapes: ``R`` members, ``B`` pairs of a batch, ``T`` tokens of a target, ``V`` vocabulary.
"""

import math
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median, quantiles
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from shoal.fast.engine import choose_engine
from shoal.spec import RunSpec
from shoal.tasks.base import READS, Batch
from shoal.tasks.build import build_model
from shoal.tasks.pairs.settings import BucketedPairs
from shoal.tasks.sampling import Form
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_step, train_steps

CPU = torch.device("cpu")
FILES = ("source", "target", "valid_source", "valid_target")
WINDOW = 2  # steps between two readings of the clock
SIZES = (1, 4)  # R of the times
MEMBERS = (1, 2, 4)  # R of the memory
PAIRS = 10
MODELS = ("encoder_decoder", "encoder_translator", "lstm_encoder_decoder")


def cohort(paths: Sequence[str], R: int, model: str = MODELS[0]) -> Cohort:
    """Cohort of ``R`` runs of default settings and different seeds."""
    files: dict[str, Any] = dict(zip(FILES, paths, strict=True))
    first = RunSpec(task="translation", model=model, **files)
    return Cohort(tuple(first.replace(seed=seed) for seed in range(R)))


def stack_of(runs: Cohort, engine: str | None = None) -> Stack:
    """Stack of these runs, with the engine that a long training of them is given where none is named."""
    return Stack(runs, CPU, engine or choose_engine(runs.shared, math.inf, CPU).engine)


@dataclass(frozen=True)
class Step:
    """Training data of a step of a stack.

    Attributes:
        batches: batch of each member.
        tokens: number of tokens of all batches, padding not counted.
        form: form of the batches.
        indices: indices of their pairs, ``(R, B)``.
    """

    batches: tuple[Batch, ...]
    tokens: int
    form: Form | None
    indices: Tensor


def steps_of(runs: Cohort, n: int) -> list[Step]:
    """Training data of the first steps of a stack of these runs."""
    stack, steps = Stack(runs, CPU), []
    tensors = {name: tensor[0] for name, tensor in stack.tensors.items()}
    for _ in range(n):
        stack.sampler.prepare(stack.steps)
        stack.at += 1
        indices, counts = stack.draw()  # (R, B) each
        make = stack.task.batch_in(stack.form)
        batches = tuple(make(tensors, indices[member][counts[member]]) for member in range(len(runs)))
        steps.append(
            Step(
                batches,
                sum(int(batch["seen"].sum() + batch["scored"].sum()) for batch in batches),
                stack.form,
                indices.clone(),
            )
        )
        stack.steps += 1
    return steps


class Loop:
    """Plain training loop of one run."""

    def __init__(self, spec: RunSpec) -> None:
        self.model, self.clip = build_model(spec).train(), spec.clip
        rates = {"lr": spec.lr / max(spec.warmup_steps, 1), "weight_decay": spec.weight_decay}
        self.optimizer = torch.optim.AdamW(self.model.parameters(), betas=(spec.beta1, spec.beta2), **rates)

    def step(self, batch: Batch) -> Tensor:
        """Train on a batch; returns its loss before the update, in nats per token."""
        logits = self.model(*(batch[name] for name in READS if name in batch))[0]  # (B, T, V)
        loss = F.cross_entropy(logits.flatten(0, 1), batch["targets"].flatten(), ignore_index=0)
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.clip)
        self.optimizer.step()
        return loss.detach()


def check(runs: Cohort, step: Step, engine: str | None = None) -> None:
    """Raise a RuntimeError where losses of the first step show that models or batches differ."""
    stack = stack_of(runs, engine)
    stack.sampler.prepare(stack.steps)
    stack.at += 1
    indices, _ = stack.draw()
    scores = stack.score(indices, form=stack.form)
    for member, spec in enumerate(runs.members):
        loss, weight, loop = scores["loss"][member], scores["weight"][member], Loop(spec)
        loop.model.eval()
        ours, theirs = float(((loss * weight).sum() / weight.sum()).detach()), float(loop.step(step.batches[member]))
        if abs(ours - theirs) > 1e-4 * abs(theirs):
            raise RuntimeError(f"member {member} has loss {ours} here and {theirs} in the loop")


def measure(runs: Cohort, pairs: int, engine: str | None = None) -> tuple[list[float], list[float]]:
    """Microseconds per token in the loop, and the ratio of the stack's time to it, of each pair."""
    steps = steps_of(runs, WINDOW * (pairs + 1))
    check(runs, steps[0], engine)
    loop, stack = Loop(runs.shared), stack_of(runs, engine)
    for step in {(step.form, step.indices.shape): step for step in steps}.values():
        stack.score(step.indices, training=True, form=step.form)  # the first of a form tries how it is computed
    theirs, ratios = [], []
    for pair in range(pairs + 1):
        window = steps[WINDOW * pair : WINDOW * (pair + 1)]
        alone = sum(int(one.batches[0]["seen"].sum() + one.batches[0]["scored"].sum()) for one in window)
        before = _looped(loop, window) / alone
        began = time.process_time()
        train_steps(stack, WINDOW)
        per_token_stack = (time.process_time() - began) / sum(one.tokens for one in window)
        both = (before + _looped(loop, window) / alone) / 2
        if pair:  # the first window makes what the others use
            theirs.append(1e6 * both)
            ratios.append(per_token_stack / both)
    return theirs, ratios


def _looped(loop: Loop, window: Sequence[Step]) -> float:
    began = time.process_time()
    for step in window:
        loop.step(step.batches[0])
    return time.process_time() - began


def shares(paths: Sequence[str]) -> tuple[float, float]:
    """Shares of the positions of a pass that hold tokens: in buckets, and with all padded to the longest."""
    part = cohort(paths, 1).shared.task_part
    assert isinstance(part, BucketedPairs)
    buckets = part.buckets()
    sides = [side[buckets.drawn] for side in (buckets.source, buckets.target)]
    longest = sum(int(side.max()) for side in sides)
    return buckets.real_share()["both"], float(sum(side.sum() for side in sides) / (len(sides[0]) * longest))


def memory(paths: Sequence[str], R: int) -> None:
    """Print the MiB of the corpus as the stack holds it, of what training changes, and of the process at its peak."""
    stack = stack_of(cohort(paths, R))
    held = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in stack.tensors.values()}
    changes = sum(tensor.nbytes for tensor in stack.state().values())
    for _ in range(3):
        train_step(stack)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
    print(sum(held.values()) / 2**20, changes / 2**20, peak)


def main() -> None:
    """Measure and print Markdown tables."""
    torch.set_num_threads(1)
    paths = sys.argv[1:5]
    if sys.argv[5:6] == ["--memory"]:
        memory(paths, int(sys.argv[6]))
        return
    pairs = int(sys.argv[5]) if len(sys.argv) > 5 else PAIRS
    print(
        "| | engine | µs per token, loop | times that, stack (quartiles) | pairs |\n| --- | --- | ---: | ---: | ---: |"
    )
    for model in sys.argv[6:] or MODELS:
        for R in SIZES:
            runs = cohort(paths, R, model)
            engines = [choose_engine(runs.shared, math.inf, CPU).engine, *(["plain"] if R == 1 else [])]
            for engine in dict.fromkeys(engines):
                theirs, ratios = measure(runs, pairs, engine)
                low, _, high = quantiles(ratios, n=4)
                times = f"{median(theirs):.1f} | {median(ratios):.2f} ({low:.2f} to {high:.2f}) | {pairs}"
                print(f"| {model}, R = {R} | {engine} | {times} |", flush=True)
    buckets, longest = shares(paths)
    print(f"\ntokens among positions: {100 * buckets:.0f} % in buckets, {100 * longest:.0f} % padded to the longest\n")
    print("| MiB | corpus | parameters and moments | process, peak |\n| --- | ---: | ---: | ---: |")
    for R in MEMBERS:
        command = [sys.executable, "-m", "benchmarks.translation", *paths, "--memory", str(R)]
        values = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
        print(f"| R = {R} | " + " | ".join(f"{float(value):.1f}" for value in values) + " |", flush=True)


if __name__ == "__main__":
    main()
