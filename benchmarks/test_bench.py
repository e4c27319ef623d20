# ruff: noqa: D103
"""Tests that the benchmark measures in pairs, counts rightly, writes its results and refuses wrong requests."""

import csv
import re
from contextlib import contextmanager

import pytest
import torch

from benchmarks import bench, harness, results, workers
from benchmarks.bench import main
from benchmarks.cases import CONFIGURATIONS, METHODS, TEXT, Case, Request, Subject, Window
from benchmarks.nanogpt import SMALL_CPU, count_parameters, get_lr
from benchmarks.workers import Job, Ready
from shoal import RunSpec
from shoal.errors import RunFailed
from shoal.rules.schedules import schedule_of
from shoal.tasks.arithmetic.settings import equations_of
from shoal.tasks.build import build_model

WRONG = {
    "--members 0": "members must be an integer of at least 1, got 0",
    "--members 4 -2": "members must be an integer of at least 1, got -2",
    "--members two": "must be an integer, got 'two'",
    "--methods foo": r"unknown method 'foo': one of plain compiled torch_nn jax shoal",
    "--methods compild": "unknown method 'compild'.*did you mean 'compiled'",
    "--models gtp": "unknown model 'gtp'.*did you mean 'gpt'",
    "--configurations defalt": "unknown configuration 'defalt'.*did you mean 'default'",
    "--pairs 0": "pairs must be an integer of at least 1, got 0",
    "--steps -1": "steps must be an integer of at least 1, got -1",
    "--member 1": "unknown argument '--member'.*did you mean '--members'",
    "--device crad": "device must be cpu.* on this machine, got 'crad'",
    "--out /dev/null/x": "--out /dev/null/x cannot be made",
    "--configurations text": "configuration text, which needs one: got none",
    "--text some.txt": "configuration text, which needs one: got 'some.txt' for default small",
    "--configurations text --text /nowhere.txt": "the text /nowhere.txt cannot be read",
    "--configurations text --text . --models lstm": "text has the models gpt, got lstm",
    "--configurations text --text . --methods jax": "text has the methods plain compiled shoal, got jax",
}


