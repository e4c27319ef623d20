"""Greedy search and sampling of R models and N prompts at once, from prompts or from states.

Each token of a row depends on that row alone: prompts of different lengths are aligned to the left, and the random
number of a token is a hash of its member's key, its row's number and its position (:mod:`shoal.keyed`). So a text is
the same alone, in any batch and in any order, up to rounding: products of other shapes differ in their last bits, which
matter only where two tokens are within them of each other.

Shapes: ``R`` members, ``N`` rows, ``P`` tokens of the longest prompt, ``V`` vocabulary, ``T`` tokens of the context.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from shoal.decoding.choice import Decoder, decoder_for, members_at_once
from shoal.decoding.sampling import Sampling
from shoal.decoding.stacked import check_parameters
from shoal.decoding.stepping import Steps
from shoal.decoding.writing import Choice, FromState, write


@dataclass(frozen=True)
class Generated:
    """Prompts and the tokens that were written after them.

    Attributes:
        tokens: ``(R, N, P + max_new_tokens)``, int64: the prompt of each row, its new tokens, then padding.
        lengths: length of each row without padding, EOS included, ``(R, N)``, int64.
        log_p: log probability of each new token by the model itself, at temperature 1 among all tokens, in nats,
            ``(R, N, max_new_tokens)``; 0 after a row's end.
    """

    tokens: Tensor
    lengths: Tensor
    log_p: Tensor


@torch.no_grad()
def generate(
    model: nn.Module,
    parameters: Mapping[str, Tensor],
    prompts: Tensor,
    lengths: Tensor,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    keys: Tensor | None = None,
    rows: Tensor | None = None,
    context_length: int | None = None,
    padding: int = 0,
    eos: int | None = None,
) -> Generated:
    """Continue every prompt, by every member.

    Where a row is longer than the context, the window slides: its last ``T`` tokens are computed anew for each token,
    from position 0 on, as if they were the whole text. Until then it is computed token by token, from its state.
    Members are decoded in groups where that takes less time (:func:`~shoal.decoding.choice.members_at_once`).

    Args:
        model: model of one member; in evaluation mode meanwhile.
        parameters: parameters of the members by name, ``(R, *shape)`` each.
        prompts: ``(N, P)``, int64, padded on the right with any tokens.
        lengths: number of tokens of each prompt, ``(N,)``, int64, from 1 to ``P``.
        max_new_tokens: number of new tokens of each row.
        sampling: settings of sampling; None for greedy search, which takes the first of equally likely tokens.
        keys: keys of the members, ``(R,)``, int64, as :func:`shoal.keyed.fold` makes them; needed to sample.
        rows: numbers of the rows, ``(N,)``, int64, which enter the random numbers; from 0 on when not given.
        context_length: ``T``; the model's own when not given, which for an LSTM is unbounded.
        padding: token after the end of a row.
        eos: token at which a row ends; rows that every member has ended are no longer computed.

    Raises:
        ValueError: prompts, lengths or keys are not as described, or the model has no positions for the context.
    """
    _check(prompts, lengths, max_new_tokens, sampling, keys, context_length)
    untyped: Any = model
    limit = untyped.context_length if context_length is None else context_length
    longest = max(lengths.tolist(), default=1) + max_new_tokens
    was_training = model.training
    model.eval()
    try:
        check_parameters(model, parameters)
        n = members_at_once(model, parameters, len(prompts), longest if limit is None else min(limit, longest))
        outputs = []
        for first in range(0, len(next(iter(parameters.values()))), n):
            decoder = decoder_for(model, {name: value[first : first + n] for name, value in parameters.items()})
            choice = Choice(sampling, None if keys is None else keys[first : first + n], rows, lengths)
            outputs.append(_generated(decoder, prompts, choice, max_new_tokens, limit, eos, padding))
    finally:
        model.train(was_training)
    return Generated(*(torch.cat(parts) for parts in zip(*outputs, strict=True)))


def _generated(
    decoder: Decoder,
    prompts: Tensor,
    choice: Choice,
    max_new_tokens: int,
    limit: int | None,
    eos: int | None,
    padding: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Fields of :class:`Generated`, of the members of a decoder."""
    lengths = choice.lengths
    texts = _Texts(decoder, prompts, lengths, max_new_tokens, padding)
    with torch.inference_mode():
        source = _Logits(decoder, texts, max_new_tokens, limit)
        tokens, counts, log_p = write(source, max_new_tokens, choice, eos, padding)
    at = (lengths.unsqueeze(1) + torch.arange(max_new_tokens, device=lengths.device)).expand_as(tokens)
    return texts.tokens.scatter(2, at, tokens), lengths + counts, log_p.clone()  # as other tensors


