"""The exponential family that every layer of units is an instance of."""

from abc import ABC, abstractmethod
from typing import Any, ClassVar, NamedTuple, Self

import numpy as np
import torch
from torch import Generator, Tensor, nn

_DRAWN_IN = (torch.float32, torch.float64)
_PLAIN = (bool, int, float, str, list, tuple, Tensor)
_NO_SETTINGS = ("training", "suggested_learning_rate", "learning_rate_factor", "capturable", "draws_from_mean")


class Tails(NamedTuple):
    """How the base measure of every column of a layer falls off far from zero: as exp(−γx²/2).

    `precision` (size,) holds γ, NaN if it is unknown; `bounded` and `nonnegative` (size,) tell which columns take
    values in a finite range, and which none below zero. `exact` tells whether the base measure is exp(−γx²/2) on all of
    ℝ, in every column.
    """

    precision: Tensor
    bounded: Tensor
    nonnegative: Tensor
    exact: bool = False


class Unit(nn.Module, ABC):
    """A layer of independent units: a base measure, and its distribution at a field.

    p(x | η) = exp(log_base(x) + η·x − A(η)), with A the log-partition. The last dimension of every tensor runs over
    the units of the layer; all others are batch dimensions.

    Units of your own derive from this class. `RBM.load` finds the class by its name, once it has been defined, and
    builds it from what `config` returns. Parameters of the units that require a gradient are learned with the weights.
    Units without bounds say by `tails` how their base measure falls off.

    Source: M. Welling, M. Rosen-Zvi, G. Hinton (2005), Exponential family harmoniums.
    """

    #: False for units that can be sampled but have no finite energy; likelihoods refuse those by name.
    has_energy = True
    #: Inclusive range of the values that a unit takes.
    support = (-float("inf"), float("inf"))
    #: Whether means and samples can be recorded on a GPU: nothing is decided by numbers read back from there, or
    #: by plain numbers that change. Each class says so for itself: what derives from it may do more.
    capturable = False
    #: Whether `sample` draws with less work if the mean is known.
    draws_from_mean = False
    #: Learning rate of contrastive divergence that suits the unit (Hinton 2010, A practical guide to training RBMs).
    suggested_learning_rate = 0.1
    #: What a side of such units multiplies that by: values as far apart as 0 and c make a gradient c times and weights
    #: 1/c times as large, so that a step of weights at 1/c² of the rate is that of units of 0 and 1.
    learning_rate_factor = 1.0

    #: Every kind of units by its name; later classes take the place of earlier ones, but not of the library's own.
    kinds: ClassVar[dict[str, type["Unit"]]] = {}

    def __init_subclass__(cls, **arguments: Any) -> None:
        super().__init_subclass__(**arguments)
        if not _is_ours(Unit.kinds.get(cls.__name__)):
            Unit.kinds[cls.__name__] = cls

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

    def sample(
        self,
        field: Tensor,
        *,
        mean: Tensor | None = None,
        generator: Generator | None = None,
        out: Tensor | None = None,
    ) -> Tensor:
        """Draw x from p(x | η), (…, size) -> (…, size).

        With `mean`, x is drawn from the member of the family that has this mean, whatever the field is. `out` is
        written to and returned, and may be the field itself, but not the mean.
        """
        return self.draw(field, mean, generator, out)

    @abstractmethod
    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        """What `sample` returns; units of your own implement this, and nobody else calls it."""

    @abstractmethod
    def field_of_mean(self, mean: Tensor) -> Tensor:
        """The field whose mean is `mean`, kept finite if the mean touches the border of the support."""

    def mode(self, mean: Tensor) -> Tensor:
        """The most probable state of every unit at a mean, (…, size) -> (…, size)."""
        raise TypeError(f"{self} have no most probable states here: give units such as Bernoulli, Spin or Categorical")

    @abstractmethod
    def activation(self) -> nn.Module:
        """A module that computes `mean` in an ordinary network."""

    @property
    def cardinality(self) -> int | None:
        """Number of joint states of the layer, or None if they cannot be counted."""
        return None

    def states(self, index: Tensor) -> Tensor:
        """The joint states with the numbers `index`, each of 0 … cardinality − 1: (n,) -> (n, size) in float64."""
        raise TypeError(f"{self} has infinitely many states: enumerate the other side of the RBM")

    @property
    def variables(self) -> int:
        """Number of variables of the layer: of columns, or of one-hot groups of them."""
        return self.size

    def variable(self, place: int) -> tuple[slice, Tensor]:
        """The columns of a variable, by its place, and their states (K, columns), in float64."""
        raise TypeError(f"{self} has infinitely many states: there are none to put in the place of another")

    def tails(self) -> Tails:
        """How the base measure falls off, by which an RBM judges whether it has a distribution.

        By default this is unknown of units without bounds; units of your own say it here.
        """
        nothing = torch.full((self.size,), np.nan, dtype=torch.float64, device="cpu")
        bounded = all(np.isfinite(bound) for bound in self.support)
        return Tails(nothing, nothing.isnan() & bounded, nothing.isnan() & (self.support[0] >= 0))

    def learned_parameters(self) -> dict[str, nn.Parameter]:
        """The parameters of the units themselves that require a gradient, by their names."""
        if not (self._parameters or self._modules):  # asked five times a step, of units that mostly have none
            return {}
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def own_gradient(self, x: Tensor, *, field: Tensor | None = None) -> dict[str, Tensor]:
        """Mean over rows of ∂log_base(x)/∂θ for each learned parameter θ of the units themselves.

        With a field η (n, size), x are its conditional means, and the expectation E[∂log_base/∂θ | η] = ∂A(η)/∂θ is
        returned. By default both are derived from `log_base` and `log_partition` by autograd. A parameter on which they
        do not depend is left out, and `train` refuses to learn it.

        Args:
            x: values (n, size), or means.
            field: the field of the means; None if x are values that were seen or sampled.
        """
        learned = self.learned_parameters()
        if not (learned and self.has_energy):
            return {}
        with torch.enable_grad():
            value = self.log_base(x.detach()) if field is None else self.log_partition(field.detach())
            if not value.requires_grad:
                return {}
            slopes = torch.autograd.grad(value.mean(), list(learned.values()), allow_unused=True)
        return {name: slope for name, slope in zip(learned, slopes, strict=True) if slope is not None}

    def constrain_data(self, x: Tensor, name: str) -> None:
        """Raise a ValueError if rows (n, size) are not data, or means, of these units; no rows are fine."""
        if not x.numel():
            return
        low, high = (float(bound) for bound in torch.aminmax(x.detach()))
        if low < self.support[0] or high > self.support[1]:
            raise ValueError(
                f"{name} lies in {low:g}..{high:g}, but {self} takes values in "
                f"{self.support[0]:g}..{self.support[1]:g}: {_advice(low, high)}"
            )

    def config(self) -> dict[str, Any]:
        """The arguments that rebuild these units, with the name of their class under "unit"."""
        return {"unit": type(self).__name__, "size": self.size}

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Self:
        """The units that `config` described, without the name of their class; the size is the first argument."""
        rest = {name: value for name, value in arguments.items() if name != "size"}
        return cls(arguments["size"], **rest)

    def extra_repr(self) -> str:
        return str(self.size)

    def __str__(self) -> str:
        return f"{type(self).__name__}({self.extra_repr()})"


