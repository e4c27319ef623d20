"""Message passing, norms of powers and moments of normalisation, against attention and PyTorch."""

import math

import pytest
import torch
from torch import nn

from shoal.errors import UserError
from shoal.exact import (
    AXES,
    Graph,
    attention_by_messages,
    fully_connected,
    jordan_block,
    message_passing,
    moments,
    normalise,
    power_norms,
    recurrence,
    seen_graph,
    softmax_average,
    spectral_radius,
    total,
)
from shoal.models import MultiHeadedAttention

f64 = torch.float64


def test_the_documents_step():
    """Agg of the document is a given average of f(x) = 2x; W h is a number, added to both entries."""
    h = torch.tensor([[1.0, -1], [-1, 1], [0, -1], [1, 0]])
    graph = Graph(4, [(1, 0), (2, 0), (3, 0)])
    shares = torch.tensor([[0.6], [0.2], [0.2]])
    W = torch.tensor([[1.0, 1.0]])
    aggregates = []

    def update(states, aggregate):
        aggregates.append(aggregate[0])
        return states @ W.T + aggregate.clamp(min=0)

    after = message_passing(graph, h, lambda sender, _: 2 * shares * sender, total, update)
    assert torch.allclose(aggregates[0], torch.tensor([-0.8, 0.8]))
    assert torch.allclose(after[0], torch.tensor([0.0, 0.8]))
    assert torch.equal(after[1:], (h @ W.T)[1:].expand(3, 2))  # who receives nothing has the aggregate 0


def test_messages_go_from_sender_to_receiver():
    h = torch.tensor([[1.0], [10.0], [100.0]])
    graph = Graph(3, [(0, 1), (2, 1), (1, 0)])
    for expected, message in (([10, 101, 0], lambda s, r: s), ([1, 20, 0], lambda s, r: r)):
        after = message_passing(graph, h, message, total, lambda _, aggregate: aggregate)
        assert after.flatten().tolist() == expected


@pytest.mark.parametrize("causal", [True, False])
def test_attention_is_message_passing(causal):
    torch.manual_seed(0)
    attention, h = MultiHeadedAttention(12, 3, causal=causal).double(), torch.randn(5, 12, dtype=f64) * 3
    with torch.no_grad():
        projected = (attention.split_heads(W(h[None])) for W in (attention.W_Q, attention.W_K, attention.W_V))
        context, weights = attention.apply_attention(*projected)
        for head in range(3):
            by_messages = attention_by_messages(attention, h, head)
            assert (by_messages - context[0, :, 4 * head : 4 * head + 4]).abs().max() < 1e-14
    edges = {(j, i) for j in range(5) for i in range(5) if weights[0, 0, i, j] > 0}
    assert edges == set(seen_graph(weights[0, 0] > 0).edges)
    assert len(edges) == (15 if causal else 25)


def test_a_missing_edge_is_a_masked_key():
    torch.manual_seed(1)
    attention, h = MultiHeadedAttention(8, 2, causal=False).double(), torch.randn(4, 8, dtype=f64)
    seen = torch.rand(4, 4) > 0.5
    seen[2] = False  # a query that sees nothing gets 0
    with torch.no_grad():
        projected = (attention.split_heads(W(h[None])) for W in (attention.W_Q, attention.W_K, attention.W_V))
        context, _ = attention.apply_attention(*projected, seen)
        by_messages = attention_by_messages(attention, h, 1, seen_graph(seen))
    assert torch.allclose(by_messages, context[0, :, 4:], atol=1e-14) and not by_messages[2].any()


def test_softmax_does_not_overflow():
    messages = torch.tensor([[1000.0, 1.0], [999.0, 2.0], [-1000.0, 7.0]], dtype=f64)
    average = softmax_average(messages, torch.tensor([0, 0, 2]), 3)
    share = 1 / (1 + math.exp(-1))
    assert average.flatten().tolist() == pytest.approx([share + 2 * (1 - share), 0, 7])


def test_number_of_edges():
    for n in range(1, 6):
        assert len(fully_connected(n).edges) == n * (n - 1) and len(fully_connected(n, loops=True).edges) == n * n
        assert not any(j == i for j, i in fully_connected(n).edges)


