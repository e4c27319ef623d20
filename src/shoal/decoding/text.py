"""Continuations of texts by models of one shape: from strings to strings."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from shoal.decoding.finite import check_finite
from shoal.decoding.generate import generate
from shoal.decoding.sampling import Sampling
from shoal.errors import UserError
from shoal.keyed import fold

if TYPE_CHECKING:
    from shoal.tasks.text.tokenizers import TextTokenizer

MOST_TOKENS = 10**7  # of all samples of a model
_STREAM = 4  # of the random numbers of samples, separate from those of training
_NEEDED = ("context_length", "start", "step")  # of a model that decodes, see shoal.models.cache


@dataclass(frozen=True)
class Sample:
    """Continuation of a prompt by a model.

    Attributes:
        run: id of the model's run.
        prompt: the prompt.
        number: number of the sample, from 0.
        text: the continuation.
        log_p: log probability of each of its tokens, EOS included where it has one, in nats, at temperature 1 among
            all tokens.
    """

    run: str
    prompt: str
    number: int
    text: str
    log_p: tuple[float, ...]


def generate_texts(
    models: Mapping[str, nn.Module],
    tokenizer: "TextTokenizer",
    prompts: Sequence[str],
    max_new_tokens: int = 200,
    sampling: Sampling | None = None,
    samples: int = 1,
    seed: int = 0,
    end: int | None = None,
) -> list[Sample]:
    """Continue every prompt, by every model, all at once.

    A sample depends on its run, its prompt, its number and the seed alone, and not on other prompts or samples.

    Args:
        models: models of one shape, by run.
        tokenizer: their tokenizer.
        prompts: prompts, of at least one token each.
        max_new_tokens: number of new tokens of each sample.
        sampling: settings of sampling; None for greedy search, and then there is one sample.
        samples: number of samples of each model and prompt.
        seed: seed of the samples.
        end: token at which a text ends; without one all have ``max_new_tokens`` tokens.

    Returns:
        Samples by prompt, then by number, then by run.

    Raises:
        UserError: a prompt is empty or has a character that the vocabulary lacks, a number is out of range, or the
            models cannot continue texts token by token.
        DivergedError: models give numbers that are not finite.
    """
    _check(next(iter(models.values())), prompts, max_new_tokens, sampling, samples)
    rows = [(prompt, number) for prompt in prompts for number in range(samples)]
    encoded = {prompt: encode_prompt(tokenizer, prompt) for prompt in prompts}
    lengths = torch.tensor([len(encoded[prompt]) for prompt, _ in rows])
    padded = torch.zeros(len(rows), int(lengths.max()), dtype=torch.int64)
    for row, (prompt, _) in zip(padded, rows, strict=True):
        row[: len(encoded[prompt])] = encoded[prompt]
    with torch.no_grad():
        made = generate(
            next(iter(models.values())),
            stacked_parameters(list(models.values())),
            padded,
            lengths,
            max_new_tokens,
            sampling,
            keys=_keys(list(models), seed),
            rows=torch.tensor([_number(prompt, number) for prompt, number in rows]),
            eos=end,
        )
    check_finite(made.log_p, list(models))
    written = made.lengths.expand(made.tokens.shape[:2])  # (R, N), with their prompts
    out = []
    for row, (prompt, number) in enumerate(rows):
        start = int(lengths[row])
        for member, run in enumerate(models):
            stop = int(written[member, row])
            text = tokenizer.decode(made.tokens[member, row, start:stop])
            out.append(Sample(run, prompt, number, text, tuple(made.log_p[member, row, : stop - start].tolist())))
    return out


def _check(
    model: nn.Module, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling | None, samples: int
) -> None:
    check_models(model, prompts)
    for name, value in (("max_new_tokens", max_new_tokens), ("samples", samples)):
        if value < 1:
            raise UserError(f"{name} must be an integer of at least 1, got {value}")
    if (tokens := len(prompts) * samples * max_new_tokens) > MOST_TOKENS:
        raise UserError(
            f"{len(prompts)} prompts × {samples} samples × {max_new_tokens} new tokens are {tokens:,} tokens of each "
            f"model; at most {MOST_TOKENS:,} are written at once"
        )
    if sampling is None and samples > 1:
        raise UserError(f"samples={samples} are all the same without a temperature: the likeliest tokens are one text")


def stacked_parameters(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters of models of one shape by name, ``(R, *shape)`` each."""
    named = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([of_model[name].detach() for of_model in named]) for name in named[0]}


def check_models(model: nn.Module, prompts: Sequence[str]) -> None:
    """Raise :class:`UserError` where a model cannot continue texts token by token, or there is no prompt."""
    if lacking := [name for name in _NEEDED if not hasattr(model, name)]:
        raise UserError(
            f"{type(model).__name__} cannot continue a text: it has no {' '.join(lacking)}; a model needs "
            f"{', '.join(_NEEDED)} for that"
        )
    if not prompts:
        raise UserError("there is nothing to continue: no prompt was given")


def encode_prompt(tokenizer: "TextTokenizer", prompt: str) -> Tensor:
    """Tokens of a prompt, int64, ``(n,)``.

    Raises:
        UserError: it has no token, or a character that the vocabulary lacks.
    """
    if not prompt:
        raise UserError("a prompt must have at least one token, got ''")
    return tokenizer.encode(prompt)


def _keys(runs: Sequence[str], seed: int) -> Tensor:
    """Random key of each run, ``(R,)``."""
    hashes = torch.tensor([_hashed(run) for run in runs])
    return fold(fold(fold(torch.zeros_like(hashes), _STREAM), hashes), seed)


def _number(prompt: str, number: int) -> int:
    return _hashed(f"{number} {prompt}")


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")
