"""Settings of the update rules.

``torch`` is imported where a rule is built, not with its settings.
"""

from typing import TYPE_CHECKING, Any, ClassVar

from shoal.errors import UserError
from shoal.spec.fields import SHARE, Part, choice, setting

if TYPE_CHECKING:
    from shoal.rules.updates import Update

SCHEDULES = ("constant", "linear", "cosine", "inverse_sqrt")
UPDATES = ("pairwise", "conditional")  # of transitions by EM
VARIANCE_FLOOR = 1e-6

_DECAY: dict[str, Any] = {
    "description": "weight decay",
    "allowed": "a finite number of at least 0",
    "member": True,
    "in_float32": True,
    "may_be_open": True,
    "ge": 0,
    "allow_inf_nan": False,
}
_SHARE: dict[str, Any] = {"member": True, "in_float32": True, "may_be_open": True, **SHARE}


def _momentum(default: float) -> Any:
    return setting(default, "decay of the momentum", **_SHARE)


class UpdateRule(Part):
    """Settings of an update rule of any kind.

    Attributes:
        fits: models that it updates, by what their family says (``ModelSettings.fitted_by``): ``gradient`` or ``em``.
        state: names of the state tensors that it keeps for each parameter, which start from 0.
        temporaries: number of temporary floats per parameter, where it needs more than a few.
        is_decoupled: true where the weight decay shrinks the parameters themselves, by ``1 - lr weight_decay``.
        kernel: kernel of the engine ``compiled`` that computes the same but for rounding, where there is one.
    """

    fits: ClassVar[str] = "gradient"
    state: ClassVar[tuple[str, ...]] = ()
    temporaries: ClassVar[int] = 0
    is_decoupled: ClassVar[bool] = False
    kernel: ClassVar[str | None] = None


class EM(UpdateRule):
    """Settings of expectation maximisation of hidden Markov models; an update is a step of a run."""

    name: ClassVar[str] = "em"
    fits: ClassVar[str] = "em"

    tolerance: float = setting(
        1e-6,
        "end a run when an update gains less log-likelihood, in nats",
        "a finite number of at least 0",
        member=True,
        ge=0,
        allow_inf_nan=False,
    )
    variance_floor: float = setting(
        VARIANCE_FLOOR,
        "smallest variance of Gaussian emissions, as a share of that of the data",
        "above 0 and below 1",
        gt=0,
        lt=1,
    )
    update: str = choice(
        "pairwise",
        "posterior in the update of transitions; conditional is not EM, and may lower the likelihood",
        UPDATES,
    )

    def check_emissions(self, emissions: str) -> None:
        """Raise :class:`UserError` for a setting that these emissions do not have."""
        if emissions != "gaussian" and self.variance_floor != VARIANCE_FLOOR:
            raise UserError(
                f"variance_floor={self.variance_floor:g} does not apply to emissions {emissions!r}; it applies to "
                "gaussian"
            )


class Rule(UpdateRule):
    """Settings of an update rule of gradients, from which the rule is built.

    The function from :meth:`build` is called with ``(theta, gradient, state, hyper, step, layout)`` and changes
    parameters and state in place: ``theta``, ``gradient`` and each tensor of ``state`` are ``(R, P)``, ``hyper`` has
    one number per member, ``(R, 1)`` float64, for each setting of the rule that is a number and in which members may
    differ (the weight decay ``(R, P)`` where not everything decays), ``step`` is ``(R, 1)``, counted from 1, and
    ``layout`` a :class:`~shoal.rules.layout.Layout`.
    """

    lr: float = setting(
        1e-3, "learning rate", "a finite number above 0", member=True, in_float32=True, gt=0, allow_inf_nan=False
    )
    lr_schedule: str = choice("constant", "learning rate after the warm-up: constant, or falling", SCHEDULES)
    lr_floor: float = setting(
        0.0, "share of the learning rate to which it falls", "in [0, 1)", member=True, in_float32=True, ge=0, lt=1
    )
    warmup_steps: int = setting(
        0, "steps over which the learning rate rises", "an integer of at least 0", member=True, ge=0
    )
    warmup_from_zero: bool = setting(False, "take the first step at learning rate 0", "true or false", member=True)
    # The practical gives weight decay 1 for AdamW, and so it is where the decay shrinks the parameters themselves; the
    # others add it to the gradient, where 1 would drown it.
    weight_decay: float = setting(0.0, **_DECAY)
    clip: float = setting(
        1.0,
        "largest norm of the gradient",
        "a number above 0; inf for no clipping",
        member=True,
        in_float32=True,
        gt=0,
    )
    decay_all: bool = setting(True, "decay biases and norms too", "true or false")

    def check(self) -> None:
        """See :class:`Part`."""
        if self.lr_schedule == "inverse_sqrt" and not self.warmup_steps:
            raise UserError(
                "lr_schedule 'inverse_sqrt' falls from the end of a warm-up: give warmup_steps of 1 or more"
            )
        if self.warmup_from_zero and not self.warmup_steps:
            raise UserError("warmup_from_zero does not apply to warmup_steps=0; it applies to 1 or more")
        if self.lr_floor and self.lr_schedule not in ("linear", "cosine"):
            raise UserError(
                f"lr_floor={self.lr_floor} does not apply to lr_schedule {self.lr_schedule!r}; it applies to linear "
                "cosine"
            )

    def build(self) -> "Update":
        """Update function of these settings."""
        raise NotImplementedError

    @classmethod
    def numbers(cls) -> list[str]:
        """Settings that the rule receives as one number per member, without those of clipping and schedule."""
        floats = [name for name in cls.having("member") if cls.model_fields[name].annotation is float]
        return [name for name in floats if name not in ("clip", "lr_floor")]


