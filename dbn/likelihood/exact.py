"""Log Z exactly: of small RBMs by enumeration, of Gaussian ones by a determinant."""

import copy
import math

import torch
from torch import Tensor

from dbn.normalisability import far_energy
from dbn.rbm import RBM, check_rbm

_CHUNK = 2**14  # states in memory at once
_MAX_STATES = 2**25


@torch.no_grad()
def exact_log_partition(rbm: RBM) -> Tensor:
    """log Z = log Σ_h exp(−F(h)) by enumeration of the side with fewer states, in float64.

    With Gaussian units on both sides log Z = ½(V + H) log 2π − ½ log det J + ½ (b, c)ᵀJ⁻¹(b, c), where J has the
    precisions on its diagonal and −W and −Wᵀ beside it.

    Args:
        rbm: a normalisable RBM with at least one side of no more than 2²⁵ joint states, or with Gaussian units on
            both sides.

    Returns:
        log Z in nats, a tensor without dimensions, in float64.

    Raises:
        TypeError: if `rbm` is no RBM, units have no energy, or neither side can be enumerated.
        ValueError: if both sides have too many states, or log Z is infinite.

    Example:
        >>> exact_log_partition(RBM(3, 2, weight_scale=0))  # (3 + 2) log 2
        tensor(3.4657, dtype=torch.float64)
    """
    check_rbm(rbm)
    if is_gaussian(rbm):
        return _gaussian_log_partition(in_double(rbm))
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
    exact = in_double(rbm)
    units, free_energy = {
        "visible": (exact.visible, exact.free_energy),
        "hidden": (exact.hidden, exact.hidden_free_energy),
    }[side]
    count = units.cardinality
    if count is None:
        raise TypeError(f"{units} has infinitely many states: enumerate the other side of the RBM")
    total = torch.tensor(-torch.inf, dtype=torch.float64, device=rbm.weight.device)
    for start in range(0, count, _CHUNK):
        index = torch.arange(start, min(start + _CHUNK, count), dtype=torch.int64, device=rbm.weight.device)
        total = torch.logaddexp(total, (-free_energy(units.states(index))).logsumexp(0))
    return total


def is_gaussian(rbm: RBM) -> bool:
    """Whether all units of both sides are Gaussian, so that log Z is a determinant."""
    return rbm.visible.tails().exact and rbm.hidden.tails().exact


def _gaussian_log_partition(rbm: RBM) -> Tensor:
    """log Z of an RBM in float64 with Gaussian units on both sides."""
    energy = far_energy(rbm.visible.tails(), rbm.hidden.tails(), rbm.weight)
    assert energy is not None
    factor, failed = torch.linalg.cholesky_ex(energy.form())
    if int(failed) or not rbm.normalisable():
        raise ValueError(
            "rbm is too close to losing its distribution for float64 (see RBM.normalisable): give smaller weights"
        )
    precisions = torch.cat(energy.precisions)
    biases = torch.cat([rbm.visible_bias, rbm.hidden_bias]) / precisions.sqrt()
    whitened = torch.linalg.solve_triangular(factor, biases[:, None], upper=False)
    total: Tensor = whitened.square().sum() / 2 - factor.diag().log().sum() - precisions.log().sum() / 2
    return total + len(biases) / 2 * math.log(2 * math.pi)


def in_double(rbm: RBM) -> RBM:
    """The same RBM in float64."""
    return copy.deepcopy(rbm).double()
