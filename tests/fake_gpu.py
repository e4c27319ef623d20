"""Steps on a GPU that is not there: every operation, its shapes and devices, without values.

Run as a program, on ``few`` or ``all`` settings; it registers a device with PyTorch for good. Two devices that meet in
one operation, or a value that is looked at, raise. Kernels are launched with what they are given on the GPU, and do
nothing.
"""

import copy
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from helpers import CPU, one_cohort, tiny_grid
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.backend_registration import _setup_privateuseone_for_python_backend

from shoal.fast import engine as engines
from shoal.fast.fused import FusedKernels
from shoal.fast.gpu import library
from shoal.fast.gpu.library import GPUKernels
from shoal.training.stack import Stack
from shoal.training.step import _learn, evaluate, l2_norm, train_step

SETTINGS = [
    {},
    {"train_batch_size": 4},
    {"r_train": [0.4, 0.6], "optimizer": "muon", "lr_schedule": "cosine", "label_smoothing": 0.1},
    {"positions": "rotary", "norm": "rmsnorm", "non_linearity": "swiglu", "optimizer": "lion"},
    {"num_layers": 2, "dropout": 0.1, "decay_all": False},
    {"precision": "bfloat16", "operation_orders": (2, 3), "optimizer": "sgd"},
]
FEW = [{**SETTINGS[1], **SETTINGS[2]}, *SETTINGS[3:5]]


def on_gpu(stack: Stack, mode: FakeTensorMode) -> Stack:
    """A copy whose tensors are on the GPU, but for those that are said to be on the host."""
    sampler = stack.sampler
    sampler.host_batches = sampler.host_batches.clone()  # on the CPU it is the very tensor that the device has
    host = {id(x) for x in (stack.steps, stack.last_steps, sampler.host_batches, sampler.shuffled, sampler.epoch)}

    def moved(tensor: Tensor, memo: dict[int, object]) -> Tensor:
        if id(tensor) in host:
            return tensor.clone()
        shape = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
        memo[id(tensor)] = FakeTensor(mode, shape, torch.device("gpu:0"), requires_grad=tensor.requires_grad)
        return memo[id(tensor)]

    with mock.patch.object(Tensor, "__deepcopy__", moved), mock.patch.object(torch.nn.Parameter, "__deepcopy__", moved):
        return copy.deepcopy(stack)


class OnGPU(TorchDispatchMode):
    """Refuses operands on the host, of which PyTorch lets single numbers meet what is on a GPU."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for value in tree_leaves((args, kwargs)):
            assert not isinstance(value, Tensor) or value.device.type == "gpu", (function, value)
        return function(*args, **(kwargs or {}))


def launched(name: str, grid: tuple[int, ...], *arguments: object, **constants: object) -> Callable[[], object]:
    """A kernel that does nothing but look at its arguments."""
    assert all(size > 0 for size in grid)
    for value in arguments:
        assert not isinstance(value, Tensor) or value.device.type == "gpu", (name, value)
    return lambda: LAUNCHED.update([name])


LAUNCHED: Counter[str] = Counter()


@contextmanager
def kernels_of_the_gpu() -> Iterator[None]:
    """Kernels on a device without values, whose memory is known by its storage."""
    found = FusedKernels(GPUKernels, "on a GPU that is not there")
    with (
        mock.patch.object(engines, "fused_kernels", lambda device: found),
        mock.patch.object(library, "_launch", launched),
        mock.patch.object(FakeTensor, "data_ptr", lambda self: (self.untyped_storage()._cdata, self.storage_offset())),
        mock.patch.object(torch.UntypedStorage, "data_ptr", lambda self: (self._cdata, 0)),
    ):
        yield


def check(model: str, engine: str, values: dict[str, object]) -> None:
    axes = {name: value for name, value in values.items() if isinstance(value, list)}
    base = {name: value for name, value in values.items() if name not in axes}
    stack = Stack(one_cohort(tiny_grid({"model": model, **base}, seed=[0, 1], **axes)), CPU, engine, "torch")
    if engine != "compiled":  # whose calls are bound to memory on the CPU, once there are any
        train_step(stack)  # what is made once is there
    mode = FakeTensorMode()
    placed = on_gpu(stack, mode)
    assert placed.theta.device.type == "gpu"
    with mode:
        with OnGPU():
            _learn(placed)
        columns = evaluate(placed, {"l2_norm": l2_norm})
    assert {column.device for column in columns.values()} == {CPU}  # what the host reads has been brought to it


if __name__ == "__main__":
    _setup_privateuseone_for_python_backend("gpu")
    with kernels_of_the_gpu():
        for model in ("lstm", "gpt"):
            for engine in ("compiled", "prefixes", "plain"):
                for values in SETTINGS if sys.argv[1] == "all" else FEW:
                    if (engine != "prefixes" and "precision" in values) or (model == "lstm" and "positions" in values):
                        continue
                    check(model, engine, values)
                    print(model, engine, values)
    print(*sorted(LAUNCHED))
    sys.exit(0)
