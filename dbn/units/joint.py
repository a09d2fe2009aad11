"""Layers made of several kinds of units side by side."""

import copy
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from dbn.units.unit import Tails, Unit, from_config, written


class Joint(Unit):
    """Units of several kinds in adjoining column ranges: A is the sum of theirs, mean and samples are concatenated.

    The label layer of G. Hinton, S. Osindero, Y. Teh (2006), A fast learning algorithm for deep belief nets, is
    `Joint(Bernoulli(500), Categorical(10))`.

    Args:
        parts: the units, left to right. Each is copied, so that units given twice learn parameters of their own.

    Raises:
        ValueError: without parts.
        TypeError: if a part is not a unit.

    Example:
        >>> from dbn.units import Bernoulli, Categorical
        >>> Joint(Bernoulli(2), Categorical(4)).mean(torch.zeros(6))
        tensor([0.5000, 0.5000, 0.2500, 0.2500, 0.2500, 0.2500])
    """

    capturable = True

    def __init__(self, *parts: Unit) -> None:
        if not parts:
            raise ValueError("parts is empty: name at least one unit, as in Joint(Bernoulli(500), Categorical(10))")
        for part in parts:
            if not isinstance(part, Unit):
                raise TypeError(f"parts holds {part!r}: every part must be a unit such as Bernoulli(500)")
        super().__init__(sum(part.size for part in parts))
        self.parts = nn.ModuleList(copy.deepcopy(part) for part in parts)
        self.has_energy = all(part.has_energy for part in parts)
        self.capturable = all("capturable" in vars(type(part)) and part.capturable for part in parts)
        self.draws_from_mean = all(part.draws_from_mean for part in parts)
        self.support = (min(part.support[0] for part in parts), max(part.support[1] for part in parts))
        self.suggested_learning_rate = min(part.suggested_learning_rate for part in parts)
        self.learning_rate_factor = min(part.learning_rate_factor for part in parts)

    def log_partition(self, field: Tensor) -> Tensor:
        return self._sum(lambda part, columns: part.log_partition(columns), field)

    def log_base(self, x: Tensor) -> Tensor:
        return self._sum(lambda part, columns: part.log_base(columns), x)

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return written(self._concatenate(lambda part, columns: part.mean(columns), field), out)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        means = [None] * len(self.parts) if mean is None else [columns for _, columns in self._split(mean)]
        drawn = [
            part.sample(columns, mean=known, generator=generator)
            for (part, columns), known in zip(self._split(field), means, strict=True)
        ]
        return written(torch.cat(drawn, -1), out)

    def mode(self, mean: Tensor) -> Tensor:
        return self._concatenate(lambda part, columns: part.mode(columns), mean)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return self._concatenate(lambda part, columns: part.field_of_mean(columns), mean)

    def activation(self) -> nn.Module:
        return _ByColumns([part.size for part in self._units()], [part.activation() for part in self._units()])

    @property
    def cardinality(self) -> int | None:
        product = 1
        for part in self._units():
            if part.cardinality is None:
                return None
            product *= part.cardinality
        return product

    def states(self, index: Tensor) -> Tensor:
        columns = []
        for part in self._units():
            count = part.cardinality
            if count is None:
                return part.states(index)
            columns.append(part.states(index % count))
            index = index // count
        return torch.cat(columns, -1)

    @property
    def variables(self) -> int:
        return sum(part.variables for part in self._units())

    def variable(self, place: int) -> tuple[slice, Tensor]:
        first = 0
        for part in self._units():
            if place < part.variables:
                columns, states = part.variable(place)
                return slice(first + columns.start, first + columns.stop), states
            first, place = first + part.size, place - part.variables
        raise IndexError(f"{self} have no variable with the number {place}")

    def tails(self) -> Tails:
        precision, bounded, nonnegative, exact = zip(*(part.tails() for part in self._units()), strict=True)
        return Tails(torch.cat(precision), torch.cat(bounded), torch.cat(nonnegative), all(exact))

    def own_gradient(self, x: Tensor, *, field: Tensor | None = None) -> dict[str, Tensor]:
        fields = [None] * len(self.parts) if field is None else [columns for _, columns in self._split(field)]
        return {
            f"parts.{place}.{name}": gradient
            for place, ((part, columns), known) in enumerate(zip(self._split(x), fields, strict=True))
            for name, gradient in part.own_gradient(columns, field=known).items()
        }

    def constrain_data(self, x: Tensor, name: str) -> None:
        first = 0
        for part, columns in self._split(x):
            part.constrain_data(columns, f"{name}[:, {first}:{first + part.size}]")
            first += part.size

    def config(self) -> dict[str, Any]:
        return {"unit": type(self).__name__, "parts": [part.config() for part in self._units()]}

    @classmethod
    def from_arguments(cls, arguments: dict[str, Any]) -> Self:
        return cls(*(from_config(part) for part in arguments["parts"]))

    def extra_repr(self) -> str:
        return ", ".join(map(str, self._units()))

    def _units(self) -> list[Unit]:
        return [part for part in self.parts if isinstance(part, Unit)]

    def _split(self, x: Tensor) -> list[tuple[Unit, Tensor]]:
        units = self._units()
        return list(zip(units, torch.split(x, [part.size for part in units], -1), strict=True))

    def _sum(self, function: Callable[[Unit, Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.stack([function(part, columns) for part, columns in self._split(x)]).sum(0)

    def _concatenate(self, function: Callable[[Unit, Tensor], Tensor], x: Tensor) -> Tensor:
        return torch.cat([function(part, columns) for part, columns in self._split(x)], -1)


class _ByColumns(nn.Module):
    """Applies one activation to each of several adjoining column ranges."""

    def __init__(self, sizes: list[int], activations: list[nn.Module]) -> None:
        super().__init__()
        self.sizes = sizes
        self.activations = nn.ModuleList(activations)

    def forward(self, x: Tensor) -> Tensor:
        columns = torch.split(x, self.sizes, -1)
        return torch.cat([module(part) for module, part in zip(self.activations, columns, strict=True)], -1)
