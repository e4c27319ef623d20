"""The models against torch.nn with mapped weights, literal loops and closed forms."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.keyed import uniform
from shoal.models import GPT, LSTM, LSTMLM, Block, GPTEmbedding, LayerNorm, MultiHeadedAttention
from shoal.models.dropout import Dropout
from shoal.models.families import attention_parameters, count_parameters, decoder_parameters, lstm_parameters
from shoal.spec import RunSpec
from shoal.tasks import Sizes
from shoal.tasks.build import count_run_parameters

some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 6)


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def randomised(module: nn.Module) -> nn.Module:
    """Every parameter drawn anew, so that ones and zeros of an initialisation hide nothing."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def torch_lstm(lstm: LSTM, input_size: int, bias: bool) -> nn.LSTM:
    """``torch.nn.LSTM`` with the same weights; its gates stand in the order i, f, g, o."""
    twin = nn.LSTM(input_size, lstm.hidden_size, lstm.num_layers, bias=bias, batch_first=True)
    with torch.no_grad():
        for layer, cell in enumerate(lstm.layers):
            gates = (cell.input_gate, cell.forget_gate, cell.candidate_cell, cell.output_gate)
            weight = torch.cat([gate.weight for gate in gates])
            split = cell.input_size
            getattr(twin, f"weight_ih_l{layer}").copy_(weight[:, :split])
            getattr(twin, f"weight_hh_l{layer}").copy_(weight[:, split:])
            if bias:
                getattr(twin, f"bias_ih_l{layer}").copy_(torch.cat([gate.bias for gate in gates]))
                getattr(twin, f"bias_hh_l{layer}").zero_()
    return twin


@some
@given(seeds, sizes, sizes, sizes, sizes, st.integers(1, 3), st.booleans(), st.booleans())
def test_lstm_equals_torch(seed, B, S, D_in, D, layers, bias, with_state):
    torch.manual_seed(seed)
    lstm = randomised(LSTM(D_in, D, layers, bias=bias))
    x = torch.randn(B, S, D_in)
    state = (torch.randn(layers, B, D), torch.randn(layers, B, D)) if with_state else None
    outputs, (h, c) = lstm(x, state)
    expected, (expected_h, expected_c) = torch_lstm(lstm, D_in, bias)(x, state)
    close(outputs, expected)
    close(h, expected_h)
    close(c, expected_c)


