"""Small machines in float64, and their exact answers by enumeration and quadrature without the library's formulae."""

import functools
import math
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from dbn.belief_net import DBN
from dbn.rbm import RBM
from dbn.units import Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, ReLU, Spin, Unit

#: Every kind of unit at a size whose states can be enumerated or integrated over.
UNITS: dict[str, Callable[[], Unit]] = {
    "bernoulli": lambda: Bernoulli(3),
    "spin": lambda: Spin(2),
    "categorical": lambda: Categorical(3),
    "groups": lambda: Categorical(6, classes=3),
    "gaussian": lambda: Gaussian(2),
    "precise": lambda: Gaussian(2, precision=torch.tensor([0.5, 3.0])),
    "learned": lambda: Gaussian(2, precision=torch.tensor([2.0, 0.7]), learned=True),
    "relu": lambda: ReLU(2),
    "labels": lambda: Joint(Bernoulli(2), Categorical(3)),
    "mixed": lambda: Joint(Spin(1), Gaussian(1, precision=1.5, learned=True), ReLU(1)),
}
ENUMERABLE = ("bernoulli", "spin", "categorical", "groups", "labels")
PAIRS = [(visible, hidden) for visible in UNITS for hidden in UNITS]
ENUMERABLE_PAIRS = [(visible, hidden) for visible in ENUMERABLE for hidden in ENUMERABLE]
HALF_ENUMERABLE_PAIRS = [pair for pair in PAIRS if set(pair) & set(ENUMERABLE)]


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def unit(name: str) -> Unit:
    return NoisyReLU(2) if name == "noisy" else UNITS[name]().double()


def machine(visible: str | Unit, hidden: str | Unit, *, scale: float = 0.3, seed: int = 0) -> RBM:
    """An RBM with random weights and biases of this scale; beyond about 0.3 two real sides have no finite Z."""
    sides = (unit(side) if isinstance(side, str) else side for side in (visible, hidden))
    rbm = RBM(*sides, weight_scale=0, seed=0).double()
    draw = generator(seed)
    with torch.no_grad():
        for parameter in (rbm.weight, rbm.visible_bias, rbm.hidden_bias):
            parameter.normal_(0, scale, generator=draw)
    return rbm


def stack_of(*names, scale=0.8):
    """A stack with random parameters, in float64."""
    stack = DBN([unit(name) for name in names]).double()
    for place, rbm in enumerate(stack.layers):
        rbm.load_state_dict(machine(rbm.visible, rbm.hidden, scale=scale, seed=place).state_dict())
    return stack


def two_modes() -> RBM:
    """Two modes of equal weight, all units off or on, that Gibbs sampling hardly leaves."""
    rbm = RBM(8, 1).double()
    with torch.no_grad():
        rbm.weight.fill_(6.0)
        rbm.visible_bias.fill_(-3.0)
        rbm.hidden_bias.fill_(-24.0)
    return rbm


def rows(units: Unit, n: int, seed: int = 0) -> Tensor:
    """n rows of data that these units can take: (n, size)."""
    with torch.no_grad():
        return units.sample(torch.zeros(n, units.size, dtype=torch.float64), generator=generator(seed))


