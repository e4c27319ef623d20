"""The command line: one clear line for a mistake, exit codes, and one session from training to report."""

import json
import re
import subprocess
import sys

import pytest
from helpers import TINY, tiny
from shown import loaded_from_outside, text_of

import shoal
from shoal.cli import COMMANDS, main
from shoal.commands.progress import Progress, line, time_left
from shoal.measures import EQUATIONS
from shoal.report import Cell, Table
from shoal.report.console import print_table
from shoal.training.snapshot import Snapshot

TINY_FLAGS = [word for name, value in TINY.items() for word in (f"--{name.replace('_', '-')}", str(value))]

WRONG = {
    "trian": "unknown command 'trian'.*did you mean 'train'",
    "train --wieght-decay 1": "unknown argument '--wieght-decay'.*did you mean '--weight-decay'",
    "train --task translation --pair-key abc": "--pair-key .*computed from their files$",
    "train --text_key abc": "--text_key .*computed from their files$",
    "train --pair-keys abc": "unknown argument '--pair-keys' of shoal train$",
    "train --p 1": "p must be an integer of at least 2, got '1'",
    "train --p two": "p must be an integer of at least 2, got 'two'",
    "train --p 7.5": "p must be an integer of at least 2, got '7.5'",
    "train --operator / --p 30": "prime p, got p=30; the nearest is 29",
    "train --r-train 0": r"r_train must be in \(0, 1\), got '0'",
    "train --r-train 1": "r_train=1.0 leaves the validation split empty",
    "train --r-train 1.5": r"r_train must be in \(0, 1\), got '1.5'",
    "train --r-train 0.001 --p 5": "leaves the training split empty",
    "train --model gpt --embedding-size 10 --num-heads 4": "num_heads must divide embedding_size",
    "train --n-steps -5": "n_steps must be an integer of at least 1, got '-5'",
    "train --train-batch-size 0": "train_batch_size must be an integer of at least 1, got '0'",
    "train --n-steps 9223372036854775808": "n_steps must be at most 2,147,483,647, got 9223372036854775808",
    "train --eval-first 1180591620717411303424": "eval_first must be at most 2,147,483,647, got",
    "train --num-layers 0": "num_layers must be an integer of at least 1, got '0'",
    "train --model gtp": "unknown model 'gtp'.*did you mean 'gpt'",
    "train --operator x": r"unknown operator 'x': one of \+ - \* /",
    "train --operator s5:yx": "unknown operator 's5:yx'.*did you mean 's5:xy'",
    "train --operator s5:xy --p 31": "120 permutations of five elements and needs p=120, got p=31",
    "train --operator x^2+y^2 --operation-orders 2,3": "takes two operands: operation_orders must be 2, got 2,3",
    "train --equation-format full infx": "unknown equation_format 'infx'.*did you mean 'infix'",
    "train --optimizer adamm": "unknown optimizer 'adamm'.*did you mean 'adam",
    "train --lr nan": "lr must be a finite number above 0, got 'nan'",
    "train --lr 1e-3,1e-4": "got '1e-3,1e-4'; values of a grid are separated by spaces",
    "train seed=1": "unknown argument 'seed=1' of shoal train; did you mean '--seed'",
    "train --text a.txt": "--text does not apply to task 'arithmetic'; it applies to .*, such as --task text$",
    "study run letters --quick": r"study letters needs --text …$",
    "study run translation --source a": "study translation needs --target … --valid-source … --valid-target …$",
    "train --lr inf": "lr must be a finite number above 0, got 'inf'",
    "train --lr=-inf": "lr must be a finite number above 0, got '-inf'",
    "train --lr -1e-3": "lr must be a finite number above 0, got '-1e-3'",
    "train --lr -inf": "lr must be a finite number above 0, got '-inf'",
    "train --lr": "--lr: needs at least one value",
    "train --model gpt --multiplier 0.001": "leaves no feed-forward neuron",
    "train --model gpt --norm none --norm-position pre": "norm_position=pre does not apply to norm 'none'",
    "train --model gpt --norm None --norm-position pre": "norm_position=pre does not apply to norm 'none'",
    "train --num-layers 1 --dropout 0.1": "does not apply to an lstm of one layer",
    "train --split-per-order true": "split_per_order does not apply to one order",
    "train --p 20000": "400,000,000 equations; at most 10,000,000 fit",
    "train --threads 100000": "threads must be an integer from 1 to the",
    "train --flush-seconds nan": "flush_seconds must be above 0 and at most 30, got nan",
    "resume --workers -4": "there is no lab",
    "study list sanity": "study list takes no name",
    "study report sanity --quick": "study report takes no flag but --lab",
    "report sanity --name x": "--name does not apply",
    "report --name sanity": "--name sanity is reserved for pages of sanity",
    "report --name=": "report name '' is not allowed",
    "runs --lab=": "needs the name of a folder, got ''",
    "report power-2022": "'power-2022' was not run in lab",
    "study report sanity-quick": "unknown study 'sanity-quick'",
    "study run sanity --quick --workers 0": "workers must be an integer of at least 1, got 0",
    "train --num-heads 4": "--num-heads does not apply to model 'lstm'; it applies to gpt",
    "train --num_heads=4": "--num_heads does not apply to model 'lstm'; it applies to gpt",
    "train --model lstm --hidden-size 8 --multiplier 2": "--multiplier does not apply to model 'lstm'; .* gpt",
    "train --model=gpt --hidden-size 8": "--hidden-size does not apply to model 'gpt'; it applies to lstm",
    "train --model lstm gpt --num-heads 4": "does not apply to model 'lstm'",
    "train --momentum 0.9": "--momentum does not apply to optimizer 'adamw'; it applies to momentum",
    "train --optimizer sgd --beta1 0.9": "--beta1 does not apply to optimizer 'sgd'; it applies to adam adamw lion",
    "train --optimizer SGD": "unknown optimizer 'SGD'.*did you mean 'sgd'",
    "train --task aritmetic": "unknown task 'aritmetic'.*did you mean 'arithmetic'",
    "train --task os:system": "task 'os:system' cannot be imported",
    "train --model outside:Shifted": "'outside:Shifted' is no model",
    "train --weihgt-decay 1": "unknown argument '--weihgt-decay'.*did you mean '--weight-decay'",
    "train --lr 1 --lr 2": "--lr was given twice; give all its values at once",
    "train --p 5 --device cpu --device cpu": "--device was given twice; give it once",
    "train --log-dir here --p 5": "--log-dir and --lab are one flag; give it once",
    "runs --state done --state waiting": "--state was given twice; give all its values at once",
    "train --p 5 --eval-batch-size 1 2": "eval_batch_size=2 makes the same run as eval_batch_size=1: give one",
    "train --seed 0 1 --init-seed 1 --split-seed 1 --order-seed 1": "seed=1 makes the same run as seed=0",
    "study run sanity --seed 1 2 3 --seeds 2": "--seeds 2 and --seed 1 2 3 both say which seeds",
    "study run sanity --model gpt rnn": "unknown model 'rnn': one of lstm gpt",
    "study run attention --model gpt lstm": r"no runs with model lstm; it has gpt \(study attention\)",
    "study run --all --model lstm": r"no runs with model lstm; it has gpt \(study attention\)",
    "study run --all --all": "--all was given twice; give it once",
    "study run sanity --threshold 0.9 0.90": "threshold was given 0.9 twice",
    "study run sanity --threshold 0.9 --threshold 0.5": "--threshold was given twice; give all its values at once",
    "study list --threshold 0.9": "study list takes no flag but --lab, got --threshold",
    "study report sanity --flush-seconds 3": "study report takes no flag but .*, got --flush-seconds",
    "reproduce --quick": "reproduce without the name of a reproduction .* takes no flag but --lab, got --quick",
    "train --p 5 --places 0": "places must be an integer of at least 1, got 0",
    "train --p 5 --engine fast": "engine must be one of compiled prefixes windows plain, got 'fast'",
    "train --p 5 --precision tf32 --device cpu": "precision tf32 needs device cuda, got cpu",
    "study": "study needs an action: one of list run report",
    "study run sanity --quick extra": "unknown argument 'extra' of shoal study run$",
    "study run sanity --seeds x": "--seeds must be an integer, got 'x'",
    "study run improve --quick --n-steps 60": r"warmup_steps=100 and n_steps=60 \(in the part 'warm-up' of the",
    "train --workers 0": "workers must be an integer of at least 1, got 0",
    "train --device tpu": "device must be",
    "study run sanitty": "unknown study 'sanitty'.*did you mean 'sanity'",
    "study run ../sanity": "'../sanity' is not allowed",
    "study run": "needs the name of a study",
    "study rnu sanity": "unknown action 'rnu'.*did you mean 'run'",
    "study report sanity": "'sanity' was not run in lab .*; shoal study run sanity",
    "study report power-2022": "'power-2022' was not run in lab .*; shoal reproduce power-2022",
    "study run power-2022": "unknown study 'power-2022'",
    "reproduce power": "unknown reproduction 'power'.*did you mean 'power-2022'",
    "reproduce power-2022 --threshold 0.5": "--threshold does not apply to power-2022",
    "reproduce power-2022 --stay 2": "--stay does not apply to power-2022: each number",
    "study report power-2022 --stay 2": "--stay does not apply to power-2022: each number",
    "study run mixed-orders --threshold 0.5": "--threshold does not apply to mixed-orders",
    "study report attention --stay 2": "--stay does not apply to attention",
    "study run sanity --quick --stay 0": "stay must be a whole number of evaluations of at least 1, got 0",
    "study run sanity --stay 1.5": "--stay must be an integer, got '1.5'",
    "study list --stay 2": "study list takes no flag but --lab",
    "certify ../x": "'../x' is not allowed",
    "certify abc": "no run 'abc'",
    "report abc": "no run 'abc'",
    "resume": "there is no lab .*/lab",
    "runs": "there is no lab .*/lab",
}


