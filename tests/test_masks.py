"""Attention with masks, with fewer queries than keys and without causality, against a triple loop."""

import math
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.models import GPT, MultiHeadedAttention

some = settings(max_examples=40, deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 5)


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def sees(i: int, j: int, Q: int, K: int, causal: bool) -> bool:
    """Query i stands at key K - Q + i."""
    return not causal or j <= K - Q + i


def by_loops(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, causal: bool) -> tuple[Tensor, Tensor]:
    """Weights ``(B, H, Q, K)`` and averages ``(B, H, Q, size)``, number by number."""
    B, H, Q, size = q.shape
    K = k.shape[2]
    weights, out = torch.zeros(B, H, Q, K, dtype=q.dtype), torch.zeros_like(q)
    for b in range(B):
        for h in range(H):
            for i in range(Q):
                allowed = [
                    j
                    for j in range(K)
                    if sees(i, j, Q, K, causal) and (mask is None or mask[b, h if mask.shape[1] > 1 else 0, i, j])
                ]
                e = {j: math.exp(float(q[b, h, i] @ k[b, h, j]) / math.sqrt(size)) for j in allowed}
                for j in allowed:
                    weights[b, h, i, j] = e[j] / sum(e.values())
                    out[b, h, i] += weights[b, h, i, j] * v[b, h, j]
    return weights, out


@some
@given(seeds, sizes, sizes, sizes, st.integers(1, 3), st.booleans(), st.sampled_from([None, "one", "each"]))
def test_attention_equals_a_triple_loop(seed, B, Q, K, H, causal, masked):
    torch.manual_seed(seed)
    attention = MultiHeadedAttention(3 * H, H, causal=causal)
    q = torch.randn(B, H, Q, 3, dtype=torch.float64)
    k, v = torch.randn(2, B, H, K, 3, dtype=torch.float64)
    mask = None if masked is None else torch.rand(B, H if masked == "each" else 1, Q, K) < 0.6
    context, weights = attention.apply_attention(q, k, v, mask)
    expected_weights, expected = by_loops(q, k, v, mask, causal)
    close(weights, expected_weights)
    close(attention.split_heads(context), expected)
    assert weights[expected_weights == 0].eq(0).all()


@pytest.mark.parametrize(("Q", "K"), [(1, 5), (2, 5), (5, 5), (3, 2)])
def test_the_last_query_stands_at_the_last_key(Q, K):
    seen = MultiHeadedAttention(4, 2).visible(Q, K, torch.device("cpu"))
    assert seen.tolist() == [[j <= K - Q + i for j in range(K)] for i in range(Q)]


@some
@given(seeds, sizes, sizes, st.booleans())
def test_a_query_that_may_see_nothing_gets_zeros_forward_and_backward(seed, Q, K, causal):
    torch.manual_seed(seed)
    attention = randomised(MultiHeadedAttention(4, 2, causal=causal))
    queries, keys = torch.randn(2, Q, 4, requires_grad=True), torch.randn(2, K, 4, requires_grad=True)
    mask = torch.ones(2, 1, Q, K, dtype=torch.bool)
    mask[0, :, 0] = False
    outputs, weights = attention(queries, keys, keys, mask)
    close(outputs[0, 0], attention.W_O.bias)
    assert not weights[0, :, 0].any()
    outputs.square().sum().backward()
    for tensor in (queries, keys, *attention.parameters()):
        assert tensor.grad.isfinite().all()
    assert not queries.grad[0, 0].any()


@some
@given(seeds, sizes, sizes, sizes)
def test_cross_attention_with_padding_equals_torchs(seed, B, Q, K):
    torch.manual_seed(seed)
    attention = randomised(MultiHeadedAttention(6, 2, causal=False)).double()
    twin = nn.MultiheadAttention(6, 2, batch_first=True).double()
    inner = (attention.W_Q, attention.W_K, attention.W_V)
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([linear.weight for linear in inner]))
        twin.in_proj_bias.copy_(torch.cat([linear.bias for linear in inner]))
        twin.out_proj.load_state_dict(attention.W_O.state_dict())
    queries, memory = torch.randn(B, Q, 6, dtype=torch.float64), torch.randn(B, K, 6, dtype=torch.float64)
    real = torch.arange(K) < torch.randint(1, K + 1, (B, 1))  # (B, K)
    found = attention(queries, memory, memory, real[:, None, None])
    expected = twin(queries, memory, memory, key_padding_mask=~real, average_attn_weights=False)
    for own, other in zip(found, expected, strict=True):
        close(own, other)


@some
@given(seeds, sizes, st.integers(0, 4))
def test_queries_of_the_last_positions_are_turned_as_in_the_whole(seed, Q, before):
    torch.manual_seed(seed)
    attention = randomised(MultiHeadedAttention(8, 2, rotary=True))
    x = torch.randn(2, before + Q, 8)
    whole = attention(x, x, x)[0]
    close(attention(x[:, before:], x, x)[0], whole[:, before:])


def test_a_mask_of_what_may_be_seen_anyway_changes_no_bit():
    torch.manual_seed(0)
    attention, x = randomised(MultiHeadedAttention(8, 2)), torch.randn(3, 5, 8)
    for found, expected in zip(attention(x, x, x, torch.ones(1, 1, 5, 5).bool()), attention(x, x, x), strict=True):
        assert torch.equal(found, expected)


@pytest.mark.parametrize("norm_position", ["post", "pre", "pre_stream"])
def test_without_details_logits_and_gradients_are_the_same_to_the_bit(norm_position):
    torch.manual_seed(0)
    model, tokens = randomised(GPT(2, 2, 8, 9, 7, norm_position=norm_position)), torch.randint(9, (3, 6))
    found = []
    for details in (True, False):
        model.zero_grad()
        logits, kept = model(tokens, details=details)
        assert (kept is None) != details
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        found.append([logits.detach(), *(parameter.grad for parameter in model.parameters())])
    assert all(torch.equal(*pair) for pair in zip(*found, strict=True))
    x = model.embedding(tokens)
    assert model.decoder(x, details=False)[1] is None
    assert torch.equal(model.decoder(x, details=False)[0], model.decoder(x)[0])


@torch.no_grad()
def test_without_details_no_attention_weights_are_kept_from_layer_to_layer():
    model, living = GPT(2, 3, 8, 9, 7), []
    weights = []
    for block in model.decoder.blocks:
        block.register_forward_pre_hook(lambda *_: living.append(sum(weight() is not None for weight in weights)))
        block.register_forward_hook(lambda _, __, outputs: weights.append(weakref.ref(outputs[1])))
    model(torch.zeros(2, 5, dtype=torch.int64), details=False)
    assert living == [0, 1, 1]  # the last layer's own name of it
    weights.clear(), living.clear()
    model(torch.zeros(2, 5, dtype=torch.int64))
    assert living == [0, 1, 2]
