"""Tokenizer of whole words separated by spaces."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from shoal.errors import UserError, nearest


class Tokenizer:
    """Vocabulary that maps tokens to indices and back.

    >>> tokenizer = Tokenizer(["0", "1", "+", "="])
    >>> tokenizer.encode("1 + 0 =").tolist()
    [1, 2, 0, 3]
    >>> tokenizer.decode([1, 2, 0])
    '1 + 0'
    """

    def __init__(self, tokens: Sequence[str]) -> None:
        self.itos = list(tokens)
        self.stoi = {token: index for index, token in enumerate(self.itos)}

    def __len__(self) -> int:
        return len(self.itos)

    def encode(self, text: str) -> Tensor:
        """Indices of the space-separated tokens of ``text``, ``(S,)``, int64."""
        unknown = [token for token in text.split() if token not in self.stoi]
        if unknown:
            raise UserError(
                f"{unknown[0]!r} is not in the vocabulary of {len(self)} tokens{nearest(unknown[0], self.stoi)}"
            )
        return torch.tensor([self.stoi[token] for token in text.split()], dtype=torch.int64)

    def decode(self, indices: Tensor | Iterable[int]) -> str:
        """The tokens of ``indices``, ``(S,)``, joined by spaces."""
        return " ".join(self.itos[int(index)] for index in indices)