class SGD(Rule):
    """Settings of stochastic gradient descent."""

    name: ClassVar[str] = "sgd"

    def build(self) -> "Update":
        """See :class:`Rule`."""
        from shoal.rules.updates import sgd

        return sgd


class Momentum(Rule):
    """Settings of gradient descent with momentum."""

    name: ClassVar[str] = "momentum"
    state: ClassVar[tuple[str, ...]] = ("v",)

    momentum: float = _momentum(0.9)

    def build(self) -> "Update":
        """See :class:`Rule`."""
        from shoal.rules.updates import momentum

        return momentum


class _Moments(Rule):
    """Settings of rules that keep two moments of the gradient."""

    state: ClassVar[tuple[str, ...]] = ("m", "v")

    beta1: float = setting(0.9, "decay of the first moment", **_SHARE)
    beta2: float = setting(0.999, "decay of the second moment", **_SHARE)
    eps: float = setting(
        1e-8,
        "added to the denominator",
        "a finite number above 0",
        member=True,
        in_float32=True,
        may_be_open=True,
        gt=0,
        allow_inf_nan=False,
    )


class Adam(_Moments):
    """Settings of Adam with the weight decay added to the gradient."""

    name: ClassVar[str] = "adam"
    kernel: ClassVar[str | None] = "adam"

    def build(self) -> "Update":
        """See :class:`Rule`."""
        from shoal.rules.updates import adam

        return adam


class AdamW(_Moments):
    """Settings of AdamW: Adam with the weight decay subtracted from the parameters."""

    name: ClassVar[str] = "adamw"
    kernel: ClassVar[str | None] = "adamw"
    is_decoupled: ClassVar[bool] = True

    weight_decay: float = setting(1.0, **_DECAY)

    def build(self) -> "Update":
        """See :class:`Rule`."""
        from shoal.rules.updates import adamw

        return adamw


class Lion(Rule):
    """Settings of Lion: steps by the sign of an interpolated momentum."""

    name: ClassVar[str] = "lion"
    state: ClassVar[tuple[str, ...]] = ("m",)
    is_decoupled: ClassVar[bool] = True

    weight_decay: float = setting(1.0, **_DECAY)
    beta1: float = setting(0.9, "decay of the momentum in a step", **_SHARE)
    beta2: float = setting(0.99, "decay of the momentum", **_SHARE)

    def build(self) -> "Update":
        """See :class:`Rule`."""
        from shoal.rules.updates import lion

        return lion


class Muon(_Moments):
    """Settings of Muon: orthogonalised momentum for hidden matrices, AdamW for the rest."""

    name: ClassVar[str] = "muon"
    temporaries: ClassVar[int] = 8
    is_decoupled: ClassVar[bool] = True

    weight_decay: float = setting(1.0, **_DECAY)
    momentum: float = _momentum(0.95)

    def build(self) -> "Update":
        """See :class:`Rule`."""
        from shoal.rules.updates import muon

        return muon
