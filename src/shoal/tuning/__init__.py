"""Tuning of settings with a budget: proposals, successive halving in the stack, and an honest winner."""

from shoal.tuning.api import Tuning, tune

__all__ = ["Tuning", "tune"]
