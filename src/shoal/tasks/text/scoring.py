"""Token scores of a split by a model, or by several of one shape: nats in the order of the text.

A split is scored as training evaluates it: windows that overlap by the context length less the stride, each token but
the first once (:func:`shoal.tasks.text.data.windows`). The scored tokens depend on neither stride nor batch.

Shapes: ``R`` models, ``n`` scored tokens, ``S`` tokens of the context, ``V`` vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from shoal.errors import UserError, nearest
from shoal.objectives import token_losses
from shoal.tasks.text.data import TextData, windows

SPLITS = ("train", "valid")


@torch.no_grad()
def score_split(
    models: nn.Module | Sequence[nn.Module],
    data: TextData,
    split: str = "valid",
    *,
    context_length: int,
    stride: int | None = None,
    batch: int = 64,
    calling: Mapping[str, Any] = {},
) -> Tensor:
    """Negative log-likelihood of every token of a split but the first, which is context alone, in nats.

    Args:
        models: one model, or several of one shape, that give logits ``(B, S, V)`` first for tokens ``(B, S)``; they are
            in evaluation mode meanwhile.
        data: the text.
        split: ``train`` or ``valid``.
        context_length: S, largest number of tokens that a prediction sees.
        stride: number of scored tokens that each window but the first adds; S (blocks) when not given.
        batch: number of windows per forward pass; another number changes only the last bits.
        calling: keyword arguments of the models' calls.

    Returns:
        float64, ``(n,)`` of one model and ``(R, n)`` of several, in the order of the text.

    Raises:
        UserError: the split is unknown or has not two tokens, or a number is out of range.
    """
    begin, end = bounds(data, split)
    stride = context_length if stride is None else stride
    _check(context_length, stride, batch)
    several = [models] if isinstance(models, nn.Module) else list(models)
    if not several:
        raise UserError("there is no model to score")
    were_training = [model.training for model in several]
    for model in several:
        model.eval()
    try:
        logits_of = _lifted(several, calling)
        parts = [
            _score(logits_of, data.tokens[begin:end], table, context_length)
            for table in torch.split(windows(0, end - begin, context_length, stride), batch)
        ]
    finally:
        for model, was_training in zip(several, were_training, strict=True):
            model.train(was_training)
    nats = torch.cat(parts, dim=1)  # (R, n)
    return nats[0] if isinstance(models, nn.Module) else nats


def bounds(data: TextData, split: str) -> tuple[int, int]:
    """Bounds of a split in ``data.tokens``.

    Raises:
        UserError: there is no such split, or it has fewer than two tokens, so that none would be scored.
    """
    if split not in SPLITS:
        raise UserError(f"unknown split {split!r}: one of {' '.join(SPLITS)}{nearest(split, SPLITS)}")
    begin, end = (0, data.n_train) if split == "train" else (data.n_train, len(data.tokens))
    if end - begin < 2:
        raise UserError(
            f"split {split} has {end - begin} tokens; the first is context, so that there must be 2 at least"
        )
    return begin, end


def scored_bytes(data: TextData, split: str = "valid") -> bytes:
    """Bytes of UTF-8 of exactly the scored tokens: of all but the first."""
    begin, end = bounds(data, split)
    return data.tokenizer.decode_bytes(data.tokens[begin + 1 : end])


def in_blocks(nats: Tensor, context_length: int) -> tuple[Tensor, Tensor]:
    """Nats of tokens that were scored in blocks, by block and position.

    Args:
        nats: result of :func:`score_split` with a stride of the context length, ``(*dims, n)``.
        context_length: S.

    Returns:
        ``(*dims, blocks, S)``, of which the last block may be padded with zeros; and the mask of those that count,
        bool, ``(blocks, S)``.
    """
    n = nats.shape[-1]
    blocks = -(-n // context_length)
    missing = blocks * context_length - n
    padded = torch.nn.functional.pad(nats, (0, missing))  # (*dims, blocks S)
    counts = (torch.arange(blocks * context_length) < n).reshape(blocks, context_length)
    return padded.reshape(*nats.shape[:-1], blocks, context_length), counts


def _score(logits_of: Any, tokens: Tensor, table: Tensor, context_length: int) -> Tensor:
    """Nats of the scored tokens of some windows ``(B, 3)``, ``(R, n)``: window after window."""
    start, first, last = table.unbind(1)  # (B,) each
    position = torch.arange(context_length + 1)
    chosen = tokens[(start.unsqueeze(1) + position).clamp(max=len(tokens) - 1)]  # (B, S + 1)
    position = position[:-1]
    scored = (position >= first.unsqueeze(1)) & (position < last.unsqueeze(1))  # (B, S)
    logits = logits_of(chosen[:, :-1]).double()  # (R, B, S, V)
    nats = token_losses(logits, chosen[:, 1:].expand(len(logits), -1, -1))  # (R, B, S)
    return nats[:, scored]


def _lifted(models: Sequence[nn.Module], calling: Mapping[str, Any]) -> Any:
    """Function from tokens to the logits of all models, ``(B, S) -> (R, B, S, V)``."""
    first = models[0]
    if len(models) == 1:
        return lambda tokens: first(tokens, **calling)[0].unsqueeze(0)
    named = [dict(model.named_parameters()) for model in models]
    shapes = {name: parameter.shape for name, parameter in named[0].items()}
    if any({name: parameter.shape for name, parameter in of_model.items()} != shapes for of_model in named):
        raise UserError("models that are scored together must have one shape")
    stacked = {name: torch.stack([of_model[name].detach() for of_model in named]) for name in shapes}

    def one(parameters: Mapping[str, Tensor], tokens: Tensor) -> Tensor:
        logits: Tensor = functional_call(first, dict(parameters), (tokens,), dict(calling))[0]
        return logits

    lifted = vmap(one, in_dims=(0, None))
    return lambda tokens: lifted(stacked, tokens)


def _check(context_length: int, stride: int, batch: int) -> None:
    for name, value in (("context_length", context_length), ("stride", stride), ("batch", batch)):
        if value < 1:
            raise UserError(f"{name} must be an integer of at least 1, got {value}")
    if stride > context_length:
        raise UserError(f"stride must be at most the context length {context_length}, got {stride}")
