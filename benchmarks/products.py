"""Benchmark of products. ``python -m benchmarks.products [bfloat16] [MEMBERS ...]``; ``… list``: those of programs.

Each shape that programs of training have (see :data:`SHAPES`), by PyTorch's ``mm`` for each member and its ``bmm`` for
all of them (MKL), by oneDNN for each member, and by one call of ``shoal.fast.matmul``. One thread, in turns; GFLOP/s of
processor time, medians of the turns.

oneDNN's float32 product is what ``torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")`` calls, for
contiguous ``x (M, K)`` and ``weight (N, K)``. Operands that lie otherwise are copied before the clock starts: its
numbers are what it could do at best. PyTorch's own ``mm`` and ``linear`` call MKL.

With ``bfloat16``, products of operands that are rounded to it: by PyTorch's ``bmm`` (oneDNN) of operands that are
rounded before the clock starts, with a result in bfloat16; the same as a program does it, which rounds float32 operands
and copies the result back; and by one call of ``shoal.fast.matmul``, which rounds them as it copies them and adds up in
float32.

Shapes: ``R`` members, ``(M, K) (K, N) -> (M, N)``; ``T`` marks an operand that lies transposed in memory.
"""

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from shoal.fast import matmul
from shoal.fast.memory import keep_freed_memory
from shoal.fast.program import Arena, Program
from shoal.spec import RunSpec
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import train_step

TURNS, WORK = 7, 3e8  # turns; floating-point operations of one, at least
LARGEST = 2**26  # numbers of all operands; larger cases are left out
MEMBERS = (1, 2, 8, 64)
NAMES = {"float32": ("mm", "bmm", "oneDNN", "shoal"), "bfloat16": ("bmm", "bmm, rounding", "shoal")}  # of the ways
OTHERS = {"float32": ("bmm", "oneDNN"), "bfloat16": ("bmm", "bmm, rounding")}  # which shoal is compared with
PROGRAMS: dict[str, dict[str, Any]] = {  # whose products are listed
    "LSTM, default": {"model": "lstm"},
    "GPT, default": {"model": "gpt"},
    "LSTM, d 32, B 64": {"model": "lstm", "embedding_size": 32, "train_batch_size": 64},
    "GPT, d 32, B 64": {"model": "gpt", "embedding_size": 32, "train_batch_size": 64},
}


@dataclass(frozen=True)
class Shape:
    """Shape of a product, and whether its operands lie transposed."""

    M: int
    K: int
    N: int
    a: str = ""
    b: str = ""

    def __str__(self) -> str:
        return f"{self.M}×{self.K}{self.a} · {self.K}×{self.N}{self.b}"

    @property
    def operations(self) -> int:
        """Floating-point operations of one member."""
        return 2 * self.M * self.K * self.N


SHAPES: dict[str, Sequence[Shape]] = {
    "text GPT, L 4, d 128, 12 × 64 tokens: forward X Wᵀ": (
        *(Shape(768, 128, N, b="T") for N in (384, 128, 512)),
        Shape(768, 512, 128, b="T"),
    ),
    "… input gradient G W": (
        *(Shape(768, K, 128) for K in (384, 128, 512)),
        Shape(768, 128, 512),
    ),
    "… weight gradient Gᵀ X": (
        *(Shape(M, 768, 128, a="T") for M in (384, 128, 512)),
        Shape(128, 768, 512, a="T"),
    ),
    "… classifier, V = 65 and 8,000": (
        *(Shape(768, 128, V, b="T") for V in (65, 8000)),
        *(Shape(768, V, 128) for V in (65, 8000)),
        *(Shape(V, 768, 128, a="T") for V in (65, 8000)),
    ),
    "arithmetic, d 128, 480 equations": (
        *(Shape(1503, 128, N, b="T") for N in (128, 256, 512)),
        Shape(1503, 512, 128, b="T"),
        Shape(1503, 128, 512),
        Shape(1503, 512, 128),
        Shape(512, 1503, 128, a="T"),
        Shape(128, 1503, 512, a="T"),
        Shape(480, 128, 512, b="T"),
        Shape(480, 512, 128),
        Shape(960, 128, 36, b="T"),
        Shape(960, 36, 128),
        Shape(36, 960, 128, a="T"),
        Shape(31, 128, 512, b="T"),
        Shape(512, 63, 128, a="T"),
    ),
    "arithmetic, d 32, 64 equations": (
        *(Shape(255, 32, N, b="T") for N in (32, 64, 128)),
        Shape(64, 32, 128, b="T"),
        Shape(31, 32, 128, b="T"),
        Shape(64, 128, 32),
        Shape(255, 128, 32),
        Shape(255, 32, 128),
        Shape(128, 255, 32, a="T"),
        Shape(32, 255, 32, a="T"),
        Shape(128, 128, 32, a="T"),
        Shape(128, 32, 36, b="T"),
        Shape(128, 36, 32),
        Shape(36, 128, 32, a="T"),
    ),
}


