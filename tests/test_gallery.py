"""The pages of the gallery: all run, hold the numbers derived for them, and fail where the library is broken."""

import json
import math
import os
import re
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import pytest
from shown import foreign_signs, in_words
from typed_numbers import typed, unknown_in_output, unknown_in_words

from shoal.errors import UserError
from shoal.gallery import (
    Axis,
    Choice,
    Off,
    Panel,
    Slider,
    check,
    dots,
    figure,
    foreign_imports,
    fresh,
    line,
    run_page,
    words,
)
from shoal.models import MultiHeadedAttention

FOLDER = Path(__file__).parents[1] / "gallery"
FILES = sorted(FOLDER.glob("*.py"))
PAGES = sorted(FOLDER.glob("plot_[0-9][0-9]_*.py"))
SLOW: set[str] = set()  # pages of more than ten seconds of a processor
MOST_SECONDS = 10

# page -> name of a check -> value derived apart from the page, and half a unit of its last digit
NUMBERS = {
    "plot_06_bidirectional_rnn": {
        **{
            f"difference of the gradient of {name}": (0, 1e-10)
            for name in ("W_f", "U_f", "V_f", "W_b", "U_b", "V_b", "x", "start_f", "start_b")
        },
        "inputs that a loss at step 1 reaches": (3, 0),
        "forward states that it reaches": (1, 0),
    },
    "plot_07_hidden_markov_model": {
        "paths of 3 states over 6 places": (729, 0),
        **{f"difference of {name} from the sums over paths": (0, 1e-13) for name in ("α", "β", "ξ", "Ω")},
        **{
            f"Ω at place {i}, from state {j} to {k}": (value, digit)
            for (i, j, k), value, digit in (
                ((1, 1, 1), 0.989, 5e-4),
                ((1, 1, 2), 0.011, 5e-4),
                ((1, 2, 1), 0.525, 5e-4),
                ((1, 2, 2), 0.475, 5e-4),
                ((3, 1, 1), 0.119, 5e-4),
                ((3, 1, 2), 0.881, 5e-4),
                ((3, 2, 1), 0.0017, 5e-5),
                ((3, 2, 2), 0.9983, 5e-5),
            )
        },
        **{
            f"log p(y) after {step} updates, {name}": (value, 5e-6)
            for name, values in (
                ("EM", (-3.77998, -3.00962, -2.98830, -2.98449)),
                ("the document's update", (-3.77998, -3.28318, -3.69885, -3.91308)),
            )
            for step, value in enumerate(values)
        },
        "updates of EM that lower it, of 30": (0, 0),
        "log p(y) where EM ends": (-2.98354, 5e-6),
        "log p(y) where the document's update ends": (-4.05821, 5e-6),
        "models whose likelihood falls, EM, of 2,000": (0, 0),
        "difference of P* from P": (0, 1e-6),
    },
    "plot_08_threshold_neurons": {
        "b of AND": (-1.5, 0),
        "b of OR": (-0.5, 0),
        "functions of 1 input with a neuron, of 4": (4, 0),
        "functions of 2 inputs with a neuron, of 16": (14, 0),
        "functions of 3 inputs with a neuron, of 256": (104, 0),
        "inputs of XOR that the best neuron gets right, of 4": (3, 0),
        **{f"multiplier of the inequality of {x}": (1, 0) for x in ("00", "01", "10", "11")},
    },
    "plot_09_parity_lstm": {
        "strings": (8190, 0),
        "strings of 12 bits": (4096, 0),
        "cell states that are not the parity": (0, 0),
        "strings right after every bit, a = 5": (0.019, 5e-4),
        "strings right after every bit, a = 8": (0.999, 5e-4),
        "strings right after every bit, a = 10": (1, 0),
        "largest error of a cell state, a = 10": (0.13, 5e-3),
        "largest error of a cell state, a = 20": (0.0014, 5e-5),
    },
    "plot_34_residuals_and_layer_norm": {
        "growth of the activations, c = 1.5, L = 20": (3325.26, 5e-3),
        "growth of the gradient: largest singular value": (3325.26, 5e-3),
        "root mean square growth (c / √2)^L": (3.25, 5e-3),
        "root mean square growth of 400 random networks": (3.25, 0.5),
        "median growth of narrower networks, d = 16": (1.08, 0.1),
        "lower bound (1 - ε)^20, attained by f = -ε h": (0.122, 5e-4),
        "upper bound (1 + ε)^20, attained by f = +ε h": (6.73, 5e-3),
        "lower bound (1 - ε)^50, attained by f = -ε h": (0.00515, 5e-6),
        "upper bound (1 + ε)^50, attained by f = +ε h": (117.4, 5e-2),
        "variance of LN(h) where h has 0.0001, ε = 1e-5": (0.909, 5e-4),
        "variance of LN(h) where h has 1e-05, ε = 1e-5": (0.5, 5e-4),
        "variance of LN(h) where h has 0, ε = 1e-5": (0, 0),
        "σ times the 30 largest singular values, at least, σ = 0.01": (1, 1e-9),
        "σ times the 30 largest singular values, at most, σ = 0.01": (1, 1e-9),
        **{f"singular values outside the bounds, plain, c = {c}": (0, 0) for c in (0.5, 1.0, 1.5, 2.0)},
        **{f"singular values outside the bounds, residual, ε = {e}": (0, 0) for e in (0.1, 0.2, 0.3, 0.4, 0.5)},
        **{
            f"singular values outside the bounds, {kind}, training steps: {steps}": (0, 0)
            for kind in ("LayerNorm before", "no norm")
            for steps in (1, 150)
        },
    },
    "plot_35_spectral_radius": {
        "norm of W^10 for ρ = 0.9": (0.3487, 5e-5),
        "norm of W^50 for ρ = 0.9": (0.00515, 5e-6),
        "norm of W^100 for ρ = 0.9": (2.66e-5, 5e-8),
        "norm of W^10 for ρ = 1.1": (2.594, 5e-4),
        "norm of W^50 for ρ = 1.1": (117.4, 5e-2),
        "norm of W^100 for ρ = 1.1": (13781, 0.5),
        "norm of the 10th power of the block with ρ = 1": (10.099, 5e-4),
        "norm of its 100th power": (100.01, 5e-3),
        "largest norm of a power of [[0.9, 10], [0, 0.9]]": (38.75, 5e-3),
        "power at which it is reached, [[0.9, 10], [0, 0.9]]": (9, 0),
        "power from which all are below 1, [[0.9, 10], [0, 0.9]]": (63, 0),
        "largest norm of a power of 8 × 8 Jordan block of 0.9": (1.586e6, 500),
        "power at which it is reached, 8 × 8 Jordan block of 0.9": (69, 0),
        "power from which all are below 1, 8 × 8 Jordan block of 0.9": (306, 0),
        "2 × 2: largest relative error of the formula": (0, 1e-9),
        "powers whose norm is not between largest entry and Frobenius norm": (0, 0),
        "8 × 8, a = 1: how far an error of 1e-8 moves an eigenvalue": (0.1, 1e-6),
    },
    "plot_36_normalisation": {
        "batch mean of channel 1": (2.58333, 5e-6),
        "batch mean of channel 2": (2.91667, 5e-6),
        "batch variance of channel 1": (1.57639, 5e-6),
        "batch variance of channel 2": (1.24306, 5e-6),
        "unbiased batch variance of channel 1": (1.71970, 5e-6),
        "unbiased batch variance of channel 2": (1.35606, 5e-6),
        **{f"layer mean of sample {i}": (v, 5e-6) for i, v in enumerate((3.16667, 2, 2.5, 3.33333), 1)},
        **{f"layer variance of sample {i}": (v, 5e-6) for i, v in enumerate((1.80556, 1, 0.91667, 0.88889), 1)},
        "instance mean 8": (3.33333, 5e-6),
        "instance variance 8": (1.55556, 5e-6),
        **{f"number of groups, {kind}": (v, 0) for kind, v in (("batch", 2), ("layer", 4), ("instance", 8))},
        "largest difference of a variance from n / (n - 1) times the biased one": (0, 1e-12),
        "largest mean of the features of a position": (0, 1e-12),
        "largest relative error of ε / (σ² + ε), by which their variance is below 1": (0, 1e-6),
    },
    "plot_37_message_passing": {
        "aggregate of vertex 1, first entry": (-0.8, 1e-12),
        "aggregate of vertex 1, second entry": (0.8, 1e-12),
        "vertex 1 after the step, first entry": (0, 1e-12),
        "vertex 1 after the step, second entry": (0.8, 1e-12),
        "edges between different tokens": (12, 0),
        "edges of attention, with those to itself": (16, 0),
        "largest difference with weights in the message": (0, 1e-6),
        "largest difference with the softmax in Agg": (0, 1e-6),
    },
    "plot_33_attention": {
        "margin for a weight of 0.99 among 2 keys": (4.595, 5e-4),
        "margin for a weight of 0.99 among 8 keys": (6.541, 5e-4),
        "margin for a weight of 0.99 among 64 keys": (8.738, 5e-4),
        "margin for a weight of 0.99 among 512 keys": (10.832, 6e-4),
        "weight of all but the two among 64 keys, s = 1": (0.919, 5e-4),
        "weight of all but the two among 64 keys, s = 5": (0.173, 5e-4),
        "weight of all but the two among 64 keys, s = 10": (0.00141, 5e-6),
        "weight of all but the two among 64 keys, s = 20": (6e-8, 5e-9),
        "variance of this weight, s = 0": (0, 0),
        "variance of this weight, s = 1": (0.0254, 5e-5),
        "variance of this weight, s = 2": (0.0684, 5e-5),
        "variance of this weight, s = 5": (0.1490, 5e-5),
        "variance of this weight, s = 10": (0.1953, 5e-5),
        "variance of this weight, s = 20": (0.2220, 5e-5),
        "variance of this weight, s = 50": (0.2387, 5e-5),
        "share of samples between 0.1 and 0.9, s = 10": (0.244, 5e-4),
        "probability of a negative length": (0.0786, 5e-5),
        "share of v_a with two heads, n = 2, s = 10": (0.457, 5e-4),
        "variance with two heads, n = 2, s = 10": (0.0142, 5e-5),
        "variance with one head over that with two, n = 2, s = 10": (13.8, 0.05),
        "variance with one head over that with two, n = 64, s = 20": (8.9, 0.05),
        "2 to 8 heads that share the key: largest relative error of (A / H)² V": (0, 1e-9),
        "2 to 8 heads with a key each: largest relative error of A V / H²": (0, 0.08),
        "largest difference of the trained GPT's weights from the formula": (0, 1e-12),
        "weights of the trained GPT outside the bounds": (0, 0),
    },
    "plot_38_decoding": {
        "sequences of 10 words of a vocabulary of 10,000": (1e40, 0),
        "greedy: log probability": (-9.7, 1e-9),
        "step 2, first place": (-4.7, 1e-9),
        "step 2, second place": (-4.9, 1e-9),
        "log probability of the first sequence": (-9.9, 1e-9),
        "log probability of the second sequence": (-10.3, 1e-9),
        "hypotheses expanded, B = 2, T = 3": (5, 0),
        "different sequences, N = 5, T = 5": (3125, 0),
        "sum of their probabilities, N = 5, T = 5": (1, 1e-9),
        "beam of two less greedy search at x = -4.8": (0, 1e-9),
        "beam of two less greedy search at x = -4.7": (0.1, 1e-9),
        "number of x at which three are worse than greedy": (0, 0),
        "sequences that the model reads, T = 6, B = 16": (81, 0),
        "scores of a step, T = 6, B = 16": (256, 0),
        "of which the library's search finds another best": (0, 0),
        "scores looked at are not B N + (T - 1) B² N": (0, 0),
        "counts of multiplications that are not L (12 D² + 2 D T) + D N": (0, 0),
        "equations of which greedy search misses the best answer": (0, 0),
    },
    "plot_39_lora": {
        "largest change of an output by an adapter that has not been trained": (0, 0),
        "bytes per frozen number, NF4": (0.5625, 1e-4),
        **{f"parameters of LFFN, {name}, 2dr": (8192, 0) for name in ("LoRA", "QLoRA")},
        **{f"parameters of MHA, {name}, 6hdr": (196_608, 0) for name in ("LoRA", "QLoRA")},
        "share of the frozen numbers, LFFN": (0.031, 5e-4),
        "share of the frozen numbers, MHA": (0.023, 5e-4),
        "parameters of packed heads, 6dr": (24_576, 0),
        **{f"multiplications of LFFN, {name}": (34_603_008, 0) for name in ("LoRA", "QLoRA")},
        **{f"multiplications of MHA, {name}": (1_233_125_376, 0) for name in ("LoRA", "QLoRA")},
        "multiplications to dequantise LFFN": (262_144, 0),
        "multiplications to dequantise MHA": (8_388_608, 0),
        "dequantising over products of LFFN, n = 1": (1, 0),
        "largest difference after merging, integers": (0, 0),
        **{f"largest error, nearest, m = {m}": (v, 0.003 * v) for m, v in ((2, 2.365), (3, 0.78833), (4, 0.33786))},
        **{f"largest error, floor, m = {m}": (v, 0.003 * v) for m, v in ((2, 4.73), (3, 1.57667), (4, 0.67571))},
        "RMSE, nearest, m = 2": (0.971, 5e-3),
        "RMSE, nearest, m = 3": (0.4552, 2e-3),
        "RMSE, nearest, m = 4": (0.1951, 1e-3),
        "RMSE, nearest, m = 8": (0.01075, 5e-5),
        "RMSE, floor, m = 3": (0.9103, 5e-3),
        "RMSE, floor, m = 4": (0.3901, 2e-3),
        "RMSE, floor, m = 8": (0.0215, 1e-4),
        "mean error, floor, m = 2": (2.365, 0.025),
        "mean error, floor, m = 4": (0.33786, 3e-3),
        "mean error, floor, m = 8": (0.018622, 2e-4),
        **{f"levels used, m = {m}": (2**m - 1, 0) for m in (2, 3, 4, 8)},
        "entries of W / Δ that are no number, W = 0": (262_144, 0),
        "largest entry of dequant(quant(W)), W = 0": (0, 0),
    },
    "plot_40_stopping": {
        "results that the rule changes, of 300": (0, 0),
        "results changed by the rule with a bound, mean per token": (0, 0),
        **{
            f"answers that the rule changes, {score}, {steps} training steps": (0, 0)
            for score in ("sum", "mean per token")
            for steps in (25, 50, 100, 200, 400)
        },
        **{
            f"answers that the rule as written changes, sum, {steps} training steps": (0, 0)
            for steps in (25, 50, 100, 200, 400)
        },
        "answers to them that the rule changes": (0, 0),
    },
}


