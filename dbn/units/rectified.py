"""Rectified units: the truncated Gaussian, which has an energy, and Nair and Hinton's noisy ReLU, which has none."""

import math
from typing import NoReturn

import torch
from torch import Generator, Tensor, nn

from dbn.units.unit import Tails, Unit, normal, uniform, written

_TAIL = -4.0  # below this field the direct formulae lose digits to cancellation
_FAR = 12.0  # above this field truncation changes no digit, and erfcx and its slope would overflow
_LEVELS = 24  # of the continued fraction, which give all digits from −_TAIL on
_LEAST = 1e-9  # mean that samples are drawn by
_FAR_LEVELS = 6  # which give all digits from _FAR on


class ReLU(Unit):
    """Non-negative units with base measure exp(−x²/2), x ≥ 0: a Gaussian N(η, 1) truncated at zero.

    A(η) = Σ log √(π/2) erfcx(−ηᵢ/√2), mean η + φ(η)/Φ(η).

    Source: C. Su, C. Huang, L. Carin (2016), Learning sigmoid belief networks via Monte Carlo expectation
    maximization (truncated Gaussian units); J. Tubiana, R. Monasson (2017), Emergence of compositional
    representations in restricted Boltzmann machines (ReLU potential).

    Args:
        size: number of units.

    Example:
        >>> ReLU(2).mean(torch.tensor([-30.0, 5.0]))
        tensor([0.0333, 5.0000])
    """

    support = (0.0, float("inf"))
    suggested_learning_rate = 0.01

    def log_partition(self, field: Tensor) -> Tensor:
        # log ∫ is ½η² + log √2π + log Φ(η) on the right and log √(π/2) + log erfcx(−η/√2) on the left, where the
        # first form would subtract two large numbers. Far on the left the slope of erfcx subtracts them too, and log ∫
        # is −log 1/R(−η), with R the Mills ratio. Each part sees only fields on which its derivative is finite.
        # `where` and not `clamp`, whose derivative at the bound itself is 0: fields of exactly 0 are common.
        left, far = field <= 0, field < -_FAR
        right = torch.where(left, 0.0, field)
        above = right.square() / 2 + math.log(2 * math.pi) / 2 + torch.special.log_ndtr(right)
        near = torch.where(left & ~far, field, 0.0)
        below = math.log(math.pi / 2) / 2 + torch.special.erfcx(-near / math.sqrt(2)).log()
        distance = torch.where(far, -field, _FAR)
        tail = -(distance + _tail_mean(distance, _FAR_LEVELS)).log()
        return torch.where(far, tail, torch.where(left, below, above)).sum(-1)

    def log_base(self, x: Tensor) -> Tensor:
        return -x.square().sum(-1) / 2

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return written(_truncated_mean(field), out)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        field = field if mean is None else _field_of_truncated_mean(mean.clamp(min=_LEAST))
        drawn = _truncated_by_inversion(field, generator)
        tail = field < _TAIL
        if bool(tail.any()):
            drawn[tail] = _truncated_by_rejection(field[tail], generator)
        return written(drawn, out)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return _field_of_truncated_mean(mean.clamp(min=1e-2))

    def tails(self) -> Tails:
        kind = type(self)
        if kind.log_base is not ReLU.log_base or kind.log_partition is not ReLU.log_partition:
            return super().tails()  # of a class with a base measure of its own
        ones = torch.ones(self.size, dtype=torch.float64, device="cpu")
        return Tails(ones, ~ones.bool(), ones.bool())

    def activation(self) -> nn.Module:
        return _TruncatedMean()


