"""Launches of repeated work on a device.

On a CPU the work is called once for each repetition. A GPU is too fast for that: at these sizes a kernel takes less
time than its launch. So the work of a step is recorded once, as a CUDA graph, and many steps are launched with one
call. A recording repeats the same kernels on the same memory: the work must not read from the host, and must make its
changes in place.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch

Call = Callable[[], object]

MANY = 10  # repetitions in the longer recording
FIRST = 3  # repetitions before the recording: they allocate lasting memory, and let libraries choose their kernels


class Launches:
    """Launcher of repeated work; work of one name must be the same every time.

    Args:
        device: device of the work.
        record: function that records the work of a function and returns a function that replays it; a CUDA graph on a
            GPU, and None elsewhere, where the work is called each time.
    """

    def __init__(self, device: torch.device, record: Callable[[Call], Call] | None = None) -> None:
        if record is None and device.type == "cuda":  # they take turns, so they may use the same memory
            record = partial(captured, pool=torch.cuda.graph_pool_handle())
        self.record = record
        self.done: Counter[Hashable] = Counter()  # repetitions without a recording
        self.recordings: dict[tuple[Hashable, int], Call] = {}  # name, repetitions -> recording

    def run(self, name: Hashable, work: Call, times: int = 1) -> None:
        """Do the work of this name ``times`` times."""
        if self.record is None:
            for _ in range(times):
                work()
            return
        while times > 0 and self.done[name] < FIRST:
            work()
            self.done[name] += 1
            times -= 1
        for size in (MANY, 1):
            for _ in range(times // size):
                self._recording(name, work, size)()
            times %= size

    def _recording(self, name: Hashable, work: Call, size: int) -> Call:
        if (name, size) not in self.recordings:
            assert self.record is not None

            def repeated() -> None:
                for _ in range(size):
                    work()

            self.recordings[name, size] = self.record(repeated)
        return self.recordings[name, size]


def captured(work: Call, pool: Any = None) -> Call:
    """CUDA graph of a function's work, in a pool of memory. Nothing is computed while it is recorded."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool):
            work()
    finally:
        torch.cuda.set_stream(stream)  # also where memory ran out in between
    return graph.replay
