"""Answers of models of one shape to sources: from lines of text to lines of text, whatever way the models read.

Lines are answered in portions of similar length, for all models at once. The other lines of a portion change no more
than the last bits of a line's numbers.

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
from shoal.decoding.choice import decoders_for
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
    """Text that a model gives for a line; several are ordered from the best.

    Attributes:
        text: detokenised text.
        tokens: its tokens, EOS included where it has one.
        log_p: log probability of all tokens, in nats.
        finished: true where it has ended; others were cut at the longest length.
    """

    text: str
    tokens: tuple[int, ...]
    log_p: float
    finished: bool


@dataclass(frozen=True)
class Answered:
    """Answers of every model to every line.

    Attributes:
        runs: ids of the models' runs.
        answers: answers by run and line, the best first: one by greedy search, up to the width of the beam by a beam.
        steps: number of steps of each line's search, ``(R, N)``.
        saved: number of steps that the stopping rule saved, ``(R, N)``.
        margins: margin of a beam's closest choice, in nats, ``(R, N)``: one within rounding may turn out differently
            on another machine. See :class:`~shoal.decoding.beam.Searched` for choices that it leaves out. Infinite for
            empty lines, for which nothing is chosen; NaN without a beam.
        trees: search tree of each run and line, where recorded; None for an empty line.
    """

    runs: tuple[str, ...]
    answers: tuple[tuple[tuple[Answer, ...], ...], ...]
    steps: Tensor
    saved: Tensor
    margins: Tensor
    trees: tuple[tuple[BeamTree | None, ...], ...] = ()

    def best(self, run: str) -> list[str]:
        """Best text for every line."""
        return [answers[0].text if answers else "" for answers in self.answers[self.runs.index(run)]]


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

    A line of white space alone has an empty answer, without a step of a model: no task trains on such lines.

    Args:
        models: models of one shape, by run, or by any other names, such as ``RUN@STEP`` for several models of a run;
            in evaluation mode meanwhile.
        reads: how they read, see :attr:`shoal.models.settings.ModelSettings.reads`. One that answers position by
            position predicts all tokens at once: there is no search.
        codec: their vocabularies.
        lines: one source each.
        max_new_tokens: ``T``, EOS included.
        beam: settings of the beam search; None for greedy search.
        at_once: number of lines that are answered together.
        record: true to record the search trees of the beam.

    Raises:
        UserError: there is no line, no token is asked for, a part of a line has no token, a line has too many, the
            beam is wider than there are texts, or a beam was asked for with a model that answers position by position.
        DivergedError: models give numbers that are not finite; there are no answers of the other models either.
    """
    if not lines:
        raise UserError("there is nothing to translate: not one line was given")
    first = next(iter(models.values()))
    if reads == "source" and beam is not None:
        raise UserError(
            f"{type(first).__name__} predicts the tokens of all positions at once, without a search: ask for "
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
        size = min(at_once, len(asked)), int(seen.sum(1).max()) + max_new_tokens
        asking = _Asking(models, reads, max_new_tokens, beam, record, size)
        parts = [asking(tokens[part], seen[part]) for part in torch.split(order, at_once)]
    finally:
        first.train(was_training)
    joined = {name: torch.cat([getattr(part, name) for part in parts], dim=1) for name in _NAMES}
    whole = _Results(**joined, trees=[tree for part in parts for tree in part.trees])
    return _in_place(whole, order, tuple(models), codec, len(lines))


EMPTY = Answer("", (), 0.0, True)  # of a line of white space


def _all_empty(runs: tuple[str, ...], N: int) -> Answered:
    none = torch.zeros(len(runs), N, dtype=torch.int64)
    never = torch.full((len(runs), N), torch.inf, dtype=torch.float64)
    return Answered(runs, tuple(((EMPTY,),) * N for _ in runs), none, none.clone(), never)


def _in_place(
    results: "_Results",
    order: Tensor,
    runs: tuple[str, ...],
    codec: "PairCodec",
    N: int,
) -> Answered:
    """Answers to the lines ``order`` ``(n,)`` in their places among all ``N``; the other lines are empty.

    Args:
        results: results for those lines, in this order.
        order: indices of the lines.
        runs: ids of the models' runs.
        codec: their vocabularies.
        N: number of lines.
    """
    empty = _all_empty(runs, N)
    answers: list[list[tuple[Answer, ...]]] = [list(of_run) for of_run in empty.answers]
    drawn: list[list[BeamTree | None]] = [[None] * N for _ in runs] if results.trees else []
    for at, line in enumerate(order.tolist()):
        for member in range(len(runs)):
            answers[member][line] = tuple(results.read(codec, member, at))
            if results.trees:
                drawn[member][line] = results.trees[at][member]
    steps, saved = (
        none.index_copy(1, order, new) for none, new in ((empty.steps, results.steps), (empty.saved, results.saved))
    )
    margins = empty.margins.index_copy(1, order, results.margins.double())
    return Answered(runs, tuple(map(tuple, answers)), steps, saved, margins, tuple(map(tuple, drawn)))


@dataclass(frozen=True)
class _Results:
    """Results for a portion of lines, ``(R, n, b)`` each; ``tokens`` ``(R, n, b, T)``, the last three ``(R, n)``."""

    tokens: Tensor
    lengths: Tensor
    log_p: Tensor
    finished: Tensor
    steps: Tensor
    saved: Tensor
    margins: Tensor
    trees: "Sequence[Sequence[BeamTree]]" = ()  # by line, by model

    def read(self, codec: "PairCodec", member: int, line: int) -> list[Answer]:
        """Answers of a model to a line; a search may have found fewer than it was asked for."""
        answers = []
        for which, length in enumerate(self.lengths[member, line].tolist()):
            if length:
                tokens: list[int] = self.tokens[member, line, which, :length].tolist()
                log_p, finished = float(self.log_p[member, line, which]), bool(self.finished[member, line, which])
                answers.append(Answer(codec.decode_target(tokens), tuple(tokens), log_p, finished))
        return answers


_NAMES = ("tokens", "lengths", "log_p", "finished", "steps", "saved", "margins")


class _Asking:
    """Models that answer a portion of lines at a time, in groups (:func:`~shoal.decoding.choice.decoders_for`).

    ``size`` is the largest number of lines of a portion, and of tokens of a source and its answer.
    """

    def __init__(
        self,
        models: Mapping[str, nn.Module],
        reads: str,
        max_new_tokens: int,
        beam: Beam | None,
        record: bool,
        size: tuple[int, int],
    ) -> None:
        several = list(models.values())
        self.model: Any = several[0]
        self.runs = tuple(models)
        named = [dict(model.named_parameters()) for model in several]
        self.parameters = {name: torch.stack([of_model[name].detach() for of_model in named]) for name in named[0]}
        self.reads, self.T, self.beam, self.record = reads, max_new_tokens, beam, record
        rows, length = size
        rows *= 1 if beam is None else beam.width
        self.decoders: list[Any] = list(decoders_for(self.model, self.parameters, rows, length))

    def __call__(self, tokens: Tensor, seen: Tensor) -> _Results:
        """Answer sources ``(n, S)`` whose tokens ``seen``, ``(n, S)`` bool, count."""
        longest = int(seen.sum(1).max())
        tokens, seen = tokens[:, :longest], seen[:, :longest]
        if self.reads == "source":
            return self._at_once(tokens, seen)
        begun = [self._behind(decoder, tokens, seen) for decoder in self.decoders]
        check_logits(torch.cat([logits for _, logits in begun]), self.runs)
        groups: list[_Results] = []
        for decoder, (state, logits) in zip(self.decoders, begun, strict=True):
            first = sum(len(group.steps) for group in groups)
            groups.append(self._searched(decoder, state, logits, self.runs[first : first + decoder.size]))
        joined = {name: torch.cat([getattr(group, name) for group in groups]) for name in _NAMES}
        trees = zip(*(group.trees for group in groups), strict=True)  # by line, by group
        return _Results(**joined, trees=[tuple(tree for group in line for tree in group) for line in trees])

    def _searched(self, decoder: Any, state: Mapping[str, Tensor], logits: Tensor, runs: Sequence[str]) -> _Results:
        """Answers by the models of a decoder."""
        if self.beam is None:
            return self._greedy(decoder, state, logits, runs)
        how: Any = {"eos": EOS, "padding": PAD, "record": self.record}
        with by_run(runs):
            searched = beam_search(decoder, state, logits, self.T, self.beam, **how)
        best = searched.hypotheses
        of_hypotheses = (best.tokens, best.lengths, best.log_p, best.finished)
        about = (searched.steps, searched.saved, searched.margins)
        return _Results(*of_hypotheses, *about, tuple(zip(*searched.trees, strict=True)))

    def _behind(self, decoder: Any, tokens: Tensor, seen: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        """State behind BOS, and logits of the first token, ``(R, n, V)``."""
        n, R = len(tokens), decoder.size
        if self.reads == "pair":
            state = decoder.begin(tokens, seen, self.T)
            logits, state = decoder.step(tokens.new_full((R, n, 1), BOS), state, last=True)
            return state, logits[:, :, 0]
        lengths = seen.sum(1)  # (n,)
        prompts = torch.nn.functional.pad(tokens, (0, 1), value=PAD)
        prompts = prompts.scatter(1, lengths.unsqueeze(1), BOS)  # behind each source, without a gap
        state = decoder.start(n, prompts.shape[1] + self.T - 1)
        logits, state = decoder.step(prompts.expand(R, -1, -1), state, lengths + 1, last=True)
        return state, logits[:, :, 0]

    def _greedy(self, decoder: Any, state: Mapping[str, Tensor], logits: Tensor, runs: Sequence[str]) -> _Results:
        made = generate_from(decoder, state, logits, self.T, padding=PAD, eos=EOS)
        lengths = made.lengths.expand(made.tokens.shape[:2])
        counts = torch.arange(self.T) < lengths.unsqueeze(-1)
        log_p = torch.where(counts, made.log_p, 0.0).sum(-1)
        check_finite(log_p, runs)
        return _single(made.tokens, lengths, log_p)

    def _at_once(self, tokens: Tensor, seen: Tensor) -> _Results:
        """Likeliest token of each position up to the first EOS."""
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


def _single(tokens: Tensor, lengths: Tensor, log_p: Tensor) -> _Results:
    """Results with one answer of each model to each line: ``(R, n, T)``, ``(R, n)`` and ``(R, n)``."""
    last = tokens.gather(-1, (lengths - 1).clamp(min=0).unsqueeze(-1)).squeeze(-1)
    unknown = torch.full_like(log_p, torch.nan)
    tokens, counts, log_p, finished = (tensor.unsqueeze(2) for tensor in (tokens, lengths, log_p.double(), last == EOS))
    return _Results(tokens, counts, log_p, finished, lengths, torch.zeros_like(lengths), unknown)
