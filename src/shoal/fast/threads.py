"""Threads that PyTorch divides its work between: on Linux those of GNU's OpenMP runtime, which it brings along."""

import ctypes
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path


def openmp_runtime() -> Path | None:
    """Path of the OpenMP runtime's library, where there is one; PyTorch is not loaded for it."""
    torch = find_spec("torch")
    if torch is None or torch.origin is None:
        return None
    return next((Path(torch.origin).parent / "lib").glob("libgomp*.so*"), None)


def in_every_thread(act: Callable[[], object]) -> None:
    """Call a function once in this thread and once in each that works for it.

    It sets modes that belong to a thread, which existing threads do not inherit. With another runtime it acts in this
    thread alone.
    """
    import torch  # takes a second, and those who compile kernels need not have it

    runtime, n = openmp_runtime(), torch.get_num_threads()
    if runtime is None or n == 1:
        act()
        return
    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: act() and None)
    ctypes.CDLL(str(runtime)).GOMP_parallel(callback, None, ctypes.c_uint(n), ctypes.c_uint(0))
