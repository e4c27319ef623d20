"""Fused kernels of a device: compiled from C for the CPU, by Triton for a GPU."""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch

from shoal.fast.build import OFF, kernels
from shoal.fast.gpu.library import GPUKernels
from shoal.fast.kernels import CompiledLibrary, Library
from shoal.fast.program import Program
from shoal.fast.trial import largest_error

ALLOWED = 1e-3  # relative error of kernels on trial: mistakes are larger, rounding errors much smaller


@dataclass(frozen=True)
class FusedKernels:
    """Kernels for a device.

    Attributes:
        library_for: function from a program, or None for calls outside of one, to the kernels; None without kernels.
        note: name of the kernels, or the reason why there are none.
        key: key that differs between kernels of different last bits.
    """

    library_for: Callable[[Program | None], Library] | None
    note: str
    key: str = ""


def fused_kernels(device: torch.device) -> FusedKernels:
    """Kernels of a device, compiled or loaded on first use."""
    if device.type != "cpu":
        return _on_gpu(device)
    host = kernels()
    if host.library is None:
        return FusedKernels(None, host.note)
    library = CompiledLibrary(host.library)
    return FusedKernels(lambda program: library, host.note, host.key)


@cache
def _on_gpu(device: torch.device) -> FusedKernels:
    """Triton's kernels, if their results on this GPU agree with PyTorch's."""
    if os.environ.get(OFF):
        return FusedKernels(None, f"{OFF} is set")
    if os.environ.get("TRITON_INTERPRET"):
        return FusedKernels(None, "TRITON_INTERPRET is set, and what is interpreted cannot be recorded")
    products = torch.backends.cuda.matmul
    precision, products.fp32_precision = products.fp32_precision, "ieee"  # whatever a cohort has asked for
    try:
        import triton

        error = largest_error(GPUKernels, device)
    except torch.OutOfMemoryError:  # says nothing of the kernels
        raise
    except Exception as failure:  # whatever it is, PyTorch's own operations remain
        reason = f"{type(failure).__name__}: {(str(failure).strip().splitlines() or ['no message'])[0]}"
        return FusedKernels(None, f"Triton's kernels do not run on this device: {reason}")
    finally:
        products.fp32_precision = precision
    name = f"Triton {triton.__version__}"
    if not error <= ALLOWED:
        return FusedKernels(None, f"the kernels of {name} are off by {error:.1g} on this device")
    key = f"{name}, CUDA {torch.version.cuda}, {torch.cuda.get_device_name(device)}, {_source()}"
    return FusedKernels(GPUKernels, f"the kernels of {name}", key)


def _source() -> str:
    """Checksum of the kernels for a GPU."""
    files = sorted(Path(__file__).with_name("gpu").glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()[:16]