def generate_from(
    model: Steps,
    state: Mapping[str, Tensor],
    logits: Tensor,
    max_new_tokens: int,
    sampling: Sampling | None = None,
    *,
    keys: Tensor | None = None,
    rows: Tensor | None = None,
    padding: int = 0,
    eos: int | None = None,
) -> Generated:
    """Continue from every state, by every member; by greedy search without ``sampling``.

    Rows that are done are removed together, when an eighth of the places is free.

    Args:
        model: models that step; in evaluation mode, if they have one.
        state: state after the prompts, ``(R, N, …)`` each, with places for ``max_new_tokens - 1`` more. **It is
            overwritten**: to continue from it again, copy it first by ``select`` of all its rows.
        logits: logits of the first new token, ``(R, N, V)``.
        max_new_tokens: number of new tokens of each row, EOS included.
        sampling: see :func:`generate`, as for the following arguments.
        keys: keys of the members.
        rows: numbers of the rows.
        padding: token after the end of a row.
        eos: token at which a row ends.

    Returns:
        The new tokens, without prompts: ``tokens`` is ``(R, N, max_new_tokens)``.

    Raises:
        ValueError: there are no keys to sample by.
    """
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    if sampling is not None and keys is None:
        raise ValueError("sampling needs the members' keys")
    first = torch.zeros(logits.shape[1], dtype=torch.int64, device=logits.device)
    choice = Choice(sampling, keys, rows, first)
    with torch.inference_mode():
        written = write(FromState(model, state, logits), max_new_tokens, choice, eos, padding)
    return Generated(*(tensor.clone() for tensor in written))  # no inference tensors


def _check(
    prompts: Tensor,
    lengths: Tensor,
    max_new_tokens: int,
    sampling: Sampling | None,
    keys: Tensor | None,
    context_length: int | None,
) -> None:
    if prompts.ndim != 2 or lengths.shape != prompts.shape[:1]:
        raise ValueError(f"prompts (N, P) need lengths (N,), got {tuple(prompts.shape)} and {tuple(lengths.shape)}")
    if len(lengths) and not 1 <= int(lengths.min()) <= int(lengths.max()) <= prompts.shape[1]:
        raise ValueError(f"lengths of prompts must be from 1 to {prompts.shape[1]}, got {lengths.tolist()}")
    if max_new_tokens < 0:
        raise ValueError(f"max_new_tokens must be at least 0, got {max_new_tokens}")
    if context_length is not None and context_length < 1:
        raise ValueError(f"context_length must be at least 1, got {context_length}")
    if sampling is not None and keys is None:
        raise ValueError("sampling needs the members' keys")


