"""Fast decoder of R GPTs of one shape: written on stacked weights, with a cache that is written in place.

A step is one call of a library compiled for this machine (:mod:`shoal.decoding.compiled_gpt`), or PyTorch's operations
where there is none and for float64.

Equal to :class:`~shoal.models.GPT`, lifted by :class:`~shoal.decoding.stacked.Stacked`, at every position of every row,
but for rounding; see there for the equations.

Shapes: ``R`` members, ``N`` rows, ``n`` tokens of a step, ``T`` places of a cache, ``D`` width, ``H`` heads, ``L``
layers, ``V`` vocabulary.
"""

import math
from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.decoding.compiled_gpt import CompiledStep, Layout, StackedBlock
from shoal.decoding.fused import Linear, Norm, Table, flat_rows, last_of_each
from shoal.decoding.places import Cache, Heads, Places, copy_rows, kept_in_place
from shoal.models.attention import MultiHeadedAttention
from shoal.models.cache import DecodingState
from shoal.models.dropout import Dropout
from shoal.models.embedding import GPTEmbedding
from shoal.models.feed_forward import ACTIVATIONS, SwiGLU
from shoal.models.gpt import GPT, Block, Decoder
from shoal.models.norms import LayerNorm, RMSNorm
from shoal.models.positions import rotary_angles

_KNOWN = {GPT, GPTEmbedding, Decoder, Block, MultiHeadedAttention, LayerNorm, RMSNorm, SwiGLU, Dropout}
_KNOWN |= {nn.Linear, nn.Embedding, nn.Identity, nn.ModuleList, nn.Sequential, *ACTIVATIONS.values()}


