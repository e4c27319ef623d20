"""Engine ``windows`` against the model as it is written, and members against their neighbours on it."""

import math
from functools import partial
from unittest import mock

import pytest
import torch
from helpers import CPU, theta
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from window_models import assert_the_models, moved_stack

import shoal
from shoal.errors import UserError
from shoal.fast.build import Kernels
from shoal.fast.engine import available, choose_engine, engine_kernels
from shoal.fast.fused import fused_kernels
from shoal.lab.cohort import CohortFolder
from shoal.models.encoder_translator import EncoderTranslator
from shoal.models.pair_settings import EncoderTranslatorSettings
from shoal.models.settings import GPTSettings
from shoal.spec import RunSpec
from shoal.tasks.text.settings import Text
from shoal.training.certificate import certify
from shoal.training.loop import Options, Session, train_cohort
from shoal.training.memory import stack_bytes
from shoal.training.plan import Cohort
from shoal.training.stack import Stack
from shoal.training.step import evaluate, train_step, train_steps

pytestmark = pytest.mark.skipif(engine_kernels("windows", CPU).library_for is None, reason="no compiler")
SMALL = {"embedding_size": 8, "num_layers": 2, "n_steps": 30, "train_batch_size": 5, "lr": 1e-2, "warmup_steps": 1}
OF_TEXT = {**SMALL, "task": "text", "context_length": 7, "eval_stride": 5}
OF_PAIRS = {**SMALL, "task": "sorting", "min_length": 2, "max_length": 6, "digits": 8, "train_examples": 40}
OF_PAIRS |= {"valid_examples": 12}
DROPS = {"dropout": 0.3, "dropout_at": "neurons_too"}
FAMILIES = {
    "gpt": {**OF_TEXT, "model": "gpt", "num_heads": 2, **DROPS, "bias_norm": False, "norm_position": "pre"},
    "gpt of pairs": {**OF_PAIRS, "model": "gpt", "num_heads": 2, "positions": "rotary", "reduction": "sentence"},
    "lstm": {**OF_TEXT, "model": "lstm", "dropout": 0.3, "label_smoothing": 0.1},
    "encoder_decoder": {**OF_PAIRS, "model": "encoder_decoder", "num_heads": 2, **DROPS, "tie_embeddings": "all"},
    "encoder_translator": {**OF_PAIRS, "model": "encoder_translator", "num_heads": 2, **DROPS, "label_smoothing": 0.1},
    "lstm_encoder_decoder": {**OF_PAIRS, "model": "lstm_encoder_decoder", "dropout": 0.3, "tie_embeddings": "decoder"},
    "non_autoregressive": {**OF_PAIRS, "model": "non_autoregressive", "num_heads": 2, **DROPS, "tie_embeddings": "all"},
}
# whose time steps are kernels that multiply themselves, with our own products
FAMILIES["wide lstm"] = {**FAMILIES["lstm"], "embedding_size": 32}
OF_HIDDEN = {"hidden_size": 64, "bidirectional": True, "tie_embeddings": "none"}
FAMILIES["wide lstm_encoder_decoder"] = {**FAMILIES["lstm_encoder_decoder"], **OF_HIDDEN}


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text("the quick brown fox jumps over the lazy dog. " * 12)
    return str(path)


def runs(text, members=2, **changes):
    """Runs that differ in their seeds."""
    of_text = {"text": text} if changes["task"] == "text" else {}
    return [RunSpec(**{**of_text, **changes}, seed=seed) for seed in range(members)]


def stack_of(specs, engine="windows"):
    """A stack away from its initial values."""
    return moved_stack(specs, engine, products_of(specs[0]))


def products_of(spec):
    """Our own products for wide LSTMs; for others those that are faster here."""
    return "own" if {32, 64} & {spec.get("embedding_size"), spec.get("hidden_size")} else None


@pytest.mark.parametrize("family", FAMILIES)
def test_losses_and_gradients_are_those_of_the_model(text, family):
    assert_the_models(partial(stack_of, runs(text, **FAMILIES[family])))


