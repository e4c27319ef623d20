"""Tasks that measure other things than equations: trained, kept, resumed, examined and shown, and told as they are."""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

import shoal
from shoal.analysis import extrema, get_extrema_performance_steps, get_extrema_performance_steps_per_trials
from shoal.analysis.times import time_to_generalise
from shoal.cli import main
from shoal.errors import LabError, UserError
from shoal.lab import Lab, get_all_checkpoints_per_trials
from shoal.lab.check import examine, repair
from shoal.lab.files import read_json, write_json
from shoal.measures import ACCURACY, EQUATIONS, LOSS, Generalised, Measure, Measures, union
from shoal.report.figures import Figure
from shoal.report.panels import Axis, summary_panels, times_note
from shoal.report.quantities import best_panels_of, did_both, is_open, panels_of, quantities_of, symbols_note
from shoal.report.runs import report_runs
from shoal.report.summary import ten_figures
from shoal.spec import RunSpec, grid
from shoal.training.loop import Options, train_cohort
from shoal.training.plan import plan

HERE = Path(__file__).parent
TASKS = ("Count", "Parity", "NextBits")
OF_EQUATIONS = re.compile(r"equation|generalis|memoris|accura|A_val|A_train|Δt|≥|nats")


def asked(task, **settings):
    usual = {"n_steps": 12, "eval_first": 3, "eval_period": 5, "train_batch_size": 16}
    parts = {"task": f"counting:{task}", "model": "counting:MeanModel", "optimizer": "counting:Signum"}
    return grid(RunSpec(**parts, **usual), **{"lr": [0.01, 0.03], "seed": [0, 1], **settings})


@pytest.fixture(scope="module")
def labs(tmp_path_factory):
    """A lab of four runs of each task."""
    place = tmp_path_factory.mktemp("labs")
    for task in TASKS:
        shoal.train(asked(task), place / task, workers=1)
    return {task: place / task for task in TASKS}


@pytest.fixture(params=TASKS)
def task(request):
    return request.param


@pytest.fixture
def lab(labs, task, tmp_path):
    """A copy that may be changed."""
    return Lab(shutil.copytree(labs[task], tmp_path / task))


# what is measured


def test_a_cohort_holds_what_its_task_measures(lab, task):
    measures = asked(task)[0].task_part.measures()
    records = lab.records()
    assert records.measures() == measures
    curves = records.curves()
    assert {name for name in curves.columns if name.startswith(("train_", "valid_"))} == set(measures.columns)
    assert {"run", "step", "l2_norm", "model", "seed", "lr"} <= set(curves.columns)
    assert curves.filter(pl.any_horizontal(pl.all().is_null())).is_empty()
    assert records.damage() == {} and examine(lab.path) == []


def best_by_hand(curve, name, larger):
    """Best value and its first step, one by one."""
    best = step = None
    for at, value in sorted(curve.select("step", name).rows()):
        if best is None or (value > best if larger else value < best):
            best, step = value, at
    return best, step


def test_extrema_go_in_the_direction_of_each_measure(lab, task):
    records, larger = lab.records(), {"margin", "accuracy"}
    curves = records.curves()
    for row in records.extrema().iter_rows(named=True):
        curve = curves.filter(run=row["run"])
        for measure in records.measures().recorded:
            steps = []
            for split in ("train", "valid"):
                name = f"{split}_{measure.name}"
                assert (row[name], row[f"t_{name}"]) == best_by_hand(curve, name, measure.name in larger)
                steps.append(row[f"t_{name}"])
            assert row[f"delay_{measure.name}"] == steps[1] - steps[0]
    assert ("valid_accuracy" in curves.columns) == (task == "NextBits")


