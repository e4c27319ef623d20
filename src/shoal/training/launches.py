"""How a device is told what to do again and again.

A processor is called, once for each time. A GPU is too fast for that: at these sizes a kernel takes less time than
telling it to run. So what is done at every step is recorded once, as a CUDA graph, and many steps are launched with one
call. A recording is the same kernels on the same memory: the work must look at nothing on the host, and what it changes
it must change in place.
"""

from collections import Counter
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

import torch

Call = Callable[[], object]

MANY = 10  # times in the longer recording
FIRST = 3  # times before anything is recorded: they allocate what lasts, and let libraries choose their kernels


class Launches:
    """Does pieces of work many times; what has a name is the same work every time.

    Args:
        device: where it is done.
        record: makes a recording of what a function does and returns what replays it; a CUDA graph on a GPU, and
            None, where the device is called each time, elsewhere.
    """

    def __init__(self, device: torch.device, record: Callable[[Call], Call] | None = None) -> None:
        if record is None and device.type == "cuda":  # they take turns, so they may use the same memory
            record = partial(captured, pool=torch.cuda.graph_pool_handle())
        self.record = record
        self.done: Counter[Hashable] = Counter()  # times without a recording
        self.recordings: dict[tuple[Hashable, int], Call] = {}  # name, times -> what does it so often

    def run(self, name: Hashable, work: Call, times: int = 1) -> None:
        """Do the work of this name so many times."""
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
    """What a function does on the GPU, as a CUDA graph in a pool of memory. It does nothing while it is recorded."""
    graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
    try:
        with torch.cuda.graph(graph, pool=pool):
            work()
    finally:
        torch.cuda.set_stream(stream)  # also where memory ran out in between
    return graph.replay