@pytest.mark.parametrize(
    "family", ["gpt", "lstm", "wide lstm", "encoder_decoder", "encoder_translator", "lstm_encoder_decoder"]
)
def test_groups_of_members_change_no_bit(text, family, monkeypatch):
    specs = runs(text, members=3, **FAMILIES[family])
    together = stack_of(specs)
    train_steps(together, 2)
    monkeypatch.setattr("shoal.fast.passes.CACHE", 1)
    apart = stack_of(specs)
    train_steps(apart, 2)
    groups = [{len(passes.groups) for passes, _ in stack.scorer.passes.values()} for stack in (together, apart)]
    assert groups == [{1}, {-(-3 // torch.get_num_threads())}]
    assert torch.equal(together.theta, apart.theta)
    for one, other in zip(evaluate(together, {}).values(), evaluate(apart, {}).values(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize(
    "family", ["gpt", "lstm", "wide lstm", "encoder_translator", "non_autoregressive", "lstm_encoder_decoder"]
)
def test_alone_in_a_stack_and_resumed_a_member_has_the_same_bits(text, family):
    specs = runs(text, members=3, **FAMILIES[family])
    together, alone = stack_of(specs), [stack_of([spec]) for spec in specs]
    train_steps(together, 2)
    again = stack_of(specs)
    again.load_state({name: tensor.clone() for name, tensor in together.state().items()})
    for stack in (together, again):
        train_steps(stack, 2)
    assert torch.equal(again.theta, together.theta)
    scores = evaluate(together, {})
    for place, stack in enumerate(alone):
        train_steps(stack, 4)
        assert torch.equal(theta(together, place), theta(stack, 0)), place
        for name, column in evaluate(stack, {}).items():
            assert torch.equal(column[0], scores[name][place]), name


def test_it_is_chosen_for_texts_and_pairs_where_that_is_worth_compiling(text):
    chosen = {name: choose_engine(runs(text, 1, **own)[0], math.inf, CPU) for name, own in FAMILIES.items()}
    assert {choice.engine for choice in chosen.values()} == {"windows"}
    assert engine_kernels("windows", CPU).note == chosen["gpt"].why
    spec = runs(text, 1, **FAMILIES["gpt"])[0]
    with mock.patch("shoal.fast.engine.is_compiled", lambda *sources: False):
        assert choose_engine(spec, 1.0, CPU).engine == "plain"
        assert choose_engine(spec, 1.0, CPU, "windows").engine == "windows"  # it was asked for
    assert choose_engine(spec, math.inf, torch.device("cuda")).engine == "plain"
    assert choose_engine(RunSpec(), math.inf, CPU, "windows").engine == "plain"  # equations
    assert choose_engine(RunSpec(), math.inf, CPU).engine == "compiled"


class Frozen(GPTSettings):
    """A GPT whose classifier does not train."""

    def build(self, sizes):
        model = super().build(sizes)
        model.classifier.requires_grad_(False)
        return model


class Said(Frozen):
    """One that says that it were as any GPT."""

    reads_windows = True


class OtherTranslator(EncoderTranslator):
    """A translator that may compute anything."""


class Unwritten(EncoderTranslatorSettings):
    """A family that the engine has not been written for."""

    def build(self, sizes):
        model = super().build(sizes)
        model.__class__ = OtherTranslator
        return model


class OtherText(Text):
    """A text whose batches may be anything."""


def test_what_it_does_not_know_is_refused(text):
    spec = runs(text, 1, **OF_TEXT, model=f"{__name__}:Frozen", num_heads=2)[0]
    assert choose_engine(spec, math.inf, CPU).engine == "plain"
    with pytest.raises(UserError, match="do not train"):
        Stack(Cohort((spec.replace(model=f"{__name__}:Said"),)), CPU, "windows")
    other = runs(text, 1, **{**OF_PAIRS, "model": f"{__name__}:Unwritten", "num_heads": 2})[0]
    assert choose_engine(other, math.inf, CPU).engine == "plain"
    with pytest.raises(UserError, match="OtherTranslator"):
        Stack(Cohort((other,)), CPU, "windows")
    with pytest.raises(UserError, match="single tokens"):
        Stack(Cohort((RunSpec(),)), CPU, "windows")
    assert choose_engine(spec.replace(task=f"{__name__}:OtherText", model="gpt"), math.inf, CPU).engine == "plain"


def without_kernels():
    return mock.patch("shoal.fast.fused.kernels", lambda: Kernels(None, "there is no C compiler"))


def begun(folder, specs, engine) -> CohortFolder:
    cohort = Cohort(tuple(specs))
    made = shoal.Lab(folder).create().cohort(cohort.id)
    made.create(list(cohort.members), threads=1, engine=engine)
    return made


def test_a_cohort_keeps_its_engine_and_goes_on_without_a_compiler(text, tmp_path):
    specs = runs(text, 1, **FAMILIES["gpt"])
    assert available("windows", CPU)[0] == "windows" and available("plain", CPU)[0] == "plain"
    assert available("windows", torch.device("cuda"))[0] == "plain"
    for engine in ("plain", "windows"):
        folder = begun(tmp_path / engine, specs, engine)
        stops = iter([False] * 2 + [True] * 99)
        assert train_cohort(folder, Options(stop=lambda stops=stops: next(stops))) == "interrupted"
        session = Session(folder, Options())
        assert session.engine == engine and (session.roster.stack.scorer is None) == (engine == "plain")
    assert folder.status()["sessions"][0]["kernels"].startswith(fused_kernels(CPU).key)
    with without_kernels(), pytest.warns(UserWarning) as said:
        assert Session(folder, Options()).roster.stack.scorer is None
    assert any("windows" in str(one.message) and "plain" in str(one.message) for one in said)
    with without_kernels(), pytest.raises(UserError, match="no C compiler"):
        Stack(Cohort(tuple(specs)), CPU, "windows")


@pytest.mark.parametrize("family", ["encoder_decoder", "lstm_encoder_decoder"])
def test_a_member_that_diverges_changes_nothing_of_its_neighbours(text, family):
    specs = runs(text, members=3, **FAMILIES[family])
    healthy, ill = stack_of(specs), stack_of(specs)
    for step in range(1, 5):
        if step == 3:
            with torch.no_grad():
                ill.theta[1, -1] = math.inf
        train_step(healthy)
        train_step(ill)
    assert ill.diverged_at.tolist() == [-1, 3, -1]
    for place in (0, 2):
        assert torch.equal(theta(ill, place), theta(healthy, place))


# longer ones


def tasks():
    """Settings of a text and of pairs: windows, smoothing, reductions, batches."""
    pairs = {
        "label_smoothing_convention": st.sampled_from(["torch", "fairseq", "joeynmt"]),
        "reduction": st.sampled_from(["token", "sentence"]),
        "batching": st.sampled_from(["buckets", "shuffled"]),
    }
    texts = {"windows": st.sampled_from(["random", "blocks"]), "context_length": st.sampled_from([5, 9])}
    return [({**OF_TEXT}, texts), ({**OF_PAIRS}, pairs)]


def variants():
    """Settings of a run of every family: variants, places of dropout, smoothing, reductions, forms."""
    any_bool = st.booleans()
    common = {"embedding_size": st.sampled_from([4, 8, 12, 32]), "num_layers": st.integers(1, 3), "bias": any_bool}
    common |= {"bias_classifier": any_bool, "dropout": st.sampled_from([0.0, 0.3])}
    common |= {"train_batch_size": st.sampled_from([1, 3, 8]), "label_smoothing": st.sampled_from([0.0, 0.2])}
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
    families = [
        {"model": st.just("gpt"), "share_embeddings": any_bool, **block},
        {"model": st.just("lstm"), "share_embeddings": any_bool},
        {
            "model": st.just("encoder_decoder"),
            "tie_embeddings": st.sampled_from(["none", "decoder", "all"]),
            "scale_embeddings": any_bool,
            "num_encoder_layers": st.integers(1, 2),
            **block,
        },
    ]
    sources = [
        {
            "model": st.just("non_autoregressive"),
            "tie_embeddings": st.sampled_from(["none", "all"]),
            "scale_embeddings": any_bool,
            "num_encoder_layers": st.integers(1, 2),
            **block,
            "positions": st.sampled_from(["sinusoidal", "vaswani", "learned"]),
        },
        {
            "model": st.just("encoder_translator"),
            "tie_embeddings": st.sampled_from(["none", "all"]),
            "scale_embeddings": any_bool,
            **block,
        },
        {
            "model": st.just("lstm_encoder_decoder"),
            "tie_embeddings": st.sampled_from(["none", "decoder", "all"]),
            "hidden_size": st.sampled_from([4, 8, 10, 64]),
            "bidirectional": any_bool,
            "num_encoder_layers": st.integers(1, 3),
        },
    ]
    of_task = tasks()
    of_any = st.tuples(st.sampled_from(families), st.sampled_from(of_task))
    of_sources = st.tuples(st.sampled_from(sources), st.just(of_task[1]))
    return st.one_of(of_any, of_sources).flatmap(
        lambda both: st.fixed_dictionaries({**common, **both[0], **both[1][1]}).map(lambda own: {**both[1][0], **own})
    )


def possible(text, members, own):
    """Runs of these settings, where they go together."""
    try:
        return runs(text, members, **own)
    except (UserError, ValueError):
        assume(False)


@pytest.mark.slow
@pytest.mark.parametrize("without_kernels", [False, True])
@settings(max_examples=60, deadline=None)
@given(own=variants(), members=st.integers(1, 3))
def test_every_variant_has_the_losses_and_gradients_of_the_model(text, without_kernels, own, members):
    assert_the_models(partial(stack_of, possible(text, members, own)), without_kernels)


@pytest.mark.slow
@settings(max_examples=40, deadline=None)
@given(own=variants(), members=st.integers(2, 3))
def test_no_variant_notices_its_neighbours_by_one_bit(text, own, members):
    specs = possible(text, members, own)
    together, alone = stack_of(specs), [stack_of([spec]) for spec in specs]
    for stack in (together, *alone):
        train_steps(stack, 6)
    scores = evaluate(together, {})
    for place, stack in enumerate(alone):
        assert torch.equal(theta(together, place), theta(stack, 0))
        assert all(torch.equal(column[0], scores[name][place]) for name, column in evaluate(stack, {}).items())


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_training_is_that_of_the_model(text, family):
    specs = runs(text, **{**FAMILIES[family], "weight_decay": 0.3, "clip": 0.5, "lr": 1e-3})
    slow, fast = stack_of(specs, "plain"), stack_of(specs)
    for stack in (slow, fast):
        train_steps(stack, 12)
    for name, column in evaluate(slow, {}).items():
        if name.endswith("loss"):
            torch.testing.assert_close(evaluate(fast, {})[name], column, atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", FAMILIES)
def test_examples_scored_in_parts_are_those_scored_at_once(text, family):
    stack = stack_of(runs(text, **FAMILIES[family]))
    whole = evaluate(stack, {})
    with mock.patch("shoal.fast.windows.MOST", 20):
        parts = evaluate(stack, {})
    for name, column in whole.items():
        torch.testing.assert_close(parts[name], column, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt", "encoder_translator", "non_autoregressive", "lstm_encoder_decoder"])
def test_a_certificate_is_exact_and_memory_is_estimated(text, tmp_path, family):
    specs = runs(text, **FAMILIES[family])
    folder = begun(tmp_path / "lab", specs, "windows")
    assert train_cohort(folder, Options()) == "done"
    found = certify(folder, [spec.id for spec in specs], steps=8)
    assert found["environment"]["engine"] == "windows" and found["record"] < 1e-6
    assert max(own["parameters"] for own in found["alone"].values()) == 0.0
    stack, large = stack_of(specs), specs[0].replace(eval_batch_size=4096)
    train_steps(stack, 2)
    evaluate(stack, {})
    assert stack.scorer.arena.n_bytes <= stack_bytes(specs[0], len(specs), "windows")
    assert stack_bytes(specs[0], 1, "windows") <= stack_bytes(large, 1, "windows")
