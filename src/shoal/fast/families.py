"""Model families over windows of tokens, in terms of operations.

Equal to :class:`shoal.models.GPT`, :class:`shoal.models.LSTMLM` and, of those that read a source,
:class:`shoal.models.EncoderDecoder`, ``EncoderTranslator``, ``LSTMEncoderDecoder`` and ``NonAutoregressive``; see there
for the equations.

``R`` members, ``B`` examples, ``S`` positions of a source, ``T`` of what is predicted, ``D`` width, ``V`` vocabulary.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.fast.blocks import Stacked, blocks, embedded
from shoal.fast.lstm import GATES
from shoal.fast.ops import Array
from shoal.fast.parameters import linear_of
from shoal.fast.window_ops import Recurrence, View, WindowOps
from shoal.models.encoder_decoder import EncoderDecoder
from shoal.models.encoder_translator import EncoderTranslator
from shoal.models.gpt import GPT
from shoal.models.lstm import LSTMLM
from shoal.models.lstm_encoder_decoder import LSTMEncoderDecoder
from shoal.models.non_autoregressive import NonAutoregressive


@dataclass(frozen=True)
class Windows:
    """Batch of windows; its tensors stay, and change in content.

    Attributes:
        B, T: numbers of examples and of positions that are predicted.
        targets: tokens that the model predicts, ``(R, B T)`` int64.
        inputs: tokens that it reads, ``(R, B T)`` int64; None where it reads sources alone.
        S: number of positions of a source; 0 where there are none.
        source: tokens of the sources, ``(R, B S)`` int64.
        seen: mask of those that count, ``(R, B, S)`` bool.
    """

    B: int
    T: int
    targets: Tensor
    inputs: Tensor | None = None
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
        return Windows(self.B, self.T, copied.pop("targets"), S=self.S, **copied)

    def of_members(self, members: slice) -> "Windows":
        """View of the batch of some members."""
        parts = {name: tensor[members] for name, tensor in self.tensors.items()}
        return Windows(self.B, self.T, parts.pop("targets"), S=self.S, **parts)

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
    assert batch.inputs is not None
    x = embedded(model, "embedding", batch.inputs, batch.T)
    return blocks(model, "decoder", x, model.config.num_layers, View(batch.B, batch.T, batch.T, causal=True))


def encoder_decoder_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Outputs of the decoder, which attends to those of the encoder."""
    assert batch.inputs is not None
    B, S, T, config = batch.B, batch.S, batch.T, model.config
    memory = _encoded(model, batch, config.num_encoder_layers)
    y, seen = embedded(model, "target_embedding", batch.inputs, T), View(B, T, S, False, batch.seen)
    return blocks(model, "decoder", y, config.num_decoder_layers, View(B, T, T, causal=True), (memory, seen))


def non_autoregressive_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Outputs of the decoder, which reads BOS in each place and attends to the outputs of the encoder."""
    assert batch.source is not None
    B, S, config = batch.B, batch.S, model.config
    memory = _encoded(model, batch, config.num_encoder_layers)
    y = embedded(model, "target_embedding", torch.zeros_like(batch.source), S)
    view = View(B, S, S, causal=True)
    return blocks(model, "decoder", y, config.num_decoder_layers, view, (memory, View(B, S, S, False, batch.seen)))


def encoder_translator_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Outputs of the encoder, from which the token of the target in each place is predicted."""
    return _encoded(model, batch, model.config.num_layers)


def _encoded(model: Stacked[Array], batch: Windows, num_layers: int) -> Array:
    """Outputs of a transformer encoder of the sources, ``(R, B S, D)``."""
    assert batch.source is not None
    B, S = batch.B, batch.S
    x = embedded(model, "source_embedding", batch.source, S)
    return blocks(model, "encoder", x, num_layers, View(B, S, S, False, batch.seen))


