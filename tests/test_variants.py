"""The variants of GPT against torch.nn with mapped weights, complex numbers and literal formulas."""

import itertools
import math

import pytest
import torch
from helpers import CPU, fastest, one_cohort, theta, tiny, tiny_grid, trained
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from shoal.fast.build import kernels
from shoal.models import GPT, Block, MultiHeadedAttention, RMSNorm, SwiGLU, Variant
from shoal.models import gpt as models
from shoal.models import settings as tables
from shoal.models.families import count_parameters, feed_forward_parameters
from shoal.models.norms import NORMS
from shoal.models.positions import POSITIONS, rotary_angles, rotate
from shoal.spec import RunSpec
from shoal.tasks.build import build_model, count_run_parameters
from shoal.training.memory import stack_bytes
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step

some = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
sizes = st.integers(1, 6)
CHOICES = {
    "norm": list(NORMS),
    "norm_position": list(models.NORM_POSITIONS),
    "positions": list(POSITIONS),
    "non_linearity": ["gelu", "relu", "swiglu"],
    "bias_ffn": [False, True],
}
EVERY = [
    dict(zip(CHOICES, values, strict=True))
    for values in itertools.product(*CHOICES.values())
    if values[0] != "none" or values[1] == "post"
]
variants = st.sampled_from(EVERY)
every = pytest.mark.parametrize("variant", EVERY, ids=lambda variant: " ".join(map(str, variant.values())))
MODERN = {"norm": "rmsnorm", "norm_position": "pre", "positions": "rotary", "non_linearity": "swiglu"}


