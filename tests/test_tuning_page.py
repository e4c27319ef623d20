"""Page and closing lines of a tuning: winners at an edge of the search space, and how fresh seeds are verified."""

import re
import shlex
from dataclasses import replace

import pytest

from shoal.cli import main
from shoal.lab import Lab
from shoal.spec import RunSpec
from shoal.tuning import tune
from shoal.tuning.edges import edge_text, edges_of
from shoal.tuning.report import report_tuning, verdict_sentence
from shoal.tuning.space import read_space

BASE = RunSpec(model="gpt")


def edge_of(search: str, value):
    space = read_space(BASE, [search])
    return next(iter(edges_of(BASE, space, {space.names[0]: value})), None)


@pytest.mark.parametrize(
    ("search", "value", "is_upper"),
    [
        ("lr=log:1e-4:1e-2", 1e-4, False),
        ("lr=log:1e-4:1e-2", 1.25e-4, False),  # within 5 % of the logarithm, of which 1.26e-4 is the bound
        ("lr=log:1e-4:1e-2", 1.27e-4, None),
        ("lr=log:1e-4:1e-2", 9e-4, None),
        ("lr=log:1e-4:1e-2", 7.9e-3, None),
        ("lr=log:1e-4:1e-2", 8e-3, True),
        ("lr=linear:1e-4:1e-2", 5e-4, False),
        ("lr=linear:1e-4:1e-2", 8e-3, None),
        ("dropout=linear:0:0.5", 0.001, None),  # below 0 there is nothing
        ("dropout=linear:0:0.5", 0.49, True),
        ("num_layers=linear:1:4", 1, None),
        ("num_layers=linear:2:4", 2, False),
        ("num_layers=linear:1:4", 3, None),
        ("num_layers=linear:1:4", 4, True),
        ("weight_decay=0,0.1,1", 0, None),
        ("weight_decay=0,0.1,1", 0.1, None),
        ("weight_decay=0,0.1,1", 1.0, True),
        ("weight_decay=1,0.1,0.01", 0.01, False),
        ("weight_decay=1,0.1,0.01", 1.0, True),
        ("weight_decay=0.1,1,0.01", 1.0, None),  # in no order
        ("optimizer=adamw,sgd", "sgd", None),
        ("norm_position=pre,post", "post", None),
    ],
)
def test_edges(search, value, is_upper):
    edge = edge_of(search, value)
    assert (None if edge is None else edge.is_upper) == is_upper
    if edge is not None:
        text = edge_text(edge)
        name, _, values = search.partition("=")
        assert name in text and values in text and f"{value:g}" in text and f"{edge.end:g}" in text


def test_an_edge_of_each_setting_is_named():
    space = read_space(BASE, ["lr=log:1e-4:1e-2", "weight_decay=0,0.1,1,3", "dropout=linear:0:0.5"])
    edges = edges_of(BASE, space, {"lr": 9.9e-3, "weight_decay": 3.0, "dropout": 0.2})
    assert [edge.axis.name for edge in edges] == ["lr", "weight_decay"]


def test_the_page_names_cohorts_and_certificates_of_the_fresh_seeds(tmp_path, capsys):
    base = RunSpec(
        model="gpt", p=5, embedding_size=8, num_layers=1, num_heads=2, n_steps=12, eval_first=4, eval_period=4,
        train_batch_size=8, seed=0,
    )  # fmt: skip
    asked = (base, ["lr=log:1e-2:1e-1"], "24steps", tmp_path)
    how = {"threads": 1, "workers": 1, "engine": "plain", "generation": 2, "halving": 2, "fresh_seeds": 2}
    tuning = tune(*asked, **how, report=False)
    runs = [run for side in tuning.final.runs.values() for run in side]
    trials = Lab(tmp_path).records([run for trial in tuning.trials for run in trial.runs])
    fresh = Lab(tmp_path).records(runs)
    section = report_tuning(tuning, trials, fresh, str(tmp_path)).sections[0]
    smallest = replace(tuning.verdict, p=tuning.verdict.smallest_p)
    told = verdict_sentence(tuning, tuning.final, smallest)
    assert "fresh seeds, beyond the budget," in told and "(p = 0.5, the smallest that 2 pairs can have)" in told
    assert "smallest" not in verdict_sentence(tuning, tuning.final, replace(smallest, p=0.75))
    text = "\n".join(section.paragraphs)
    assert all(folder.id in text for folder in fresh.cohorts()) and len(section.tables) == 1
    command = re.search(r"shoal (certify .*)", text)[1]
    assert main([*shlex.split(command), "--steps", "3"]) == 0
    assert capsys.readouterr().out.count("alone against stacked") == 2
    section = report_tuning(tuning, trials, fresh, str(tmp_path)).sections[0]
    assert [table.name for table in section.tables] == ["final", "certificates"]