class _Texts:
    """Rows of every member, ``tokens`` ``(R, N, P + max_new_tokens)``, as far as they are written."""

    def __init__(self, decoder: Decoder, prompts: Tensor, lengths: Tensor, max_new_tokens: int, padding: int) -> None:
        N, P = prompts.shape
        self.lengths = lengths
        self.tokens = prompts.new_full((decoder.size, N, P + max_new_tokens), padding)
        is_prompt = torch.arange(P, device=prompts.device) < lengths.unsqueeze(1)  # (N, P)
        self.tokens[:, :, :P] = torch.where(is_prompt, prompts, padding)

    def append(self, new: int, chosen: Tensor) -> None:
        """Write the rows' next tokens ``(R, N)`` behind ``new`` earlier ones."""
        at = (self.lengths + new).expand_as(chosen).unsqueeze(-1)  # (R, N, 1)
        self.tokens.scatter_(2, at, chosen.unsqueeze(-1))

    def last(self, rows: Tensor, new: int, n: int) -> Tensor:
        """Last ``n`` tokens of some rows ``(N',)`` that have ``new`` new ones, ``(R, N', n)``."""
        start = self.lengths[rows] + new - n  # (N',)
        at = start.unsqueeze(1) + torch.arange(n, device=rows.device)  # (N', n)
        return self.tokens[:, rows].gather(2, at.expand(len(self.tokens), -1, -1))


class _Logits:
    """Source of next-token logits: from states while rows fit into the context, then from their last tokens."""

    def __init__(self, decoder: Decoder, texts: _Texts, max_new_tokens: int, limit: int | None) -> None:
        self.decoder, self.texts = decoder, texts
        self.size, self.dtype, self.device = (decoder.size, len(texts.lengths)), decoder.dtype, decoder.device
        self.prompt_lengths: Sequence[int] = texts.lengths.tolist()
        longest = max(self.prompt_lengths, default=1) + max(max_new_tokens, 1) - 1  # the last is never looked back at
        self.context = longest if limit is None else min(limit, longest)
        self.slides = self.context < longest
        self.inside: list[int] = []  # rows that have a state
        self.state: dict[str, Tensor] = {}

    def next(self, new: int, chosen: Tensor | None, is_open: Tensor | None) -> Tensor:
        if chosen is not None and self.slides:
            self.texts.append(new - 1, chosen)
        rows = list(range(self.size[1])) if is_open is None else is_open.any(0).nonzero().squeeze(-1).tolist()
        if len(rows) == self.size[1] and max(self.prompt_lengths, default=0) + new <= self.context:  # as a rule
            return self._after(rows, chosen)
        inside = [row for row in rows if self.prompt_lengths[row] + new <= self.context]
        outside = [row for row in rows if self.prompt_lengths[row] + new > self.context]
        parts = []
        if inside:
            parts.append(self._after(inside, chosen))
        if outside:
            window = self.texts.last(self._index(outside), new, self.context)  # (R, N', T)
            state = self.decoder.start(len(outside), self.context)
            parts.append(self.decoder.step(window, state, last=True)[0][:, :, 0])
        logits = torch.cat(parts, dim=1)  # (R, N', V)
        order = self._index(inside + outside)
        if len(order) == len(self.prompt_lengths):
            return logits[:, order.argsort()]
        return logits.new_zeros(*self.size, logits.shape[-1]).index_copy(1, order, logits)

    def _index(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.texts.tokens.device)

    def _after(self, inside: list[int], chosen: Tensor | None) -> Tensor:
        """Logits ``(R, N', V)`` after rows that fit, from their state: after their prompts, or one token more."""
        if chosen is None:
            return self._begin(inside)
        if inside != self.inside:
            places = {row: place for place, row in enumerate(self.inside)}
            self.state = self.decoder.select(self.state, self._index([places[row] for row in inside]))
            self.inside = inside
        newest = chosen if len(inside) == chosen.shape[1] else chosen[:, self._index(inside)]  # (R, N')
        logits, self.state = self.decoder.step(newest.unsqueeze(-1), self.state, last=True)  # (R, N', 1, V)
        return logits[:, :, 0]

    def _begin(self, inside: list[int]) -> Tensor:
        """Logits after the prompts of the rows, all tokens at once."""
        rows = self._index(inside)
        counts = self.texts.lengths[rows]  # (N',)
        prompts = self.texts.tokens[:, rows, : max(self.prompt_lengths[row] for row in inside)]
        self.inside = inside
        state = self.decoder.start(len(inside), self.context)
        logits, self.state = self.decoder.step(prompts, state, counts, last=True)  # (R, N', 1, V)
        return logits[:, :, 0]