def test_the_readers_of_the_practical_read_every_measure(lab, task):
    records = lab.records()
    measures = records.measures()
    metrics = records.all_metrics(records.ids[0])
    assert list(metrics["train"]) == list(metrics["test"]) == [measure.name for measure in measures.recorded]
    own = get_extrema_performance_steps(metrics, measures=measures)
    row = records.extrema().row(0, named=True)
    for measure in measures.recorded:
        name = f"{'max' if measure.higher_is_better else 'min'}_test_{measure.name}"
        assert (own[name], own[f"{name}_step"]) == (row[f"valid_{measure.name}"], row[f"t_valid_{measure.name}"])
    together = get_extrema_performance_steps_per_trials(get_all_checkpoints_per_trials(records)[1], measures=measures)
    assert together["min_train_loss"] == pytest.approx(records.extrema()["train_loss"].mean())


def test_a_run_ends_by_what_generalised_means_to_its_task(tmp_path):
    specs = asked(
        "Parity", seed=[0, 1, 2, 3, 4, 5], n_steps=200, eval_period=1, eval_first=0, stop_after_generalizing=2
    )
    records = shoal.train(specs, tmp_path, workers=1)
    curves, states = records.curves(), records.runs()
    ended = dict(states.select("run", "step").iter_rows())
    for run in records.ids:
        there = curves.filter(pl.col("run") == run, pl.col("valid_mistakes") <= 0.55)["step"].to_list()
        assert ended[run] == (min(there[0] + 2, 200) if there else 200)
    times = time_to_generalise(curves, records.measures())
    assert dict(times.select("run", "time").iter_rows()) == {
        run: curves.filter(pl.col("run") == run, pl.col("valid_mistakes") <= 0.55)["step"].min()
        or curves.filter(run=run)["step"].max() * (run not in times.filter("observed")["run"])
        for run in records.ids
    }
    assert any("stop_after_generalizing" in line for line in report_runs(records, "x").answers)


def test_nothing_is_said_of_when_a_task_generalises_that_does_not_say_so(labs):
    with pytest.raises(UserError, match="does not say when"):
        asked("Count", stop_after_generalizing=[3])
    records = Lab(labs["Count"]).records()
    with pytest.raises(UserError, match="does not say when"):
        time_to_generalise(records.curves(), records.measures())


def largest(parameters):
    """A quantity of the parameters."""
    return parameters["head.bias"].abs().max()


def test_registered_quantities_stand_beside_what_is_measured(tmp_path):
    records = shoal.train(asked("Parity"), tmp_path, workers=1, metrics={"largest": largest})
    assert records.curves()["largest"].null_count() == 0 and examine(tmp_path) == []
    with pytest.raises(UserError, match="is taken"):
        shoal.train(asked("Parity", seed=[7]), tmp_path, metrics={"valid_margin": largest})


def test_what_an_objective_does_not_give_is_said_and_what_it_gives_besides_is_not_recorded(tmp_path, monkeypatch):
    import counting

    monkeypatch.setattr(counting.NextBits, "measures", lambda self: Measures((LOSS,)))
    records = shoal.train(asked("NextBits"), tmp_path / "less", workers=1)
    assert "valid_accuracy" not in records.curves().columns
    monkeypatch.setattr(counting.Count, "measures", lambda self: Measures((LOSS, ACCURACY)))
    with pytest.raises(UserError, match="measures accuracy, and its objective gives only loss"):
        shoal.train(asked("Count"), tmp_path / "more", workers=1)


@pytest.mark.slow
def test_processes_of_their_own_measure_the_same(task, labs, tmp_path):
    records = shoal.train(asked(task), tmp_path, workers=2)
    assert records.measures() == asked(task)[0].task_part.measures()
    alike = records.curves().select("run", "step").equals(Lab(labs[task]).records().curves().select("run", "step"))
    assert alike and set(records.runs()["state"]) == {"done"}


# going on, mending


def test_an_interrupted_cohort_goes_on_to_the_same_record(task, tmp_path, labs):
    place = shutil.copytree(labs[task], tmp_path / "again")
    whole = Lab(place).records()
    shutil.rmtree(place / "cohorts")
    steps = iter([False] * 6 + [True] * 100)
    lab = Lab(place)
    folder = lab.cohort(whole.cohorts()[0].id)
    folder.create(asked(task), threads=1)
    assert train_cohort(folder, Options(stop=lambda: next(steps))) == "interrupted"
    assert examine(place) == []
    records = shoal.resume(place, workers=1)
    assert set(records.runs()["state"]) == {"done"}
    assert records.curves().equals(Lab(labs[task]).records().curves())


