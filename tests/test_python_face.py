"""shoal in Python and in notebooks: runs one by one, figures, tables, progress, and mistakes as one line."""

import ast
import os
import pickle
import pty
import re
import struct
import sys
import threading
from types import ModuleType, SimpleNamespace

import polars as pl
import pytest
from helpers import tiny, tiny_grid
from hypothesis import example, given, settings
from hypothesis import strategies as st

import shoal
from shoal.errors import LabError, UserError
from shoal.lab import Run
from shoal.report.plots import MOST_ROWS, colour_axis
from shoal.training.progress import Line


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """Six runs: two weight decays of three seeds."""
    specs = tiny_grid({"model": "gpt"}, weight_decay=[0.1, 1.0], seed=[0, 1, 2])
    return shoal.train(specs, tmp_path_factory.mktemp("face") / "lab", workers=1)


# a spec


@settings(max_examples=25, deadline=None)
@example({"seed": 0, "order_seed": shoal.RunSpec().seed})
@example({"embedding_size": 64, "hidden_size": shoal.RunSpec().hidden_size})
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "model": st.sampled_from(["lstm", "gpt"]),
            "optimizer": st.sampled_from(["adamw", "sgd"]),
            "n_steps": st.integers(1, 99),
            "embedding_size": st.sampled_from([8, 64, 128]),
            "lr": st.floats(1e-4, 1.0),
            "seed": st.integers(0, 99),
            "order_seed": st.integers(0, 99),
        },
    )
)
def test_a_spec_shows_its_id_and_that_from_which_it_can_be_made(chosen):
    spec = shoal.RunSpec(**chosen)
    shown = re.fullmatch(r"<RunSpec ([0-9a-f]{16}): (.*)>", repr(spec))
    assert shown and shown[1] == spec.id
    again = {name: ast.literal_eval(value) for name, value in (part.split("=") for part in shown[2].split(", "))}
    assert shoal.RunSpec(**again) == spec


def test_what_is_as_by_default_is_not_shown_nor_what_follows():
    assert repr(shoal.RunSpec(weight_decay=1.0, embedding_size=64)).endswith(": model='lstm', embedding_size=64>")
    assert "hidden_size=32" in repr(shoal.RunSpec(embedding_size=64, hidden_size=32))
    spec = shoal.RunSpec(model="gpt", n_steps=7)
    assert repr(shoal.RunSpec.restored(spec.dump())) == repr(spec) == repr(pickle.loads(pickle.dumps(spec)))


# runs of records


def test_records_are_a_sequence_of_runs(records):
    runs = list(records)
    assert [run.id for run in runs] == records.ids
    assert all(isinstance(run, Run) for run in runs)
    assert records[0] == runs[0] == records[records.ids[0]] == records[runs[0].spec] == records[-6]
    assert records[records.ids[3][:7]].id == records.ids[3]
    assert [run.id for run in records[1:5:2]] == records.ids[1:5:2]
    assert records[::-1].ids == records.ids[::-1]
    assert len({*runs, *records}) == 6
    assert runs[2] in records
    assert runs[2].spec in records
    assert runs[2].id in records
    assert shoal.RunSpec() not in records


def test_a_run_says_what_the_records_say(records):
    run = records[4]
    assert run.spec == records.specs[run.id]
    assert (run.state, run.step) == records.runs().filter(run=run.id).select("state", "step").row(0)
    measured = records.curves().filter(run=run.id)
    assert run.curve()["valid_loss"].to_list() == measured.sort("step")["valid_loss"].to_list()
    assert run.best() == records.extrema().row(4, named=True)
    assert run.best(5)["last_step"] <= 5 < run.best()["last_step"]
    assert run.metrics() == records.all_metrics(run.id)
    assert run.models() == records.model_files(run.id)
    theirs = records.model(run.id).state_dict()
    assert all(value.equal(theirs[name]) for name, value in run.model().state_dict().items())
    assert run.id[:8] in repr(run)
    assert str(run.spec.seed) in repr(run)


