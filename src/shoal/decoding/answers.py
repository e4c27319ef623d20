"""What models of one shape answer to sources: from lines of text to lines of text, whatever way they read.

Lines are answered in portions of similar length, for all models at once. Which others stand beside a line changes no
more than the last bits of its numbers.

Shapes: ``R`` models, ``N`` lines, ``n`` of them at once, ``S`` tokens of a source, ``T`` of an answer,
``V`` vocabulary.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.decoding.beam import Beam, beam_search, check_beam, check_length
from shoal.decoding.choice import decoder_for
from shoal.decoding.finite import by_run, check_finite, check_logits
from shoal.decoding.generate import generate_from
from shoal.decoding.tree import BeamTree
from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.tasks.pairs.codec import PairCodec

PAD, BOS, EOS = 0, 1, 2  # of every vocabulary of a task of sources and targets
AT_ONCE = 64  # lines


@dataclass(frozen=True)
class Answer:
    """One of the texts that a model has for a line, the best first.

    Attributes:
        text: detokenised.
        tokens: its tokens, the end included where it has one.
        log_p: of all of them, in nats.
        finished: whether it has ended; the others were cut at the longest length.
    """

    text: str
    tokens: tuple[int, ...]
    log_p: float
    finished: bool


@dataclass(frozen=True)
class Answered:
    """What every model answers to every line.

    Attributes:
        runs: whose models.
        answers: by run, by line, the best first: one of greedy search, as many as the beam has places of a beam.
        steps: tokens up to which the search of a line went, of which a rule of stopping ``saved`` some, ``(R, N)``.
        saved: likewise.
        margins: of a beam, how near the nearest choice of a step was, in nats, ``(R, N)``: within rounding it may fall
            otherwise elsewhere. See :class:`~shoal.decoding.beam.Searched` for what it leaves out. Infinite of empty
            lines, of which nothing is chosen; NaN without a beam, where it is not computed.
        trees: of each run and line, where they were recorded; None of a line that is empty.
    """

    runs: tuple[str, ...]
    answers: tuple[tuple[tuple[Answer, ...], ...], ...]
    steps: Tensor
    saved: Tensor
    margins: Tensor
    trees: tuple[tuple[BeamTree | None, ...], ...] = ()

    def best(self, run: str) -> list[str]:
        """The best text for every line."""
        return [found[0].text if found else "" for found in self.answers[self.runs.index(run)]]


@torch.no_grad()
def answer(
    models: Mapping[str, nn.Module],
    reads: str,
    codec: "PairCodec",
    lines: Sequence[str],
    max_new_tokens: int,
    beam: Beam | None = None,
    at_once: int = AT_ONCE,
    record: bool = False,
) -> Answered:
    """Answer every line, by every model.

    A line of nothing but white space has an answer too, in its place, and that is as empty: no task trains on such
    lines, and what a model would make of one is not asked. It takes no step.

    Args:
        models: of one shape, by run; put into evaluation mode meanwhile.
        reads: how they read, see :attr:`shoal.models.settings.ModelSettings.reads`. One that answers position by
            position says all tokens at once: it is not searched.
        codec: their vocabularies.
        lines: one source each.
        max_new_tokens: ``T``, the end included.
        beam: how to search; None takes the likeliest token each time.
        at_once: lines that are answered together.
        record: whether to keep what the beam looked at, as trees.

    Raises:
        UserError: there is no line, no token is asked for, a line has something that has no token or too many, the
            beam is wider than there are texts, or a model that answers position by position was asked to search.
        DivergedError: models give numbers that are not finite; the others' answers are lost with theirs.
    """
    if not lines:
        raise UserError("there is nothing to translate: not one line was given")
    first = next(iter(models.values()))
    if reads == "source" and beam is not None:
        raise UserError(
            f"{type(first).__name__} says the tokens of all positions at once, and there is nothing to search: ask for "
            "greedy search, without beams"
        )
    check_length(max_new_tokens)
    if beam is not None:
        check_beam(beam.width, max_new_tokens, codec.target.size)
    asked = [place for place, line in enumerate(lines) if line.strip()]
    if not asked:
        return _all_empty(tuple(models), len(lines))
    tokens, seen = codec.encode_sources([line if line.strip() else "" for line in lines])  # (N, S) each
    order = torch.tensor(asked)[seen[asked].sum(1).argsort(stable=True)]
    was_training = first.training
    first.eval()
    try:
        asking = _Asking(models, reads, max_new_tokens, beam, record)
        parts = [asking(tokens[part], seen[part]) for part in torch.split(order, at_once)]
    finally:
        first.train(was_training)
    joined = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in _NAMES}
    whole = _Found(**joined, trees=[own for part in parts for own in part.trees])
    return _in_place(whole, order, tuple(models), codec, len(lines))


EMPTY = Answer("", (), 0.0, True)  # what a line of nothing has


def _all_empty(runs: tuple[str, ...], N: int) -> Answered:
    none = torch.zeros(len(runs), N, dtype=torch.int64)
    never = torch.full((len(runs), N), torch.inf, dtype=torch.float64)
    return Answered(runs, tuple(((EMPTY,),) * N for _ in runs), none, none.clone(), never)


def _in_place(
    found: "_Found",
    order: Tensor,
    runs: tuple[str, ...],
    codec: "PairCodec",
    N: int,
) -> Answered:
    """What was found of the lines ``order`` ``(n,)``, in their places among ``N``; the others are empty.

    Args:
        found: of those lines, in this order.
        order: their places.
        runs: whose models.
        codec: their vocabularies.
        N: lines.
    """
    empty = _all_empty(runs, N)
    answers: list[list[tuple[Answer, ...]]] = [list(own) for own in empty.answers]
    drawn: list[list[BeamTree | None]] = [[None] * N for _ in runs] if found.trees else []
    for at, line in enumerate(order.tolist()):
        for member in range(len(runs)):
            answers[member][line] = tuple(found.read(codec, member, at))
            if found.trees:
                drawn[member][line] = found.trees[at][member]
    steps, saved = (
        own.index_copy(1, order, new) for own, new in ((empty.steps, found.steps), (empty.saved, found.saved))
    )
    margins = empty.margins.index_copy(1, order, found.margins.double())
    return Answered(runs, tuple(map(tuple, answers)), steps, saved, margins, tuple(map(tuple, drawn)))


@dataclass(frozen=True)
class _Found:
    """Of each line of a portion, ``(R, n, b)`` each, with ``tokens`` ``(R, n, b, T)`` and the last three ``(R, n)``."""

    tokens: Tensor
    lengths: Tensor
    log_p: Tensor
    finished: Tensor
    steps: Tensor
    saved: Tensor
    margins: Tensor
    trees: "Sequence[Sequence[BeamTree]]" = ()  # by line, by model

    def read(self, codec: "PairCodec", member: int, line: int) -> list[Answer]:
        """The answers of a model to a line; a search may have found fewer than it was asked for."""
        found = []
        for which, length in enumerate(self.lengths[member, line].tolist()):
            if length:
                own: list[int] = self.tokens[member, line, which, :length].tolist()
                log_p, finished = float(self.log_p[member, line, which]), bool(self.finished[member, line, which])
                found.append(Answer(codec.decode_target(own), tuple(own), log_p, finished))
        return found


_NAMES = ("tokens", "lengths", "log_p", "finished", "steps", "saved", "margins")


class _Asking:
    """The models, asked for a portion of lines at a time."""

    def __init__(
        self, models: Mapping[str, nn.Module], reads: str, max_new_tokens: int, beam: Beam | None, record: bool
    ) -> None:
        several = list(models.values())
        self.model: Any = several[0]
        self.runs = tuple(models)
        named = [dict(model.named_parameters()) for model in several]
        self.parameters = {name: torch.stack([own[name].detach() for own in named]) for name in named[0]}
        self.reads, self.T, self.beam, self.record = reads, max_new_tokens, beam, record
        self.decoder: Any = decoder_for(self.model, self.parameters)

    def __call__(self, tokens: Tensor, seen: Tensor) -> _Found:
        """Answer to sources ``(n, S)`` of which some tokens count, ``(n, S)`` bool."""
        longest = int(seen.sum(1).max())
        tokens, seen = tokens[:, :longest], seen[:, :longest]
        if self.reads == "source":
            return self._at_once(tokens, seen)
        state, logits = self._behind(tokens, seen)
        check_logits(logits, self.runs)
        if self.beam is None:
            return self._greedy(state, logits)
        how: Any = {"eos": EOS, "padding": PAD, "record": self.record}
        with by_run(self.runs):
            searched = beam_search(self.decoder, state, logits, self.T, self.beam, **how)
        own = searched.hypotheses
        about = (searched.steps, searched.saved, searched.margins)
        return _Found(
            own.tokens, own.lengths, own.log_p, own.finished, *about, tuple(zip(*searched.trees, strict=True))
        )

    def _behind(self, tokens: Tensor, seen: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """The state behind BOS, and the logits of the first token, ``(R, n, V)``."""
        n, R = len(tokens), self.decoder.size
        if self.reads == "pair":
            state = self.decoder.begin(tokens, seen, self.T)
            logits, state = self.decoder.step(tokens.new_full((R, n, 1), BOS), state, last=True)
            return state, logits[:, :, 0]
        lengths = seen.sum(1)  # (n,)
        prompts = torch.nn.functional.pad(tokens, (0, 1), value=PAD)
        prompts = prompts.scatter(1, lengths.unsqueeze(1), BOS)  # behind each source, without a gap
        state = self.decoder.start(n, prompts.shape[1] + self.T - 1)
        logits, state = self.decoder.step(prompts.expand(R, -1, -1), state, lengths + 1, last=True)
        return state, logits[:, :, 0]

    def _greedy(self, state: Mapping[str, Tensor], logits: Tensor) -> _Found:
        made = generate_from(self.decoder, state, logits, self.T, padding=PAD, eos=EOS)
        lengths = made.lengths.expand(made.tokens.shape[:2])
        counts = torch.arange(self.T) < lengths.unsqueeze(-1)
        log_p = torch.where(counts, made.log_p, 0.0).sum(-1)
        check_finite(log_p, self.runs)
        return _single(made.tokens, lengths, log_p)

    def _at_once(self, tokens: Tensor, seen: Tensor) -> _Found:
        """The likeliest token of each position up to the first end."""
        more = max(0, self.T - tokens.shape[1])
        tokens = torch.nn.functional.pad(tokens, (0, more), value=PAD)
        seen = torch.nn.functional.pad(seen, (0, more), value=False)

        def one(parameters: dict[str, Tensor]) -> Tensor:
            logits: Tensor = functional_call(self.model, parameters, (tokens, seen))[0]
            return logits

        log_p, chosen = vmap(one)(self.parameters)[:, :, : self.T].log_softmax(-1).max(-1)  # (R, n, T) each
        ends = chosen == EOS
        lengths = torch.where(ends.any(-1), ends.byte().argmax(-1) + 1, self.T)  # (R, n)
        counts = torch.arange(self.T) < lengths.unsqueeze(-1)
        summed = torch.where(counts, log_p, 0.0).sum(-1)
        check_finite(summed, self.runs)
        return _single(chosen, lengths, summed)


def _single(tokens: Tensor, lengths: Tensor, log_p: Tensor) -> _Found:
    """One answer of each model to each line: ``(R, n, T)``, ``(R, n)`` and ``(R, n)``."""
    last = tokens.gather(-1, (lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    unknown = torch.full_like(log_p, torch.nan)
    tokens, counts, log_p, finished = (own.unsqueeze(2) for own in (tokens, lengths, log_p.double(), last == EOS))
    return _Found(tokens, counts, log_p, finished, lengths, torch.zeros_like(lengths), unknown)
