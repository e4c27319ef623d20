"""Texts that models of one shape go on with: from strings to strings."""

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

_STREAM = 4  # what samples are drawn by, apart from what a run trained by
_NEEDED = ("context_length", "start", "step")  # of a model that decodes, see shoal.models.cache


@dataclass(frozen=True)
class Sample:
    """What a model made of a prompt.

    Attributes:
        run: whose model.
        prompt: what it was given.
        number: of the sample, from 0.
        text: what it went on with.
        log_p: of each of its tokens, its end included where it has one, in nats, by the model as it is, without
            temperature and cuts.
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
    """Go on with every prompt, by every model, all at once.

    A sample hangs on its run, its prompt, its number and the seed, and not on what else is asked for beside it.

    Args:
        models: of one shape, by run.
        tokenizer: theirs.
        prompts: at least one token each.
        max_new_tokens: of each sample.
        sampling: how tokens are drawn; None takes the likeliest, and then there is one sample.
        samples: of each model and prompt.
        seed: of the samples.
        end: the token at which a text ends; without one all have as many tokens.

    Returns:
        By prompt, then by number, then by run.

    Raises:
        UserError: a prompt is empty or has a character that the vocabulary lacks, a number is out of range, or the
            models cannot go on token by token.
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
    found = []
    for row, (prompt, number) in enumerate(rows):
        start = int(lengths[row])
        for member, run in enumerate(models):
            stop = int(written[member, row])
            text = tokenizer.decode(made.tokens[member, row, start:stop])
            found.append(Sample(run, prompt, number, text, tuple(made.log_p[member, row, : stop - start].tolist())))
    return found


def _check(
    model: nn.Module, prompts: Sequence[str], max_new_tokens: int, sampling: Sampling | None, samples: int
) -> None:
    check_models(model, prompts)
    for name, value in (("max_new_tokens", max_new_tokens), ("samples", samples)):
        if value < 1:
            raise UserError(f"{name} must be an integer of at least 1, got {value}")
    if sampling is None and samples > 1:
        raise UserError(f"samples={samples} are all the same without a temperature: the likeliest tokens are one text")


def stacked_parameters(models: Sequence[nn.Module]) -> dict[str, Tensor]:
    """Parameters of models of one shape by name, ``(R, *shape)`` each."""
    named = [dict(model.named_parameters()) for model in models]
    return {name: torch.stack([own[name].detach() for own in named]) for name in named[0]}


def check_models(model: nn.Module, prompts: Sequence[str]) -> None:
    """Raise :class:`UserError` where a model cannot go on token by token, or there is nothing to go on with."""
    if lacking := [name for name in _NEEDED if not hasattr(model, name)]:
        raise UserError(
            f"{type(model).__name__} cannot go on with a text: it has no {' '.join(lacking)}; a model needs "
            f"{', '.join(_NEEDED)} for that"
        )
    if not prompts:
        raise UserError("there is nothing to go on with: no prompt was given")


def encode_prompt(tokenizer: "TextTokenizer", prompt: str) -> Tensor:
    """The tokens of a prompt, int64, ``(n,)``.

    Raises:
        UserError: there is none, or it has a character that the vocabulary lacks.
    """
    if not prompt:
        raise UserError("a prompt must have at least one token, got ''")
    return tokenizer.encode(prompt)


def _keys(runs: Sequence[str], seed: int) -> Tensor:
    """A key of each run, ``(R,)``."""
    own = torch.tensor([_hashed(run) for run in runs])
    return fold(fold(fold(torch.zeros_like(own), _STREAM), own), seed)


def _number(prompt: str, number: int) -> int:
    return _hashed(f"{number} {prompt}")


def _hashed(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:4], "big")
