"""Choice of the decoder of R models of one shape: one written for their family, or the models lifted as they are.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``V`` vocabulary.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from shoal.decoding.compiled_gpt import PAGE, library_for, pages_of
from shoal.decoding.fast_gpt import FastGPT
from shoal.decoding.fast_lstm import FastLSTM
from shoal.decoding.stacked import Stacked, check_parameters
from shoal.models.cache import DecodingState
from shoal.models.dropout import Dropout

CACHED = 12 * 2**20  # bytes of weights, keys and values of a group of members; measured, see docs/speed.md


class Decoder(Protocol):
    """Decoder of R models with the same rows and separate states.

    **A state given to** ``step`` **or** ``reorder`` **is overwritten**: continue from the one that is returned. Some
    decoders write into it, others do not. To continue from one state twice, copy it by ``select`` of all its rows.

    Decoders of families that read a source have ``begin(source, seen, length) -> state`` instead of ``start``, for
    sources ``(N, S)``, the same for every member, of which the tokens ``seen`` ``(N, S)`` count; see
    :meth:`~shoal.decoding.stacked.Stacked.begin`. Entries ``memory…`` of their states belong to the source.

    Attributes:
        size: number of models, ``R``.
        device: device of parameters and states.
        dtype: type of parameters and states.
    """

    size: int
    device: torch.device
    dtype: torch.dtype

    def start(self, batch_size: int, length: int) -> DecodingState:
        """State of ``N = batch_size`` rows that can have ``length`` tokens, ``(R, N, …)`` each."""

    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Logits ``(R, N, n or 1, V)`` after tokens ``(R, N, n)``, of which ``(N,)`` count, and the state."""

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """Copy of the state of some rows, ``(N',)`` the same for every member, or ``(R, N')`` for each member."""

    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of all rows in a new order; the given state is overwritten, and entries ``memory…`` do not move."""


def decoder_for(model: nn.Module, parameters: Mapping[str, Tensor]) -> Decoder:
    """Fastest decoder of the members of one architecture.

    An unmodified GPT or LSTM of this library has a decoder of its own: no subclass, no module exchanged, no hook, no
    active dropout. Every other model is lifted as it is.

    Args:
        model: model of one member; its parameters are not used, its buffers are shared by all.
        parameters: parameters by name, ``(R, *shape)`` each, as ``named_parameters`` lists them, tied ones once.

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


def decoders_for(model: nn.Module, parameters: Mapping[str, Tensor], batch_size: int, length: int) -> list[Decoder]:
    """Fastest decoders of the members in their order, of as many each as :func:`members_at_once` says.

    What they share with the members of others is nothing: a search of one to its end before the next begins is the
    search of all.
    """
    size = members_at_once(model, parameters, batch_size, length)
    R = len(next(iter(parameters.values())))
    groups = [{name: each[first : first + size] for name, each in parameters.items()} for first in range(0, R, size)]
    return [decoder_for(model, group) for group in groups]


def members_at_once(model: nn.Module, parameters: Mapping[str, Tensor], batch_size: int, length: int) -> int:
    """Number of members to decode side by side, from 1 to ``R``, one group after the other, in the least time.

    A step of all members reads the weights, keys and values of each. Where these exceed a processor's cache, every
    step reads them from memory; groups of members whose weights, keys and values fit take less time. A group has a
    member for each thread at least. A decoder whose step is many calls gains nothing and is not divided.

    Args:
        model: model of one member.
        parameters: parameters of the members by name, ``(R, *shape)`` each.
        batch_size: number of rows.
        length: largest number of tokens of a row.
    """
    first = next(iter(parameters.values()))
    R = len(first)
    if R == 1 or not (_is_simple(model, parameters) and FastGPT.knows(model)) or library_for(first) is None:
        return R
    numbers = sum(parameter[0].numel() for parameter in parameters.values())
    places = batch_size * pages_of(length) * PAGE
    numbers += 2 * len(model.decoder.blocks) * places * model.embedding.tokens.weight.shape[1]
    return min(R, max(1, torch.get_num_threads(), CACHED // (first.element_size() * numbers)))


def _is_simple(model: nn.Module, parameters: Mapping[str, Tensor]) -> bool:
    """Return True if a model computes what its modules define, with numbers of one type on one device."""
    kinds = {(tensor.dtype, tensor.device) for tensor in parameters.values()}
    is_one_kind = len(kinds) == 1 and next(iter(kinds))[0] in (torch.float32, torch.float64)
    drops = any(isinstance(module, Dropout) and module.training and module.p for module in model.modules())
    hooked = any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())
    return is_one_kind and not drops and not hooked