def from_config(config: dict[str, Any]) -> Unit:
    """The units that `Unit.config` described; their parameters come with the state of the module.

    Raises:
        ValueError: if no class of units has the name under "unit", or it cannot be built from the rest.

    Example:
        >>> from dbn.units import Categorical
        >>> from_config(Categorical(6, classes=3).config())
        Categorical(6, classes=3)
    """
    arguments = dict(config)
    name = arguments.pop("unit", None)
    if name not in Unit.kinds:
        known = ", ".join(Unit.kinds)
        raise ValueError(f"unit is {name!r}: known are {known}; import or define a class of your own before loading")
    try:
        return Unit.kinds[name].from_arguments(arguments)
    except (TypeError, KeyError) as error:
        raise ValueError(f"unit {name} is not built from {arguments} ({error}): let its config() say how") from error


def rebuildable_config(units: Unit, name: str) -> dict[str, Any]:
    """`units.config()`, from which `from_config` was seen to build units of the same class, settings and shapes.

    Args:
        units: the units.
        name: what the caller calls them, for the error.

    Raises:
        ValueError: if they could be saved, but not loaded.
    """
    config = units.config()
    with torch.device("cpu"), torch.random.fork_rng(devices=[]):
        again = from_config(config)
    if type(again) is type(units) and (lost := _first_difference(units, again)):
        raise ValueError(
            f"{name} are {units}, but what their config() {config} builds has another {lost}: let config() hold the "
            "arguments that decide it"
        )
    if type(again) is not type(units):
        raise ValueError(
            f"{name} are {units} of the class {_name_of(type(units))}, but their config() {config} builds {again} of "
            f"{_name_of(type(again))}: give the class a name of its own, and a config() that holds its arguments"
        )
    return config


def _first_difference(units: Unit, again: Unit) -> str:
    """The name of a setting, or of a parameter's shape, that rebuilt units have lost; empty if all came back."""
    shapes = [{name: value.shape for name, value in one.state_dict().items()} for one in (units, again)]
    if shapes[0] != shapes[1]:
        return "shape of parameters"
    for part, other in zip(units.modules(), again.modules(), strict=True):
        for name, value in vars(part).items():
            own = not name.startswith("_") and name not in _NO_SETTINGS
            if own and isinstance(value, _PLAIN) and not _equal(value, vars(other).get(name)):
                return name
    return ""


def _equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return isinstance(other, Tensor) and torch.equal(one, other)
    return type(one) is type(other) and bool(one == other)


def _name_of(kind: type) -> str:
    return f"{kind.__module__}.{kind.__qualname__}"


def uniform(like: Tensor, generator: Generator | None) -> Tensor:
    """Independent uniform numbers in [0, 1), as many as in `like` and in its dtype."""
    return _unfilled(like).uniform_(generator=generator)


def normal(like: Tensor, generator: Generator | None) -> Tensor:
    """Independent standard normal numbers, as many as in `like` and in its dtype."""
    return _unfilled(like).normal_(generator=generator)


def _unfilled(like: Tensor) -> Tensor:
    if like.dtype not in _DRAWN_IN:
        raise TypeError(
            f"field is {like.dtype}, whose probabilities have few digits: give float32 or float64, outside of autocast"
        )
    return torch.empty_like(like, memory_format=torch.contiguous_format)


def _is_ours(kind: type | None) -> bool:
    return kind is not None and kind.__module__.startswith("dbn.units.")


def written(values: Tensor, out: Tensor | None) -> Tensor:
    """`values`, in `out` if given."""
    return values if out is None else out.copy_(values)


def _advice(low: float, high: float) -> str:
    if low >= 0 and 1 < high <= 255:
        return "pixels in 0..255: divide by 255, or use Gaussian units"
    return "rescale the data to that range, or use Gaussian units on standardised columns"
