"""Parts by name: short ones, registered ones, those that packages offer, and places."""

import copy
import importlib
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import outside
import pytest
from helpers import tiny

from shoal import registry as registries
from shoal.errors import UserError
from shoal.registry import KINDS, Registry, short
from shoal.spec import RunSpec, grid
from shoal.spec.run import _roles, classes_of
from shoal.spec.sources import source_of
from shoal.tasks.arithmetic.settings import Arithmetic
from shoal.tasks.settings import TaskSettings

BASE = "shoal.tasks.settings:TaskSettings"
SHIPPED = {"arithmetic": "shoal.tasks.arithmetic.settings:Arithmetic"}


@pytest.fixture
def tasks() -> Registry:
    """A registry that no other test sees, of a kind that no installed package offers parts of."""
    return Registry("thing", BASE, SHIPPED)


def refused(call, *names) -> str:
    with pytest.raises(UserError) as caught:
        call(*names)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_what_shoal_ships_has_a_short_name_and_is_written_down_by_it(tasks):
    assert tasks.names() == ["arithmetic"]
    assert tasks["arithmetic"] is Arithmetic
    assert list(tasks.shipped()) == [Arithmetic]
    assert tasks.name_of("arithmetic") == "arithmetic"
    assert not tasks.is_outside("arithmetic")


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_shipped_part_is_of_its_kind_and_called_as_it_is_listed(kind):
    base = registries.load(KINDS[kind].base)
    for part in KINDS[kind].shipped():
        assert issubclass(part, base)
        assert KINDS[kind][part.name] is part


def test_a_class_outside_is_found_by_its_place(tasks):
    assert tasks["outside:Shifted"] is outside.Shifted
    assert tasks.name_of("outside:Shifted") == "outside:Shifted"
    assert tasks.is_outside("outside:Shifted")
    assert short("outside:Shifted") == "Shifted"


def test_a_registered_class_is_found_by_its_name_and_written_down_by_its_place(tasks):
    assert tasks.register(outside.Shifted) is outside.Shifted
    assert tasks["shifted"] is outside.Shifted
    assert tasks.name_of("shifted") == "outside:Shifted"
    assert tasks.names() == ["arithmetic", "shifted"]
    assert list(tasks.shipped()) == [Arithmetic]


@pytest.mark.parametrize("name", ["arithmetic", "", "two words", "a:b"])
def test_nothing_is_registered_under_a_name_of_shoals_own_or_what_is_no_name(tasks, name):
    part = type("Part", (Arithmetic,), {"name": name, "__module__": "outside", "__annotations__": {}})
    assert "registered" in refused(tasks.register, part)
    assert tasks["arithmetic"] is Arithmetic


def offering(monkeypatch, **offered: str) -> list[str]:
    """Let an installed package offer these; what groups were asked for."""
    groups: list[str] = []

    def entry_points(*, group: str) -> list[EntryPoint]:
        groups.append(group)
        return [EntryPoint(name, value, group) for name, value in offered.items()]

    monkeypatch.setattr(registries, "entry_points", entry_points)
    return groups


def test_what_a_package_offers_is_found_by_its_name_and_written_down_by_its_place(monkeypatch):
    groups = offering(monkeypatch, moved="outside:Shifted", arithmetic="outside:Shifted")
    tasks = Registry("offered", BASE, SHIPPED)
    assert tasks["moved"] is outside.Shifted
    assert tasks.name_of("moved") == "outside:Shifted"
    assert tasks.names() == ["arithmetic", "moved"]
    assert tasks["arithmetic"] is Arithmetic  # shoal's own is not replaced
    assert set(groups) == {"shoal.offereds"}


PROGRAM = """
from shoal import RunSpec
from shoal.registry import KINDS
own = {"task": "away", "model": "quiet", "optimizer": "slow"}
assert [KINDS[kind].names()[-1] for kind in KINDS] == list(own.values())
spec = RunSpec(**own)
print(spec.task, spec.model, spec.optimizer)
"""


def test_an_installed_package_offers_parts_of_each_kind(tmp_path):
    """A package as an installer would leave it: a module, and a folder of metadata beside it."""
    (tmp_path / "pack.py").write_text(
        "from shoal.models.settings import LSTMSettings\n"
        "from shoal.rules.settings import SGD\n"
        "from shoal.tasks.arithmetic.settings import Arithmetic\n"
        "class Away(Arithmetic):\n    name = 'away'\n"
        "class Quiet(LSTMSettings):\n    name = 'quiet'\n"
        "class Slow(SGD):\n    name = 'slow'\n"
    )
    metadata = tmp_path / "pack-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: pack\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[shoal.tasks]\naway = pack:Away\n[shoal.models]\nquiet = pack:Quiet\n[shoal.rules]\nslow = pack:Slow\n"
    )
    path = os.pathsep.join([str(Path(registries.__file__).parents[1]), str(tmp_path)])
    ran = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == ["pack:Away", "pack:Quiet", "pack:Slow"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("aritmetic", "did you mean 'arithmetic'"),
        ("nothing_like_it", "one of arithmetic"),
        ("outside:Nothing", "has no Nothing"),
        ("outsid3:Shifted", "outsid3"),
        ("outside:HalfFrozen", "derived from"),
        ("outside:NOT_A_CLASS", "derived from"),
        ("outside:Inner.Hidden", "unknown thing"),
        ("outside", "unknown thing"),
        ("outside:Shifted()", "unknown thing"),
        ("./outside:Shifted", "unknown thing"),
        (3, "unknown thing"),
    ],
)
def test_what_is_no_part_of_the_kind_is_refused_in_one_line(tasks, name, words):
    text = refused(tasks.__getitem__, name)
    assert words in text and str(name) in text