def test_a_task_that_measures_something_else_by_now_is_not_gone_on_with(tmp_path, monkeypatch):
    import counting

    lab = Lab(tmp_path).create()
    specs = asked("NextBits")
    folder = lab.cohort(plan(specs)[0].id)
    folder.create(specs, threads=1)
    monkeypatch.setattr(counting.NextBits, "measures", lambda self: Measures((LOSS,)))
    with pytest.raises(LabError, match="loss accuracy; now it measures loss"):
        train_cohort(folder, Options())


@pytest.mark.parametrize("task", ["Parity"], indirect=True)
def test_a_lost_manifest_is_written_again_with_what_was_measured(lab):
    (folder,) = lab.records().cohorts()
    before = read_json(folder.path / "cohort.json")
    (folder.path / "cohort.json").unlink()
    assert list(repair(lab.path))
    after = read_json(folder.path / "cohort.json")
    assert after["measures"] == before["measures"] and after["members"] == before["members"]


BAD = {
    "none": None,
    "no loss": {"recorded": [{"name": "x", "symbol": "x", "words": "x"}]},
    "no list": {"recorded": 3},
    "twice": {"recorded": [{"name": "loss", "symbol": "L", "words": "x"}] * 2},
    "no word": {
        "recorded": [{"name": "loss", "symbol": "L", "words": "x"}, {"name": "../x", "symbol": "", "words": ""}]
    },
    "text": {"recorded": [{"name": "loss", "symbol": "L", "words": "x", "thresholds": ["a"]}]},
    "three bounds": {"recorded": [{"name": "loss", "symbol": "L", "words": "x", "bounds": [0, 1, 2]}]},
    "of another": {"recorded": [{"name": "loss", "symbol": "L", "words": "x"}], "generalised": {"measure": "y"}},
}


@pytest.mark.parametrize("what", BAD)
@pytest.mark.parametrize("task", ["Count"], indirect=True)
def test_a_manifest_that_does_not_say_what_was_measured_is_damaged(lab, what, capsys):
    (folder,) = lab.records().cohorts()
    path = folder.path / "cohort.json"
    manifest = {**read_json(path), "measures": BAD[what]}
    write_json(path, manifest)
    assert lab.records().ids == []
    (line,) = lab.unreadable()
    assert "cohort.json is damaged" in line
    assert main(["runs", "--lab", str(lab.path)]) == 1
    assert "damaged" in capsys.readouterr().out


# shown


def texts(report):
    """Everything that a page says, and its figures as they are described."""
    said = [report.title, report.lead, *report.answers]
    for section in report.sections:
        said += [section.title, *section.paragraphs]
        for figure in section.figures:
            said += [figure.caption, json.dumps(figure.spec, ensure_ascii=False)]
        for table in section.tables:
            said += [table.caption, *table.header, *(cell.text for _, cells in table.rows for cell in cells)]
    return "\n".join(said)


def test_a_page_speaks_of_what_its_task_measures_and_of_nothing_else(labs):
    said = {task: texts(report_runs(Lab(path).records(), "x")) for task, path in labs.items()}
    count = said["Count"]
    assert OF_EQUATIONS.findall(count) == []
    for words in ("squared error", "E_train", "E_val", "ones²", "rows of bits", "mean of tokens"):
        assert words in count
    bits = said["NextBits"]
    assert set(OF_EQUATIONS.findall(bits)) == {"nats", "accura", "A_val", "A_train"}
    for words in ("nats per token", "next tokens right", "L_val", "A_val"):
        assert words in bits
    parity = said["Parity"]
    assert not re.search("equation|accura|A_val", parity)
    for words in ("M_train and M_val ≤ 0.6", "smallest share of mistakes", "largest margin (logits)", "Δt(M)"):
        assert words in parity