def marked(page: Path):
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])


@cache
def ran(page: Path):
    start = time.process_time()
    return run_page(page), time.process_time() - start


def test_every_file_of_the_gallery_is_a_page():
    """A file of another name would not be run when the documentation is built."""
    assert FILES == PAGES
    assert len(PAGES) == len({page.stem.split("_")[1] for page in PAGES})
    assert set(NUMBERS) | SLOW <= {page.stem for page in PAGES}


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_a_page_runs_and_checks_its_numbers(page):
    run, seconds = ran(page)
    assert len(run.recording.checks) >= 5
    assert sum(line.startswith("ok ") for line in run.output.splitlines()) == len(run.recording.checks)
    assert len(json.loads(run.recording.to_json())) == len(run.recording.checks)
    assert seconds < MOST_SECONDS or page.stem in SLOW


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_a_page_has_a_figure_that_a_reader_can_move(page):
    figures = ran(page)[0].recording.figures
    assert any(drawn.moves for drawn in figures)
    for drawn in figures:
        assert in_words(drawn), drawn.alt
        assert len(drawn.caption.split()) > 5
        assert not foreign_signs(drawn.spec)
        assert len(json.dumps(drawn.spec)) < 1_500_000


@pytest.mark.parametrize("page", [marked(page) for page in PAGES if page.stem in NUMBERS])
def test_the_numbers_of_a_page_are_those_derived(page):
    values = {check.name: check.value for check in ran(page)[0].recording.checks}
    for name, (expected, tolerance) in NUMBERS[page.stem].items():
        assert abs(values[name] - expected) <= tolerance, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_page_imports_only_shoal_and_torch(page):
    assert foreign_imports(page.read_text("utf-8")) == []


