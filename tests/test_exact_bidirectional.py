"""Bidirectional RNN: gradients against autograd and central differences, ragged batches against their sequences."""

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from shoal.errors import UserError
from shoal.exact import BidirectionalRNN, bidirectional, state_jacobian

MATRICES = ("W_f", "U_f", "V_f", "W_b", "U_b", "V_b")
NAMES = (*MATRICES, "x", "start_f", "start_b")


def problem(seed, B=3, S=7, X=3, D_f=4, D_b=5, Y=2):
    """RNN, inputs, targets, lengths and initial states; no two widths are equal, so that no transpose hides."""
    generator = np.random.default_rng(seed)
    shapes = ((D_f, X), (D_f, D_f), (Y, D_f), (D_b, X), (D_b, D_b), (Y, D_b))
    rnn = BidirectionalRNN(*(generator.standard_normal(shape) * 0.7 for shape in shapes))
    sizes = ((B, S, X), (B, S, Y), (B, D_f), (B, D_b))
    x, z, start_f, start_b = (generator.standard_normal(size) for size in sizes)
    lengths = generator.integers(1, S + 1, B)
    lengths[0] = S
    return rnn, x, z, lengths, np.tanh(start_f), np.tanh(start_b)


def loss_by_torch(W_f, U_f, V_f, W_b, U_b, V_b, x, start_f, start_b, z, lengths):
    """The document's equations, written out sequence by sequence and step by step."""
    loss = 0.0
    for row, T in enumerate(lengths):
        forward, backward = [start_f[row]], [start_b[row]]
        for t in range(T):
            forward.append(torch.tanh(W_f @ x[row, t] + U_f @ forward[-1]))
            backward.append(torch.tanh(W_b @ x[row, T - 1 - t] + U_b @ backward[-1]))
        for t in range(T):
            y = V_f @ forward[1 + t] + V_b @ backward[T - t]
            loss = loss + (z[row, t] - y).square().sum()
    return loss


def by_torch(rnn, x, z, lengths, start_f, start_b):
    leaves = [torch.tensor(getattr(rnn, name), requires_grad=True) for name in MATRICES]
    leaves += [torch.tensor(value, requires_grad=True) for value in (x, start_f, start_b)]
    loss = loss_by_torch(*leaves, torch.tensor(z), lengths.tolist())
    gradients = torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)
    return loss.item(), dict(zip(NAMES, gradients, strict=True))


@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 10**6), B=st.integers(1, 4), S=st.integers(1, 7), X=st.integers(1, 4), D=st.integers(1, 5))
def test_gradients_are_those_of_autograd(seed, B, S, X, D):
    rnn, x, z, lengths, start_f, start_b = problem(seed, B, S, X, D_f=D, D_b=1 + D % 3)
    loss, expected = by_torch(rnn, x, z, lengths, start_f, start_b)
    assert abs(rnn.loss(x, z, lengths, start_f, start_b) - loss) <= 1e-10 * max(1, loss)
    gradients = rnn.gradients(x, z, lengths, start_f, start_b)
    for name in NAMES:
        difference = np.abs(getattr(gradients, name) - expected[name].numpy()).max()
        assert difference <= 1e-10 * max(1.0, float(expected[name].abs().max())), name


def test_gradients_are_central_differences():
    rnn, x, z, lengths, start_f, start_b = problem(1, B=2, S=4)
    values = {name: getattr(rnn, name).copy() for name in MATRICES}
    values |= {"x": x, "start_f": start_f, "start_b": start_b}
    gradients = rnn.gradients(x, z, lengths, start_f, start_b)

    def loss():
        moved = BidirectionalRNN(*(values[name] for name in MATRICES))
        return moved.loss(values["x"], z, lengths, values["start_f"], values["start_b"])

    for name, value in values.items():
        for place in np.ndindex(value.shape):
            before, h = value[place], 1e-5
            value[place] = before + h
            above = loss()
            value[place] = before - h
            difference = (above - loss()) / (2 * h)
            value[place] = before
            assert abs(difference - getattr(gradients, name)[place]) < 1e-6, (name, place)


def test_recursion_is_the_documents():
    """Total derivatives of states satisfy ∇_{h_t} L = Vᵀ e_t + (∂h_{t+1} / ∂h_t)ᵀ ∇_{h_{t+1}} L, and its mirror."""
    rnn, x, z, _, start_f, start_b = problem(2)
    states = rnn.forward(x, None, start_f, start_b)
    gradients = rnn.gradients(x, z, None, start_f, start_b)
    e = 2 * (states.outputs - z)
    of_f, of_b = state_jacobian(rnn.U_f, states.forward), state_jacobian(rnn.U_b, states.backward)
    for t in range(6):
        later = np.einsum("bij,bi->bj", of_f[:, t + 1], gradients.states_f[:, t + 1])
        assert np.allclose(gradients.states_f[:, t], e[:, t] @ rnn.V_f + later, atol=1e-12)
        earlier = np.einsum("bij,bi->bj", of_b[:, t], gradients.states_b[:, t])
        assert np.allclose(gradients.states_b[:, t + 1], e[:, t + 1] @ rnn.V_b + earlier, atol=1e-12)


