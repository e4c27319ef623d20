"""Codec between lines of text and rows of tokens: all that a model of sources and targets needs beside its weights.

A source is its tokens and EOS. A target is its tokens and EOS, and a model reads it behind BOS. Padding is on the
right. ``N`` lines, ``S`` and ``T`` tokens of the longest source and target.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from shoal.errors import LabError, UserError
from shoal.tasks.pairs.vocabulary import EOS, PAD, Vocabulary, vocabulary_from_json


class PairCodec:
    """Codec between lines of text and rows of tokens.

    Attributes:
        source, target: the vocabularies; the same object where there is one for both.
        max_length: largest number of tokens of a source, EOS not counted.
        lowercase: lines are lower-cased (``str.lower``) before they become tokens.
        cuts: true to cut longer sources to their first tokens; else they are refused.
    """

    def __init__(
        self, source: Vocabulary, target: Vocabulary, max_length: int, lowercase: bool = False, cuts: bool = False
    ) -> None:
        self.source, self.target = source, target
        self.max_length, self.lowercase, self.cuts = max_length, lowercase, cuts

    def prepared(self, line: str) -> str:
        """Line in the form in which it is split into tokens."""
        return line.lower() if self.lowercase else line

    def encode_sources(self, lines: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens of sources as a model reads them; an empty line is EOS alone, and stays in its place.

        Returns:
            ``tokens`` ``(N, S)`` int64, and ``seen`` ``(N, S)`` bool, True where there is a token and no padding.

        Raises:
            UserError: a line has a part without a token, or too many tokens where they are not cut.
        """
        rows = [self._fitting(number, self._tokens(number, line)) for number, line in enumerate(lines, 1)]
        tokens, lengths = padded(rows)
        return tokens, torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)

    def encode_targets(self, lines: Sequence[str]) -> tuple[Tensor, Tensor]:
        """Tokens of targets with EOS as a model is scored on them, of any length: as :meth:`encode_sources`."""
        tokens, lengths = padded([self.target.encode(self.prepared(line)) for line in lines])
        return tokens, torch.arange(tokens.shape[1]) < lengths.unsqueeze(1)

    def decode_target(self, tokens: Tensor | Iterable[int]) -> str:
        """Text of a target's tokens, up to the first EOS; PAD and BOS are skipped.

        Raises:
            UserError: a token is not of the vocabulary.
        """
        return self.target.decode(tokens.tolist() if isinstance(tokens, Tensor) else tokens)

    def decode_source(self, tokens: Tensor | Iterable[int]) -> str:
        """Text of a source's tokens, as :meth:`decode_target`."""
        return self.source.decode(tokens.tolist() if isinstance(tokens, Tensor) else tokens)

    def too_long(self, lines: Sequence[str]) -> list[int]:
        """Indices, from 0, of the sources that have more than :attr:`max_length` tokens."""
        encoded = (self._tokens(number, line) for number, line in enumerate(lines, 1))
        return [place for place, tokens in enumerate(encoded) if len(tokens) > self.max_length]

    def _tokens(self, number: int, line: str) -> list[int]:
        try:
            return self.source.encode(self.prepared(line))
        except UserError as error:
            raise UserError(f"source {number:,}: {error}") from None

    def _fitting(self, number: int, tokens: list[int]) -> list[int]:
        if len(tokens) > self.max_length and not self.cuts:
            raise UserError(
                f"source {number:,} has {len(tokens):,} tokens; the model reads {self.max_length:,} at most"
            )
        return tokens[: self.max_length]

    def to_json(self) -> dict[str, Any]:
        """JSON from which :meth:`from_json` makes the codec; without ``source`` where it is the target's vocabulary."""
        out = {"max_length": self.max_length, "lowercase": self.lowercase, "cuts": self.cuts}
        source_entry = {} if self.source is self.target else {"source": self.source.to_json()}
        return {**out, **source_entry, "target": self.target.to_json()}

    @classmethod
    def from_json(cls, content: Any) -> "PairCodec":
        """Codec from the JSON of :meth:`to_json`.

        Raises:
            LabError: the content is not such JSON.
        """
        if not isinstance(content, Mapping) or set(content) - {"source"} != {
            "max_length",
            "lowercase",
            "cuts",
            "target",
        }:
            raise LabError("the task's record is damaged: it has no codec from texts to tokens")
        length, flags = content["max_length"], (content["lowercase"], content["cuts"])
        if type(length) is not int or length < 1 or not all(isinstance(flag, bool) for flag in flags):
            raise LabError("the task's record is damaged: max_length, lowercase or cuts has a wrong type")
        target = vocabulary_from_json(content["target"])
        source = vocabulary_from_json(content["source"]) if "source" in content else target
        return cls(source, target, length, *flags)


def codec_of(kept: Mapping[str, Any]) -> PairCodec:
    """Codec in the record that a task of sources and targets keeps with its models (``TaskSettings.kept``).

    Raises:
        LabError: the record is of another task, or damaged.
    """
    return PairCodec.from_json(kept.get("codec"))


def padded(rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor]:
    """Rows of tokens with EOS behind each and then padding, ``(N, S)`` int64; and lengths with EOS, ``(N,)`` int64.

    >>> padded([[5, 6], []])
    (tensor([[5, 6, 2],
            [2, 0, 0]]), tensor([3, 1]))
    """
    lengths = torch.tensor([len(row) + 1 for row in rows], dtype=torch.int64)
    width = int(lengths.max()) if len(rows) else 1
    flat = [[*row, EOS, *[PAD] * (width - len(row) - 1)] for row in rows]
    return torch.tensor(flat, dtype=torch.int64).reshape(len(rows), width), lengths