def drawn(R: int, rows: int, columns: int, transposed: str) -> Tensor:
    """Standard normal matrices, ``(R, rows, columns)``, contiguous or transposed."""
    return torch.randn(R, columns, rows).mT if transposed else torch.randn(R, rows, columns)


def rounded_ways(shape: Shape, R: int) -> dict[str, Callable[[], Any]]:
    """Calls that compute the products of all members in bfloat16, by name."""
    a, b = drawn(R, shape.M, shape.K, shape.a), drawn(R, shape.K, shape.N, shape.b)
    out, rounded = torch.empty(R, shape.M, shape.N), [x.to(torch.bfloat16) for x in (a, b)]
    in_bfloat16 = out.to(torch.bfloat16)
    program = Program(Arena(), out.flatten(1), is_differentiable=False, precision="bfloat16")
    program.multiply(out, a, b)
    return {
        "bmm": lambda: torch.bmm(*rounded, out=in_bfloat16),
        "bmm, rounding": program.forward,
        "shoal": matmul.bound(out, a, b, precision="bfloat16"),
    }


def ways(shape: Shape, R: int) -> dict[str, Callable[[], Any]]:
    """Calls that compute the products of all members, by name."""
    a, b = drawn(R, shape.M, shape.K, shape.a), drawn(R, shape.K, shape.N, shape.b)
    out = torch.empty(R, shape.M, shape.N)
    single = list(zip(a, b, out, strict=True))
    contiguous = [(x.contiguous(), y.mT.contiguous()) for x, y in zip(a, b, strict=True)]
    linear = torch.ops.mkldnn._linear_pointwise

    def by_mm() -> None:
        for x, y, z in single:
            torch.mm(x, y, out=z)

    def by_onednn() -> None:
        for x, weight in contiguous:
            linear(x, weight, None, "none", [], "")

    return {
        "mm": by_mm,
        "bmm": lambda: torch.bmm(a, b, out=out),
        "oneDNN": by_onednn,
        "shoal": matmul.bound(out, a, b),
    }


def speeds(shape: Shape, R: int, precision: str) -> dict[str, float]:
    """GFLOP/s of each way, medians of turns that follow one another."""
    calls = (ways if precision == "float32" else rounded_ways)(shape, R)
    times: dict[str, list[float]] = {}
    for name, call in calls.items():
        call()
        times[name] = []
    repeats = max(1, round(WORK / (R * shape.operations)))
    for turn in range(TURNS):
        for name in list(calls)[:: 1 if turn % 2 else -1]:
            start = time.thread_time()
            for _ in range(repeats):
                calls[name]()
            times[name].append((time.thread_time() - start) / repeats)
    return {name: R * shape.operations / median(of) / 1e9 for name, of in times.items()}


class Products(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counter of the products that PyTorch is asked for."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[Shape] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if "mm" in function.overloadpacket.__name__:
            a, b = [value for value in args if isinstance(value, Tensor)][-2:]
            orders = ("" if x.stride(-1) == 1 else "T" for x in (a, b))
            M, K = a.shape[-2:]
            self.seen[Shape(M, K, b.shape[-1], *orders)] += 1
        return function(*args, **(kwargs or {}))


def products_of(**settings: Any) -> Counter[Shape]:
    """Products of one training step by engine ``compiled``, each as often as it is computed."""
    stack = Stack(Cohort((RunSpec(**settings),)), torch.device("cpu"), "compiled", "torch")
    train_step(stack)
    with Products() as products:
        train_step(stack)
    seen: Counter[Shape] = products.seen
    return seen


def main() -> None:
    """Measure and print Markdown tables, or list the products of programs."""
    torch.set_num_threads(1)
    keep_freed_memory()  # oneDNN makes an array at each call, whose fresh pages would cost more than the product
    if sys.argv[1:] == ["list"]:
        for name, settings in PROGRAMS.items():
            print(f"\n{name}\n")
            for shape, count in sorted(products_of(**settings).items(), key=lambda pair: -pair[0].operations * pair[1]):
                print(f"{count} of {shape}, {count * shape.operations / 1e6:.1f} MFLOP")
        return
    precision = "bfloat16" if "bfloat16" in sys.argv[1:] else "float32"
    members = tuple(int(word) for word in sys.argv[1:] if word != precision) or MEMBERS
    others, names = OTHERS[precision], NAMES[precision]
    head = [*names, *(f"shoal / {other}" for other in others)]
    print(f"| GFLOP/s | R | {' | '.join(head)} |\n| --- |" + " ---: |" * (len(head) + 1))
    for name, shapes in SHAPES.items():
        print(f"| **{name}** |" + " |" * (len(head) + 1))
        for shape in shapes:
            for R in members:
                if R * (shape.M * shape.K + shape.K * shape.N + shape.M * shape.N) > LARGEST:
                    continue
                speed = speeds(shape, R, precision)
                ratios = (f"{speed['shoal'] / speed[other]:.2f}" for other in others)
                print(
                    f"| {shape} | {R} |", " | ".join([*(f"{x:.0f}" for x in speed.values()), *ratios]), "|", flush=True
                )


if __name__ == "__main__":
    main()