def measure(units: Unit, field: Tensor) -> tuple[Tensor, Tensor]:
    """Points x (m, size) and log w (m,) with Σ w f(x) = ∫ f(x) dx for integrands like those at `field` (size,).

    Real units get 0.4 standard deviations between points of a trapezoid of ±10, which is exact to rounding; rectified
    units 100 points of Gauss and Legendre where the integrand is not negligible.
    """
    if isinstance(units, Joint):
        parts = torch.split(field, [part.size for part in units.parts])
        return _product([measure(part, columns) for part, columns in zip(units.parts, parts, strict=True)])
    if isinstance(units, Gaussian):
        return _product([_trapezoid(*pair) for pair in zip(field.tolist(), units.precision.tolist(), strict=True)])
    if isinstance(units, ReLU):
        return _product([_half_line(value) for value in field.tolist()])
    if isinstance(units, Categorical):
        return _product([_counted(torch.eye(units.classes))] * (units.size // units.classes))
    low = -1.0 if isinstance(units, Spin) else 0.0
    return _product([_counted(torch.tensor([[low], [1.0]]))] * units.size)


def log_base(units: Unit, x: Tensor) -> Tensor:
    """Logarithm of the base measure, written out: (m, size) -> (m,)."""
    if isinstance(units, Joint):
        columns = torch.split(x, [part.size for part in units.parts], -1)
        return sum(log_base(part, column) for part, column in zip(units.parts, columns, strict=True))
    precision = units.precision.detach() if isinstance(units, Gaussian) else float(isinstance(units, ReLU))
    return -(precision * x.square()).sum(-1) / 2


def distribution(units: Unit, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points (m, size), their probabilities (m,) at `field` (size,), and log ∫ exp(log_base + η·x) dx."""
    points, log_weights = measure(units, field)
    log_mass = log_base(units, points) + points @ field + log_weights
    return points, log_mass.softmax(0), log_mass.logsumexp(0)


def moments(units: Unit, field: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, variance and fourth central moment of every unit at `field`: three of (size,)."""
    if isinstance(units, NoisyReLU):  # max(0, z) for z ~ N(η, σ(η)), on a fine grid for the kink
        noise = torch.linspace(-9, 9, 20_001, dtype=torch.float64)[:, None]
        points, p = (field + field.sigmoid().sqrt() * noise).relu(), (-noise[:, 0].square() / 2).softmax(0)
    else:
        points, p, _ = distribution(units, field)
    mean = p @ points
    return mean, p @ (points - mean).square(), p @ (points - mean) ** 4


def log_integral_over_hidden(rbm: RBM, v: Tensor) -> Tensor:
    """log ∫ exp(−E(v, h)) dh row by row: (n, V) -> (n,)."""
    return torch.stack([_log_integral(rbm.hidden, field, functools.partial(_energy_at_v, rbm, row))
                        for row, field in zip(v, rbm.hidden_field(v).detach(), strict=True)])  # fmt: skip


def log_integral_over_visible(rbm: RBM, h: Tensor) -> Tensor:
    """log ∫ exp(−E(v, h)) dv row by row: (n, H) -> (n,)."""
    return torch.stack([_log_integral(rbm.visible, field, functools.partial(_energy_at_h, rbm, row))
                        for row, field in zip(h, rbm.visible_field(h).detach(), strict=True)])  # fmt: skip


def mild_field(size, seed=0):
    return torch.empty(size, dtype=torch.float64).normal_(generator=generator(seed))


def states(units: Unit) -> Tensor:
    """All joint states of units that have finitely many, in an order of this module's own."""
    return measure(units, torch.zeros(units.size, dtype=torch.float64))[0]


@torch.no_grad()
def brute_log_partition(rbm: RBM) -> Tensor:
    """log ∫∫ exp(−E(v, h)) dv dh, of an RBM with a side that can be enumerated."""
    if rbm.hidden.cardinality is not None:
        return log_integral_over_visible(rbm, states(rbm.hidden)).logsumexp(0)
    return log_integral_over_hidden(rbm, states(rbm.visible)).logsumexp(0)


@torch.no_grad()
def visible_probabilities(rbm: RBM) -> tuple[Tensor, Tensor]:
    """Visible states (m, V) and p(v) (m,), from energies alone."""
    v = states(rbm.visible)
    return v, log_integral_over_hidden(rbm, v).softmax(0)


def log_likelihood(rbm: RBM, x: Tensor) -> Tensor:
    """Mean log p(x) with an enumerated Z, differentiable in every parameter."""
    if rbm.hidden.cardinality is not None:
        log_partition = (-rbm.hidden_free_energy(states(rbm.hidden))).logsumexp(0)
    else:
        log_partition = (-rbm.free_energy(states(rbm.visible))).logsumexp(0)
    return -rbm.free_energy(x).mean() - log_partition


def standard_error(estimate) -> float:
    """Standard error of log Ẑ: the relative one of Ẑ."""
    return math.sqrt((estimate.chains / estimate.ess - 1) / estimate.chains) + 1e-9


def draw(points: Tensor, p: Tensor, n: int, seed: int = 0) -> Tensor:
    """n independent exact draws of the points: (n, size)."""
    return points[torch.multinomial(p, n, replacement=True, generator=generator(seed))]


def assert_distributed(x: Tensor, points: Tensor, p: Tensor) -> None:
    """Law: the rows of x are points, and their total variation to p is below 4 Σ √(p(1 − p)/n) / 2."""
    same = (x[:, None] == points).all(-1)
    assert bool((same.sum(1) == 1).all()), "a row is none of the states"
    variation = (same.double().mean(0) - p).abs().sum() / 2
    assert variation < 4 * (p * (1 - p) / len(x)).sqrt().sum() / 2


def assert_moments(units, field, x):
    """Law: rows of x have the mean and variance of theory at `field`, and no correlation between independent columns,
    within 5 standard errors."""
    mean, variance, fourth = moments(units, field.double())
    n = len(x)
    assert bool(((x.double().mean(0) - mean).abs() <= 5 * (variance / n).sqrt()).all()), "mean"
    spread = x.double().var(0)
    error = ((fourth - variance.square()).clamp(min=0) / n).sqrt() + variance / n
    assert bool(((spread - variance).abs() <= 5 * error).all()), "variance"
    if units.size > 1 and not isinstance(units, Categorical | Joint):
        products = torch.cov(((x.double() - mean) / variance.sqrt()).T, correction=0)
        off = products - products.diag().diag()
        assert bool((off.abs() <= 5.5 / n**0.5).all()), "columns"


def _energy_at_v(rbm: RBM, v: Tensor, h: Tensor) -> Tensor:
    return rbm.energy(v.expand(len(h), -1), h)


def _energy_at_h(rbm: RBM, h: Tensor, v: Tensor) -> Tensor:
    return rbm.energy(v, h.expand(len(v), -1))


def _log_integral(units: Unit, field: Tensor, energy: Callable[[Tensor], Tensor]) -> Tensor:
    points, log_weights = measure(units, field)
    return (log_weights - energy(points)).logsumexp(0)


def _product(axes: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    points, log_weights = axes[0]
    for more, log_more in axes[1:]:
        left, right = (grid.flatten() for grid in torch.meshgrid(
            torch.arange(len(points)), torch.arange(len(more)), indexing="ij"))  # fmt: skip
        points, log_weights = torch.cat([points[left], more[right]], 1), log_weights[left] + log_more[right]
    return points, log_weights


def _counted(points: Tensor) -> tuple[Tensor, Tensor]:
    return points.double(), torch.zeros(len(points), dtype=torch.float64)


def _trapezoid(field: float, precision: float) -> tuple[Tensor, Tensor]:
    steps = torch.linspace(-10, 10, 51, dtype=torch.float64)[:, None] / precision**0.5
    return field / precision + steps, torch.full((51,), float(steps[1] - steps[0]), dtype=torch.float64).log()


def _half_line(field: float) -> tuple[Tensor, Tensor]:
    low, high = max(0.0, field - 12), field + 12 if field > -3 else 45 / -field
    nodes, weights = (torch.from_numpy(values) for values in np.polynomial.legendre.leggauss(100))
    width = (high - low) / 2
    return low + width * (nodes[:, None] + 1), (width * weights).log()
