"""Statistics of runs: pure functions from data frames to data frames."""

import importlib
from typing import TYPE_CHECKING, Any

from shoal.analysis.accounts import compute_sequences, training_flop
from shoal.analysis.correction import holm
from shoal.analysis.extrema import (
    extrema,
    get_extrema_performance_steps,
    get_extrema_performance_steps_per_trials,
    mean_and_std,
)
from shoal.analysis.times import at_least, first_step_at_least, time_to

if TYPE_CHECKING:
    from shoal.analysis.comparison import Metric, compare, pairs
    from shoal.analysis.corpus_scores import SentenceStatistics
    from shoal.analysis.differences import DifferenceEstimate, any_difference
    from shoal.analysis.factorial import Decomposition, decompose
    from shoal.analysis.jacobians import (
        block_jacobians,
        jacobian,
        jacobian_products,
        layer_jacobians,
        singular_values,
        state_jacobians,
    )
    from shoal.analysis.log_rank import LogRankTest, logrank, logrank_pairs
    from shoal.analysis.power_law import PowerLaw, PowerLawFit, fit_power_law
    from shoal.analysis.scaling import ScalingFit, fit_scaling
    from shoal.analysis.scaling_law import ScalingLaw
    from shoal.analysis.sentence_scores import TextScores, text_scores
    from shoal.analysis.survival import kaplan_meier, median_time, restricted_times, survival_summary
    from shoal.analysis.translation import (
        ScoreDifference,
        ScoreInterval,
        compare_all,
        compare_settings,
        score_interval,
    )
    from shoal.analysis.trends import SlopeDifference, TrendEstimate, slope_difference, trend

__all__ = [
    "Decomposition",
    "DifferenceEstimate",
    "LogRankTest",
    "Metric",
    "PowerLaw",
    "PowerLawFit",
    "ScalingFit",
    "ScalingLaw",
    "ScoreDifference",
    "ScoreInterval",
    "SentenceStatistics",
    "SlopeDifference",
    "TextScores",
    "TrendEstimate",
    "any_difference",
    "at_least",
    "block_jacobians",
    "compare",
    "compare_all",
    "compare_settings",
    "compute_sequences",
    "decompose",
    "extrema",
    "first_step_at_least",
    "fit_power_law",
    "fit_scaling",
    "get_extrema_performance_steps",
    "get_extrema_performance_steps_per_trials",
    "holm",
    "jacobian",
    "jacobian_products",
    "kaplan_meier",
    "layer_jacobians",
    "logrank",
    "logrank_pairs",
    "mean_and_std",
    "median_time",
    "pairs",
    "restricted_times",
    "score_interval",
    "singular_values",
    "slope_difference",
    "state_jacobians",
    "survival_summary",
    "text_scores",
    "time_to",
    "training_flop",
    "trend",
]

# module -> names; loaded when asked for, because a lab needs the extrema alone and scipy.stats takes most of a second.
# No module may have the name of what is in it, or importing it would put the module in that name's place.
_HOMES = {
    "comparison": ("Metric", "compare", "pairs"),
    "corpus_scores": ("SentenceStatistics",),
    "differences": ("DifferenceEstimate", "any_difference"),
    "factorial": ("Decomposition", "decompose"),
    "jacobians": (
        "block_jacobians",
        "jacobian",
        "layer_jacobians",
        "jacobian_products",
        "singular_values",
        "state_jacobians",
    ),
    "log_rank": ("LogRankTest", "logrank", "logrank_pairs"),
    "power_law": ("PowerLaw", "PowerLawFit", "fit_power_law"),
    "scaling": ("ScalingFit", "fit_scaling"),
    "scaling_law": ("ScalingLaw",),
    "sentence_scores": ("TextScores", "text_scores"),
    "survival": ("kaplan_meier", "median_time", "restricted_times", "survival_summary"),
    "translation": (
        "ScoreDifference",
        "ScoreInterval",
        "compare_all",
        "compare_settings",
        "score_interval",
    ),
    "trends": ("SlopeDifference", "TrendEstimate", "slope_difference", "trend"),
}


def __getattr__(name: str) -> Any:
    for module, names in _HOMES.items():
        if name in names:
            return getattr(importlib.import_module(f"shoal.analysis.{module}"), name)
    raise AttributeError(f"module 'shoal.analysis' has no attribute {name!r}")
