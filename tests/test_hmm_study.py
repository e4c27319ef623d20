"""Studies of hidden Markov models on tiny sequences: what they measure, and that their pages show it."""

import numpy as np
import polars as pl
import pytest
from shown import dressed_numbers, foreign_signs, in_words, unset_in_latex

import shoal
from shoal.analysis.fits import best_of_restarts
from shoal.lab import Lab
from shoal.report.reading import sentences
from shoal.studies import Form, Results, get_study
from shoal.studies.hmm_pages import emissions_section
from shoal.studies.hmm_scores import example, pairs_of_updates
from shoal.studies.letters import letters_sentence

SMALL = {"n_steps": ["15"], "num_states": ["1", "2"], "seed": ["0", "1"]}
OF = {"hmm": {"drawn_sequences": ["20"], "drawn_length": ["20"], "drawn_size": ["4"]}, "letters": {}}


@pytest.fixture(scope="module", params=["hmm", pytest.param("letters", marks=pytest.mark.slow)])
def shown(request, tmp_path_factory):
    """Study, its form, its results, and its report."""
    path = tmp_path_factory.mktemp("hmm")
    settings = {**SMALL, **OF[request.param]}
    if request.param == "letters":
        words = ["banana", "bolero", "cicada", "dilemma", "energy", "figurine", "galore", "harmony", "idea", "junior"]
        chosen = np.random.default_rng(0).choice(words, 400)
        (path / "text.txt").write_text(" ".join(chosen))
        settings |= {"text": [str(path / "text.txt")], "block_length": ["100"]}
    else:
        settings["num_states"] = ["2", "3"]
    study = get_study(request.param)
    monkeypatch = pytest.MonkeyPatch()
    request.addfinalizer(monkeypatch.undo)
    monkeypatch.setitem(study.BOOTSTRAPS, True, 3)
    form = Form(quick=True, settings=settings)
    records = shoal.train(form.specs(study), path / "lab", workers=1)
    records = Lab(path / "lab").records(spec.id for spec in form.specs(study))
    results = Results(records, study.measure_models(form, records))
    return request.param, form, results, study.report(results, form)


def test_every_part_of_its_page_is_there_and_can_be_set(shown):
    name, form, _, report = shown
    figures = [figure for section in report.sections for figure in section.figures]
    tables = [table for section in report.sections for table in section.tables]
    assert {figure.name for figure in figures} == {"states", "restarts", "emissions", "updates"}
    for figure in figures:
        assert in_words(figure)
        assert not foreign_signs(figure.spec)
    for table in tables:
        assert all(len(cells) == len(table.header) - 1 for _, cells in table.rows)
        assert unset_in_latex(table.to_latex()) == []
        assert dressed_numbers(table.to_csv()) == []
    assert len({table.name for table in tables}) == len(tables)
    assert all(section.about for section in report.sections)
    firsts = [sentences(one.caption)[0] for one in (*figures, *tables)]
    assert sorted(firsts) == sorted(set(firsts))
    assert any(form.flags() in paragraph for paragraph in report.sections[-1].paragraphs)
    assert f"study run {name}" in " ".join(report.sections[-1].paragraphs)


def test_what_is_measured_agrees_with_the_models(shown):
    name, _, results, _ = shown
    measured, K = results.measured, results.measured["n_states"]
    fits = pl.DataFrame(measured["fits"], infer_schema_length=None)
    rows = {row["num_states"]: row for row in measured["numbers"]}
    sound = fits.filter(part="numbers of states", num_states=K, problem="")
    assert rows[K]["log_likelihood"] == sound["log_likelihood"].max()
    model = results.records.model(rows[K]["run"])
    assert np.array_equal(np.array(measured["model"]["arrays"]["transitions"]), model.transitions[0])
    low, high = (np.array(measured["model"][end]["transitions"]) for end in ("low", "high"))
    assert (low <= high).all()
    data = results.spec().task_part.data()
    n = data.counts[data.is_valid].sum()
    assert rows[K]["held"] == pytest.approx(rows[K]["valid_log_likelihood"] / n, rel=1e-12)
    assert rows[K]["held_low"] <= rows[K]["held"] <= rows[K]["held_high"]
    assert max(row["below"] for row in rows.values()) == 0
    assert len(pairs_of_updates(measured["fits"], K)) == 2
    assert ("truth" in measured) == (name == "hmm")