class FastGPT:
    """Decoder of GPTs, lifted over the first axis of their parameters by hand.

    By PyTorch's operations, a state has ``lengths`` ``(R, N)``, ``keys`` ``(L, R, N, H, head_size, T + 1)`` and
    ``values`` ``(L, R, N, H, T + 1, head_size)``. Tokens without a place, padding or past the end, are written to the
    last place, which is never seen. For the states of one call see
    :class:`~shoal.decoding.compiled_gpt.CompiledStep`. :meth:`step` writes into the state that it is given, which is
    then the state after the tokens: to continue from one state twice, copy it first by :meth:`select` of all its rows.

    Args:
        model: model of one member, in evaluation mode; its parameters are not used, its buffers are shared by all.
        parameters: parameters by name, ``(R, *shape)`` each, as ``named_parameters`` lists them. They are copied.
    """

    @staticmethod
    def knows(model: nn.Module) -> TypeGuard[GPT]:
        """Return True if a model is a GPT of the modules that are computed here, and of no others."""
        if type(model) is not GPT or not all(type(module) in _KNOWN for module in model.modules()):
            return False
        layouts = {repr(block) for block in model.decoder.blocks}  # modules, sizes and what they are set to
        return len(layouts) == 1 and _is_feed_forward(model.decoder.blocks[0])

    @torch.no_grad()
    def __init__(self, model: GPT, parameters: Mapping[str, Tensor]) -> None:
        first = next(iter(parameters.values()))
        self.size, self.device, self.dtype = first.shape[0], first.device, first.dtype
        blocks: Any = list(model.decoder.blocks)
        attention = blocks[0].self_attn
        self.num_heads, self.head_size = attention.num_heads, attention.head_size
        self.norm_position, self.rotary = blocks[0].norm_position, attention.rotary
        self.n_positions = model.embedding.n_positions
        self.activation = _activation(blocks[0].ffn)
        self.tokens = Table(parameters["embedding.tokens.weight"].contiguous())
        self.positions = self._table(model, parameters)  # (R or 1, positions, D), or None
        self.position_rows = None if self.positions is None else Table(self.positions)
        self.blocks = [self._block(block, f"decoder.blocks.{layer}", parameters) for layer, block in enumerate(blocks)]
        self.norm = Norm(model.decoder.norm, "decoder.norm", parameters)
        tied = {} if "classifier.weight" in parameters else {"classifier.weight": parameters["embedding.tokens.weight"]}
        self.heads: Heads | None = None
        self.classifier = Linear.of({**parameters, **tied}, "classifier")
        self.compiled = CompiledStep.of(self._layout(blocks[0].ffn))

    def _layout(self, ffn: Any) -> Layout:
        tokens = self.tokens.rows.view(self.size, -1, self.num_heads * self.head_size)  # (R, V, D)
        activation = "swiglu" if hasattr(ffn, "W_gate") else "gelu" if isinstance(ffn[1], nn.GELU) else "relu"
        return Layout(
            *(tokens, self.positions, self.blocks, self.norm, self.classifier, self.num_heads, self.norm_position),
            *(activation, self.rotary),
        )

    def _table(self, model: GPT, parameters: Mapping[str, Tensor]) -> Tensor | None:
        if self.n_positions is None:
            return None
        if model.embedding.kind == "learned":
            return parameters["embedding.positions.weight"].contiguous()
        return model.embedding.position_encoding.to(self.device, self.dtype).unsqueeze(0)

    def _block(self, block: Any, name: str, parameters: Mapping[str, Tensor]) -> StackedBlock:
        attention, ffn = f"{name}.self_attn", f"{name}.ffn"
        gated = hasattr(block.ffn, "W_gate")
        return StackedBlock(
            qkv=self._qkv(attention, parameters),
            out=Linear.of(parameters, f"{attention}.W_O"),
            attention_norm=Norm(block.self_attn_norm, f"{name}.self_attn_norm", parameters),
            up=Linear.of(parameters, *((f"{ffn}.W_gate", f"{ffn}.W_up") if gated else (f"{ffn}.0",))),
            down=Linear.of(parameters, f"{ffn}.W_down" if gated else f"{ffn}.2"),
            ffn_norm=Norm(block.ffn_norm, f"{name}.ffn_norm", parameters),
        )

    def _qkv(self, name: str, parameters: Mapping[str, Tensor]) -> Linear:
        """Linear map to queries, divided by the root of their size, keys and values."""
        qkv = Linear.of(parameters, *(f"{name}.{matrix}" for matrix in ("W_Q", "W_K", "W_V")))
        for tensor in (qkv.weight, qkv.bias):
            if tensor is not None:
                tensor[..., : tensor.shape[-1] // 3] /= math.sqrt(self.head_size)
        return qkv

    def start(self, batch_size: int, length: int) -> DecodingState:
        """State of ``N = batch_size`` rows that can have ``T = length`` tokens.

        Raises:
            ValueError: the table of positions has no ``length`` rows.
        """
        if self.n_positions is not None and length > self.n_positions:
            raise ValueError(f"the table of positions ends at {self.n_positions}: no state of length {length}")
        if self.compiled is not None:
            return self.compiled.start(batch_size, length)
        rows = (len(self.blocks), self.size, batch_size, self.num_heads)
        # Finite everywhere: a place that is not seen has weight 0, and 0 times NaN is NaN.
        return {
            "lengths": torch.zeros(self.size, batch_size, dtype=torch.int64, device=self.device),
            "keys": torch.zeros(*rows, self.head_size, length + 1, dtype=self.dtype, device=self.device),
            "values": torch.zeros(*rows, length + 1, self.head_size, dtype=self.dtype, device=self.device),
        }

    @torch.no_grad()
    def step(
        self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None = None, *, last: bool = False
    ) -> tuple[Tensor, DecodingState]:
        """Next-token logits after each of the next tokens; see :meth:`~shoal.decoding.stacked.Stacked.step`.

        Args:
            tokens: ``(R, N, n)``, int64, padded on the right.
            state: state from :meth:`start`, :meth:`step` or :meth:`select`; it is changed to the one that is returned.
            counts: number of each row's tokens that are no padding, ``(N,)``, int64; all when not given.
            last: true for logits after the last of each row's tokens alone.

        Returns:
            Logits ``(R, N, n or 1, V)``, NaN for a token that has no place, and the state after the tokens.
        """
        if self.compiled is not None:
            return self.compiled.step(tokens, state, counts, last)
        state = state if counts is None else self._settled(state)
        logits = self._logits(tokens, state, counts, last)
        state["lengths"].add_(tokens.shape[2] if counts is None else counts)
        return logits, dict(state)

    def _logits(self, tokens: Tensor, state: Mapping[str, Tensor], counts: Tensor | None, last: bool) -> Tensor:
        """As :meth:`step`, by PyTorch's operations; lengths stay."""
        R, N, n = tokens.shape
        lengths, T = state["lengths"], state["keys"].shape[-1] - 1
        at = state.get("places")
        if at is not None:
            lying = at.argsort(dim=1)  # which row lies in each place, (R, N)
            tokens, lengths = tokens.gather(1, lying.unsqueeze(-1).expand(-1, -1, n)), lengths.gather(1, lying)
        places = Places.after(lengths, n, T, counts, self.dtype)
        if self.heads is None or not self.heads.serve((R, N, n)):
            self.heads = Heads((R, N, n), self.num_heads, self.head_size, state["keys"])
        x = self._embedded(tokens, places).flatten(1, 2)  # (R, N n, D)
        turns = self._turns(places, n) if self.rotary else None
        for block, cache in zip(self.blocks, Cache.of_layers(state, places), strict=True):
            x = self._through(block, x, cache, self.heads, places, turns)
        fits = None if places.positions is None or places.end < T else places.positions.unsqueeze(-1) < T
        if last and n > 1:
            x = last_of_each(x.view(R, N, n, x.shape[-1]), counts).flatten(1, 2)  # (R, N, D)
            fits = None if fits is None else last_of_each(fits, counts)  # (R, N, 1, 1)
        logits = self.classifier(self.norm(x)).view(R, N, 1 if last else n, self.classifier.weight.shape[-1])
        if fits is not None:
            logits.masked_fill_(~fits, math.nan)
        if at is not None:
            logits = logits.gather(1, at[..., None, None].expand(logits.shape))
        return logits

    def _embedded(self, tokens: Tensor, places: Places) -> Tensor:
        x = self.tokens(tokens)  # (R, N, n, D)
        if self.positions is None or self.position_rows is None:
            return x
        if places.first is not None:
            return x.add_(self.positions[:, None, places.first : places.end])
        assert places.positions is not None and self.n_positions is not None
        return x.add_(self.position_rows(places.positions.clamp(max=self.n_positions - 1)))

    def _turns(self, places: Places, n: int) -> Tensor:
        """Rotations ``cos + i sin`` by the angles of the tokens' positions, ``(n or R N, n, 1, 1, head_size / 2)``."""
        positions = places.positions
        if positions is None:
            assert places.first is not None
            positions = torch.arange(places.first, places.end, device=self.device)
        angles = rotary_angles(positions, self.head_size).view(-1, n, 1, 1, self.head_size // 2)
        return torch.complex(angles.cos().to(self.dtype), angles.sin().to(self.dtype))

    def _through(
        self, block: StackedBlock, x: Tensor, cache: Cache, heads: Heads, places: Places, turns: Tensor | None
    ) -> Tensor:
        """Apply a block to ``x`` ``(R, N n, D)``, in place where possible."""
        is_post = self.norm_position == "post"
        y = x if is_post else block.attention_norm(x)
        block.qkv(y, out=heads.qkv)
        context = self._attended(heads, cache, places, turns).view(x.shape)
        x = block.out.added(y if self.norm_position == "pre_stream" else x, context)
        if is_post:
            x = block.attention_norm(x)
        hidden = self.activation(block.up(x if is_post else block.ffn_norm(x)))  # (R, N n, d_ff)
        x = block.down.added(x, hidden)
        return block.ffn_norm(x) if is_post else x

    def _attended(self, heads: Heads, cache: Cache, places: Places, turns: Tensor | None) -> Tensor:
        """Attention's averages of the values, ``(R N, n, H, head_size)``; new keys and values go into the cache."""
        if turns is not None:
            assert heads.pairs is not None
            heads.pairs.mul_(turns)
        cache.write(heads.k, heads.v, places)
        q = heads.q.reshape(cache.keys.shape[0], heads.sizes[2], self.head_size)  # (R N H, n, head_size)
        scores = torch.bmm(q, cache.keys)  # (R N H, n, end); the scale is in W_Q
        if places.seen is not None:
            scores.view(*heads.q.shape[:3], places.end).add_(places.seen)
        context = torch.bmm(scores.softmax(-1), cache.values)  # (R N H, n, head_size)
        return context.view(heads.q.shape).transpose(1, 2).contiguous()

    def select(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """Copy of the state of some rows, ``(N',)`` the same for every member, or ``(R, N')`` for each member."""
        R, N = state["lengths"].shape
        if self.compiled is not None:
            return self.compiled.select(state, rows.expand(R, rows.shape[-1]))
        index = flat_rows(rows, R, N)  # (R N',)
        lying = index if "places" not in state else flat_rows(state["places"], R, N)[index]
        selected = {"lengths": state["lengths"].view(-1)[index].view(R, len(index) // R)}
        for name in ("keys", "values"):
            taken = state[name].flatten(1, 2).index_select(1, lying)
            selected[name] = taken.view(len(taken), R, len(index) // R, *taken.shape[2:])
        return selected

    @torch.no_grad()
    def reorder(self, state: Mapping[str, Tensor], rows: Tensor) -> DecodingState:
        """State of ``(N,)`` or ``(R, N)`` rows in a new order, as :meth:`select`, in place and with little copying.

        In one call (:class:`~shoal.decoding.compiled_gpt.CompiledStep`) rows share the pages of what they have in
        common. With PyTorch's operations a row that is taken stays in its place, and ``places`` ``(R, N)`` of the state
        maps rows to places; a row that is taken more than once is copied, as far as it is in use, to the place of one
        that is not taken.
        """
        R, N = state["lengths"].shape
        rows = rows.expand(R, N)
        if self.compiled is not None:
            return self.compiled.reorder(state, rows)
        lying = state["places"].tolist() if "places" in state else [list(range(N))] * R
        moves = [kept_in_place([at[row] for row in wanted]) for at, wanted in zip(lying, rows.tolist(), strict=True)]
        copies = [(r * N + here, r * N + there) for r, (_, pairs) in enumerate(moves) for here, there in pairs]
        if copies:
            copy_rows(state, copies, int(state["lengths"].max()))
        places = torch.tensor([each for each, _ in moves], dtype=torch.int64, device=rows.device).view(R, N)
        return {**state, "lengths": state["lengths"].gather(1, rows), "places": places}

    def _settled(self, state: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """State with every row in its own place."""
        if "places" not in state:
            return state
        return self.select(state, torch.arange(state["lengths"].shape[1], device=self.device))


def _is_feed_forward(block: Any) -> bool:
    """Return True if a block's feed-forward layer is one of those of this library."""
    layers = [type(layer) for layer in block.ffn.children() if type(layer) is not Dropout]  # none acts: see choice.py
    if isinstance(block.ffn, SwiGLU):
        return True
    is_plain = len(layers) == 3 and layers[::2] == [nn.Linear] * 2 and layers[1] in ACTIVATIONS.values()
    return is_plain and getattr(block.ffn[1], "approximate", "none") == "none"


def _activation(ffn: Any) -> Any:
    """Activation of a feed-forward layer, ``(R, M, outputs) -> (R, M, d_ff)``."""
    if hasattr(ffn, "W_gate"):
        return _gated
    return F.gelu if isinstance(ffn[1], nn.GELU) else torch.relu_


def _gated(x: Tensor) -> Tensor:
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate).mul_(up)
