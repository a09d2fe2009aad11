"""The kinds of units: exponential families that know their base measure, log-partition, mean and sampler."""

from typing import Any

import numpy as np

from dbn.units.base import Unit
from dbn.units.discrete import Bernoulli, Categorical, Spin
from dbn.units.gaussian import Gaussian
from dbn.units.joint import Joint
from dbn.units.rectified import NoisyReLU, ReLU

__all__ = [
    "Bernoulli",
    "Categorical",
    "Gaussian",
    "Joint",
    "NoisyReLU",
    "ReLU",
    "Spin",
    "Unit",
    "as_unit",
    "from_config",
]

_BY_NAME: dict[str, type[Unit]] = {
    kind.__name__: kind for kind in (Bernoulli, Spin, Categorical, Gaussian, ReLU, NoisyReLU)
}


def as_unit(units: int | Unit, name: str) -> Unit:
    """`units` as a Unit: an int n means Bernoulli(n).

    Args:
        units: a number of units, or units.
        name: what the caller calls the argument, for the error.

    Raises:
        TypeError: where it is neither.
        ValueError: where the number is below 1.

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


def from_config(config: dict[str, Any]) -> Unit:
    """The unit that `Unit.config` described; its learned parameters come with the state of the module.

    Raises:
        ValueError: where the name under "unit" is unknown.

    Example:
        >>> from_config(Categorical(6, classes=3).config())
        Categorical(6, classes=3)
    """
    arguments = dict(config)
    kind = arguments.pop("unit", None)
    if kind == "Joint":
        return Joint(*(from_config(part) for part in arguments["parts"]))
    if kind not in _BY_NAME:
        raise ValueError(f"config names the unit {kind!r}: known are {', '.join([*_BY_NAME, 'Joint'])}")
    return _BY_NAME[kind](**arguments)
