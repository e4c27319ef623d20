"""Completion: what can follow is offered by real shells, quickly, and nothing that is typed is run."""

import json
import os
import pty
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from shoal.cli import COMMANDS, main
from shoal.commands import completing
from shoal.commands.completing import FILES, FOLDERS, split_line
from shoal.commands.completion import SCRIPTS

RUNS = ["00c0ffee00c0ffee", "0badcafe0badcafe"]


def answers(words):
    return completing.answers([*COMMANDS], words)


def complete(arguments):
    return completing.complete([*COMMANDS], arguments)


@pytest.fixture
def lab(tmp_path):
    """A lab as far as completion reads it: ids, and labels of which some would do harm as code."""
    for run in RUNS:
        folder = tmp_path / "lab" / "cohorts" / run
        folder.mkdir(parents=True)
        (folder / "cohort.json").write_text(json.dumps({"members": [{"run": run, "spec": {}}]}, indent=1))
    labels = tmp_path / "lab" / "labels"
    for kind, name, label in [
        ("runs", RUNS[0], {"name": "wide-net", "tags": ["draft"], "note": ""}),
        ("runs", RUNS[1], {"name": "w$(touch harm)", "tags": ["`touch harm`"], "note": ""}),
        ("runs", "torn", None),
        ("groups", "abc", {"name": "wide-group", "runs": RUNS, "tags": ["final"], "note": ""}),
    ]:
        (labels / kind).mkdir(parents=True, exist_ok=True)
        (labels / kind / f"{name}.json").write_text(json.dumps(label) if label else "{")
    (labels / "runs" / "link.json").symlink_to(labels / "runs" / f"{RUNS[0]}.json")
    return tmp_path / "lab"


def test_commands_flags_and_values():
    assert answers(["tr"]) == ["train", "translate"]
    assert set(answers([""])) == {*COMMANDS, "--help", "--version"}
    assert answers(["completion", ""]) == list(SCRIPTS)
    assert answers(["train", "--model", ""]) == answers(["train", "--model", "lstm", ""])
    assert "gpt" in answers(["train", "--model", "g"])
    assert answers(["train", "--model=gp"]) == ["--model=gpt"]
    assert answers(["train", "--bias-cl"]) == ["--bias-classifier"]
    assert answers(["train", "--bias_cl"]) == ["--bias_classifier"]
    assert answers(["train", "--bias-classifier", ""]) == ["true", "false"]
    assert {"+", "-", "*", "x^2+y^2"} <= set(answers(["train", "--operator", ""]))
    assert answers(["train", "--p", ""]) == []
    assert answers(["study", ""]) == ["list", "run", "report"]
    assert answers(["study", "run", "san"]) == ["sanity"]
    assert answers(["reproduce", "power"]) == ["power-2022"]
    assert answers(["runs", "--state", "done", "w"]) == ["waiting"]
    assert answers(["nothing", ""]) == answers(["trian", "--mod"]) == []


def test_only_flags_of_the_chosen_parts_that_are_not_given_yet():
    assert answers(["train", "--num-h"]) == []
    assert answers(["train", "--model", "gpt", "--num-h"]) == ["--num-heads"]
    assert answers(["train", "--model", "gpt", "--num-heads", "2", "--num-h"]) == []
    assert answers(["train", "--model", "gtp", "--see"]) == ["--seed"]  # though a part is misspelled
    mixed = ["train", "--model", "lstm", "gpt"]
    assert answers([*mixed, "--gpt.num"]) == ["--gpt.num-layers", "--gpt.num-heads"]
    assert "--gpt.lr" in answers([*mixed, "--gpt.l"])
    assert not any("." in flag for flag in answers([*mixed, "--"]))
    assert {"sgd", "muon"} <= set(answers(["train", "--optimizer", ""]))


