"""Decoding step of R GPTs in one call of a library compiled for this machine (``gpt_step.c``): float32, on the CPU.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``T`` places of a cache, ``D`` width, ``H`` heads, ``L``
layers, ``V`` vocabulary.
"""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from shoal.decoding.fused import Linear, Norm
from shoal.fast.build import compiled
from shoal.models.cache import DecodingState
from shoal.models.norms import LayerNorm, RMSNorm
from shoal.models.positions import rotary_angles

SOURCE = Path(__file__).with_name("gpt_step.c")
NORM_POSITIONS = ("pre", "post", "pre_stream")  # by their numbers in gpt_step.c, as are the next two
ACTIVATIONS = ("relu", "gelu", "swiglu")
OUTCOMES = ("done", "no such token", "no memory")
PAGE = 16  # places; as in gpt_step.c
_Pointer, _Index = ctypes.c_void_p, ctypes.c_int64


class _Linear(ctypes.Structure):
    _fields_ = (("weight", _Pointer), ("bias", _Pointer), ("inputs", _Index), ("outputs", _Index))


class _Norm(ctypes.Structure):
    _fields_ = (("weight", _Pointer), ("bias", _Pointer), ("eps", ctypes.c_float), ("kind", _Index))


class _Block(ctypes.Structure):
    _fields_ = (
        *((name, _Linear) for name in ("qkv", "out", "up", "down")),
        *((name, _Norm) for name in ("attention_norm", "ffn_norm")),
    )


class _Model(ctypes.Structure):
    _fields_ = (
        *((name, _Index) for name in ("R", "L", "V", "D", "H", "n_positions", "norm_position", "activation")),
        *(("tokens", _Pointer), ("positions", _Pointer), ("own_positions", _Index), ("blocks", _Pointer)),
        *(("norm", _Norm), ("classifier", _Linear)),
    )


class _Step(ctypes.Structure):
    _fields_ = (
        *((name, _Index) for name in ("N", "n", "T", "P", "last")),
        *((name, _Pointer) for name in ("tokens", "counts", "lengths", "pages", "keys", "values", "turns", "logits")),
    )


class _Move(ctypes.Structure):
    _fields_ = (
        *((name, _Index) for name in ("N", "M", "T", "P")),
        *((name, _Pointer) for name in ("rows", "lengths", "pages", "moved", "keys", "values")),
        *((name, _Pointer) for name in ("new_keys", "new_values")),
    )


