"""How probable data are under a machine."""

import copy
import math
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from dbn.arguments import as_generator, as_rows, check_finite, whole_number
from dbn.rbm import RBM

_CHUNK = 2**14  # states in memory at once
_MAX_STATES = 2**25


@torch.no_grad()
def exact_log_partition(rbm: RBM) -> Tensor:
    """log Z = log Σ_h exp(−F(h)) by enumeration of the side with fewer states, in float64.

    Args:
        rbm: a machine with an energy and at least one side of no more than 2²⁵ joint states.

    Returns:
        log Z in nats, a tensor without dimensions, in float64.

    Raises:
        TypeError: where units have no energy, or neither side can be enumerated.
        ValueError: where both sides have too many states.

    Example:
        >>> exact_log_partition(RBM(3, 2, weight_scale=0))  # (3 + 2) log 2
        tensor(3.4657, dtype=torch.float64)
    """
    rbm.free_energy(torch.zeros(1, rbm.visible.size))  # units without an energy refuse, by name
    counts = {"visible": rbm.visible.cardinality, "hidden": rbm.hidden.cardinality}
    finite = {side: count for side, count in counts.items() if count is not None}
    if not finite:
        raise TypeError(f"{rbm.visible} and {rbm.hidden} both have infinitely many states: log Z cannot be enumerated")
    side = min(finite, key=lambda name: finite[name])
    if finite[side] > _MAX_STATES:
        exponent = math.log2(finite[side])  # the count itself may be beyond any float
        raise ValueError(f"the {side} side has 2**{exponent:.1f} states, more than 2**25: log Z cannot be enumerated")
    return log_partition_over(rbm, side)


@torch.no_grad()
def log_partition_over(rbm: RBM, side: str) -> Tensor:
    """log Z by enumeration of the "visible" or the "hidden" side, whichever is named; see `exact_log_partition`."""
    machine = _in_double(rbm)
    units, free_energy = {
        "visible": (machine.visible, machine.free_energy),
        "hidden": (machine.hidden, machine.hidden_free_energy),
    }[side]
    count = units.cardinality
    if count is None:
        raise TypeError(f"{units} has infinitely many states: enumerate the other side of the machine")
    total = torch.tensor(-torch.inf, dtype=torch.float64, device=rbm.weight.device)
    for start in range(0, count, _CHUNK):
        index = torch.arange(start, min(start + _CHUNK, count), device=rbm.weight.device)
        total = torch.logaddexp(total, (-free_energy(units.states(index))).logsumexp(0))
    return total


class LogPartition(NamedTuple):
    """An estimate of log Z in nats, which `float` gives alone.

    `low` and `high` are log(Ẑ ± 3σ̂), −∞ where the lower bound is not positive; `ess` is the effective number of chains,
    (Σw)²/Σw²; `base` names the distribution that the chains start from.
    """

    value: float
    low: float
    high: float
    ess: float
    base: str
    chains: int
    temperatures: int

    def __float__(self) -> float:
        return self.value


@torch.no_grad()
def ais(
    rbm: RBM,
    *,
    chains: int = 100,
    temperatures: int | Tensor = 10_000,
    base: str | Tensor = "visible_bias",
    progress: bool = True,
    generator: Generator | None = None,
    seed: int | None = None,
) -> LogPartition:
    """Estimate log Z by annealed importance sampling from independent visible units to the machine.

    Distribution β has weights βW, visible biases (1 − β)a + βb and hidden biases βc, with a the biases of the base.
    log w = Σ_k log f_k(v_{k−1})/f_{k−1}(v_{k−1}), each state drawn by a transition that leaves f_{k−1} invariant, and
    Ẑ = Z_base · mean w. The field c + Wᵀv that a weight needs is the one that the next hidden states are drawn at, so a
    temperature costs two matrix products.

    Source: R. Neal (2001), Annealed importance sampling; R. Salakhutdinov, I. Murray (2008), On the quantitative
    analysis of deep belief networks.

    Args:
        rbm: a machine with an energy.
        chains: number of independent chains.
        temperatures: a number of equally spaced β after 0, or all β as a tensor that rises from 0 to 1.
        base: "visible_bias" (the machine's own b), "zeros", or biases a (V,) such as
            `rbm.visible.field_of_mean(x.mean(0))`.
        progress: show a bar.
        generator: draws the chains; it must be on the device of the machine.
        seed: likewise, as a number.

    Raises:
        TypeError: where units have no energy.
        ValueError: for an unknown base, biases of another width, or β that do not rise from 0 to 1.

    Example:
        >>> estimate = ais(RBM(3, 2, weight_scale=0), chains=10, temperatures=5, progress=False, seed=0)
        >>> round(estimate.value, 4)  # exact without weights: (3 + 2) log 2
        3.4657

    Not to be trusted on its own: on average it is too low, so the model looks too good, and neither the interval nor
    the effective sample size knows of modes that no chain has found. Compare several bases.
    """
    name, biases = _base(rbm, base)
    betas = _ladder(temperatures)
    generator = as_generator(generator, seed, rbm.weight.device)
    field_of = biases.expand(whole_number(chains, "chains"), -1)
    slope = rbm.visible_bias - biases
    moves = bool(slope.any())
    log_z = rbm.visible.log_partition(biases) + rbm.hidden.log_partition(torch.zeros_like(rbm.hidden_bias))
    v = rbm.visible.sample(field_of, generator=generator)
    field = v.new_empty(chains, rbm.hidden.size)
    log_weights = torch.zeros(chains, dtype=torch.float64, device=v.device)
    for beta, following in tqdm(list(pairwise(betas)), desc="AIS", unit="β", disable=not progress, dynamic_ncols=True):
        torch.addmm(rbm.hidden_bias, v, rbm.weight, out=field)
        if moves:
            log_weights += (following - beta) * (v @ slope)
        log_weights -= rbm.hidden.log_partition(beta * field)
        log_weights += rbm.hidden.log_partition(field.mul_(following))
        h = rbm.hidden.sample(field, generator=generator, out=field)
        torch.addmm(biases + following * slope, h, rbm.weight.t(), alpha=following, out=v)
        v = rbm.visible.sample(v, generator=generator, out=v)
    return _summary(log_weights, float(log_z), name, len(betas) - 1)


