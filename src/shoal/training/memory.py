"""Memory estimates: the number of members that fit into free memory."""

import gc
import os
import re
from bisect import bisect_right
from collections.abc import Iterable
from functools import partial
from pathlib import Path

import torch

from shoal.errors import UserError
from shoal.fast.engine import COMPILED, ENGINES
from shoal.fast.memory import return_freed_memory
from shoal.fast.passes import group_size
from shoal.fast.scorer import parts_of
from shoal.fast.windows import window_parts
from shoal.spec import RunSpec
from shoal.spec.windows import windows_refusal
from shoal.tasks.build import count_frozen, count_run_parameters, counts_of
from shoal.training.groups import left_in_process, memory_left

# What PyTorch says for the CPU, CUDA and its libraries, C++, and oneDNN (with "descriptor" after it: another mistake).
_SIGNS = re.compile("DefaultCPUAllocator|out of memory|ALLOC_FAILED|bad_alloc|could not create a primitive$")
MOST = 65_535  # members of a stack: kernels for a GPU have no larger grids
ORDER = 12  # 8-byte numbers for each example that a pass shuffles: its order, and hashes while it is shuffled
TABLES = 3  # copies of a frozen table: of the model that is made, of the stack, and of a model that is kept
BASES = 3  # copies of a base: as it is read, of the model that is made of it, and its codes or joined weights
SHARE = 0.5  # of the free memory, that all cohorts training at once may take together


def places(
    spec: RunSpec, members: int, device: torch.device, engine: str, share: float = SHARE, *, one_table: bool = False
) -> int:
    """Number of a cohort's members that train side by side; the others wait their turn.

    Args:
        spec: the member that needs most.
        members: number of members.
        device: device of the training.
        engine: engine of the training.
        share: part of the free memory that they may take.
        one_table: true where frozen tables are the same in all members, and are held once.

    Raises:
        UserError: not even one fits.
    """
    free, on_gpu = free_bytes(device), device.type == "cuda"
    of_member = (*_bytes_of(spec, engine, on_gpu, one_table), _in_groups(spec, engine, on_gpu))
    _check_fits(spec, _stack_bytes(*of_member, 1), free)
    beyond = bisect_right(range(1, min(members, MOST) + 1), share * free, key=partial(_stack_bytes, *of_member))
    return max(1, beyond)


def check_memory(specs: Iterable[RunSpec], device: torch.device, engine: str | None) -> None:
    """Raise :class:`UserError` for a run that fits with no engine, or not with the named one; allocates nothing."""
    free = free_bytes(device)
    for spec in specs:
        engines = ENGINES if engine is None else [engine]
        _check_fits(spec, min(stack_bytes(spec, 1, name, device.type == "cuda") for name in engines), free)


def _check_fits(spec: RunSpec, each: int, free: int) -> None:
    if each > free:
        names = [*spec.task_part.sizes_named(), "train_batch_size", "model", *spec.model_part.sizes_named()]
        sizes = ", ".join(f"{name}={getattr(spec, name)}" for name in names)
        raise UserError(f"one run with {sizes} needs about {each / 2**30:,.1f} GiB; {free / 2**30:,.1f} GiB are free")


def stack_bytes(spec: RunSpec, members: int, engine: str, on_gpu: bool = False, *, one_table: bool = False) -> int:
    """Estimate, on the high side, of the memory of a stack in training and evaluation.

    It counts parameters with their gradient, optimizer state and copies; data, and the order of a pass over them; and
    the numbers that the forward pass keeps for the backward pass at every position of a batch, or those of an
    evaluation pass: on a GPU both, as recorded steps keep their memory. Programs keep those of one group of members.
    Frozen tables count once where there is ``one_table`` for all members, and the base of fine-tuned ones always does.
    """
    return _stack_bytes(*_bytes_of(spec, engine, on_gpu, one_table), _in_groups(spec, engine, on_gpu), members)


def _in_groups(spec: RunSpec, engine: str, on_gpu: bool) -> bool:
    """Return True if members pass in groups, which those on a base in codes do not: it is dequantised once for all."""
    return engine in COMPILED and not on_gpu and spec.get("quantization") is None


def _stack_bytes(shared: int, held: int, passing: int, in_groups: bool, members: int) -> int:
    """Memory of a stack, of which all members' values are kept at once, or those of one group."""
    at_once = group_size(passing, torch.get_num_threads(), members) if in_groups else members
    return shared + members * held + at_once * passing


def _bytes_of(spec: RunSpec, engine: str, on_gpu: bool, one_table: bool) -> tuple[int, int, int]:
    """Memory that all members share, of a member as long as it is in the stack, and of the values of its passes."""
    if spec.model_part.fitted_by == "em":
        return 0, _em_bytes(spec, engine), 0
    sizes, counts = spec.sizes(), counts_of(spec)
    n_train, n_all, S = counts.drawn, counts.scored, sizes.positions
    n_batch = spec.task_part.batch_positions(spec.train_batch_size)
    data = 8 * (counts.held + ORDER * spec.task_part.shuffled())
    position = spec.model_part.floats_per_position() + 4 * sizes.vocabulary_size
    trained = n_batch * position
    n_scored, layers = min(spec.eval_batch_size, n_all), spec.get("num_layers", 1)
    if engine == "compiled":  # in parts, but every layer's arrays stay
        n_scored = -(-n_scored // parts_of(n_scored, min(spec.train_batch_size, n_train))) * layers
    if engine == "windows" and windows_refusal(spec) is None:  # likewise
        n_scored = -(-n_scored // window_parts(n_scored, min(spec.train_batch_size, n_train), S)) * layers
    evaluated = n_scored * S * position / layers
    values = trained + evaluated if on_gpu else max(trained, evaluated)
    table = TABLES * 4 * count_frozen(spec)
    shared, of_member = (table, 0) if one_table else (0, table)
    shared += BASES * 4 * spec.model_part.count_base()
    return shared, parameter_bytes(spec) + of_member + data, int(4 * values)


def _em_bytes(spec: RunSpec, engine: str) -> int:
    """Memory of one hidden Markov model: its data, and its messages where kernels do not keep a part of them alone."""
    n, sizes = counts_of(spec).scored, spec.sizes()
    data = n * (8 * spec.num_dimensions or 4)
    is_kept = engine != "compiled" or spec.update == "conditional"
    return int(2 * data + 8 * 6 * n * spec.num_states * is_kept + 64 * spec.num_states * sizes.vocabulary_size)


def parameter_bytes(spec: RunSpec) -> int:
    """Memory of a member's parameters that train, with their gradient, optimizer state and copies."""
    tables = max(0, spec.model_part.count_tables(spec.sizes()) - count_frozen(spec))
    parameters = count_run_parameters(spec) + tables
    return 4 * parameters * (6 + len(spec.rule.state) + spec.rule.temporaries)


def free_bytes(device: torch.device) -> int:
    """Free memory of a device, in bytes."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    free = [_available(), memory_left(), left_in_process()]
    return min(number for number in free if number is not None)


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error, or one before it, says that memory ran out: of Python, of a GPU or of a library."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    if isinstance(error, RuntimeError) and _SIGNS.search(str(error)):
        return True
    before = error.__cause__ or error.__context__
    return before is not None and is_out_of_memory(before)


def release_memory(device: torch.device) -> None:
    """Release memory that is no longer referenced."""
    gc.collect()
    return_freed_memory()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux: half of all memory
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
