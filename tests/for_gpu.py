"""Compiles every kernel that training launches, for a GPU of the given capability, without one.

Run as a program, ``python for_gpu.py 90 few``, or ``all`` with every way that a rule calls them.
"""

import sys
from typing import Any
from unittest import mock

import torch
from helpers import CPU, one_cohort, tiny_grid
from triton.backends.compiler import GPUTarget
from triton.runtime import driver

from shoal.fast import engine as engines
from shoal.fast.fused import FusedKernels
from shoal.fast.gpu import library
from shoal.fast.gpu.library import GPUKernels, kernel
from shoal.training.stack import Stack
from shoal.training.step import train_step


class NoGPU:
    """What Triton asks a driver, to compile a kernel for what it is launched with."""

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", int(sys.argv[1]), 32)

    def get_current_device(self) -> int:
        return 0

    def get_current_stream(self, device: int) -> int:
        return 0

    def get_active_torch_device(self) -> torch.device:
        return CPU


compiled = set()


def launch(name: str, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> Any:
    """Compile a kernel for these arguments, as Triton does when it is launched."""
    made = kernel(name).warmup(*arguments, grid=grid, enable_fp_fusion=True, **constants)
    assert made.asm["cubin"]
    compiled.add(name)
    return lambda: None


if __name__ == "__main__":
    driver.set_active(NoGPU())
    found = FusedKernels(GPUKernels, "compiled, not run")
    with (
        mock.patch.object(engines, "fused_kernels", lambda device: found),
        mock.patch.object(library, "_launch", launch),
    ):
        for model in ("lstm", "gpt"):
            for decay_all in (True, False) if sys.argv[2] == "all" else (model == "lstm",):
                settings = {"model": model, "num_layers": 2, "embedding_size": 128, "decay_all": decay_all}
                train_step(Stack(one_cohort(tiny_grid(settings, seed=[0, 1])), CPU, "compiled"))
    print(*sorted(compiled))
