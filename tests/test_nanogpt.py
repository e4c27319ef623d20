"""What nanoGPT's settings need: its forward pass written again, its initial values, its dropout, counts."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn import functional as F

from shoal.keyed import uniform
from shoal.models import GPT, LSTMLM, LayerNorm, Variant
from shoal.models.dropout import Dropout
from shoal.models.families import count_parameters, decoder_parameters
from shoal.models.initialisation import INITIALISATIONS, gpt2
from shoal.models.norms import NORMS
from shoal.models.settings import GPTSettings
from shoal.tasks.settings import Sizes

some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
NANOGPT = {
    "bias_attention": False,
    "bias_classifier": False,
    "share_embeddings": True,
    "norm_position": "pre",
    "positions": "learned",
    "bias_norm": False,
}


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def randomised(module: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def mapped(model: GPT) -> dict[str, Tensor]:
    """The parameters of a model by nanoGPT's names, its three projections one matrix."""
    own = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    theirs = {"wte": own["embedding.tokens.weight"], "wpe": own["embedding.positions.weight"]}
    theirs["ln_f"] = own["decoder.norm.weight"]
    for layer in range(len(model.decoder.blocks)):
        block = f"decoder.blocks.{layer}"
        theirs[f"{layer}.ln_1"] = own[f"{block}.self_attn_norm.weight"]
        theirs[f"{layer}.c_attn"] = torch.cat(
            [own[f"{block}.self_attn.{name}.weight"] for name in ("W_Q", "W_K", "W_V")]
        )
        theirs[f"{layer}.c_proj"] = own[f"{block}.self_attn.W_O.weight"]
        theirs[f"{layer}.ln_2"] = own[f"{block}.ffn_norm.weight"]
        theirs[f"{layer}.c_fc"] = own[f"{block}.ffn.0.weight"]
        theirs[f"{layer}.mlp_proj"] = own[f"{block}.ffn.2.weight"]
    return {name: tensor.requires_grad_() for name, tensor in theirs.items()}


def nanogpt(p: dict[str, Tensor], tokens: Tensor, heads: int, layers: int) -> Tensor:
    """nanoGPT's forward pass without biases and dropout, by torch.nn.functional alone."""
    B, S = tokens.shape
    D = p["wte"].shape[1]
    x = F.embedding(tokens, p["wte"]) + F.embedding(torch.arange(S), p["wpe"])
    for layer in range(layers):
        normed = F.layer_norm(x, (D,), p[f"{layer}.ln_1"], None, 1e-5)
        q, k, v = (
            part.view(B, S, heads, D // heads).transpose(1, 2)
            for part in F.linear(normed, p[f"{layer}.c_attn"]).split(D, dim=2)
        )
        attended = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).reshape(B, S, D)
        x = x + F.linear(attended, p[f"{layer}.c_proj"])
        normed = F.layer_norm(x, (D,), p[f"{layer}.ln_2"], None, 1e-5)
        x = x + F.linear(F.gelu(F.linear(normed, p[f"{layer}.c_fc"])), p[f"{layer}.mlp_proj"])
    return F.linear(F.layer_norm(x, (D,), p["ln_f"], None, 1e-5), p["wte"])


