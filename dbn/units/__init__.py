"""The kinds of units: exponential families that know their base measure, log-partition, mean and sampler."""

import numpy as np

from dbn.units.discrete import Bernoulli, Categorical, Spin
from dbn.units.gaussian import Gaussian
from dbn.units.joint import Joint
from dbn.units.rectified import NoisyReLU, ReLU
from dbn.units.unit import Tails, Unit, from_config, rebuildable_config

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Joint",
    "NoisyReLU",
    "ReLU",
    "Spin",
    "Tails",
    "Unit",
    "as_unit",
    "from_config",
    "rebuildable_config",
]


def as_unit(units: int | Unit, name: str) -> Unit:
    """`units` as a Unit: an int n means Bernoulli(n).

    Args:
        units: a number of units, or units.
        name: what the caller calls the argument, for the error.

    Raises:
        TypeError: if it is neither.
        ValueError: if the number is below 1.

    Example:
        >>> as_unit(3, "visible")
        Bernoulli(3)
    """
    if isinstance(units, Unit):
        return units
    if isinstance(units, bool) or not isinstance(units, int | np.integer):
        raise TypeError(f"{name} is {units!r}: give a number of Bernoulli units, or units such as Gaussian(39)")
    if units < 1:
        raise ValueError(f"{name} is {units}: a layer needs at least 1 unit")
    return Bernoulli(int(units))
