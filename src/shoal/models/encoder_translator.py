"""Translation by an encoder alone, which predicts the token of the target at each position of the source.

Source: the translator of a homework on machine learning (Caltech's or UC San Diego's, 2025, homework 4, problem 2): "a
one-layer Transformer encoder which can encode a sequence of inputs and produce a final output of possibility of tokens
in target language", with learned embeddings of tokens and positions.

It predicts all tokens at once and independently of each other: it can put no token of the target where the source has
ended, and the prediction at one position does not depend on those at others.

Shapes: ``B`` batch, ``S`` source, ``D`` width, ``H`` heads, ``V`` vocabulary of the target, ``L`` layers.
"""

from typing import Any

from torch import Tensor, nn

from shoal.models.embedding import GPTEmbedding, tie
from shoal.models.encoder import Encoder
from shoal.models.gpt import Variant


class EncoderTranslator(nn.Module):
    """Encoder-only translator: embeddings, an encoder and a linear classifier at each position.

    ``tie_embeddings`` is ``none``, or ``all`` to tie the classifier's weight to the source's embedding, which needs one
    vocabulary. ``variant`` holds the attributes of :class:`~shoal.models.gpt.Variant` by name; the homework's is
    ``positions="learned"``, ``bias_ffn=True``. ``table_width`` is the width of the table of tokens where it differs.

    Attributes:
        context_length: largest number of positions of a source, where there is a table of them.
    """

    def __init__(
        self,
        num_heads: int,
        num_layers: int,
        embedding_size: int,
        source_vocabulary_size: int,
        vocabulary_size: int,
        source_length: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "relu",
        bias_attention: bool = True,
        bias_classifier: bool = True,
        tie_embeddings: str = "none",
        scale_embeddings: bool = False,
        table_width: int | None = None,
        **variant: Any,
    ) -> None:
        super().__init__()
        chosen = Variant(**variant)
        self.context_length = source_length
        self.source_embedding = GPTEmbedding(
            source_vocabulary_size,
            embedding_size,
            source_length,
            None,  # padding is read where a target is longer than its source: its row trains as every other
            chosen.positions,
            dropout if chosen.drops_everywhere else None,
            scale_embeddings,
            table_width,
        )
        self.encoder = Encoder(
            embedding_size, num_heads, num_layers, multiplier, dropout, non_linearity, bias_attention, chosen
        )
        self.classifier = nn.Linear(embedding_size, vocabulary_size, bias=bias_classifier)
        tie(self.source_embedding.tokens, None, self.classifier, tie_embeddings)

    def forward(
        self, source: Tensor, seen: Tensor, *, details: bool = False
    ) -> tuple[Tensor, dict[str, Tensor] | None]:
        """Predict the target's token at every position of the source.

        Args:
            source: token indices, ``(B, S)``, int64.
            seen: true for those that count, ``(B, S)``, bool. Predictions at the others are made from these, too.
            details: true to return attention weights.

        Returns:
            Logits ``(B, S, V)``, and the attention weights ``encoder`` ``(B, L, H, S, S)`` or None.
        """
        outputs, attentions = self.encoder(self.source_embedding(source), seen, details=details)
        return self.classifier(outputs), {"encoder": attentions} if details else None
