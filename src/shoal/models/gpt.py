"""GPT from scratch: causal multi-headed attention, post-norm blocks, sinusoidal positions.

Source: Radford et al. 2018 and Vaswani et al. 2017, written with the equations, class names and parameter names of the
practical on modular arithmetic (problem 2). The positions use the practical's exponent k/d (the original has 2k/d).

Shapes: ``B`` batch, ``S`` sequence, ``D`` width (``embedding_size``, ``d_model``), ``H`` heads, ``V`` vocabulary,
``L`` layers.
"""

import math

import torch
from torch import Tensor, nn

from shoal.models.dropout import Dropout

NON_LINEARITIES = {"gelu": nn.GELU, "relu": nn.ReLU}


class LayerNorm(nn.Module):
    """Normalise the last dimension to mean 0 and (biased) variance 1, then scale and shift."""

    def __init__(self, hidden_size: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.hidden_size = hidden_size
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(hidden_size))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def forward(self, inputs: Tensor) -> Tensor:
        """``(*dims, hidden_size) -> (*dims, hidden_size)``."""
        centred = inputs - inputs.mean(dim=-1, keepdim=True)  # (*dims, hidden_size)
        variance = centred.square().mean(dim=-1, keepdim=True)  # (*dims, 1)
        return centred * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class MultiHeadedAttention(nn.Module):
    """Causal scaled dot-product attention with ``H`` heads of size ``D / H``."""

    def __init__(self, d_model: int, num_heads: int, bias: bool = True) -> None:
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"d_model must be divisible by num_heads, got {d_model} and {num_heads}")
        self.head_size = d_model // num_heads
        self.num_heads = num_heads
        self.W_Q = nn.Linear(d_model, d_model, bias=bias)
        self.W_K = nn.Linear(d_model, d_model, bias=bias)
        self.W_V = nn.Linear(d_model, d_model, bias=bias)
        self.W_O = nn.Linear(d_model, d_model, bias=bias)

    def get_attention_weights(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Causal softmax of ``q k^T / sqrt(head_size)``.

        Args:
            queries: ``(B, H, S, head_size)``.
            keys: ``(B, H, S, head_size)``.

        Returns:
            Weights ``(B, H, S, S)``; each row sums to 1 and is 0 above the diagonal.
        """
        S, K = queries.shape[-2], keys.shape[-2]
        visible = torch.ones(S, K, dtype=torch.bool, device=queries.device).tril()  # (S, K), True = may be seen
        scores = queries @ keys.transpose(-2, -1) / math.sqrt(self.head_size)  # (B, H, S, K)
        return scores.masked_fill(~visible, -math.inf).softmax(dim=-1)  # (B, H, S, K)

    def apply_attention(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Average the values by the attention weights and concatenate the heads.

        Args:
            queries: ``(B, H, S, head_size)``.
            keys: ``(B, H, S, head_size)``.
            values: ``(B, H, S, head_size)``.

        Returns:
            Context ``(B, S, D)`` and attention weights ``(B, H, S, S)``.
        """
        attention_weights = self.get_attention_weights(queries, keys)  # (B, H, S, S)
        return self.merge_heads(attention_weights @ values), attention_weights

    def split_heads(self, tensor: Tensor) -> Tensor:
        """``(B, S, H * dim) -> (B, H, S, dim)``: head ``j`` is the ``j``-th contiguous slice of the last dimension."""
        B, S, D = tensor.shape
        return tensor.reshape(B, S, self.num_heads, D // self.num_heads).transpose(1, 2)  # (B, H, S, dim)

    def merge_heads(self, tensor: Tensor) -> Tensor:
        """``(B, H, S, dim) -> (B, S, H * dim)``, the inverse of :meth:`split_heads`."""
        B, H, S, dim = tensor.shape
        return tensor.transpose(1, 2).reshape(B, S, H * dim)  # (B, S, H * dim)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Project, attend, project back.

        Args:
            queries: ``(B, S, D)``.
            keys: ``(B, S, D)``; the queries again for self-attention.
            values: ``(B, S, D)``; likewise.

        Returns:
            Outputs ``(B, S, D)`` and attention weights ``(B, H, S, S)``.
        """
        q = self.split_heads(self.W_Q(queries))  # (B, H, S, head_size)
        k = self.split_heads(self.W_K(keys))  # (B, H, S, head_size)
        v = self.split_heads(self.W_V(values))  # (B, H, S, head_size)
        context, attention_weights = self.apply_attention(q, k, v)
        return self.W_O(context), attention_weights


class Block(nn.Module):
    """Attention and a bias-free two-layer MLP, each followed by its residual and LayerNorm (post-norm)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        d_ff = int(multiplier * d_model)
        self.self_attn = MultiHeadedAttention(d_model, num_heads, bias)
        self.self_attn_norm = LayerNorm(d_model)
        self.ffn = nn.Sequential(
            nn.Linear(d_model, d_ff, bias=False),
            NON_LINEARITIES[non_linearity](),
            nn.Linear(d_ff, d_model, bias=False),
        )
        self.ffn_drop = Dropout(dropout)
        self.ffn_norm = LayerNorm(d_model)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """``(B, S, D) -> (B, S, D)`` and attention weights ``(B, H, S, S)``."""
        attended, attention_weights = self.self_attn(x, x, x)
        x = self.self_attn_norm(x + attended)
        x = self.ffn_norm(x + self.ffn_drop(self.ffn(x)))
        return x, attention_weights


class Decoder(nn.Module):
    """``L`` blocks in sequence."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        num_blocks: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "gelu",
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            [Block(d_model, num_heads, multiplier, dropout, non_linearity, bias) for _ in range(num_blocks)]
        )

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run the blocks.

        Args:
            x: embeddings, ``(B, S, D)``.

        Returns:
            Outputs ``(B, S, D)``, then the hidden states ``(B, L + 1, S, D)``, the input first, and the attention
            weights ``(B, L, H, S, S)``.
        """
        hidden_states, attentions = [x], []
        for block in self.blocks:
            x, attention_weights = block(x)
            hidden_states.append(x)
            attentions.append(attention_weights)
        return x, (torch.stack(hidden_states, dim=1), torch.stack(attentions, dim=1))


class GPTEmbedding(nn.Module):
    """Token embedding plus fixed sinusoidal positions."""

    position_encoding: Tensor

    def __init__(
        self, vocabulary_size: int, embedding_size: int, n_max_positions: int, padding_index: int | None = None
    ) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary_size, embedding_size, padding_idx=padding_index)
        self.register_buffer("position_encoding", self.create_sinusoidal_embeddings(n_max_positions, embedding_size))

    @staticmethod
    def create_sinusoidal_embeddings(n_positions: int, dimension: int) -> Tensor:
        """``PE[pos, 2k] = sin(pos / 10000^(k/d))`` and ``PE[pos, 2k+1] = cos(pos / 10000^(k/d))``.

        Returns:
            ``(n_positions, dimension)``, float32.
        """
        i = torch.arange(dimension)  # (D,)
        pos = torch.arange(n_positions).unsqueeze(1)  # (n_positions, 1)
        angles = pos / 10000 ** (i.div(2, rounding_mode="floor") / dimension)  # (n_positions, D)
        return torch.where(i % 2 == 0, angles.sin(), angles.cos())

    def forward(self, tokens: Tensor) -> Tensor:
        """``(B, S) -> (B, S, D)``."""
        embedded: Tensor = self.tokens(tokens)
        return embedded + self.position_encoding[: tokens.shape[1]]


class GPT(nn.Module):
    """Decoder-only transformer language model.

    ``share_embeddings`` ties the classifier's weight to the token embedding's.
    """

    def __init__(
        self,
        num_heads: int,
        num_layers: int,
        embedding_size: int,
        vocabulary_size: int,
        sequence_length: int,
        multiplier: float = 4,
        dropout: float = 0.0,
        non_linearity: str = "gelu",
        padding_index: int | None = None,
        bias_attention: bool = True,
        bias_classifier: bool = True,
        share_embeddings: bool = False,
    ) -> None:
        super().__init__()
        self.embedding = GPTEmbedding(vocabulary_size, embedding_size, sequence_length, padding_index)
        self.decoder = Decoder(
            embedding_size, num_heads, num_layers, multiplier, dropout, non_linearity, bias_attention
        )
        self.classifier = nn.Linear(embedding_size, vocabulary_size, bias=bias_classifier)
        if share_embeddings:
            self.classifier.weight = self.embedding.tokens.weight

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Predict the next token at every position.

        Args:
            x: token indices, ``(B, S)``, int64.

        Returns:
            Logits ``(B, S, V)``, then the hidden states ``(B, L + 1, S, D)`` and the attention weights
            ``(B, L, H, S, S)``.
        """
        outputs, (hidden_states, attentions) = self.decoder(self.embedding(x))
        return self.classifier(outputs), (hidden_states, attentions)