def test_other_imports_are_seen_wherever_they_stand():
    text = "import torch, numpy\ndef f():\n    from math import exp\n    from . import shown\nimport shoal.models\n"
    assert foreign_imports(text) == ["numpy", "math", "."]
    assert foreign_imports("__import__('os')") == ["__import__"]


# ---- numbers in the words of pages


def held(page: Path):
    return pytest.param(page, id=page.stem, marks=[pytest.mark.slow] if page.stem in SLOW else [])


@pytest.mark.parametrize("page", [held(page) for page in PAGES])
def test_numbers_in_the_words_of_a_page_are_its_own(page):
    """A number that was typed is a setting, a claim of the document, or the value of a check to as many digits."""
    assert unknown_in_words(page.read_text("utf-8"), ran(page)[0].recording.checks) == []


@pytest.mark.parametrize("page", [held(page) for page in PAGES])
def test_numbers_that_a_page_prints_are_checked_to_their_digits(page):
    run = ran(page)[0]
    assert unknown_in_output(page.read_text("utf-8"), run.recording.checks, run.output) == []


SMALL = '''r"""
A page
======

It has {words}.
"""
from shoal.gallery import check

N_MODELS = 1234

# %%
# Behind it
# ---------
# Here are {comment}, and the E12 of T3.4 in 15 lines.

check("a share", 0.98234, 0.98, 5e-3)
check("exactly", 2.125, 2.125, 0, document="-9.7 (greedy)")
print("{printed}")
'''
WORDS = {
    "a setting": ({"words": "1,234 models"}, []),
    "a value": ({"words": "2.125, or 2.1"}, []),
    "a percentage": ({"words": "98 % and 98%"}, []),
    "too many digits": ({"words": "0.982"}, ["1: 0.982"]),
    "another value": ({"comment": "2.135"}, ["11: 2.135"]),
    "another count": ({"comment": "1,235 models"}, ["11: 1,235"]),
    "a count without a comma": ({"comment": "about 320 models"}, ["11: 320"]),
    "a power": ({"comment": "10^{-5}"}, ["11: 10^{-5}"]),
    "of the document": ({"comment": "-9.7"}, []),
    "printed": ({"printed": "0.98 of 1,234, 2.125"}, []),
    "printed with more digits": ({"printed": "0.982"}, ["0.982: 0.982"]),
    "a small number that is printed": ({"printed": "7 of 1,234"}, ["7 of 1,234: 7"]),
}


