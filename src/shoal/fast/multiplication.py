"""Choice between two libraries of matrix products: PyTorch's, and our own (:mod:`shoal.fast.matmul`).

On x86 PyTorch multiplies by MKL, which on AMD's processors uses half of the width of AVX-512. Which of both is faster
is measured once on each machine, for two classes of shapes, and kept in the cache folder beside the kernels. Products
of operands that are rounded to bfloat16 are measured apart.
"""

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import cache as once
from statistics import median
from typing import Any

import torch
from torch import Tensor

from shoal.fast import cache, matmul
from shoal.fast.program import Arena, Program

PRODUCTS = ("own", "torch")
SMALL = 64  # width below which the products of a cohort are of the class small
TURNS = 7
# Members, rows, inputs and outputs of a layer whose three products are measured, and how often in a turn.
CLASSES = {"large": ((1, 480, 128, 512), 2), "small": ((16, 64, 32, 128), 6)}


def choose_products(width: int, device: torch.device, precision: str = "float32") -> str:
    """Faster library for models of a width: one of :data:`PRODUCTS`; PyTorch's where there is no other."""
    if device.type != "cpu" or matmul.library(precision).library is None:
        return "torch"
    ratio = measured(precision).get("small" if width < SMALL else "large", 0.0)
    return "own" if ratio > 1 else "torch"


def available_products(wanted: str, device: torch.device, precision: str = "float32") -> str:
    """Library with which a cohort that was begun with ``wanted`` goes on here: our own is for the CPU."""
    has_own = wanted == "own" and device.type == "cpu" and matmul.library(precision).library is not None
    return "own" if has_own else "torch"


@once
def measured(precision: str = "float32") -> dict[str, float]:
    """Time of PyTorch's products over that of our own, by class of shapes: measured on first use, in half a second."""
    key = f"{matmul.library(precision).key} {torch.__version__}"
    name = f"products-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json"
    with suppress(ValueError, TypeError, KeyError):  # no note, or not one of ours
        noted = json.loads(cache.note(name) or "")
        ratios = {of: float(noted[of]) for of in CLASSES}
        if all(0 < ratio < 1000 for ratio in ratios.values()):
            return ratios
    ratios = {of: round(_ratio(*shape, precision), 3) for of, shape in CLASSES.items()}
    with suppress(OSError):  # measured again next time
        cache.keep_note(name, json.dumps(ratios))
    return ratios


def _ratio(sizes: tuple[int, int, int, int], repeats: int, precision: str) -> float:
    """Median over turns of the ratio of both times, on one thread; that of PyTorch with the copies that are rounded."""
    R, M, K, N = sizes
    generator = torch.Generator().manual_seed(0)
    x, weight, d_y = (torch.randn(R, *shape, generator=generator) for shape in ((M, K), (N, K), (M, N)))
    three = [  # of a layer and of its gradients: result, left and right
        (torch.empty(R, M, N), x, weight.mT),
        (torch.empty(R, M, K), d_y, weight),
        (torch.empty(R, N, K), d_y.mT, x),
    ]
    ours, theirs = (_calls(three, products, precision) for products in PRODUCTS)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        ratios = [_seconds(theirs, repeats) / _seconds(ours, repeats) for _ in range(TURNS + 1)]
    finally:
        torch.set_num_threads(threads)
    return median(ratios[1:])  # the first warms up


def _calls(each: Sequence[tuple[Tensor, Tensor, Tensor]], products: str, precision: str) -> list[Callable[[], Any]]:
    """Calls of products, from their results and operands, as a program makes them."""
    program = Program(Arena(), each[0][0].flatten(1), is_differentiable=False, products=products, precision=precision)
    for out, a, b in each:
        program.multiply(out, a, b)
    return [program.forward]


def _seconds(calls: Sequence[Callable[[], Any]], repeats: int) -> float:
    before = time.process_time()
    for _ in range(repeats):
        for call in calls:
            call()
    return time.process_time() - before
