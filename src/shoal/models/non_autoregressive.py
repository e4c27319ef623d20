"""Non-autoregressive transformer: an encoder-decoder whose decoder reads no token of the target.

It is the decoder of :mod:`~shoal.models.encoder_decoder`, layer for layer and with its causal mask, with BOS at every
place. What is left are the places, cross-attention to the source, and what the places before have looked up there, so
that all tokens are predicted at once. What it lacks beside an encoder-decoder of as many layers is the tokens before,
and with them teacher forcing and a table of their embeddings.

A control, after Gu et al. 2018, "Non-autoregressive neural machine translation", and not their model: their decoder
reads copies of the source's embeddings, sees all places, and has positional attention and fertilities, and they train
it by distillation.

Shapes: ``B`` batch, ``S`` source, ``D`` width, ``H`` heads, ``V`` vocabulary of the target, ``L`` layers.
"""

from typing import Any

import torch
from torch import Tensor, nn

from shoal.models.embedding import GPTEmbedding, tie
from shoal.models.encoder import Encoder
from shoal.models.encoder_decoder import CrossDecoder
from shoal.models.gpt import Variant


class NonAutoregressive(nn.Module):
    """Non-autoregressive encoder-decoder: logits of all tokens of a target, given its source alone.

    ``tie_embeddings`` is ``none``, or ``all`` to tie the classifier's weight to the source's embedding, which needs one
    vocabulary. ``variant`` holds the attributes of :class:`~shoal.models.gpt.Variant` by name; its positions have a
    table, as places are all that tells one token's prediction from another's. ``table_width`` is the width of the
    source's table of tokens where it differs.

    Attributes:
        context_length: largest number of positions of a source and of a target.
    """

    def __init__(
        self,
        num_heads: int,
        num_encoder_layers: int,
        num_decoder_layers: int,
        embedding_size: int,
        vocabulary_size: int,
        source_vocabulary_size: int,
        length: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "relu",
        padding_index: int | None = None,
        bias_attention: bool = True,
        bias_classifier: bool = True,
        tie_embeddings: str = "none",
        scale_embeddings: bool = False,
        table_width: int | None = None,
        **variant: Any,
    ) -> None:
        super().__init__()
        chosen = Variant(**variant)
        self.context_length = length
        form = (chosen.positions, dropout if chosen.drops_everywhere else None, scale_embeddings)
        self.source_embedding = GPTEmbedding(
            source_vocabulary_size, embedding_size, length, padding_index, *form, table_width
        )
        self.target_embedding = GPTEmbedding(1, embedding_size, length, None, *form)  # BOS, and the places
        if self.target_embedding.n_positions is None:
            raise ValueError(f"positions={chosen.positions!r} have no table, without which all places are the same")
        inner = (multiplier, dropout, non_linearity, bias_attention, chosen)
        self.encoder = Encoder(embedding_size, num_heads, num_encoder_layers, *inner)
        self.decoder = CrossDecoder(embedding_size, num_heads, num_decoder_layers, *inner)
        self.classifier = nn.Linear(embedding_size, vocabulary_size, bias=bias_classifier)
        tie(self.source_embedding.tokens, None, self.classifier, tie_embeddings)

    def forward(
        self, source: Tensor, seen: Tensor, *, details: bool = False
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Predict the target's token at every place, as many as the source has.

        Args:
            source: token indices, ``(B, S)``, int64, padded to the length of the target where that is longer.
            seen: true for those that count, ``(B, S)``, bool.
            details: true to return attention weights.

        Returns:
            Logits ``(B, S, V)``, and the attention weights of the ``encoder``, of the ``decoder`` to places up to each,
            and from it to the source, ``cross``, each ``(B, L, H, S, S)``; or None.
        """
        memory, encoder = self.encoder(self.source_embedding(source), seen, details=details)  # (B, S, D)
        places = self.target_embedding(torch.zeros_like(source))  # (B, S, D)
        outputs, attentions = self.decoder(places, memory, seen, details=details)  # (B, S, D)
        weights = dict(zip(("encoder", "decoder", "cross"), (encoder, *attentions), strict=True)) if details else None
        return self.classifier(outputs), weights
