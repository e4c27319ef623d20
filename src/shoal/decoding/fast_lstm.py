"""Fast decoder of R LSTMs of one shape: written on stacked weights.

Equal to :class:`~shoal.models.LSTMLM`, lifted by :class:`~shoal.decoding.stacked.Stacked`, at every position of every
row, but for rounding; see there for the equations.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``D`` width, ``L`` layers, ``V`` vocabulary.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeGuard

import torch
from torch import Tensor, nn

from shoal.decoding.fused import Linear, Table, flat_rows, last_of_each
from shoal.models.cache import DecodingState
from shoal.models.dropout import Dropout
from shoal.models.lstm import LSTM, LSTMLM, LSTMCell

_KNOWN = {LSTMLM, LSTM, LSTMCell, Dropout, nn.Linear, nn.Embedding, nn.ModuleList}
_GATES = ("forget_gate", "input_gate", "output_gate", "candidate_cell")


@dataclass(frozen=True)
class _Layer:
    """Layer of every member: its four gates as one map, of the input and of the last output."""

    of_input: Linear
    of_output: Tensor  # (R, D, 4 D)


class FastLSTM:
    """Decoder of LSTM language models, lifted over the first axis of their parameters by hand.

    A state has ``lengths`` ``(R, N)``, ``h`` and ``c`` ``(R, N, L, D)``; :meth:`step` does not change it.

    Args:
        model: model of one member, in evaluation mode; its parameters are not used.
        parameters: parameters by name, ``(R, *shape)`` each, as ``named_parameters`` lists them. They are copied.
    """

    @staticmethod
    def knows(model: nn.Module) -> TypeGuard[LSTMLM]:
        """Return True if a model is an LSTM of the modules that are computed here, and of no others."""
        return type(model) is LSTMLM and all(type(module) in _KNOWN for module in model.modules())

    @torch.no_grad()
    def __init__(self, model: LSTMLM, parameters: Mapping[str, Tensor]) -> None:
        first = next(iter(parameters.values()))
        self.size, self.device, self.dtype = first.shape[0], first.device, first.dtype
        self.width, self.num_layers = model.lstm.hidden_size, model.lstm.num_layers
        self.tokens = Table(parameters["embedding.weight"].contiguous())
        self.layers = [self._layer(f"lstm.layers.{layer}", parameters) for layer in range(self.num_layers)]
        tied = {} if "classifier.weight" in parameters else {"classifier.weight": parameters["embedding.weight"]}
        self.classifier = Linear.of({**parameters, **tied}, "classifier")

    def _layer(self, name: str, parameters: Mapping[str, Tensor]) -> _Layer:
        fused = Linear.of(parameters, *(f"{name}.{gate}" for gate in _GATES))  # of [x, h]
        inputs = fused.weight.shape[1] - self.width
        return _Layer(Linear(fused.weight[:, :inputs], fused.bias), fused.weight[:, inputs:])

    def start(self, batch_size: int, length: int) -> DecodingState:
        """State of ``N = batch_size`` rows, the same for any ``length``."""
        shape = (self.size, batch_size, self.num_layers, self.width)
        lengths = torch.zeros(self.size, batch_size, dtype=torch.int64, device=self.device)
        h, c = (torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in range(2))
        return {"lengths": lengths, "h": h, "c": c}

    @torch.no_grad()
    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Next-token logits after each of the next tokens; see :meth:`~shoal.decoding.stacked.Stacked.step`.

        Args:
            tokens: ``(R, N, n)``, int64, padded on the right.
            state: state from :meth:`start`, :meth:`step` or :meth:`select`.
            counts: number of each row's tokens that are no padding, ``(N,)``, int64; all when not given.
            last: true for logits after the last of each row's tokens alone.

        Returns:
            Logits ``(R, N, n or 1, V)`` and the state after the tokens.
        """
        R, N, n = tokens.shape
        real = None
        if counts is not None:
            real = torch.arange(n, device=self.device) < counts.unsqueeze(1)  # (N, n)
        x = self.tokens(tokens)  # (R, N, n, inputs)
        ends = []
        for layer, h, c in zip(self.layers, state["h"].unbind(2), state["c"].unbind(2), strict=True):
            gates = layer.of_input(x.flatten(1, 2)).view(R, N, n, 4 * self.width)  # (R, N, n, 4 D)
            outputs = []
            for t in range(n):
                before = h, c
                h, c = _cell(gates[:, :, t].baddbmm_(h, layer.of_output), c)
                if real is not None:
                    counts_here = real[:, t].unsqueeze(-1)  # (N, 1)
                    h, c = torch.where(counts_here, h, before[0]), torch.where(counts_here, c, before[1])
                outputs.append(h)
            x = torch.stack(outputs, dim=2) if n > 1 else h.unsqueeze(2)  # (R, N, n, D)
            ends.append((h, c))
        if last and n > 1:
            x = last_of_each(x, counts)  # (R, N, 1, D)
        logits = self.classifier(x.flatten(1, 2)).view(R, N, x.shape[2], self.classifier.weight.shape[-1])
        lengths = state["lengths"] + (n if counts is None else counts)
        h, c = (torch.stack(each, dim=2) for each in zip(*ends, strict=True))  # (R, N, L, D) each
        return logits, {"lengths": lengths, "h": h, "c": c}

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """Copy of the state of some rows, ``(N',)`` the same for every member, or ``(R, N')`` for each member."""
        R, N = state["lengths"].shape
        index = flat_rows(rows, R, N)
        taken = {name: tensor.flatten(0, 1).index_select(0, index) for name, tensor in state.items()}
        return {name: tensor.view(R, len(index) // R, *tensor.shape[1:]) for name, tensor in taken.items()}

    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of all rows in a new order, as :meth:`select`: states are small, so that copying costs little."""
        return self.select(state, rows)


def _cell(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """States ``(h, c)`` after a step, from gates ``(R, N, 4 D)``, which are overwritten, and cells ``(R, N, D)``."""
    D = c.shape[-1]
    f, i, o = gates[..., : 3 * D].sigmoid_().chunk(3, dim=-1)
    c = (f * c).addcmul_(i, gates[..., 3 * D :].tanh_())
    return o * c.tanh(), c
