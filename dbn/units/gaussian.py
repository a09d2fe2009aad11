"""Real-valued units with fixed or learned precision."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dbn.units.unit import Tails, Unit, normal, written


class Gaussian(Unit):
    """Real units with base measure exp(−γx²/2): x | η ~ N(η/γ, 1/γ), A(η) = Σ η²/2γ − ½log γ + ½log 2π.

    The precision γ stands beside the weights in the energy (field form), so that the conditional mean is
    (b + Wh)/γ. Standardise the data's columns before use; likelihoods are densities in the units of the data given.

    Source: K. Cho, A. Ilin, T. Raiko (2011), Improved learning of Gaussian-Bernoulli restricted Boltzmann machines,
    with b/σ² and W/σ² written as b and W.

    Args:
        size: number of units.
        precision: γ > 0, one number for all units or one a unit.
        learned: learn log γ with the weights.

    Raises:
        TypeError: if `precision` is no number or numbers, or `learned` is neither True nor False.
        ValueError: if a precision is not positive and finite.

    Example:
        >>> Gaussian(1, precision=4.0).mean(torch.tensor([2.0]))
        tensor([0.5000])
    """

    suggested_learning_rate = 0.003
    capturable = True
    draws_from_mean = True

    def __init__(self, size: int, precision: float | Tensor = 1.0, *, learned: bool = False) -> None:
        super().__init__(size)
        values = _numbers(precision)
        if values.shape not in ((), (1,), (size,)):
            raise ValueError(
                f"precision has shape {tuple(values.shape)}: give one number, or one for each of {size} units"
            )
        values = values.expand(size).clone()
        if not bool((values > 0).all() and values.isfinite().all()):
            raise ValueError(f"precision is {precision}: every γ must be positive and finite")
        if not isinstance(learned, bool):
            raise TypeError(f"learned is {learned!r}: give True or False")
        self.learned = learned
        self.log_precision = nn.Parameter(values.log().to(torch.get_default_device()), requires_grad=learned)

    @property
    def precision(self) -> Tensor:
        """γ, one a unit: (size,)."""
        return self.log_precision.exp()

    def log_partition(self, field: Tensor) -> Tensor:
        quadratic = field.square() / (2 * self.precision)
        return (quadratic - self.log_precision / 2 + math.log(2 * math.pi) / 2).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        return -(self.precision * x.square()).sum(-1) / 2

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.div(field, self.precision, out=out)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        mean = self.mean(field) if mean is None else mean
        return written(normal(mean, generator).mul_(self.precision.rsqrt()).add_(mean), out)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return mean * self.precision

    def activation(self) -> nn.Module:
        return nn.Identity() if bool((self.log_precision == 0).all()) else _Scale(1 / self.precision.detach())

    def tails(self) -> Tails:
        kind = type(self)
        if kind.log_base is not Gaussian.log_base or kind.log_partition is not Gaussian.log_partition:
            return super().tails()  # of a class with a base measure of its own
        no = torch.zeros(self.size, dtype=torch.bool, device="cpu")
        return Tails(self.precision.detach().double().cpu(), no, no, exact=True)

    def own_gradient(self, x: Tensor, *, field: Tensor | None = None) -> dict[str, Tensor]:
        # E[x² | η] = E[x | η]² + 1/γ, with no need of the field itself.
        if not self.log_precision.requires_grad:
            return {}
        second_moment = self.precision * x.square().mean(0) + (field is not None)
        return {"log_precision": -second_moment / 2}

    def config(self) -> dict[str, Any]:
        return {**super().config(), "learned": self.learned}

    def extra_repr(self) -> str:
        return f"{self.size}, learned=True" if self.learned else str(self.size)


def _numbers(precision: Any) -> Tensor:
    try:
        return torch.as_tensor(precision, dtype=torch.get_default_dtype(), device="cpu")
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:
        raise TypeError(f"precision is {precision!r}: give one number above 0, or a tensor with one a unit") from error


class _Scale(nn.Module):
    """x -> factor · x, the mean of Gaussian units whose precision is not 1."""

    factor: Tensor

    def __init__(self, factor: Tensor) -> None:
        super().__init__()
        self.register_buffer("factor", factor.clone())

    def forward(self, x: Tensor) -> Tensor:
        return self.factor * x
