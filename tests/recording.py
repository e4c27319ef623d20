"""A CUDA graph without a GPU: operations are recorded with their tensors and done again in the same memory."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map_only

# What needs the host while it is done: values that are looked at, sizes that depend on them, what the host hands over.
REFUSED = {
    *("_local_scalar_dense", "equal", "is_nonzero", "item", "lift_fresh", "masked_select", "nonzero", "record_stream"),
    *("_unique", "_unique2", "unique_dim", "unique_consecutive", "bincount", "histc"),
}


class Recording(TorchDispatchMode):
    """Records operations; those before it in memory are as they were when it ends, as a GPU does nothing meanwhile."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, list[Tensor]]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}  # memory that the work changes, and what was in it
        self.made: set[int] = set()  # memory of what the work makes
        self.kept: list[Tensor] = []  # so that no address is used twice

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = function.overloadpacket.__name__
        if name in REFUSED or (name == "index" and any(i is not None and i.dtype == torch.bool for i in args[1])):
            raise AssertionError(f"{name} needs the host while the GPU works")
        for argument, value in zip(function._schema.arguments, args, strict=False):
            if argument.alias_info is not None and argument.alias_info.is_write:
                self._remember(value)
        for argument in function._schema.arguments:
            if argument.name in kwargs and argument.alias_info is not None and argument.alias_info.is_write:
                self._remember(kwargs[argument.name])
        out = function(*args, **kwargs)
        results = [value for value in tree_flatten(out)[0] if isinstance(value, Tensor)]
        inputs = {_place(value) for value in tree_flatten((args, kwargs))[0] if isinstance(value, Tensor)}
        self.made |= {_place(result) for result in results if _place(result) not in inputs}
        self.kept += results
        self.calls.append((function, args, kwargs, results))
        return out

    def _remember(self, values: Any) -> None:
        for value in tree_flatten(values)[0]:
            if isinstance(value, Tensor) and _place(value) not in self.made | self.before.keys():
                whole = value.detach().as_strided((value.untyped_storage().nbytes() // value.itemsize,), (1,), 0)
                self.before[_place(value)] = whole, whole.clone()

    def undo(self) -> None:
        """Put back what was there before."""
        for whole, value in self.before.values():
            whole.copy_(value)

    def replay(self) -> None:
        """Do the same operations on the same memory."""
        with torch.no_grad():
            for function, args, kwargs, results in self.calls:
                again = tree_flatten(function(*args, **kwargs))[0]
                for result, value in zip(results, [v for v in again if isinstance(v, Tensor)], strict=True):
                    if result.data_ptr() != value.data_ptr():
                        result.detach().copy_(value)


def _place(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


def recorded(work: Callable[[], object]) -> Callable[[], None]:
    """What a function does, as a recording that stands in for a CUDA graph."""
    recording = Recording()
    with recording:
        work()
    recording.undo()
    return recording.replay


def detached(tree: Any) -> Any:
    """The tensors of a tree without their graph."""
    return tree_map_only(Tensor, lambda tensor: tensor.detach(), tree)
