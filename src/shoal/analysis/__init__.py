"""What it means: pure functions from data frames to data frames."""

from shoal.analysis.extrema import (
    extrema,
    first_step_at_least,
    get_extrema_performance_steps,
    get_extrema_performance_steps_per_trials,
    mean_and_std,
)

__all__ = [
    "extrema",
    "first_step_at_least",
    "get_extrema_performance_steps",
    "get_extrema_performance_steps_per_trials",
    "mean_and_std",
]
