"""Mixed grids: a setting with a part's name before it is for the runs with that part, and for no others."""

import itertools
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_in import options_of, specs_of

from shoal.cli import main
from shoal.commands import runs
from shoal.errors import UserError
from shoal.spec import RunSpec, grid
from shoal.spec.prefixes import combinations, count_runs
from shoal.studies import Form, get_study


def test_a_prefixed_axis_is_for_the_runs_with_that_part_alone():
    words = "--model lstm gpt --optimizer sgd adamw --seed 0 1 --gpt.num-heads 2 4 --adamw.lr 0.1 --lstm.hidden_size 8"
    specs = specs_of(*words.split())
    expected = [
        RunSpec(model=model, optimizer=optimizer, seed=seed, **own, **rate)
        for model, optimizer in itertools.product(["lstm", "gpt"], ["sgd", "adamw"])
        for rate in ([{"lr": 0.1}] if optimizer == "adamw" else [{}])
        for seed in (0, 1)
        for own in ([{"num_heads": 2}, {"num_heads": 4}] if model == "gpt" else [{"hidden_size": 8}])
    ]
    assert len(specs) == 12
    assert set(specs) == set(expected)


@given(
    st.lists(st.sampled_from(["lstm", "gpt"]), min_size=1, max_size=2, unique=True),
    st.lists(st.sampled_from(["sgd", "adamw", "lion"]), min_size=1, max_size=3, unique=True),
    st.dictionaries(
        st.sampled_from(["p", "gpt.p", "lstm.p", "gpt.lr", "lr", "lstm.seed"]),
        st.lists(st.integers(5, 9), min_size=1, max_size=3, unique=True),
    ),
)
def test_a_mixed_grid_is_the_union_of_plain_grids(models, optimizers, values):
    values = {name: several for name, several in values.items() if "." not in name or name.split(".")[0] in models}
    union = []
    for model, optimizer in itertools.product(models, optimizers):
        own = {name: several for name, several in values.items() if "." not in name}
        own |= {name.split(".")[1]: several for name, several in values.items() if name.startswith(f"{model}.")}
        union += grid(model=[model], optimizer=[optimizer], **own)
    mixed = grid(model=models, optimizer=optimizers, **values)
    assert (
        len(mixed) == len(set(mixed)) == len(union) == count_runs({"model": models, "optimizer": optimizers, **values})
    )
    assert set(mixed) == set(union)


def test_without_a_prefix_the_order_is_that_of_the_axes():
    axes = {"lr": [1, 2], "model": ["lstm", "gpt"], "seed": [0, 1]}
    expected = [dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values())]
    assert [*combinations(axes)] == expected
    assert count_runs(axes) == 8


def test_a_prefix_holds_against_the_parts_of_the_base():
    specs = grid(RunSpec(model="gpt"), **{"gpt.num_heads": [2, 4]})
    assert [spec.num_heads for spec in specs] == [2, 4]
    with pytest.raises(UserError, match=r"lstm\.hidden_size applies to none of these runs.*model gpt"):
        grid(RunSpec(model="gpt"), **{"lstm.hidden_size": [2]})


@pytest.mark.parametrize("prefix", ["outside:Shifted", "Shifted"])
def test_a_part_from_outside_is_meant_by_its_class_and_by_its_place(prefix):
    specs = specs_of("--task", "arithmetic", "outside:Shifted", "--p", "7", f"--{prefix}.n-steps", "9")
    assert [(spec.task, spec.n_steps) for spec in specs] == [("arithmetic", 10_001), ("outside:Shifted", 9)]


WRONG = {
    "--model lstm gpt --num-heads 4": r"does not apply to model 'lstm'.*gpt\.num_heads.*--gpt\.num-heads",
    "--optimizer sgd adamw --beta1 0.5": r"does not apply to optimizer 'sgd'.*--adamw\.beta1",
    "--gpt.num-heads 4": r"gpt\.num_heads applies to none of these runs.*model lstm",
    "--model lstm gpt --gtp.num-heads 4": r"unknown part 'gtp'.*did you mean 'gpt'",
    "--model lstm gpt --gpt.num-hedas 4": r"have no setting 'num_hedas'.*did you mean 'num_heads'",
    "--model lstm gpt --gpt.hidden-size 4": r"runs with model 'gpt' have no setting 'hidden_size'",
    "--model lstm gpt --gpt.optimizer sgd": r"gpt\.optimizer: ",
    "--model lstm gpt --gpt.num-heads": r"--gpt\.num-heads: needs at least one value",
    "--model lstm gpt --gpt.num-heads 3": "num_heads must divide",
    "--model lstm gpt --gpt.seed 9..0": "empty",
    "--model lstm gpt --gpt.seed 0 --gpt.seed 1": r"--gpt\.seed was given twice",
    "--model lstm gpt --gpt.num-heads 2 --gpt.num_heads 4": "are one flag",
    "--model lstm gpt --gpt.lr 0.1 --adamw.lr 0.2": "gpt.lr and adamw.lr are both for runs with gpt and adamw",
    "--model lstm gpt --gpt.seed 0..99999 --lstm.seed 0": "make 100,001 runs",
}


@pytest.mark.parametrize("words", WRONG)
def test_what_no_mixed_grid_has_is_one_line(words, tmp_path, capsys):
    assert main(["train", *words.split(), "--lab", str(tmp_path / "lab")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(WRONG[words], error), error
    assert not (tmp_path / "lab").exists()


def test_runs_are_chosen_without_prefixes():
    with pytest.raises(UserError, match="--model gpt --num-heads"):
        options_of(runs, "--gpt.num-heads", "2")


def test_a_study_of_two_models_gives_one_of_them_a_setting():
    form = Form(quick=True, settings={"gpt.num_heads": ["2"]})
    specs = form.specs(get_study("sanity"))
    assert {spec.get("num_heads") for spec in specs} == {None, 2}
    assert len(specs) == len(Form(quick=True).specs(get_study("sanity")))
    assert "--gpt.num-heads 2" in form.flags()
    assert Form.from_json(form.to_json()) == form
    wrong = {
        ("sanity", "gpt.num_heads", ("2", "4")): "takes one value",
        ("sanity", "gtp.num_heads", ("2",)): "did you mean 'gpt'",
        ("sanity", "gpt.num_heads", ("x",)): "num_heads must be",
        ("attention", "lstm.lr", ("1",)): "applies to none of these runs",
        ("model-scaling", "gpt.embedding_size", ("8",)): "what the runs of this study differ in",
    }
    for (name, setting, values), message in wrong.items():
        with pytest.raises(UserError, match=message):
            Form(quick=True, settings={setting: values}).specs(get_study(name))
