"""``shoal score``: files in, the library's numbers out, and one line for every mistake."""

import gzip
import re
import subprocess
import sys

import pytest
from test_translation_scores import corpus

from shoal.analysis import sentence_scores
from shoal.cli import main
from shoal.commands import score as command

sacrebleu = pytest.importorskip("sacrebleu")
FAST = ["--resamples", "50", "--trials", "200"]


def written(path, lines):
    path.write_bytes("".join(line + "\n" for line in lines).encode())
    return path.name


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with references and three systems' hypotheses."""
    monkeypatch.chdir(tmp_path)
    for number, rate in enumerate((0.2, 0.3, 0.22, 0.32)):
        said, wanted = corpus(80, rate, 0)
        written(tmp_path / f"{number}.txt", said)
    written(tmp_path / "reference.txt", wanted)
    return tmp_path


def score(*words):
    return main(["score", *words])


def read(path):
    return path.read_text(encoding="utf-8").split("\n")[:-1]


def test_numbers_and_signatures_are_the_library_s(here, capsys):
    assert score("0.txt", "--reference", "reference.txt", *FAST) == 0
    out = capsys.readouterr().out
    said, wanted = read(here / "0.txt"), [read(here / "reference.txt")]
    for metric in (sacrebleu.BLEU(), sacrebleu.BLEU(lowercase=True), sacrebleu.CHRF()):
        assert f"{metric.corpus_score(said, wanted).score:.2f} [" in out
        assert str(metric.get_signature()) in out
    assert "80 sentences" in out
    assert "p (Holm)" not in out


def test_systems_are_compared_with_the_first(here, capsys):
    assert score("0.txt", "1.txt", "2.txt", "--reference", "reference.txt", *FAST) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.split("p (Holm)")[1].splitlines() if line.startswith(("1.txt", "2.txt"))]
    assert [row[:2] for row in rows] == [["1.txt", "BLEU"], ["2.txt", "BLEU"], ["1.txt", "chrF2"], ["2.txt", "chrF2"]]
    difference = [float(row[2]) for row in rows]
    for system, found in zip(("1.txt", "2.txt"), difference, strict=False):
        a, b = (sacrebleu.corpus_bleu(read(here / n), [read(here / "reference.txt")]).score for n in (system, "0.txt"))
        assert found == pytest.approx(a - b, abs=0.005001)


def test_files_joined_by_commas_are_seeds_of_one_system(here, capsys):
    assert score("0.txt,2.txt", "1.txt,3.txt", "--reference", "reference.txt", *FAST) == 0
    out = capsys.readouterr().out
    assert "2 seeds × 80 sentences" in out
    mean = sum(sacrebleu.corpus_bleu(read(here / n), [read(here / "reference.txt")]).score for n in ("0.txt", "2.txt"))
    assert f"{mean / 2:.2f} [" in out


def test_it_says_the_same_twice_and_without_intervals_too(here, capsys):
    for words in (FAST, ["--resamples", "0", "--trials", "0"]):
        for _ in range(2):
            assert score("0.txt", "1.txt", "--reference", "reference.txt", *words) == 0
        out = capsys.readouterr().out
        assert out[: len(out) // 2] == out[len(out) // 2 :]
    assert "[" not in out.replace("[95", "")


def test_without_trials_or_more_than_a_sentence_no_test_and_no_interval_is_claimed(here, capsys):
    assert score("0.txt", "1.txt", "--reference", "reference.txt", "--trials", "0", "--resamples", "50") == 0
    assert "randomi" not in capsys.readouterr().out
    written(here / "one.txt", ["a man runs in the park"])
    assert score("one.txt", "--reference", "one.txt", *FAST) == 0
    out = capsys.readouterr().out
    assert "1 sentence" in out
    assert "sentences" not in out
    assert "[" not in out


def test_packed_files_several_references_and_lines_that_end_at_newlines_alone(here, capsys):
    (here / "reference.gz").write_bytes(gzip.compress((here / "reference.txt").read_bytes()))
    assert score("reference.txt", "--reference", "1.txt", "reference.gz", *FAST) == 0
    out = capsys.readouterr().out
    assert "100.00 [" in out
    assert "nrefs:2" in out
    (here / "odd.txt").write_bytes("a\x85b c d\u2028e\r\n\nlast line without an end".encode())
    assert score("odd.txt", "--reference", "odd.txt", *FAST) == 0
    assert "3 sentences" in capsys.readouterr().out


def test_a_warning_is_a_line(here, capsys):
    written(here / "short.txt", ["the the the the the the the"])
    written(here / "wanted.txt", ["the cat is on the mat"])
    assert score("short.txt", "--reference", "wanted.txt", *FAST) == 0
    out = capsys.readouterr().out
    assert "7.81" in out and "7.81 [" not in out  # of one sentence there is no interval
    assert out.count("warning: short.txt") == 3


WRONG = {
    "0.txt": "--reference FILE",
    "0.txt --reference short.txt": r"0\.txt has 80 lines and short\.txt has 2",
    "0.txt --reference reference.txt short.txt": r"short\.txt has 2 lines and reference\.txt has 80",
    "short.txt,0.txt 0.txt,1.txt --reference reference.txt": r"short\.txt has 2 lines and reference\.txt has 80",
    "empty.txt --reference reference.txt": r"empty\.txt is empty",
    "0.txt --reference latin.txt": r"latin\.txt is not UTF-8: byte 0xe4 at offset 3",
    "0.txx --reference reference.txt": r"did you mean '0\.txt'",
    "0.txt 0.txt --reference reference.txt": "twice",
    "0.txt,0.txt --reference reference.txt": "twice",
    "0.txt,./0.txt --reference reference.txt": "twice",
    "0.txt ./0.txt --reference reference.txt": "twice",
    "0.txt, --reference reference.txt": "comma",
    "0.txt,1.txt 2.txt --reference reference.txt": "2 files and '2.txt' 1",
    "0.txt --reference reference.txt --tokenize 13b": "did you mean '13a'",
    "0.txt --reference reference.txt --resamples 5": "resamples must be 0 or an integer from 20 to 100,000, got 5",
    "0.txt --reference reference.txt --trials 5": "--trials must be 0 or an integer from 20 to 100,000, got 5",
    "0.txt --reference reference.txt --seed -1": "seed must be",
    "0.txt --references reference.txt": "did you mean '--reference'",
}


@pytest.mark.parametrize("words", WRONG)
def test_a_mistake_is_one_line(here, words, capsys):
    written(here / "short.txt", ["a", "b"])
    (here / "empty.txt").touch()
    (here / "latin.txt").write_bytes("abcä\n".encode("latin-1"))
    assert score(*words.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith("shoal: ")
    assert re.search(WRONG[words], error), error


def test_without_the_library_one_line_names_the_extra(here, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    assert score("0.txt", "--reference", "reference.txt") == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "shoal[translation]" in error


def test_help_and_mistakes_answer_without_what_computes():
    heavy = "[m for m in ('torch', 'polars', 'numpy', 'sacrebleu') if m in sys.modules]"
    words = ["score", "a", "--tokenize", "x", "--reference", "b"]
    code = f"import sys; from shoal.cli import main; print(main({words}), {heavy})"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout == "2 []\n"
    assert command._TOKENIZERS == sentence_scores.TOKENIZERS
