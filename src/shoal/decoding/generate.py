"""Greedy search and sampling of R models and N prompts at once, from prompts or from states.

Each token of each row is chosen from what that row is, and nothing else: prompts of different lengths are aligned to
the left, and the number by which a token is drawn is a hash of its member's key, its row's own number and its position
(:mod:`shoal.keyed`). So a text is the same alone, in any batch and in any order, as far as rounding lets it: products
of other shapes differ in their last bits, which can tell only where two tokens are within them of each other.

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
    """Prompts with what was written after them.

    Attributes:
        tokens: ``(R, N, P + max_new_tokens)``, int64: of each row its prompt, the new tokens, then padding.
        lengths: of each row without padding, the end that it came to included, ``(R, N)``, int64.
        log_p: of each new token by the model itself, at temperature 1 and of all tokens, in nats,
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
    """Go on with every prompt, by every member.

    Where a row is longer than the context, the window slides: its last ``T`` tokens are computed anew for each token,
    from position 0 on, as if they were the whole text. Until then it is computed token by token, from its state. Members
    are decoded in groups where that is sooner (:func:`~shoal.decoding.choice.members_at_once`).

    Args:
        model: of one member; put into evaluation mode meanwhile.
        parameters: of the members by name, ``(R, *shape)`` each.
        prompts: ``(N, P)``, int64, padded on the right with anything.
        lengths: tokens of each prompt, ``(N,)``, int64, from 1 to ``P``.
        max_new_tokens: of each row.
        sampling: how tokens are drawn; None takes the likeliest, of equally likely ones the first.
        keys: of the members, ``(R,)``, int64, as :func:`shoal.keyed.fold` makes them; needed to sample.
        rows: the rows' own numbers, ``(N,)``, int64; from 0 on when not given.
        context_length: ``T``; the model's own when not given, which for an LSTM has no end.
        padding: what stands after a row.
        eos: the token at which a row ends; rows that every member has ended leave.

    Raises:
        ValueError: prompts, lengths or keys are not as described, or the model has no positions for the context.
    """
    _check(prompts, lengths, max_new_tokens, sampling, keys, context_length)
    own: Any = model
    limit = own.context_length if context_length is None else context_length
    longest = max(lengths.tolist(), default=1) + max_new_tokens
    was_training = model.training
    model.eval()
    try:
        check_parameters(model, parameters)
        n = members_at_once(model, parameters, len(prompts), longest if limit is None else min(limit, longest))
        found = []
        for first in range(0, len(next(iter(parameters.values()))), n):
            decoder = decoder_for(model, {name: own[first : first + n] for name, own in parameters.items()})
            choice = Choice(sampling, None if keys is None else keys[first : first + n], rows, lengths)
            found.append(_generated(decoder, prompts, choice, max_new_tokens, limit, eos, padding))
    finally:
        model.train(was_training)
    return Generated(*(torch.cat(parts) for parts in zip(*found, strict=True)))


def _generated(
    decoder: Decoder,
    prompts: Tensor,
    choice: Choice,
    max_new_tokens: int,
    limit: int | None,
    eos: int | None,
    padding: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """What :class:`Generated` holds, of the members of a decoder."""
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
    """Go on from every state, by every member; greedy search where nothing is drawn.

    Rows that are done leave together, when an eighth of the places is free.

    Args:
        model: what steps; in evaluation mode, if it has one.
        state: after the prompts, ``(R, N, …)`` each, with places for ``max_new_tokens - 1`` more. **It is used up**:
            ``select`` all of its rows before, which copies them, to go on from it once more.
        logits: of the first new token, ``(R, N, V)``.
        max_new_tokens: of each row, its end included.
        sampling: see :func:`generate`, as are the others.
        keys: of the members.
        rows: the rows' own numbers.
        padding: what stands after a row.
        eos: the token at which a row ends.

    Returns:
        What was written, without prompts: ``tokens`` is ``(R, N, max_new_tokens)``.

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
        found = write(FromState(model, state, logits), max_new_tokens, choice, eos, padding)
    return Generated(*(own.clone() for own in found))  # as other tensors


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
    """The rows of every member, ``tokens`` ``(R, N, P + max_new_tokens)``, as far as they are written."""

    def __init__(self, decoder: Decoder, prompts: Tensor, lengths: Tensor, max_new_tokens: int, padding: int) -> None:
        N, P = prompts.shape
        self.lengths = lengths
        self.tokens = prompts.new_full((decoder.size, N, P + max_new_tokens), padding)
        is_prompt = torch.arange(P, device=prompts.device) < lengths.unsqueeze(1)  # (N, P)
        self.tokens[:, :, :P] = torch.where(is_prompt, prompts, padding)

    def append(self, new: int, chosen: Tensor) -> None:
        """Write the rows' next tokens, of which ``new`` are there, ``(R, N)``."""
        at = (self.lengths + new).expand_as(chosen).unsqueeze(-1)  # (R, N, 1)
        self.tokens.scatter_(2, at, chosen.unsqueeze(-1))

    def last(self, rows: Tensor, new: int, n: int) -> Tensor:
        """The last ``n`` tokens of some rows ``(N',)`` that have ``new`` new ones, ``(R, N', n)``."""
        start = self.lengths[rows] + new - n  # (N',)
        at = start.unsqueeze(1) + torch.arange(n, device=rows.device)  # (N', n)
        return self.tokens[:, rows].gather(2, at.expand(len(self.tokens), -1, -1))


class _Logits:
    """What follows the rows: from their state while they fit into the context, from their last tokens after."""

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
        found = []
        if inside:
            found.append(self._after(inside, chosen))
        if outside:
            window = self.texts.last(self._index(outside), new, self.context)  # (R, N', T)
            state = self.decoder.start(len(outside), self.context)
            found.append(self.decoder.step(window, state, last=True)[0][:, :, 0])
        logits = torch.cat(found, dim=1)  # (R, N', V)
        order = self._index(inside + outside)
        if len(order) == len(self.prompt_lengths):
            return logits[:, order.argsort()]
        return logits.new_zeros(*self.size, logits.shape[-1]).index_copy(1, order, logits)

    def _index(self, rows: list[int]) -> Tensor:
        return torch.tensor(rows, dtype=torch.int64, device=self.texts.tokens.device)

    def _after(self, inside: list[int], chosen: Tensor | None) -> Tensor:
        """The logits ``(R, N', V)`` after rows that fit, from their state: after their prompts, or one token more."""
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
        """The prompts of the rows at once."""
        rows = self._index(inside)
        counts = self.texts.lengths[rows]  # (N',)
        prompts = self.texts.tokens[:, rows, : max(self.prompt_lengths[row] for row in inside)]
        self.inside = inside
        state = self.decoder.start(len(inside), self.context)
        logits, self.state = self.decoder.step(prompts, state, counts, last=True)  # (R, N', 1, V)
        return logits[:, :, 0]