def close(found: Tensor, expected: Tensor, *, atol: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected, atol=atol, rtol=0)


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    """Every parameter drawn anew, so that ones and zeros of an initialisation hide nothing."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5, generator=generator)
    return module


def small(variant: dict, layers: int = 2, seed: int = 0) -> nn.Module:
    """A model of 9 tokens and sequences of at most 7."""
    return randomised(GPT(2, layers, 8, 9, 7, **variant), seed)


@some
@given(seeds, st.lists(sizes, max_size=3), st.integers(1, 9))
def test_rms_norm_equals_torch(seed, dims, width):
    torch.manual_seed(seed)
    norm = randomised(RMSNorm(width), seed).double()
    x = torch.randn(*dims, width, dtype=torch.float64) * 3 + 2
    close(norm(x), F.rms_norm(x, (width,), norm.weight, norm.eps))


def test_a_new_rms_norm_makes_the_mean_square_one():
    x = torch.randn(50, 16, generator=torch.Generator().manual_seed(0)) * 3 + 2
    close(RMSNorm(16)(x).square().mean(-1), torch.ones(50), atol=1e-4)


@some
@given(seeds, sizes, sizes, sizes, st.booleans())
def test_swiglu_equals_its_formula_neuron_by_neuron(seed, n, d, d_ff, bias):
    torch.manual_seed(seed)
    ffn, x = randomised(SwiGLU(d, d_ff, bias), seed).double(), torch.randn(n, d, dtype=torch.float64)
    p = {name: parameter.detach() for name, parameter in ffn.named_parameters()}
    assert ("W_up.bias" in p) == bias
    expected = torch.zeros(n, d, dtype=torch.float64) + p.get("W_down.bias", 0)
    for row, j in itertools.product(range(n), range(d_ff)):
        gate, up = (
            float(p[f"{name}.weight"][j] @ x[row] + (p[f"{name}.bias"][j] if bias else 0))
            for name in ("W_gate", "W_up")
        )
        expected[row] = expected[row] + gate / (1 + math.exp(-gate)) * up * p["W_down.weight"][:, j]
    close(ffn(x), expected)


@some
@given(st.sampled_from([12, 24, 96, 384]), st.sampled_from([0.5, 1, 2, 4]))
def test_swiglu_has_as_many_parameters_as_the_others(width, multiplier):
    counts = {feed_forward_parameters(width, multiplier, name) for name in ("gelu", "relu", "swiglu")}
    assert counts == {int(2 * multiplier * width**2)}


def torch_layer(block: Block, heads: int, activation: str, pre: bool) -> nn.TransformerEncoderLayer:
    """``torch.nn.TransformerEncoderLayer`` with the weights of a block."""
    D, d_ff = block.ffn[2].weight.shape
    twin = nn.TransformerEncoderLayer(
        D, heads, d_ff, dropout=0, activation=activation, batch_first=True, norm_first=pre
    ).double()
    attention = block.self_attn
    inner = (attention.W_Q, attention.W_K, attention.W_V)
    pairs = [
        (twin.self_attn.in_proj_weight, torch.cat([linear.weight for linear in inner])),
        (twin.self_attn.in_proj_bias, torch.cat([linear.bias for linear in inner])),
        (twin.self_attn.out_proj.weight, attention.W_O.weight),
        (twin.self_attn.out_proj.bias, attention.W_O.bias),
    ]
    for linear, own in ((twin.linear1, block.ffn[0]), (twin.linear2, block.ffn[2])):
        pairs += [(linear.weight, own.weight), (linear.bias, 0 * linear.bias if own.bias is None else own.bias)]
    for norm, own in ((twin.norm1, block.self_attn_norm), (twin.norm2, block.ffn_norm)):
        pairs += [(norm.weight, own.weight), (norm.bias, own.bias)]
    with torch.no_grad():
        for parameter, value in pairs:
            parameter.copy_(value)
    return twin


forms = st.fixed_dictionaries({"norm_position": st.sampled_from(["pre", "post"]), "bias_ffn": st.booleans()})


@some
@given(seeds, sizes, sizes, st.integers(1, 3), st.sampled_from(["relu", "gelu"]), forms)
def test_a_block_equals_torchs(seed, B, S, H, activation, form):
    torch.manual_seed(seed)
    block = randomised(Block(4 * H, H, 2, non_linearity=activation, variant=Variant(**form)), seed).double()
    twin = torch_layer(block, H, activation, form["norm_position"] == "pre")
    x, hidden = torch.randn(B, S, 4 * H, dtype=torch.float64), torch.ones(S, S, dtype=torch.bool).triu(1)
    close(block(x)[0], twin(x, src_mask=hidden))


@some
@given(seeds, sizes, sizes, st.integers(1, 3))
def test_a_block_that_normalises_its_stream_equals_grokfasts(seed, B, S, H):
    torch.manual_seed(seed)
    block = randomised(Block(4 * H, H, variant=Variant(norm_position="pre_stream", bias_ffn=True)), seed).double()
    theirs = torch_layer(block, H, "gelu", pre=True)
    x, hidden = torch.randn(B, S, 4 * H, dtype=torch.float64), torch.ones(S, S, dtype=torch.bool).triu(1)
    h = theirs.norm1(x)
    h = h + theirs.self_attn(h, h, h, attn_mask=hidden, need_weights=False)[0]
    close(block(x)[0], h + theirs.linear2(F.gelu(theirs.linear1(theirs.norm2(h)))))


@pytest.mark.parametrize("layers", [1, 3])
def test_a_pre_norm_decoder_equals_torchs_with_its_last_norm(layers):
    decoder = small({"norm_position": "pre", "bias_ffn": True}, layers).decoder.double()
    x, hidden = torch.randn(3, 5, 8, dtype=torch.float64), torch.ones(5, 5, dtype=torch.bool).triu(1)
    outputs, (states, _) = decoder(x)
    expected = x
    for block, state in zip(decoder.blocks, states.unbind(1)[1:], strict=True):
        expected = torch_layer(block, 2, "gelu", pre=True)(expected, src_mask=hidden)
        close(state, expected)
    close(outputs, F.layer_norm(expected, (8,), decoder.norm.weight, decoder.norm.bias))


@pytest.mark.parametrize("norm", list(NORMS))
@pytest.mark.parametrize("norm_position", models.NORM_POSITIONS)
def test_a_last_norm_is_there_for_pre_norm_alone(norm, norm_position):
    names = {name for name in small({"norm": norm, "norm_position": norm_position}).state_dict() if "norm" in name}
    of_each = {"layernorm": ["weight", "bias"], "rmsnorm": ["weight"], "none": []}[norm]
    where = [f"decoder.blocks.{layer}.{part}_norm" for layer in (0, 1) for part in ("self_attn", "ffn")]
    where += ["decoder.norm"] if norm_position != "post" else []
    assert names == {f"{place}.{part}" for place in where for part in of_each}


def test_without_norms_a_block_only_adds():
    block, x = randomised(Block(8, 2, variant=Variant(norm="none"))), torch.randn(2, 3, 8)
    between = x + block.self_attn(x, x, x)[0]
    close(block(x)[0], between + block.ffn(between))


def turned(x: Tensor) -> Tensor:
    """RoPE by complex numbers in float64: pair i at position m times exp(i m / 10000^(2i/d)); ``(..., S, d)``."""
    S, d = x.shape[-2:]
    pairs = torch.view_as_complex(x.double().unflatten(-1, (d // 2, 2)).contiguous())
    theta = torch.tensor([10000.0 ** (-2 * i / d) for i in range(d // 2)], dtype=torch.float64)
    angles = torch.outer(torch.arange(S, dtype=torch.float64), theta)
    return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@some
@given(seeds, sizes, st.integers(1, 20), st.integers(1, 8))
def test_rotation_equals_that_of_complex_numbers(seed, B, S, pairs):
    x = torch.randn(B, S, 2 * pairs, generator=torch.Generator().manual_seed(seed))
    found = rotate(x, rotary_angles(torch.arange(S), 2 * pairs))
    assert found.dtype == x.dtype
    close(found.double(), turned(x))
    close(found.norm(dim=-1), x.norm(dim=-1))


@some
@given(seeds, st.integers(0, 50), st.integers(0, 50), st.integers(1, 8))
def test_the_product_of_turned_vectors_depends_on_their_distance(seed, m, n, pairs):
    q, k = torch.randn(2, 2 * pairs, generator=torch.Generator().manual_seed(seed)).double()

    def product(m: int, n: int) -> Tensor:
        at_m, at_n = (rotary_angles(torch.tensor(position), 2 * pairs) for position in (m, n))
        return rotate(q, at_m) @ rotate(k, at_n)

    close(product(m, n), product(m + 7, n + 7), atol=1e-4)


@some
@given(seeds, sizes, sizes, st.integers(1, 3), st.integers(1, 3))
def test_rotary_attention_equals_attention_of_turned_queries_and_keys(seed, B, S, H, pairs):
    torch.manual_seed(seed)
    attention = randomised(MultiHeadedAttention(2 * pairs * H, H, rotary=True), seed).double()
    x = torch.randn(B, S, 2 * pairs * H, dtype=torch.float64)
    q, k, v = (attention.split_heads(W(x)) for W in (attention.W_Q, attention.W_K, attention.W_V))
    expected = F.scaled_dot_product_attention(turned(q), turned(k), v, is_causal=True)
    close(attention(x, x, x)[0], attention.W_O(attention.merge_heads(expected)))


def test_learned_positions_are_added_and_learn():
    model, tokens = small({"positions": "learned"}), torch.randint(9, (2, 5))
    table = model.get_parameter("embedding.positions.weight")
    assert table.shape == (7, 8)
    close(model.embedding(tokens), F.embedding(tokens, model.embedding.tokens.weight) + table[:5])
    model(tokens)[0].square().sum().backward()
    assert table.grad[:5].any(-1).all() and not table.grad[5:].any()
    assert "embedding.position_encoding" not in model.state_dict()


@pytest.mark.parametrize("positions", ["rotary", "none"])
def test_other_positions_have_no_table(positions):
    model, tokens = small({"positions": positions}), torch.randint(9, (2, 5))
    assert {name for name in model.state_dict() if name.startswith("embedding")} == {"embedding.tokens.weight"}
    close(model.embedding(tokens), F.embedding(tokens, model.embedding.tokens.weight))


@some
@given(seeds, variants)
def test_only_without_positions_one_layer_does_not_see_the_order_of_the_past(seed, variant):
    torch.manual_seed(seed)
    model = small(variant, layers=1, seed=seed)
    tokens = torch.tensor([[0, 1, 2, 3, 4]])
    logits = model(tokens)[0][:, -1]
    change = (logits - model(tokens[:, [2, 0, 3, 1, 4]])[0][:, -1]).abs().max()
    assert (change < 1e-5 * logits.abs().max().clamp(min=1)) == (variant["positions"] == "none")


@every
def test_a_future_token_never_changes_a_past_logit(variant):
    torch.manual_seed(0)
    model, tokens = small(variant), torch.randint(9, (4, 7))
    for t in range(1, 7):
        changed = tokens.clone()
        changed[:, t:] = (tokens[:, t:] + torch.randint(1, 9, (4, 7 - t))) % 9
        before, after = model(tokens)[0], model(changed)[0]
        close(after[:, :t], before[:, :t], atol=1e-6)
        assert not torch.equal(after[:, t], before[:, t])


def test_the_default_is_the_practicals_model_name_by_name_and_number_by_number():
    torch.manual_seed(3)
    model = GPT(2, 2, 8, 9, 7, multiplier=2)
    assert list(model.state_dict()) == list(GPT(2, 2, 8, 9, 7, multiplier=2, **PRACTICAL).state_dict())
    torch.manual_seed(3)
    expected = {"embedding.position_encoding": None, "embedding.tokens.weight": nn.Embedding(9, 8).weight}
    for layer in range(2):
        block = f"decoder.blocks.{layer}"
        for name in ("W_Q", "W_K", "W_V", "W_O"):
            linear = nn.Linear(8, 8)
            expected |= {f"{block}.self_attn.{name}.{part}": getattr(linear, part) for part in ("weight", "bias")}
        norm = {"weight": torch.ones(8), "bias": torch.zeros(8)}
        expected |= {f"{block}.self_attn_norm.{part}": value for part, value in norm.items()}
        expected[f"{block}.ffn.0.weight"] = nn.Linear(8, 16, bias=False).weight
        expected[f"{block}.ffn.2.weight"] = nn.Linear(16, 8, bias=False).weight
        expected |= {f"{block}.ffn_norm.{part}": value for part, value in norm.items()}
    classifier = nn.Linear(8, 9)
    expected |= {"classifier.weight": classifier.weight, "classifier.bias": classifier.bias}
    assert list(model.state_dict()) == list(expected)
    for name, tensor in model.state_dict().items():
        assert expected[name] is None or torch.equal(tensor, expected[name]), name


PRACTICAL = {
    "norm": "layernorm",
    "norm_position": "post",
    "positions": "sinusoidal",
    "bias_ffn": False,
    "non_linearity": "gelu",
}


def test_a_variants_setting_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="norm must be one of layernorm rmsnorm none, got 'batchnorm'"):
        Variant(norm="batchnorm")
    with pytest.raises(ValueError, match="rotary positions need an even d_model / num_heads, got 6 / 2"):
        GPT(2, 1, 6, 9, 7, positions="rotary")
    with pytest.raises(TypeError, match="normposition"):
        GPT(2, 1, 8, 9, 7, normposition="pre")


def test_the_tables_of_names_agree_with_the_specs():
    assert tuple(NORMS) == tables.NORMS
    assert tables.POSITIONS == POSITIONS
    assert tables.NORM_POSITIONS == models.NORM_POSITIONS
    assert {name: tables.GPTSettings.usual()[name] for name in PRACTICAL} == PRACTICAL


@st.composite
def specs(draw) -> RunSpec:
    """Valid runs of any variant and size."""
    chosen = draw(variants) | {name: draw(st.booleans()) for name in ("bias", "bias_classifier", "share_embeddings")}
    heads, pairs = draw(st.sampled_from([1, 2, 4])), draw(st.integers(1, 4))
    multiplier = draw(st.sampled_from([0.3, 1, 2.5, 4]))
    assume(2 * multiplier * heads * pairs * 2 / 3 >= 1)
    size = {"num_heads": heads, "embedding_size": 2 * pairs * heads, "multiplier": multiplier}
    return RunSpec(model="gpt", p=draw(st.integers(3, 9)), num_layers=draw(st.integers(1, 3)), **size, **chosen)


@settings(max_examples=100, deadline=None)
@given(specs())
def test_closed_form_counts_equal_counting(spec):
    sizes = spec.task_part.sizes()
    assert sizes.vocabulary_size == spec.p + 5
    model = spec.model_part.build(sizes)
    names = dict(model.named_parameters())  # a shared weight goes by its first name, the embedding's
    counted = sum(p.numel() for name, p in names.items() if not name.startswith("embedding."))
    assert spec.model_part.count(sizes) == counted == count_parameters(model) == count_run_parameters(spec)


@some
@given(specs())
def test_a_spec_comes_back_from_its_dump_and_builds_its_model(spec):
    again = RunSpec.restored(spec.dump())
    assert again == spec and again.dump() == spec.dump()
    assert RunSpec.restored(spec.dump()).id == spec.id
    model = build_model(spec)
    assert isinstance(model.decoder.blocks[0].self_attn_norm, NORMS[spec.norm])
    assert model.decoder.blocks[0].self_attn.rotary == (spec.positions == "rotary")
    assert ("decoder.blocks.0.ffn.W_gate.weight" in model.state_dict()) == (spec.non_linearity == "swiglu")


def test_every_variant_is_a_run_of_its_own():
    assert len({RunSpec(model="gpt", **variant).id for variant in EVERY}) == len(EVERY) == 210
    assert RunSpec(model="gpt", **PRACTICAL).id == RunSpec(model="gpt").id


def scattered(specs: list[RunSpec], engine: str) -> Stack:
    """A stack away from its initial values, so that biases and norms matter; less far where no norm tames it."""
    stack = Stack(one_cohort(specs), CPU, engine)
    scale = 0.05 if specs[0].norm == "none" else 0.2
    with torch.no_grad():
        stack.theta += scale * torch.randn(stack.theta.shape, generator=torch.Generator().manual_seed(1))
    return stack


@pytest.fixture(autouse=True)
def _needs_the_kernels(request):
    if "compiled" in str(request.node.name) and kernels().library is None:
        pytest.skip(kernels().note)


shapes = st.fixed_dictionaries(
    {
        "p": st.sampled_from([2, 3, 5]),
        "operation_orders": st.sampled_from([(2,), (2, 3)]),
        "train_batch_size": st.sampled_from([1, 7, 64, 512]),
        "num_layers": st.integers(1, 3),
        "embedding_size": st.sampled_from([4, 8, 20, 32]),
        "bias": st.booleans(),
        "share_embeddings": st.booleans(),
    }
)


@pytest.mark.parametrize("engine", ["prefixes", "compiled"])
@settings(max_examples=60, deadline=None)
@given(shape=shapes, variant=variants)
def test_the_prefix_engines_equal_the_model_as_it_is_written(engine, shape, variant):
    specs = tiny_grid({"model": "gpt", **shape, **variant}, r_train=[0.4, 0.6], seed=[0, 1])
    slow, fast = scattered(specs, "plain"), scattered(specs, engine)
    assert fast.scorer is not None and slow.scorer is None
    assume(not is_at_a_kink(slow))
    (expected, expected_gradient), (found, gradient) = gradients(slow), gradients(fast)
    torch.testing.assert_close(found, expected, atol=2e-5, rtol=3e-5)
    scale = expected_gradient.abs().amax(1, keepdim=True)
    torch.testing.assert_close(gradient / scale, expected_gradient / scale, atol=5e-4, rtol=0)


def is_at_a_kink(stack: Stack, within: float = 3e-6) -> bool:
    """Whether what enters a ReLU is 0 but for rounding: its gradient may then be 0 in one engine and 1 in another."""
    entering: list[float] = []
    for place in range(len(stack.cohort)):
        model = stack.built_model(place)
        for module in model.modules():
            if isinstance(module, nn.ReLU):
                module.register_forward_pre_hook(lambda _, inputs: entering.append(float(inputs[0].abs().min())))
        tensors = {name: tensor[place] for name, tensor in stack.tensors.items()}
        with torch.no_grad():
            stack.task.objective(model, stack.task.batch(tensors, stack.scored["train"][place]))
    return any(value < within for value in entering)


def gradients(stack: Stack) -> tuple[Tensor, Tensor]:
    """Loss of the training examples and the gradient of its sum, ``(R, P)``."""
    loss = stack.score(stack.scored["train"])["loss"]
    (gradient,) = torch.autograd.grad(loss.sum(), stack.theta)
    return loss.detach(), gradient


@pytest.mark.parametrize("engine", ["prefixes", "compiled"])
@pytest.mark.parametrize(
    "variant",
    [
        MODERN,
        {"positions": "learned", "norm": "none", "non_linearity": "relu", "bias_ffn": True},
        {"norm_position": "pre_stream", "positions": "vaswani"},
    ],
)
def test_training_equals_training_of_the_model(engine, variant, steps=15):
    specs = tiny_grid({"model": "gpt", "p": 7, "train_batch_size": 9, **variant}, lr=[1e-3, 3e-3], seed=[0, 1])
    stacks = [Stack(one_cohort(specs), CPU, name) for name in ("plain", engine)]
    for _ in range(steps):
        for stack in stacks:
            train_step(stack)
    expected, found = (evaluate(stack, {}) for stack in stacks)
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], atol=2e-5, rtol=0)


@pytest.mark.parametrize("engine", ["prefixes", "compiled"])
@pytest.mark.parametrize(
    "variant",
    [
        MODERN,
        {"positions": "learned", "norm_position": "pre", "bias_ffn": True},
        {"positions": "learned", "norm_position": "pre_stream", "bias_ffn": True},
    ],
)
@pytest.mark.parametrize("batch", [8, 512])
def test_a_member_does_not_notice_its_neighbours_by_one_bit(engine, variant, batch):
    specs = tiny_grid({"model": "gpt", "p": 7, "train_batch_size": batch, **variant}, lr=[1e-3, 3e-3], seed=[0, 1])
    together, alone = Stack(one_cohort(specs), CPU, engine), [Stack(one_cohort([s]), CPU, engine) for s in specs]
    for _ in range(10):
        for stack in (together, *alone):
            train_step(stack)
    for index, stack in enumerate(alone):
        assert torch.equal(theta(together, index), theta(stack, 0)), index


def test_a_stacked_member_equals_the_member_alone_and_its_module():
    specs = tiny_grid({"model": "gpt", "dropout": 0.3, "bias_ffn": True, **MODERN}, lr=[1e-3, 3e-3], seed=[0, 1])
    together, alone = trained(specs, steps=8), trained(specs[3:], steps=8)
    for name, tensor in alone.member(0).items():
        if not name.endswith("W_K.bias"):  # softmax does not see it before it is turned
            close(together.member(3)[name], tensor, atol=2e-5)
    module, inputs = together.built_model(3), together.tensors["inputs"][3]
    close(module(inputs)[0], torch.func.functional_call(together.model.eval(), together.member(3), (inputs,))[0])


@every
def test_the_fastest_engine_is_chosen_for_every_variant(variant):
    assert fastest(tiny(model="gpt", **variant))["engine"] == ("prefixes" if kernels().library is None else "compiled")


@pytest.mark.parametrize("engine", ["plain", "prefixes"])
@pytest.mark.parametrize("variant", [PRACTICAL, *EVERY[::7], {**MODERN, "bias_ffn": True}])
def test_the_estimate_of_memory_is_above_what_is_kept_for_the_backward_twice(engine, variant):
    spec = RunSpec(model="gpt", embedding_size=32, p=11, r_train=0.7, **variant)
    stack, kept = Stack(one_cohort([spec]), CPU, engine), {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = (storage.nbytes(), storage)  # held, so that no other takes its place
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        stack.score(stack.scored["train"])
    assert (
        2 * sum(size for size, _ in kept.values())
        < stack_bytes(spec, 1, engine)
        < 12 * sum(size for size, _ in kept.values())
    )