@pytest.mark.parametrize("place", ["os:system", "subprocess:Popen", "antigravity:fly", "xml.dom:Node", "builtins:int"])
def test_the_standard_library_is_never_imported_for_a_name_in_a_lab(tasks, place, monkeypatch):
    imported: list[str] = []
    monkeypatch.setattr(registries.importlib, "import_module", imported.append)
    assert "cannot be imported" in refused(tasks.__getitem__, place)
    assert not imported


def test_a_module_that_fails_is_told_of_in_one_line(tasks, tmp_path, monkeypatch):
    (tmp_path / "falls_over.py").write_text("raise RuntimeError('two\\nlines')\n")
    (tmp_path / "lacks_another.py").write_text("import not_installed_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "two lines" in refused(tasks.__getitem__, "falls_over:Task")
    assert "not_installed_at_all" in refused(tasks.__getitem__, "lacks_another:Task")
    assert "PYTHONPATH" in refused(tasks.__getitem__, "nowhere_to_be_found:Task")


def test_a_class_that_other_processes_could_not_import_names_no_run(tasks, monkeypatch):
    class Local(Arithmetic):
        """Only known in here."""

        name = "local"

    main = type("Main", (Arithmetic,), {"name": "main", "__module__": "__main__"})
    for part in (Local, main, outside.Inner.Hidden):
        tasks.register(part)
        assert tasks[part.name] is part
        assert "other processes can import" in refused(tasks.name_of, part.name)


@pytest.fixture
def short_names(monkeypatch):
    """What a test registers is forgotten after it."""
    monkeypatch.setattr(KINDS["optimizer"], "_registered", {})
    yield
    for cached in (KINDS["optimizer"]._found.clear, classes_of.cache_clear, _roles.cache_clear):
        cached()


@pytest.mark.usefixtures("short_names")
def test_a_class_that_is_registered_again_takes_the_place_of_the_one_before(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    text = (
        "from shoal.registry import RULES\nfrom shoal.rules.settings import SGD\nfrom shoal.spec import setting\n"
        "@RULES.register\nclass Again(SGD):\n    name = 'again'\n    {}: float = setting({}, 'a', 'a number')\n"
    )
    (tmp_path / "registered_again.py").write_text(text.format("one", 1.0))
    module = importlib.import_module("registered_again")
    first = tiny(optimizer="again")
    assert first.one == 1.0
    (tmp_path / "registered_again.py").write_text(text.format("another", 22.5))
    importlib.invalidate_caches()
    module = importlib.reload(module)
    for name in ("again", first.optimizer):
        second = tiny(optimizer=name)
        assert isinstance(second.rule, module.Again) and second.another == 22.5 and "one" not in list(second)


def test_code_that_moves_within_a_package_is_other_code(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    sources = []
    for number, place in enumerate(("one/x.py", "two/x.py", "x.py")):
        package = tmp_path / f"moved_{number}"
        for file in ("__init__.py", "one/__init__.py", "two/__init__.py", place):
            (package / file).parent.mkdir(parents=True, exist_ok=True)
            (package / file).write_text("K = 1\n" if file == place else "")
        importlib.invalidate_caches()
        sources.append(source_of(f"{package.name}:K")["source"])
    assert len(set(sources)) == 3


def test_a_run_of_parts_from_outside_comes_back_from_its_dump():
    spec = tiny(task="outside:Weighted", optimizer="outside:Descend", push=0.5, weight_decay=0.25)
    assert (spec.task, spec.optimizer, spec.push) == ("outside:Weighted", "outside:Descend", 0.5)
    again = RunSpec.restored(spec.dump())
    assert again == spec and again.dump() == spec.dump() and again.id == spec.id
    assert spec.id != tiny(optimizer="outside:Descend", push=0.5, weight_decay=0.25).id
    assert spec.replace(push=0.25).id != spec.id
    assert issubclass(type(spec.task_part), TaskSettings)


def test_defaults_of_a_part_from_outside_are_part_of_its_runs_names():
    """A reader of the record may not have the class: what it says by default is told."""
    assert tiny(optimizer="outside:Descend").canonical()["push"] == 1.0
    assert "lr" not in tiny().canonical()


@pytest.mark.parametrize("copied", [copy.copy, lambda spec: RunSpec.restored(spec.dump()), lambda spec: spec])
def test_nothing_is_another_value_than_what_a_task_suggests(copied):
    assert tiny(task="outside:Patient").patience == 5
    spec = copied(tiny(task="outside:Patient", patience=None))
    for again in (spec, spec.replace(seed=3), *grid(spec, seed=[1, 2]), spec.replace(seed=1).replace(seed=2)):
        assert again.patience is None
    assert spec.replace(patience=7).patience == 7


def test_a_setting_of_two_parts_is_refused():
    with pytest.raises(UserError, match="'p'"):
        RunSpec(model="outside:Crowded")
