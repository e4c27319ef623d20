"""Kernels of windows beside PyTorch's own operations. ``python -m benchmarks.window_kernels [ROUNDS]``.

Each operation forwards and backwards, for one member on one thread: in turns by kernels in a program and by PyTorch,
medians of processor time. The settings are nanoGPT's small one for the CPU and one of translation.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain
from statistics import median, quantiles
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.fast.build import kernels
from shoal.fast.kernels import CompiledLibrary
from shoal.fast.memory import keep_freed_memory
from shoal.fast.program import Arena, Program, Value
from shoal.fast.window_kernels import WindowKernelOps, window_library
from shoal.fast.window_ops import Drop, View

CALLS = 5  # of an operation in a turn


@dataclass(frozen=True)
class Shape:
    """Shape of a batch and a model: examples, positions, width, heads, neurons, tokens; probability of dropout."""

    name: str
    B: int
    S: int
    D: int
    H: int
    E: int
    V: int
    p: float

    @property
    def n(self) -> int:
        """Number of rows."""
        return self.B * self.S


SHAPES = (
    Shape("nanoGPT, small", 12, 64, 128, 4, 512, 65, 0.0),
    Shape("translation", 100, 16, 256, 8, 1024, 8000, 0.1),
)


class Timed:
    """Operation, forwards and backwards, and the processor time of each turn of :data:`CALLS` calls, per call.

    Args:
        call: the operation.
        reset: function that is called before each turn.
    """

    def __init__(self, call: Callable[[], object], reset: Callable[[], object] = lambda: None) -> None:
        self.call, self.reset = call, reset
        self.seconds: list[float] = []

    def turn(self) -> None:
        """Measure once more."""
        self.reset()
        start = time.process_time()
        for _ in range(CALLS):
            self.call()
        self.seconds.append((time.process_time() - start) / CALLS)


def ours(build: Callable[..., Any], *shapes: tuple[int, ...]) -> Timed:
    """Operation of kernels on numbers of these shapes."""
    host, library = kernels().library, window_library()
    assert library is not None and host is not None
    program = Program(Arena(), torch.zeros(1, 1))
    values = [Value(torch.randn(1, *shape)) for shape in shapes]
    out = build(WindowKernelOps(CompiledLibrary(host), library, program), *values)
    if isinstance(out, Value):
        out.grad, out.is_written = program.take(*out.data.shape).normal_(), True
    else:
        program.d_loss.fill_(1.0)
    program.finish()
    before = [value.data.clone() for value in values]  # of what the operation overwrites

    def call() -> None:
        program.forward()
        program.backward()

    return Timed(call, lambda: [value.data.copy_(data) for value, data in zip(values, before, strict=True)])


def theirs(build: Callable[..., Tensor], *shapes: tuple[int, ...]) -> Timed:
    """Operation of PyTorch on numbers of these shapes."""
    leaves = [torch.randn(shape, requires_grad=True) for shape in shapes]
    d_out = torch.randn_like(build(*leaves))
    return Timed(lambda: torch.autograd.grad(build(*leaves), leaves, d_out))


def split(x: Tensor, H: int, B: int) -> Tensor:
    """Heads of the rows of a batch, ``(B S, D) -> (B, H, S, D / H)``."""
    return x.view(B, -1, H, x.shape[-1] // H).transpose(1, 2)


def of_tokens(at: Shape) -> Iterator[tuple[str, Timed, Timed]]:
    """Embeddings, attention and scores by name: by kernels, and by PyTorch."""
    n, D, V, H, B, S = at.n, at.D, at.V, at.H, at.B, at.S
    drop = Drop(at.p, torch.tensor([7])) if at.p else None
    tokens, targets = torch.randint(V, (1, n)), torch.randint(V, (1, n))
    places = torch.arange(n) % S

    def attended(q: Tensor, kv: Tensor, causal: bool, p: float) -> Tensor:
        k, v = kv.chunk(2, -1)
        q, k, v = (split(x, H, B) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v, dropout_p=p, is_causal=causal).transpose(1, 2).reshape(n, D)

    yield (
        "embeddings",
        ours(lambda ops, t, p: ops.embed(t, tokens, S, p, None), (V, D), (S, D)),
        theirs(lambda t, p: F.embedding(tokens[0], t) + F.embedding(places, p), (V, D), (S, D)),
    )
    yield (
        "attention, causal",
        ours(lambda ops, q, kv: ops.attention(q, kv, View(B, S, S, True), H), (n, D), (n, 2 * D)),
        theirs(lambda q, kv: attended(q, kv, True, 0.0), (n, D), (n, 2 * D)),
    )
    if drop is not None:
        yield (
            "attention, dropout",
            ours(lambda ops, q, kv: ops.attention(q, kv, View(B, S, S, False), H, drop), (n, D), (n, 2 * D)),
            theirs(lambda q, kv: attended(q, kv, False, at.p), (n, D), (n, 2 * D)),
        )
    smoothing = at.p
    yield (
        "cross-entropy",
        ours(lambda ops, z: ops.token_scores(z, targets, smoothing, "torch"), (n, V)),
        theirs(lambda z: F.cross_entropy(z, targets[0], reduction="none", label_smoothing=smoothing), (n, V)),
    )


def of_rows(at: Shape) -> Iterator[tuple[str, Timed, Timed]]:
    """Operations on rows of numbers by name: by kernels, and by PyTorch."""
    n, D, E = at.n, at.D, at.E
    drop = Drop(at.p, torch.tensor([7])) if at.p else None
    for kind, function in (("gelu", F.gelu), ("relu", F.relu)):
        yield kind, ours(lambda ops, x, kind=kind: ops.activation(x, kind), (n, E)), theirs(function, (n, E))
    other = Drop(0.1, torch.tensor([7]))
    yield (
        "dropout",
        ours(lambda ops, x: ops.dropout(x, other), (n, D)),
        theirs(lambda x: F.dropout(x, 0.1), (n, D)),
    )
    yield (
        "LayerNorm",
        ours(lambda ops, x, w, s: ops.norm(x, (w, s)), (n, D), (D,), (D,)),
        theirs(lambda x, w, s: F.layer_norm(x, (D,), w, s), (n, D), (D,), (D,)),
    )
    yield (
        "RMSNorm",
        ours(lambda ops, x, w: ops.norm(x, (w, None)), (n, D), (D,)),
        theirs(lambda x, w: F.rms_norm(x, (D,), w), (n, D), (D,)),
    )
    yield (
        "residual, norm",
        ours(lambda ops, x, a, b, w, s: ops.residual(x, a, b, drop, (w, s)), (n, D), (n, D), (D,), (D,), (D,)),
        theirs(
            lambda x, a, b, w, s: F.layer_norm(x + F.dropout(a + b, at.p), (D,), w, s), (n, D), (n, D), (D,), (D,), (D,)
        ),
    )
    yield (
        "residual",
        ours(lambda ops, x, a, b: ops.residual(x, a, b, drop, None), (n, D), (n, D), (D,)),
        theirs(lambda x, a, b: x + F.dropout(a + b, at.p), (n, D), (n, D), (D,)),
    )


def main(rounds: int) -> None:
    """Print a table."""
    torch.set_num_threads(1)
    keep_freed_memory()
    for at in SHAPES:
        print(f"\n{at.name}: B {at.B}, S {at.S}, D {at.D}, H {at.H}, E {at.E}, V {at.V}, dropout {at.p}\n")
        print("| | kernels, µs | PyTorch, µs | ratio (quartiles) |\n| --- | ---: | ---: | ---: |")
        for name, one, other in chain(of_tokens(at), of_rows(at)):
            for timed in (one, other) * rounds:
                timed.turn()
            ours, torchs = (timed.seconds[2:] for timed in (one, other))
            ratios = [b / a for a, b in zip(ours, torchs, strict=True)]
            low, middle, high = quantiles(ratios, n=4)
            times = f"{1e6 * median(ours):,.0f} | {1e6 * median(torchs):,.0f}"
            print(f"| {name} | {times} | {middle:.2f} ({low:.2f} to {high:.2f}) |", flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