def test_where_runs_stand_is_read_once_for_all_of_them(records, monkeypatch):
    reads = []
    read = type(records).runs
    monkeypatch.setattr(type(records), "runs", lambda self: reads.append(1) or read(self))
    assert {run.state for run in records} == {"done"}
    assert len(reads) == 1


def test_filter_takes_functions_and_expressions(records):
    decayed = [run.id for run in records if run.spec.weight_decay == 1.0]
    assert records.filter(lambda run: run.spec.weight_decay > 0.5).ids == decayed
    assert records.filter(pl.col("weight_decay") > 0.5).ids == decayed
    best = records.extrema()
    middle = best["valid_loss"].sort()[2]
    assert (
        records.filter(pl.col("valid_loss") <= middle).ids
        == best.filter(pl.col("valid_loss") <= middle)["run"].to_list()
    )
    assert len(records.filter(lambda run: False)) == 0
    assert records.filter(pl.col("seed") == 1).where(weight_decay=1.0).ids == [records.ids[4]]


def test_times_are_those_of_the_task(records):
    times = records.times()
    assert times["run"].to_list() == records.ids
    assert set(times.columns) == {"run", "time", "observed", "fell_back", "state"}
    high = records.curves().group_by("run").agg(pl.col("valid_accuracy").max() >= 0.99)
    assert dict(times.select("run", "observed").iter_rows()) == dict(high.iter_rows())


@pytest.mark.parametrize(
    ("mistake", "kind", "told"),
    [
        (lambda r: r[6], IndexError, "6 runs"),
        (lambda r: r["zz"], UserError, "'zz'"),
        (lambda r: r[1.5], UserError, "1.5"),
        (lambda r: r[True], UserError, "True"),
        (lambda r: r.filter(3), UserError, "3"),
        (lambda r: r.filter(pl.col("vald_loss") > 1), UserError, "valid_loss"),
        (lambda r: r.where(state=3), UserError, "3"),
        (lambda r: r.times("x"), UserError, "'x'"),
        (lambda r: r.plot("valid_acuracy"), UserError, "valid_accuracy"),
        (lambda r: r.plot(3), UserError, "3"),
        (lambda r: r.plot(by=3), UserError, "3"),
        (lambda r: r.plot(by="weigt_decay"), UserError, "weight_decay"),
        (lambda r: r.plot(by="p"), UserError, "weight_decay seed"),
        (lambda r: r.plot("time_to_generalise", by="p"), UserError, "weight_decay seed"),
        (lambda r: r[:0].plot(), UserError, "no runs"),
        (lambda r: r.plot().save("figure.gif"), UserError, "figure.gif"),
    ],
)
def test_a_mistake_is_one_line(records, mistake, kind, told):
    with pytest.raises(kind) as caught:
        mistake(records)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


# figures and tables


def rows_of(plot) -> list[dict]:
    """All rows of data behind a chart."""
    return [row for rows in plot.spec["datasets"].values() for row in rows]


def test_a_plot_by_a_setting_shows_its_means(records):
    plot = records.plot("valid_accuracy", by="weight_decay")
    curves = records.curves()
    means = curves.filter(pl.col("step") > 0).group_by("weight_decay", "step").agg(pl.col("valid_accuracy").mean())
    rows = [row for row in rows_of(plot) if "shade" in row and row.get("mean") is not None]
    drawn = {(row["shade"], row["step"]): row["mean"] for row in rows}
    assert len(drawn) == len(means)
    for decay, step, mean in means.iter_rows():
        assert drawn[f"weight_decay {decay:g}", step] == pytest.approx(mean, abs=1e-4)


def test_a_plot_of_a_measure_is_the_chart_of_the_page(records):
    from shoal.report.figures import learning_curves

    alike = records.where(weight_decay=1.0)
    page = learning_curves(alike.curves(), "accuracy", "Accuracy of 3 runs", alike.measures()).to_dict()
    for plot in (alike.plot(), alike.plot("accuracy")):
        drawn = plot.chart.to_dict()
        assert "shaded" in drawn.pop("title")["subtitle"]  # a picture says what its bands are
        assert drawn == {name: part for name, part in page.items() if name != "title"}