def test_figures_have_the_axes_of_their_measures(labs):
    report = report_runs(Lab(labs["Parity"]).records(), "x")
    charts = {figure.name: figure.spec for figure in report.sections[0].figures}
    assert list(charts) == [f"{i}-{name}" for i in (0, 1) for name in ("loss", "mistakes", "margin")]

    def y(name):
        return next(layer["encoding"]["y"] for layer in charts[name]["layer"] if "y" in layer["encoding"])

    assert (y("0-loss")["title"], y("0-loss")["scale"]["type"]) == ("loss (nats)", "log")
    assert (y("0-mistakes")["title"], y("0-mistakes")["scale"]["domain"]) == ("share of mistakes", [0, 1])
    assert y("0-margin")["title"] == "margin (logits)"
    assert not {"type", "domain"} & y("0-margin")["scale"].keys()


def test_best_values_are_the_best_in_each_direction(labs):
    records = Lab(labs["Parity"]).records()
    best = records.extrema()
    labels = {run: f"lr {spec.lr}" for run, spec in records.specs.items()}
    rows = dict(ten_figures(best, labels, records.measures()).rows)
    means = best.with_columns(pl.col("run").replace_strict(labels).alias("label")).drop("run")
    means = means.group_by("label", maintain_order=True).mean()
    for symbol, column, pick in (("L_val", "valid_loss", min), ("D_train", "train_margin", max)):
        values = dict(means.select("label", column).iter_rows())
        bold = [label for label, cell in zip(dict.fromkeys(labels.values()), rows[symbol], strict=True) if cell.best]
        assert bold == [label for label, value in values.items() if value == pick(values.values())]


MISTAKES = Measures(
    (LOSS, Measure("mistakes", "M", "mistakes", bounds=(0.0, 1.0), thresholds=(0.3,))), Generalised("mistakes", 0.1)
)
BEST_OF_FOUR = pl.DataFrame(
    {
        "run": list("abcd"),
        "last_step": [10] * 4,
        "seed": [0, 1, 2, 3],
        **{f"{split}_loss": [0.5] * 4 for split in ("train", "valid")},
        **{f"t_{split}_loss": [10, 10, 5, 5] for split in ("train", "valid")},
        **{f"{split}_mistakes": [0.0, 0.2, 0.3, 0.4] for split in ("train", "valid")},
        **{f"t_{split}_mistakes": [10, 10, 5, 5] for split in ("train", "valid")},
    }
)


def test_what_cannot_get_better_is_not_open():
    marks = BEST_OF_FOUR.select(
        loss=is_open("t_valid_loss", MISTAKES), mistakes=is_open("t_valid_mistakes", MISTAKES), both=did_both(MISTAKES)
    )
    assert marks["loss"].to_list() == [True, True, False, False]
    assert marks["mistakes"].to_list() == [False, True, False, False]
    assert marks["both"].to_list() == [True, True, True, False]


def hollow(measures):
    """Runs that a panel of first steps shows hollow."""
    (panel,) = (panel for panel in best_panels_of(measures) if panel.column == "t_valid_loss")
    chart = summary_panels(BEST_OF_FOUR, Axis("seed", "seed"), Axis("seed", "seed"), "t", [panel])
    layers = Figure("f", chart, "").spec["concat"][0]["layer"]
    data = Figure("f", chart, "").spec["datasets"]
    (points,) = (layer for layer in layers if layer["mark"]["type"] == "point" and not layer["mark"].get("filled"))
    return {row["seed"] for row in data[points["data"]["name"]]}


def test_a_first_step_is_hollow_where_it_says_nothing():
    assert hollow(MISTAKES) == {0, 1, 3}  # at the end, at the end, and did not get there
    assert hollow(Measures(MISTAKES.recorded)) == {0, 1}
    assert "M_train or M_val ≤ 0.3" in times_note(MISTAKES)
    assert "threshold" not in times_note(Measures(MISTAKES.recorded))


