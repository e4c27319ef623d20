"""Pages that can be read alone: what captions share is said once, words are explained, values can be seen."""

import html
import json
import re
import subprocess

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from shown import CHROMIUM, loaded_from_outside

from shoal.report import Cell, Figure, Report, Section, Table, learning_curves, survival_figure, write_report
from shoal.report.glossary import Linker, terms_in
from shoal.report.page import lone_page
from shoal.report.panels import CURVES, MODEL, curve_panels
from shoal.report.reading import Place, places_in_words, reading, sentences
from shoal.report.terms import TERMS

POOL = [f"{mark}: what is said of these figures and tables, number {i}." for i, mark in enumerate("abcdefg")]
CAPTIONS = st.lists(st.sampled_from(POOL), max_size=5, unique=True)
FRAME = pl.DataFrame({"run": ["a"] * 3 + ["b"] * 3, "step": [1, 10, 1000] * 2}).with_columns(
    (pl.Series([0.1, 0.5, 0.9, 0.2, 0.6, 1.0]) * share).alias(f"{split}_{name}")
    for split, share in (("train", 1), ("valid", 0.5))
    for name in ("loss", "accuracy")
)


def table(name, caption):
    return Table(name, ["run", "A_val"], [("r", [Cell("0.5")])], caption)


@st.composite
def reports(draw):
    sections, n = [], 0
    for place in range(draw(st.integers(1, 3))):
        tables = []
        for own in draw(st.lists(CAPTIONS, max_size=4)):
            n += 1
            tables.append(table(f"t{n}", " ".join([f"Table of its own kind, number {n}.", *own])))
        sections.append(Section(f"Section {place}", tables=tables))
    return Report("r", "asked", sections)


@given(reports())
@settings(max_examples=150, deadline=None)
def test_no_sentence_of_captions_stands_twice_and_none_is_lost(report):
    guide = reading(report)
    said = [part for caption in guide.captions.values() for part in sentences(caption)]
    said += [part for shared in guide.shared for part in shared.sentences]
    assert len(said) == len(set(said))
    tables = [own for section in report.sections for own in section.tables]
    for number, own in enumerate(tables, 1):
        place = Place("Table", number)
        there = {part for shared in guide.shared if place in shared.places for part in shared.sentences}
        assert there.isdisjoint(sentences(guide.captions[place]))
        assert {*sentences(guide.captions[place]), *there} == set(sentences(own.caption))
    of_sections = [shared for places in guide.sections for shared in guide.of_section(places)]
    assert sorted(map(repr, [*of_sections, *guide.of_several])) == sorted(map(repr, guide.shared))


def test_places_are_named_in_words():
    places = [Place("Table", 1), Place("Figure", 7), *(Place("Figure", n) for n in (1, 2, 3))]
    assert places_in_words(places) == "Figures 1 to 3, 7; Table 1"


def test_a_sentence_is_not_cut_within():
    text = "Steps, e.g. 0.9 of 1,000. p < 0.05. By Müller et al. “Who goes there?” †: the last."
    assert " ".join(sentences(text)) == text
    assert sentences("Of 0.5 nats. Thin: runs.") == ["Of 0.5 nats.", "Thin: runs."]


def test_files_beside_a_page_keep_whole_captions_and_the_page_says_them_once(tmp_path):
    same = "Bold: the best of all that are shown in these tables."
    tables = [table(name, f"Table {name} is of this. {same}") for name in ("one", "two")]
    page = write_report(Report("r", "", [Section("s", tables=tables)]), tmp_path)
    assert page.read_text().count(same) == 1
    assert (tmp_path / "report.md").read_text().count(same) == 1
    for name in ("one", "two"):
        assert same in (tmp_path / "tables" / f"{name}.md").read_text()
        assert same in (tmp_path / "tables" / f"{name}.tex").read_text()


def test_terms_have_one_entry_each_that_is_short_and_that_their_own_name_finds():
    assert len({term.key for term in TERMS}) == len(TERMS)
    for term in TERMS:
        assert term.key in terms_in(f"The {term.name} of it."), term.name
        assert term.key.isascii()
        assert len(sentences(term.meaning)) <= 3, term.name
        assert len(term.meaning.split()) <= 60, term.name


def test_the_first_use_of_a_term_in_a_section_is_linked_and_no_other():
    linked = Linker(html.escape)
    first = linked("A cohort < a cohort; censored runs.")
    assert first.count('href="#term-cohort"') == 1 and "&lt;" in first
    assert "href" not in linked("cohorts, censoring")
    linked.begin_section()
    assert 'href="#term-cohort">cohorts</a>' in linked("cohorts")
    assert [term.name for term in linked.used] == ["censored", "cohort", "run"]
    assert re.sub("<[^>]*>", "", first) == html.escape("A cohort < a cohort; censored runs.")