def test_state_jacobian_is_autograds():
    rnn, x, _, _, start_f, _ = problem(3)
    W, U = torch.tensor(rnn.W_f), torch.tensor(rnn.U_f)
    expected = torch.autograd.functional.jacobian(
        lambda h: torch.tanh(W @ torch.tensor(x[0, 0]) + U @ h), torch.tensor(start_f[0])
    )
    h = rnn.forward(x, None, start_f).forward[0, 0]
    assert np.allclose(state_jacobian(rnn.U_f, h), expected.numpy(), atol=1e-14)


def test_a_ragged_batch_is_its_sequences_one_by_one():
    """Also where the padding of inputs and targets is NaN, which must reach nothing."""
    rnn, x, z, lengths, start_f, start_b = problem(4)
    lengths[:] = [7, 1, 4]
    alone = [
        rnn.gradients(x[i : i + 1, :T], z[i : i + 1, :T], None, start_f[i : i + 1], start_b[i : i + 1])
        for i, T in enumerate(lengths)
    ]
    for row, T in enumerate(lengths):
        x[row, T:], z[row, T:] = np.nan, np.nan
    together = rnn.gradients(x, z, lengths, start_f, start_b)
    for name in MATRICES:
        assert np.allclose(getattr(together, name), sum(getattr(one, name) for one in alone), atol=1e-12), name
    for row, (T, one) in enumerate(zip(lengths, alone, strict=True)):
        assert np.allclose(together.x[row, :T], one.x[0], atol=1e-12) and not together.x[row, T:].any()
        assert np.allclose(together.start_f[row], one.start_f[0], atol=1e-12)
        assert np.allclose(together.start_b[row], one.start_b[0], atol=1e-12)
    outputs = rnn.forward(x, lengths, start_f, start_b).outputs
    assert all(not outputs[row, T:].any() for row, T in enumerate(lengths))


def test_gradients_need_no_autograd():
    tree = ast.parse(Path(bidirectional.__file__).read_text(encoding="utf-8"))
    modules = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    assert not {module for module in modules if module.split(".")[0] in ("torch", "jax", "autograd")}
    rnn, x, z, lengths, start_f, start_b = problem(5)
    expected = rnn.gradients(x, z, lengths, start_f, start_b)
    with torch.inference_mode():
        tensors = [torch.tensor(value) for value in (x, z)]
        gradients = rnn.gradients(*tensors, lengths.tolist(), start_f, start_b)
    assert all(np.array_equal(a, b) for a, b in zip(gradients, expected, strict=True))


def test_starts_are_zero_when_not_given():
    rnn, x, z, lengths, start_f, start_b = problem(6)
    zeros = np.zeros_like(start_f), np.zeros_like(start_b)
    assert rnn.loss(x, z, lengths) == rnn.loss(x, z, lengths, *zeros) != rnn.loss(x, z, lengths, start_f, start_b)


def bad(name):
    """What a user may get wrong, by a call that must be refused."""
    rnn, x, z, lengths, start_f, _ = problem(7)
    matrices = [getattr(rnn, matrix) for matrix in MATRICES]
    spoiled = x.copy()
    spoiled[1, 0, 2] = np.nan
    return {
        "length 0": lambda: rnn.loss(x, z, [7, 0, 3]),
        "length above S": lambda: rnn.loss(x, z, [7, 8, 3]),
        "too few lengths": lambda: rnn.loss(x, z, [7, 7]),
        "fractional lengths": lambda: rnn.loss(x, z, [7.0, 7.0, 1.5]),
        "two axes": lambda: rnn.forward(x[0]),
        "no steps": lambda: rnn.forward(x[:, :0]),
        "width": lambda: rnn.forward(x[:, :, :2]),
        "targets": lambda: rnn.loss(x, z[:, 1:], lengths),
        "start": lambda: rnn.loss(x, z, lengths, start_f[:2]),
        "nan": lambda: rnn.loss(spoiled, z),
        "words": lambda: rnn.forward([["a", "b"]]),
        "matrix": lambda: BidirectionalRNN(*matrices[:4], matrices[1], matrices[5]),
        "size": lambda: BidirectionalRNN.random(0, 2, 2, 0),
    }[name]


CALLS = (
    *("length 0", "length above S", "too few lengths", "fractional lengths", "two axes", "no steps", "width"),
    *("targets", "start", "nan", "words", "matrix", "size"),
)


@pytest.mark.parametrize("name", CALLS)
def test_mistakes_are_one_line(name):
    with pytest.raises(UserError) as raised:
        bad(name)()
    assert "\n" not in str(raised.value)


def test_a_mistake_names_its_place():
    with pytest.raises(UserError, match=r"x\[1, 0, 2\]"):
        bad("nan")()
    with pytest.raises(UserError, match=r"lengths\[1\].*0.*1 to 7"):
        bad("length 0")()