def test_files_and_folders_are_left_to_the_shell():
    assert answers(["train", "--config", "x"]) == answers(["train", "--config=x"]) == [FILES]
    assert answers(["runs", "--lab", ""]) == answers(["train", "--log_dir="]) == [FOLDERS]
    assert answers(["score", "a"]) == [FILES]


def test_runs_names_groups_and_tags(lab):
    at = ["--lab", str(lab)]
    assert answers(["certify", *at, ""]) == ["wide-net", "wide-group", *RUNS]
    assert answers(["certify", f"--lab={lab}", "wide-net", "0c"]) == []
    assert answers(["report", *at, "00"]) == RUNS[:1]
    assert "sanity" in answers(["report", *at, "s"])
    assert answers(["runs", *at, "--group", ""]) == ["wide-group"]
    assert answers(["runs", *at, "--tag", "draft", ""]) == ["draft", "final"]
    assert answers(["certify", "--lab", "nowhere", ""]) == []


def test_columns_of_a_table_of_runs():
    assert answers(["runs", "--sort", "A_"]) == ["A_train", "A_val"]
    assert answers(["runs", "--sort", "A_val", "-A_"]) == ["-A_train", "-A_val"]
    assert "weight_decay" in answers(["runs", "--columns", "w"])
    assert answers(["runs", "--columns", "-A"]) == []  # nothing is sorted there
    assert answers(["runs", "--wei"]) == ["--weight-decay"]
    assert "--seeds" in answers(["study", "run", "--"]) and "--seeds" not in answers(["study", "report", "--"])


def test_words_of_a_line():
    assert split_line("shoal a 'b c' d\\ e f") == (["shoal", "a", "b c", "d e", "f"], False)
    assert split_line("") == ([""], False)
    assert split_line('shoal "a') == (["shoal", "a"], True)
    assert split_line("shoal a\\") == (["shoal", "a"], False)
    assert complete(["bash", "shoal train --operator s5:xyx^"]) == ["xyx^-1"]  # bash begins a word at the colon
    assert complete(["bash", "shoal train --operator 's5:xyx^"]) == ["s5:xyx^-1"]  # but for quotes
    assert complete(["bash", "shoal train --model=gp"]) == ["gpt"]
    assert "\\*" in complete(["bash", "shoal train --operator "])
    assert complete([]) == complete(["bash"]) == complete(["tcsh", "shoal tr"]) == []


LIGHT = [
    "",
    "tr",
    "certify 0",
    "runs --state ",
    "runs --lab ",
    "train --config ",
    "study run ",
    "reproduce ",
    "report x",
]