def test_tables_of_a_model_of_numbers_have_every_number_of_theirs_as_it_is(tmp_path, monkeypatch):
    study = get_study("hmm")
    monkeypatch.setitem(study.BOOTSTRAPS, True, 2)
    drawn = {"drawn_sequences": ["12"], "drawn_length": ["15"], "drawn_size": ["2"], "emissions": ["gaussian"]}
    form = Form(quick=True, settings={**SMALL, **drawn, "num_states": ["3"], "n_steps": ["4"]})
    records = shoal.train(form.specs(study), tmp_path, workers=1)
    measured = study.measure_models(form, records)
    section = emissions_section(measured, "Emissions", "what they are.")
    assert [table.name for table in section.tables] == ["transitions", "means"]
    model, truth = measured["model"], measured["truth"]["arrays"]
    for table in section.tables:
        assert dressed_numbers(table.to_csv()) == [] and unset_in_latex(table.to_latex()) == []
    transitions, means = (table.data.to_dicts() for table in section.tables)
    assert len(transitions) == 3 + 9 and len(means) == 3 * 2
    for row in transitions:
        of = (lambda arrays, row=row: arrays["start"][row["to"]]) if row["from"] is None else None
        of = of or (lambda arrays, row=row: arrays["transitions"][row["from"]][row["to"]])
        given = [of(model["arrays"]), of(model["low"]), of(model["high"]), of(truth)]
        assert [row["value"], row["low"], row["high"], row["true"]] == given
    for row in means:
        given = [part["means"][row["state"]][row["dimension"]] for part in (model["arrays"], model["low"], truth)]
        assert [row["value"], row["low"], row["true"]] == given


def test_a_page_without_measurements_says_so(shown):
    name, form, results, _ = shown
    bare = Results(results.records)
    report = get_study(name).report(bare, form)
    assert any("Not measured yet" in answer for answer in report.answers)


def test_the_example_is_that_of_the_erratum():
    values = example(300)
    assert values["pairwise"][-1] == pytest.approx(-2.98354, abs=5e-6)
    assert values["conditional"][-1] == pytest.approx(-4.05821, abs=5e-6)
    assert values["conditional"][2] < values["conditional"][1]


def test_the_best_of_restarts_is_sound_and_counted_within_a_tenth_of_a_nat():
    fits = pl.DataFrame(
        {
            "run": ["a", "b", "c", "d", "e"],
            "log_likelihood": [-10.0, -10.09, -10.2, -5.0, -7.0],
            "valid_log_likelihood": [0.0] * 5,
            "valid_problem": [""] * 5,
            "parameters": [1] * 5,
            "aic": [0.0] * 5,
            "bic": [0.0] * 5,
            "converged": [True] * 5,
            "problem": ["", "", "", "a variance is at its floor", "empty"],
            "K": [2, 2, 2, 2, 3],
        }
    )
    two, three = best_of_restarts(fits, ["K"]).iter_rows(named=True)
    assert (two["run"], two["again"], two["restarts"], two["degenerate"]) == ("a", 2, 4, 1)
    assert (three["run"], three["again"], three["restarts"], three["degenerate"]) == (None, 0, 1, 1)


def test_letters_belong_to_the_state_that_they_are_likeliest_of():
    table = [[0.0, 0.5, 0.1, 0.4, 0.0], [0.3, 0.0, 0.3, 0.0, 0.4]]
    scores = {
        "symbols": [" ", "a", "b", "e", "t"],
        "model": {"arrays": {"probabilities": table, "transitions": [[0.1, 0.9], [0.8, 0.2]]}},
    }
    sentence = letters_sentence(scores)
    assert "2 of the vowels a e " in sentence
    assert "space b t" in sentence