def test_steps_compete_only_where_there_is_something_to_get_to(labs):
    records = Lab(labs["NextBits"]).records()
    labels = {run: f"lr {spec.lr}" for run, spec in records.specs.items()}
    table = ten_figures(records.extrema(), labels, records.measures())
    assert [label for label, _ in table.rows] == [q.symbol for q in quantities_of(records.measures())]
    assert not any(cell.best for label, cells in table.rows for cell in cells if label.startswith("t_f"))


def test_what_equations_are_called_is_what_the_practical_calls_them():
    assert [q.symbol for q in quantities_of(EQUATIONS)] == [
        *("L_train", "L_val", "A_train", "A_val"),
        *("t_f(L_train)", "t_f(L_val)", "t_f(A_train)", "t_f(A_val)", "Δt(L)", "Δt(A)"),
    ]
    assert [panel.title for panel in panels_of(EQUATIONS)] == ["L_train (nats)", "L_val (nats)", "A_train", "A_val"]
    assert [panel.domain for panel in panels_of(EQUATIONS)] == [None, None, (0, 1), (0, 1)]
    assert len(best_panels_of(EQUATIONS)) == 8
    assert "share of equations whose right-hand side is predicted whole" in symbols_note(EQUATIONS)


def test_a_page_of_a_text_is_of_tokens(tmp_path):
    (tmp_path / "text.txt").write_text("so it goes, and so it went. " * 40)
    small = {"context_length": 8, "embedding_size": 8, "num_layers": 1, "n_steps": 4, "eval_period": 2}
    spec = RunSpec(task="text", text=str(tmp_path / "text.txt"), warmup_steps=0, **small)
    records = shoal.train([spec], tmp_path / "lab", workers=1)
    said = texts(report_runs(records, "x"))
    assert not re.search("equation|generalis|memoris|Δt|≥", said)
    assert "on the training and the validation windows" in said and "nats per token" in said
    assert "Contradict" not in said
    (tmp_path / "text.txt").unlink()  # the record can be read without it
    assert Lab(tmp_path / "lab").records().extrema()["train_loss"].len() == 1


# several tasks in one lab


@pytest.fixture(scope="module")
def mixed(labs, tmp_path_factory):
    """Runs of all these tasks and of equations, in one lab."""
    place = tmp_path_factory.mktemp("mixed") / "lab"
    shutil.copytree(labs["Count"], place)
    for task in ("Parity", "NextBits"):
        shutil.copytree(labs[task] / "cohorts", place / "cohorts", dirs_exist_ok=True)
    shoal.train([RunSpec(p=5, n_steps=3, embedding_size=8, num_layers=1, r_train=0.6)], place, workers=1)
    return place


def test_tables_of_several_tasks_hold_what_any_of_them_measures(mixed, capsys):
    records = Lab(mixed).records()
    assert len(records.tasks) == 4 and examine(mixed) == []
    assert [measure.name for measure in records.measures().recorded] == ["loss", "mistakes", "margin", "accuracy"]
    best = records.extrema()
    assert best["run"].to_list() == records.ids
    for task in records.tasks:
        own = records.where(task=task)
        alone = own.extrema()
        assert best.filter(pl.col("run").is_in(own.ids)).select(alone.columns).sort("run").equals(alone.sort("run"))
        others = [name for name in best.columns if name not in alone.columns]
        assert best.filter(pl.col("run").is_in(own.ids)).select(pl.col(others).is_null().all()).row(0) == (True,) * len(
            others
        )
    assert main(["runs", "--lab", str(mixed)]) == 0
    table = capsys.readouterr().out
    header = table.splitlines()[0].split()
    assert {"task", "model", "L_val", "A_val", "M_val"} <= set(header) or {"E_val", "A_val", "M_val"} <= set(header)
    assert "operator" not in header  # there is one run of equations: nothing of them differs


