"""The options of training, each declared once, and whether an RBM can be trained with them."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Literal, TypeAlias, TypedDict, TypeVar

from dbn.estimators import CD, Estimator
from dbn.gradient import check_learnable
from dbn.rbm import RBM, check_rbm
from dbn.runtime.checks import check_precision, finite_number, flag, whole_number
from dbn.runtime.options import Options, instance_of, one_of, option, optional, required
from dbn.runtime.run_config import plain_setting
from dbn.schedules import Schedule, as_schedule
from dbn.training.early_stopping import EarlyStopping

T = TypeVar("T")
PerLayer: TypeAlias = T | Sequence[T]

_positive = partial(finite_number, positive=True)


def _rate_of_average(value: Any, name: str) -> None:
    if finite_number(value, name) > 1:
        raise ValueError(f"{name} is {value}: give the rate of a moving average, at most 1")


@dataclass(frozen=True, kw_only=True)
class TrainOptions(Options):
    """How an RBM is trained. `DBN.pretrain` takes each as one value, or as a list with one per layer."""

    epochs: int = required("passes over the data.", partial(whole_number, at_least=0))
    batch_size: int = option(
        100,
        "rows per update, over all processes; the last batch of an epoch may be shorter and has its own denominator.",
        whole_number,
    )
    learning_rate: float | Schedule | None = option(
        None,
        "a number, or a schedule of the epoch. The default suits the units, the estimator and the momentum "
        "m: r · (1 − m) / (1 − m₀), so that the effective rate, learning_rate / (1 − m), does not depend on "
        "m. For CD, m₀ is 0.5, and 0.9 from the sixth epoch, and r is 0.1 for Bernoulli units on both "
        "sides, 0.01 with ReLU, 0.003 with Gaussian ones, and a quarter of it for each side of spins. For "
        "persistent chains m₀ is 0, and r is constant over the first half of the epochs, then falls "
        "linearly to 0: from twice the rate of CD, or from 0.05 if the hidden units are Bernoulli and the "
        "visible ones Gaussian or ReLU.",
        optional(as_schedule),
    )
    momentum: float | Schedule | None = option(
        None,
        "a number or a schedule, below 1 if no learning rate is given. The default is m₀, which suits the estimator.",
        optional(as_schedule),
    )
    weight_decay: float = option(2e-4, "L2 cost of the weights.", finite_number)
    estimator: Estimator | None = option(
        None,
        "the negative phase, CD(1) by default.",
        optional(instance_of(Estimator, "an estimator such as CD(1) or PCD(chains=100)")),
    )
    centring: float | None = option(
        None,
        "centre the gradient (Montavon and Müller 2012) at moving averages of the mean units at the data, "
        "with this rate, such as 0.01. None for the plain gradient.",
        optional(_rate_of_average),
    )
    average_from: float | None = option(
        None,
        "average the parameters at the ends of the epochs after this one, and leave the mean in the RBM.",
        optional(finite_number),
    )
    l1: float = option(0.0, "cost of the sum of |W|, whose slope is sign W.", finite_number)
    max_norm: float | None = option(
        None,
        "after every update, shrink the weights of each hidden unit to a Euclidean norm of at most this.",
        optional(_positive),
    )
    sparsity_target: float | None = option(
        None,
        "mean activity q that hidden units are pulled to (Lee, Ekanadham and Ng 2008), such as 0.05. Their "
        "biases fall by learning_rate · sparsity_cost · (q̂ − q), with q̂ a moving mean, and their weights "
        "by that times the batch's mean visible units (Hinton 2010, section 11).",
        optional(partial(finite_number, signed=True)),
    )
    sparsity_cost: float = option(0.1, "strength of the pull to `sparsity_target`.", finite_number)
    clip: float | None = option(
        None,
        "shrink each gradient of the likelihood, all parameters together and before penalties and decay, to "
        "a Euclidean norm of at most this.",
        optional(_positive),
    )
    stopping: EarlyStopping | None = option(
        None,
        "end before the last epoch, and leave the best weights; see `EarlyStopping`.",
        optional(instance_of(EarlyStopping, "an EarlyStopping")),
    )
    on_divergence: Literal["raise", "halve"] = option(
        "raise",
        '"raise" an error if parameters are not finite or the free energy runs away, with the RBM restored '
        'as it was at the start of that epoch (or where the run was resumed in it), or "halve" the learning '
        "rate and repeat from there; if that does not help, from the start of the run.",
        one_of("raise", "halve"),
    )
    initialise_bias: bool = option(
        True, "set visible biases that are all zero to the field of the data's mean first.", flag
    )
    monitor_rows: int = option(1000, "rows of the fixed training subset that the history is computed on.", whole_number)
    record_every: int | None = option(
        None, "steps between records inside an epoch; an epoch always ends with a record.", optional(whole_number)
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.learning_rate is None:
            _below_one(self.momentum_used(0.0))

    @property
    def negative_phase(self) -> Estimator:
        """The estimator: CD(1) if none is given."""
        return CD(1) if self.estimator is None else self.estimator

    @property
    def draws_globally(self) -> bool:
        """Whether a function of the user's may draw from torch's global generator."""
        return self.stopping is not None and self.stopping.score is not None

    @property
    def momentum_used(self) -> Schedule:
        """The momentum: what suits the estimator if none is given."""
        given = self.negative_phase.suggested_momentum if self.momentum is None else self.momentum
        return as_schedule(given, "momentum")

    def rate_for(self, rbm: RBM) -> Schedule:
        """The learning rate: what suits the RBM, the estimator and the momentum if none is given."""
        if self.learning_rate is not None:
            return as_schedule(self.learning_rate, "learning_rate")
        estimator, momentum = self.negative_phase, self.momentum_used

        def suited(epoch: float) -> float:
            factor = (1 - _below_one(momentum(epoch))) / (1 - estimator.suggested_momentum(epoch))
            return estimator.suggested_learning_rate(rbm, epoch, max(self.epochs, 1)) * factor

        return suited

    def config(self) -> dict[str, Any]:
        """Every option as plain values, to be compared with another run's."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values |= {"estimator": self.negative_phase, "momentum": self.momentum_used}
        return {name: plain_setting(value, self.epochs) for name, value in values.items()}


