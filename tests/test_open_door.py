"""Tasks, models, rules and studies from outside of shoal, as their users have them: installed, registered, by place."""

import json
import os
import re
import signal
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import Any

import pytest

import shoal
from shoal.cli import main
from shoal.errors import UserError
from shoal.lab import Lab
from shoal.parts import TaskSettings
from shoal.spec import RunSpec
from shoal.training.plan import plan

EXAMPLE = Path(__file__).parents[1] / "examples" / "tidepool"
SMALL = "--length 2 3 --sequences 30 --vocabulary 6 --embedding-size 8 --seed 0 1 --lr 1e-3"
LONG = f"{SMALL} --n-steps 300 --eval-first 0 --eval-period 20 --threads 1"
PLACES = "--task tidepool.tasks:Reverse --model tidepool.models:GRU --optimizer tidepool.rules:Signum"
SHORT = "--task reverse --model gru --optimizer signum"


# installed as a user would


class Installed:
    """The example package in a virtual environment of its own, which sees what this one has."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.python = folder / "venv" / "bin" / "python"
        self.environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "COLUMNS")}
        self.environment |= {"OMP_NUM_THREADS": "1", "PIP_NO_INDEX": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
        self._call(sys.executable, "-m", "venv", "--without-pip", str(folder / "venv"))
        (own,) = (folder / "venv" / "lib").glob("python*/site-packages")
        seen = [sysconfig.get_paths()["purelib"], str(Path(shoal.__file__).parents[1])]
        (own / "seen.pth").write_text("".join(f"{path}\n" for path in seen))
        self._call(self.python, "-m", "pip", "install", "-q", "--no-deps", "--no-build-isolation", str(EXAMPLE))

    def _call(self, *command: str | Path, **options) -> str:
        done = subprocess.run(
            command,
            env=self.environment,
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
            **options,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def run(self, program: str) -> str:
        """What a program prints."""
        return self._call(self.python, "-c", program)

    def shoal(self, *commands: str) -> str:
        """What commands print, one after the other, in one process."""
        return self.run(f"""
from shoal.cli import main
for command in {commands!r}:
    print("$", command)
    try:
        code = main(command.split())
    except SystemExit as stop:  # after its help
        code = stop.code
    assert code == 0, code
""")


@pytest.fixture(scope="module")
def installed(tmp_path_factory) -> Installed:
    return Installed(tmp_path_factory.mktemp("door"))


@pytest.fixture(scope="module")
def session(installed) -> str:
    """What commands print that one process runs, from training by two workers without a break to help."""
    trained = f"train {PLACES} {LONG} --workers 2 --lab whole"
    again = f"train {SHORT} {LONG} --workers 2 --lab whole"
    shown = ("runs --lab whole", "report --lab whole --task reverse --length 3", "check --lab whole")
    return installed.shoal(trained, again, *shown, f"train {SHORT} --help")


@pytest.fixture(scope="module")
def trained(installed, session) -> Path:
    """The lab of that session: four runs of the example's parts."""
    return installed.folder / "whole"


def said_by(command: str, session: str) -> str:
    """What a command of a session printed that begins with these words."""
    parts = re.split(r"^\$ ", session, flags=re.MULTILINE)[1:]
    (said,) = (part for part in parts if part.startswith(command))
    return said.partition("\n")[2]


def steps_of(lab: Path) -> list[int]:
    """How far each cohort has come, by what it has flushed."""
    found = []
    for path in lab.glob("cohorts/*/status.json"):
        status = json.loads(path.read_text())
        found.append(min(int(member["step"]) for member in status["members"].values()))
    return found


