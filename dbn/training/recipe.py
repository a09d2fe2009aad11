"""The settings of a training run, and whether a machine can be trained by them."""

from dataclasses import dataclass, fields
from typing import Any, Literal

from dbn.arguments import check_precision, choice, finite_number, flag, whole_number
from dbn.course import plain
from dbn.estimators import CD, Estimator
from dbn.gradient import check_learnable
from dbn.rbm import RBM, check_machine
from dbn.schedules import Schedule, as_schedule
from dbn.training.step import Penalties
from dbn.training.watching import EarlyStopping


@dataclass(frozen=True, kw_only=True)
class Recipe(Penalties):
    """The settings of one training run, checked when they are put together; the arguments of `train` explain them."""

    epochs: int
    batch_size: int = 100
    learning_rate: float | Schedule | None = None
    momentum: float | Schedule | None = None
    weight_decay: float = 2e-4
    estimator: Estimator | None = None
    centring: float | None = None
    binarise: Literal["sample", "threshold"] | None = None
    average_from: float | None = None
    stopping: EarlyStopping | None = None
    on_divergence: Literal["raise", "halve"] = "raise"
    initialise_bias: bool = True
    monitor_rows: int = 1000
    record_every: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.estimator, Estimator | None):
            raise TypeError(f"estimator is {self.estimator!r}: give an estimator such as CD(1) or PCD(chains=100)")
        whole_number(self.epochs, "epochs", at_least=0)
        whole_number(self.batch_size, "batch_size")
        as_schedule(0.0 if self.learning_rate is None else self.learning_rate, "learning_rate")
        if self.learning_rate is None:
            _below_one(self.momentum_used(0.0))
        elif self.momentum is not None:
            as_schedule(self.momentum, "momentum")
        finite_number(self.weight_decay, "weight_decay")
        if self.centring is not None and finite_number(self.centring, "centring") > 1:
            raise ValueError(f"centring is {self.centring}: give the rate of a moving average, at most 1")
        if self.binarise is not None:
            choice(self.binarise, ("sample", "threshold"), "binarise")
        finite_number(0.0 if self.average_from is None else self.average_from, "average_from")
        whole_number(self.monitor_rows, "monitor_rows")
        flag(self.initialise_bias, "initialise_bias")
        whole_number(1 if self.record_every is None else self.record_every, "record_every")
        if not isinstance(self.stopping, EarlyStopping | None):
            raise TypeError(f"stopping is {self.stopping!r}: give an EarlyStopping")
        choice(self.on_divergence, ("raise", "halve"), "on_divergence")

    @property
    def negative_phase(self) -> Estimator:
        """The estimator: CD(1) where none is given."""
        return CD(1) if self.estimator is None else self.estimator

    @property
    def momentum_used(self) -> Schedule:
        """The momentum: what suits the estimator where none is given."""
        given = self.negative_phase.suggested_momentum if self.momentum is None else self.momentum
        return as_schedule(given, "momentum")

    def rate_for(self, rbm: RBM) -> Schedule:
        """The learning rate: what suits the machine, the estimator and the momentum where none is given."""
        if self.learning_rate is not None:
            return as_schedule(self.learning_rate, "learning_rate")
        estimator, momentum = self.negative_phase, self.momentum_used

        def suited(epoch: float) -> float:
            share = (1 - _below_one(momentum(epoch))) / (1 - estimator.suggested_momentum(epoch))
            return estimator.suggested_learning_rate(rbm, epoch, max(self.epochs, 1)) * share

        return suited

    def described(self) -> dict[str, Any]:
        """Every setting as plain values, to be compared with another run's."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"estimator": self.negative_phase, "momentum": self.momentum_used}
        return {name: plain(value, self.epochs) for name, value in values.items()}


def kind_of(rbm: RBM) -> dict[str, Any]:
    """What a machine is, apart from its numbers, to be compared with another run's."""
    free = [name for name, value in rbm.named_parameters() if value.requires_grad]
    units = [rbm.visible.config(), rbm.hidden.config()]
    return {"units": str(units), "dtype": str(rbm.weight.dtype), "device": rbm.weight.device.type, "free": free}


def check_fit(rbm: RBM, recipe: Recipe, *, validated: bool, name: str = "rbm") -> None:
    """Raise an error where a recipe asks for what this machine, or no rows of validation, cannot give."""
    if rbm.has_energy:
        check_machine(rbm, name)
    check_precision(rbm.weight, name)
    check_learnable(rbm, name)
    if recipe.estimator is not None:
        recipe.estimator.check(rbm)
    low, high = rbm.hidden.support
    target = None if recipe.sparsity_target is None else float(recipe.sparsity_target)
    if target is not None and not low < target < high:
        found = f"sparsity_target is {float(target):g}, but {rbm.hidden} have means in {low:g}..{high:g}"
        raise ValueError(f"{found}: give one in between")
    gap = recipe.stopping is not None and recipe.stopping.largest_gap is not None
    if gap and not (validated and rbm.has_energy):
        raise ValueError("stopping has a largest_gap, which needs validation rows and units with an energy")


def _below_one(momentum: float) -> float:
    """A momentum that some learning rate suits, or a ValueError."""
    if momentum >= 1:
        raise ValueError(f"momentum is {momentum:g}, which no learning rate suits: give a momentum below 1")
    return momentum