def test_runs_that_differ_in_a_setting_are_told_apart_unasked(records):
    assert {row["shade"] for row in rows_of(records.plot()) if "shade" in row} == {"weight_decay 0.1", "weight_decay 1"}


def test_a_quantity_can_be_named_by_its_symbol(records):
    assert records.plot("A_val").chart.to_dict() == records.plot("valid_accuracy").chart.to_dict()


def test_a_run_can_be_named_by_itself_and_by_its_spec(records):
    run = records[0]
    for named in (run, run.spec, run.id):
        assert records.find(named) == run.id


def test_settings_can_be_discovered_and_are_found_where_they_are(records):
    assert {"num_heads", "weight_decay", "model"} <= {*dir(records[0].spec)}
    with pytest.raises(AttributeError, match=r"run\.spec\.seed"):
        records[0].seed  # noqa: B018
    with pytest.raises(AttributeError, match="gpt"):
        shoal.RunSpec().num_heads  # noqa: B018
    with pytest.raises(UserError, match="model="):
        shoal.RunSpec("gpt")


def test_a_run_that_did_not_generalise_has_no_delay(records):
    best = records.extrema()
    never = best.filter(pl.col("valid_accuracy") < 0.9)
    assert len(never) and never["delay_accuracy"].is_null().all() and never["delay_loss"].is_null().all()
    low = float(best["valid_accuracy"].max())
    assert records.times(threshold=low)["observed"].any() and not records.times(threshold=1.0)["observed"].any()


def test_a_folder_that_is_not_there_is_no_empty_lab(records, tmp_path):
    shoal.train([tiny()], tmp_path / "labs", workers=1)
    with pytest.raises(LabError, match="labs"):
        shoal.Lab(tmp_path / "lab").records()


def test_tokens_without_a_batch_are_refused_in_words(records):
    import torch

    for spec in (tiny(), tiny(model="gpt")):
        from shoal.tasks.build import build_model

        with pytest.raises(ValueError, match="unsqueeze"):
            build_model(spec)(torch.tensor([1, 2, 3]))


def test_numbers_have_colours_of_their_own_or_a_colour_bar(records, tmp_path):
    assert colour_axis(records)[1].names  # two weight decays
    rates = [10.0**-k for k in range(7, 0, -1)]
    many = shoal.train(tiny_grid({"n_steps": 2}, lr=rates), tmp_path / "lab", workers=1)
    frame, axis = colour_axis(many, ["lr"])
    assert (axis.column, axis.log, axis.names) == ("lr", 10, ())
    assert frame["lr"].to_list() == rates
    with pytest.raises(UserError, match="8 different"):
        colour_axis(shoal.train(tiny_grid({"n_steps": 2}, seed=range(8)), tmp_path / "lab", workers=1), ["seed"])


def test_a_plot_is_a_picture_and_a_file(records, tmp_path):
    plot = records.plot(["valid_loss", "l2_norm"], by=["weight_decay", "seed"], title="Both")
    assert "Both" in repr(plot)
    content, about = plot._repr_png_()
    width, _ = struct.unpack(">II", content[16:24])
    assert content.startswith(b"\x89PNG")
    assert about["width"] < width
    assert about["alt"] == plot.alt
    assert plot.save(tmp_path / "new" / "both.svg").read_bytes().startswith(b"<svg")
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="could not write"):
        plot.save(tmp_path / "file" / "both.png")


def test_times_are_drawn_and_one_run_alone_too(records):
    assert "weight_decay" in records.plot("time_to_generalise").alt
    assert records.where(weight_decay=1.0).plot("time_to_generalise").alt
    assert records[0].plot("loss").alt.startswith("Loss of 1 run")


def test_a_plot_of_times_that_no_run_has_says_so(records):
    plot = records.plot("time_to_generalise", by="weight_decay")
    assert not records.times()["observed"].any()
    assert "none of 6 runs" in str(plot.chart.to_dict()["title"])