def test_a_cell_steps_as_the_lstm_does():
    torch.manual_seed(0)
    lstm = randomised(LSTM(3, 4, 1))
    x, state = torch.randn(2, 5, 3), (torch.zeros(2, 4), torch.zeros(2, 4))
    for t in range(5):
        state = lstm.layers[0](x[:, t], state)
    close(lstm(x)[1][0][0], state[0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_initial_states_default_to_zeros_of_the_inputs_type(dtype):
    torch.manual_seed(0)
    model = LSTMLM(7, 4, 5, 2).to(dtype)
    tokens = torch.randint(7, (3, 6))
    logits, (h, c) = model(tokens)
    assert {logits.dtype, h.dtype, c.dtype} == {dtype}
    assert h.shape == c.shape == (2, 3, 5)
    zeros = torch.zeros(2, 3, 5, dtype=dtype)
    assert torch.equal(logits, model(tokens, (zeros, zeros))[0])
    assert not torch.equal(logits, model(tokens, (zeros + 1, zeros))[0])


def test_a_sequence_in_two_parts_gives_what_it_gives_whole():
    torch.manual_seed(0)
    model, tokens = LSTMLM(7, 4, 5, 2), torch.randint(7, (3, 6))
    whole, _ = model(tokens)
    first, states = model(tokens[:, :4])
    second, _ = model(tokens[:, 4:], states)
    close(torch.cat([first, second], dim=1), whole)


@some
@given(seeds, st.integers(1, 3), st.sampled_from([0.2, 0.5, 0.8]))
def test_lstm_drops_out_between_layers_only(seed, layers, p):
    torch.manual_seed(seed)
    lstm = randomised(LSTM(3, 4, layers, dropout=p))
    x = torch.randn(2, 5, 3)
    for layer, dropout in enumerate(lstm.dropouts):
        dropout.key = torch.tensor(layer + 7)
    expected = x
    for layer, cell in enumerate(lstm.layers):
        if layer > 0:
            kept = uniform(torch.tensor(layer + 6), expected.numel()).reshape(expected.shape) >= p
            expected = expected * kept / (1 - p)
        alone = LSTM(cell.input_size, 4, 1)
        alone.layers[0] = cell
        expected, _ = torch_lstm(alone, cell.input_size, bias=True)(expected)
    close(lstm(x)[0], expected)
    assert (layers == 1) == torch.equal(lstm(x)[0], lstm.eval()(x)[0])
    close(lstm(x)[0], torch_lstm(lstm, 3, bias=True)(x)[0])


@some
@given(seeds, st.lists(sizes, max_size=3), st.integers(2, 9))
def test_layer_norm_equals_torch(seed, dims, width):
    torch.manual_seed(seed)
    norm = randomised(LayerNorm(width)).double()
    x = torch.randn(*dims, width, dtype=torch.float64) * 3 + 2  # float64: two nearly equal numbers magnify rounding
    close(norm(x), F.layer_norm(x, (width,), norm.weight, norm.bias, norm.eps))


def test_a_new_layer_norm_changes_neither_scale_nor_place():
    torch.manual_seed(0)
    x = torch.randn(50, 16) * 3 + 2
    close(LayerNorm(16)(x), F.layer_norm(x, (16,)))


heads = st.tuples(st.integers(1, 4), st.integers(1, 4))  # number of heads and size of each


@some
@given(seeds, sizes, sizes, heads)
def test_attention_equals_torch(seed, B, S, heads):
    torch.manual_seed(seed)
    H, size = heads
    attention = MultiHeadedAttention(H * size, H)
    q, k, v = torch.randn(3, B, H, S, size)
    context, weights = attention.apply_attention(q, k, v)
    expected = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    close(attention.split_heads(context), expected)
    close(weights @ v, expected)
    close(weights.sum(-1), torch.ones(B, H, S))
    assert torch.equal(weights, weights.tril())
    assert torch.equal(weights, attention.get_attention_weights(q, k))


def torch_attention(attention: MultiHeadedAttention, twin: nn.MultiheadAttention) -> nn.MultiheadAttention:
    inner, outer = (attention.W_Q, attention.W_K, attention.W_V), attention.W_O
    with torch.no_grad():
        twin.in_proj_weight.copy_(torch.cat([linear.weight for linear in inner]))
        twin.out_proj.weight.copy_(outer.weight)
        for bias, linears in ((twin.in_proj_bias, inner), (twin.out_proj.bias, [outer])):
            if bias is not None:
                given = [linear.bias for linear in linears]
                bias.copy_(torch.zeros_like(bias) if given[0] is None else torch.cat(given))
    return twin


@some
@given(seeds, sizes, sizes, heads, st.booleans())
def test_multi_headed_attention_equals_torch(seed, B, S, heads, bias):
    torch.manual_seed(seed)
    H, size = heads
    attention = randomised(MultiHeadedAttention(H * size, H, bias)).double()
    twin = torch_attention(attention, nn.MultiheadAttention(H * size, H, bias=bias, batch_first=True).double())
    queries, keys, values = torch.randn(3, B, S, H * size, dtype=torch.float64)
    hidden = torch.ones(S, S, dtype=torch.bool).triu(1)
    expected = twin(queries, keys, values, attn_mask=hidden, average_attn_weights=False)
    for found, other in zip(attention(queries, keys, values), expected, strict=True):
        close(found, other)


@some
@given(seeds, sizes, sizes, heads)
def test_heads_are_contiguous_and_merging_undoes_splitting(seed, B, S, heads):
    torch.manual_seed(seed)
    H, size = heads
    attention, x = MultiHeadedAttention(H * size, H), torch.randn(B, S, H * size)
    split = attention.split_heads(x)
    assert split.shape == (B, H, S, size)
    for j in range(H):
        assert torch.equal(split[:, j], x[:, :, j * size : (j + 1) * size])
    assert torch.equal(attention.merge_heads(split), x)


def test_width_must_be_divisible_by_heads():
    with pytest.raises(ValueError, match="got 10 and 4"):
        MultiHeadedAttention(10, 4)


@some
@given(seeds, sizes, sizes, heads, st.sampled_from(["relu", "gelu"]), st.booleans(), st.sampled_from([1, 2.5, 4]))
def test_a_block_equals_torch(seed, B, S, heads, activation, bias, multiplier):
    torch.manual_seed(seed)
    H, size = heads
    D = H * size
    block = randomised(Block(D, H, multiplier, non_linearity=activation, bias=bias)).double()
    d_ff = int(multiplier * D)
    twin = nn.TransformerEncoderLayer(D, H, d_ff, dropout=0, activation=activation, batch_first=True, norm_first=False)
    twin.double()
    torch_attention(block.self_attn, twin.self_attn)
    with torch.no_grad():
        twin.linear1.weight.copy_(block.ffn[0].weight)
        twin.linear2.weight.copy_(block.ffn[2].weight)
        twin.linear1.bias.zero_()
        twin.linear2.bias.zero_()
        for norm, own in ((twin.norm1, block.self_attn_norm), (twin.norm2, block.ffn_norm)):
            norm.load_state_dict(own.state_dict())
    x = torch.randn(B, S, D, dtype=torch.float64)
    hidden = torch.ones(S, S, dtype=torch.bool).triu(1)
    close(block(x)[0], twin(x, src_mask=hidden))


def test_a_block_drops_out_what_its_feed_forward_adds():
    torch.manual_seed(0)
    block, x = randomised(Block(8, 2, dropout=0.5)), torch.randn(2, 3, 8)
    block.ffn_drop.key = torch.tensor(3)
    between = block.self_attn_norm(x + block.self_attn(x, x, x)[0])
    kept = uniform(torch.tensor(3), 48).reshape(2, 3, 8) >= 0.5
    close(block(x)[0], block.ffn_norm(between + block.ffn(between) * kept * 2))


def build(model: str, **options) -> nn.Module:
    """A small language model of 9 tokens and sequences of at most 7."""
    if model == "lstm":
        return LSTMLM(9, 8, 8, options.pop("num_layers", 2), **options)
    return GPT(2, options.pop("num_layers", 2), 8, 9, 7, **options)


both = pytest.mark.parametrize("model", ["lstm", "gpt"])


@both
@some
@given(seed=seeds, S=st.integers(2, 7), data=st.data())
def test_a_future_token_never_changes_a_past_logit(model, seed, S, data):
    torch.manual_seed(seed)
    module = randomised(build(model))
    t = data.draw(st.integers(1, S - 1))
    tokens = torch.randint(9, (2, S))
    changed = tokens.clone()
    changed[:, t] = (changed[:, t] + torch.randint(1, 9, (2,))) % 9
    changed[:, t + 1 :] = torch.randint(9, (2, S - t - 1))
    before, after = module(tokens)[0], module(changed)[0]
    close(after[:, :t], before[:, :t], atol=1e-6)
    assert not torch.equal(after[:, t], before[:, t])


@some
@given(st.integers(1, 20), st.integers(1, 9), st.sampled_from([("sinusoidal", 1), ("vaswani", 2)]))
def test_positions_equal_a_literal_double_loop(n, dimension, kind):
    name, factor = kind
    table = GPTEmbedding.create_sinusoidal_embeddings(n, dimension, name)
    assert torch.equal(table, GPTEmbedding(9, dimension, n, kind=name).position_encoding)
    assert table.shape == (n, dimension)
    assert table.dtype == torch.float32
    for pos in range(n):
        for i in range(dimension):
            k = i // 2
            wave = math.cos if i % 2 else math.sin
            assert table[pos, i].item() == pytest.approx(wave(pos / 10000 ** (factor * k / dimension)), abs=1e-5)


def test_embedding_adds_positions_and_keeps_them_out_of_training():
    embedding = GPTEmbedding(9, 8, 7)
    tokens = torch.randint(9, (2, 5))
    close(embedding(tokens), embedding.tokens(tokens) + embedding.create_sinusoidal_embeddings(7, 8)[:5])
    assert dict(embedding.named_parameters()).keys() == {"tokens.weight"}
    assert "position_encoding" in embedding.state_dict()


@both
def test_shared_embeddings_are_one_tensor_that_gathers_both_gradients(model):
    torch.manual_seed(0)
    tied, untied = build(model, share_embeddings=True), build(model)
    name = "embedding.weight" if model == "lstm" else "embedding.tokens.weight"
    weight = tied.get_parameter(name)
    assert tied.classifier.weight is weight
    assert len(list(tied.parameters())) == len(list(untied.parameters())) - 1
    untied.load_state_dict(tied.state_dict())
    tokens = torch.randint(9, (3, 6))
    for module in (tied, untied):
        module(tokens)[0].logsumexp(-1).sum().backward()
    assert untied.classifier.weight.grad.abs().sum() > 0
    close(weight.grad, untied.get_parameter(name).grad + untied.classifier.weight.grad, atol=1e-4)


def test_sharing_needs_equal_widths():
    with pytest.raises(ValueError, match="got 4 and 8"):
        LSTMLM(9, 4, 8, 1, share_embeddings=True)


@both
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bias_classifier", [True, False])
def test_biases_are_there_only_when_asked_for(model, bias, bias_classifier):
    inner = "bias_lstm" if model == "lstm" else "bias_attention"
    module = build(model, **{inner: bias}, bias_classifier=bias_classifier)
    names = {name for name, _ in module.named_parameters() if name.endswith("bias") and "_norm." not in name}
    assert ("classifier.bias" in names) == bias_classifier
    assert bool(names - {"classifier.bias"}) == bias
    logits, _ = module(torch.randint(9, (2, 5)))
    assert logits.shape == (2, 5, 9)
    assert logits.isfinite().all()


@some
@given(seeds, st.integers(1, 3), st.sampled_from(["relu", "gelu"]))
def test_gpt_returns_every_hidden_state_and_attention(seed, layers, non_linearity):
    torch.manual_seed(seed)
    model = randomised(GPT(2, layers, 8, 9, 7, non_linearity=non_linearity))
    tokens = torch.randint(9, (3, 5))
    logits, (hidden_states, attentions) = model(tokens)
    assert hidden_states.shape == (3, layers + 1, 5, 8)
    assert attentions.shape == (3, layers, 2, 5, 5)
    close(hidden_states[:, 0], model.embedding(tokens))
    for layer, block in enumerate(model.decoder.blocks):
        outputs, weights = block(hidden_states[:, layer])
        close(outputs, hidden_states[:, layer + 1])
        close(weights, attentions[:, layer])
    close(logits, model.classifier(hidden_states[:, -1]))


@both
def test_padding_has_a_zero_embedding_without_a_gradient(model):
    module = build(model, padding_index=8)
    weight = module.get_parameter("embedding.weight" if model == "lstm" else "embedding.tokens.weight")
    module(torch.tensor([[1, 2, 8]]))[0].square().sum().backward()
    assert not weight[8].any()
    assert not weight.grad[8].any()
    assert weight.grad[1].any()


def dropped(p: float, key: int | None, n: int = 20_000) -> Tensor:
    dropout = Dropout(p)
    dropout.key = None if key is None else torch.tensor(key)
    return dropout(torch.ones(n))


def test_a_key_decides_the_mask():
    assert torch.equal(dropped(0.3, 5), dropped(0.3, 5))
    agreement = ((dropped(0.3, 5) == 0) == (dropped(0.3, 6) == 0)).float().mean()
    assert agreement == pytest.approx(0.7**2 + 0.3**2, abs=0.02)
    state = torch.get_rng_state()
    dropped(0.3, 5)
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("p", [0.1, 0.5, 0.9])
def test_dropout_has_its_rate_and_keeps_the_mean(p, atol=0.015):
    out = dropped(p, 1)
    assert (out == 0).float().mean().item() == pytest.approx(p, abs=atol)
    close(out[out != 0].unique(), torch.tensor([1 / (1 - p)]), atol=1e-6 / (1 - p))


def test_without_a_key_dropout_is_torchs():
    torch.manual_seed(4)
    found = dropped(0.3, None)
    torch.manual_seed(4)
    assert torch.equal(found, F.dropout(torch.ones(20_000), 0.3))


def test_dropout_does_nothing_when_evaluating_or_zero():
    x = torch.randn(100)
    for dropout in (Dropout(0.5).eval(), Dropout(0.0)):
        dropout.key = torch.tensor(1)
        assert torch.equal(dropout(x), x)
    assert Dropout(0.5).state_dict() == {}


@pytest.mark.parametrize("p", [-0.1, 1.0, math.nan])
def test_dropout_refuses_what_is_no_rate(p):
    with pytest.raises(ValueError, match="dropout must be in"):
        Dropout(p)


def counted(model: nn.Module) -> int:
    """Numbers that learn outside of the embedding, each once."""
    learnable = {id(p): p.numel() for p in model.parameters()}
    for p in model.embedding.parameters():
        del learnable[id(p)]
    return sum(learnable.values())


@st.composite
def specs(draw) -> RunSpec:
    width = 4 * draw(st.integers(1, 4))
    chosen = {name: draw(st.booleans()) for name in ("bias", "bias_classifier", "share_embeddings")}
    chosen |= {"model": draw(st.sampled_from(["lstm", "gpt"])), "embedding_size": width, "p": draw(st.integers(3, 9))}
    chosen["num_layers"] = draw(st.integers(1, 3))
    if chosen["model"] == "gpt":
        chosen |= {"num_heads": draw(st.sampled_from([1, 2, 4])), "multiplier": draw(st.sampled_from([0.3, 1, 2.5, 4]))}
    elif not chosen["share_embeddings"]:
        chosen["hidden_size"] = draw(st.integers(1, 12))
    return RunSpec(**chosen)


@some
@given(specs())
def test_closed_form_counts_equal_counting(spec):
    sizes = spec.task_part.sizes()
    assert sizes.vocabulary_size == spec.p + 5
    model = spec.model_part.build(sizes)
    assert spec.model_part.count(sizes) == counted(model) == count_parameters(model) == count_run_parameters(spec)


@some
@given(sizes, sizes, st.integers(1, 3), heads, st.booleans())
def test_counts_of_the_parts_equal_counting(D_in, D, layers, heads, bias):
    assert lstm_parameters(D_in, D, layers, bias) == sum(
        p.numel() for p in LSTM(D_in, D, layers, bias=bias).parameters()
    )
    H, size = heads
    attention = MultiHeadedAttention(H * size, H, bias)
    assert attention_parameters(H, size, bias) == sum(p.numel() for p in attention.parameters())
    decoder = GPT(H, layers, H * size, 9, 7, bias_attention=bias).decoder
    assert decoder_parameters(H, size, layers, bias=bias) == sum(p.numel() for p in decoder.parameters())


@pytest.mark.parametrize(
    ("model", "expected"), [("lstm", [68_388, 267_812, 1_059_876]), ("gpt", [101_668, 399_908, 1_586_212])]
)
def test_counts_of_the_documents_models(model, expected):
    specs = [RunSpec(model=model, embedding_size=d) for d in (64, 128, 256)]
    assert [count_run_parameters(spec) for spec in specs] == expected
    assert counted(specs[0].model_part.build(Sizes(36, 6, 35))) == expected[0]