def test_a_page_is_of_one_task(mixed, capsys):
    assert main(["report", "--lab", str(mixed)]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "--task arithmetic" in said and "--task counting:Count" in said
    assert main(["report", "--lab", str(mixed), "--task", "counting:Count", "--name", "count"]) == 0
    page = (mixed / "reports" / "count" / "report.md").read_text()
    assert OF_EQUATIONS.findall(page) == []


# where the package is not


SCRIPT = """
import sys
from shoal.cli import main
sys.exit(main(sys.argv[1:]))
"""


def elsewhere(*words):
    """A command of a process that does not find the package of the task."""
    source = str(Path(shoal.__file__).parents[1])
    environment = {**os.environ, "PYTHONPATH": source}
    return subprocess.run(
        [sys.executable, "-c", SCRIPT, *words], env=environment, cwd="/", capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_everything_is_shown_where_the_package_of_the_task_is_not(labs, tmp_path):
    lab = shutil.copytree(labs["Parity"], tmp_path / "lab")
    here = Lab(lab)
    own = here.records()
    shown = elsewhere("runs", "--lab", str(lab))
    assert shown.returncode == 0 and own.ids[0] in shown.stdout and "M_val" in shown.stdout
    assert elsewhere("check", "--lab", str(lab)).returncode == 0
    assert elsewhere("report", "--lab", str(lab)).returncode == 0
    page = (lab / "reports" / "runs" / "report.md").read_text()
    assert "smallest share of mistakes" in page and "MeanModel" in page and "4 runs in 2 settings" in page
    chosen = elsewhere("runs", "--lab", str(lab), "--task", "counting:Parity", "--lr", "0.01")
    assert chosen.returncode == 0 and len([run for run in own.ids if run in chosen.stdout]) == 2
    gone = elsewhere("resume", "--lab", str(lab))
    assert gone.returncode in (0, 2) and "Traceback" not in gone.stderr


# the measures themselves

numbers = st.floats(allow_nan=False)
names = st.from_regex(r"\A[a-z][a-z0-9_]{0,8}\Z").filter(lambda name: name != "loss")
measures = st.builds(
    lambda first, others, meant, things: Measures(
        (first, *others), Generalised(others[0].name, meant) if others and meant is not None else None, things
    ),
    st.builds(Measure, st.just("loss"), st.text(), st.text()),
    st.lists(
        st.builds(
            Measure,
            names,
            st.text(),
            st.text(),
            unit=st.text(),
            higher_is_better=st.booleans(),
            bounds=st.none() | st.tuples(numbers, numbers),
            is_log=st.booleans(),
            thresholds=st.lists(numbers).map(tuple),
            about=st.text(),
        ),
        unique_by=lambda measure: measure.name,
        max_size=4,
    ),
    st.none() | numbers,
    st.text(),
)


@given(measures)
def test_what_is_written_down_of_measures_is_read_as_it_was(own):
    assert Measures.from_json(json.loads(json.dumps(own.to_json()))) == own
    assert union([own, own]) == own


@given(measures, measures)
def test_a_union_has_everything_once_and_means_only_what_both_mean(one, other):
    both = union([one, other])
    assert set(both.columns) == {*one.columns, *other.columns} and len(set(both.columns)) == len(both.columns)
    assert both.generalised in (None, one.generalised)
    if one.generalised != other.generalised:
        assert both.generalised is None


def test_extrema_of_equations_are_named_as_they_were():
    curves = pl.DataFrame({"run": ["a"] * 2, "step": [0, 1], **{name: [0.5, 0.25] for name in EQUATIONS.columns}})
    assert extrema(curves).columns == [
        *("run", "train_loss", "t_train_loss", "valid_loss", "t_valid_loss"),
        *("train_accuracy", "t_train_accuracy", "valid_accuracy", "t_valid_accuracy"),
        *("delay_loss", "delay_accuracy", "last_step"),
    ]
    assert extrema(curves).row(0)[1:5] == (0.25, 1, 0.25, 1) and extrema(curves).row(0)[5:9] == (0.5, 0, 0.5, 0)


def test_the_best_that_there_can_be():
    assert ACCURACY.best == 1 and LOSS.best is None
    assert Measure("x", "x", "x", bounds=(0.0, math.inf)).best == 0
    assert Measure("x", "x", "x", higher_is_better=True, bounds=(0.0, math.inf)).best is None
