"""Units with finitely many states: Bernoulli, Spin and Categorical."""

import math
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.nn import functional

from dbn.units.unit import Unit, uniform, written

_FACTORS = 100  # factors of at least 1/2 whose product single precision still holds
_BORDER = 1e-3  # means are kept this far from 0 and 1 before a logarithm: a field of ±6.9 at most


class Bernoulli(Unit):
    """Binary units in {0, 1}: A(η) = Σ softplus(ηᵢ), mean σ(η).

    Values between 0 and 1 are accepted as data and read as probabilities (grey pixels).

    Source: P. Smolensky (1986), Information processing in dynamical systems: foundations of harmony theory.

    Args:
        size: number of units.

    Example:
        >>> Bernoulli(2).mean(torch.tensor([0.0, 100.0]))
        tensor([0.5000, 1.0000])
    """

    support = (0.0, 1.0)
    capturable = True
    draws_from_mean = True

    def log_partition(self, field: Tensor) -> Tensor:
        return _summed_softplus(field)

    def log_base(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.sigmoid(field, out=out)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        return _draw(self.mean(field, out=out) if mean is None else mean, generator, out)

    def mode(self, mean: Tensor) -> Tensor:
        return (mean > 0.5).to(mean.dtype)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return torch.logit(mean, eps=_BORDER)

    def activation(self) -> nn.Module:
        return nn.Sigmoid()

    @property
    def cardinality(self) -> int:
        return int(2**self.size)

    def states(self, index: Tensor) -> Tensor:
        return _digits(index, base=2, length=self.size).double()

    def variable(self, place: int) -> tuple[slice, Tensor]:
        return slice(place, place + 1), torch.tensor([[0.0], [1.0]], dtype=torch.float64, device="cpu")


class Spin(Unit):
    """Ising spins in {−1, +1}: A(η) = Σ log 2cosh ηᵢ, mean tanh η.

    Args:
        size: number of units.

    Example:
        >>> Spin(1).states(torch.arange(2))
        tensor([[-1.],
                [ 1.]], dtype=torch.float64)
    """

    support = (-1.0, 1.0)
    capturable = True
    draws_from_mean = True
    learning_rate_factor = 0.25

    def log_partition(self, field: Tensor) -> Tensor:
        return torch.logaddexp(field, -field).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return torch.tanh(field, out=out)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        # Without the mean P(x = 1) is σ(2η), which keeps the digits of small probabilities that (1 + tanh η)/2 rounds.
        return _draw(torch.sigmoid(2 * field) if mean is None else (1 + mean) / 2, generator, out).mul_(2).sub_(1)

    def mode(self, mean: Tensor) -> Tensor:
        return (mean > 0).to(mean.dtype).mul_(2).sub_(1)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return torch.logit((1 + mean) / 2, eps=_BORDER) / 2

    def activation(self) -> nn.Module:
        return nn.Tanh()

    @property
    def cardinality(self) -> int:
        return int(2**self.size)

    def states(self, index: Tensor) -> Tensor:
        return 2 * _digits(index, base=2, length=self.size).double() - 1

    def variable(self, place: int) -> tuple[slice, Tensor]:
        return slice(place, place + 1), torch.tensor([[-1.0], [1.0]], dtype=torch.float64, device="cpu")


class Categorical(Unit):
    """One-hot groups of K columns (softmax or Potts units): A(η) = Σ over groups of logsumexp η, mean softmax η.

    Data are one-hot rows, or rows of probabilities, group after group.

    Source: R. Salakhutdinov, A. Mnih, G. Hinton (2007), Restricted Boltzmann machines for collaborative filtering.

    Args:
        size: number of columns, groups × K.
        classes: K, the columns of a group; all columns are one group by default.

    Raises:
        ValueError: if K does not divide the number of columns.

    Example:
        >>> Categorical(6, classes=3).mean(torch.zeros(6))
        tensor([0.3333, 0.3333, 0.3333, 0.3333, 0.3333, 0.3333])
    """

    support = (0.0, 1.0)
    capturable = True
    draws_from_mean = True

    def __init__(self, size: int, classes: int | None = None) -> None:
        super().__init__(size)
        self.classes = size if classes is None else classes
        if not isinstance(self.classes, int) or self.classes < 2 or size % self.classes:
            raise ValueError(f"classes is {classes} and size is {size}: K must be at least 2 and divide the columns")

    @property
    def groups(self) -> int:
        """Number of one-hot groups."""
        return self.size // self.classes

    def log_partition(self, field: Tensor) -> Tensor:
        return self._grouped(field).logsumexp(-1).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        return torch.zeros_like(x[..., 0])

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return written(self._grouped(field).softmax(-1).flatten(-2), out)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        mean = self.mean(field) if mean is None else mean
        cumulative = self._grouped(mean).cumsum(-1)
        # Scaling by the last sum, not by 1, keeps a rounded total from choosing a column that does not exist.
        threshold = uniform(cumulative[..., :1], generator) * cumulative[..., -1:]
        chosen = (cumulative <= threshold).sum(-1, keepdim=True).clamp_(max=self.classes - 1)
        return written(torch.zeros_like(cumulative).scatter_(-1, chosen, 1).flatten(-2), out)

    def mode(self, mean: Tensor) -> Tensor:
        grouped = self._grouped(mean)
        return torch.zeros_like(grouped).scatter_(-1, grouped.argmax(-1, keepdim=True), 1).flatten(-2)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return mean.clamp(min=_BORDER).log()

    def activation(self) -> nn.Module:
        if self.groups == 1:
            return nn.Softmax(-1)
        return nn.Sequential(nn.Unflatten(-1, (self.groups, self.classes)), nn.Softmax(-1), nn.Flatten(-2))

    @property
    def cardinality(self) -> int:
        return int(self.classes**self.groups)

    def states(self, index: Tensor) -> Tensor:
        digits = _digits(index, base=self.classes, length=self.groups)
        return functional.one_hot(digits, self.classes).double().flatten(-2)

    @property
    def variables(self) -> int:
        return self.groups

    def variable(self, place: int) -> tuple[slice, Tensor]:
        first = place * self.classes
        return slice(first, first + self.classes), torch.eye(self.classes, dtype=torch.float64, device="cpu")

    def constrain_data(self, x: Tensor, name: str) -> None:
        super().constrain_data(x, name)
        totals = self._grouped(x.detach()).sum(-1)
        worst = float((totals - 1).abs().max()) if totals.numel() else 0.0
        if worst > 1e-3:
            raise ValueError(
                f"{name} has groups of {self.classes} columns that do not sum to 1 (off by {worst:g}), but {self} "
                "takes one-hot groups: encode each variable as one column per class"
            )

    def config(self) -> dict[str, Any]:
        return {**super().config(), "classes": self.classes}

    def extra_repr(self) -> str:
        return f"{self.size}, classes={self.classes}"

    def _grouped(self, x: Tensor) -> Tensor:
        return x.reshape(*x.shape[:-1], self.groups, self.classes)


def _summed_softplus(x: Tensor) -> Tensor:
    """Σ softplus(xᵢ) over the last dimension: (…, n) -> (…,).

    Where no gradient is recorded on a CPU, as Σ max(xᵢ, 0) − log Π σ(|xᵢ|) with one logarithm for a hundred numbers,
    which is four times as fast; each number adds at most the rounding of 1.
    """
    if torch.is_grad_enabled() or x.device.type != "cpu" or x.dtype not in (torch.float32, torch.float64):
        return functional.softplus(x).sum(-1)
    size = x.abs()
    # Not x.clamp(min=0), whose forward-mode derivative at 0 is not ½.
    total = (x.sum(-1) + size.sum(-1)) / 2
    for factors in torch.split(size.sigmoid_(), _FACTORS, -1):
        total -= factors.prod(-1).log_()
    return total


def _draw(p: Tensor, generator: Generator | None, out: Tensor | None = None) -> Tensor:
    """1 with probability p and else 0, each by itself: u < p for u uniform in [0, 1); `out` may be p itself.

    In float32 on a CPU, u is 16 random bits of each number over a fraction of its row, which costs a third of 24 bits a
    number. The probability of a 1 is p within 2⁻²⁴, as with torch's own uniform numbers, and exact at 0 and 1; rows are
    independent, and two numbers of one row are correlated by at most 2⁻¹⁶.
    """
    if p.dtype != torch.float32 or p.device.type != "cpu" or not p.dim():
        return written(uniform(p, generator).lt_(p), out)
    *rows, columns = p.shape
    bits = torch.empty(*rows, -(-columns // 4) * 4, dtype=torch.int16, device=p.device)
    bits.view(torch.int64).random_(-(2**63), None, generator=generator)
    # 2¹⁶ u = bits + 2¹⁵ + fraction < 2¹⁶ p, solved for the bits. Single precision keeps 8 bits of the fraction.
    fraction = torch.empty(*rows, 1, dtype=p.dtype, device=p.device)
    fraction.uniform_(-(2**15) - 1 + 2**-8, -(2**15), generator=generator)
    threshold = torch.add(fraction, p, alpha=2**16)
    out = torch.empty_like(threshold) if out is None else out
    return out.copy_(bits[..., :columns]).lt_(threshold)


def _digits(index: Tensor, *, base: int, length: int) -> Tensor:
    if length * math.log2(base) >= 63:
        raise ValueError(f"{base}**{length} states cannot be numbered: enumerate a smaller layer")
    powers = torch.tensor([base**place for place in range(length)], dtype=torch.int64, device=index.device)
    return index[:, None] // powers % base