def test_a_notebook_shows_a_mistake_without_a_traceback():
    with pytest.raises(UserError) as caught:
        shoal.RunSpec(p=1)
    assert caught.value._render_traceback_() == [f"UserError: {caught.value}"]


def test_records_show_themselves_as_the_table_of_runs(records):
    shown = records._repr_html_()
    assert shown.count("<tr>") == 7
    assert all(run[:8] in shown for run in records.ids)
    assert "no runs" in records[:0]._repr_html_()


def test_a_long_table_shows_its_first_rows(tmp_path):
    many = shoal.train(
        tiny_grid({"n_steps": 1, "model": "lstm"}, seed=range(MOST_ROWS + 2)), tmp_path / "lab", workers=1
    )
    shown = many._repr_html_()
    assert shown.count("<tr>") == MOST_ROWS + 1
    assert f"{MOST_ROWS + 2} runs" in shown


def test_a_damaged_run_is_told_of_and_does_not_hide_the_others(tmp_path):
    specs = [tiny(), tiny(model="gpt")]
    lab = shoal.train(specs, tmp_path / "lab", workers=1)
    part = next((lab.cohort_of(specs[0].id).path / "metrics").iterdir())
    part.write_bytes(part.read_bytes()[:-9])
    shown = lab._repr_html_()
    assert shown.count("<tr>") == 3
    assert "damaged" in shown
    assert re.search(r"Left out.*: 1 run", lab.plot("valid_loss").caption)
    with pytest.raises(LabError):
        lab[:1].plot()


# progress


def snapshot(**given):
    from shoal.measures import EQUATIONS
    from shoal.training.snapshot import Snapshot

    spread = (0.1, 0.2, 0.3)
    usual = {"title": "lstm", "engine": "plain", "members": 4, "step": 50, "n_steps": 100, "state": "running"}
    usual |= {"measures": EQUATIONS, "train": spread, "valid": spread, "generalised": 1, "diverged": 0}
    usual |= {"cohort": "a" * 16, "steps_per_second": 10.0, "seconds_left": 5.0}
    return Snapshot(**{**usual, **given})


class Shown:
    """Pieces that were shown."""

    def __init__(self):
        self.lines = []

    def show(self, pieces, last):
        self.lines.append((pieces, last))


def test_the_line_adds_up_over_cohorts(monkeypatch):
    monkeypatch.setattr("shoal.training.progress._EACH", 0.0)
    place = Shown()
    with Line(place, 8) as line:
        line(snapshot())
        line(snapshot(cohort="b" * 16, step=100, state="done", valid=(0.5, 0.6, 0.9), generalised=3))
    (first, last) = place.lines[0][0], place.lines[-1]
    assert "25%" in first[0]
    assert any("left" in piece for piece in place.lines[1][0])
    assert "75%" in place.lines[1][0][0]
    assert last[1]
    assert "4 generalised" in " ".join(last[0])
    assert "0.10 to 0.90" in " ".join(last[0])


def test_an_error_ends_the_line(monkeypatch):
    place = Shown()
    with pytest.raises(KeyboardInterrupt), Line(place, 4) as line:
        line(snapshot())
        raise KeyboardInterrupt
    assert place.lines[-1][1]
    assert "50%" in place.lines[-1][0][0]


def on_terminal(do, columns: int) -> str:
    """What a terminal of some width is sent by what is written to standard error."""
    import fcntl
    import termios

    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    sent = bytearray()

    def read():
        while True:
            try:
                data = os.read(ours, 4096)
            except OSError:
                return
            if not data:
                return
            sent.extend(data)

    reader = threading.Thread(target=read)
    reader.start()
    with os.fdopen(theirs, "w") as stream:
        do(stream)
    reader.join(10)
    os.close(ours)
    return sent.decode()


