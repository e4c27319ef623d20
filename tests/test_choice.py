"""Some runs of a lab, chosen by settings and state, against literal comparisons."""

import importlib
import math
import re
import shutil
import sys

import pytest
from helpers import tiny, tiny_grid
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.cli import main
from shoal.commands import choice
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.lab.records import STATES
from shoal.registry import KINDS
from shoal.spec import RunSpec, grid
from shoal.spec.choice import as_cell, as_flags, fits, read_choice
from shoal.spec.known import known_settings
from shoal.spec.run import classes_of

pytestmark = pytest.mark.usefixtures("without_pictures")

AXES = {
    "model": ["lstm", "gpt"],
    "operation_orders": [(2,), (2, 3)],
    "weight_decay": [0.25, 1.0],
    "bias": [True, False],
    "seed": [0, 42],
}
SPECS = grid(**AXES)


def as_text(value):
    return str(value).lower() if isinstance(value, bool) else str(as_cell(value))


@given(st.data())
def test_runs_are_chosen_by_any_settings_given_as_values_or_as_text(data):
    names = data.draw(st.lists(st.sampled_from(list(AXES)), unique=True))
    wanted = {name: data.draw(st.lists(st.sampled_from(AXES[name]), min_size=1, unique=True)) for name in names}
    literal = [spec for spec in SPECS if all(getattr(spec, name) in values for name, values in wanted.items())]
    for values in (wanted, {name: [as_text(value) for value in own] for name, own in wanted.items()}):
        chosen = read_choice(values)
        cells = {spec: {name: as_cell(getattr(spec, name)) for name in AXES} for spec in SPECS}
        assert [spec for spec in SPECS if fits(cells[spec], chosen)] == literal


@pytest.mark.parametrize(
    "spec", [RunSpec(), RunSpec(model="gpt", optimizer="sgd", lr_schedule="cosine")], ids=["lstm", "gpt"]
)
def test_every_setting_of_a_run_is_read_back_from_its_text(spec):
    for name in spec:
        value = getattr(spec, name)
        if value is not None:
            assert read_choice({name: [as_text(value)]}) == {name: [value]}
    assert read_choice({"num_heads": [None]}) == {"num_heads": [None]}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"wieght_decay": 1}, "unknown setting 'wieght_decay'; did you mean 'weight_decay'?"),
        ({"r_train": "1.5"}, "r_train must be in (0, 1), got '1.5'"),
        ({"seed": ["0", "x"]}, "seed must be an integer in [0, 2**32), got 'x'"),
        ({"operation_orders": "2,4"}, "operation_orders must be 2, 3 or 2,3 for both, got '2,4'"),
    ],
)
def test_what_no_run_could_have_is_refused(values, message):
    with pytest.raises(UserError, match=f"^{re.escape(message)}$"):
        read_choice(values)


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """Three LSTMs, of which one diverges, and two GPTs."""
    path = tmp_path_factory.mktemp("choice") / "lab"
    lstms = [*tiny_grid({}, lr=[0.003 * 0.2, 1e-2]), tiny(seed=5, lr=1e30, clip=math.inf)]
    shoal.train([*lstms, *tiny_grid({"model": "gpt"}, seed=[0, 1])], path, workers=1)
    return Lab(path)


def test_a_lab_gives_the_runs_that_are_such(lab):
    records = lab.records()
    assert {spec.model for spec in records.where(model="gpt").specs.values()} == {"gpt"}
    assert len(records.where(model="gpt", seed=[1])) == 1
    (alike,) = records.where(lr=0.0006).specs.values()
    assert alike.lr != 0.0006  # but is shown so
    assert records.where().ids == records.where(state=["done", "diverged"]).ids == records.ids
    (ill,) = records.where(state="diverged").specs.values()
    assert ill.lr == 1e30
    assert set(records.where(state="done").ids) == set(records.ids) - {ill.id}
    assert records.where(state="done", lr=1e30).ids == records.where(p=29).ids == []
    assert records.where(p=29).where(state="done").ids == []
    assert {*records.runs().columns} <= {*records.where(p=29).runs().columns}  # also where there are none
    some = records.where(model="lstm")
    assert some.where(model="gpt").ids == []  # not what else is in the lab
    with pytest.raises(UserError, match=r"^unknown state 'don': one of waiting .* damaged; did you mean 'done'\?$"):
        records.where(state="don")


def test_runs_that_do_not_have_a_setting_are_not_such(lab, capsys):
    records = lab.records()
    gpts = [run for run, spec in records.specs.items() if spec.model == "gpt"]
    n_heads = records.specs[gpts[0]].num_heads
    assert records.where(num_heads=n_heads).ids == records.where(num_heads=[n_heads, n_heads + 1]).ids == gpts
    assert records.where(context_length=8).ids == records.where(num_heads=n_heads + 1).ids == []
    assert main(["runs", "--lab", str(lab.path), "--num-heads", str(n_heads), "77"]) == 0
    out = capsys.readouterr().out
    assert all(run in out for run in gpts) and "no run has --num-heads 77" in out


ABSENT = """
from shoal.rules.settings import SGD
from shoal.spec import setting
class Slow(SGD):
    slowness: float = setting(2.0, "how slow", "a number")
"""


@pytest.fixture
def absent(lab, tmp_path, monkeypatch):
    """A lab with a run whose rule cannot be imported any more, and that run."""
    shutil.copytree(lab.path, tmp_path / "lab")
    (tmp_path / "absent_by_now.py").write_text(ABSENT)
    with monkeypatch.context() as there:
        there.syspath_prepend(tmp_path)
        importlib.invalidate_caches()
        spec = tiny(seed=0, optimizer="absent_by_now:Slow", lr=0.5)
        shoal.train(spec, tmp_path / "lab", workers=1)
    del sys.modules["absent_by_now"]
    forget()
    yield Lab(tmp_path / "lab"), spec.id
    forget()


