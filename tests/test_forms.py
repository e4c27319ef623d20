"""How a study is asked for: seeds, settings, several values where there is an axis, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shoal.errors import UserError
from shoal.studies import NAMES, Form, Grid, get_study
from shoal.studies.base import first_seeds


class Small:
    """A study of two models with one axis besides the seeds."""

    @staticmethod
    def grids(quick):
        seeds = [0, 1] if quick else [0, 42]
        return [
            Grid({"model": model, "p": 5}, {"lr": [1e-3, 1e-2], "seed": seeds}, name=f"the {model}")
            for model in ("lstm", "gpt")
        ]


def chosen(**form):
    return Form(**form).specs(Small)


def test_the_runs_are_the_product_of_the_axes_model_by_model():
    assert [(s.model, s.lr, s.seed) for s in chosen()] == [
        (model, lr, seed) for model in ("lstm", "gpt") for lr in (1e-3, 1e-2) for seed in (0, 42)
    ]
    assert {s.seed for s in chosen(quick=True)} == {0, 1}


def test_seeds_are_the_studys_own_first():
    assert list(dict.fromkeys(s.seed for s in chosen(seeds=4))) == [0, 42, 1, 2]
    assert list(dict.fromkeys(s.seed for s in chosen(seeds=1))) == [0]


@given(st.lists(st.integers(0, 50), unique=True, min_size=1, max_size=6), st.integers(1, 20))
def test_first_seeds_are_distinct_and_as_many_as_asked(own, n):
    seeds = first_seeds(own, n)
    assert len(seeds) == len(set(seeds)) == n
    assert seeds[: len(own)] == own[:n]


def test_settings_replace_values_and_axes_take_several():
    assert {s.weight_decay for s in chosen(settings={"weight_decay": ["0.5"]})} == {0.5}
    assert {s.lr for s in chosen(settings={"lr": ["0.1", "0.2", "0.3"]})} == {0.1, 0.2, 0.3}
    assert {s.model for s in chosen(settings={"model": ["gpt"]})} == {"gpt"}
    assert {s.seed for s in chosen(settings={"seed": ["7"]})} == {7}
    assert {(s.seed, s.init_seed) for s in chosen(seeds=2, settings={"init_seed": ["7"]})} == {(0, 7), (42, 7)}


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"settings": {"weight_decay": ["0", "1"]}}, "--weight-decay takes one value in this study, got 0 1"),
        ({"settings": {"model": ["gpt", "rnn"]}}, "unknown model 'rnn': one of lstm gpt"),
        ({"settings": {"model": []}}, "model was given an empty list of values"),
        ({"settings": {"lr": ["0.1", "0.2", "x"]}}, "lr must be a finite number above 0, got 'x'"),
        ({"settings": {"seed": ["1", "-1"]}}, r"seed must be an integer in \[0, 2\*\*32\), got '-1'"),
        ({"settings": {"lrr": ["0.1"]}}, "unknown setting 'lrr'; did you mean 'lr'"),
        ({"settings": {"seed": ["1", "2"]}, "seeds": 2}, "--seeds 2 and --seed 1 2 both say which seeds"),
        (
            {"settings": {"seed": ["1", "2"], "init_seed": ["3"], "split_seed": ["3"], "order_seed": ["3"]}},
            r"seed=2 makes the same run as seed=1: give one of these values \(in the part 'the lstm' of the study\)",
        ),
        ({"thresholds": (0.9, 0.5, 0.9)}, "threshold was given 0.9 twice"),
        ({"settings": {"num_heads": ["2"]}}, "num_heads=2 does not apply to model 'lstm'"),
        ({"settings": {"lr": ["x"]}}, "lr must be a finite number above 0, got 'x'"),
        ({"seeds": 0}, "seeds must be an integer of at least 1, got 0"),
        ({"stay": 0}, "stay must be a whole number of evaluations of at least 1, got 0"),
        ({"thresholds": (1.5,)}, r"threshold must be an accuracy in \(0, 1\], got 1.5"),
    ],
)
def test_what_a_form_refuses(form, message):
    with pytest.raises(UserError, match=message):
        chosen(**form)


def test_a_form_is_kept_with_the_lab_and_typed_again():
    form = Form(True, 3, {"lr": ["0.1", "0.2"], "weight_decay": [None]}, (0.5,), stay=3)
    assert Form.from_json({**form.to_json(), "runs": []}) == form
    assert form.flags() == " --quick --seeds 3 --threshold 0.5 --stay 3 --lr 0.1 0.2 --weight-decay none"
    assert Form.from_json({"quick": False, "runs": []}) == Form()


@pytest.mark.parametrize("name", NAMES)
def test_no_study_drops_a_model_that_it_does_not_have(name):
    study = get_study(name)
    own = {str(grid.settings["model"]) for grid in study.grids(True)}
    for other in {"lstm", "gpt"} - own:
        with pytest.raises(UserError, match=f"the study has no runs with model {other}; it has .*{min(own)}"):
            Form(quick=True, settings={"model": [min(own), other]}).specs(study)


def test_seeds_that_a_study_sets_apart_are_not_given_together():
    study = get_study("seed-variance")
    with pytest.raises(UserError, match=r"--seed has no effect in this study.*: --init-seed --split-seed --order-seed"):
        Form(settings={"seed": ["3"]}).specs(study)
    with pytest.raises(UserError, match="--seeds 2 and --init-seed 5 both say which seeds"):
        Form(seeds=2, settings={"init_seed": ["5"]}).specs(study)


def test_a_form_of_a_lab_is_read_though_it_would_be_refused_today():
    note = {"quick": True, "seeds": 2, "settings": {"model": ["gpt", "rnn"], "seed": ["1", "2"]}, "runs": []}
    assert {spec.seed for grid in Form.from_json(note)._changed(Small.grids(True)) for spec in grid.specs()} == {1, 2}


def test_parts_that_settings_leave_nothing_of_their_own_are_named():
    improve = get_study("improve")
    assert Form(quick=True).same_parts(improve) == []
    told = Form(quick=True, settings={"positions": ["learned"]}).same_parts(improve)
    parts = [part for part in improve.VARIANTS if any(f"the part {part!r} of" in line for line in told)]
    assert parts == ["learned positions", "rotary positions", "no positions"]


def test_mixed_orders_is_not_of_one_order():
    form = Form(quick=True, settings={"operation_orders": [(2,)], "split_per_order": [False]})
    with pytest.raises(UserError, match="mixed-orders needs operation_orders 2,3, got 2"):
        form.specs(get_study("mixed-orders"))


def test_every_run_has_the_name_of_its_first_grid():
    form = Form()
    assert {s.model: form.names(Small)[s.id] for s in form.specs(Small)} == {"lstm": "the lstm", "gpt": "the gpt"}


def test_studies_of_the_same_form_share_runs():
    for quick in (False, True):
        every = [name for name in NAMES if not getattr(get_study(name), "NEEDS", ())]  # others need files
        ids = {name: {s.id for s in Form(quick).specs(get_study(name))} for name in every}
        assert ids["attention"] < ids["sanity"]
        if not quick:
            assert ids["sanity"] < ids["data-scaling"]
            assert ids["sanity"] < ids["model-scaling"]