def test_norms_of_powers():
    """Values of the 2 × 2 matrices in closed form: the norm of [[a, b], [0, a]] from its trace and determinant."""
    norms = power_norms(torch.tensor([[0.9, 10], [0, 0.9]], dtype=f64), 70)
    for t, norm in enumerate(norms.tolist()):
        a, b = 0.9**t, 10 * t * 0.9 ** (t - 1)
        squares = (2 * a * a + b * b + abs(b) * (4 * a * a + b * b) ** 0.5) / 2
        assert norm == pytest.approx(squares**0.5, rel=1e-12)
    assert norms.argmax() == 9 and norms.max() == pytest.approx(38.75, abs=5e-3)
    assert norms[62] > 1 > norms[63]


def test_recurrence_is_a_power_of_the_transpose():
    torch.manual_seed(2)
    for dtype in (f64, torch.complex128):
        W, h = torch.randn(4, 4, dtype=dtype), torch.randn(4, dtype=dtype)
        states = recurrence(W, h, 6)
        assert torch.equal(states[0], h)
        for t in range(7):
            assert torch.allclose(states[t], torch.linalg.matrix_power(W.T, t) @ h)
        norm = torch.linalg.matrix_norm(torch.linalg.matrix_power(W, 6), ord=2)
        assert torch.allclose(power_norms(W, 6)[6], norm)


def test_spectral_radius():
    assert spectral_radius(torch.tensor([[0.0, 2.0], [-2.0, 0.0]])) == pytest.approx(2)  # eigenvalues ±2i
    assert spectral_radius(torch.diag(torch.tensor([0.5, -3.0]))) == pytest.approx(3)
    assert jordan_block(0.5, 3).tolist() == [[0.5, 1, 0], [0, 0.5, 1], [0, 0, 0.5]]
    assert jordan_block(1j, 1).is_complex() and power_norms(jordan_block(1, 2), 0).tolist() == [1]


def test_moments_are_those_of_pytorchs_layers():
    torch.manual_seed(3)
    x = torch.randn(5, 3, 4, dtype=f64)
    batch = nn.BatchNorm1d(3, momentum=1.0, dtype=f64)
    assert torch.allclose(normalise(x, "batch"), batch(x))
    assert torch.allclose(batch.running_mean, moments(x, "batch").mean)
    assert torch.allclose(batch.running_var, moments(x, "batch", unbiased=True).variance)  # what it keeps is unbiased
    assert torch.allclose(normalise(x, "layer"), nn.LayerNorm([3, 4], dtype=f64)(x))
    assert torch.allclose(normalise(x, "instance"), nn.InstanceNorm1d(3)(x))
    assert torch.allclose(normalise(x, "layer", eps=0.5), nn.LayerNorm([3, 4], eps=0.5, dtype=f64)(x))
    assert torch.allclose(normalise(x, "layer", 0, unbiased=True).var(dim=(1, 2)), torch.ones(len(x), dtype=f64))


def test_moments_of_any_axes():
    x = torch.arange(24).reshape(4, 2, 3)
    for name, axes in AXES.items():
        assert torch.equal(moments(x, name).mean, moments(x, axes).mean)
    assert moments(x, (0,)).mean.shape == (2, 3) and moments(x, [0, 1, 2]).mean == 11.5


@pytest.mark.parametrize(
    "call",
    [
        lambda: Graph(2, [(0, 2)]),
        lambda: Graph(2, [(0, 1), (0, 1)]),
        lambda: message_passing(Graph(2, []), torch.zeros(3, 1), None, total, None),
        lambda: attention_by_messages(MultiHeadedAttention(8, 2), torch.zeros(3, 8), 2),
        lambda: attention_by_messages(MultiHeadedAttention(8, 2, rotary=True), torch.zeros(3, 8), 0),
        lambda: power_norms(torch.zeros(2, 3), 2),
        lambda: power_norms(torch.eye(2), -1),
        lambda: spectral_radius(torch.tensor([[float("nan")]])),
        lambda: recurrence(torch.eye(2), torch.zeros(3), 1),
        lambda: jordan_block(1, 0),
        lambda: moments(torch.zeros(2, 2, 2), "bach"),
        lambda: moments(torch.zeros(2, 2), "batch"),
        lambda: moments(torch.zeros(2, 2, 2), (3,)),
        lambda: moments(torch.zeros(2, 2, 2), ()),
    ],
)
def test_mistakes_are_one_line(call):
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value)
