"""A lab of which something is damaged: the file is named, and the rest goes on."""

import json
import re
import shutil

import pytest
from helpers import tiny_grid

import shoal
from shoal.errors import LabError
from shoal.lab import Lab


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Two cohorts of two finished runs each, LSTMs and GPTs."""
    path = tmp_path_factory.mktemp("damage") / "lab"
    specs = tiny_grid({"n_steps": 4}, seed=[0, 1]) + tiny_grid({"model": "gpt", "n_steps": 4}, seed=[0, 1])
    shoal.train(specs, path, workers=1)
    lab = Lab(path)
    lab.note_study("sanity", {"quick": True, "runs": lab.runs()})
    for folder in lab.cohorts():
        folder.write_certificate({"steps": 1, "members": 2, "alone": {}, "record": None})
    return path


@pytest.fixture
def lab(whole, tmp_path):
    """A copy to damage."""
    return Lab(shutil.copytree(whole, tmp_path / "lab"))


READERS = {
    "cohort.json": lambda lab, folder: folder.manifest(),
    "status.json": lambda lab, folder: folder.status(),
    "certificate.json": lambda lab, folder: folder.certificate(),
    "sanity.json": lambda lab, folder: lab.study_note("sanity"),
}


def every_change(value):
    """The value with one of its parts replaced by something of another type, for each part in turn."""
    yield "nothing"
    if isinstance(value, dict):
        for key in value:
            for change in every_change(value[key]):
                yield {**value, key: change}
    if isinstance(value, list):
        for place in range(len(value)):
            for change in every_change(value[place]):
                yield [*value[:place], change, *value[place + 1 :]]


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("content", ["{}", "[]", "null", "3", '{"members": [{}]}', '{"members": {"a": 1}}', "{"])
def test_a_file_that_holds_something_else_is_named_in_one_line(lab, name, content):
    folder = lab.cohorts()[0]
    path = (lab.path / "studies" if name == "sanity.json" else folder.path) / name
    path.write_text(content)
    with pytest.raises(LabError, match=f"{re.escape(str(path))} is damaged") as failure:
        READERS[name](lab, folder)
    assert "\n" not in str(failure.value)


def test_whatever_is_changed_in_a_status_it_is_read_or_refused(lab):
    folder = lab.cohorts()[0]
    path = folder.path / "status.json"
    refused = 0
    for content in every_change(json.loads(path.read_text())):
        path.write_text(json.dumps(content))
        try:
            lab.unfinished()
            lab.records().runs()
        except LabError as error:
            assert str(path) in str(error)
            refused += 1
    assert refused > 10
