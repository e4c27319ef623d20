"""Data of a text for the engine: windows that training draws, windows that are scored, and their objective.

Training draws a window of ``context_length`` tokens at any place of the training split and predicts the token after
each of its tokens. An evaluation scores, in blocks or with a stride, all tokens of the validation split but the first,
each once, and a fixed sample of the training split.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, partial

import torch
from torch import Tensor

from shoal.errors import OtherDataError
from shoal.keyed import bits, fold
from shoal.tasks.base import Batch, Task, TokenObjective
from shoal.tasks.sampling import EpochSampler, RandomSampler
from shoal.tasks.text.corpus import read_corpus, split
from shoal.tasks.text.ngram import best_order, ngram_baseline
from shoal.tasks.text.tokenizers import TextTokenizer, make_tokenizer
from shoal.tasks.text.units import count_text

SCORED_SHARE = 4  # the number of scored training windows is that of validation windows over this
MOST_COUNTED = 20_000_000
_OFFSET_STREAM = 3  # where blocks of a pass begin, apart from their order
_KEPT = 4


@dataclass(frozen=True)
class TextData:
    """Text in tokens.

    Attributes:
        tokens: tokens of the training split, then of the validation split, ``(N,)`` int64.
        n_train: number of training tokens.
        tokenizer: tokenizer of the text.
    """

    tokens: Tensor
    n_train: int
    tokenizer: TextTokenizer

    @property
    def train(self) -> Tensor:
        """Tokens of the training split."""
        return self.tokens[: self.n_train]

    @property
    def valid(self) -> Tensor:
        """Tokens of the validation split."""
        return self.tokens[self.n_train :]

    @cached_property
    def _windows(self) -> dict[tuple[int, int, int], tuple[Tensor, Tensor]]:
        return {}

    def scored_windows(self, context_length: int, stride: int, part: int = SCORED_SHARE) -> tuple[Tensor, Tensor]:
        """Windows that an evaluation scores, those of the training split first.

        Args:
            context_length: number of tokens of a window.
            stride: number of scored tokens that each window but the first adds.
            part: number of validation windows for which one training window is scored.

        Returns:
            ``(start, first, last)`` of each, ``(n, 3)`` int64: it reads from token ``start`` on, and of its predictions
            those from ``first`` up to ``last`` count. Then which are of the validation split, ``(n,)`` bool.
        """
        key = (context_length, stride, part)
        if key not in self._windows:
            valid = windows(self.n_train, len(self.tokens), context_length, stride)
            train = windows(0, self.n_train, context_length, stride)
            n = max(1, min(len(train), len(valid) // part))
            train = train[torch.arange(n) * len(train) // n]  # evenly over the split
            both = torch.cat([train, valid])
            self._windows[key] = both, torch.arange(len(both)) >= n
        return self._windows[key]

    def counts(self) -> dict[str, int]:
        """Numbers of scored tokens, characters, bytes and words of the validation split: all but its first token.

        Of tokens that are words only their number: characters of words that are no type are not predicted.
        """
        scored = self.valid[1:]
        if self.tokenizer.kind == "words":
            return {"tokens": len(scored)}
        return asdict(count_text(self.tokenizer.decode_bytes(scored), len(scored)))

    def baseline(self) -> dict[str, float]:
        """Best n-gram on the validation split: its ``order``, ``nats_per_token``, and the number of ``orders`` tried.

        Scored on the same tokens as models: all but the first. Empty for a text of more than :data:`MOST_COUNTED`
        tokens, whose n-grams would take gigabytes.
        """
        if not self._ngram and len(self.tokens) <= MOST_COUNTED:
            losses_by_order = ngram_baseline(self.train, self.valid, self.tokenizer.vocabulary_size, skip=1)
            losses = dict(losses_by_order.select("order", "nats_per_token").iter_rows())
            order = best_order(losses_by_order)
            self._ngram.update(order=order, nats_per_token=round(losses[order], 6), orders=max(losses))
        return dict(self._ngram)

    @cached_property
    def _ngram(self) -> dict[str, float]:
        return {}


def windows(begin: int, end: int, context_length: int, stride: int) -> Tensor:
    """Windows of the tokens from ``begin`` to ``end`` that score each token but the first once: ``(n, 3)``.

    The first window scores all its predictions, each other the last ``stride``, the last those that are left.

    >>> windows(0, 8, context_length=4, stride=2)
    tensor([[0, 0, 4],
            [2, 2, 4],
            [4, 2, 3]])
    """
    n = end - begin - 1  # tokens that are predicted
    starts = torch.arange(0, max(1, n - context_length + stride), stride)  # within the split
    first = torch.where(starts == 0, 0, context_length - stride)
    last = (n - starts).clamp(max=context_length)
    return torch.stack([begin + starts, first, last], 1)


_loaded: dict[tuple[object, ...], TextData] = {}
_loading = threading.Lock()


def load_text(
    paths: Sequence[str],
    key: str | None,
    tokenizer: str,
    vocabulary_size: int | None,
    valid_share: float,
    min_frequency: int | None = None,
    other: TextTokenizer | None = None,
) -> TextData:
    """Text in tokens; the same object at every call, so that members of a stack share it.

    Args:
        paths: paths of its files and folders.
        key: key of the content that it must have.
        tokenizer: see :func:`shoal.tasks.text.tokenizers.make_tokenizer`.
        vocabulary_size: vocabulary size of ``bpe``.
        valid_share: share of the characters, from the end, that validates.
        min_frequency: see :func:`shoal.tasks.text.tokenizers.make_tokenizer`.
        other: tokenizer of another text, in place of one that this text makes.

    Raises:
        UserError: the text cannot be read, has a character that another tokenizer lacks, or has another content.
    """
    corpus = read_corpus(paths)
    if key is not None and corpus.key != key:
        raise OtherDataError(
            f"text {', '.join(paths)} is not the one that the run began with: its content is {corpus.key}, that of the "
            f"run {key}",
            "name the text of the run with --text, or train anew",
        )
    size = vocabulary_size if tokenizer == "bpe" else None
    known = (corpus.key, tokenizer, size, valid_share, min_frequency, other.key if other else "")
    with _loading:
        if known not in _loaded:
            train, valid = split(corpus.text, valid_share)
            made = other or make_tokenizer(tokenizer, train, corpus.text, size, min_frequency)
            parts = [made.encode(train), made.encode(valid)]
            _loaded[known] = TextData(torch.cat(parts), len(parts[0]), made)
            while len(_loaded) > _KEPT:
                del _loaded[next(iter(_loaded))]
        return _loaded[known]


class BlockSampler(EpochSampler):
    """Sampler of passes over blocks of the training split that do not overlap, in a new order and place each pass.

    Args:
        keys: see :class:`~shoal.tasks.sampling.Sampler`.
        sizes: numbers of places at which a window can begin.
        batch_size: see :class:`~shoal.tasks.sampling.Sampler`.
        context_length: number of tokens of a block.
    """

    def __init__(self, keys: Tensor, sizes: Tensor, batch_size: int, context_length: int) -> None:
        super().__init__(keys, (sizes // context_length).clamp(min=1), batch_size)
        self.context_length = context_length
        self.free = sizes.clamp(max=context_length).unsqueeze(1)  # (R, 1), places at which the first block can begin

    def __call__(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """See :class:`~shoal.tasks.sampling.Sampler`."""
        blocks, counts = super().__call__(steps)  # (R, B)
        epoch = (steps - 1) // self.batches  # (R,)
        offset = bits(fold(fold(self.keys, _OFFSET_STREAM), epoch), 1) % self.free  # (R, 1)
        return blocks * self.context_length + offset, counts


def text_task(data: TextData, context: int, stride: int, drawn: str, label_smoothing: float = 0.0) -> Task:
    """Task of a text for the engine.

    Args:
        data: the text in tokens.
        context: number of tokens of a window.
        stride: see :func:`windows`.
        drawn: training windows: ``random`` ones, or passes over ``blocks``.
        label_smoothing: label smoothing of the loss that training minimises.
    """
    table, is_valid = data.scored_windows(context, stride)
    places = data.n_train - context
    number = places + torch.arange(len(table))
    sampler = RandomSampler if drawn == "random" else partial(BlockSampler, context_length=context)
    return Task(
        tensors={"tokens": data.tokens, "windows": table},
        drawn=places,
        scored={"train": number[~is_valid], "valid": number[is_valid]},
        objective=text_objective,
        batch=partial(window_batch, places=places, context_length=context),
        sampler=sampler,
        training_objective=TokenObjective(text_summary, label_smoothing) if label_smoothing else None,
    )


def window_batch(tensors: Mapping[str, Tensor], indices: Tensor, places: int, context_length: int) -> Batch:
    """Batch of windows by number: one that begins at a place of the training split, or one of the scored windows.

    Args:
        tensors: ``tokens`` ``(N,)``, and ``windows`` ``(n, 3)`` as :meth:`TextData.scored_windows` gives them.
        indices: ``(B,)``; those from ``places`` on are numbers of scored windows.
        places: number of places at which training draws.
        context_length: ``S``.

    Returns:
        ``inputs`` and ``targets`` ``(B, S)`` int64, and ``scored`` ``(B, S)`` bool.
    """
    tokens, table = tensors["tokens"], tensors["windows"]
    is_drawn = indices < places  # (B,)
    row = table[(indices - places).clamp(min=0)]  # (B, 3)
    start = torch.where(is_drawn, indices, row[..., 0])
    first = torch.where(is_drawn, 0, row[..., 1]).unsqueeze(-1)
    last = torch.where(is_drawn, context_length, row[..., 2]).unsqueeze(-1)
    position = torch.arange(context_length + 1, device=indices.device)
    at = (start.unsqueeze(-1) + position).clamp(max=tokens.shape[0] - 1)  # (B, S + 1)
    chosen = tokens[at]
    position = position[:-1]
    return {
        "inputs": chosen[..., :-1],
        "targets": chosen[..., 1:],
        "scored": (position >= first) & (position < last),
    }


def text_summary(losses: Tensor, right: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Loss and accuracy of each window's scored tokens, and their number; see :class:`TokenObjective`."""
    scored = batch["scored"]  # (*dims, B, S)
    n = scored.sum(-1)  # (*dims, B)
    return {
        "loss": torch.where(scored, losses, 0.0).sum(-1) / n,
        "accuracy": (right & scored).sum(-1) / n,
        "weight": n.to(losses.dtype),
    }


text_objective = TokenObjective(text_summary)
