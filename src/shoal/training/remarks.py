"""Lines about new cohorts that are worth saying before they train."""

from shoal.spec.fields import ROUNDING
from shoal.tasks.build import count_examples
from shoal.training.plan import Cohort


def without_effect(cohort: Cohort) -> list[str]:
    """Warnings about weight decays whose step is lost in rounding, as it is in ``torch.optim``."""
    decoupled = cohort.shared.rule.is_decoupled
    pairs = dict.fromkeys((spec.lr, spec.weight_decay) for spec in cohort.members if decoupled)
    return [
        f"warning: weight_decay {decay:g} at lr {lr:g} has no effect: in float32 1 - {lr * decay:.2g} is 1"
        for lr, decay in pairs
        if decay > 0 and lr * decay <= ROUNDING
    ]


def slow_evaluations(cohort: Cohort) -> list[str]:
    """Warning where evaluations would take longer than training, and minutes."""
    each, spec = cohort.evaluation_seconds, cohort.shared
    if each * cohort.evaluations <= max(cohort.seconds, 60.0):
        return []
    large = ", ".join(f"{name} {getattr(spec, name)}" for name in spec.task_part.sizes_named()[:1])
    things = spec.task_part.measures().things
    return [
        f"evaluations of {cohort.describe()}{large and f', {large}'}, take longer than its steps: about {each:,.0f} s "
        f"of one core, {cohort.evaluations:,} times, for {count_examples(spec)[1]:,} {things} per run; "
        "eval_first and eval_period set how often"
    ]