class TrainKeywords(TypedDict, total=False):
    """The types of `TrainOptions` for editors and type checkers. `train` takes one value, `DBN.pretrain` also lists."""

    batch_size: PerLayer[int]
    learning_rate: PerLayer[float | Schedule | None]
    momentum: PerLayer[float | Schedule | None]
    weight_decay: PerLayer[float]
    estimator: PerLayer[Estimator | None] | None
    centring: PerLayer[float | None]
    average_from: PerLayer[float | None]
    l1: PerLayer[float]
    max_norm: PerLayer[float | None]
    sparsity_target: PerLayer[float | None]
    sparsity_cost: PerLayer[float]
    clip: PerLayer[float | None]
    stopping: PerLayer[EarlyStopping | None]
    on_divergence: PerLayer[Literal["raise", "halve"]]
    initialise_bias: PerLayer[bool]
    monitor_rows: PerLayer[int]
    record_every: PerLayer[int | None]


def rbm_config(rbm: RBM) -> dict[str, Any]:
    """What an RBM is, apart from its parameters, to be compared with another run's."""
    free = [name for name, value in rbm.named_parameters() if value.requires_grad]
    units = [rbm.visible.config(), rbm.hidden.config()]
    return {"units": str(units), "dtype": str(rbm.weight.dtype), "device": rbm.weight.device.type, "free": free}


def check_trainable(rbm: RBM, options: TrainOptions, *, validated: bool, name: str = "rbm") -> None:
    """Raise an error if the options need what this RBM, or a run without validation rows, cannot give."""
    if rbm.has_energy:
        check_rbm(rbm, name)
    check_precision(rbm.weight, name)
    check_learnable(rbm, name)
    if options.estimator is not None:
        options.estimator.check(rbm)
    low, high = rbm.hidden.support
    target = None if options.sparsity_target is None else float(options.sparsity_target)
    if target is not None and not low < target < high:
        found = f"sparsity_target is {float(target):g}, but {rbm.hidden} have means in {low:g}..{high:g}"
        raise ValueError(f"{found}: give one in between")
    gap = options.stopping is not None and options.stopping.largest_gap is not None
    if gap and not (validated and rbm.has_energy):
        raise ValueError("stopping has a largest_gap, which needs validation rows and units with an energy")


def _below_one(momentum: float) -> float:
    """A momentum that some learning rate suits, or a ValueError."""
    if momentum >= 1:
        raise ValueError(f"momentum is {momentum:g}, which no learning rate suits: give a momentum below 1")
    return momentum
