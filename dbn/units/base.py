"""The exponential family that every layer of units is an instance of."""

from abc import ABC, abstractmethod
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn


class Unit(nn.Module, ABC):
    """A layer of independent units: a base measure, and its distribution at a field.

    p(x | η) = exp(log_base(x) + η·x − A(η)), with A the log-partition. The last dimension of every tensor runs over
    the units of the layer; all others are batch dimensions.

    Source: M. Welling, M. Rosen-Zvi, G. Hinton (2005), Exponential family harmoniums.
    """

    #: False for units that can be sampled but have no finite energy; likelihoods refuse those by name.
    has_energy = True
    #: Inclusive range of the values that a unit takes.
    support = (-float("inf"), float("inf"))
    #: Whether means and samples can be recorded on a GPU: nothing is decided by numbers read back from there, or
    #: by plain numbers that change. Each class says so for itself: what derives from it may do more.
    replayable = False
    #: Learning rate of contrastive divergence that suits the unit (Hinton 2010, A practical guide to training RBMs).
    suggested_learning_rate = 0.1
    #: What a side of such units multiplies that by: values as far apart as 0 and c make a gradient c times and weights
    #: 1/c times as large, so that a step of weights at 1/c² of the rate is that of units of 0 and 1.
    learning_rate_factor = 1.0

    def __init__(self, size: int) -> None:
        super().__init__()
        if isinstance(size, bool) or not isinstance(size, int | np.integer) or size < 1:
            raise ValueError(f"size is {size!r}: give the number of units, a whole number of at least 1")
        self.size = int(size)

    @abstractmethod
    def log_partition(self, field: Tensor) -> Tensor:
        """A(η) = log ∫ exp(log_base(x) + η·x) dx, summed over the units: (…, size) -> (…,)."""

    @abstractmethod
    def log_base(self, x: Tensor) -> Tensor:
        """Logarithm of the base measure at x, summed over the units: (…, size) -> (…,)."""

    @abstractmethod
    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        """E[x | η] = dA/dη, (…, size) -> (…, size); `out` is written to and returned, and may be the field itself."""

    @abstractmethod
    def sample(
        self,
        field: Tensor,
        *,
        mean: Tensor | None = None,
        generator: Generator | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Draw x from p(x | η), (…, size) -> (…, size).

        `mean` passes on `self.mean(field)` where it is known; `out` is written to and returned, and may be the field
        itself, but not the mean.
        """

    @abstractmethod
    def field_of_mean(self, mean: Tensor) -> Tensor:
        """The field whose mean is `mean`, kept finite where the mean touches the border of the support."""

    @abstractmethod
    def activation(self) -> nn.Module:
        """A module that computes `mean` in an ordinary network."""

    @property
    def cardinality(self) -> int | None:
        """Number of joint states of the layer, or None where they cannot be counted."""
        return None

    def states(self, index: Tensor) -> Tensor:
        """The joint states with the numbers `index`, each of 0 … cardinality − 1: (n,) -> (n, size) in float64."""
        raise TypeError(f"{self} has infinitely many states: enumerate the other side of the machine")

    @property
    def variables(self) -> int:
        """Number of variables of the layer: of columns, or of one-hot groups of them."""
        return self.size

    def variable(self, place: int) -> tuple[slice, Tensor]:
        """The columns of a variable, by its place, and their states (K, columns), in float64."""
        raise TypeError(f"{self} has infinitely many states: there are none to put in the place of another")

    def own_gradient(self, x: Tensor, *, is_mean: bool) -> dict[str, Tensor]:
        """Mean over rows of ∂log_base/∂θ for each learned parameter θ of the unit itself.

        With `is_mean`, x holds conditional means, and the derivative's expectation given that mean is returned.
        """
        return {}

    def constrain_data(self, x: Tensor, name: str) -> None:
        """Raise a ValueError where rows (n, size) are not data, or means, of these units; no rows are fine."""
        if not x.numel():
            return
        low, high = (float(bound) for bound in torch.aminmax(x.detach()))
        if low < self.support[0] or high > self.support[1]:
            raise ValueError(
                f"{name} lies in {low:g}..{high:g}, but {self} takes values in "
                f"{self.support[0]:g}..{self.support[1]:g}: {_advice(low, high)}"
            )

    def config(self) -> dict[str, Any]:
        """The arguments that rebuild this unit, with its class name under "unit"."""
        return {"unit": type(self).__name__, "size": self.size}

    def extra_repr(self) -> str:
        return str(self.size)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def written(values: Tensor, out: Tensor | None) -> Tensor:
    """`values`, in `out` where one is given."""
    return values if out is None else out.copy_(values)


def _advice(low: float, high: float) -> str:
    if low >= 0 and 1 < high <= 255:
        return "pixels in 0..255: divide by 255, or use Gaussian units"
    return "rescale the data to that range, or use Gaussian units on standardised columns"