def _base(rbm: RBM, base: str | Tensor) -> tuple[str, Tensor]:
    if isinstance(base, Tensor):
        if base.shape != rbm.visible_bias.shape:
            raise ValueError(f"base has shape {tuple(base.shape)}: give one bias for each of {rbm.visible.size} units")
        return "given", base.to(rbm.visible_bias)
    if base not in ("visible_bias", "zeros"):
        raise ValueError(f'base is {base!r}: choose "visible_bias" or "zeros", or give the biases')
    own = rbm.visible_bias.detach()
    return base, own if base == "visible_bias" else torch.zeros_like(own)


def _ladder(temperatures: int | Tensor) -> list[float]:
    if not isinstance(temperatures, Tensor):
        return torch.linspace(0, 1, whole_number(temperatures, "temperatures") + 1, dtype=torch.float64).tolist()
    betas: list[float] = temperatures.double().tolist()
    if len(betas) < 2 or betas[0] != 0 or betas[-1] != 1 or any(a >= b for a, b in pairwise(betas)):
        raise ValueError("temperatures must rise from 0 to 1: give a number of them, or such a tensor")
    return betas


def _summary(log_weights: Tensor, log_z: float, base: str, temperatures: int) -> LogPartition:
    largest = log_weights.max()
    weights = (log_weights - largest).exp()
    mean = float(weights.mean())
    spread = 3 * float(weights.std()) / math.sqrt(len(weights)) if len(weights) > 1 else math.inf
    ess = float(weights.sum().square() / weights.square().sum())
    start = log_z + float(largest)
    low = start + math.log(mean - spread) if mean > spread else -math.inf
    high = start + math.log(mean + spread) if spread < math.inf else math.inf
    return LogPartition(start + math.log(mean), low, high, ess, base, len(weights), temperatures)


@torch.no_grad()
def log_likelihood(rbm: RBM, x: Tensor, log_partition: LogPartition | Tensor | float) -> Tensor:
    """log p(x) = −F(x) − log Z, in nats a row; a log-density where visible units are real.

    Args:
        rbm: a machine with an energy.
        x: visible rows (n, V).
        log_partition: log Z of this machine as it is now, in nats.

    Returns:
        (n,), in float64.

    Raises:
        TypeError: where units have no energy.
        ValueError: where the width of x is not V, or rows lie outside the support.

    Example:
        >>> rbm = RBM(3, 2, weight_scale=0)
        >>> log_likelihood(rbm, torch.ones(1, 3), exact_log_partition(rbm)).exp()
        tensor([0.1250], dtype=torch.float64)

    No better than log Z is: an estimate of log Z that is too low makes every row look too probable.
    """
    machine = _in_double(rbm)
    rows = as_rows(x, rbm.visible.size, like=machine.weight, name="x")
    check_finite(rows, "x")
    rbm.visible.constrain_data(rows, "x")
    return -machine.free_energy(rows) - float(log_partition)


def _in_double(rbm: RBM) -> RBM:
    return copy.deepcopy(rbm).double()