def loss_of(logits: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(logits.flatten(0, 1), targets.flatten())


@some
@given(seeds, st.integers(1, 3), st.integers(1, 7), st.integers(1, 3), st.sampled_from([1, 2, 4]))
def test_forward_and_gradient_are_nanogpts(seed, B, S, layers, heads):
    torch.manual_seed(seed)
    model = GPT(heads, layers, 16, 11, 7, **NANOGPT)
    gpt2(model, 16)
    with torch.no_grad():
        for parameter in model.parameters():  # away from the start, where nothing but the last layers matters
            parameter += 0.1 * torch.randn_like(parameter)
    p, tokens, targets = mapped(model), *torch.randint(11, (2, B, S))
    logits, expected = model(tokens)[0], nanogpt(p, tokens, heads, layers)
    close(logits, expected)
    loss_of(logits, targets).backward()
    gradients = torch.autograd.grad(loss_of(expected, targets), list(p.values()))
    for parameter, gradient in zip(model.parameters(), mapped_gradients(model, p, gradients), strict=True):
        close(parameter.grad, gradient)


def mapped_gradients(model: GPT, p: dict[str, Tensor], gradients: tuple[Tensor, ...]) -> list[Tensor]:
    """nanoGPT's gradients in the order of the model's parameters."""
    by_name, found = dict(zip(p, gradients, strict=True)), []
    for name, _ in model.named_parameters():
        parts = name.split(".")
        if name.startswith("embedding"):
            found.append(by_name["wte" if parts[1] == "tokens" else "wpe"])
        elif name == "decoder.norm.weight":
            found.append(by_name["ln_f"])
        elif parts[4] in ("W_Q", "W_K", "W_V"):
            found.append(by_name[f"{parts[2]}.c_attn"].chunk(3)[("W_Q", "W_K", "W_V").index(parts[4])])
        else:
            theirs = {"self_attn_norm": "ln_1", "self_attn": "c_proj", "ffn_norm": "ln_2"}.get(parts[3])
            found.append(by_name[f"{parts[2]}.{theirs or ('c_fc' if parts[4] == '0' else 'mlp_proj')}"])
    return found


def test_a_tied_model_without_biases_has_nanogpts_parameters():
    model = GPT(4, 4, 128, 65, 64, **NANOGPT)
    assert not [name for name, _ in model.named_parameters() if name.endswith("bias")]
    without_positions = sum(p.numel() for p in model.parameters()) - 64 * 128
    assert without_positions == 795_904  # 0.80 M, as nanoGPT prints for its small setting


@pytest.mark.parametrize("non_linearity", ["gelu", "swiglu"])
@pytest.mark.parametrize("tied", [True, False])
def test_gpt2_draws_by_the_same_distributions(non_linearity, tied):
    torch.manual_seed(0)
    settings = {**NANOGPT, "share_embeddings": tied, "bias_attention": True, "bias_ffn": True, "bias_norm": True}
    model = GPT(4, 6, 128, 65, 64, non_linearity=non_linearity, padding_index=64, **settings)
    gpt2(model, 128)
    assert (model.classifier.weight is model.embedding.tokens.weight) == tied
    assert not model.embedding.tokens.weight[64].any()
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, float("norm.weight" in name))), name
            continue
        std = 0.02 / math.sqrt(12) if name.endswith(("W_O.weight", "ffn.2.weight", "W_down.weight")) else 0.02
        drawn = parameter.detach()[:64] if name == "embedding.tokens.weight" else parameter.detach()
        z = drawn.flatten().double() / std
        n = len(z)
        assert abs(float(z.mean())) < 4.5 / math.sqrt(n), name
        assert abs(float(z.square().mean()) - 1) < 4.5 * math.sqrt(2 / n), name
        normal = torch.distributions.Normal(0.0, 1.0).cdf(z.sort().values)
        distance = (normal - torch.arange(1, n + 1) / n).abs().max()  # Kolmogorov-Smirnov
        assert float(distance) < 2.2 / math.sqrt(n), name


def test_gpt2_starts_other_families_too():
    torch.manual_seed(0)
    model = LSTMLM(50, 64, 64, 2)
    INITIALISATIONS["gpt2"](model, 64)
    for name, parameter in model.named_parameters():
        assert float(parameter.detach().std()) == pytest.approx(0.02 if parameter.dim() > 1 else 0, rel=0.05), name


@some
@given(seeds, st.lists(st.integers(1, 5), max_size=3), st.integers(2, 9))
def test_a_layer_norm_without_shift_equals_torchs(seed, dims, width):
    torch.manual_seed(seed)
    norm = randomised(LayerNorm(width, bias=False)).double()
    assert list(norm.state_dict()) == ["weight"]
    x = torch.randn(*dims, width, dtype=torch.float64) * 3 + 2
    close(norm(x), F.layer_norm(x, (width,), norm.weight, None, norm.eps))


