"""Numbers of GPU launches in a step and in an evaluation: ``python -m benchmarks.launches``.

Operations are counted on the CPU, kernels as often as they would be launched; nothing is launched. Of PyTorch's
operations some launch more than one kernel, and the CPU copies gradients of parameters once more than a GPU does.
"""

from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from shoal.fast import engine as engines
from shoal.fast.fused import FusedKernels
from shoal.fast.gpu import library
from shoal.fast.gpu.library import GPUKernels
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, l2_norm, train_step

BATCHES = (512, 64)  # the whole training set, and a part of it


class Counted(TorchDispatchMode):
    """Counter of operations that compute or move something, and of kernels."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.operations = self.kernels = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_view = any(argument.alias_info for argument in function._schema.returns) and not function._schema.is_mutable
        makes_nothing = "empty" in function.overloadpacket.__name__
        self.operations += not (is_view or makes_nothing)
        return function(*args, **(kwargs or {}))

    def launch(self, *arguments: Any, **constants: Any) -> Callable[[], None]:
        """Launch of a kernel, which is counted instead."""

        def call() -> None:
            self.kernels += 1

        return call


def counts(spec: RunSpec, engine: str, work: Callable[[Stack], object]) -> tuple[int, int]:
    """Numbers of PyTorch's operations and of kernels in one piece of a run's work."""
    counted, kernels = Counted(), FusedKernels(GPUKernels, "counted, not launched")
    with (
        mock.patch.object(engines, "fused_kernels", lambda device: kernels),
        mock.patch.object(library, "_launch", counted.launch),
    ):
        stack = Stack(Cohort((spec,)), torch.device("cpu"), engine)
        work(stack)  # what is made once is there
        counted.kernels = 0
        with counted:
            work(stack)
    return counted.operations, counted.kernels


def main() -> None:
    """Print the table."""
    print("| | engine | operations | kernels |\n| --- | --- | ---: | ---: |")
    works: list[tuple[str, int, Callable[[Stack], object]]] = [(f"a step, B = {B}", B, train_step) for B in BATCHES]
    works.append(("an evaluation", BATCHES[0], lambda stack: evaluate(stack, {"l2_norm": l2_norm})))
    for model in ("lstm", "gpt"):
        for name, batch_size, work in works:
            for engine in ("prefixes", "compiled"):
                operations, kernels = counts(RunSpec(model=model, train_batch_size=batch_size), engine, work)
                print(f"| {model}, {name} | {engine} | {operations} | {kernels} |")


if __name__ == "__main__":
    main()
