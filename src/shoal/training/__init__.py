"""Training of cohorts: plan, stack, step, loop; in this process or in one per core."""

from shoal.training.api import Interrupted, resume, train
from shoal.training.plan import Cohort, plan

__all__ = ["Cohort", "Interrupted", "plan", "resume", "train"]
