"""Beam search of R members, N prompts and b beams at once.

Source: Algorithm 1 of the practical on sequence models (R2.3), whose first step expands one hypothesis, because b equal
ones would stay equal; equations (12) and (13) of T3.4 for finished hypotheses and for stopping.

A row is one prompt of one member. The search works on whole tensors; rows that are done are removed together, when an
eighth of the places is free. A row's hypotheses depend on its own logits alone, which products of other shapes may
round differently: ``margins`` is the margin of the closest choice of all steps.

Shapes: ``R`` members, ``N`` prompts, ``M`` places of those not yet left, ``w`` hypotheses of each before a step
(1, then ``b``), ``V`` vocabulary, ``c`` candidates, ``T`` new tokens.
"""

from collections.abc import Mapping, Sequence
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

WIDEST = 10_000  # hypotheses of a text
PLACES = {
    "releases": "its place goes to the next live candidate at once, so that b are live in each step "
    "(transformers, fairseq)",
    "keeps": "it keeps one of the b places of its step, so that the live are fewer in the next (T3.4, equation 12)",
}


@dataclass(frozen=True)
class Beam:
    """Settings of a beam search.

    In each step the ``b`` likeliest continuations of the live hypotheses are kept; among equally likely ones the child
    of the likelier parent comes first, then the lower token. Those that end with EOS are finished and not continued.

    Attributes:
        width: ``b``, number of places, and of hypotheses returned, for each prompt.
        finished: use of the place of a finished hypothesis, one of :data:`PLACES`.
        stop: stopping rule, one of :data:`~shoal.decoding.stopping.STOPS`.
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
    """Results of beam searches, ``(R, N)`` each.

    Attributes:
        hypotheses: best hypotheses of each row, ``(R, N, b)``; fewer than ``b`` where there are no more of a
            probability above 0, or where the search was over before as many had finished.
        steps: number of steps.
        saved: number of steps that were left when the stopping rule ended the search, while hypotheses were live.
        expanded: number of hypotheses that were expanded.
        margins: smallest difference over all steps, in nats, between the last kept and the first pruned candidate;
            infinite where every step kept all candidates. A choice within rounding may turn out differently on another
            machine. The order among finished hypotheses and the moment of stopping may depend on smaller differences,
            which are not counted.
        trees: search tree of each member and prompt, where recorded.
    """

    hypotheses: Hypotheses
    steps: Tensor
    saved: Tensor
    expanded: Tensor
    margins: Tensor
    trees: tuple[tuple[BeamTree, ...], ...] = ()

    @classmethod
    def of_groups(cls, groups: Sequence["Searched"]) -> "Searched":
        """Results of searches of the same prompts by groups of members, one after the other."""
        steps, saved, expanded, margins = (
            torch.cat([getattr(group, name) for group in groups]) for name in ("steps", "saved", "expanded", "margins")
        )
        hypotheses = Hypotheses.of_groups([group.hypotheses for group in groups])
        return cls(hypotheses, steps, saved, expanded, margins, tuple(tree for group in groups for tree in group.trees))


def check_beam(width: int, max_new_tokens: int | None = None, vocabulary_size: int | None = None) -> None:
    """Raise a :class:`UserError` for an invalid width, or one above the number of texts of so many tokens."""
    if not isinstance(width, int) or isinstance(width, bool) or not 1 <= width <= WIDEST:
        raise UserError(f"the width of a beam must be an integer from 1 to {WIDEST:,}, got {width}")
    if max_new_tokens is None:
        return
    check_length(max_new_tokens)
    if vocabulary_size is not None and width > vocabulary_size**max_new_tokens:
        raise UserError(
            f"a beam of {width} is wider than there are texts: {vocabulary_size} tokens make "
            f"{vocabulary_size**max_new_tokens:,} of {max_new_tokens}, so at most that"
        )


def check_length(max_new_tokens: int) -> None:
    """Raise a :class:`UserError` for a number of new tokens below 1."""
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
    """Beam search from every state, by every member.

    Args:
        model: models that step; in evaluation mode, if they have one.
        state: state after the prompts, ``(R, N, …)`` each, with places for ``max_new_tokens - 1`` more. **It is
            overwritten**: to continue from it again, copy it first by ``select`` of all its rows.
        logits: logits of the first new token, ``(R, N, V)``.
        max_new_tokens: ``T``, EOS included.
        beam: settings; those of a default :class:`Beam` when not given.
        eos: token that ends a sentence; without one all hypotheses have ``T`` tokens.
        from_logits: true where the model gives logits; else log probabilities, which need not sum to 1.
        padding: token after the end of a hypothesis.
        record: true to record every step's candidates as trees.

    Raises:
        UserError: the beam is wider than there are texts, or no token is asked for.
        ValueError: the model gives a value that is no log probability, or there is no such token as ``eos``.
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
    counts = (left.steps.clone(), saved, left.expanded.clone(), left.margins.clone())  # no inference tensors
    return Searched(left.pool.copied(), *counts, trees)


def _search(search: Extension, model: Steps, state: Mapping[str, Tensor], logits: Tensor) -> Left:
    """Run Algorithm 1 for all rows at once."""
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
    """Raise a ValueError for an ``eos`` that is no token."""
    if eos is not None and not 0 <= eos < V:
        raise ValueError(f"eos must be a token from 0 to {V - 1}, got {eos}")
