"""The likeliest candidates in an order that is the same everywhere.

Of equally likely ones the lower index is first: the child of the likelier parent, then the lower token. ``topk`` does
not promise that, so it only chooses, where no tie can change the choice, and a stable sort orders.

Shapes: ``R`` members, ``N`` prompts, ``w`` hypotheses of a prompt, ``V`` vocabulary, ``c`` candidates.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from shoal.decoding.stepping import NotFinite, gathered


@dataclass(frozen=True)
class Candidates:
    """Hypotheses with one token more, the likeliest first.

    Attributes:
        log_p: of the whole hypothesis, ``(R, N, c)``, float64; -inf where there is none.
        parent: which hypothesis it continues, ``(R, N, c)``, int64.
        token: by which token, likewise.
    """

    log_p: Tensor
    parent: Tensor
    token: Tensor


def likeliest(log_p: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The ``k`` likeliest tokens, of equally likely ones the lower, or all where there are no more.

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
    if ((last == next_one) & (last > -math.inf)).any():  # which of the tied was chosen is anybody's guess
        tokens = log_p.argsort(dim=-1, descending=True, stable=True)[..., :k]
    else:
        tokens = top.indices[..., :k]
    tokens = tokens.sort(dim=-1).values
    return log_p.gather(-1, tokens), tokens


def candidates(so_far: Tensor, log_p: Tensor, count: int) -> Candidates:
    """The likeliest continuations of hypotheses by one token.

    Args:
        so_far: log probability of each hypothesis, ``(R, N, w)``, float64; of equally likely ones the first counts as
            likelier. -inf is none.
        log_p: of each next token, ``(R, N, w, V)``.
        count: ``c``.

    Raises:
        ValueError: a log probability is not a number or above 0.
    """
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