@pytest.mark.parametrize("words", [*LIGHT, "train --model gpt --", "train --operator ", "runs --"])
def test_nothing_heavy_is_imported_between_two_keys(words):
    heavy = ["torch", "polars", "altair", "scipy", "numpy", "rich", *(["pydantic"] if words in LIGHT else [])]
    code = (
        f"import sys; from shoal.cli import main; main(['__complete', 'words', *{words.split(' ')!r}]); "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.splitlines()[-1] == "[]"


@pytest.mark.parametrize("shell", ["tcsh", "Bash", "", "--shell"])
def test_a_shell_without_completion_is_one_line(shell, capsys):
    assert main(["completion", shell]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["completion"]) == 2
    assert "bash zsh fish" in capsys.readouterr().err


def test_scripts_are_no_place_for_code():
    for script in SCRIPTS.values():
        assert "eval" not in script
        assert "compgen -W" not in script  # which expands its words as code
        assert all(line.startswith("#") for line in script.splitlines() if "source" in line)


@pytest.fixture
def place(tmp_path):
    """A folder with ``shoal`` in its ``bin``, and the environment in which it is found."""
    (tmp_path / "bin").mkdir()
    command = tmp_path / "bin" / "shoal"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m shoal "$@"\n')
    command.chmod(0o755)
    source = str(Path(sys.modules["shoal"].__file__).parent.parent)
    own = {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}", "PYTHONPATH": source, "HOME": str(tmp_path)}
    return tmp_path, {**own, "TERM": "dumb", "LANG": "C.UTF-8", "OMP_NUM_THREADS": "1"}


def in_bash(place, line):
    """What bash has in COMPREPLY at the end of a line; its function is called as bash would."""
    folder, environment = place
    words = line.split(" ")
    code = (
        "source <(shoal completion bash); COMP_LINE=$1; COMP_POINT=${#1}; "
        '_shoal shoal "$2" "$3" 2>errors; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    command = ["bash", "--norc", "--noprofile", "-c", code, "bash", line, words[-1], words[-2]]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=True, timeout=120
    ).stdout.split("\n")[:-1]


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_offers_words_and_runs_nothing_that_is_typed(lab, place):
    assert in_bash(place, "shoal tr") == ["train", "translate"]
    assert in_bash(place, "shoal certify ") == ["wide-net", "wide-group", *RUNS]
    assert in_bash(place, "shoal certify $(touch harm) `touch harm` w") == ["wide-net", "wide-group"]
    assert in_bash(place, "shoal runs --tag ") == ["draft", "final"]
    assert not list(place[0].rglob("harm"))


def typed(place, argv, setup, line):
    """What an interactive shell shows after a line and a tab."""
    folder, environment = place
    pid, terminal = pty.fork()
    if pid == 0:  # pragma: no cover (another process)
        os.chdir(folder)
        os.execvpe(argv[0], argv, environment)
    shown = b""

    def until(sign, seconds=60.0):
        nonlocal shown
        end = time.monotonic() + seconds
        while sign not in shown and time.monotonic() < end:
            if select.select([terminal], [], [], 0.1)[0]:
                shown += os.read(terminal, 65536)

    try:
        for n, text in enumerate(setup):
            shown = b""
            os.write(terminal, f"{text}; echo $((40 + {n}))ok\n".encode())
            until(f"{40 + n}ok".encode())
        shown = b""
        before, after = line
        os.write(terminal, before.encode())
        until(before.encode()[-5:])
        os.write(terminal, b"\t")
        until((before + after).encode())
        return shown.decode(errors="replace")
    finally:
        os.close(terminal)
        os.kill(pid, 9)
        os.waitpid(pid, 0)


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_a_tab_in_bash(place):
    argv = ["bash", "--norc", "--noprofile", "-i"]
    assert "shoal completion " in typed(place, argv, ["source <(shoal completion bash)"], ("shoal comp", "letion "))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
@pytest.mark.parametrize(
    "line",
    [
        ("shoal train --model=gp", "t "),
        ("shoal train --operator s5:xyx^", "-1 "),
        ("shoal certify 00c", "0ffee00c0ffee "),
        ("shoal runs --lab la", "b/"),
        ("ls; shoal train --model gpt --num-he", "ads "),
    ],
    ids=lambda line: line[0],
)
def test_more_tabs_in_bash(line, lab, place):
    argv = ["bash", "--norc", "--noprofile", "-i"]
    assert "".join(line) in typed(place, argv, ["source <(shoal completion bash)"], line)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize("line", ["shoal comp", "shoal train --model=gp", "shoal train --operator s5:xyx^"])
def test_fish_offers_words(line, place):
    code = f"shoal completion fish | source; complete -C {shlex.quote(line)}"
    command = ["fish", "--no-config", "-c", code]
    out = subprocess.run(command, cwd=place[0], env=place[1], capture_output=True, text=True, check=True).stdout
    assert out.split() in (["completion"], ["--model=gpt"], ["s5:xyx^-1"])


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
def test_a_tab_in_zsh(place):
    setup = ["PS1='> '", "autoload -Uz compinit; compinit -u -D", "source <(shoal completion zsh)"]
    assert "letion" in typed(place, ["zsh", "-f", "-i"], setup, ("shoal comp", "letion"))
