"""What a run is called, what its settings default to, and what is refused."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from shoal.errors import UserError
from shoal.models import gpt, initialisation, positions
from shoal.models import settings as model_settings
from shoal.models.settings import LSTMSettings
from shoal.registry import KINDS, MODELS, RULES, TASKS
from shoal.rules import schedules
from shoal.rules import settings as rule_settings
from shoal.rules.settings import AdamW
from shoal.spec import RunSpec, grid
from shoal.spec.fields import extra
from shoal.spec.identity import trajectory_of, trajectory_version
from shoal.spec.known import known_settings
from shoal.spec.run import classes_of
from shoal.tasks.arithmetic.equations import FORMATS, OPERATORS
from shoal.tasks.arithmetic.settings import Arithmetic
from shoal.tasks.build import build_task

some = settings(max_examples=25, deadline=None)

FRACTION = st.floats(0, 0.99)
POSITIVE = st.floats(1e-6, 10)
SEED = st.integers(0, 2**32 - 1)
COMMON = {
    "p": st.sampled_from([5, 7, 11, 31]),
    "q": st.sampled_from([5, 7, 31]),
    "operator": st.sampled_from("+-*/"),
    "equation_format": st.sampled_from(list(FORMATS)),
    "unused_tokens": st.integers(0, 9),
    "r_train": st.floats(0.2, 0.8),
    "zero_operands": st.sampled_from(["any", "none"]),
    "split_shuffle": st.sampled_from(["numpy", "python"]),
    "operation_orders": st.sampled_from([2, 3, "2,3", [3, 2], (2,)]),
    "is_symmetric": st.booleans(),
    "split_per_order": st.booleans(),
    "train_batch_size": st.integers(1, 600),
    "eval_batch_size": st.integers(1, 600),
    "num_layers": st.integers(1, 4),
    "embedding_size": st.sampled_from([8, 64, 128]),
    "dropout": FRACTION,
    "bias": st.booleans(),
    "bias_classifier": st.booleans(),
    "lr": POSITIVE,
    "weight_decay": st.just(0.0) | st.floats(1e-6, 2),
    "clip": POSITIVE | st.just(math.inf),
    "decay_all": st.booleans(),
    "lr_schedule": st.sampled_from(["constant", "linear", "cosine"]),
    "warmup_steps": st.integers(0, 99),
    "warmup_from_zero": st.booleans(),
    "label_smoothing": FRACTION,
    "n_steps": st.integers(100, 10**6),
    "eval_first": st.integers(0, 200),
    "eval_period": st.integers(1, 200),
    "save_model_step": st.integers(1, 200) | st.just(math.inf) | st.none(),
    "save_statistic_step": st.integers(1, 200) | st.none(),
    "seed": SEED,
    "init_seed": SEED,
    "split_seed": SEED,
    "order_seed": SEED,
}
INITIAL = {model: st.sampled_from(extra(MODELS[model], "initialisation")["choices"]) for model in ("lstm", "gpt")}
BY_MODEL = {
    "lstm": {
        "hidden_size": st.integers(1, 64),
        "initialisation": INITIAL["lstm"],
    },
    "gpt": {
        "num_heads": st.sampled_from([1, 2, 4]),
        "multiplier": st.sampled_from([0.5, 2, 4]),
        "non_linearity": st.sampled_from(["gelu", "relu", "swiglu"]),
        "norm": st.sampled_from(["layernorm", "rmsnorm", "none"]),
        "norm_position": st.sampled_from(["post", "pre", "pre_stream"]),
        "positions": st.sampled_from(["sinusoidal", "vaswani", "learned", "rotary", "none"]),
        "bias_ffn": st.booleans(),
        "initialisation": INITIAL["gpt"],
        "share_embeddings": st.booleans(),
    },
}
MOMENTS = {"beta1": FRACTION, "beta2": FRACTION, "eps": POSITIVE}
BY_OPTIMIZER = {"sgd": {}, "momentum": {"momentum": FRACTION}, "adam": MOMENTS, "adamw": MOMENTS}
BY_OPTIMIZER |= {"lion": {"beta1": FRACTION, "beta2": FRACTION}, "muon": MOMENTS | {"momentum": FRACTION}}


@st.composite
def asked(draw) -> dict:
    """Some settings of a valid run, the rest left out."""
    model, optimizer = draw(st.sampled_from(list(BY_MODEL))), draw(st.sampled_from(list(BY_OPTIMIZER)))
    chosen = draw(st.fixed_dictionaries({}, optional=COMMON | BY_MODEL[model] | BY_OPTIMIZER[optimizer]))
    if chosen.get("operation_orders") not in ("2,3", [3, 2]):
        chosen.pop("split_per_order", None)
    if model == "lstm" and chosen.get("num_layers") == 1:
        chosen.pop("dropout", None)
    if chosen.get("norm") == "none":
        chosen.pop("norm_position", None)
    if chosen.get("operator") == "/" and chosen.get("q", 31) < chosen.get("p", 31):
        chosen.pop("q")
    if (chosen.get("initialisation"), chosen.get("share_embeddings")) == ("nanda", True):
        chosen.pop("share_embeddings")
    if not chosen.get("warmup_steps"):
        chosen.pop("warmup_from_zero", None)
    return {"model": model, "optimizer": optimizer, **chosen}


# These name runs in the labs on users' disks: a change that renames them orphans what was trained.
FROZEN_IDS = [
    ("e123e56107bb2555", {}),  # the second name: see LSTMSettings.trajectory
    ("06cb538b79ead090", {"model": "gpt", "seed": 0}),
    (
        "6b7e2bd5d6f4f4a1",
        {"model": "gpt", "seed": 0, "optimizer": "sgd", "embedding_size": 64, "operation_orders": (2, 3), "p": 11},
    ),
]


@pytest.mark.parametrize(("run", "chosen"), FROZEN_IDS)
def test_ids_never_change(run, chosen):
    assert RunSpec(**chosen).id == run


def test_settings_left_open_take_the_value_that_fits():
    spec = RunSpec(p=7, embedding_size=64, seed=3)
    assert (spec.q, spec.hidden_size, spec.weight_decay, spec.beta1, spec.beta2) == (7, 64, 1.0, 0.9, 0.999)
    assert (spec.init_seed, spec.split_seed, spec.order_seed) == (3, 3, 3)
    for name in ("num_heads", "multiplier", "non_linearity", "momentum"):
        assert_lacks(spec, name)
    spec = RunSpec(model="gpt", optimizer="momentum")
    assert (spec.num_heads, spec.multiplier, spec.non_linearity) == (4, 4.0, "gelu")
    assert (spec.norm, spec.norm_position, spec.positions, spec.bias_ffn) == ("layernorm", "post", "sinusoidal", False)
    assert (spec.momentum, spec.weight_decay) == (0.9, 0.0)
    for name in ("hidden_size", "beta1", "beta2", "eps"):
        assert_lacks(spec, name)


def assert_lacks(spec: RunSpec, name: str) -> None:
    assert name not in set(spec) and name not in spec.dump()
    assert spec.get(name) is None and spec.get(name, 7) == 7
    with pytest.raises(AttributeError, match=name):
        getattr(spec, name)


@some
@given(asked())
def test_a_run_has_the_settings_of_its_parts_and_no_others(chosen):
    spec = RunSpec(**chosen)
    names = list(spec)
    assert names == list(spec.dump()) and len(set(names)) == len(names)
    kinds = classes_of(spec.task, spec.model, spec.optimizer).values()
    assert set(names) == {*KINDS, *(name for kind in kinds for name in kind.model_fields)}
    for name in known_settings().keys() - set(names):
        assert_lacks(spec, name)


def test_permutations_are_120_unless_p_is_given():
    spec = RunSpec(operator="s5:xy")
    assert (spec.p, spec.q) == (120, 120)
    assert spec == RunSpec(operator="s5:xy", p=120) == RunSpec(**spec.dump())
    assert RunSpec.restored(spec.dump()).dump() == spec.dump()
    assert [spec.p for spec in grid(operator=["+", "s5:xy", "x^2+y^2"])] == [31, 120, 31]
    assert RunSpec().p == 31


def test_what_was_trained_on_contradictory_equations_can_still_be_read():
    for choice in ({"p": 7, "q": 5, "operator": "/"}, {"p": 3, "q": 2, "operator": "/", "operation_orders": "2,3"}):
        with pytest.raises(UserError, match="division needs q of at least p"):
            RunSpec(**choice)
        dump = {**RunSpec(**choice | {"q": 7}).dump(), "q": choice["q"]}
        old = RunSpec.restored(dump)
        assert old.dump() == dump
        assert build_task(old).scored["train"].numel()
        with pytest.raises(UserError, match="division needs q of at least p"):
            grid(old, seed=[0, 1])


def may_be_none(kind, name):
    return kind.model_fields[name].default is None or extra(kind, name)["may_be_open"]


@some
@given(asked())
def test_none_or_the_default_itself_name_the_same_run(chosen):
    spec = RunSpec(**chosen)
    own = {name: type(part) for part in spec.parts.values() for name in type(part).model_fields}
    filled = {name for name, kind in own.items() if not may_be_none(kind, name)}
    with_none = RunSpec(**chosen, **dict.fromkeys(known_settings().keys() - filled - chosen.keys()))
    given_whole = RunSpec(**{name: getattr(spec, name) for name in spec})
    assert spec == with_none == given_whole
    assert spec.id == with_none.id == given_whole.id
    assert hash(spec) == hash(with_none) == hash(given_whole)


@some
@given(asked(), st.integers(1, 10**4))
def test_operational_settings_do_not_change_the_run(chosen, n):
    other = {**chosen, "eval_batch_size": n, "save_statistic_step": n}
    assert RunSpec(**other).id == RunSpec(**chosen).id


CHANGES = {
    "p": 11,
    "q": 11,
    "operator": "-",
    "r_train": 0.4,
    "operation_orders": 3,
    "is_symmetric": True,
    "zero_operands": "first",
    "split_shuffle": "python",
    "equation_format": "infix",
    "unused_tokens": 1,
    "train_batch_size": 64,
    "num_layers": 1,
    "embedding_size": 64,
    "hidden_size": 64,
    "dropout": 0.1,
    "bias": False,
    "bias_classifier": False,
    "share_embeddings": True,
    "optimizer": "adam",
    "model": "gpt",
    "lr": 0.01,
    "weight_decay": 0.5,
    "beta1": 0.8,
    "beta2": 0.9,
    "eps": 1e-6,
    "clip": math.inf,
    "decay_all": False,
    "lr_schedule": "linear",
    "warmup_steps": 5,
    "label_smoothing": 0.1,
    "n_steps": 5,
    "stop_after_generalizing": 0,
    "patience": 3,
    "keep_best": True,
    "precision": "bfloat16",
    "eval_first": 5,
    "eval_period": 5,
    "save_model_step": 5,
    "initialisation": "torch",
    "seed": 1,
    "init_seed": 1,
    "split_seed": 1,
    "order_seed": 1,
}
GPT_CHANGES = {
    "num_heads": 8,
    "multiplier": 2,
    "non_linearity": "relu",
    "norm": "rmsnorm",
    "norm_position": "pre",
    "positions": "rotary",
    "bias_ffn": True,
    "bias_norm": False,
    "dropout_at": "everywhere",
    "initialisation": "scaled_normal",
}


def settings_of_equations() -> set[str]:
    """Every setting that runs of equations can have."""
    others = {part for part in TASKS.shipped() if part.name != "arithmetic"}
    others |= {part for part in MODELS.shipped() if part.reads != "sequence"}
    others |= {part for part in RULES.shipped() if part.fits != "gradient"}
    return {name for name, parts in known_settings().items() if {*parts} - others}


def test_everything_else_names_another_run():
    ids = [RunSpec().id, *(RunSpec(**{name: value}).id for name, value in CHANGES.items())]
    ids += [RunSpec(model="gpt", **{name: value}).id for name, value in GPT_CHANGES.items()]
    ids += [RunSpec(operation_orders="2,3", split_per_order=value).id for value in (False, True)]
    ids += [RunSpec(optimizer="momentum", momentum=0.5).id]
    ids += [RunSpec(lr_schedule="cosine", lr_floor=value).id for value in (0.0, 0.1)]
    ids += [RunSpec(warmup_steps=6, warmup_from_zero=value).id for value in (False, True)]
    assert len(set(ids)) == len(ids)
    untold = {"task", "momentum", "split_per_order", "warmup_from_zero", "lr_floor"}
    untold |= {"eval_batch_size", "save_statistic_step"}  # operational
    assert CHANGES.keys() | GPT_CHANGES.keys() | untold == {*KINDS, *settings_of_equations()}


def test_a_value_that_equals_another_runs_default_is_told_apart():
    assert RunSpec(p=7).id != RunSpec(p=7, q=31).id
    assert RunSpec(embedding_size=64).id != RunSpec(embedding_size=64, hidden_size=128).id
    assert RunSpec(optimizer="sgd").id != RunSpec(optimizer="sgd", weight_decay=1.0).id


def test_seeds_can_be_set_apart():
    spec = RunSpec(seed=5, split_seed=0)
    assert (spec.init_seed, spec.split_seed, spec.order_seed) == (5, 0, 5)
    assert spec == RunSpec(seed=9, init_seed=5, split_seed=0, order_seed=5)
    assert spec.id == RunSpec(seed=9, init_seed=5, split_seed=0, order_seed=5).id
    assert spec != RunSpec(seed=5)


@some
@given(asked())
def test_the_canonical_form_survives_json_and_leaves_defaults_out(chosen):
    canonical = RunSpec(**chosen).canonical()
    assert json.loads(json.dumps(canonical)) == canonical
    names = {"model", "optimizer", "init_seed", "split_seed", "order_seed"}
    assert RunSpec(model=chosen["model"], optimizer=chosen["optimizer"]).canonical().keys() == names


@some
@given(asked())
def test_a_spec_comes_back_from_its_dump(chosen):
    spec = RunSpec(**chosen)
    for dumped in (spec.dump(), spec.dump(), json.loads(json.dumps(spec.dump()))):
        again = RunSpec(**dumped)
        assert again == spec
        assert again.id == spec.id
        assert again.dump() == spec.dump()


def test_a_spec_cannot_be_changed():
    spec = RunSpec()
    for name in ("lr", "model", "parts", "num_heads"):
        with pytest.raises(AttributeError):
            setattr(spec, name, 1.0)
    with pytest.raises(TypeError):
        spec.parts["model"] = None
    with pytest.raises(ValidationError):
        spec.rule.lr = 1.0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ({"lr": "1e-3"}, {"lr": 1e-3}),
        ({"bias": "true"}, {"bias": True}),
        ({"bias": "False"}, {"bias": False}),
        ({"operation_orders": "2,3"}, {"operation_orders": (2, 3)}),
        ({"operation_orders": "3, 2"}, {"operation_orders": (2, 3)}),
        ({"operation_orders": "3"}, {"operation_orders": (3,)}),
        ({"n_steps": "12"}, {"n_steps": 12}),
        ({"clip": "inf"}, {"clip": math.inf}),
        ({"save_model_step": "inf"}, {"save_model_step": None}),
        ({"save_model_step": "7"}, {"save_model_step": 7}),
    ],
)
def test_strings_become_what_they_say(text, value):
    (name,) = text
    assert getattr(RunSpec(**text), name) == value[name]
    assert RunSpec(**text) == RunSpec(**value)


NO_NUMBERS = {
    "lr": [0, -1, math.nan, math.inf, "fast", None],
    "clip": [0, -1, math.nan, "no"],
    "weight_decay": [-1, math.nan, math.inf],
    "dropout": [-0.1, 1, math.nan],
    "r_train": [0, -1, 1.5, math.nan, "half"],
    "n_steps": [0, -1, 1.5, "many", math.inf, None],
    "train_batch_size": [0, -1],
    "eval_batch_size": [0, -1],
    "num_layers": [0, -1, 1.5],
    "embedding_size": [0, -8],
    "warmup_steps": [-1, 0.5, None],
    "label_smoothing": [-0.1, 1, math.nan],
    "hidden_size": [0, -8],
    "eval_first": [-1, 0.5],
    "eval_period": [0, -1],
    "save_model_step": [0, -1, math.nan],
    "save_statistic_step": [0, -1],
    "seed": [-1, 2**32, 0.5],
    "init_seed": [-1, 2**32],
    "split_seed": [-1, 2**32],
    "order_seed": [-1, 2**32],
    "p": [1, 0, -5, 5.5, "prime"],
    "q": [1, 0, 5.5],
    "unused_tokens": [-1, 0.5, 1_000_001],
    "beta1": [1, -0.1, math.nan],
    "beta2": [1, -0.1, math.nan],
    "eps": [0, -1, math.inf, math.nan],
    "bias": ["maybe", 2],
    "operation_orders": [4, "2,4", 2.5, [], "", "two", None, [[2]]],
}


def refused(**chosen) -> str:
    with pytest.raises(UserError) as caught:
        RunSpec(**chosen)
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, values in NO_NUMBERS.items() for value in values])
def test_a_bad_value_is_named_with_its_setting_and_what_is_allowed(name, value):
    text = refused(**{name: value})
    before, _, after = text.partition(", got ")
    assert before.startswith(f"{name} must be ")
    assert len(before) > len(f"{name} must be ")
    assert after == repr(value)


@pytest.mark.parametrize(("name", "value"), [("momentum", 1), ("momentum", math.nan), ("momentum", -0.5)])
def test_a_bad_momentum_is_named(name, value):
    assert refused(optimizer="momentum", momentum=value) == f"momentum must be in [0, 1), got {value!r}"


@pytest.mark.parametrize("value", [0, -1, math.nan, math.inf])
def test_a_bad_multiplier_is_named(value):
    assert refused(model="gpt", multiplier=value) == f"multiplier must be a positive number, got {value!r}"


@pytest.mark.parametrize(
    ("chosen", "text"),
    [
        ({"operator": "x"}, f"unknown operator 'x': one of {' '.join(OPERATORS)}"),
        ({"operator": "S5:yx"}, f"unknown operator 'S5:yx': one of {' '.join(OPERATORS)}; did you mean 's5:xy'?"),
        (
            {"operator": "x^2+y2"},
            f"unknown operator 'x^2+y2': one of {' '.join(OPERATORS)}; did you mean 'x^2+y^2'?",
        ),
        (
            {"operator": "x^2+y^2", "operation_orders": "2,3"},
            "operator 'x^2+y^2' takes two operands: operation_orders must be 2, got 2,3",
        ),
        (
            {"operator": "s5:xy", "p": 31},
            "operator 's5:xy' acts on the 120 permutations of five elements and needs p=120, got p=31",
        ),
        (
            {"operator": "s5:xy", "q": 60},
            "operator 's5:xy' acts on the 120 permutations of five elements and needs q=120, got q=60",
        ),
        (
            {"operator": "s5:xy", "is_symmetric": True},
            "is_symmetric does not apply to operator 's5:xy': permutations do not commute",
        ),
        (
            {"equation_format": "operand"},
            "unknown equation_format 'operand': one of full eos infix operands; did you mean 'operands'?",
        ),
        (
            {"model": "gpt", "non_linearity": "gellu"},
            "unknown non_linearity 'gellu': one of gelu relu swiglu; did you mean 'gelu'?",
        ),
        (
            {"model": "gpt", "norm": "rms"},
            "unknown norm 'rms': one of layernorm rmsnorm none; did you mean 'rmsnorm'?",
        ),
        (
            {"model": "gpt", "positions": "rope"},
            "unknown positions 'rope': one of sinusoidal vaswani learned rotary none",
        ),
        (
            {"model": "gpt", "norm": "none", "norm_position": "pre"},
            "norm_position=pre does not apply to norm 'none'; it applies to layernorm rmsnorm",
        ),
        (
            {"model": "gpt", "positions": "rotary", "embedding_size": 12},
            "positions='rotary' turns pairs and needs an even embedding_size / num_heads, got 12 / 4",
        ),
        (
            {"model": "gpt", "non_linearity": "swiglu", "embedding_size": 4, "multiplier": 0.25},
            "multiplier=0.25 leaves no feed-forward neuron at embedding_size=4 and non_linearity='swiglu', which has "
            "two thirds",
        ),
        ({"norm": "rmsnorm"}, "norm=rmsnorm does not apply to model 'lstm'; it applies to gpt"),
        ({"bias_ffn": True}, "bias_ffn=True does not apply to model 'lstm'; it applies to gpt"),
        ({"learning_rate": 1}, "unknown setting 'learning_rate'; did you mean 'lr'?"),
        ({"seeds": 1}, "unknown setting 'seeds'; did you mean 'seed'?"),
        (
            {"model": "gpt", "num_heads": 3},
            "num_heads must divide embedding_size, got num_heads=3 and embedding_size=128",
        ),
        (
            {"share_embeddings": True, "hidden_size": 64},
            "share_embeddings needs hidden_size equal to embedding_size, got 64 and 128",
        ),
        ({"num_heads": 4}, "num_heads=4 does not apply to model 'lstm'; it applies to gpt"),
        ({"multiplier": 2}, "multiplier=2 does not apply to model 'lstm'; it applies to gpt"),
        ({"non_linearity": "relu"}, "non_linearity=relu does not apply to model 'lstm'; it applies to gpt"),
        ({"model": "gpt", "hidden_size": 8}, "hidden_size=8 does not apply to model 'gpt'; it applies to lstm"),
        (
            {"initialisation": "torch_attention"},
            "unknown initialisation 'torch_attention': one of torch xavier scaled_normal nanda",
        ),
        (
            {"initialisation": "nanda", "share_embeddings": True},
            "initialisation=nanda does not apply to share_embeddings=True: it draws the classifier apart",
        ),
        (
            {"lr_schedule": "cosin"},
            "unknown lr_schedule 'cosin': one of constant linear cosine inverse_sqrt; did you mean 'cosine'?",
        ),
        (
            {"warmup_steps": 200, "n_steps": 100},
            "warmup_steps must be at most n_steps, got warmup_steps=200 and n_steps=100",
        ),
        (
            {"warmup_steps": 100, "n_steps": 100, "warmup_from_zero": True},
            "warmup_steps must be less than n_steps where it rises from zero, got warmup_steps=100 and n_steps=100",
        ),
        (
            {"warmup_from_zero": True},
            "warmup_from_zero does not apply to warmup_steps=0; it applies to 1 or more",
        ),
        ({"momentum": 0.9}, "momentum=0.9 does not apply to optimizer 'adamw'; it applies to momentum muon"),
        ({"optimizer": "lion", "eps": 1}, "eps=1 does not apply to optimizer 'lion'; it applies to adam adamw muon"),
        (
            {"optimizer": "sgd", "beta1": 0.9},
            "beta1=0.9 does not apply to optimizer 'sgd'; it applies to adam adamw lion muon",
        ),
        (
            {"optimizer": "momentum", "eps": 1},
            "eps=1 does not apply to optimizer 'momentum'; it applies to adam adamw muon",
        ),
        (
            {"r_train": 1},
            "r_train=1.0 leaves the validation split empty (961 equations in all); both splits need at least one",
        ),
        (
            {"r_train": 1e-4},
            "r_train=0.0001 leaves the training split empty (961 equations in all); both splits need at least one",
        ),
        ({"p": 8, "operator": "/"}, "division needs a prime p, got p=8; the nearest is 7"),
        ({"q": 8, "operator": "/"}, "division needs a prime q, got q=8; the nearest is 7"),
    ],
)
def test_settings_that_do_not_fit_are_refused_in_one_line(chosen, text):
    assert refused(**chosen) == text


@pytest.mark.parametrize(
    ("kind", "name", "meant"),
    [
        ("model", "gtp", "gpt"),
        ("model", "rwkv", None),
        ("model", "LSTM", "lstm"),
        ("optimizer", "adamm", "adam"),
        ("optimizer", "AdamW", "adamw"),
        ("task", "aritmetic", "arithmetic"),
    ],
)
def test_an_unknown_part_is_named_with_those_there_are_and_the_nearest(kind, name, meant):
    text = refused(**{kind: name})
    assert text.startswith(f"unknown {kind} {name!r}: one of {' '.join(KINDS[kind].names())}")
    assert text.endswith(f"did you mean {meant!r}?") if meant else "did you mean" not in text


def test_a_grid_is_a_product_whose_last_setting_varies_fastest():
    specs = grid(RunSpec(model="gpt", seed=7), lr=[1e-3, 3e-3], weight_decay=[0.5, 1.0])
    assert [(s.lr, s.weight_decay) for s in specs] == [(1e-3, 0.5), (1e-3, 1.0), (3e-3, 0.5), (3e-3, 1.0)]
    assert {(s.model, s.seed, s.init_seed) for s in specs} == {("gpt", 7, 7)}
    assert grid() == [RunSpec()]


def test_a_grid_keeps_each_run_once():
    assert [s.seed for s in grid(seed=[1, 0, 1, "0"])] == [1, 0]
    assert len(grid(weight_decay=[None, 1.0], operation_orders=["2,3", (3, 2)])) == 1


@pytest.mark.parametrize(
    "values",
    [
        {"eval_batch_size": [64, 128]},
        {"save_statistic_step": [None, 5]},
        {"seed": [0, 1], "init_seed": 3, "split_seed": 3, "order_seed": 3},
    ],
)
def test_values_that_make_one_run_are_not_dropped(values):
    (name, (first, other)), *_ = values.items()
    with pytest.raises(UserError, match=f"^{name}={other} makes the same run as {name}={first}: give one of these"):
        grid(**values)


def test_a_grid_takes_single_values_and_anything_that_can_be_counted_off():
    assert [s.seed for s in grid(seed=range(3), model="gpt", lr=0.1)] == [0, 1, 2]
    assert [s.operation_orders for s in grid(operation_orders=[2, (2, 3)])] == [(2,), (2, 3)]
    assert [s.num_layers for s in grid(num_layers=(n for n in (1, 2)))] == [1, 2]


def test_defaults_of_a_grids_base_follow_what_is_varied():
    specs = grid(RunSpec(p=11), seed=[0, 1], embedding_size=[64])
    assert [(s.init_seed, s.hidden_size, s.q) for s in specs] == [(0, 64, 11), (1, 64, 11)]
    assert [s.weight_decay for s in grid(RunSpec(), optimizer=["adamw", "sgd"])] == [1.0, 0.0]


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"lr": []}, "lr was given an empty list of values; it needs at least one"),
        ({"lr": iter(())}, "lr was given an empty list of values; it needs at least one"),
        ({"lrr": [1]}, "unknown setting 'lrr'; did you mean 'lr'?"),
        ({"lr": [1e-3, -1]}, "lr must be a finite number above 0, got -1"),
    ],
)
def test_a_wrong_grid_is_refused(values, text):
    with pytest.raises(UserError) as caught:
        grid(**values)
    assert str(caught.value) == text


def test_settings_that_name_something_name_what_there_is():
    assert tuple(schedules.SCHEDULES) == rule_settings.SCHEDULES
    assert model_settings.NON_LINEARITIES == gpt.NON_LINEARITIES
    assert model_settings.NORM_POSITIONS == gpt.NORM_POSITIONS
    assert model_settings.POSITIONS == positions.POSITIONS
    drawing = [kind for kind in MODELS.shipped() if "initialisation" in kind.model_fields]  # not those of a base
    named = {name for kind in drawing for name in extra(kind, "initialisation")["choices"]}
    assert named == {*initialisation.INITIALISATIONS}


def test_every_shipped_part_is_called_what_it_is_listed_as():
    for registry in KINDS.values():
        assert [part.name for part in registry.shipped()] == registry.names()


def test_a_copy_with_changes_is_another_run_and_checked():
    spec = RunSpec(p=7, embedding_size=16, seed=3)
    copy = spec.replace(seed=9, embedding_size=32)
    assert copy == RunSpec(p=7, embedding_size=32, seed=9)
    assert (copy.init_seed, copy.hidden_size) == (9, 32)
    assert copy.id != spec.id
    assert spec.replace() == spec
    with pytest.raises(UserError, match="unknown model 'lstn'"):
        spec.replace(model="lstn")
    with pytest.raises(UserError, match="sede"):
        spec.replace(sede=1)


@pytest.mark.parametrize("part", [Arithmetic, AdamW, LSTMSettings])
def test_another_trajectory_of_any_part_is_another_run(part, monkeypatch):
    spec = RunSpec()
    before, dump = spec.id, spec.dump()
    monkeypatch.setattr(part, "trajectory", part.trajectory + 1)
    assert RunSpec().id != before
    found = trajectory_of(dump, before)  # it is known for what it was, and not for one of today's
    assert found is not None and found != trajectory_version("lstm")
    assert trajectory_of(dump, RunSpec().id) == trajectory_version("lstm")
    assert trajectory_of({**dump, "p": 7}, before) is None
