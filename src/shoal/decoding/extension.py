"""One step of a beam search of R members, N prompts and b beams: the fate of each candidate, and the check for the end.

Usually the ``b`` likeliest candidates of every row are continued. Only where one of them ends, where some are equally
likely or missing, or where all are cut or recorded, the fate of each candidate is determined.

Shapes: ``R`` members, ``M`` places of the rows that are searched, ``w`` hypotheses of each before a step (1, then
``b``), ``V`` vocabulary, ``c`` candidates, ``T`` new tokens.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from shoal.decoding.hypotheses import Hypotheses
from shoal.decoding.ranking import Candidates, candidates
from shoal.decoding.rows import AT_LENGTH, BY_RULE, EMPTY, Rows
from shoal.decoding.stepping import gathered
from shoal.decoding.stopping import Lengths, may_stop
from shoal.decoding.tree import CUT, FINISHED, KEPT, Recorder


@dataclass(frozen=True)
class Extension:
    """Step of Algorithm 1, and the check that it was the last; see :class:`~shoal.decoding.beam.Beam` for terms."""

    b: int
    finished: str
    stop: str
    T: int
    lengths: Lengths
    eos: int | None
    from_logits: bool
    padding: int
    recorder: Recorder | None

    def extend(self, rows: Rows, log_p: Tensor, length: int) -> Tensor:
        """Extend the hypotheses of the rows to ``length`` tokens, by the next tokens' ``log_p`` ``(R, M, w, V)``.

        Returns:
            Parent of each new hypothesis among the old ones, ``(R, M, b)``.
        """
        b = self.b
        likeliest = candidates(rows.log_p, log_p, 2 * b + 1, self.from_logits)
        rows.expanded = rows.expanded + (rows.log_p > -math.inf).sum(-1)
        # An end behind the first b takes no place and does not count; next behind them it is as near as any other.
        ends = self.eos is not None and bool((likeliest.token[..., :b] == self.eos).any())
        if ends or not likeliest.are_distinct or length == self.T or self.recorder is not None:
            return self.tell(rows, likeliest, length)
        rows.margins = torch.minimum(rows.margins, likeliest.log_p[..., b - 1] - likeliest.log_p[..., b])
        parents = likeliest.parent[..., :b]
        rows.go_on(likeliest.log_p[..., :b], parents, likeliest.token[..., :b], length)
        rows.are_full = True
        return parents

    def tell(self, rows: Rows, candidates: Candidates, length: int) -> Tensor:
        """Extend the hypotheses where some of the candidates may end, be cut or be missing."""
        b, w = self.b, rows.log_p.shape[-1]
        rows.margins = torch.minimum(rows.margins, self.margin(candidates))
        living, ending = self.fates(candidates)
        # At the longest length what lives is cut, and compared with what has finished.
        cut = living if length == self.T else torch.zeros_like(living)
        order = (~living).byte().argsort(dim=-1, stable=True)[..., :b]  # the living first, in their order
        scores = candidates.log_p / self.lengths.divisors[length]
        if self.recorder is not None:
            fates = [(CUT, cut), (KEPT, living), (FINISHED, ending)]
            self.recorder.step(rows.prompt, rows.is_open, candidates, scores, fates, order, length)
        done = ending | cut
        if done.any():
            tokens = gathered(rows.tokens, candidates.parent)  # (R, M, c, T)
            tokens[..., length - 1] = candidates.token
            new = Hypotheses(tokens, torch.full_like(candidates.token, length), candidates.log_p, scores, ending)
            rows.pool, rows.have_finished = rows.pool.joined(new.only(done, self.padding), b), True
        alive, parents = gathered(living, order), gathered(candidates.parent, order)
        log_p = gathered(candidates.log_p, order).masked_fill(~alive, -math.inf)
        rows.go_on(log_p, parents, gathered(candidates.token, order), length)
        rows.are_full = bool(alive.all())
        if rows.are_full:
            return parents
        # The state of a hypothesis without a living child is not moved.
        return torch.where(alive, parents, torch.arange(b, device=order.device) if w == b else 0)

    def over(self, rows: Rows, length: int) -> Tensor | None:
        """Mask of the open rows that are done, ``(R, M)``: by their rule, without live hypotheses, or at full length.

        None where none is.
        """
        if length == self.T:
            return rows.is_open
        if rows.are_full and not rows.have_finished:
            return None
        empty = rows.log_p.amax(-1) == -math.inf
        by_rule = may_stop(self.stop, rows.log_p, rows.pool.scores, self.lengths, length)
        rows.reason = torch.where(empty, EMPTY, torch.where(by_rule, BY_RULE, AT_LENGTH))
        done = rows.is_open & (empty | by_rule)
        return done if done.any() else None

    def fates(self, candidates: Candidates) -> tuple[Tensor, Tensor]:
        """Masks of the candidates that live on and of those that have finished, ``(R, M, c)`` each."""
        alive = candidates.log_p > -math.inf
        is_eos = alive & self.ends(candidates)
        first = torch.arange(candidates.token.shape[-1], device=alive.device) < self.b
        going = alive & ~is_eos
        if self.finished == "keeps":
            return going & first, is_eos & first
        return going & (going.cumsum(-1) <= self.b), is_eos & first

    def ends(self, candidates: Candidates) -> Tensor:
        return candidates.token == (-1 if self.eos is None else self.eos)

    def margin(self, candidates: Candidates) -> Tensor:
        """Difference of log probability between the last kept candidate and the next, ``(R, M)``."""
        ahead = _gap(candidates.log_p, self.b)
        if self.finished == "keeps":
            return ahead
        going = candidates.log_p.masked_fill(self.ends(candidates), -math.inf)
        going = going.sort(dim=-1, descending=True, stable=True).values
        # A place of the first b decides whether a sentence that ends counts.
        decides = self.ends(candidates)[..., self.b - 1 : self.b + 1].any(-1)
        return torch.minimum(_gap(going, self.b), torch.where(decides, ahead, math.inf))


def _gap(log_p: Tensor, b: int) -> Tensor:
    """Difference between the ``b``-th and the next of sorted values ``(*dims, c)``; infinite without a next."""
    next_one = log_p[..., b]
    return torch.where(next_one > -math.inf, log_p[..., b - 1] - next_one, math.inf)
