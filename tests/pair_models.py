"""Small families that read a source and its target, named by their places: ``pair_models:TinyPair``."""

from typing import ClassVar

import torch
from torch import nn

from shoal.models.settings import ModelSettings
from shoal.spec import setting


class TinyPair(ModelSettings):
    """The mean of the source, and what the target has been so far."""

    name: ClassVar[str] = "tiny_pair"
    reads: ClassVar[str] = "pair"
    embedding_size: int = setting(8, "width", "an integer of at least 1", ge=1)

    def build(self, sizes):
        return PairModel(sizes, self.embedding_size)


class TinySource(ModelSettings):
    """The mean of the source, and its token in each place."""

    name: ClassVar[str] = "tiny_source"
    reads: ClassVar[str] = "source"
    embedding_size: int = setting(8, "width", "an integer of at least 1", ge=1)

    def build(self, sizes):
        return SourceModel(sizes, self.embedding_size)


def mean(embedded, seen):
    """Over what counts: ``(B, S, D), (B, S) -> (B, 1, D)``."""
    weight = seen.to(embedded.dtype).unsqueeze(-1)
    return (embedded * weight).sum(-2, keepdim=True) / weight.sum(-2, keepdim=True)


class PairModel(nn.Module):
    def __init__(self, sizes, width):
        super().__init__()
        self.source = nn.Embedding(sizes.source_vocabulary_size, width)
        self.target = nn.Embedding(sizes.vocabulary_size, width)
        self.places = nn.Embedding(sizes.sequence_length, width)
        self.classifier = nn.Linear(width, sizes.vocabulary_size, bias=False)
        for table in (self.source, self.target, self.places):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, source, target, seen):
        read = self.target(target) + self.places(torch.arange(target.shape[-1]))  # (B, T, D)
        return self.classifier(torch.tanh(read.cumsum(-2) + mean(self.source(source), seen))), None


class SourceModel(nn.Module):
    def __init__(self, sizes, width):
        super().__init__()
        self.source = nn.Embedding(sizes.source_vocabulary_size, width)
        self.places = nn.Embedding(sizes.source_length, width)
        self.classifier = nn.Linear(width, sizes.vocabulary_size, bias=False)
        for table in (self.source, self.places):
            nn.init.normal_(table.weight, std=0.1)

    def forward(self, source, seen):
        read = self.source(source) + self.places(torch.arange(source.shape[-1]))
        return self.classifier(torch.tanh(read + mean(self.source(source), seen))), None