@pytest.mark.parametrize("columns", [20, 60, 120])
def test_a_terminal_is_written_one_line_which_never_wraps(columns, tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.training.progress._EACH", 0.0)

    def do(stream):
        monkeypatch.setattr(sys, "stderr", stream)
        shoal.train(tiny(), tmp_path / "lab", workers=1)

    sent = on_terminal(do, columns)
    assert sent.count("\n") == 1
    assert sent.endswith("\n")
    assert all(len(part.rstrip("\r\n")) < columns for part in sent.split("\r"))
    assert "1 run: trained in" in sent


def fake_ipython(monkeypatch, kernel=True):
    """An IPython that counts what it displays."""
    shown = []

    class Handle:
        def update(self, content, raw):
            shown.append(("update", content["text/plain"]))

    def display(content, raw=True, display_id=True):
        shown.append(("display", content["text/plain"]))
        return Handle()

    module, displaying = ModuleType("IPython"), ModuleType("IPython.display")
    module.get_ipython = lambda: SimpleNamespace(kernel=object()) if kernel else SimpleNamespace()
    displaying.display = display
    monkeypatch.setitem(sys.modules, "IPython", module)
    monkeypatch.setitem(sys.modules, "IPython.display", displaying)
    return shown


def test_a_notebook_has_one_output_that_is_updated(tmp_path, monkeypatch):
    monkeypatch.setattr("shoal.training.progress._EACH", 0.0)
    shown = fake_ipython(monkeypatch)
    shoal.train(tiny(), tmp_path / "lab", workers=1)
    assert [kind for kind, _ in shown].count("display") == 1
    assert "trained in" in shown[-1][1]
    del shown[:]
    shoal.train(tiny(), tmp_path / "lab", workers=1)
    assert len(shown) == 1
    assert "lab" in shown[0][1]
    shoal.train(tiny(seed=1), tmp_path / "lab", workers=1, progress=False)
    shoal.train(tiny(seed=2), tmp_path / "lab", workers=1, watch=lambda s: None)
    assert len(shown) == 1


def test_elsewhere_it_is_silent_unless_asked(tmp_path, monkeypatch, capsys):
    fake_ipython(monkeypatch, kernel=False)
    shoal.train(tiny(), tmp_path / "lab", workers=1)
    assert capsys.readouterr() == ("", "")
    shoal.train(tiny(seed=1), tmp_path / "lab", workers=1, progress=True)
    out, error = capsys.readouterr()
    assert out == ""
    assert "1 run: trained in" in error


def test_ipython_is_not_imported_where_it_is_not(tmp_path):
    assert "IPython" not in sys.modules
    shoal.train(tiny(), tmp_path / "lab", workers=1, progress=True)
    assert "IPython" not in sys.modules


# mistakes in what is asked for


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"specs": "gpt"}, "'gpt'"),
        ({"specs": 3}, "3"),
        ({"specs": None}, "None"),
        ({"specs": {"model": "gpt"}}, "model"),
        ({"specs": [tiny(), "gpt"]}, "'gpt'"),
        ({"specs": []}, "no runs"),
        ({"lab": 3}, "3"),
        ({"lab": None}, "None"),
        ({"device": 3}, "3"),
        ({"workers": "two"}, "'two'"),
        ({"workers": 1.5}, "1.5"),
        ({"workers": True}, "True"),
        ({"threads": "one"}, "'one'"),
        ({"engine": 3}, "3"),
        ({"places": "all"}, "'all'"),
        ({"flush_seconds": "20"}, "'20'"),
        ({"flush_seconds": None}, "None"),
        ({"metrics": ["norm"]}, "norm"),
        ({"metrics": {"norm": 3}}, "norm"),
        ({"metrics": {3: len}}, "3"),
        ({"watch": 3}, "watch"),
        ({"say": None}, "say"),
        ({"progress": "yes"}, "'yes'"),
    ],
)
def test_a_wrong_type_is_one_line_and_changes_nothing(settings, told, tmp_path):
    request = {"specs": tiny(), "lab": tmp_path / "lab", **settings}
    with pytest.raises(UserError) as caught:
        shoal.train(request.pop("specs"), request.pop("lab"), **request)
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("base", ["gpt", 3, {"model": "gpt"}])
def test_a_grid_begins_with_a_spec(base):
    with pytest.raises(UserError, match="RunSpec"):
        shoal.grid(base, seed=[0, 1])
