"""Log Z of small machines, by enumeration."""

import copy
import math

import torch
from torch import Tensor

from dbn.arguments import check_instance
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
        TypeError: where `rbm` is no machine, units have no energy, or neither side can be enumerated.
        ValueError: where both sides have too many states.

    Example:
        >>> exact_log_partition(RBM(3, 2, weight_scale=0))  # (3 + 2) log 2
        tensor(3.4657, dtype=torch.float64)
    """
    check_instance(rbm, RBM, "rbm", "a machine, such as RBM(784, 20)")
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
    machine = in_double(rbm)
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


def in_double(rbm: RBM) -> RBM:
    """The same machine in float64."""
    return copy.deepcopy(rbm).double()
