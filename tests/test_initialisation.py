"""Initial values other than PyTorch's own."""

import math

import pytest
import torch
from torch import nn

from shoal.spec import RunSpec
from shoal.tasks.build import build_model


def test_scaled_normal_draws_matrices_and_clears_biases_but_not_norms():
    spec = RunSpec(model="gpt", embedding_size=256, positions="learned", bias_ffn=True, initialisation="scaled_normal")
    padding, model = spec.task_part.sizes().padding_index, build_model(spec)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and "embedding" not in name:
            assert float(parameter.detach().std()) == pytest.approx(1 / math.sqrt(256), rel=0.05), name
        elif "norm.weight" in name:
            assert torch.equal(parameter, torch.ones_like(parameter)), name
        elif parameter.dim() == 1:
            assert not parameter.any(), name
    tokens = model.get_parameter("embedding.tokens.weight")
    assert not tokens[padding].any()
    assert float(tokens[:padding].detach().std()) == pytest.approx(1 / math.sqrt(256), rel=0.05)


MODELS = ("lstm", "gpt")
OWN = {"lstm": "xavier", "gpt": "torch"}


def parameters(model, **settings):
    spec = RunSpec(model=model, embedding_size=64, **settings)
    return {name: p.detach() for name, p in build_model(spec).named_parameters()}


def inner(name):
    return not name.startswith(("embedding", "classifier")) and "norm" not in name


@pytest.mark.parametrize("model", MODELS)
def test_a_models_own_initialisation_is_the_default(model):
    default, named = parameters(model), parameters(model, initialisation=OWN[model])
    assert all(torch.equal(default[name], named[name]) for name in default)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("model", MODELS)
def test_xavier_and_torch_fill_their_intervals_in_the_layers_alone(model, bias):
    xavier = parameters(model, initialisation="xavier", bias=bias)
    pytorch = parameters(model, initialisation="torch", bias=bias)
    for name, weight in xavier.items():
        if not inner(name):
            assert torch.equal(weight, pytorch[name]) or name.startswith("classifier"), name
        elif weight.dim() == 1:
            assert not weight.any(), name
            assert pytorch[name].any(), name
        else:
            outputs, inputs = weight.shape
            largest = math.sqrt(6 / (inputs + outputs))
            assert 0.99 * largest < float(weight.abs().max()) <= largest, name
            assert float(weight.std()) == pytest.approx(largest / math.sqrt(3), rel=0.05), name
            assert 0.99 / math.sqrt(inputs) < float(pytorch[name].abs().max()) <= 1 / math.sqrt(inputs), name


@pytest.mark.parametrize("bias", [True, False])
def test_attention_starts_as_that_of_torch_to_the_bit(bias):
    spec = RunSpec(model="gpt", embedding_size=64, bias=bias, initialisation="torch_attention")
    usual = RunSpec(model="gpt", embedding_size=64, bias=bias)
    own, other = build_model(spec), build_model(usual)
    with torch.random.fork_rng():
        torch.manual_seed(spec.init_seed)
        usual.model_part.build(usual.task_part.sizes())  # drawn before
        for block in own.decoder.blocks:
            theirs, ours = nn.MultiheadAttention(64, spec.num_heads, bias=bias), block.self_attn
            stacked = torch.cat([ours.W_Q.weight, ours.W_K.weight, ours.W_V.weight])
            assert torch.equal(stacked, theirs.in_proj_weight)
            assert torch.equal(ours.W_O.weight, theirs.out_proj.weight)
            if bias:
                biases = torch.cat([ours.W_Q.bias, ours.W_K.bias, ours.W_V.bias])
                assert torch.equal(biases, theirs.in_proj_bias)
                assert torch.equal(ours.W_O.bias, theirs.out_proj.bias) and not ours.W_O.bias.any()
    before = dict(other.named_parameters())
    for name, parameter in own.named_parameters():
        assert torch.equal(parameter, before[name]) == ("self_attn.W_" not in name), name


def test_nanda_draws_the_classifier_by_the_size_of_the_vocabulary():
    settings = {"p": 113, "equation_format": "operands", "unused_tokens": 400}
    scaled = parameters("gpt", initialisation="scaled_normal", **settings)
    found = parameters("gpt", initialisation="nanda", **settings)
    for name, parameter in found.items():
        assert torch.equal(parameter, scaled[name]) == (name != "classifier.weight"), name
    assert float(found["classifier.weight"].std()) == pytest.approx(1 / math.sqrt(114 + 400), rel=0.02)
    assert not found["classifier.bias"].any()


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("initialisation", ["torch", "xavier", "scaled_normal"])
def test_a_tied_embedding_keeps_its_padding_and_its_scale(model, initialisation):
    shared = parameters(model, initialisation=initialisation, share_embeddings=True)
    assert "classifier.weight" not in shared
    tokens = shared["embedding.weight" if model == "lstm" else "embedding.tokens.weight"]
    assert not tokens[-1].any()
    std = {"scaled_normal": 1 / math.sqrt(64)}.get(initialisation, 1.0)
    assert float(tokens[:-1].std()) == pytest.approx(std, rel=0.1)