@pytest.mark.parametrize("name", WORDS)
def test_a_number_that_a_page_does_not_produce_is_seen(name, tmp_path):
    parts, expected = WORDS[name]
    text = SMALL.format(**{"words": "", "comment": "", "printed": ""} | parts)
    (tmp_path / "page.py").write_text(text, "utf-8")
    run = run_page(tmp_path / "page.py")
    assert unknown_in_words(text, run.recording.checks) + unknown_in_output(text, run.recording.checks, run.output) == (
        expected
    )


def test_a_page_with_another_number_in_its_words_is_seen():
    page = FOLDER / "plot_08_threshold_neurons.py"
    text = page.read_text("utf-8")
    changed = text.replace("b = -1.5`", "b = -1.7`")
    assert changed != text
    assert [place.split()[-1] for place in unknown_in_words(changed, ran(page)[0].recording.checks)] == ["1.7"]


def test_numbers_are_read_as_they_are_written():
    numbers = typed("1.6 million of 10,000, 70 % at 10^{-5}; 3e-6")
    assert [number.value for number in numbers] == pytest.approx([1.6e6, 10_000, 0.7, 1e-5, 3e-6])
    assert [number.unit for number in numbers] == pytest.approx([1e5, 1, 0.01, 0, 1e-6])


# ---- broken pages and a broken library