@some
@given(
    st.sampled_from(list(NORMS)),
    st.sampled_from(["post", "pre", "pre_stream"]),
    st.booleans(),
    st.sampled_from(["feed_forward", "everywhere"]),
    st.integers(1, 3),
)
def test_counts_follow_the_shift_of_the_norms(norm, norm_position, bias_norm, dropout_at, layers):
    variant = {"norm": norm, "norm_position": norm_position, "bias_norm": bias_norm, "dropout_at": dropout_at}
    model = GPT(2, layers, 8, 9, 7, dropout=0.1, **variant)
    expected = decoder_parameters(2, 4, layers, variant=Variant(**variant))
    assert expected == sum(p.numel() for p in model.decoder.parameters())
    if (norm == "none" and norm_position != "post") or (norm != "layernorm" and not bias_norm):
        return  # no settings of a run
    chosen = GPTSettings(num_heads=2, num_layers=layers, embedding_size=8, positions="learned", dropout=0.1, **variant)
    sizes = Sizes(vocabulary_size=9, sequence_length=7)
    assert chosen.count(sizes) == count_parameters(chosen.build(sizes))


def sites(model: nn.Module) -> list[str]:
    """The modules that drop out, in the order in which their keys are numbered."""
    return [name for name, module in model.named_modules() if isinstance(module, Dropout) and module.p > 0]


def test_dropout_has_the_sites_it_had_and_everywhere_those_of_gpt2_in_order():
    assert sites(GPT(2, 2, 8, 9, 7, dropout=0.1)) == ["decoder.blocks.0.ffn_drop", "decoder.blocks.1.ffn_drop"]
    of_blocks = [
        f"decoder.blocks.{layer}.{name}"
        for layer in (0, 1)
        for name in ("self_attn.weights_drop", "self_attn_drop", "ffn_drop")
    ]
    everywhere = GPT(2, 2, 8, 9, 7, dropout=0.1, dropout_at="everywhere")
    assert sites(everywhere) == ["embedding.drop", *of_blocks]
    assert list(everywhere.state_dict()) == list(GPT(2, 2, 8, 9, 7).state_dict())
    with pytest.raises(ValueError, match="dropout_at"):
        GPT(2, 2, 8, 9, 7, dropout_at="attention")


def kept(key: int, x: Tensor, p: float) -> Tensor:
    return (uniform(torch.tensor(key), x.numel()).reshape(x.shape) >= p) / (1 - p)


def test_everywhere_is_where_gpt2_drops_out():
    torch.manual_seed(0)
    model = randomised(GPT(2, 1, 8, 9, 7, dropout=0.3, dropout_at="everywhere", norm_position="pre"))
    for key, name in enumerate(sites(model)):
        model.get_submodule(name).key = torch.tensor(key)
    tokens, block = torch.randint(9, (3, 5)), model.decoder.blocks[0]
    embedded = model.embedding.tokens(tokens) + model.embedding.position_encoding[:5]
    x = embedded * kept(0, embedded, 0.3)
    attention, normed = block.self_attn, block.self_attn_norm(x)
    q, k, v = (attention.split_heads(W(normed)) for W in (attention.W_Q, attention.W_K, attention.W_V))
    weights = attention.get_attention_weights(q, k)
    attended = attention.W_O(attention.merge_heads((weights * kept(1, weights, 0.3)) @ v))
    x = x + attended * kept(2, attended, 0.3)
    added = block.ffn(block.ffn_norm(x))
    x = x + added * kept(3, added, 0.3)
    logits, (_, attentions) = model(tokens)
    close(logits, model.classifier(model.decoder.norm(x)))
    close(attentions[:, 0], weights)  # what is shown is what was attended to, not what was left of it
    assert not torch.equal(model.eval()(tokens)[0], logits)


def test_members_drop_out_by_their_own_keys_wherever_it_is():
    torch.manual_seed(0)
    model, tokens = GPT(2, 2, 8, 9, 7, dropout=0.3, dropout_at="everywhere"), torch.randint(9, (3, 2, 5))
    parameters = {name: torch.randn(3, *p.shape) for name, p in model.named_parameters()}
    keys = {f"{name}.key": torch.arange(3) * 100 + site for site, name in enumerate(sites(model))}

    def one(own: dict[str, Tensor], tokens: Tensor) -> Tensor:
        return functional_call(model, own, (tokens,))[0]

    together = vmap(one)({**parameters, **keys}, tokens)
    for member in range(3):
        own = {name: tensor[member] for name, tensor in {**parameters, **keys}.items()}
        close(one(own, tokens[member]), together[member], atol=1e-4)
