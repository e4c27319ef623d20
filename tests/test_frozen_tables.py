"""Engine ``windows`` with pretrained tables, tuned, frozen and projected, against the model as it is written."""

from functools import partial

import numpy as np
import pytest
import torch
from helpers import CPU, theta
from hypothesis import given, settings
from hypothesis import strategies as st
from pair_files import parallel
from window_models import assert_the_models, moved_stack

from shoal.fast.engine import choose_engine, engine_kernels
from shoal.spec import RunSpec
from shoal.tasks.build import count_frozen, initial_model
from shoal.training.frozen import tables_agree, with_one_table
from shoal.training.memory import stack_bytes
from shoal.training.step import evaluate, train_steps

pytestmark = pytest.mark.skipif(engine_kernels("windows", CPU).library_for is None, reason="no compiler")
SMALL = {"embedding_size": 8, "num_layers": 1, "train_batch_size": 5, "n_steps": 30, "warmup_steps": 1, "lr": 1e-2}
SMALL |= {"min_frequency": 1, "dropout": 0.2, "weight_decay": 0.5, "decay_all": True}
WORDS = {8: ["ein", "der", "hund", "kind", "mann", "schläft", "rennt", ".", "a", "the", "dog", "man", "sleeps"]}
WORDS[5] = WORDS[8][::-1]
MODELS = {
    "encoder_translator": {"num_heads": 2},
    "encoder_decoder": {"num_heads": 2, "positions": "learned", "scale_embeddings": True},
    "non_autoregressive": {"num_heads": 2},
    "lstm_encoder_decoder": {},
    "gpt": {"num_heads": 2, "positions": "rotary"},
    "lstm": {"num_layers": 2},
}


@pytest.fixture(scope="module")
def given_files(tmp_path_factory):
    """Settings of a translation and of a text, with vectors of width 8 and 5."""
    folder, random = tmp_path_factory.mktemp("frozen"), np.random.default_rng(0)
    vectors = {width: folder / f"{width}.txt" for width in WORDS}
    for width, path in vectors.items():
        rows = [f"{word} {' '.join(f'{x:.4f}' for x in random.normal(0, 0.5, width))}\n" for word in WORDS[width]]
        path.write_text("".join(rows))
    (folder / "text.txt").write_text("the dog sleeps .\na man sleeps .\nthe child sleeps .\n" * 20)
    pairs = {"task": "translation", "vocabularies": "separate", "max_length": 12, **parallel(folder, 20, 8)}
    text = {"task": "text", "text": str(folder / "text.txt"), "tokenizer": "words", "context_length": 6}
    return {"pairs": pairs, "text": text, **{width: str(path) for width, path in vectors.items()}}


def runs(
    files, model, *, frozen=True, projected=False, side="source", rows=("pretrained", "permuted", "random"), **own
):
    """Runs that differ in their rows and seeds."""
    of_text = {"gpt", "lstm"}
    task = files["text"] if model in of_text else {**files["pairs"], "embedding_side": side}
    given = {**SMALL, **task, **MODELS[model], **own, "embeddings": files[5 if projected else 8], "model": model}
    given |= {"freeze_embeddings": frozen, "embedding_projection": projected}
    return [RunSpec(**given, embedding_rows=kind, seed=seed) for seed, kind in enumerate(rows)]


def stack_of(specs, engine="windows"):
    """A stack away from its initial values."""
    return moved_stack(specs, engine, "own" if specs[0].get("hidden_size") == 64 else None)  # kernels of wide LSTMs


PROJECTED = [
    *((model, False) for model in MODELS),
    *((model, True) for model in MODELS if "num_heads" in MODELS[model]),
]


@pytest.mark.parametrize(("model", "projected"), PROJECTED)
def test_losses_and_gradients_are_those_of_the_model(given_files, model, projected):
    specs = runs(given_files, model, projected=projected, side="both" if model == "encoder_decoder" else "source")
    assert choose_engine(specs[0], 1e9, CPU).engine == "windows"
    assert_the_models(partial(stack_of, specs))


def test_wide_lstms_do_not_change_frozen_rows_either(given_files):
    for model in ("lstm", "lstm_encoder_decoder"):
        for frozen in (True, False):
            assert_the_models(partial(stack_of, runs(given_files, model, frozen=frozen, hidden_size=64)))


@pytest.mark.parametrize("model", MODELS)
def test_alone_in_a_stack_and_resumed_a_member_has_the_same_bits(given_files, model):
    specs = runs(given_files, model, projected=model == "encoder_translator")
    together, alone = stack_of(specs), [stack_of([spec]) for spec in specs]
    tables = {name: tensor.clone() for name, tensor in together.frozen_each.items()}
    assert tables
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
        for name, table in tables.items():
            assert torch.equal(stack.frozen[name], table[place])
            assert torch.equal(together.frozen_each[name], tables[name])


