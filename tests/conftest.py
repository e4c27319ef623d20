"""Fixtures that every test may ask for."""

import functools
import os
from pathlib import Path

import pytest
import torch
from shown import dressed_numbers, unset_in_latex

from shoal.fast.build import kernels
from shoal.report import page
from shoal.report.table import Table
from shoal.training import arrangement, loop

collect_ignore_glob = ["vectors/*.py"]  # they need the libraries whose numbers they write down
os.environ["CUDA_VISIBLE_DEVICES"] = ""  # tests are of the CPU, where there is a GPU too
os.environ.pop("COLUMNS", None)  # xdist sets it, and tables would be as wide as a terminal
os.environ["TRITON_INTERPRET"] = "1"  # kernels for a GPU run on the CPU; read when they are first launched


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    """Small tensors are fastest on one thread, and tests may run side by side."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def one_process():
    """Training that does not ask for workers has none: each takes two seconds to import what is here already."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrangement, "cores", lambda: 1)
        yield


@pytest.fixture(autouse=True, scope="session")
def step_by_step():
    """Training in this process looks whether it has to stop before every step, however fast this machine is, so that a
    test can stop it at a step that it names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "CHECKED", 0.0)
        yield


@pytest.fixture(autouse=True, scope="session")
def compiled():
    """The kernels are there from the start: which engine a short run gets depends on whether they are, and a test that
    compares two runs to the bit must not see them appear in between."""
    kernels()


@pytest.fixture(autouse=True, scope="session")
def tables_can_be_used():
    """Every table that a test writes can be set by pdflatex, and has numbers for programs in its CSV file."""

    def checked(method, faults):
        @functools.wraps(method)
        def write(table):
            text = method(table)
            assert faults(text) == [], f"table {table.name}"
            return text

        return write

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "to_latex", checked(Table.to_latex, unset_in_latex))
        patch.setattr(Table, "to_csv", checked(Table.to_csv, dressed_numbers))
        yield


@pytest.fixture
def without_pictures(monkeypatch):
    """Files of figures without a picture, for tests that are not of figures: a page draws for half of its time."""
    monkeypatch.setattr(page, "drawn", lambda figure: dict.fromkeys(page.FIGURE_FILES, b""))


@pytest.fixture(scope="session")
def golden() -> Path:
    """The folder of larger reference values: ``SHOAL_GOLDEN``, or beside the checkout."""
    beside = Path(__file__).parents[2] / "shared" / "golden"
    folder = Path(os.environ.get("SHOAL_GOLDEN") or beside)
    if not folder.is_dir():
        pytest.skip("no golden folder; the project's own vectors are tested instead")
    return folder
