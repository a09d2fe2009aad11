"""Learning rates and momenta as pure functions of the epoch.

A schedule maps the epochs done so far, a float that grows within the epoch, to a value.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from dbn.runtime.checks import finite_number

Schedule = Callable[[float], float]


def as_schedule(value: float | Schedule, name: str) -> Schedule:
    """`value` as a checked schedule; a number becomes a constant one.

    Raises:
        TypeError: if it is neither, now or when it is asked.
        ValueError: if a number is negative or not finite.

    Example:
        >>> as_schedule(0.1, "learning_rate")(3.5)
        0.1
    """
    if not callable(value):
        return constant(finite_number(value, name))
    try:
        first = value(0.0)
    except Exception as error:
        raise TypeError(f"{name} is a {type(value).__name__} that gives no number at epoch 0: {error}") from error
    finite_number(first, f"{name} at epoch 0")
    return _Checked(value, name)


@dataclass(frozen=True)
class _Checked:
    """A schedule whose every number is looked at."""

    schedule: Schedule
    name: str

    def __call__(self, epoch: float) -> float:
        return finite_number(self.schedule(epoch), self.name)


def _as_numbers(schedule: object, *names: str, positive: tuple[str, ...] = ()) -> None:
    """Turn these fields of a frozen schedule into floats, or raise an error that names the one that is none."""
    for name in names:
        number = finite_number(getattr(schedule, name), name, positive=name in positive)
        object.__setattr__(schedule, name, number)


@dataclass(frozen=True)
class constant:
    """The same value at every epoch.

    Example:
        >>> constant(0.1)(7.0)
        0.1
    """

    value: float

    def __post_init__(self) -> None:
        _as_numbers(self, "value")

    def __call__(self, epoch: float) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True)
class switch:
    """`before` until `at` epochs are done, `after` from then on.

    Hinton's momentum is `switch(0.5, 0.9, at=5)`: 0.9 from the sixth epoch.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines, section 9.

    Example:
        >>> momentum = switch(0.5, 0.9, at=5)
        >>> momentum(4.99), momentum(5.0)
        (0.5, 0.9)
    """

    before: float
    after: float
    at: float

    def __post_init__(self) -> None:
        _as_numbers(self, "before", "after", "at")

    def __call__(self, epoch: float) -> float:
        """The value at an epoch."""
        return self.after if epoch >= self.at else self.before


@dataclass(frozen=True)
class linear:
    """From `start` to `end` in a straight line over `epochs`, `end` from then on.

    Example:
        >>> linear(1.0, 0.0, epochs=10)(2.5)
        0.75
    """

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        _as_numbers(self, "start", "end", "epochs", positive=("epochs",))

    def __call__(self, epoch: float) -> float:
        """The value at an epoch."""
        return self.start + (self.end - self.start) * min(epoch / self.epochs, 1.0)


@dataclass(frozen=True)
class cosine:
    """From `start` to `end` along half a cosine over `epochs`, `end` from then on.

    Source: I. Loshchilov, F. Hutter (2017), SGDR: stochastic gradient descent with warm restarts.

    Example:
        >>> cosine(1.0, 0.0, epochs=10)(5)
        0.5
    """

    start: float
    end: float
    epochs: float

    def __post_init__(self) -> None:
        _as_numbers(self, "start", "end", "epochs", positive=("epochs",))

    def __call__(self, epoch: float) -> float:
        """The value at an epoch."""
        share = (1 + math.cos(math.pi * min(epoch / self.epochs, 1.0))) / 2
        return self.end + (self.start - self.end) * share