@pytest.mark.slow
def test_killed_and_resumed_it_ends_with_the_same_bits(installed, trained):
    lab = installed.folder / "killed"
    command = [installed.python, "-m", "shoal", "train", *f"{PLACES} {LONG} --workers 2 --flush-seconds 0.1".split()]
    process = subprocess.Popen(
        [*command, "--lab", "killed"],
        env=installed.environment,
        cwd=installed.folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    until = time.monotonic() + 120
    while time.monotonic() < until and not (len(steps := steps_of(lab)) == 2 and min(steps) > 20):
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert len(Lab(lab).unfinished()) == 2
    run = Lab(lab).runs()[0]
    said = installed.shoal("resume --workers 2 --lab killed", f"certify {run} --steps 20 --lab killed")
    assert "the stack retrained against the record" in said
    whole, again = (Lab(path).records() for path in (trained, lab))
    assert set(again.ids) == set(whole.ids)
    assert again.runs()["state"].to_list() == ["done"] * 4
    assert again.curves().sort("run", "step").equals(whole.curves().sort("run", "step"))
    assert set(whole.curves().columns) >= {"train_loss", "valid_loss", "train_right", "valid_right"}
    (certificate,) = [found for folder in again.cohorts() if (found := folder.certificate())]
    assert certificate["record"] <= 1e-5
    assert max(member["loss"] for member in certificate["alone"].values()) <= 1e-5


def test_what_it_measures_is_in_tables_and_on_pages(trained, session):
    said = said_by("runs", session) + said_by("check", session)
    assert "R_val" in said and "GRU" in said and "nothing is wrong" in said
    page = (trained / "reports" / "runs-task-reverse-length-3" / "index.html").read_text()
    assert "sequences reversed whole" in page
    assert "equations" not in page.partition("<script")[0]


def test_short_names_are_the_same_runs(trained, session):
    assert "4 runs already in the lab" in said_by(f"train {SHORT} {LONG}", session)
    assert len(Lab(trained).runs()) == 4


MINE = """
from shoal.parts import TASKS
from tidepool.tasks import Reverse

@TASKS.register
class Backwards(Reverse):
    name = "backwards"
"""
REGISTERED = """
import shoal, mine
base = shoal.RunSpec(task="backwards", model="gru", sequences=30, embedding_size=4, n_steps=20)
records = shoal.train(shoal.grid(base, length=[2, 3]), "registered", workers=2, threads=1)
print(*records.runs()["state"], *records.runs()["task"].unique())
"""


@pytest.mark.slow
def test_a_class_registered_in_python_trains_in_workers(installed):
    (installed.folder / "mine.py").write_text(MINE)
    assert installed.run(REGISTERED).split() == ["done"] * 2 + ["mine:Backwards"]


def test_the_help_has_the_settings_of_the_chosen_parts(session):
    said = said_by(f"train {SHORT} --help", session)
    for word in ("--length", "--gate-bias", "task reverse", "model gru", "optimizer signum", "symbols to reverse"):
        assert word in said
    assert "--operator" not in said and "--num-heads" not in said and "--beta1" not in said


@pytest.mark.slow
def test_a_study_of_ones_own_is_listed_run_and_reported(installed):
    said = installed.shoal(
        "study list", "study run lengths --quick --length 2 --n-steps 40 --sequences 20 --workers 1 --lab asked"
    )
    assert "how many steps a GRU takes" in said
    lab = installed.folder / "asked"
    (page,) = (lab / "reports").iterdir()
    assert page.name.startswith("tidepool.studies.lengths-quick-")
    before = (page / "index.html").read_bytes()
    (page / "index.html").unlink()
    names = ("tidepool.studies:lengths", "tidepool.studies.lengths", "lengths", page.name, "--all")
    commands = [f"study report {name} --lab asked" for name in names]
    said = installed.shoal(*commands, "report lengths --lab asked", "check --lab asked")
    assert said.count(f"{page.name}/index.html") == len(names) + 1
    assert "nothing is wrong" in said
    assert (page / "index.html").read_bytes() == before
    assert len(list((lab / "reports").iterdir())) == 1


def test_the_tutorial_says_what_works():
    text = (EXAMPLE.parents[1] / "docs" / "own-parts.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    names: dict[str, Any] = {"__name__": "tutorial"}
    exec("from shoal.parts import *\nfrom tidepool.tasks import distinct_rows", names)
    exec("\n".join(block for block in blocks if "shoal.train(" not in block), names)
    task = names["Reverse"](length=3, sequences=40).build(0)
    model, V = names["GRU"](embedding_size=4).build(names["Reverse"](length=3).sizes()), 9
    assert model(task.tensors["rows"][:2, :-1])[0].shape == (2, 6, V)
    scores = task.objective(model, task.batch(task.tensors, task.scored["valid"]))
    assert {name: values.shape for name, values in scores.items()} == {"loss": (10,), "right": (10,)}
    assert names["Signum"]().build() is names["signum"]
    assert names["TestReverse"].settings["length"] == 3


# what is wrong with parts, in one line


@pytest.fixture
def module(tmp_path, monkeypatch):
    """Writes a module that can be imported in this test, under a name of its own."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: str) -> Path:
        path = tmp_path / f"{name}.py"
        path.write_text("from shoal.parts import *\nimport torch\n" + content)
        return path

    return write


def refused(capsys, command: str) -> str:
    """The one line with which a command is refused."""
    before = contents(Path.cwd())
    code = main(command.split())
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1 and error.startswith("shoal: ")
    assert contents(Path.cwd()) == before, "something was written"
    return error


def contents(folder: Path) -> dict[str, bytes]:
    """All files but caches and locks."""
    paths = [path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    return {str(path): path.read_bytes() for path in paths if "lock" not in path.name}


WHOLE = """
class Copy(TaskSettings):
    name = "copy"
    tokens: int = setting(6, "different tokens", "an integer of at least 4", ge=4)

    def measures(self):
        return Measures((Measure("loss", "L", "loss"), Measure("right", "R", "right", "", True, (0.0, 1.0))))

    def sizes(self):
        return Sizes(self.tokens, 1)

    def counts(self):
        return Counts(self.tokens // 2, self.tokens)

    def build(self, split_seed):
        half, rows = self.tokens // 2, torch.arange(self.tokens)
        scored = {"train": rows[:half], "valid": rows[half:]}
        return Task({"rows": rows.unsqueeze(1)}, half, scored, self.objective)

    def objective(self, model, batch):
        logits, *_ = model(batch["rows"])
        loss = token_losses(logits, batch["rows"]).mean(-1)
        return {"loss": loss, "right": (logits.argmax(-1) == batch["rows"]).all(-1).float()}
"""
TINY = "--embedding-size 4 --num-layers 1 --n-steps 4 --lab lab"
BROKEN = {
    "lacks a measure": ('"right": (logits', '"wrong": (logits', "gives no right"),
    "says more": ('return {"loss"', 'return {"more": loss, "loss"', "gives more, which is none"),
    "one number for all": ("(logits.argmax(-1) == batch", "(logits == batch", None),
    "a mean": (".all(-1).float()", ".all(-1).float().mean()", r"(3,) of 3, got shape ()"),
    "integers": (".all(-1).float()", ".all(-1).long()", "int64"),
    "no loss": ('"loss", "L", "loss"', '"lost", "L", "loss"', "measures a loss first"),
    "no tuple": ('Measures((Measure("loss", "L", "loss"), ', "Measures((", "does not say what it measures"),
    "fails": ("loss = token_losses", "loss = nothing_here + token_losses", "nothing_here"),
    "cannot be lifted": ("loss = token_losses", "logits if logits.sum() > 0 else 0; loss = token_losses", "vmap"),
    "a name of RunSpec's": ("tokens: int", "id: int = setting(3, 'x', 'y')\n    tokens: int", "'id'"),
    "a column of tables": ("tokens: int", "step: int = setting(3, 'x', 'y')\n    tokens: int", "'step'"),
    "a measure's column": ("tokens: int", "valid_loss: int = setting(3, 'x', 'y')\n    tokens: int", "'valid_loss'"),
    "a setting of the model": (
        "tokens: int",
        "num_layers: int = setting(3, 'x', 'y')\n    tokens: int",
        "'num_layers'",
    ),
    "a flag of the command": ("tokens: int", "lab: int = setting(3, 'x', 'y')\n    tokens: int", "--lab"),
    "what no lab keeps": (
        "tokens: int",
        "far: tuple[float, ...] = setting((0.5,), 'x', 'y')\n    tokens: int",
        "'far'",
    ),
    "counts too much": ("Counts(self.tokens // 2, ", "Counts(self.tokens, ", "counts 6 drawn examples"),
    "cannot count": ("Counts(self.tokens // 2, ", "Counts(1 // 0, ", "ZeroDivisionError"),
    "raises": ("class Copy", "raise RuntimeError('fell over')\nclass Copy", "RuntimeError: fell over"),
    "ends the process": ("class Copy", "raise SystemExit(3)\nclass Copy", "SystemExit: 3"),
    "no task": ("class Copy(TaskSettings)", "class Copy(ModelSettings)", "is no task"),
    "is elsewhere": ("class Copy", "class Other", "has no Copy"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_task_that_is_wrong_is_refused_before_anything_is_written(how, module, capsys):
    was, becomes, words = BROKEN[how]
    name = f"wrong_{list(BROKEN).index(how)}"
    assert was in WHOLE
    module(name, WHOLE.replace(was, becomes, 1))
    said = refused(capsys, f"train --task {name}:Copy {TINY}")
    assert (words or "Copy") in said


def test_the_same_task_whole_is_trained(module, capsys):
    module("whole_task", WHOLE)
    assert main(f"train --task whole_task:Copy {TINY} --workers 1".split()) == 0


def test_a_module_that_is_not_there_says_what_to_do(module, capsys):
    assert "PYTHONPATH" in refused(capsys, f"train --task not_there_at_all:Copy {TINY}")


def test_what_stands_in_a_script_cannot_be_trained(monkeypatch):
    mine = type("Mine", (TaskSettings,), {"__module__": "__main__", "name": "mine_here"})
    monkeypatch.setattr(sys.modules["__main__"], "Mine", mine, raising=False)
    with pytest.raises(UserError, match="other processes can import"):
        RunSpec(task="__main__:Mine")


RULE = """
class Odd(Rule):
    name = "odd"
    state = ("m",)

    def build(self):
        def update(theta, gradient, state, hyper, step, layout):
            theta.sub_(hyper["lr"].float() * gradient)
            BODY
        return update
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [("state['v'] += 1", "KeyError"), ("state['v'] = gradient", "got v"), ("hyper['speed']", "speed")],
)
def test_a_rule_that_does_not_keep_to_what_it_says_is_refused(body, words, module, capsys):
    name = f"odd_{abs(hash(body)) % 10**6}"
    module(name, RULE.replace("BODY", body))
    assert words in refused(capsys, f"train --p 5 --optimizer {name}:Odd {TINY}")


# code that has changed since a run was begun


def test_runs_whose_code_has_changed_are_shown_and_not_gone_on_with(module, capsys):
    path = module("shifty", WHOLE)
    command = f"train --task shifty:Copy {TINY} --workers 1"
    assert main(command.split()) == 0
    begun = RunSpec(task="shifty:Copy", embedding_size=4, num_layers=1, n_steps=9)
    (cohort,) = plan([begun])
    Lab("lab").cohort(cohort.id).create(list(cohort.members), 1)
    done = next(run for run in Lab("lab").runs() if run != begun.id)
    path.write_text(path.read_text() + "# another version\n")
    capsys.readouterr()
    for refusing in (command, "resume --lab lab", f"certify {done} --lab lab", f"certify {begun.id} --lab lab"):
        said = refused(capsys, refusing)
        assert "package shifty has changed" in said
    for showing in ("runs --lab lab", "report --lab lab", "check --lab lab"):
        assert main(showing.split()) == 0
    said = capsys.readouterr().out
    assert done in said and "R_val" in said


def test_what_else_there_is_to_resume_is_gone_on_with(module, capsys):
    path = module("fickle", WHOLE)
    specs = [
        RunSpec(task="fickle:Copy", embedding_size=4, num_layers=1, n_steps=9),
        RunSpec(p=3, n_steps=3, r_train=0.6),
    ]
    lab = Lab("lab").create()
    for cohort in plan(specs):
        lab.cohort(cohort.id).create(list(cohort.members), 1)
    path.write_text(path.read_text() + "# another version\n")
    assert main(["resume", "--lab", "lab", "--workers", "1"]) == 2
    assert "package fickle has changed" in capsys.readouterr().err
    assert Lab("lab").records([specs[1].id]).runs()["state"].to_list() == ["done"]


def test_generate_refuses_a_model_whose_code_has_changed(module, capsys):
    path = module(
        "speaker",
        "from shoal.models.settings import GPTSettings\nclass Speaker(GPTSettings):\n    name = 'speaker'\n",
    )
    Path("text.txt").write_text("hold the door open " * 20)
    flags = "--text text.txt --context-length 4 --embedding-size 8 --num-layers 1 --num-heads 2 --n-steps 200"
    assert (
        main(f"train --task text --model speaker:Speaker {flags} --eval-period 100 --lab lab --workers 1".split()) == 0
    )
    (run,) = Lab("lab").runs()
    assert main(["generate", run, "--prompt", "hold", "--max-new-tokens", "4", "--lab", "lab"]) == 0
    path.write_text(path.read_text() + "# another version\n")
    capsys.readouterr()
    assert "package speaker has changed" in refused(capsys, f"generate {run} --prompt hold --lab lab")


# studies


STUDY = """
ABOUT = "copies"

def grids(quick):
    return [Grid({"p": 3, "r_train": 0.6, "num_layers": 1, "embedding_size": 4, "n_steps": 3}, {"seed": (0, 1)})]

def report(results, form):
    return Report(form.title("Copies"), "What?", [], ["That."])

class Study:
    about = "a class"
    grids = staticmethod(grids)
    report = staticmethod(report)

class Fails(Study):
    def grids(self, quick):
        return 1 / 0

good = Study()
poor = object()
fails = Fails()
"""


def test_a_study_can_be_any_value_with_grids_and_a_report(module, capsys):
    module("asking", STUDY)
    assert main(["study", "run", "asking:good", "--quick", "--lab", "lab", "--workers", "1"]) == 0
    assert "That." in capsys.readouterr().out
    assert [path.name for path in Path("lab/reports").iterdir()] == ["asking.good-quick"]
    assert "reserved for pages of asking.good" in refused(capsys, "report --lab lab --name asking.good-quick")
    assert main(["report", "--lab", "lab", "--name", "some.other"]) == 0


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("asking_2:poor", "is no study"),
        ("asking_2:Study", "is no study"),
        ("asking_2:nothing", "has no nothing"),
        ("asking_2:fails", "ZeroDivisionError: division by zero"),
        ("not_there_at_all:study", "PYTHONPATH"),
        ("os:path", "no package of parts"),
        ("sanityy", "did you mean 'sanity'"),
        ("../asking", "unknown study|not allowed"),
    ],
)
def test_what_is_no_study_is_refused(name, words, module, capsys):
    module("asking_2", STUDY)
    assert re.search(words, refused(capsys, f"study run {name} --quick --lab lab"))
