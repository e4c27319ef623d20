"""The choice of matrix products, what is recorded of it, and what goes on from it."""

import json
import math

import pytest
import torch
from helpers import CPU, one_cohort, theta, tiny_grid

import shoal
from shoal.fast import cache, matmul, multiplication
from shoal.fast.build import Kernels, kernels
from shoal.fast.engine import choose_engine
from shoal.fast.multiplication import CLASSES, available_products, choose_products
from shoal.lab.cohort import CohortFolder
from shoal.lab.files import write_json
from shoal.spec import RunSpec
from shoal.training.certificate import certify
from shoal.training.continuation import kernels_of, products_of
from shoal.training.stack import Stack
from shoal.training.step import train_step

SPECS = tiny_grid({"model": "gpt", "p": 5, "train_batch_size": 6, "n_steps": 4}, seed=[0, 1])


@pytest.fixture(autouse=True)
def _needs_the_kernels():
    if kernels().library is None:
        pytest.skip(kernels().note)


@pytest.fixture
def notes(monkeypatch, tmp_path):
    """A cache folder of the test's own, and nothing measured yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    multiplication.measured.cache_clear()
    yield tmp_path / "shoal"
    multiplication.measured.cache_clear()


def ratios(monkeypatch, **found):
    monkeypatch.setattr(multiplication, "measured", lambda *precision: found)


@pytest.mark.parametrize(("width", "of"), [(32, "small"), (63, "small"), (64, "large"), (512, "large")])
def test_the_faster_library_of_the_width_is_chosen(monkeypatch, width, of):
    other = next(name for name in CLASSES if name != of)
    ratios(monkeypatch, **{of: 1.2, other: 0.5})
    assert choose_products(width, CPU) == "own"
    ratios(monkeypatch, **{of: 0.8, other: 2.0})
    assert choose_products(width, CPU) == "torch"


def test_only_an_engine_of_programs_on_the_cpu_has_products_of_its_own(monkeypatch):
    ratios(monkeypatch, small=2.0, large=2.0)
    for engine, products in (("compiled", "own"), ("prefixes", "torch"), ("plain", "torch")):
        assert choose_engine(RunSpec(), math.inf, CPU, engine).products == products
    assert choose_products(128, torch.device("cuda")) == "torch"


@pytest.mark.parametrize(
    "text", ["", "[]", "{", '{"large": "x", "small": 1}', '{"large": 1}', '{"large": -1, "small": 1}']
)
def test_a_note_that_is_none_is_measured_anew(monkeypatch, notes, text):
    monkeypatch.setattr(multiplication, "_ratio", lambda sizes, repeats, precision: 1.5)
    assert multiplication.measured() == dict.fromkeys(CLASSES, 1.5)
    (note,) = notes.iterdir()
    assert json.loads(note.read_text()) == dict.fromkeys(CLASSES, 1.5)
    note.write_text(text)
    multiplication.measured.cache_clear()
    monkeypatch.setattr(multiplication, "_ratio", lambda sizes, repeats, precision: 2.5)
    assert multiplication.measured() == dict.fromkeys(CLASSES, 2.5)
    multiplication.measured.cache_clear()
    monkeypatch.setattr(multiplication, "_ratio", lambda sizes, repeats, precision: 9.0)
    assert multiplication.measured() == dict.fromkeys(CLASSES, 2.5)  # from the note


def test_a_note_that_others_can_write_is_not_read(notes):
    cache.keep_note("products-x.json", "{}")
    assert cache.note("products-x.json") == "{}"
    (notes / "products-x.json").chmod(0o666)
    assert cache.note("products-x.json") is None
    (notes / "products-y.json").symlink_to(notes / "products-x.json")
    assert cache.note("products-y.json") is None


def test_what_is_measured_is_a_ratio_of_times():
    assert 0 < multiplication._ratio((1, 4, 4, 4), 1, "float32") < 100


def test_products_are_recorded_and_kept_on_resume(monkeypatch, tmp_path):
    ratios(monkeypatch, small=2.0, large=2.0)
    records = shoal.train(SPECS, tmp_path / "lab", engine="compiled", workers=1, threads=1)
    (folder,) = records.cohorts()
    assert folder.manifest()["products"] == folder.status()["sessions"][0]["products"] == "own"
    ratios(monkeypatch, small=0.5, large=0.5)  # another machine, or another day
    assert products_of(folder, CPU) == "own"
    certificate = certify(folder, records.ids, steps=4)
    assert certificate["environment"]["products"] == "own"
    assert certificate["record"] == 0  # the same bits again
    with pytest.warns(UserWarning, match="last bits"):
        assert products_of(folder, torch.device("cuda")) == "torch"
    sessions, how = folder.status()["sessions"], ("compiled", "own", SPECS[0], CPU)
    assert kernels_of(folder, sessions, *how) == {"kernels": sessions[0]["kernels"]}
    monkeypatch.setattr(matmul, "library", lambda *precision: Kernels(None, "none here", "another version of it"))
    with pytest.warns(UserWarning, match="compiled otherwise"):
        kernels_of(folder, sessions, *how)
    with pytest.warns(UserWarning, match="last bits"):
        assert products_of(folder, CPU) == "torch"


def test_a_cohort_of_before_there_was_a_choice_goes_on_with_pytorchs(monkeypatch, tmp_path):
    ratios(monkeypatch, small=0.5, large=0.5)
    (folder,) = shoal.train(SPECS, tmp_path / "lab", engine="compiled", workers=1, threads=1).cohorts()
    path = folder.path / "cohort.json"
    manifest = {name: value for name, value in folder.manifest().items() if name != "products"}
    write_json(path, manifest)
    ratios(monkeypatch, small=2.0, large=2.0)
    assert products_of(CohortFolder(folder.path), CPU) == "torch"


def test_without_the_library_a_cohort_goes_on_with_pytorchs(monkeypatch):
    assert available_products("own", CPU) == "own"
    assert available_products("own", torch.device("cuda")) == "torch"
    monkeypatch.setattr(matmul, "library", lambda *precision: Kernels(None, "none here"))
    assert available_products("own", CPU) == available_products("torch", CPU) == "torch"
    assert choose_products(128, CPU) == "torch"


@pytest.mark.parametrize("products", ["own", "torch"])
@pytest.mark.parametrize("model", ["lstm", "gpt"])
def test_a_member_does_not_notice_its_neighbours_by_one_bit(products, model):
    specs = tiny_grid({"model": model, "embedding_size": 20, "p": 5, "train_batch_size": 8}, seed=[0, 1, 2])
    together = Stack(one_cohort(specs), CPU, "compiled", products)
    alone = [Stack(one_cohort([spec]), CPU, "compiled", products) for spec in specs]
    for _ in range(3):
        for stack in (together, *alone):
            train_step(stack)
    for index, stack in enumerate(alone):
        assert torch.equal(theta(together, index), theta(stack, 0)), index
