"""Model families over windows of tokens, in terms of operations.

Equal to :class:`shoal.models.GPT`, :class:`shoal.models.LSTMLM` and :class:`shoal.models.EncoderDecoder`; see there for
the equations.

``R`` members, ``B`` examples, ``S`` positions of a source, ``T`` of what is predicted, ``D`` width, ``V`` vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import repeat
from typing import Any

import torch
from torch import Tensor, nn

from shoal.fast.blocks import Stacked, blocks, embedded
from shoal.fast.lstm import lstm_layers
from shoal.fast.ops import Array
from shoal.fast.prefixes import Nodes
from shoal.fast.window_ops import View
from shoal.models.encoder_decoder import EncoderDecoder
from shoal.models.gpt import GPT
from shoal.models.lstm import LSTMLM


@dataclass(frozen=True)
class Windows:
    """Batch of windows; its tensors stay, and change in content.

    Attributes:
        B, T: numbers of examples and of positions that are predicted.
        inputs: tokens that the model reads, ``(R, B T)`` int64.
        targets: tokens that it predicts, ``(R, B T)`` int64.
        S: number of positions of a source; 0 where there are none.
        source: tokens of the sources, ``(R, B S)`` int64.
        seen: mask of those that count, ``(R, B, S)`` bool.
    """

    B: int
    T: int
    inputs: Tensor
    targets: Tensor
    S: int = 0
    source: Tensor | None = None
    seen: Tensor | None = None

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Tensors by name, those that there are."""
        every = {"inputs": self.inputs, "targets": self.targets, "source": self.source, "seen": self.seen}
        return {name: tensor for name, tensor in every.items() if tensor is not None}

    def clone(self) -> "Windows":
        """Copy of the batch in contiguous tensors."""
        copied = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in self.tensors.items()}
        return Windows(self.B, self.T, copied.pop("inputs"), copied.pop("targets"), self.S, **copied)

    def of_members(self, members: slice) -> "Windows":
        """View of the batch of some members."""
        parts = {name: tensor[members] for name, tensor in self.tensors.items()}
        return Windows(self.B, self.T, parts.pop("inputs"), parts.pop("targets"), self.S, **parts)

    def copy_(self, other: "Windows") -> None:
        """Overwrite the batch with another of the same shapes."""
        others = other.tensors
        for name, tensor in self.tensors.items():
            tensor.copy_(others[name])


@dataclass(frozen=True)
class Family:
    """Model family over windows.

    Attributes:
        reads: see :attr:`shoal.models.settings.ModelSettings.reads`.
        outputs: function from the model and a batch to the inputs of the classifier, ``(R, B T, D)``.
        by_position: true where rows of inputs, targets and outputs lie position by position.
    """

    reads: str
    outputs: Callable[[Stacked[Any], Windows], Any]
    by_position: bool = False


def gpt_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Outputs of the decoder."""
    x = embedded(model, "embedding", batch.inputs, batch.T)
    return blocks(model, "decoder", x, model.config.num_layers, View(batch.B, batch.T, batch.T, causal=True))


def encoder_decoder_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Outputs of the decoder, which attends to those of the encoder."""
    assert batch.source is not None
    B, S, T, config = batch.B, batch.S, batch.T, model.config
    x = embedded(model, "source_embedding", batch.source, S)
    memory = blocks(model, "encoder", x, config.num_encoder_layers, View(B, S, S, False, batch.seen))  # (R, B S, D)
    y, seen = embedded(model, "target_embedding", batch.inputs, T), View(B, T, S, False, batch.seen)
    return blocks(model, "decoder", y, config.num_decoder_layers, View(B, T, T, causal=True), (memory, seen))


def lstm_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Outputs of the last layer, position by position."""
    ops, table, tokens = model.ops, model.parameters["embedding.weight"], batch.inputs
    nodes = _chains(tokens, batch.B, batch.T)
    V = model.config.task_part.sizes().vocabulary_size
    # The first layer projects each of the table's rows once, or where the batch has fewer, each of the batch's.
    few = V < batch.B * batch.T
    x, rows = (table, tokens) if few else (ops.embed(table, tokens, batch.T, None, None), None)

    def between(layer: int, states: Array) -> Array:
        drop = model.drops.get(f"lstm.dropouts.{layer}")
        return states if drop is None else ops.dropout(states, drop, positions_first=batch.T)

    return lstm_layers(model.parameters, model.config.num_layers, x, rows, nodes, ops, between)


def _chains(tokens: Tensor, B: int, T: int) -> Nodes:
    """Windows as a tree in which nothing is shared: level ``t`` is position ``t`` of every example."""
    return Nodes(
        tokens=tokens,
        parents=tuple(repeat(None, T)),
        paths=tokens.new_empty(0),
        lengths=tokens.new_empty(0),
        starts=tuple(range(0, B * T + 1, B)),
        n_shared=0,
    )


FAMILIES: Mapping[type[nn.Module], Family] = {
    GPT: Family("sequence", gpt_outputs),
    LSTMLM: Family("sequence", lstm_outputs, by_position=True),
    EncoderDecoder: Family("pair", encoder_decoder_outputs),
}