def broken(page: Path, folder: Path) -> Path:
    """The page with queries that are a thousandth too long."""
    text = page.read_text("utf-8")
    changed = text.replace("d**0.5", "d**0.5 * 1.001")
    assert changed != text
    (folder / page.name).write_text(changed, "utf-8")
    return folder / page.name


def test_a_broken_page_fails(tmp_path):
    page = broken(FOLDER / "plot_33_attention.py", tmp_path)
    with pytest.raises(Off, match=re.escape("0.99")):
        run_page(page)


@pytest.mark.slow
def test_a_broken_page_ends_its_process(tmp_path):
    page = broken(FOLDER / "plot_33_attention.py", tmp_path)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, page], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 1
    assert "OFF" in done.stdout
    assert "Off: " in done.stderr


def test_a_page_fails_where_the_library_is_broken(monkeypatch):
    right = MultiHeadedAttention.get_attention_weights
    monkeypatch.setattr(
        MultiHeadedAttention, "get_attention_weights", lambda self, q, k, mask=None: right(self, q * 1.001, k, mask)
    )
    with pytest.raises(Off):
        run_page(FOLDER / "plot_33_attention.py")


def test_there_is_no_page_without_a_file(tmp_path):
    with pytest.raises(UserError, match="no page"):
        run_page(tmp_path / "plot_99_nothing.py")


