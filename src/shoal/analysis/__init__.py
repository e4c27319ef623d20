"""What it means: pure functions from data frames to data frames."""

from shoal.analysis.accounts import compute_sequences, training_flop
from shoal.analysis.extrema import (
    extrema,
    first_step_at_least,
    get_extrema_performance_steps,
    get_extrema_performance_steps_per_trials,
    mean_and_std,
)
from shoal.analysis.power_law import PowerLaw, PowerLawFit, fit_power_law
from shoal.analysis.scaling import ScalingFit, fit_scaling
from shoal.analysis.scaling_law import ScalingLaw

__all__ = [
    "PowerLaw",
    "PowerLawFit",
    "ScalingFit",
    "ScalingLaw",
    "compute_sequences",
    "extrema",
    "first_step_at_least",
    "fit_power_law",
    "fit_scaling",
    "get_extrema_performance_steps",
    "get_extrema_performance_steps_per_trials",
    "mean_and_std",
    "training_flop",
]
