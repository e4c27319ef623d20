"""Jacobians of layers, blocks and steps against the derivative of the whole model, and against differences."""

import pytest
import torch

from shoal.analysis import (
    block_jacobians,
    jacobian,
    jacobian_products,
    layer_jacobians,
    singular_values,
    state_jacobians,
)
from shoal.errors import UserError
from shoal.models import GPT, LSTMLM, LayerNorm

f64 = torch.float64


def differences(function, h, step=1e-6):
    """Jacobian by central differences."""
    columns = [(function(h + step * e) - function(h - step * e)) / (2 * step) for e in torch.eye(len(h), dtype=f64)]
    return torch.stack(columns, dim=1)


def test_rows_are_outputs():
    A = torch.tensor([[1.0, 2, 3], [4, 5, 6]], dtype=f64)
    assert torch.equal(jacobian(lambda h: A @ h, torch.zeros(3)), A)


def test_a_module_is_copied_to_float64_and_drops_nothing():
    layer = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.Dropout(0.9))
    for jacobians in (jacobian(layer, torch.ones(3)), layer_jacobians([layer], torch.ones(3))[0]):
        assert torch.equal(jacobians, layer[0].weight.double())
    assert layer.training and layer[0].weight.dtype == torch.float32


def test_layer_norm_has_two_zeros_and_the_rest_is_one_over_sigma():
    h = torch.randn(7, generator=torch.Generator().manual_seed(0), dtype=f64) * 3 + 2
    values = singular_values(jacobian(LayerNorm(7, eps=0), h))
    assert torch.allclose(values[:5], 1 / h.std(correction=0).expand(5)) and (values[5:] < 1e-7).all()


@pytest.mark.parametrize("norm_position", ["post", "pre", "pre_stream"])
def test_blocks_multiply_to_the_whole_gpt(norm_position):
    torch.manual_seed(0)
    model = GPT(2, 3, 8, 11, 5, dropout=0.3, norm_position=norm_position)
    before = [parameter.clone() for parameter in model.parameters()]
    tokens = torch.tensor([3, 1, 4, 1, 5])
    jacobians = block_jacobians(model, tokens)
    assert model.training and all(torch.equal(a, b) for a, b in zip(model.parameters(), before, strict=True))
    exact = model.double().eval()
    embedded = exact.embedding(tokens.unsqueeze(0)).detach()

    def last(h):
        x = torch.cat([embedded[:, :-1], h.view(1, 1, -1)], dim=1)
        return exact.decoder(x)[1][0][0, -1, -1].detach()

    expected = differences(last, embedded[0, -1])
    assert torch.allclose(jacobian_products(jacobians)[-1], expected, atol=1e-7)
    assert jacobians.shape == (3, 8, 8)


def test_steps_multiply_to_the_whole_lstm():
    torch.manual_seed(1)
    model = LSTMLM(11, 4, 3, 2, dropout=0.5)
    tokens = torch.tensor([3, 1, 4, 1, 5])
    jacobians = state_jacobians(model, tokens)
    assert jacobians.shape == (5, 12, 12) and model.training
    exact = model.double().eval()

    def last(state):
        h, c = state.view(2, 2, 1, 3)
        return torch.cat([part.flatten() for part in exact(tokens.unsqueeze(0), (h, c))[1]]).detach()

    expected = differences(last, torch.zeros(12, dtype=f64))
    assert torch.allclose(jacobian_products(jacobians)[-1], expected, atol=1e-8)


def test_layers_are_followed_from_state_to_state():
    layers = [torch.tanh, lambda h: h * h, lambda h: h.flip(0)]
    h = torch.tensor([0.3, -0.7], dtype=f64)
    jacobians = layer_jacobians(layers, h)
    expected = differences(lambda x: (torch.tanh(x) ** 2).flip(0), h)
    assert torch.allclose(jacobian_products(jacobians)[-1], expected, atol=1e-8)
    assert torch.allclose(jacobian_products(jacobians)[0], torch.diag(1 - torch.tanh(h) ** 2))


@pytest.mark.parametrize(
    "call",
    [
        lambda: jacobian(torch.tanh, torch.zeros(2, 2)),
        lambda: layer_jacobians([], torch.zeros(2)),
        lambda: block_jacobians(GPT(2, 1, 8, 11, 5), torch.zeros(1, 3, dtype=torch.int64)),
        lambda: state_jacobians(LSTMLM(11, 4, 3, 2), torch.zeros(0, dtype=torch.int64)),
    ],
)
def test_mistakes_are_one_line(call):
    with pytest.raises(UserError) as raised:
        call()
    assert "\n" not in str(raised.value)