@pytest.mark.parametrize("command", WRONG)
def test_a_wrong_request_is_one_line_exit_code_2_and_no_lab(command, tmp_path, capsys):
    words = command.split()
    lab = tmp_path / "lab"
    assert main([*words, "--lab", str(lab)] if words[0] in COMMANDS else words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("shoal: ")
    assert re.search(WRONG[command], error), error
    assert not lab.exists()


@pytest.mark.parametrize("size", ["--embedding-size", "--num-layers"])
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_a_model_that_cannot_fit_is_refused_before_it_is_made_or_written_down(model, size, tmp_path, capsys):
    command = ["train", "--p", "5", "--model", model, size, str(2**31 - 4), "--lab", str(tmp_path / "lab")]
    assert main(command) == 2
    assert re.fullmatch(r"shoal: one run with .*=2147483644.* GiB; .* GiB are free\n", capsys.readouterr().err)
    assert not list(tmp_path.glob("lab/cohorts/*"))


@pytest.mark.parametrize("kind", ["file", "folder", "newer"])
@pytest.mark.parametrize("command", ["train --p 5 --n-steps 1", "runs", "resume", "report", "study run sanity --quick"])
def test_what_is_not_a_lab_is_refused(command, kind, tmp_path, capsys):
    lab = tmp_path / "lab"
    if kind == "file":
        lab.write_text("mine")
    else:
        lab.mkdir()
        (lab / ("shoal-lab.json" if kind == "newer" else "mine.txt")).write_text('{"format": 99}')
    before = sorted(tmp_path.rglob("*"))
    assert main([*command.split(), "--lab", str(lab)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_help_answers_without_importing_anything_heavy():
    heavy = "[m for m in ('torch', 'polars', 'pydantic', 'altair') if m in sys.modules]"
    code = f"import sys; from shoal.cli import main; main(['--help']); print({heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.endswith("[]\n")
    assert all(name in out for name in COMMANDS)


@pytest.fixture(scope="module")
def small_lab(tmp_path_factory):
    path = tmp_path_factory.mktemp("small") / "lab"
    shoal.train([tiny(), tiny(model="gpt", n_steps=6)], path, workers=1)
    return path


LISTS = ["study list", "reproduce", "runs --lab {}", "runs --model gpt --state done --lab {}"]


@pytest.mark.parametrize("command", LISTS)
def test_what_only_lists_loads_nothing_that_computes(command, small_lab):
    words = command.format(small_lab).split()
    heavy = ("torch", "altair", "scipy", "vl_convert", "safetensors", "numpy")
    code = f"import sys; from shoal.cli import main; main({words}); print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(out) > 2
    assert out[-1] == "[]"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_may_come_first(command, capsys):
    said = []
    for words in ([command, "--help"], ["help", command]):
        with pytest.raises(SystemExit) as ended:
            main(words)
        said.append((ended.value.code, capsys.readouterr().out))
    assert said[0] == said[1] and said[0][0] == 0


def test_help_alone_is_of_all(capsys):
    assert (main(["help"]), main(["--help"])) == (0, 0)
    text = capsys.readouterr().out
    assert text[: len(text) // 2] == text[len(text) // 2 :]
    assert main(["help", "trian"]) == 2
    assert "did you mean 'train'" in capsys.readouterr().err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([command, "--help"])
    assert stop.value.code == 0
    assert command in ("fit", "score", "completion") or "--lab" in capsys.readouterr().out


def test_one_session_from_training_to_report(tmp_path, capsys):
    lab = ["--log_dir", str(tmp_path / "lab")]  # the practical's name for it
    train = ["train", *TINY_FLAGS, "--model", "lstm", "gpt", "--weight_decay", "0.5", "1", "--seed", "0", "1", *lab]
    assert main([*train, "--workers", "1"]) == 0
    assert "8 runs: 8 new runs of 2 shapes" in capsys.readouterr().out
    assert main(train) == 0
    out = capsys.readouterr().out
    assert "8 runs: 8 runs already in the lab" in out
    rows = [line for line in out.splitlines() if re.match("[0-9a-f]{16} ", line)]
    assert len(rows) == 8
    assert all(line.split()[-1] == "–" for line in rows)  # in 12 steps nothing is memorised: no delay
    assert len([line for line in out.splitlines() if line.startswith("Δt(A) –: ")]) == 1  # the key to the sign
    run = rows[-1].split()[0]
    assert main(["runs", *lab]) == 0
    assert run in capsys.readouterr().out
    assert main(["certify", run, "--steps", "5", *lab]) == 0
    assert "alone against stacked" in capsys.readouterr().out
    assert main(["resume", *lab]) == 0
    assert "every run of the lab is finished" in capsys.readouterr().out
    assert main(["report", *lab]) == 0
    page = tmp_path / "lab" / "reports" / "runs" / "index.html"
    assert str(page) in capsys.readouterr().out
    text = page.read_text()
    assert run in text
    assert "Certificates: in 1 cohort (none of 1 more), losses of 1 member retrained alone" in text_of(text)
    assert loaded_from_outside(text) == []
    assert {path.suffix for path in (page.parent / "figures").iterdir()} == {".pdf", ".svg", ".png"}
    assert {path.suffix for path in (page.parent / "tables").iterdir()} == {".csv", ".md", ".tex"}


def test_tables_on_the_terminal_have_titles_that_tell_them_apart(tmp_path, capsys):
    lab = ["--lab", str(tmp_path / "lab")]
    small = ["--quick", "--seeds", "1", "--p", "5", "--n-steps", "12", "--eval-period", "4", "--embedding-size", "8"]
    assert main(["study", "run", "sanity", *small, *lab, "--threshold", "0.1", "0.9"]) == 0
    lines = capsys.readouterr().out.splitlines()
    titles = [line for line in lines if line.startswith("Time to generalise: ")]
    assert titles == [
        f"Time to generalise: Runs that reached validation accuracy {threshold} (both models)."
        for threshold in (0.1, 0.9)
    ]
    assert all(lines[lines.index(title) + 1].startswith("model ") for title in titles)
    assert "How this was made: The runs behind the figures." in lines


def answers(page):
    """A page without its glossary, whose words are the same on every page."""
    text, glossary, _ = page.read_text().partition("## Glossary")
    assert glossary
    return text


@pytest.mark.slow
def test_how_long_a_run_has_to_stay_is_kept_with_the_study_and_can_be_asked_again(tmp_path, capsys):
    lab = ["--lab", str(tmp_path / "lab")]
    small = ["--quick", "--seeds", "1", "--p", "5", "--n-steps", "12", "--eval-period", "4", "--embedding-size", "8"]
    threshold = ["--threshold", "0.05"]
    assert main(["study", "run", "sanity", *small, *lab, *threshold, "--stay", "2"]) == 0
    twice = "reached validation accuracy 0.05 at 2 evaluations in a row"
    assert twice in capsys.readouterr().out
    (page,) = (tmp_path / "lab" / "reports").glob("sanity-quick-seeds-1-*/report.md")
    assert twice in page.read_text()
    assert "--threshold 0.05 --stay 2" in page.read_text()
    assert "| fell back |" in page.read_text()
    page.unlink()
    assert main(["study", "report", "sanity", *lab]) == 0
    assert twice in page.read_text()
    assert main(["study", "report", "sanity", *lab, "--stay", "1"]) == 0  # beside the page as it was
    (other,) = set((tmp_path / "lab" / "reports").glob("sanity-quick-seeds-1-*/report.md")) - {page}
    assert "reached validation accuracy 0.05 (both models)" in other.read_text()
    assert "evaluations in a row" not in answers(other)
    (note,) = (tmp_path / "lab" / "studies" / "sanity").iterdir()
    older = {key: value for key, value in json.loads(note.read_text()).items() if key not in ("stay", "sha256")}
    note.write_text(json.dumps(older))  # of a lab that knew of no stay
    other.unlink()
    assert main(["study", "report", "sanity", *lab]) == 0
    assert "evaluations in a row" not in answers(other)


def test_a_table_in_a_file_is_as_wide_as_it_needs_to_be(capsys):
    header = ["run", *(f"setting_{i}" for i in range(40))]
    print_table(Table("t", header, [("a", [Cell("0.0006")] * 40)], "A table."))
    lines = capsys.readouterr().out.splitlines()
    assert [len(line.split()) for line in lines] == [41, 41]
    assert "…" not in "".join(lines)
    assert len(lines[0].rstrip()) > 400


def test_a_study_in_another_form_leaves_the_page_of_the_first(tmp_path):
    small = ["study", "run", "sanity", "--quick", "--n-steps", "2", "--embedding-size", "8", "--p", "5"]
    small += ["--model", "lstm", "--lab", str(tmp_path / "lab"), "--seeds"]
    assert main([*small, "1"]) == 0
    (first,) = (tmp_path / "lab/reports").iterdir()
    before = {path: path.read_bytes() for path in first.rglob("*") if path.is_file()}
    assert main([*small, "2"]) == 0
    assert len(list((tmp_path / "lab/reports").glob("sanity-quick-seeds-?-*/index.html"))) == 2
    assert {path: path.read_bytes() for path in first.rglob("*") if path.is_file()} == before


def test_a_card_is_reproduced_and_reported_again(tmp_path, capsys):
    lab = ["--lab", str(tmp_path / "lab")]
    small = ["--quick", "--seeds", "1", "--p", "5", "--n-steps", "12", "--eval-period", "4", "--embedding-size", "8"]
    assert main(["reproduce", "power-2022", *small, *lab]) == 0
    first = capsys.readouterr().out
    assert "Verdict: of the 2 published numbers tried" in first
    (page,) = (tmp_path / "lab/reports").glob("power-2022-quick-seeds-1-*/index.html")
    page.unlink()
    assert main(["study", "report", "power-2022", *lab]) == 0
    assert "Verdict: of the 2 published numbers tried" in capsys.readouterr().out
    assert main(["study", "report", "--all", *lab]) == 0
    assert page.is_file()


def snapshot(**changes: object) -> Snapshot:
    values: dict[str, object] = {
        "cohort": "c",
        "title": "gpt, 2 layers, d 128",
        "engine": "compiled",
        "members": 4,
        "step": 2500,
        "n_steps": 10001,
        "state": "running",
        "measures": EQUATIONS,
        "train": (0.9, 0.95, 1.0),
        "valid": (0.1, 0.25, 0.995),
        "generalised": 1,
        "diverged": 0,
        "steps_per_second": 10.0,
        "seconds_left": 750.0,
    }
    return Snapshot(**{**values, **changes})  # type: ignore[arg-type]


def test_progress_says_where_a_cohort_stands(capsys):
    text = line(snapshot(diverged=1))
    for words in (
        "4 runs",
        "2,500/10,001",
        "0.95 [0.90, 1.00]",
        "0.25 [0.10, 0.99]",
        "c gpt, 2 layers, d 128 ·",
        "1/4 reached A_val ≥ 0.99",
        "1 diverged",
    ):
        assert words in text
    assert "at step" not in text  # it is not known when they were evaluated
    assert "valid A 0.25 [0.10, 0.99] at step 2,000" in line(snapshot(evaluated=2000))
    assert "at step" not in line(snapshot(evaluated=2500))  # just now
    assert time_left(snapshot()) == "0:12:30 left"
    assert time_left(snapshot(state="done")) == "done"
    with Progress() as progress:
        for step in range(5):
            progress(snapshot(step=step))
        progress(snapshot(state="done"))
    assert capsys.readouterr().out.count("\n") == 2  # the first and the last: not a terminal


def test_progress_on_a_terminal_is_one_table_that_is_rewritten():
    import io

    from rich.console import Console

    out = io.StringIO()
    with Progress(Console(file=out, force_terminal=True, width=140)) as progress:
        progress(snapshot())
        progress(snapshot(cohort="d", title="lstm, 1 layer, d 64", state="done"))
    assert "gpt, 2 layers, d 128" in out.getvalue()
    assert "0:12:30 left" in out.getvalue()
    assert "generalised" in out.getvalue() and "1/4" in out.getvalue()


def test_of_many_differing_settings_the_terminal_shows_the_first_and_names_the_rest(tmp_path, capsys):
    one = tiny(model="gpt", n_steps=2)
    changes = {"p": 7, "lr": 0.1, "clip": 0.5, "norm": "rmsnorm", "positions": "rotary", "beta2": 0.9}
    other = one.replace(**changes, weight_decay=0.0, warmup_steps=1, bias=False)
    shoal.train([one, other], tmp_path / "lab", workers=1)
    assert main(["runs", "--lab", str(tmp_path / "lab")]) == 0
    header, *rows, key, rest = capsys.readouterr().out.splitlines()
    assert len(rows) == 2
    assert key.startswith("Δt(A) –: ")
    assert rest.startswith("… runs differ in more settings: ")
    named = {*header.split(), *rest.partition(": ")[2].split(", ")}
    assert {"p", "lr", "clip", "norm", "positions", "beta2", "weight_decay", "warmup_steps", "bias"} <= named


def test_the_help_of_a_command_on_runs_shows_its_own_flags(capsys):
    for command, own in (("delete", "--yes"), ("runs", "--columns")):
        with pytest.raises(SystemExit):
            main([command, "--help"])
        told = capsys.readouterr().out
        assert own in told and "RUN" in told.splitlines()[0]
        assert "--weight-decay" in told and "--warmup-steps" not in told


@pytest.mark.parametrize(
    ("action", "has", "lacks"),
    [
        ("run", ["--quick", "--seeds", "--workers", "--weight-decay"], ["--warmup-steps"]),
        ("report", ["--threshold", "--all"], ["--quick", "--workers", "--weight-decay"]),
        ("list", ["--lab"], ["--all", "--model", "NAME"]),
    ],
)
def test_the_help_of_an_action_of_study_is_its_own(action, has, lacks, capsys):
    with pytest.raises(SystemExit):
        main(["study", action, "--help"])
    told = capsys.readouterr().out
    assert told.startswith(f"usage: shoal study {action} ")
    assert all(flag in told for flag in has)
    assert not any(flag in told for flag in lacks)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_default_is_called_default(command, capsys):
    with pytest.raises(SystemExit):
        main([command, "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert not re.findall(r" \([\d.]+\)", text)  # a number alone in brackets


@pytest.mark.parametrize("words", ["study list", "reproduce"])
def test_lists_are_wrapped_beside_their_names(words, capsys, monkeypatch):
    """Narrow terminals break no line where they happen to end; a pipe has one line for each name."""
    monkeypatch.delenv("COLUMNS", raising=False)
    assert main(words.split()) == 0
    whole = capsys.readouterr().out.splitlines()
    for columns in ("40", "60"):
        monkeypatch.setenv("COLUMNS", columns)
        assert main(words.split()) == 0
        lines = capsys.readouterr().out.splitlines()
        assert max(map(len, lines)) <= int(columns) and len(lines) > len(whole)
        assert " ".join(" ".join(lines).split()) == " ".join(" ".join(whole).split())
        names = [line.split()[0] for line in lines if not line.startswith(" ")]
        assert names == [line.split()[0] for line in whole]