def lstm_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Outputs of the last layer, position by position."""
    assert batch.inputs is not None
    ops, over = model.ops, Recurrence(batch.B, batch.T)
    x: Array = model.parameters["embedding.weight"]
    rows: Tensor | None = batch.inputs
    # The first layer projects each of the table's rows once, or where the batch has fewer, each of the batch's.
    if model.config.task_part.sizes().vocabulary_size >= batch.B * batch.T:
        x, rows = ops.embed(x, batch.inputs, batch.T, None, None), None
    num_layers = model.config.num_layers
    for layer in range(num_layers):
        x, _ = ops.lstm(x, *_gates(model, f"lstm.layers.{layer}"), over, None, rows)
        rows = None
        if layer < num_layers - 1:
            x = _dropped(model, f"lstm.dropouts.{layer}", x, batch.T)
    return x


def lstm_encoder_decoder_outputs(model: Stacked[Array], batch: Windows) -> Array:
    """Vectors ``h~`` of the decoder, from which the next token is predicted, example by example.

    They are not fed back into the decoder, so that attention and all that follows is computed of all positions at once.
    """
    assert batch.inputs is not None
    ops, T, config = model.ops, batch.T, model.config
    memory, finals = _recurrent_memory(model, batch)  # (R, B S, D), and 2 x (R, B, D) of each layer
    x, over = _embedded_by_position(model, "target", batch.inputs, batch.B, T), Recurrence(batch.B, T)
    for layer in range(config.num_decoder_layers):
        before = finals[min(layer, len(finals) - 1)]
        x, _ = ops.lstm(x, *_gates(model, f"decoder.layers.{layer}"), over, before)
        if layer < config.num_decoder_layers - 1:
            x = _dropped(model, f"decoder.dropouts.{layer}", x, T)
    h = ops.by_example(x, T)  # (R, B T, D)
    kv = ops.beside([model.linear(memory, "attention.W_a"), memory])
    context = ops.attention(h, kv, View(batch.B, T, batch.S, False, batch.seen), 1, factor=1.0)
    outputs = ops.activation(model.linear(ops.beside([context, h]), "attention.W_c"), "tanh")
    return _dropped(model, "attention_drop", outputs)


def _recurrent_memory(model: Stacked[Array], batch: Windows) -> tuple[Array, list[tuple[Array, Array]]]:
    """Outputs of an LSTM encoder, example by example, and the last ``(h, c)`` of each of its layers."""
    assert batch.source is not None
    ops, B, S = model.ops, batch.B, batch.S
    x, finals = _embedded_by_position(model, "source", batch.source, B, S), []
    stacks = ["forwards", "backwards"] if model.config.bidirectional else ["forwards"]
    for layer in range(model.config.num_encoder_layers):
        if layer > 0:
            x = _dropped(model, f"encoder.dropouts.{layer - 1}", x, S)
        runs = []
        for stack in stacks:
            over = Recurrence(B, S, batch.seen, is_backward=stack == "backwards")
            runs.append(ops.lstm(x, *_gates(model, f"encoder.{stack}.{layer}"), over, None))
        x = _joined(ops, [outputs for outputs, _ in runs])
        finals.append((_joined(ops, [h for _, (h, _) in runs]), _joined(ops, [c for _, (_, c) in runs])))
    return ops.by_example(x, S), finals


def _embedded_by_position(model: Stacked[Array], side: str, tokens: Tensor, B: int, S: int) -> Array:
    """Embeddings of the tokens ``(R, B S)`` of a source or target, position by position: ``(R, S B, D)``."""
    rows = model.ops.prepared(lambda: tokens.view(-1, B, S).transpose(1, 2).flatten(1))
    x = model.ops.embed(model.parameters[f"{side}_embedding.weight"], rows, S, None, None)
    return _dropped(model, f"{side}_drop", x, S)


def _gates(model: Stacked[Array], cell: str) -> tuple[Array, Array | None]:
    """Weight and bias of a layer's gates, ``(R, 4 D, D_in + D)`` and ``(R, 4 D)``."""
    return linear_of(model.parameters, model.ops, *(f"{cell}.{gate}" for gate in GATES))


def _dropped(model: Stacked[Array], name: str, x: Array, positions_first: int | None = None) -> Array:
    drop = model.drops.get(name)
    return x if drop is None else model.ops.dropout(x, drop, positions_first)


def _joined(ops: WindowOps[Array], values: list[Array]) -> Array:
    return ops.beside(values) if len(values) > 1 else values[0]


FAMILIES: Mapping[type[nn.Module], Family] = {
    EncoderTranslator: Family("source", encoder_translator_outputs),
    GPT: Family("sequence", gpt_outputs),
    LSTMLM: Family("sequence", lstm_outputs, by_position=True),
    LSTMEncoderDecoder: Family("pair", lstm_encoder_decoder_outputs),
    EncoderDecoder: Family("pair", encoder_decoder_outputs),
    NonAutoregressive: Family("source", non_autoregressive_outputs),
}
