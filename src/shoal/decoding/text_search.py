"""Beam search from prompts by models of one shape: from strings to strings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from shoal.decoding.beam import Beam, Searched, beam_search, check_beam, check_length
from shoal.decoding.choice import decoders_for
from shoal.decoding.finite import by_run, check_logits
from shoal.decoding.text import check_models, encode_prompt, stacked_parameters
from shoal.decoding.tree import BeamTree
from shoal.errors import UserError

if TYPE_CHECKING:
    from shoal.tasks.text.tokenizers import TextTokenizer


@dataclass(frozen=True)
class Continuation:
    """Hypothesis of the continuation of a text.

    Attributes:
        text: text after the prompt, EOS included where it has one.
        length: number of its tokens.
        log_p: log probability of all tokens, in nats.
        score: score that orders hypotheses, with the length penalty.
        finished: true where it has ended; others were cut at the longest length.
    """

    text: str
    length: int
    log_p: float
    score: float
    finished: bool


@dataclass(frozen=True)
class Search:
    """Search result of a run's model for a prompt.

    Attributes:
        run: id of the model's run.
        prompt: the prompt.
        found: the hypotheses, the best first.
        steps: number of steps of the search.
        saved: number of steps that were left when the stopping rule ended it.
        tree: search tree, where it was recorded.
    """

    run: str
    prompt: str
    found: tuple[Continuation, ...]
    steps: int
    saved: int
    tree: BeamTree | None


def fitting_tokens(model: nn.Module, longest: int) -> int | None:
    """Number of new tokens that fit into a model's context behind a prompt of length ``longest``; None if unbounded.

    The last new token is written and not read.
    """
    untyped: Any = model
    limit: int | None = untyped.context_length
    return None if limit is None else limit - longest + 1


@torch.no_grad()
def search_texts(
    models: Mapping[str, nn.Module],
    tokenizer: "TextTokenizer",
    prompts: Sequence[str],
    max_new_tokens: int | None = None,
    beam: Beam | None = None,
    *,
    end: int | None = None,
    record: bool = False,
) -> list[Search]:
    """Search the continuations of every prompt, by every model, all at once.

    Args:
        models: models of one shape, by run.
        tokenizer: their tokenizer.
        prompts: prompts, of at least one token each.
        max_new_tokens: largest number of new tokens; when not given, as many as fit into the context, up to 200.
        beam: settings of the beam search.
        end: token that ends a text; without one all hypotheses have the same number of tokens.
        record: true to record the search trees.

    Returns:
        Search results by prompt, then by run.

    Raises:
        UserError: a prompt is empty or has a character that the vocabulary lacks; there are not so many positions, or
            texts; or the models cannot continue texts token by token.
        DivergedError: models give numbers that are not finite.
    """
    modules, beam = list(models.values()), beam or Beam()
    check_models(modules[0], prompts)
    encoded = [encode_prompt(tokenizer, prompt) for prompt in prompts]
    lengths = torch.tensor([len(tokens) for tokens in encoded])
    T = _fitting(modules[0], prompts, lengths.tolist(), max_new_tokens)
    check_beam(beam.width, T, tokenizer.vocabulary_size)
    padded = torch.nn.utils.rnn.pad_sequence(encoded, batch_first=True)  # (N, P)
    rows, length, runs = len(prompts) * beam.width, padded.shape[1] + T - 1, list(models)
    decoders = decoders_for(modules[0], stacked_parameters(modules), rows, length)
    begun = [
        decoder.step(padded.expand(decoder.size, -1, -1), decoder.start(len(prompts), length), lengths, last=True)
        for decoder in decoders
    ]
    check_logits(torch.cat([logits for logits, _ in begun]), runs)
    groups: list[Searched] = []
    for decoder, (logits, state) in zip(decoders, begun, strict=True):
        with by_run(runs[sum(len(group.steps) for group in groups) :]):
            groups.append(beam_search(decoder, state, logits[:, :, 0], T, beam, eos=end, record=record))
    searched = Searched.of_groups(groups)
    return [
        Search(
            run,
            prompt,
            _read(searched, tokenizer, member, row),
            int(searched.steps[member, row]),
            int(searched.saved[member, row]),
            searched.trees[member][row] if record else None,
        )
        for row, prompt in enumerate(prompts)
        for member, run in enumerate(models)
    ]


def _fitting(model: nn.Module, prompts: Sequence[str], lengths: Sequence[int], asked: int | None) -> int:
    """Largest number of tokens of a hypothesis."""
    longest = max(lengths)
    fit = fitting_tokens(model, longest)
    if fit is not None and (fit < 1 or (asked or 1) > fit):
        untyped: Any = model
        room = f"{fit:,} new tokens fit" if fit > 1 else "one new token fits" if fit == 1 else "no new token fits"
        got = "" if asked is None else f", got max_new_tokens={asked:,}"
        raise UserError(
            f"a beam goes no further than the context of {untyped.context_length:,} tokens: behind a prompt of "
            f"{longest:,}, {room}{got}; without --beams the window slides"
        )
    if asked is None:
        return MOST if fit is None else min(MOST, fit)
    check_length(asked)
    return asked


MOST = 200  # new tokens, where no number is asked for


def _read(searched: Searched, tokenizer: "TextTokenizer", member: int, row: int) -> tuple[Continuation, ...]:
    hypotheses, continuations = searched.hypotheses, []
    for which, length in enumerate(hypotheses.lengths[member, row].tolist()):
        if length:
            text = tokenizer.decode(hypotheses.written(member, row, which))
            at = member, row, which
            continuations.append(
                Continuation(
                    text,
                    length,
                    float(hypotheses.log_p[at]),
                    float(hypotheses.scores[at]),
                    bool(hypotheses.finished[at]),
                )
            )
    return tuple(continuations)
