"""Configuration files and ranges: they give what typing gives, and what is wrong is said with its line."""

import re
import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typing_in import options_of, specs_of

from shoal.cli import main
from shoal.commands import study, train
from shoal.commands.config import read_config, statements
from shoal.commands.parsing import read_settings, read_values
from shoal.errors import UserError


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "grid.toml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


def test_a_file_gives_what_typing_gives(file):
    text = """
        # which parts
        model = ["lstm", "gpt"]
        optimizer = 'adamw'
        p = 7
        embedding-size = 8
        lr = [1e-3, 0.003]
        operation_orders = "2,3"
        bias_classifier = true
        patience = "none"
        seed = [
            5,
            "0..2",  # a range
        ]
        [gpt]
        num-heads = [2, 4]
    """
    flags = "--model lstm gpt --optimizer adamw --p 7 --embedding-size 8 --lr 1e-3 0.003 --operation-orders 2,3"
    flags += " --bias-classifier true --patience none --seed 5 0 1 2 --gpt.num-heads 2 4"
    assert specs_of("--config", file(text)) == specs_of(*flags.split())
    assert len(specs_of(*flags.split())) == 2 * 4 * (1 + 2)


def test_dotted_keys_inline_tables_and_tables_are_the_same(file):
    head = 'model = ["lstm", "gpt"]\n'
    forms = ["gpt.num_heads = 2", "gpt = {num-heads = 2}", "[gpt]\nnum_heads = 2", '["gpt"]\n"num_heads" = 2']
    grids = [specs_of("--config", file(head + form)) for form in forms]
    assert [spec.get("num_heads") for spec in grids[0]] == [None, 2]
    assert all(grid == grids[0] for grid in grids)


def test_what_is_typed_wins_and_is_said(file):
    path = file('model = ["lstm", "gpt"]\np = 7\nlr = 0.1\ngpt.lr = 0.2\ngpt.num_heads = 2\nlab = "there"\n')
    options = options_of(train, "--lr", "0.5", "--config", path, "--lab", "here")
    specs = read_settings(options)
    assert [(spec.model, spec.lr, spec.p) for spec in specs] == [("lstm", 0.5, 7), ("gpt", 0.5, 7)]
    assert options.lab == "here"
    won = options.read_from.partition("command line")[2]
    assert all(f"{key} (line {n})" in won for key, n in {"lr": 3, "gpt.lr": 4, "lab": 6}.items())
    assert "num_heads" not in won and "num_heads" in options.read_from
    (only,) = read_settings(options_of(train, "--model", "lstm", f"--config={path}"))  # what is for others is left out
    assert (only.model, only.lr) == ("lstm", 0.1)


def test_flags_that_are_no_settings(file):
    options = options_of(train, "--config", file('lab = "x"\nworkers = 2\nflush_seconds = 3.5\ndevice = "cpu"'))
    assert (options.lab, options.workers, options.flush_seconds, options.device) == ("x", 2, 3.5, "cpu")
    text = "quick = true\nall = false\nseeds = 3\nthreshold = [0.5, 0.9]\nweight_decay = 1\n"
    options = options_of(study, "run", "sanity", "--config", file(text))
    assert (options.action, options.names, options.quick, options.all) == ("run", ["sanity"], True, False)
    assert (options.seeds, options.threshold, read_values(options)) == (3, [0.5, 0.9], {"weight_decay": ["1"]})


def test_a_file_beside_a_byte_order_mark_and_other_line_ends(file):
    (spec,) = specs_of("--config", file(b"\xef\xbb\xbfp = 7\r\nseed = 3\r\n"))
    assert (spec.p, spec.seed) == (7, 3)


def test_a_value_is_no_flag(file):
    with pytest.raises(UserError, match=r"line 2: .*seed must be .*'--quick'"):
        options_of(study, "run", "sanity", "--config", file('p = 7\nseed = "--quick"'))


