"""Engine ``windows`` of fine-tuned models, against the model as it is written; and what of a base it never holds."""

import hashlib
import json
import math
from functools import partial

import adapted
import pytest
import torch
from helpers import CPU, theta
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from test_windows import begun
from window_models import assert_the_models, moved_stack

from shoal.errors import UserError
from shoal.fast.bases import Frozen
from shoal.fast.engine import choose_engine, engine_kernels, products_for
from shoal.lab.tensors import save_tensors
from shoal.models.bases import read_base
from shoal.models.settings import GPTSettings
from shoal.quantisation import BlockCodes
from shoal.spec import RunSpec
from shoal.tasks.build import build_model
from shoal.training.loop import Options, Session, train_cohort
from shoal.training.memory import stack_bytes
from shoal.training.step import evaluate, train_steps

pytestmark = pytest.mark.skipif(engine_kernels("windows", CPU).library_for is None, reason="no compiler")
TEXT = {"task": "text", "tokenizer": "bytes", "context_length": 6, "train_batch_size": 3, "eval_batch_size": 64}
PAIRS = {"task": "sorting", "min_length": 2, "max_length": 6, "digits": 8, "train_examples": 40, "valid_examples": 12}
PAIRS |= {"train_batch_size": 5, "eval_batch_size": 64}
GPT = {"model": "gpt", "num_layers": 2, "embedding_size": 8, "num_heads": 2}
VARIANT = {"norm_position": "pre", "norm": "rmsnorm", "non_linearity": "swiglu", "positions": "learned"}
BASES = {
    "gpt": {**TEXT, **GPT},
    "variant": {**TEXT, **GPT, **VARIANT, "share_embeddings": True, "dropout": 0.1, "dropout_at": "neurons_too"},
    "stream": {**TEXT, **GPT, "norm_position": "pre_stream", "bias_norm": False, "positions": "rotary", "bias": False},
    "lstm": {**TEXT, "model": "lstm", "num_layers": 2, "embedding_size": 32},
    "encoder_decoder": {**PAIRS, **GPT, "model": "encoder_decoder", "num_layers": 1, "tie_embeddings": "all"},
    "encoder_translator": {**PAIRS, **GPT, "model": "encoder_translator"},
    "non_autoregressive": {**PAIRS, **GPT, "model": "non_autoregressive"},
    "lstm_encoder_decoder": {**PAIRS, "model": "lstm_encoder_decoder", "num_layers": 2, "embedding_size": 8},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("bases")
    adapted.text_file(made)
    return made


def of_text(folder, own):
    return {**own, "text": str(folder / "sheep.txt")} if own["task"] == "text" else own


def base_of(folder, name, **changes):
    """File of a base away from its initial values, so that its biases and norms matter."""
    path = folder / f"{name}{hashlib.sha256(json.dumps(changes).encode()).hexdigest()[:16]}.safetensors"
    if not path.exists():
        spec = RunSpec(**of_text(folder, {**BASES[name], **changes}), n_steps=1, seed=3)
        model, noise = build_model(spec), torch.Generator().manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.2 * torch.randn(parameter.shape, generator=noise)
        tensors = {key: tensor.clone() for key, tensor in model.state_dict().items()}
        save_tensors(path, tensors, {"spec": json.dumps(spec.dump())})
    return str(path)


def runs(folder, name, members=2, base=None, **own):
    """Runs on one base that differ in seed and learning rate, and those with adapters in rank and factor."""
    task = {key: value for key, value in BASES[name].items() if key in {**TEXT, **PAIRS}}
    every = {**of_text(folder, task), "model": "finetuned", "base_model": base or base_of(folder, name), "n_steps": 9}
    every |= {"lr": 1e-2, "weight_decay": 0.1, **own}
    differ = [{"lora_rank": 1 + seed % 3, "lora_alpha": 2.0 + seed} for seed in range(members)]
    if own.get("adapter") == "full":
        return [RunSpec(**every, seed=seed) for seed in range(members)]
    return [RunSpec(**{"lora_width": 3, **every}, **each, seed=seed) for seed, each in enumerate(differ)]


def stack_of(specs, engine="windows", products=None):
    """A stack away from its initial values, where B is not 0; what pads an adapter stays 0."""
    stack = moved_stack(specs, engine, products)
    with torch.no_grad():
        for place, spec in enumerate(specs):
            for name, tensor in stack.parameters().items() if spec.adapter != "full" else ():
                rows = tensor[place] if name.endswith(".A") else tensor[place].T
                rows[spec.lora_rank :] = 0
    return stack


CASES = [
    ("gpt", {}),
    ("gpt", {"adapter": "qlora", "lora_targets": "W_O,W_V", "quantization": "absmax"}),
    ("variant", {"adapter": "qlora", "lora_dropout": 0.3, "dropout": 0.2}),
    ("variant", {"adapter": "full"}),
    ("stream", {"lora_targets": "classifier,ffn"}),
    ("lstm", {"dropout": 0.2}),
    pytest.param("lstm", {"adapter": "qlora", "lora_targets": "layers.1"}, marks=pytest.mark.slow),
    ("encoder_decoder", {}),
    pytest.param("lstm_encoder_decoder", {"lora_targets": "forget_gate,W_a"}, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("base", "own"), CASES, ids=str)
def test_losses_and_gradients_are_those_of_the_model(folder, base, own):
    specs = runs(folder, base, **own)
    assert choose_engine(specs[0], math.inf, CPU).engine == "windows"
    assert_the_models(partial(stack_of, specs))


BITS = [("gpt", {}, "own"), ("variant", {"adapter": "qlora"}, "torch"), ("lstm", {}, "own")]


@pytest.mark.parametrize(("base", "own", "products"), BITS, ids=str)
def test_alone_in_a_stack_and_resumed_a_member_has_the_same_bits(folder, base, own, products):
    specs = runs(folder, base, members=3, **own)
    together, alone = stack_of(specs, products=products), [stack_of([spec], products=products) for spec in specs]
    train_steps(together, 2)
    again = stack_of(specs, products=products)
    again.load_state({name: tensor.clone() for name, tensor in together.state().items()})
    for stack in (together, again):
        train_steps(stack, 2)
    assert torch.equal(again.theta, together.theta)
    scores = evaluate(together, {})
    for place, (stack, spec) in enumerate(zip(alone, specs, strict=True)):
        train_steps(stack, 4)
        assert torch.equal(theta(together, place), theta(stack, 0)), place
        for name, column in evaluate(stack, {}).items():
            assert torch.equal(column[0], scores[name][place]), name
        for name, tensor in together.member(place).items():
            assert not (tensor if name.endswith(".A") else tensor.T)[spec.lora_rank :].any()


def test_groups_of_members_change_no_bit(folder, monkeypatch):
    specs = runs(folder, "gpt", members=3)
    together = stack_of(specs)
    train_steps(together, 2)
    monkeypatch.setattr("shoal.fast.passes.CACHE", 1)
    apart = stack_of(specs)
    train_steps(apart, 2)
    groups = [{len(passes.groups) for passes, _ in stack.scorer.passes.values()} for stack in (together, apart)]
    assert groups == [{1}, {-(-3 // torch.get_num_threads())}]
    assert torch.equal(together.theta, apart.theta)


def test_training_changes_no_bit_of_a_base_and_computes_no_gradient_of_it(folder, monkeypatch):
    name, changes = "gpt", {"embedding_size": 32, "num_layers": 3}
    base = base_of(folder, name, **changes)
    before = {key: tensor.clone() for key, tensor in read_base(base).tensors.items()}
    size = sum(tensor.nbytes for tensor in before.values())
    taken, values = [], Frozen.values
    monkeypatch.setattr(Frozen, "values", lambda frozen, R: taken.append(made := values(frozen, R)) or made)
    for adapter in ("lora", "qlora"):
        joined = {}
        for members in (1, 3):
            how = {"adapter": adapter, "weight_decay": 1.0, "decay_all": True, "optimizer": "lion", "context_length": 2}
            stack = stack_of(runs(folder, name, members, base, **how, train_batch_size=1))
            train_steps(stack, 3)
            assert stack.scorer.gradient.shape == stack.theta.shape
            assert stack.scorer.gradient.nbytes < members * size / 4
            assert stack.scorer.arena.n_bytes < members * size / 4, "values of two tokens"
            joined[members] = sum(tensor.nbytes for tensor in stack.scorer.arena.joined.values())
        of_keys_and_values = 4 * 3 * 2 * (32 + (32**2 if adapter == "lora" else 0))
        assert joined == dict.fromkeys(joined, of_keys_and_values)
    assert taken and all(value.grad is None and value.is_constant for made in taken for value in made.values())
    for key, tensor in before.items():
        assert torch.equal(tensor, read_base(base).tensors[key]), key


def test_codes_are_dequantised_once_for_all_members(folder, monkeypatch):
    counted, dequantise = [], BlockCodes.dequantise
    monkeypatch.setattr(BlockCodes, "dequantise", lambda codes, out=None: counted.append(1) or dequantise(codes, out))
    monkeypatch.setattr("shoal.fast.passes.CACHE", 1)
    numbers = {}
    for members in (1, 3):
        stack = stack_of(runs(folder, "gpt", members, adapter="qlora"))
        train_steps(stack, 1)
        counted.clear()
        train_steps(stack, 1)
        numbers[members] = len(counted)
    layers = 2 * 6  # forwards, and backwards but for queries, keys and values of the first, whose inputs are constants
    assert numbers == {1: 2 * layers - 3, 3: 2 * layers - 3}


class OtherGPT(GPTSettings):
    """A family from outside, which does not say that the engine is written for it."""


def test_a_base_that_it_does_not_know_is_left_to_plain(folder):
    other = base_of(folder, "gpt", model=f"{__name__}:OtherGPT")
    spec = runs(folder, "gpt", 1, other)[0]
    choice = choose_engine(spec, math.inf, CPU)
    assert choice.engine == "plain" and "OtherGPT" in choice.why
    assert choose_engine(spec, math.inf, CPU, "windows").engine == "plain"
    stack_of([spec], "plain")
    widths = [runs(folder, "gpt", 1, base_of(folder, "gpt", embedding_size=D))[0] for D in (8, 64)]
    plain = [RunSpec(**of_text(folder, {**BASES["gpt"], "embedding_size": D})) for D in (8, 64)]
    assert [products_for("windows", one, CPU) for one in widths] == [products_for("windows", one, CPU) for one in plain]


def test_a_cohort_begun_on_plain_goes_on_there_and_ids_are_as_before(folder, tmp_path):
    specs = runs(folder, "gpt", 1)
    for engine in ("plain", "windows"):
        made = begun(tmp_path / engine, specs, engine)
        stops = iter([False] * 2 + [True] * 99)
        assert train_cohort(made, Options(stop=lambda stops=stops: next(stops))) == "interrupted"
        session = Session(made, Options())
        assert session.engine == engine and (session.roster.stack.scorer is None) == (engine == "plain")
    ids = [spec.id for spec in adapted.specs(adapted.Path(__file__).parent / "vectors" / "gpt2")]
    assert ids == ["57a842d28f38f5e7", "f63a6c1bc3dadbaa"]


def test_memory_counts_a_base_once(folder):
    small, large = (runs(folder, "gpt", 1, base_of(folder, "gpt", embedding_size=D))[0] for D in (8, 32))
    bytes_of = [
        4 * sum(tensor.numel() for tensor in read_base(spec.base_model).tensors.values()) for spec in (small, large)
    ]
    for spec, size in zip((small, large), bytes_of, strict=True):
        for engine in ("plain", "windows"):
            one, more = stack_bytes(spec, 1, engine), stack_bytes(spec, 9, engine)
            assert one > 2 * size
            assert (more - one) / 8 < one - 2 * size
    coded = large.replace(adapter="qlora")
    assert stack_bytes(coded, 9, "windows") > stack_bytes(large, 9, "windows"), "all members pass at once"


# longer ones


def variants():
    """A base of any family, and what of it is trained."""
    any_bool = st.booleans()
    block = {
        "num_heads": st.sampled_from([1, 2]),
        "norm": st.sampled_from(["layernorm", "rmsnorm", "none"]),
        "norm_position": st.sampled_from(["post", "pre", "pre_stream"]),
        "positions": st.sampled_from(["sinusoidal", "vaswani", "learned", "rotary", "none"]),
        "non_linearity": st.sampled_from(["gelu", "relu", "swiglu"]),
        "dropout_at": st.sampled_from(["feed_forward", "everywhere", "neurons_too"]),
        "bias_ffn": any_bool,
        "bias_norm": any_bool,
    }
    common = {"num_layers": st.integers(1, 2), "embedding_size": st.sampled_from([4, 8, 12, 32]), "bias": any_bool}
    common |= {"bias_classifier": any_bool}
    families = [
        *(("gpt", {**common, **block, "share_embeddings": any_bool}),) * 3,
        ("lstm", {**common, "share_embeddings": any_bool}),
        ("encoder_decoder", {**common, **block, "tie_embeddings": st.sampled_from(["none", "decoder"])}),
        ("encoder_translator", {**common, **block}),
        ("non_autoregressive", {**common, **block, "positions": st.sampled_from(["sinusoidal", "vaswani", "learned"])}),
        ("lstm_encoder_decoder", {**common, "bidirectional": any_bool}),
    ]
    coded = {"quantization": st.sampled_from(["nf4", "fp4", "absmax"]), "double_quantization": any_bool}

    def trained(name):
        layers = ["forget_gate,output_gate", "candidate_cell"] if "lstm" in name else ["W_Q", "W_K,W_V", "W_O", "ffn"]
        lora = {"lora_targets": st.sampled_from([None, None, "classifier", *layers]), "lora_width": st.integers(3, 4)}
        lora |= {"lora_dropout": st.sampled_from([0.0] if "lstm" in name else [0.0, 0.3])}  # it has no place in gates
        adapters = [{"adapter": st.just("lora"), **lora}, {"adapter": st.just("qlora"), **lora, **coded}]
        return st.sampled_from([*adapters, {"adapter": st.just("full")}]).flatmap(
            lambda how: st.fixed_dictionaries({**how, "dropout": st.sampled_from([0.0, 0.3])})
        )

    return st.sampled_from(families).flatmap(
        lambda each: st.tuples(st.tuples(st.just(each[0]), st.fixed_dictionaries(each[1])), trained(each[0]))
    )


def possible(folder, variant, members):
    """Runs of these settings, where they go together."""
    (name, changes), own = variant
    try:
        return runs(folder, name, members, base_of(folder, name, **changes), **own)
    except (UserError, ValueError):
        assume(False)


longer = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


@pytest.mark.slow
@pytest.mark.parametrize("without_kernels", [False, True])
@longer
@given(variant=variants(), members=st.integers(1, 3), products=st.sampled_from(["own", "torch"]))
def test_every_variant_has_the_losses_and_gradients_of_the_model(folder, without_kernels, variant, members, products):
    specs = possible(folder, variant, members)
    assert_the_models(partial(stack_of, specs, products=products), without_kernels)


@pytest.mark.slow
@longer
@given(variant=variants(), members=st.integers(2, 3), products=st.sampled_from(["own", "torch"]))
def test_no_variant_notices_its_neighbours_by_one_bit(folder, variant, members, products):
    specs = possible(folder, variant, members)
    together = stack_of(specs, products=products)
    train_steps(together, 5)
    for place, spec in enumerate(specs):
        alone = stack_of([spec], products=products)
        train_steps(alone, 5)
        assert torch.equal(theta(together, place), theta(alone, 0))