@pytest.mark.parametrize("flags", WRONG)
def test_a_wrong_request_is_one_line_and_exit_code_2(flags, capsys):
    assert main(flags.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(WRONG[flags], error), error


def test_nothing_is_written_over_what_is_published_unless_asked_for(monkeypatch, tmp_path):
    written = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(bench, "measure", lambda request, tell: harness.Outcome([], {}))
    monkeypatch.setattr(bench, "write_results", lambda *arguments: written.append(arguments[-1]))
    assert main([]) == main(["--quick"]) == main(["--out", "docs/results"]) == 0
    assert [str(folder) for folder in written] == ["build/bench", "build/bench", "docs/results"]


def test_help_names_every_choice(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    out = capsys.readouterr().out
    assert all(name in out for name in (*METHODS, *CONFIGURATIONS))


@pytest.mark.slow
def test_a_tiny_run_is_measured_printed_and_kept(tmp_path, capsys):
    flags = "--configurations tiny --models lstm --methods shoal --members 2 --pairs 1 --steps 1"
    assert main([*flags.split(), "--out", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    page = (tmp_path / "bench.md").read_text()
    for text in (out, page):
        assert re.search(r"^(\| )?plain ", text, re.MULTILINE)
        assert re.search(r"^(\| )?shoal, R = 2 ", text, re.MULTILINE)
    assert f"python -m benchmarks {flags} --out {tmp_path}" in page
    with (tmp_path / "bench.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["method"], row["members"]) for row in rows] == [("plain", "1"), ("shoal", "2")]
    for row in rows:
        positive = ["milliseconds", "times_plain", "evaluation_milliseconds", "peak_mib", "machine_gflop_per_second"]
        positive += ["share", *(["flush_milliseconds"] if row["method"] == "shoal" else [])]
        assert all(float(row[name]) > 0 for name in positive), row
    assert len((tmp_path / "bench" / "pairs.csv").read_text().splitlines()) == 3


# what is counted


@pytest.mark.parametrize("configuration", [c for c in CONFIGURATIONS.values() if c.name != TEXT], ids=lambda c: c.name)
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_positions_are_those_of_a_pass_over_the_training_equations(configuration, model):
    case = Case(configuration, model)
    data = equations_of(case.spec)
    inputs, *_ = data.rows(data.train)
    assert case.positions * case.batches == pytest.approx(inputs.numel())


def test_operations_of_the_default_run():
    giga = {model: harness.operations(Case(CONFIGURATIONS["default"], model)) / 1e9 for model in ("lstm", "gpt")}
    assert giga == {"lstm": pytest.approx(4.63, abs=0.01), "gpt": pytest.approx(6.91, abs=0.01)}


def test_a_step_has_its_share_of_evaluations_and_flushes():
    case = Case(CONFIGURATIONS["small"], "gpt")
    assert case.milliseconds(Window(2.0, 0.0, 0.0, 9.0)) == pytest.approx(2000)
    assert case.milliseconds(Window(0.0, 1.0, 0.0, 9.0)) == pytest.approx(1000 * 201 / 10_001)
    assert case.milliseconds(Window(2.0, 0.0, 5.0, 9.0)) == pytest.approx(2500)  # 5 s after every 20 s


def test_windows_are_whole_passes_and_shorter_for_many_members():
    default, small = (Case(CONFIGURATIONS[name], "lstm") for name in ("default", "small"))
    assert [default.steps(R, None) for R in (1, 8, 16, 128)] == [10, 10, 5, 3]
    assert [small.steps(R, None) for R in (1, 8, 64)] == [80, 80, 16]
    assert default.steps(1, 2) == 2
    assert small.steps(1, 2) == 8  # batches in a pass


def test_runs_evaluate_at_the_end_of_each_window_and_differ_in_their_seeds():
    specs = Case(CONFIGURATIONS["default"], "gpt").specs(3, window=12, windows=2000)
    assert [spec.seed for spec in specs] == [42, 43, 44]
    assert {(spec.eval_first, spec.eval_period) for spec in specs} == {(0, 12)}
    assert specs[0].n_steps > 12 * 2000
    assert RunSpec(model="gpt").n_steps == Case(CONFIGURATIONS["default"], "gpt").specs(1, 12, 7)[0].n_steps


@pytest.mark.parametrize("method", ["plain", "torch_nn", "shoal"])
def test_an_evaluation_is_timed_itself_however_long_the_step_beside_it_takes(method, tmp_path, monkeypatch):
    case, calls = Case(CONFIGURATIONS["tiny"], "lstm"), []
    job = Job(method, tuple(case.specs(1, 4, 9)), 2)
    monkeypatch.setattr(workers, "_seconds", lambda act: calls.append(act()) or 7.0)  # what is timed took 7 s
    measure, _ = (workers._baseline if method != "shoal" else workers._shoal)(job, tmp_path)
    measure()
    window = measure()
    assert window.evaluation == 7.0
    assert window.flush == (7.0 if method == "shoal" else 0.0)


# a text


@pytest.fixture
def text(tmp_path):
    """Path of a file of a hundred lines with an alphabet of 23."""
    path = tmp_path / "some.txt"
    path.write_text("The quick brown fox eats.\n" * 100, encoding="utf-8")
    return path


def test_a_text_is_trained_on_in_nanogpts_setting(text):
    (case,) = Request(["text"], text=str(text)).cases()
    assert [(s.method, s.members) for s in Request(["text"], text=str(text)).subjects(case)] == [
        ("compiled", 1),
        ("shoal", 1),
        ("shoal", 4),
    ]
    assert harness.operations(case) == 6 * 768 * (4 * 12 * 128**2 + 9 * 128 + len(set(text.read_text())) * 128)
    assert [run.seed for run in case.specs(3, window=12, windows=2)] == [1337, 1338, 1339]
    assert [case.steps(R, None) for R in (1, 4)] == [10, 10]
    assert case.milliseconds(Window(0.0, 1.0, 0.0, 9.0)) == pytest.approx(1000 * 9 / 2001)


@pytest.mark.parametrize(
    ("content", "said"), [(b"caf\xe9 " * 200, "UTF-8, and byte 3 is not"), (b"ab" * 300, "longer than 64.*got 600")]
)
def test_a_text_that_cannot_be_used_is_one_line(content, said, tmp_path, capsys):
    path = tmp_path / "some.txt"
    path.write_bytes(content)
    assert main(["--configurations", "text", "--text", str(path)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert re.search(said, error), error


@pytest.mark.parametrize("method", ["plain", "shoal"])
def test_a_window_on_a_text_trains_the_steps_asked_for(method, text, tmp_path, monkeypatch):
    (case,) = Request(["text"], text=str(text)).cases()
    job = Job(method, tuple(case.specs(1, 4, 9)), 2)
    measure, _ = (workers._baseline if method == "plain" else workers._shoal)(job, tmp_path / "scratch")
    window = measure()
    assert window.step > 0
    assert window.evaluation > 0


@pytest.mark.slow
def test_shoal_is_measured_beside_nanogpts_loop_on_a_text(text, tmp_path):
    flags = f"--configurations text --text {text} --members 1 --pairs 1 --steps 1 --out {tmp_path}"
    assert main(flags.split()) == 0
    page = (tmp_path / "bench.md").read_text()
    assert re.search(r"^\| plain ", page, re.MULTILINE)
    assert re.search(r"^\| shoal, R = 1 ", page, re.MULTILINE)


def test_shoals_run_has_nanogpts_parameters_and_learning_rates(text):
    (case,) = Request(["text"], text=str(text)).cases()
    spec, V = case.spec, len(set(text.read_text()))
    parameters = sum(parameter.numel() for parameter in build_model(spec).parameters())
    assert parameters == count_parameters(SMALL_CPU, V) + 64 * 128  # and the table of positions
    schedule = schedule_of([spec], torch.device("cpu"))
    for it in (0, 1, 99, 100, 101, 1000, 2000):
        factor = schedule(torch.tensor([[it + 1.0]], dtype=torch.float64)).item()
        assert spec.lr * factor == pytest.approx(get_lr(SMALL_CPU, it), rel=1e-12)


# how it is measured, with processes that only say what they took


class FakeTeam:
    """Fake team that trains nothing; a step of ``plain`` takes 8 s, of process ``i`` of another method 4 + i s."""

    def __init__(self, jobs, log):
        self.jobs, self.log = jobs, log

    def windows(self):
        self.log.append(self.jobs[0].method)
        taken = 8.0 if self.jobs[0].method in ("plain", "products") else 4.0
        return [Window(taken + i, 0.0, 0.0, taken) for i in range(len(self.jobs))]

    def peak(self):
        return 1.0 * len(self.jobs)


@pytest.fixture
def log(monkeypatch):
    """Methods that trained, in order; JAX is not installed."""
    log = []

    @contextmanager
    def team(jobs):
        if jobs[0].method == "jax":
            raise RunFailed("needs jax")
        yield FakeTeam(jobs, log), [Ready(6.0) for _ in jobs]

    monkeypatch.setattr(harness, "team", team)
    monkeypatch.setattr(harness, "cores", lambda: 2)
    return log


def measured(**request):
    lines = []
    outcome = harness.measure(Request(**{"configurations": ["default"], "pairs": 2, **request}), lines.append)
    return outcome, lines


def test_each_window_stands_beside_one_of_plain(log):
    outcome, lines = measured(models=["gpt"], methods=["torch_nn", "shoal"], members=[4])
    assert log[harness.RATE_WINDOWS :] == ["plain", "torch_nn"] * 2 + ["plain", "shoal"] * 2
    plain, torch_nn, shoal = outcome.results
    assert len(lines) == 3
    assert plain.ratios == (1.0,) * 4
    assert torch_nn.ratios == (2.0,) * 2
    assert shoal.milliseconds == (5000 / 4,) * 2  # the slower of two processes, over four members
    assert (shoal.processes, shoal.threads, shoal.peak, shoal.set_up) == (2, 1, 2.0, 2.0)
    assert plain.machine_rate / (2 * 2880 * 128 * 512) == pytest.approx(1 / 8 + 1 / 9)


def test_members_are_divided_between_the_cores(monkeypatch):
    monkeypatch.setattr(harness, "cores", lambda: 4)
    case, request = Case(CONFIGURATIONS["default"], "lstm"), Request()
    shares = {R: harness._jobs(case, Subject("shoal", R), request) for R in (1, 2, 6)}
    assert {R: [len(job.specs) for job in jobs] for R, jobs in shares.items()} == {1: [1], 2: [1, 1], 6: [1, 2, 1, 2]}
    assert {R: {job.threads for job in jobs} for R, jobs in shares.items()} == {1: {4}, 2: {2}, 6: {1}}


def test_without_jax_the_rest_goes_on(log):
    outcome, lines = measured(methods=["jax", "torch_nn"])
    assert outcome.missing == {"jax": "needs jax"}
    assert outcome.is_whole
    assert lines.count("jax: not measured: needs jax") == 1  # though there are two models
    assert [r.subject.method for r in outcome.results] == ["plain", "torch_nn"] * 2


def test_plain_alone_has_as_many_windows_as_pairs(log):
    outcome, _ = measured(models=["lstm"], methods=["plain"], pairs=3)
    (plain,) = outcome.results
    assert len(plain.milliseconds) == 3


def test_the_page_has_a_table_per_case_a_chart_and_what_is_missing(log, tmp_path):
    request = {"models": ["gpt"], "members": [1, 2, 8]}
    outcome, _ = measured(**request)
    page = results.write_results(outcome, Request(**request), "python -m benchmarks", 0.5, tmp_path).read_text()
    assert "**Not measured:** jax: needs jax" in page
    assert "| shoal, R = 8 |" in page
    assert "![default-gpt](bench/default-gpt.svg)" in page
    assert "</svg>" in (tmp_path / "bench" / "default-gpt.svg").read_text()
