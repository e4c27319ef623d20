"""Compiles every kernel that training launches, for a card of the given capability, without one: run as a program."""

import sys
from typing import Any
from unittest import mock

import torch
import triton
from helpers import CPU, one_cohort, tiny_grid
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from shoal.fast import engine as engines
from shoal.fast.card import library
from shoal.fast.card.library import CardKernels, kernel
from shoal.fast.fused import FusedKernels
from shoal.training.stack import Stack
from shoal.training.step import train_step

TYPES = {torch.float32: "*fp32", torch.float64: "*fp64", torch.int64: "*i64", torch.uint8: "*u8", torch.int8: "*i8"}
compiled: dict[tuple[Any, ...], str] = {}


def launch(name: str, grid: tuple[int, ...], *arguments: Any, num_warps: int = 4, **constants: Any) -> Any:
    """Compile a kernel for what it is launched with, as Triton does when it is."""
    function = kernel(name)
    options = {"num_warps": num_warps, "enable_fp_fusion": constants.pop("enable_fp_fusion", True)}
    values = dict(zip(function.arg_names, arguments, strict=False)) | constants
    assert list(values) == function.arg_names
    fixed = {parameter.name for parameter in function.params if parameter.is_constexpr}
    signature, known = {}, {}
    for index, (argument, value) in enumerate(values.items()):
        if argument in fixed or value is None:
            signature[argument], known[index,] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[argument] = TYPES[value.dtype]
        else:
            signature[argument] = "fp32" if isinstance(value, float) else "i32"
    key = (name, *signature.items(), *known.items(), num_warps)
    if key not in compiled:
        target = GPUTarget("cuda", int(sys.argv[1]), 32)
        made = triton.compile(ASTSource(function, signature, constexprs=known), target=target, options=options)
        assert made.asm["cubin"]
        compiled[key] = name
    return lambda: None


if __name__ == "__main__":
    found = FusedKernels(CardKernels, "compiled, not run")
    with (
        mock.patch.object(engines, "fused_kernels", lambda device: found),
        mock.patch.object(library, "_launch", launch),
    ):
        for model in ("lstm", "gpt"):
            for decay_all in (True, False):
                settings = {"model": model, "num_layers": 2, "embedding_size": 128, "decay_all": decay_all}
                train_step(Stack(one_cohort(tiny_grid(settings, seed=[0, 1])), CPU, "compiled"))
    print(*sorted(set(compiled.values())))