def test_one_table_for_all_members_computes_what_a_table_of_each_does(given_files):
    for model in ("encoder_translator", "lstm"):
        specs = [spec.replace(init_seed=0, embedding_rows="pretrained") for spec in runs(given_files, model)]
        once = stack_of(specs)
        assert once.frozen and not once.frozen_each
        (table,) = once.scorer.members.frozen.values()
        assert table.stride(0) == 0
        train_steps(once, 3)
        for place, spec in enumerate(specs):
            alone = stack_of([spec])
            train_steps(alone, 3)
            assert torch.equal(theta(once, place), theta(alone, 0))


def test_no_gradient_of_what_is_frozen_is_computed(given_files):
    """The backward pass of a projected table ends at the projection, and of a table alone at the first layer."""
    wide = {"hidden_size": 64}  # whose inputs' gradients are a product for each chunk of positions
    for model, projected, own, fewer in (
        ("encoder_translator", True, {}, 1),
        ("encoder_decoder", False, {}, 1),
        ("lstm", False, {}, 1),
        ("lstm_encoder_decoder", False, wide, 4),  # the table's kernel, its zeros, and a product of each direction
    ):
        calls = {}
        for frozen in (True, False):
            stack = stack_of(runs(given_files, model, frozen=frozen, projected=projected, dropout=0.0, **own))
            train_steps(stack, 1)
            (passes,) = [one for key, (one, _) in stack.scorer.passes.items() if key[4]]
            calls[frozen] = sum(len(program._backward) for program in passes.programs)
        assert calls[True] <= calls[False] - fewer, model


def test_memory_counts_a_frozen_table_once_for_members_that_agree(given_files):
    specs = runs(given_files, "encoder_translator", projected=True)
    V, E = specs[0].source_tokens, 5
    assert count_frozen(specs[0]) == V * E and count_frozen(specs[0].replace(freeze_embeddings=False)) == 0
    model = initial_model(specs[0])
    roles = specs[0].model_part.roles(model)
    of_tables = sum(parameter.numel() for name, parameter in model.named_parameters() if roles[name] == "table")
    assert specs[0].model_part.count_tables(specs[0].sizes()) == of_tables
    same = [spec.replace(init_seed=0, embedding_rows="pretrained") for spec in specs]
    assert tables_agree(same) and not tables_agree(specs) and not tables_agree([same[0], same[0].replace(init_seed=1)])
    for engine in ("plain", "windows"):
        once, each = (
            [stack_bytes(specs[0], n, engine, one_table=one_table) for n in (1, 11)] for one_table in (True, False)
        )
        assert once[0] == each[0] and each[1] - once[1] == 10 * 3 * 4 * V * E
        tuned = stack_bytes(specs[0].replace(freeze_embeddings=False), 1, engine)
        assert tuned - each[0] == 4 * V * E * (parameter_copies(specs[0]) - 3)
    name = "source_embedding.tokens.weight"
    for members, held in ((same, 1), (specs, 3)):
        tables = [one.get_parameter(name) for one in with_one_table(map(initial_model, members), [name])]
        assert len({table.data_ptr() for table in tables}) == held
        for spec, table in zip(members, tables, strict=True):
            assert torch.equal(table, initial_model(spec).get_parameter(name))


def parameter_copies(spec):
    return 6 + len(spec.rule.state) + spec.rule.temporaries


@st.composite
def variants(draw):
    model = draw(st.sampled_from(list(MODELS)))
    is_transformer, is_pair = "num_heads" in MODELS[model], model.endswith("decoder")
    own = {"side": draw(st.sampled_from(["source", "target", "both"] if is_pair else ["source"]))}
    own |= {"frozen": draw(st.booleans()), "projected": is_transformer and draw(st.booleans())}
    own |= {"dropout": draw(st.sampled_from([0.0, 0.3])), "num_layers": draw(st.integers(1 + (model == "lstm"), 2))}
    own |= {"rows": draw(st.sampled_from([("pretrained",), ("pretrained", "random"), ("initial", "permuted")]))}
    if is_transformer:
        without = [] if model == "non_autoregressive" else ["rotary", "none"]
        own |= {"positions": draw(st.sampled_from(["sinusoidal", "learned", *without]))}
        own |= {"norm_position": draw(st.sampled_from(["post", "pre", "pre_stream"]))}
        own |= {"dropout_at": draw(st.sampled_from(["feed_forward", "everywhere"]))}
    return model, own


@pytest.mark.slow
@pytest.mark.parametrize("without_kernels", [False, True])
@settings(max_examples=40, deadline=None)
@given(variant=variants())
def test_every_variant_has_the_losses_and_gradients_of_the_model(given_files, without_kernels, variant):
    model, own = variant
    assert_the_models(partial(stack_of, runs(given_files, model, **own)), without_kernels)


@pytest.mark.slow
@settings(max_examples=30, deadline=None)
@given(variant=variants())
def test_no_variant_notices_its_neighbours_by_one_bit(given_files, variant):
    model, own = variant
    specs = runs(given_files, model, **own)
    together = stack_of(specs)
    train_steps(together, 5)
    for place, spec in enumerate(specs):
        alone = stack_of([spec])
        train_steps(alone, 5)
        assert torch.equal(theta(together, place), theta(alone, 0))
