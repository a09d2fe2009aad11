"""Units that a user might define: discrete and real ones, with and without learned parameters."""

from typing import Any

import torch
from torch import Generator, Tensor, nn

from dbn import Bernoulli, Unit


class Mean(nn.Module):
    """Computes the mean of units in an ordinary network."""

    def __init__(self, units: Unit) -> None:
        super().__init__()
        self.units = units

    def forward(self, field: Tensor) -> Tensor:
        return self.units.mean(field)


class Listed(Unit):
    """Units that take a few values each, whose log weights are −curvature · x², all computed by listing the values."""

    values: tuple[float, ...]

    def curvature(self) -> Tensor | float:
        """Of every unit, or of all."""
        return 0.0

    def log_partition(self, field: Tensor) -> Tensor:
        return self._weights(field).logsumexp(-1).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        return -(self.curvature() * x.square()).sum(-1)

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        mean = self._weights(field).softmax(-1) @ self._values(field)
        return mean if out is None else out.copy_(mean)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        shares = self._weights(field if mean is None else self.field_of_mean(mean)).softmax(-1)
        chosen = torch.multinomial(shares.flatten(0, -2), 1, generator=generator)
        drawn = self._values(field)[chosen].view_as(field)
        return drawn if out is None else out.copy_(drawn)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        low, high = torch.full_like(mean, -20.0), torch.full_like(mean, 20.0)
        for _ in range(40):
            middle = (low + high) / 2
            above = self.mean(middle) > mean
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return (low + high) / 2

    def activation(self) -> nn.Module:
        return Mean(self)

    @property
    def cardinality(self) -> int:
        return int(len(self.values) ** self.size)

    def states(self, index: Tensor) -> Tensor:
        places = len(self.values) ** torch.arange(self.size, device=index.device)
        return self._values(index.double())[index[:, None] // places % len(self.values)]

    def variable(self, place: int) -> tuple[slice, Tensor]:
        return slice(place, place + 1), torch.tensor(self.values, dtype=torch.float64)[:, None]

    def _values(self, like: Tensor) -> Tensor:
        return torch.tensor(self.values, dtype=like.dtype, device=like.device)

    def _weights(self, field: Tensor) -> Tensor:
        """Log weights of every value of every unit: (…, size) -> (…, size, values)."""
        values = self._values(field)
        curvature = torch.as_tensor(self.curvature(), dtype=field.dtype, device=field.device)
        return field[..., None] * values - curvature[..., None] * values.square()


class Ternary(Listed):
    """Units in {−1, 0, 1}, without parameters of their own."""

    values, support = (-1.0, 0.0, 1.0), (-1.0, 1.0)


class Curved(Listed):
    """Units in {0, 1, 2}, whose curvature is learned."""

    values, support = (0.0, 1.0, 2.0), (0.0, 2.0)

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.bend = nn.Parameter(torch.full((self.size,), 0.1))

    def curvature(self) -> Tensor:
        return self.bend


class Shifted(Unit):
    """Real units with base measure exp(−x²/2 + μx), whose μ is learned."""

    suggested_learning_rate = 0.003

    def __init__(self, size: int) -> None:
        super().__init__(size)
        self.shift = nn.Parameter(torch.zeros(self.size))

    def log_partition(self, field: Tensor) -> Tensor:
        return ((field + self.shift).square() / 2 + torch.log(2 * torch.pi * torch.ones_like(field)) / 2).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        return (self.shift * x - x.square() / 2).sum(-1)

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.add(field, self.shift, out=out) if out is None else out.copy_(field + self.shift)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        middle = self.mean(field) if mean is None else mean
        drawn = torch.empty_like(middle).normal_(generator=generator) + middle
        return drawn if out is None else out.copy_(drawn)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return mean - self.shift

    def activation(self) -> nn.Module:
        return Mean(self)


class Renamed(Bernoulli):
    """Bernoulli units under another name, with a setting of their own."""

    def __init__(self, size: int, label: str = "own") -> None:
        super().__init__(size)
        self.label = label

    def config(self) -> dict[str, Any]:
        return {**super().config(), "label": self.label}