# ---- checks


def test_checks_are_aligned_recorded_and_raise(capsys):
    recording = fresh()
    assert check("a half", 0.5, 0.5) == 0.5
    check("a much longer name of a quantity", 1e-9, 0, 1e-8, document="none", erratum="E1")
    check("a text", "the red rectangle", "the red rectangle")
    first, second, third = capsys.readouterr().out.splitlines()
    assert first.index("expected") == second.index("expected")
    assert first.index("a half") == second.index("a much")
    assert "E1" in second
    assert "rectangle" in third
    with pytest.raises(Off, match="got 2, expected 1"):
        check("one", 2, 1, 0.5)
    assert [made.holds for made in recording.checks] == [True, True, True, False]
    assert json.loads(recording.to_json())[1]["document"] == "none"


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_off_and_is_written_as_text(value):
    recording = fresh()
    with pytest.raises(Off):
        check("a number", value, 1.0, 1e9)
    json.loads(recording.to_json(), parse_constant=lambda name: pytest.fail(name))


def test_infinities_can_be_expected():
    fresh()
    check("log of nothing", -math.inf, -math.inf)


@pytest.mark.parametrize(
    ("name", "tolerance"), [("a", -1.0), ("a", math.nan), ("a", math.inf), (" ", 0.0), ("a\nb", 0)]
)
def test_a_check_without_meaning_is_refused(name, tolerance):
    fresh()
    with pytest.raises(UserError):
        check(name, 1, 1, tolerance)


# ---- figures

ROWS = {"x": [1, 2, 1, 2], "y": [1.0, 2.0, 3.0, 40.0], "s": [0, 0, 5, 5], "who": ["a", "a", "b", "b"]}
TEXTS = {"caption": "Two lines over two steps.", "alternative": "From 1 to 40 over two steps of x."}


def domain(spec, channel):
    layers = spec.get("layer") or spec["concat"][0]["layer"]
    return layers[0]["encoding"][channel]["scale"]["domain"]


def test_axes_show_all_data_wherever_the_parameter_stands():
    fresh()
    made = figure(Panel([line(ROWS, "x", "y", "who")]), move=Slider("s", "s"), **TEXTS)
    assert domain(made.spec, "y") == [1, 40]
    (parameter,) = made.spec["params"]
    assert (parameter["value"], parameter["bind"]["min"], parameter["bind"]["max"]) == (0, 0, 5)
    assert made.moves
    assert "transform" in made.spec["layer"][0]


def test_only_layers_with_the_parameter_are_moved():
    fresh()
    still = {"x": [1, 2], "y": [0, 1]}
    made = figure(Panel([dots(still, "x", "y"), line(ROWS, "x", "y")]), move=Choice("s", "s", 5), **TEXTS)
    assert ["transform" in layer for layer in made.spec["layer"]] == [False, True]


