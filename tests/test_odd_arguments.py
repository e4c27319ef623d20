"""Arguments of other kinds, given to every analysis of data frames: a result, or one line that names the argument.

Python does not check types, so that a text read from a file or a float from a division reaches the analysis.
"""

import inspect
import itertools
import math
from decimal import Decimal
from fractions import Fraction

import numpy as np
import polars as pl
import pytest

from shoal import analysis
from shoal.analysis import Metric
from shoal.errors import UserError

RUNS = pl.DataFrame(
    {
        "run": [f"r{n}" for n in range(16)],
        "model": ["lstm", "gpt"] * 8,
        "width": [8] * 4 + [16] * 4 + [32] * 4 + [64] * 4,
        "lr": [0.1, 0.1, 0.2, 0.2] * 4,
        "seed": [0, 0, 1, 1] * 4,
        "half": [0, 0, 1, 1] * 4,
        "twin": [n // 2 for n in range(16)],
        "loss": np.random.default_rng(1).gamma(2, size=16),
        "time": list(range(10, 26)),
        "observed": [True] * 15 + [False],
        "parameters": [1e3, 4e3, 1.6e4, 6.4e4] * 4,
        "tokens": [1e5] * 4 + [3e5] * 4 + [1e6] * 4 + [3e6] * 4,
    }
)
LAW = RUNS.with_columns(loss=1 + 30 * pl.col("parameters") ** -0.4 + 50 * pl.col("tokens") ** -0.3)
CURVES = pl.DataFrame(
    {"run": ["a"] * 4, "step": [0, 10, 20, 30], "valid_accuracy": [0.1, 0.5, 0.99, 0.4]}
).with_columns(
    train_accuracy=pl.col("valid_accuracy"),
    train_loss=1 - pl.col("valid_accuracy"),
    valid_loss=2 - pl.col("valid_accuracy"),
)
METRIC = Metric("loss", larger_is_better=False)

CALLS = {
    "any_difference": {"frame": RUNS, "x": "width", "y": "loss", "draws": 50},
    "compare": {
        "frame": RUNS,
        "metrics": [METRIC],
        "setting": "model",
        "baseline": "gpt",
        "pair": "twin",
        "resamples": 50,
    },
    "decompose": {"frame": RUNS, "value": "loss", "factors": ["width", "half", "model"], "draws": 50},
    "extrema": {"curves": CURVES, "t_max": 20},
    "first_step_at_least": {"curves": CURVES, "column": "valid_accuracy", "threshold": 0.9},
    "fit_power_law": {"points": RUNS, "x": "width", "y": "loss", "resamples": 20},
    "fit_scaling": {"runs": LAW, "resamples": 0, "irreducible": 0.5},
    "holm": {"p_values": [0.1, None, 0.2]},
    "kaplan_meier": {"times": RUNS, "by": "model"},
    "logrank": {"times": RUNS, "by": "model", "draws": 50},
    "logrank_pairs": {"times": RUNS, "by": "width", "draws": 50},
    "mean_and_std": {"frame": RUNS.select("model", "loss"), "by": ["model"]},
    "median_time": {"times": RUNS},
    "pairs": {
        "frame": RUNS,
        "metric": METRIC,
        "setting": "model",
        "variant": "lstm",
        "baseline": "gpt",
        "pair": "twin",
    },
    "restricted_times": {"times": RUNS, "horizon": 20.0},
    "slope_difference": {"frame": RUNS, "x": "width", "y": "loss", "group": "model", "first": "lstm", "second": "gpt"},
    "survival_summary": {"times": RUNS, "by": "model", "horizon": 20.0},
    "time_to": {"curves": CURVES, "column": "valid_accuracy", "threshold": 0.9, "stay": 1},
    "trend": {"frame": RUNS, "x": "width", "y": "loss", "draws": 50},
}
NUMBERS = [
    50.5,
    1.5,
    -1,
    0,
    True,
    math.nan,
    math.inf,
    10**30,
    Decimal("0.5"),
    Fraction(1, 2),
    np.float32(0.5),
    np.int64(3),
]
VALUES = [*NUMBERS, complex(1, 1), "x", "", "100", None, [], ["a"], [None], {}, b"x"]
OBJECTS = {"metric", "metrics", "measures", "states"}  # of shoal's own classes, or frames beside the first


@pytest.mark.parametrize("name", CALLS)
def test_arguments_of_other_kinds(name):
    function, good = getattr(analysis, name), CALLS[name]
    function(**good)
    arguments = [name for name in inspect.signature(function).parameters if name not in OBJECTS]
    for argument, value in itertools.product(arguments, VALUES):
        try:
            function(**{**good, argument: value})
        except UserError as error:
            assert "\n" not in str(error) and len(str(error)) < 500, (argument, value)
        except Exception as error:
            raise AssertionError(f"{name}({argument}={value!r:.60}): {type(error)} {error}") from error


def test_frames_of_another_library_are_said_to_be_no_frames_of_polars():
    with pytest.raises(UserError, match=r"a data frame of polars is needed, got dict: polars.DataFrame\(…\) makes one"):
        analysis.trend(RUNS.to_dict(as_series=False), "width", "loss")


def test_booleans_are_no_words():
    """The text "no" would be true."""
    with pytest.raises(UserError, match="tied must be True or False, got 'no'"):
        analysis.fit_scaling(LAW, tied="no", resamples=0)
    with pytest.raises(UserError, match="saturating must be True or False, got 0"):
        analysis.fit_power_law(RUNS, "width", "loss", saturating=0)


def test_predictions_and_budgets_that_are_no_sizes():
    fit = analysis.fit_scaling(LAW, resamples=0).every
    for sizes in ([(math.nan, -1)], [(1e3, 0)], [(1e3, math.inf)], [("x", 1e3)]):
        with pytest.raises(UserError, match="parameters and tokens must be finite and above 0, got"):
            fit.predict(sizes)
    for budgets in ([-1, 0], [math.nan], ["1e9"], [True], [10**400]):
        with pytest.raises(UserError, match="a budget must be finite and above 0, got"):
            fit.optimum(budgets)
    with pytest.raises(UserError, match="a budget must stand in a list, got 1000000"):
        fit.optimum(1_000_000)
    with pytest.raises(UserError, match="sizes must be pairs"):
        fit.predict([(1e3, 1e6, 5)])


def test_what_can_be_read_once_is_read_once():
    fit = analysis.fit_scaling(LAW, resamples=0, tied=np.bool_(False)).every
    assert fit.predict(zip([1e4], [1e6], strict=True)).equals(fit.predict([(1e4, 1e6)]))
    assert fit.optimum(budget for budget in [1e12]).equals(fit.optimum([1e12]))
    assert analysis.fit_power_law(RUNS, "width", "loss", saturating=np.bool_(True), resamples=0).law.saturating is True
    assert analysis.holm(p for p in (0.01, None, 0.04)) == analysis.holm([0.01, None, 0.04])


def test_a_threshold_that_no_float_holds_is_refused():
    with pytest.raises(UserError, match="threshold must be a finite number"):
        analysis.time_to(CURVES, "valid_accuracy", 10**400)


@pytest.mark.parametrize(
    "names", [{"pair": "model"}, {"pair": "loss"}, {"setting": "loss", "baseline": RUNS["loss"][0]}]
)
def test_a_column_of_a_comparison_stands_for_one_thing(names):
    with pytest.raises(UserError, match=r"column .(model|loss). is named for two things"):
        analysis.compare(**{**CALLS["compare"], **names})


def test_a_message_names_some_of_many_values():
    many = pl.DataFrame({"seed": range(3000), "model": [f"model-{n}" for n in range(3000)], "loss": 1.0})
    with pytest.raises(UserError, match=r"no run has model=.none.: one of model-0 .* model-19 …$") as refused:
        analysis.compare(many, [METRIC], "model", "none")
    assert len(str(refused.value)) < 400
