"""How R models of one shape are decoded: by what was written for their family, or lifted as they are.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``V`` vocabulary.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from shoal.decoding.compiled_gpt import library_for
from shoal.decoding.fast_gpt import FastGPT
from shoal.decoding.fast_lstm import FastLSTM
from shoal.decoding.stacked import Stacked, check_parameters
from shoal.models.cache import DecodingState
from shoal.models.dropout import Dropout

CACHED = 12 * 2**20  # bytes of weights, keys and values that decode soonest together; measured, see docs/speed.md


class Decoder(Protocol):
    """R models with the same rows, and a state of their own each.

    **A state that was given to** ``step`` **or** ``reorder`` **is used up**: go on from the one that is returned. Some
    decoders write into it, others do not. To go on from one state twice, ``select`` all of its rows, which copies them.

    Decoders of families that read a source have ``begin(source, seen, length) -> state`` instead of ``start``, for
    sources ``(N, S)``, the same of every member, of which the tokens ``seen`` ``(N, S)`` count; see
    :meth:`~shoal.decoding.stacked.Stacked.begin`. What is called ``memory…`` in their states belongs to the source.

    Attributes:
        size: ``R``.
        device: of parameters and states.
        dtype: likewise.
    """

    size: int
    device: torch.device
    dtype: torch.dtype

    def start(self, batch_size: int, length: int) -> DecodingState:
        """The state of ``N = batch_size`` rows that can have ``length`` tokens, ``(R, N, …)`` each."""

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Logits ``(R, N, n or 1, V)`` after tokens ``(R, N, n)``, of which ``(N,)`` count, and the state."""

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """A copy of the state of some rows, ``(N',)`` the same of every member, or ``(R, N')`` each member's own."""

    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """As ``select`` with as many rows as there are, but the state is used up; nothing called ``memory…`` moves."""


def decoder_for(model: nn.Module, parameters: Mapping[str, Tensor]) -> Decoder:
    """The soonest decoder of the members of one architecture.

    A GPT or LSTM of this library, as this library makes it, is decoded by what was written for its family: no subclass,
    no module exchanged, no hook, no dropout that acts. Everything else is lifted as it is.

    Args:
        model: of one member; its parameters are not used, its buffers are everybody's.
        parameters: by name, ``(R, *shape)`` each, as ``named_parameters`` lists them: what is tied is there once.

    Raises:
        ValueError: a parameter has no values.
    """
    check_parameters(model, parameters)
    if _is_simple(model, parameters):
        if FastGPT.knows(model):
            return FastGPT(model, parameters)
        if FastLSTM.knows(model):
            return FastLSTM(model, parameters)
    return Stacked(model, parameters)


def members_at_once(model: nn.Module, parameters: Mapping[str, Tensor], batch_size: int, length: int) -> int:
    """How many members are decoded soonest side by side, if others may be decoded after them: from 1 to ``R``.

    A step of all members reads the weights of each and what its rows have in use. Where that is more than a cache
    holds, every step reads it from memory; a few members whose share fits are sooner, one group after the other. Each
    thread has a member at least. Only a step that is one call is short enough for this to pay.

    Args:
        model: of one member.
        parameters: of the members by name, ``(R, *shape)`` each.
        batch_size: rows.
        length: tokens that a row can have.
    """
    first = next(iter(parameters.values()))
    R = len(first)
    if R == 1 or not (_is_simple(model, parameters) and FastGPT.knows(model)) or library_for(first) is None:
        return R
    numbers = sum(parameter[0].numel() for parameter in parameters.values())
    numbers += 2 * len(model.decoder.blocks) * batch_size * (length + 1) * model.embedding.tokens.weight.shape[1]
    return min(R, max(1, torch.get_num_threads(), CACHED // (first.element_size() * numbers)))


def _is_simple(model: nn.Module, parameters: Mapping[str, Tensor]) -> bool:
    """Whether a model computes what its modules say, with numbers of one kind in one place."""
    kinds = {(tensor.dtype, tensor.device) for tensor in parameters.values()}
    is_one_kind = len(kinds) == 1 and next(iter(kinds))[0] in (torch.float32, torch.float64)
    drops = any(isinstance(module, Dropout) and module.training and module.p for module in model.modules())
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return is_one_kind and not drops and not hooked