class NoisyReLU(Unit):
    """Rectified units with Gaussian noise before the rectification: x = max(0, η + N(0, σ(η))), mean max(0, η).

    The infinite tied stack of Bernoulli units that they approximate has no finite energy of this form: they train and
    encode, but every likelihood refuses them. Use `ReLU` for a likelihood.

    What is called the mean here, max(0, η), is not the mean of the samples. `sample` takes it for the field where it is
    above 0, and elsewhere the field that it is given, up to 0.

    Source: V. Nair, G. Hinton (2010), Rectified linear units improve restricted Boltzmann machines.

    Args:
        size: number of units.

    Raises:
        TypeError: from every energy, free energy and likelihood.

    Example:
        >>> NoisyReLU(2).mean(torch.tensor([-1.0, 2.0]))
        tensor([0., 2.])
    """

    has_energy = False
    support = (0.0, float("inf"))
    capturable = True
    suggested_learning_rate = 0.01

    def log_partition(self, field: Tensor) -> Tensor:
        self._refuse()

    def log_base(self, x: Tensor) -> Tensor:
        self._refuse()

    def mean(self, field: Tensor, *, out: Tensor | None = None) -> Tensor:
        return written(torch.relu(field), out)

    def draw(self, field: Tensor, mean: Tensor | None, generator: Generator | None, out: Tensor | None) -> Tensor:
        if mean is not None:  # max(0, η) tells nothing of fields below 0
            field = torch.where(mean > 0, mean, field.clamp(max=0))
        noise = normal(field, generator)
        return written(noise.mul_(torch.sigmoid(field).sqrt_()).add_(field).relu_(), out)

    def field_of_mean(self, mean: Tensor) -> Tensor:
        return mean

    def activation(self) -> nn.Module:
        return nn.ReLU()

    def _refuse(self) -> NoReturn:
        raise TypeError(f"{self} has no energy, so no likelihood exists: use ReLU units (truncated Gaussian) instead")


class _TruncatedMean(nn.Module):
    """η -> η + φ(η)/Φ(η), the mean of `ReLU` units."""

    def forward(self, field: Tensor) -> Tensor:
        return _truncated_mean(field)


def _truncated_mean(field: Tensor) -> Tensor:
    near, far = torch.where(field > _TAIL, field, _TAIL), torch.where(field > _TAIL, _TAIL, field)
    direct = near + math.sqrt(2 / math.pi) / torch.special.erfcx(-near.clamp(max=_FAR) / math.sqrt(2))
    return torch.where(field > _TAIL, direct, _tail_mean(-far, _LEVELS))


def _field_of_truncated_mean(mean: Tensor) -> Tensor:
    """The field with this mean, which is above 0, by bisection."""
    low, high = -1 / mean - 1, mean + 1
    for _ in range(60):
        middle = (low + high) / 2
        above = _truncated_mean(middle) > mean
        low, high = torch.where(above, low, middle), torch.where(above, middle, high)
    return (low + high) / 2


def _tail_mean(distance: Tensor, levels: int) -> Tensor:
    # Laplace's continued fraction of the Mills ratio, 1/R(t) − t = 1/(t + 2/(t + 3/(t + …))), nothing subtracted.
    fraction = distance
    for level in range(levels, 1, -1):
        fraction = distance + level / fraction
    return fraction.reciprocal()


def _truncated_by_inversion(field: Tensor, generator: Generator | None) -> Tensor:
    # P(X > x) = Φ(η − x)/Φ(η) is uniform on (0, 1). A uniform of exactly 0 would land at infinity.
    field = field.clamp(min=_TAIL)
    survival = uniform(field, generator).clamp_(min=torch.finfo(field.dtype).eps / 4)
    # Φ by erfc: torch's ndtr is off by 4e-4 of its value at −4 in single precision.
    drawn: Tensor = field - torch.special.ndtri(survival.mul_(torch.special.erfc(-field / math.sqrt(2)) / 2))
    return drawn.clamp_(min=0)


def _truncated_by_rejection(field: Tensor, generator: Generator | None) -> Tensor:
    # C. Robert (1995), Simulation of truncated normal variables: x ~ Exp(−η), accepted with probability exp(−x²/2),
    # which is above 0.94 for η < −4. Exact however far the tail, in any precision.
    drawn = torch.empty_like(field)
    open_ = torch.arange(field.numel(), dtype=torch.int64, device=field.device)
    while open_.numel():
        proposal = torch.empty_like(field[open_]).exponential_(generator=generator) / -field[open_]
        accepted = uniform(proposal, generator) < (-proposal.square() / 2).exp()
        drawn[open_[accepted]] = proposal[accepted]
        open_ = open_[~accepted]
    return drawn
