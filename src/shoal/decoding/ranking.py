"""Ranking of the likeliest candidates, in an order that is the same on all machines.

Among equally likely candidates the lower index is first: the child of the likelier parent, then the lower token.
``topk`` does not promise that. So one ``topk`` over all continuations of a row decides where no two of its results are
equally likely, as nearly always; else it chooses only where no tie can change the choice, and a stable sort orders.

Shapes: ``R`` members, ``N`` prompts, ``w`` hypotheses of a prompt, ``V`` vocabulary, ``c`` candidates.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.decoding.stepping import NotFinite, gathered

LARGE = 2048  # size of a vocabulary from which on the likeliest tokens of each hypothesis are chosen first


@dataclass(frozen=True)
class Candidates:
    """Candidates: hypotheses with one token more, the likeliest first.

    Attributes:
        log_p: log probability of the whole hypothesis, ``(R, N, c)``, float64; -inf where there is none.
        parent: index of the hypothesis that it continues, ``(R, N, c)``, int64.
        token: the token that it adds, ``(R, N, c)``, int64.
        are_distinct: true where each is known to be likelier than the next, in every row.
    """

    log_p: Tensor
    parent: Tensor
    token: Tensor
    are_distinct: bool = False


def likeliest(log_p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Likeliest ``k`` tokens, the lower of equally likely ones, or all where there are no more.

    Args:
        log_p: ``(*dims, V)``; NaN counts as likelier than all.
        k: at least 1.

    Returns:
        Values and tokens, ``(*dims, min(k, V))`` each, by token.
    """
    V = log_p.shape[-1]
    if k >= V:
        return log_p, torch.arange(V, device=log_p.device).expand(log_p.shape)
    top = log_p.topk(k + 1, dim=-1)
    last, next_one = top.values[..., k - 1], top.values[..., k]
    if ((last == next_one) & (last > -math.inf)).any():  # topk may have chosen any of the tied ones
        tokens = log_p.argsort(dim=-1, descending=True, stable=True)[..., :k]
    else:
        tokens = top.indices[..., :k]
    tokens = tokens.sort(dim=-1).values
    return log_p.gather(-1, tokens), tokens


def candidates(so_far: Tensor, log_p: Tensor, count: int, are_normal: bool = False) -> Candidates:
    """Likeliest continuations of hypotheses by one token.

    Args:
        so_far: log probability of each hypothesis, ``(R, N, w)``, float64; the first of equally likely ones counts as
            likelier. -inf is none.
        log_p: log probability of each next token, ``(R, N, w, V)``.
        count: ``c``.
        are_normal: true where these come from a softmax, whose values are at most 0 or NaN.

    Raises:
        ValueError: a log probability is not a number or above 0.
    """
    w, V = log_p.shape[2:]
    if not are_normal or w * V <= count:
        return _ranked(so_far, log_p, count)
    whole, tokens = log_p, None
    if V > LARGE:  # less to add and to choose among; those left out are behind enough others of their hypothesis
        log_p, tokens = log_p.topk(min(V, count + 1))  # (R, N, w, k) each
    k = log_p.shape[-1]
    top, index = (so_far.unsqueeze(-1) + log_p).flatten(2).topk(count + 1)  # (R, N, c + 1) each
    if not (top[..., :-1] > top[..., 1:]).all():  # a tie, also of -inf, or NaN, which would be first
        return _ranked(so_far, whole, count)
    index = index[..., :count]
    token = index % k if tokens is None else gathered(tokens.flatten(2), index)
    return Candidates(top[..., :count], index.div(k, rounding_mode="floor"), token, are_distinct=True)


def _ranked(so_far: Tensor, log_p: Tensor, count: int) -> Candidates:
    """Likeliest continuations where there may be ties, or fewer candidates than asked for."""
    values, tokens = likeliest(log_p, count)  # (R, N, w, k)
    alive = (so_far > -math.inf).unsqueeze(-1)
    if not (~alive | (values <= 0)).all():  # NaN is refused too
        raise _refusal(values, alive)
    sums = torch.where(alive, so_far.unsqueeze(-1) + values.double(), -math.inf).flatten(2)  # (R, N, w k)
    order = sums.argsort(dim=-1, descending=True, stable=True)[..., :count]
    k, missing = values.shape[-1], count - order.shape[-1]
    return Candidates(
        F.pad(gathered(sums, order), (0, missing), value=-math.inf),
        F.pad(order // k, (0, missing)),
        F.pad(gathered(tokens.flatten(2), order), (0, missing)),
    )


def _refusal(values: Tensor, alive: Tensor) -> NotFinite:
    wrong = (alive & ~(values <= 0)).nonzero()[0].tolist()
    return NotFinite(
        wrong[0],
        f"log probabilities must be numbers of at most 0, got {float(values[tuple(wrong)])} of member {wrong[0]}: its "
        "model has diverged, or its state has no place for so many tokens",
    )