def forget():
    KINDS["optimizer"]._found.clear()
    classes_of.cache_clear()


def test_a_part_that_is_absent_does_not_keep_runs_from_being_chosen(absent, capsys):
    lab, run = absent
    records, where = lab.records(), ["--lab", str(lab.path)]
    assert run in records.where(seed=0).ids and records.where(lr=0.5).ids == [run]
    assert records.where(optimizer="absent_by_now:Slow").ids == [run]
    with pytest.raises(UserError, match=r"slowness.*absent_by_now"):
        records.where(slowness=2.0)
    with pytest.raises(UserError, match="lr must be"):
        records.where(lr="x")
    for flags in ("--lr 0.5", "--optimizer absent_by_now:Slow", "--seed 0 --optimizer absent_by_now:Slow"):
        assert main(["runs", *where, *flags.split()]) == 0
        assert run in capsys.readouterr().out
    assert main(["runs", *where, "--task", "absent_by_now:Task"]) == 2
    assert "none matches --task absent_by_now:Task" in capsys.readouterr().err
    assert main(["train", *where, "--task", "absent_by_now:Task"]) == 2
    assert "cannot be imported" in capsys.readouterr().err
    for wrong in ("--optimizer adamm", "--lr x"):
        assert main(["runs", *where, *wrong.split()]) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_settings_of_shoals_own_parts_need_nothing_from_outside(monkeypatch):
    known_settings()  # of shoal's own
    for registry in KINDS.values():
        monkeypatch.setattr(registry, "_checked", lambda place, name: pytest.fail(f"{place} is imported"))
    assert read_choice({"lr": "0.5", "seed": 3}, {"model": ["outside:HalfFrozen"], "task": "nowhere:Task"}) == {
        "lr": [0.5],
        "seed": [3],
    }


def test_flags_choose_what_is_listed_and_reported(lab, capsys):
    where = ["--lab", str(lab.path)]
    lstm, gpt = ([spec.id for spec in lab.records().specs.values() if spec.model == name] for name in ("lstm", "gpt"))
    assert main(["runs", *where, "--model", "gpt", "--state", "done"]) == 0
    shown = capsys.readouterr().out
    assert all(run in shown for run in gpt)
    assert not any(run in shown for run in lstm)
    assert main(["report", *where, "--lr", "0.0006", "0.01", "--model", "lstm", "--name", "own"]) == 0
    assert "2 runs in 2 settings." in (page := (lab.path / "reports" / "own" / "report.md").read_text())
    assert "Made by: shoal report --model lstm --lr 0.0006 0.01" in page
    capsys.readouterr()
    for wrong, message in (
        (["runs", "--seed", "7"], "of 5 runs none matches --seed 7"),
        (["runs", "--state", "waiting", "--seed", "0"], "of 5 runs none matches --state waiting --seed 0"),
        (["report", *lstm, "--model", "gpt"], "of 3 runs none matches --model gpt"),
        (
            ["report", "sanity", "--seed", "0"],
            "the report of a study shows its own runs and takes no choice of runs, got --seed 0",
        ),
        (["runs", "--seed", "x"], "seed must be an integer in [0, 2**32), got 'x'"),
    ):
        assert main([*wrong, *where]) == 2
        assert capsys.readouterr().err == f"shoal: {message}\n"


def test_a_value_that_no_run_has_is_not_passed_over(lab, capsys):
    where = ["--lab", str(lab.path)]
    assert main(["runs", *where, "--seed", "0", "7", "--operation-orders", "2", "3", "--model", "gpt", "lstm"]) == 0
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("no run has")]
    assert said == ["no run has --operation-orders 3", "no run has --seed 7"]
    assert main(["report", *where, "--seed", "0", "7", "--name", "seven"]) == 0
    assert "- no run has --seed 7" in (lab.path / "reports" / "seven" / "report.md").read_text()


def test_what_is_damaged_is_chosen_as_it_is_shown(lab, tmp_path, capsys):
    copy = Lab(shutil.copytree(lab.path, tmp_path / "lab"))
    (folder,) = (folder for folder in copy.cohorts() if folder.specs()[0].model == "gpt")
    for part in (folder.path / "metrics").iterdir():
        part.write_bytes(part.read_bytes()[:-9])
    lost = {spec.id for spec in folder.specs()}
    assert set(copy.records().where(state="damaged").ids) == lost
    assert set(copy.records().where(state="done").ids).isdisjoint(lost)
    assert len(copy.records().where(model="gpt")) == 2
    assert main(["runs", "--state", "damaged", "--lab", str(copy.path)]) == 1
    assert all(run in capsys.readouterr().out for run in [min(lost)])
    (folder.path / "cohort.json").write_text("{")
    assert main(["runs", "--model", "gpt", "--lab", str(copy.path)]) == 2
    assert re.match(r"shoal: of 3 runs none matches --model gpt; .*cohort\.json", capsys.readouterr().err)


def test_help_names_every_state():
    assert tuple(choice.STATES.split()) == STATES


def test_flags_are_words_that_can_be_typed_again():
    assert as_flags({"operation_orders": ["2,3"], "positions": [None, "rotary"]}) == [
        "--operation-orders",
        "2,3",
        "--positions",
        "none",
        "rotary",
    ]
