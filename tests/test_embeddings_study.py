"""The study of pretrained embeddings on tiny texts: its runs, measurements, differences and page."""

import json
import math
import sys

import pytest
from pair_files import parallel
from test_pretrained import GERMAN, fake_gensim, vectors

import shoal
from shoal.studies import Form, Results, embeddings
from shoal.studies.embeddings_answers import answers_of

SMALL = {
    "embedding_size": ["8"],
    "num_heads": ["2"],
    "n_steps": ["4"],
    "eval_period": ["2"],
    "warmup_steps": ["1"],
    "train_batch_size": ["10"],
    "min_frequency": ["1"],
    "max_length": ["12"],
    "model": ["encoder_translator"],
}


@pytest.fixture(scope="module")
def form(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pairs")
    files = {name: [path] for name, path in parallel(folder, 20, 8).items()}
    return Form(quick=True, seeds=2, settings={**files, **SMALL, "embeddings": [vectors(folder, GERMAN, "de.txt", 5)]})


@pytest.fixture(scope="module")
def found(form, tmp_path_factory):
    patch = pytest.MonkeyPatch()
    fake_gensim(patch)
    try:
        records = shoal.train(form.specs(embeddings), tmp_path_factory.mktemp("study") / "lab", workers=1)
        return records, json.loads(json.dumps(embeddings.measure_models(form, records), allow_nan=False))
    finally:
        patch.undo()
        sys.modules.pop("gensim.models", None)


def test_every_arm_is_measured_on_the_same_lines(form, found):
    _, measured = found
    arms = {(arm["rows"], arm["frozen"]) for arm in measured["arms"]}
    assert arms == {(rows, frozen) for rows in embeddings.ROWS for frozen in (False, True)}
    assert all(len(arm["nats"]) == 2 and math.isfinite(arm["bleu"]) for arm in measured["arms"])
    assert (measured["split"], measured["lines"]) == ("valid", 8)


def test_differences_are_those_of_the_arms(found):
    _, measured = found
    mean = {(a["rows"], a["frozen"]): sum(a["nats"]) / 2 for a in measured["arms"]}
    rows = [row for row in measured["differences"] if row["score"] == "nats"]
    assert len(rows) == 11  # five pairs of rows, frozen and tuned, and pretrained rows tuned against frozen
    for row in rows:
        first, second = ((name.split(", ")[1], name.endswith("frozen")) for name in (row["first"], row["second"]))
        assert row["mean"] == pytest.approx(mean[first] - mean[second])
    assert all(row["corrected"] is None or row["corrected"] >= row["p"] for row in measured["differences"])


def test_the_page_has_scores_differences_and_coverage(form, found):
    records, measured = found
    report = embeddings.report(Results(records, measured), form)
    assert {table.name for section in report.sections for table in section.tables} >= {
        "scores",
        "differences",
        "coverage",
    }
    assert report.answers == answers_of(measured) and len(report.answers) == 10
    without = embeddings.report(Results(records), form)
    assert "shoal study run embeddings" in without.answers[0]