@pytest.mark.parametrize("text", ["shoal study run sanity", "--seeds 3", "learning rate 3", "stop_after_losses"])
def test_what_only_looks_like_a_term_is_none(text):
    assert terms_in(text) == set()


def test_p_is_a_modulus_or_a_probability():
    assert terms_in("p 23, q 23") == {"p-and-q"}
    assert terms_in("p = 0.5") == {"p-value"}
    assert "n-runs" in terms_in("LSTM: N = 4") and terms_in("6 N D, N=7B") == set()


def curves():
    return Figure("curves", learning_curves(FRAME, "accuracy", "GPT"), "Curves of runs.")


def test_every_link_of_a_page_leads_somewhere_and_nothing_is_loaded(tmp_path):
    answers = ["The practical asks this of censored runs."]
    sections = [Section("s", ["A cohort."], [curves()], [table("t", "x")]), Section("z", about="Seeds.")]
    text = write_report(Report("r", "asked", sections, answers), tmp_path).read_text()
    body = text.partition("<body>")[2].partition("<script")[0]
    anchors = set(re.findall(r' id="([^"]*)"', body))
    links = re.findall(r'href="([^"]*)"', body)
    assert {link[1:] for link in links if link.startswith("#")} <= anchors
    for link in links:
        assert link.startswith(("#", "https://")) or (tmp_path / link).is_file()
    assert loaded_from_outside(text) == []
    assert "IFT6135" in body  # where the practical is found


PROBE = """
<script type="module">
const said = {}, values = document.getElementById("values");
for (let i = 0; i < 200 && document.querySelectorAll(".chart svg").length < 3; i++)
  await new Promise((done) => setTimeout(done, 50));
await new Promise((done) => setTimeout(done, 200));
for (const box of document.querySelectorAll(".chart")) {
  const place = box.querySelector("svg").getBoundingClientRect(), seen = new Set();
  for (let x = 0; x < 1; x += 0.02) for (let y = 0; y < 1; y += 0.05) {
    const at = { clientX: place.left + x * place.width, clientY: place.top + y * place.height };
    box.dispatchEvent(new PointerEvent("pointermove", at));
    if (!values.hidden) seen.add(values.innerText);
  }
  said[box.id] = [...seen];
  said[`${box.id} keys`] = ["ArrowRight", "ArrowRight", "ArrowDown"].map((key) => {
    box.dispatchEvent(new KeyboardEvent("keydown", { key }));
    return values.innerText;
  });
}
const term = document.querySelector(".term");
term.focus();
await new Promise((done) => setTimeout(done, 50));
said.term = [document.getElementById("tip").innerText, term.getAttribute("aria-describedby")];
document.body.innerHTML = "";
document.body.append(JSON.stringify(said));
</script>
"""


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="there is no browser")
def test_a_browser_shows_values_under_the_pointer_and_by_keys_and_the_meaning_of_words(tmp_path):
    panels = Figure("panels", curve_panels(FRAME.with_columns(model=pl.lit("gpt")), MODEL, "t", CURVES), "Panels.")
    times = pl.DataFrame({"model": ["a", "a", "b"], "time": [100, 200, 300], "observed": True})
    figures = [curves(), panels, survival_figure("times", times, "model", "t")]
    page = tmp_path / "page.html"
    before, _, after = lone_page(Report("r", "asked", [Section("s", ["A cohort."], figures)])).rpartition("</body>")
    page.write_text(f"{before}{PROBE}</body>{after}")
    options = ["--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'browser'}"]
    more = ["--virtual-time-budget=60000", "--dump-dom", page.as_uri()]
    done = subprocess.run([CHROMIUM, *options, *more], capture_output=True, text=True, timeout=120, check=True)
    said = json.loads(html.unescape(re.search(r"<body>\s*(\{.*\})\s*</body>", done.stdout, re.DOTALL)[1]))
    assert any(
        re.search(r"validation\ntraining step: 1,000\naccuracy: 0\.475\nshaded: 0\.45 to 0\.5", t)
        for t in said["curves"]
    )
    assert {"GPT\ntraining step: 10\nL_train (nats): 0.55\nshaded: 0.5 to 0.6"} <= set(said["panels"])
    assert any("training step: 300\nshare of runs that reached the threshold: 1" in text for text in said["times"])
    assert len(set(said["curves keys"])) == 3
    meaning, described = said["term"]
    assert len(meaning.split()) > 5 and described == "tip"