WRONG = {
    "p = 7\nsede = 3": r"line 2: .*'sede'.*did you mean 'seed'",
    'p = 7\n\nmodle = "gpt"': r"line 3: .*'modle'.*did you mean 'model'",
    "p = 7\nquick = true": r"line 2: .*'quick'",
    'config = "x.toml"': r"line 1: .*'config'",
    "p = 7\nseed = [\n1,\n2]\np = 5": r"line 5: p .*line 1",
    "model = 'gpt'\nnum-heads = 2\n# so\nnum_heads = 4": r"line 4: num_heads .*num-heads.* line 2",
    "lab = 'a'\nlog_dir = 'b'": r"line 2: log_dir .*lab.* line 1",
    "[gpt]\nnum_heads=2\n[gpt]\nlr=1": r"line 3: gpt .*line 1",
    'p = "seven"': r"line 1: p must be an integer of at least 2, got 'seven'",
    "p = 7\nseed = 1.5": r"line 2: seed must be an integer.*'1.5'",
    "p = true": r"line 1: p must be an integer.*'true'",
    "lr = 2024-01-01": r"line 1: .*not a date",
    "seed = [[1]]": r"line 1: .*not a list in a list",
    "seed = [1, {a = 2}]": r"line 1: .*not a table",
    "p = 7\nseed = []": r"line 2: .*at least one",
    'p = 7\nseed = "9..0"': r"line 2: .*'9..0' is empty",
    "workers = [1, 2]": r"line 1: --workers takes one value, got 2",
    'workers = "many"': r"line 1: --workers must be an integer, got 'many'",
    'model = ["lstm", "gtp"]': r"line 1: unknown model 'gtp'.*did you mean 'gpt'",
    'model = "lstm"\nnum_heads = 2': r"line 2: --num-heads does not apply to model 'lstm'",
    'model = ["lstm", "gpt"]\n[gtp]\nnum_heads = 2': r"line 2: .*'gtp'.*did you mean 'gpt'",
    'model = ["lstm", "gpt"]\n[gpt]\nnum_hedas = 2': r"line 3: .*'num_hedas'.*did you mean 'num_heads'",
    'model = "lstm"\n[gpt]\nnum_heads = 2': r"line 2: .*applies to none of these runs",
    "[gpt.adam]\nlr = 2": r"line 1: gpt.adam: a table has the name of a part",
    "[[gpt]]\nlr = 2": r"line 1: .*a table has the name of a part",
    "p = ": r"line 1 is no TOML",
    "p = 7\nseed = [1,\n2": r"line 3 is no TOML",
    b"p = 7\nseed = '\xff'": r"line 2: not UTF-8",
    "seed = " + "1" * 5000: "no TOML",
}


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_what_is_wrong_in_a_file_is_one_line_with_its_number_and_no_lab(text, file, tmp_path, capsys):
    lab = tmp_path / "lab"
    words = ["train", "--config", file(text)]
    is_there = isinstance(text, str) and text.startswith("lab")
    assert main(words if is_there else [*words, "--lab", str(lab)]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "grid.toml" in error
    assert re.search(WRONG[text], error), error
    assert not lab.exists()


def test_files_that_cannot_be_read(tmp_path, capsys):
    for name in ("nothing.toml", ".", "a\0b"):
        assert main(["train", "--config", str(tmp_path / name)]) == 2
        assert "cannot be read" in capsys.readouterr().err
    (tmp_path / "large.toml").write_bytes(b"#" * 300_000)
    with pytest.raises(UserError, match="more than"):
        read_config(str(tmp_path / "large.toml"))
    with pytest.raises(UserError, match="--config was given twice"):
        (tmp_path / "a.toml").write_text("p = 7")
        options_of(train, "--config", str(tmp_path / "a.toml"), "--config", str(tmp_path / "a.toml"))
    with pytest.raises(UserError, match=r"takes no flag but .*got --config"):
        study.run(options_of(study, "report", "sanity", "--config", str(tmp_path / "a.toml")))


NAMES = st.lists(st.text(string.ascii_lowercase, min_size=1, max_size=6), min_size=1, max_size=6, unique=True)
VALUES = st.sampled_from(
    [
        "1",
        "1.5 # ] or not",
        '"a # ]"',
        "[1, 2]",
        "[\n  1, # one ]\n\n  2,\n]",
        '"""\nseed = 3\n]"""',
        "'''\n[table]\n'''",
        "[\n  'x = 1',\n  [\n  2]\n]",
        "{x = 1}",
    ]
)
BETWEEN = st.lists(st.sampled_from(["", "# p = 1", "   ", "\t# ]"]), max_size=3)


@given(st.data())
def test_every_key_is_found_on_its_line(data):
    lines, expected, table = [], [], ()
    for name in data.draw(NAMES):
        lines += data.draw(BETWEEN)
        if data.draw(st.booleans()):
            table = (f"t{name}",)
            lines.append(f"[ t{name} ] # ]")
            expected.append((len(lines), table))
        value = data.draw(VALUES)
        lines += f"{name} = {value}".split("\n")
        inside = ("x",) if value.startswith("{") else ()
        expected.append((len(lines) - value.count("\n"), (*table, name, *inside)))
    assert [(each.line, each.key) for each in statements("\n".join(lines))] == expected


def test_ranges_are_inclusive_and_have_steps():
    def seeds(*words):
        return [spec.seed for spec in specs_of("--seed", *words)]

    assert seeds("0..3") == [0, 1, 2, 3]
    assert seeds("0..9..4", "7") == [0, 4, 8, 7]
    assert seeds("5..5") == [5]
    assert len(seeds("0..99")) == 100
    assert [spec.p for spec in specs_of("--p", "5..7")] == [5, 6, 7]
    options = options_of(train, "--task", "text", "--text", "../a..b.txt", "--init-seed", "1..2", "none")
    assert read_values(options)["text"] == ["../a..b.txt"]  # a path is no range
    assert read_values(options)["init_seed"] == ["1", "2", None]


@given(st.integers(0, 500), st.integers(0, 500), st.integers(1, 60))
def test_a_range_is_what_python_counts(first, more, step):
    values = read_values(options_of(train, "--seed", f"{first}..{first + more}..{step}"))["seed"]
    assert values == [str(seed) for seed in range(first, first + more + 1, step)]


WRONG_RANGES = {
    "9..0": "empty.*0..9",
    "0..9..0": "at least 1, got 0",
    "0..9..-2": "at least 1, got -2",
    "0..": r"first\.\.last",
    "..9": r"first\.\.last",
    "0...9": r"first\.\.last",
    "0..x": r"first\.\.last",
    "a..c": r"first\.\.last",
    "0..9..2..3": r"first\.\.last",
    "0..99999999999": "at most 100,000",
    "-3..-1": "integer in",
    "-1..-3": "empty",
}


@pytest.mark.parametrize("word", WRONG_RANGES)
def test_a_range_that_is_none_is_refused(word):
    with pytest.raises(UserError, match=WRONG_RANGES[word]):
        specs_of("--seed", word)


def test_what_is_no_integer_takes_no_range():
    with pytest.raises(UserError, match=r"lr takes no range, got '0\.1\.\.0\.5'"):
        specs_of("--lr", "0.1..0.5")
    with pytest.raises(UserError, match="--workers must be an integer"):
        specs_of("--workers", "1..2")
    with pytest.raises(UserError, match="operation_orders must be"):
        specs_of("--operation-orders", "2..3")


PAGE = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text(encoding="utf-8")
SLIPS = {"key.toml": 'model = "gpt"\nsede = 3', "twice.toml": "p = 7\nseed = 1\np = 5", "type.toml": 'p = "seven"'}
REFUSED = re.findall(r"^    \$ (shoal .*)\n((?:    shoal: .*\n)+)", PAGE, flags=re.MULTILINE)


def test_the_page_shows_what_the_file_gives(file):
    (text,) = re.findall(r"```toml\n(.*?)```", PAGE, flags=re.DOTALL)
    options = options_of(train, "--config", file(text), "--seed", "0")
    assert options.read_from.replace(options.config, "grid.toml") in PAGE
    shown = re.findall(r"^    ([0-9a-f]{16}) ", PAGE, flags=re.MULTILINE)
    assert [spec.id for spec in read_settings(options)] == shown


@pytest.mark.parametrize(("command", "lines"), REFUSED, ids=[command for command, _ in REFUSED])
def test_the_page_shows_what_is_refused(command, lines, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for name, text in SLIPS.items():
        (tmp_path / name).write_text(text)
    assert main(command.split("#")[0].split()[1:]) == 2
    assert capsys.readouterr().err.strip() == lines.strip()


def test_the_page_shows_refusals():
    assert len(REFUSED) >= 5