def pages_of(length: int) -> int:
    """Number of pages for ``length`` places, at least one."""
    return max(1, -(-length // PAGE))


def library_for(parameter: Tensor) -> ctypes.CDLL | None:
    """Compiled library for parameters of this type: float32 on the CPU, with a C compiler at hand; else None."""
    is_served = parameter.device.type == "cpu" and parameter.dtype == torch.float32
    return compiled(SOURCE).library if is_served else None


@dataclass(frozen=True)
class StackedBlock:
    """Block of every member; queries, keys and values are one product, and so are the gate and its values."""

    qkv: Linear
    out: Linear
    attention_norm: Norm
    up: Linear
    down: Linear
    ffn_norm: Norm


@dataclass(frozen=True)
class Layout:
    """Parameters and settings of R GPTs, as a decoding step reads them.

    Attributes:
        tokens: embeddings, ``(R, V, D)``.
        positions: position embeddings, ``(R or 1, positions, D)``; None where none are added.
        blocks: blocks from the lowest to the highest.
        norm: normalisation of the classifier's input.
        classifier: map from states to logits.
        num_heads: ``H``.
        norm_position: one of :data:`NORM_POSITIONS`.
        activation: activation of the feed-forward layers, one of :data:`ACTIVATIONS`.
        rotary: True where queries and keys are rotated by their position.
    """

    tokens: Tensor
    positions: Tensor | None
    blocks: Sequence[StackedBlock]
    norm: Norm
    classifier: Linear
    num_heads: int
    norm_position: str
    activation: str
    rotary: bool


class CompiledStep:
    """Decoding step in one call; see :class:`~shoal.decoding.fast_gpt.FastGPT`.

    A row's logits are the same bits in a batch of any size, beside any other rows and members.

    A state has ``lengths`` ``(R, N)``, their limit ``room`` ``()``, and keys and values in ``P`` pages of :data:`PAGE`
    places: ``keys`` ``(L, R, N, P, H, head_size, PAGE)`` and ``values`` ``(L, R, N, P, H, PAGE, head_size)``. After a
    move it may have ``pages`` ``(R, N, P)``: page ``p`` of row ``i`` lies in the arrays of row ``pages[r, i, p]``, so
    rows that continue one text share its full pages.

    Args:
        library: library compiled from :data:`SOURCE`.
        layout: parameters, float32 on the CPU.
    """

    def __init__(self, library: ctypes.CDLL, layout: Layout) -> None:
        self._held: list[Any] = []  # what the pointers point to
        self._step = library["gpt_step"]
        self._step.argtypes, self._step.restype = [_Pointer, _Pointer], ctypes.c_int
        self._select, self._reorder = library["gpt_select"], library["gpt_reorder"]
        self._select.argtypes, self._select.restype = [_Pointer, _Pointer], ctypes.c_int
        self._reorder.argtypes, self._reorder.restype = [_Pointer, _Pointer], ctypes.c_int
        R, V, D = layout.tokens.shape
        blocks = (_Block * len(layout.blocks))(*(self._block(block) for block in layout.blocks))
        positions = layout.positions
        self._held += [blocks, layout]
        self._model = _Model(
            *(R, len(blocks), V, D, layout.num_heads, 0 if positions is None else positions.shape[1]),
            *(NORM_POSITIONS.index(layout.norm_position), ACTIVATIONS.index(layout.activation)),
            *(self._pointer(layout.tokens), self._pointer(positions), positions is not None and len(positions) > 1),
            *(ctypes.addressof(blocks), self._norm(layout.norm), self._linear(layout.classifier)),
        )
        self.size, self.vocabulary = R, V
        self._sizes = (len(blocks), layout.num_heads, D // layout.num_heads)
        self._head_size = D // layout.num_heads if layout.rotary else 0
        self._turns: Tensor | None = None

    @classmethod
    def of(cls, layout: Layout) -> "CompiledStep | None":
        """Compiled step of a layout; None for other types than float32 on the CPU or without a C compiler."""
        library = library_for(layout.tokens)
        return None if library is None else cls(library, layout)

    def _pointer(self, tensor: Tensor | None) -> int | None:
        if tensor is None:
            return None
        self._held.append(tensor := tensor.contiguous())
        return tensor.data_ptr()

    def _linear(self, linear: Linear) -> _Linear:
        return _Linear(self._pointer(linear.weight), self._pointer(linear.bias), *linear.weight.shape[1:])

    def _norm(self, norm: Norm) -> _Norm:
        if norm.kind not in (LayerNorm, RMSNorm):
            return _Norm(None, None, 0.0, 0)
        kind = 1 if norm.kind is LayerNorm else 2
        return _Norm(self._pointer(norm.weight), self._pointer(norm.bias), norm.eps, kind)

    def _block(self, block: StackedBlock) -> _Block:
        linears = (self._linear(linear) for linear in (block.qkv, block.out, block.up, block.down))
        return _Block(*linears, self._norm(block.attention_norm), self._norm(block.ffn_norm))

    def start(self, batch_size: int, length: int) -> DecodingState:
        """State of ``N = batch_size`` rows that can have ``T = length`` tokens."""
        L, H, head_size = self._sizes
        rows = (L, self.size, batch_size, pages_of(length), H)
        return {
            "lengths": torch.zeros(self.size, batch_size, dtype=torch.int64),
            "keys": torch.empty(*rows, head_size, PAGE),  # places that are not in use are never read
            "values": torch.empty(*rows, PAGE, head_size),
            "room": torch.tensor(length),
        }

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None, last: bool
    ) -> tuple[Tensor, DecodingState]:
        """Compute a step as :meth:`~shoal.decoding.fast_gpt.FastGPT.step` does.

        Raises:
            ValueError: tokens or counts are not of as many members and rows as the state.
            IndexError: a token is none of the vocabulary.
            MemoryError: there is no memory for the step.
        """
        R, N, n = tokens.shape
        if state["lengths"].shape != (R, N) or (counts is not None and counts.shape != (N,)) or n == 0:
            rows = f"a state of {tuple(state['lengths'].shape)} members and rows needs tokens (R, N, 1 or more)"
            shape_of_counts = None if counts is None else tuple(counts.shape)
            raise ValueError(f"{rows} and counts (N,), got {tuple(tokens.shape)} and {shape_of_counts}")
        state = {name: tensor.contiguous() for name, tensor in state.items()}
        tokens, pages, T = tokens.to(torch.int64).contiguous(), state.get("pages"), int(state["room"])
        counts = None if counts is None else counts.to(torch.int64).contiguous()
        logits = torch.empty(R, N, 1 if last else n, self.vocabulary)
        step = _Step(
            *(N, n, T, state["keys"].shape[3], last, tokens.data_ptr(), None if counts is None else counts.data_ptr()),
            *(state["lengths"].data_ptr(), None if pages is None else pages.data_ptr()),
            *(state["keys"].data_ptr(), state["values"].data_ptr(), self._turns_of(T), logits.data_ptr()),
        )
        self._done(self._step(ctypes.addressof(self._model), ctypes.addressof(step)))
        state["lengths"].add_(n if counts is None else counts)
        return logits, state

    def _done(self, outcome: int) -> None:
        """Raise the error of an outcome, if it is one."""
        if OUTCOMES[outcome] == "no such token":
            raise IndexError(f"tokens must be from 0 to {self.vocabulary - 1}")
        if OUTCOMES[outcome] == "no memory":
            raise MemoryError("there is no memory for a step")

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """Copy of the state of some rows ``(R, M)``; those of one text share its full pages."""
        new = {"lengths": state["lengths"].gather(1, rows), "room": state["room"]}  # gather refuses what is no row
        for name in ("keys", "values"):
            new[name] = torch.empty(*state[name].shape[:2], rows.shape[1], *state[name].shape[3:])
        pages = self._moved(self._select, state, rows, new)
        is_own = torch.equal(pages, torch.arange(rows.shape[1]).unsqueeze(-1).expand_as(pages))
        return new if is_own else {**new, "pages": pages}

    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of rows ``(R, N)`` in place; a row that is taken again gets a copy of the page that is not full."""
        lengths = state["lengths"].gather(1, rows)
        if not torch.equal(lengths, state["lengths"]):  # a row would write where others still read
            return self.select(state, rows)
        new = {name: tensor.contiguous() for name, tensor in state.items()}
        return {**new, "lengths": lengths, "pages": self._moved(self._reorder, new, rows, new)}

    def _moved(self, move: Any, state: Mapping[str, Tensor], rows: Tensor, new: Mapping[str, Tensor]) -> Tensor:
        """Pages ``(R, M, P)`` after a move of rows ``(R, M)`` of a state to new arrays."""
        state, rows = {name: tensor.contiguous() for name, tensor in state.items()}, rows.contiguous()
        N, M, P, pages = state["lengths"].shape[1], rows.shape[1], state["keys"].shape[3], state.get("pages")
        moved = torch.empty(*rows.shape, P, dtype=torch.int64)
        arguments = _Move(
            *(N, M, int(state["room"]), P, rows.data_ptr(), state["lengths"].data_ptr()),
            *(None if pages is None else pages.data_ptr(), moved.data_ptr()),
            *(arrays[name].data_ptr() for arrays in (state, new) for name in ("keys", "values")),
        )
        self._done(move(ctypes.addressof(self._model), ctypes.addressof(arguments)))
        return moved

    def _turns_of(self, T: int) -> int | None:
        """Cosines and sines of the first ``T`` positions, ``(T or more, head_size / 2, 2)``."""
        if not self._head_size:
            return None
        if self._turns is None or len(self._turns) < T:
            angles = rotary_angles(torch.arange(T), self._head_size)  # (T, head_size / 2)
            self._turns = torch.stack([angles.cos(), angles.sin()], dim=-1)
        return self._turns.data_ptr()