def test_each_of_several_parameters_moves_the_layers_with_its_column():
    fresh()
    rows = {"x": [1, 2, 1, 2], "y": [1, 2, 3, 4], "s": [0, 0, 5, 5], "t": ["a", "b", "a", "b"]}
    only_t = {name: rows[name] for name in "xyt"}
    moves = [Slider("s", "s"), Choice("t", "t", "b")]
    made = figure(Panel([line(rows, "x", "y"), dots(only_t, "x", "y")]), move=moves, **TEXTS)
    assert [(each["name"], each["value"]) for each in made.spec["params"]] == [("moved_1", 0), ("moved_2", "b")]
    both, one = (layer["transform"][0]["filter"] for layer in made.spec["layer"])
    assert "moved_1" in both
    assert "moved_2" in both
    assert "moved_1" not in one
    with pytest.raises(UserError, match="one column"):
        figure(Panel([line(rows, "x", "y")]), move=[Slider("s", "s"), Choice("s", "s")], **TEXTS)


@pytest.mark.parametrize("page", [marked(page) for page in PAGES])
def test_a_figure_shows_something_for_all_values_of_its_parameters(page):
    for drawn in ran(page)[0].recording.figures:
        panels = drawn.spec.get("concat") or [drawn.spec]
        for panel, layer in ((one, layer) for one in panels for layer in one["layer"] if "transform" in layer):
            columns = re.findall(r"datum\[\"(\w+)\"\]", layer["transform"][0]["filter"])
            data = next(part["data"] for part in (layer, panel, drawn.spec) if "data" in part)
            rows = drawn.spec["datasets"][data["name"]]
            shown = {tuple(row[column] for column in columns) for row in rows}
            assert len(shown) == math.prod(len({row[column] for row in rows}) for column in columns)


def test_every_name_of_an_axis_is_shown():
    fresh()
    rows = {"x": list(range(20)), "y": list(range(20))}
    made = figure(Panel([dots(rows, "x", "y")], Axis(names=[f"n{k}" for k in range(20)])), **TEXTS)
    axis = made.spec["layer"][0]["encoding"]["x"]["axis"]
    assert axis["values"] == list(range(20))
    assert "tickCount" not in axis  # which would leave some of them out
    assert axis["labelOverlap"] is False


def test_html_of_a_figure_has_its_words_and_ends_no_element():
    fresh()
    rows = {"x": [0], "y": [0], "t": ["</script><b>"]}
    made = figure(Panel([words(rows, "x", "y", "t")]), caption="a < b & c", alternative='says "1"')
    shown = made._repr_html_()
    assert "</script><b>" not in shown
    assert "a &lt; b &amp; c" in shown
    assert 'aria-label="says &quot;1&quot;"' in shown
    data = shown.partition('application/json">')[2].partition("</script>")[0]
    assert json.loads(data) == made.spec


@pytest.mark.parametrize(
    ("panels", "options", "said"),
    [
        ([], {}, "at least one panel"),
        ([Panel([])], {}, "at least one layer"),
        ([Panel([line(ROWS, "x", "y")])], {"move": Slider("t", "t")}, "no layer has the column 't'"),
        ([Panel([line(ROWS, "x", "y")])], {"move": Slider("s", "s", 3)}, "cannot start at 3"),
        ([Panel([line(ROWS, "x", "y")])], {"move": Slider("y", "y")}, "not evenly spaced"),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_refused(panels, options, said):
    fresh()
    with pytest.raises(UserError, match=said):
        figure(*panels, **TEXTS, **options)


def test_a_column_that_is_missing_gets_the_nearest_name():
    with pytest.raises(UserError, match="did you mean 'who'"):
        line(ROWS, "x", "y", "whom")


@pytest.mark.slow
def test_a_figure_is_drawn(tmp_path):
    fresh()
    made = figure(Panel([line(ROWS, "x", "y")], Axis("x"), Axis("y", log=True)), move=Choice("s", "s"), **TEXTS)
    made.save(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("encoding", ["cp1252", "ascii"])
def test_signs_that_an_encoding_lacks_end_no_page(encoding):
    page = "from shoal.gallery import check\nprint('w ≤ 1')\ncheck('ρ', 1, 1, 0.5)\n"
    done = subprocess.run(
        [sys.executable, "-c", page], env={**os.environ, "PYTHONIOENCODING": encoding}, capture_output=True, timeout=60
    )
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode(encoding).startswith("w \\u2264 1")
