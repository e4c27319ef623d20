"""Beam search: R members, N prompts and b beams at once.

Source: Algorithm 1 of the practical on sequence models (R2.3), whose first step expands one hypothesis, because b equal
ones would stay alike; equations (12) and (13) of T3.4 for what ends, and when to stop.

A row is one prompt of one member. It works on whole tensors; rows that are done leave together, when an eighth of the
places is free, and a row's hypotheses hang on its own logits alone, which other shapes of a product may round
differently: ``margins`` says how near the nearest choice of a step was.

Shapes: ``R`` members, ``N`` prompts, ``M`` places of those not yet left, ``w`` hypotheses of each before a step
(1, then ``b``), ``V`` vocabulary, ``c`` candidates, ``T`` new tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.decoding.extension import Extension
from shoal.decoding.hypotheses import Hypotheses
from shoal.decoding.rows import BY_RULE, Left, Rows, moved
from shoal.decoding.stepping import Steps, log_probabilities
from shoal.decoding.stopping import Lengths, check_stop
from shoal.decoding.tree import BeamTree, Recorder
from shoal.errors import UserError, nearest

PLACES = {
    "releases": "its place goes to the next live candidate at once, so that b are live in each step "
    "(transformers, fairseq)",
    "keeps": "it keeps one of the b places of its step, so that the live are fewer in the next (T3.4, equation 12)",
}


@dataclass(frozen=True)
class Beam:
    """How a beam searches.

    In each step the ``b`` likeliest continuations of the live hypotheses are kept, of equally likely ones the child of
    the likelier parent, then the lower token. Those of them that end with EOS have finished and are never continued.

    Attributes:
        width: ``b``, places of each prompt and hypotheses that it is asked for.
        finished: what a hypothesis that finishes does with its place, one of :data:`PLACES`.
        stop: when the search is over, one of :data:`~shoal.decoding.stopping.STOPS`.
        length_penalty: hypotheses are compared by ``log p / length ** length_penalty`` once they have finished.
    """

    width: int = 5
    finished: str = "releases"
    stop: str = "optimal"
    length_penalty: float = 0.0

    def __post_init__(self) -> None:
        check_beam(self.width)
        if self.finished not in PLACES:
            near = nearest(self.finished, PLACES)
            raise UserError(f"unknown finished {self.finished!r}: one of {' '.join(PLACES)}{near}")
        check_stop(self.stop, self.length_penalty)


@dataclass(frozen=True)
class Searched:
    """What beams have found, ``(R, N)`` each.

    Attributes:
        hypotheses: of each row the best, ``(R, N, b)``; fewer than ``b`` where there are no more of a probability above
            0, or where the search was over before as many had finished.
        steps: tokens up to which it went.
        saved: steps that were left when its rule stopped it, while hypotheses were live.
        expanded: hypotheses whose continuations were looked at.
        margins: by how much, in nats, what a step kept was ahead of what it did not, in the nearest of all steps;
            infinite where each kept all there was. A choice within rounding may fall otherwise on another machine. It
            says nothing of the order among those that have finished, nor of when the rule stopped the search, which
            may be as near whatever it is.
        trees: of each member and prompt, where they were recorded.
    """

    hypotheses: Hypotheses
    steps: Tensor
    saved: Tensor
    expanded: Tensor
    margins: Tensor
    trees: tuple[tuple[BeamTree, ...], ...] = ()


def check_beam(width: int, max_new_tokens: int | None = None, vocabulary_size: int | None = None) -> None:
    """Raise a :class:`UserError` for a width that no beam has, or more than there are texts of so many tokens."""
    if not isinstance(width, int) or isinstance(width, bool) or width < 1:
        raise UserError(f"the width of a beam must be an integer of at least 1, got {width}")
    if max_new_tokens is None:
        return
    check_length(max_new_tokens)
    if vocabulary_size is not None and width > vocabulary_size**max_new_tokens:
        raise UserError(
            f"a beam of {width} is wider than there are texts: {vocabulary_size} tokens make "
            f"{vocabulary_size**max_new_tokens:,} of {max_new_tokens}, so at most that"
        )


def check_length(max_new_tokens: int) -> None:
    """Raise a :class:`UserError` where no token may be written."""
    if not isinstance(max_new_tokens, int) or isinstance(max_new_tokens, bool) or max_new_tokens < 1:
        raise UserError(f"max_new_tokens must be an integer of at least 1, got {max_new_tokens}")


def beam_search(
    model: Steps,
    state: Mapping[str, Tensor],
    logits: Tensor,
    max_new_tokens: int,
    beam: Beam | None = None,
    *,
    eos: int | None = None,
    from_logits: bool = True,
    padding: int = 0,
    record: bool = False,
) -> Searched:
    """Go on from every state, by every member, with a beam.

    Args:
        model: what steps; in evaluation mode, if it has one.
        state: after the prompts, ``(R, N, …)`` each, with places for ``max_new_tokens - 1`` more. **It is used up**:
            ``select`` all of its rows before, which copies them, to go on from it once more.
        logits: of the first new token, ``(R, N, V)``.
        max_new_tokens: ``T``, the end of a sentence included.
        beam: how; a :class:`Beam` as it comes when not given.
        eos: the token that ends a sentence; without one all hypotheses have ``T`` tokens.
        from_logits: whether the model says logits; else log probabilities, which need not sum to 1.
        padding: what stands after a hypothesis.
        record: whether to keep every step's candidates as trees.

    Raises:
        UserError: the beam is wider than there are texts, or no token is asked for.
        ValueError: the model says something that is no log probability, or there is no such token as ``eos``.
    """
    beam = beam or Beam()
    R, N, V = logits.shape
    check_beam(beam.width, max_new_tokens, V)
    check_eos(eos, V)
    lengths = Lengths.up_to(max_new_tokens, beam.length_penalty)
    recorder = Recorder(R, N) if record else None
    search = Extension(
        beam.width, beam.finished, beam.stop, max_new_tokens, lengths, eos, from_logits, padding, recorder
    )
    with torch.inference_mode():
        left = _search(search, model, state, logits)
    trees = () if recorder is None else recorder.trees(left.steps, left.reason)
    saved = torch.where(left.reason == BY_RULE, max_new_tokens - left.steps, 0)
    found = (left.steps.clone(), saved, left.expanded.clone(), left.margins.clone())  # as other tensors
    return Searched(left.pool.copied(), *found, trees)


def _search(search: Extension, model: Steps, state: Mapping[str, Tensor], logits: Tensor) -> Left:
    """Algorithm 1, of all rows at once."""
    R, N, V = logits.shape
    rows = Rows.starting(R, N, search.b, search.T, logits.device, search.padding)
    left = Left.none(rows)
    log_p = log_probabilities(logits.unsqueeze(2), search.from_logits)  # (R, M, w, V)
    for length in range(1, search.T + 1):
        parents = search.extend(rows, log_p, length)  # (R, M, b)
        done, places = search.over(rows, length), None
        if done is not None:
            left.close(rows, done, length)
            places = rows.staying()
            rows = rows if places is None else rows.take(places)
        if not rows.prompt.numel():
            break
        state = moved(model, state, parents, places, w=log_p.shape[2])
        last = rows.tokens[..., length - 1].flatten(1).unsqueeze(-1)  # (R, M b, 1)
        logits, state = model.step(last, state, last=True)  # (R, M b, 1, V)
        log_p = log_probabilities(logits, search.from_logits).reshape(R, -1, search.b, V)
    return left


def check_eos(eos: int | None, V: int) -> None:
    """Raise a ValueError for the end of a sentence that is no token."""
    if eos is not None and not 0 <= eos < V:
        raise ValueError(f"eos must be a token from 0 to {V - 1}, got {eos}")
