"""Exhaustive search: all texts of up to T tokens, by the tree of their prefixes, so that each prefix is computed once.

It is the reference for beam search, and usable itself where a vocabulary is small and texts are short.

Shapes: ``R`` members, ``N`` prompts, ``V`` vocabulary, ``T`` new tokens, ``W`` tokens that do not end a text: ``V``, or
``V - 1`` where one does. A prefix of ``t`` of these is a number of ``t`` digits to the base ``W``.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from shoal.decoding.beam import check_eos, check_length
from shoal.decoding.hypotheses import Hypotheses
from shoal.decoding.stepping import Steps, gathered, log_probabilities
from shoal.decoding.stopping import Lengths, check_stop
from shoal.errors import UserError

MOST_TEXTS = 2**21  # of all members and prompts: some 100 MB


def check_exhaustive(
    vocabulary_size: int, max_new_tokens: int, best: int = 1, rows: int = 1, most: int = MOST_TEXTS
) -> None:
    """Raise a :class:`UserError` where there are too many texts to search, or fewer than are asked for.

    Args:
        vocabulary_size: ``V``.
        max_new_tokens: ``T``.
        best: number of texts asked for.
        rows: number of rows, members times prompts.
        most: largest number of texts of all rows together.
    """
    check_length(max_new_tokens)
    V, T = vocabulary_size, max_new_tokens
    digits = T * math.log10(V)
    count = f"{V**T:,}" if digits < 15 else f"about 10^{digits:.0f}"
    if digits >= 15 or max(rows, 1) * V**T > most:  # a power of hundreds of digits is never computed
        raise UserError(
            f"exhaustive search would look at {V}^{T} = {count} texts of each of {rows} rows, and at most {most:,} in "
            "all are looked at; beam search looks at few of them"
        )
    if not 1 <= best <= V**T:
        raise UserError(f"exhaustive search can give from 1 to {count} texts, got {best}")


@torch.no_grad()
def exhaustive_search(
    model: Steps,
    state: Mapping[str, Tensor],
    logits: Tensor,
    max_new_tokens: int,
    best: int = 1,
    *,
    eos: int | None = None,
    length_penalty: float = 0.0,
    from_logits: bool = True,
    padding: int = 0,
    most: int = MOST_TEXTS,
    rows_at_once: int = 4096,
) -> Hypotheses:
    """Best of all texts that end within ``max_new_tokens`` or are as long, by every member after every prompt.

    Equally good texts are ordered as by beam search: the shorter first, then the child of the likelier parent, then the
    lower token.

    Args:
        model: models that step; see :func:`~shoal.decoding.beam.beam_search` for the other arguments.
        state: state after the prompts, ``(R, N, …)`` each.
        logits: logits of the first new token, ``(R, N, V)``.
        max_new_tokens: ``T``.
        best: number of texts returned for each row.
        eos: token that ends a text.
        length_penalty: see :mod:`.stopping`.
        from_logits: true where the model gives logits, false for log probabilities.
        padding: token after the end of a text.
        most: largest number of texts of all rows together.
        rows_at_once: largest number of prefixes of a member that are computed in one step, or one of each prompt.

    Raises:
        UserError: there are too many texts, or fewer than asked for.
    """
    R, N, V = logits.shape
    check_exhaustive(V, max_new_tokens, best, R * N, most)
    check_eos(eos, V)
    check_stop("none", length_penalty)
    letters = torch.tensor([token for token in range(V) if token != eos], dtype=torch.int64, device=logits.device)
    sizes = [len(letters) ** length for length in range(max_new_tokens)]
    levels = [torch.empty(R, N, size, V, dtype=torch.float64, device=logits.device) for size in sizes]
    tree = _Tree(model, max_new_tokens, letters, from_logits, rows_at_once, levels)
    start = torch.zeros(R, N, 1, dtype=torch.float64, device=logits.device)
    tree.grow(state, logits.unsqueeze(2), start, first=0, length=0)
    pool = Hypotheses.none((R, N, best), max_new_tokens, logits.device, padding)
    prefixes = torch.zeros(R, N, 1, dtype=torch.int64, device=logits.device)
    divisors = Lengths.up_to(max_new_tokens, length_penalty).divisors
    longest = max_new_tokens if len(letters) else 1  # where EOS is the only token, nothing goes before it
    for length in range(1, longest + 1):
        new, prefixes = tree.ranked(prefixes, length, eos, best, padding)
        pool = pool.joined(replace(new, scores=new.log_p / divisors[length]), best)
    return pool.only(pool.log_p > -math.inf, padding)


@dataclass(frozen=True)
class _Tree:
    """Tree of log probabilities of all prefixes with one token more: ``levels[t]``, ``(R, N, W ** t, V)``, float64."""

    model: Steps
    T: int
    letters: Tensor
    from_logits: bool
    rows_at_once: int
    levels: list[Tensor]

    def grow(self, state: Mapping[str, Tensor], logits: Tensor, so_far: Tensor, first: int, length: int) -> None:
        """Fill the levels below some prefixes, depth first, so that few states are there at once.

        Args:
            state: state of the prefixes, ``(R, N m, …)`` each.
            logits: logits after each prefix, ``(R, N, m, V)``.
            so_far: log probabilities of the prefixes, ``(R, N, m)``.
            first: number of the first prefix; the others follow.
            length: length of the prefixes.
        """
        R, N, m, V = logits.shape
        W = len(self.letters)
        alive = (so_far > -math.inf).unsqueeze(-1)
        sums = so_far.unsqueeze(-1) + log_probabilities(logits, self.from_logits).double()  # (R, N, m, V)
        sums = torch.where(alive, sums, -math.inf)
        if not (sums <= 0).all():  # NaN is refused too
            raise ValueError(f"log probabilities must be numbers of at most 0, got {float(sums.amax())}")
        self.levels[length][:, :, first : first + m] = sums
        if length + 1 == self.T:
            return
        below = sums[..., self.letters].flatten(2)  # (R, N, m W)
        block = max(1, self.rows_at_once // max(N, 1))
        for start in range(0, m * W, block):
            children = torch.arange(start, min(start + block, m * W), device=logits.device)
            rows = torch.arange(N, device=logits.device).unsqueeze(1) * m + children // W  # (N, m')
            tokens = self.letters[children % W].repeat(N).expand(R, -1).unsqueeze(-1)  # (R, N m', 1)
            selected = self.model.select(state, rows.flatten().expand(R, -1))
            logits_of_rows, after = self.model.step(tokens, selected, last=True)
            logits_below = logits_of_rows.reshape(R, N, len(children), V)
            self.grow(after, logits_below, below[..., children], first * W + start, length + 1)

    def ranked(
        self, prefixes: Tensor, length: int, eos: int | None, best: int, padding: int
    ) -> tuple[Hypotheses, Tensor]:
        """Texts of ``length`` tokens in their order.

        Args:
            prefixes: all prefixes of a token less in their order, ``(R, N, W ** (length - 1))``.
            length: length of the texts, from 1 to ``T``.
            eos: token that ends a text.
            best: number of texts wanted.
            padding: token after the end of a text.

        Returns:
            The likeliest texts that have ended, or are of length ``T``, without scores, and the other texts in their
            order.
        """
        V, W = self.levels[0].shape[-1], len(self.letters)
        sums = gathered(self.levels[length - 1], prefixes).flatten(2)  # (R, N, W ** (length - 1) V)
        order = sums.argsort(dim=-1, descending=True, stable=True)
        parents, tokens = gathered(prefixes, order // V), order % V
        is_eos = tokens == (-1 if eos is None else eos)
        ended = is_eos if length < self.T else torch.ones_like(is_eos)
        places = (~ended).byte().argsort(dim=-1, stable=True)[..., :best]  # those that ended first, in their order
        ended, last = gathered(ended, places), gathered(tokens, places)
        text = torch.full((*places.shape, self.T), padding, device=tokens.device)
        text[..., length - 1] = last
        prefix = gathered(parents, places)
        for t in reversed(range(length - 1)):
            text[..., t], prefix = self.letters[prefix % W], prefix // W
        log_p = gathered(sums, order.gather(-1, places)).masked_fill(~ended, -math.inf)
        lengths = torch.full_like(last, length)
        texts = Hypotheses(text, lengths, log_p, log_p, gathered(is_eos, places))
        going = is_eos.byte().argsort(dim=-1, stable=True)[..., : prefixes.shape[-1] * W]
        number = torch.searchsorted(self.letters, gathered(tokens, going))  # of a letter
        return texts, gathered(parents, going) * W + number
