"""Learning rates and momenta as pure functions of the epoch.

A schedule maps the epochs done so far, a float that grows within the epoch, to a value.
"""

import math
from collections.abc import Callable

from dbn.arguments import finite_number

Schedule = Callable[[float], float]


def as_schedule(value: float | Schedule, name: str) -> Schedule:
    """`value` where it is a schedule, with a look at every number that it gives, else that number at every epoch.

    Raises:
        TypeError: where it is neither, now or when it is asked.
        ValueError: where a number is negative or not finite.

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
    return lambda epoch: finite_number(value(epoch), name)


def constant(value: float) -> Schedule:
    """The same value at every epoch.

    Example:
        >>> constant(0.1)(7.0)
        0.1
    """
    value = finite_number(value, "value")
    return lambda epoch: value


def switch(before: float, after: float, at: float) -> Schedule:
    """`before` until `at` epochs are done, `after` from then on.

    Hinton's momentum is `switch(0.5, 0.9, at=5)`: 0.9 from the sixth epoch.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines, section 9.

    Example:
        >>> momentum = switch(0.5, 0.9, at=5)
        >>> momentum(4.99), momentum(5.0)
        (0.5, 0.9)
    """
    before, after, at = finite_number(before, "before"), finite_number(after, "after"), finite_number(at, "at")
    return lambda epoch: after if epoch >= at else before


def linear(start: float, end: float, epochs: float) -> Schedule:
    """From `start` to `end` in a straight line over `epochs`, `end` from then on.

    Example:
        >>> linear(1.0, 0.0, epochs=10)(2.5)
        0.75
    """
    start, end, epochs = _way(start, end, epochs)
    return lambda epoch: start + (end - start) * min(epoch / epochs, 1.0)


def cosine(start: float, end: float, epochs: float) -> Schedule:
    """From `start` to `end` along half a cosine over `epochs`, `end` from then on.

    Source: I. Loshchilov, F. Hutter (2017), SGDR: stochastic gradient descent with warm restarts.

    Example:
        >>> cosine(1.0, 0.0, epochs=10)(5)
        0.5
    """
    start, end, epochs = _way(start, end, epochs)
    return lambda epoch: end + (start - end) * (1 + math.cos(math.pi * min(epoch / epochs, 1.0))) / 2


def _way(start: float, end: float, epochs: float) -> tuple[float, float, float]:
    """The arguments of a decay as floats, or an error that names the one that is none."""
    return finite_number(start, "start"), finite_number(end, "end"), finite_number(epochs, "epochs", positive=True)
