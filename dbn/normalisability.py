"""Whether an RBM has a distribution: whether ∫∫ exp(−E(v, h)) dv dh is finite."""

from itertools import combinations
from typing import NamedTuple

import torch
from torch import Tensor

from dbn.units import Tails

_EXHAUSTIVE = 12  # rectified columns up to which every subset of them is looked at
_SEARCHED = 500  # unbounded columns up to which a counterexample is searched for by descent
_STARTS, _DESCENT = 8, 100  # eigenvectors from which the search begins, and its steps
_POWER = 30  # products of the power iteration that finds the steepest direction
_ROUNDING = 8 * torch.finfo(torch.float64).eps  # a column, below which the sign of a margin is not known


class Normalisability(NamedTuple):
    """Whether an RBM is normalisable, and by how much.

    `verdict` is True if this is proven, False if the contrary is proven, None if neither is. The truth value
    of the tuple is True for a proof alone.

    `margin` is the smallest eigenvalue of I − SSᵀ with S = Γ_v^(−½) U Γ_h^(−½) over the unbounded columns: 1 without
    weights, whatever the units of the data. Γ are the precisions of the columns. U are their weights, with negative
    weights between two rectified units counted as 0. A margin above 0 is a proof. Without rectified units, a margin
    below 0 proves the contrary. The margin is infinite if a side is bounded, and NaN if a precision is unknown or
    no finite number.
    """

    verdict: bool | None
    margin: float

    def __bool__(self) -> bool:
        return self.verdict is True


class FarEnergy(NamedTuple):
    """The energy far from zero over the unbounded columns, ½|x|² + ½|y|² − xᵀSy with x = Γ_v^½ v and y = Γ_h^½ h.

    `weight` is S (V, H); `rectified` tells which columns of both sides take no values below 0.
    """

    weight: Tensor
    precisions: tuple[Tensor, Tensor]
    rectified: tuple[Tensor, Tensor]

    def bound(self) -> Tensor:
        """S with negative weights between two rectified units as 0; the energy with them is nowhere higher."""
        both = self.rectified[0][:, None] & self.rectified[1]
        return torch.where(both, self.weight.clamp(min=0), self.weight)

    def form(self) -> Tensor:
        """J, with the energy ½ zᵀJz of z = (x, y)."""
        size = sum(self.weight.shape)
        form = torch.eye(size, dtype=torch.float64, device=self.weight.device)
        count = len(self.weight)
        form[:count, count:], form[count:, :count] = -self.weight, -self.weight.t()
        return form

    def finite(self) -> bool:
        """Whether all of it is made of finite numbers."""
        return all(bool(part.isfinite().all()) for part in (self.weight, *self.precisions))

    def rounding(self) -> float:
        """Below which the sign of a margin is not known."""
        return _ROUNDING * sum(self.weight.shape) * max(1.0, float(self.weight.square().sum()))


def far_energy(visible: Tails, hidden: Tails, weight: Tensor) -> FarEnergy | None:
    """The energy far from zero of two layers with weights W (V, H); None if a side has no unbounded columns."""
    v, h = (torch.nonzero(~tails.bounded).flatten() for tails in (visible, hidden))
    if not len(v) or not len(h):
        return None
    device = weight.device
    gamma_v, gamma_h = visible.precision[v].to(device), hidden.precision[h].to(device)
    w = weight.detach().double()[v.to(device)][:, h.to(device)]
    scaled = gamma_v.rsqrt()[:, None] * w * gamma_h.rsqrt()
    return FarEnergy(scaled, (gamma_v, gamma_h), (visible.nonnegative[v].to(device), hidden.nonnegative[h].to(device)))


@torch.no_grad()
def margin_of(energy: FarEnergy | None) -> float:
    """The margin of `Normalisability`."""
    if energy is None or not energy.finite():
        return float("inf") if energy is None else float("nan")
    return 1 - float(torch.linalg.eigvalsh(_gram(energy.bound()))[-1])


@torch.no_grad()
def normalisability(visible: Tails, hidden: Tails, weight: Tensor) -> Normalisability:
    """Judge an RBM by the tails of its layers and its weights W (V, H).

    With real columns x and rectified columns r ≥ 0 of both sides, exp(−E) is integrable if J is positive definite over
    x, and the matrix M that is left over r once x is at its least is strictly copositive: rᵀMr > 0 for all r ≥ 0 but 0.
    It is not if zᵀJz < 0 for any such z. In between the biases decide, and the verdict is None.

    Source: W. Kaplan (2000), A test for copositive matrices.
    """
    energy = far_energy(visible, hidden, weight)
    margin = margin_of(energy)
    if energy is None:
        return Normalisability(True, margin)
    if not energy.finite():
        return Normalisability(None, margin)
    if margin > energy.rounding():
        return Normalisability(True, margin)
    if not bool(torch.cat(energy.rectified).any()):
        return Normalisability(False if margin < -energy.rounding() else None, margin)
    return Normalisability(False if _has_steep_direction(energy) else _decays(energy), margin)


@torch.no_grad()
def surely_improper(visible: Tails, hidden: Tails, weight: Tensor) -> bool:
    """Whether an RBM is proven not to be normalisable by its steepest direction, at a low price."""
    energy = far_energy(visible, hidden, weight)
    if energy is None or not energy.finite() or _is_definite(_identity_minus(_gram(energy.bound()))):
        return False
    if not bool(torch.cat(energy.rectified).any()):
        return margin_of(energy) < -energy.rounding()
    return _has_steep_direction(energy)


def _gram(weight: Tensor) -> Tensor:
    """SᵀS or SSᵀ, whichever is smaller."""
    return weight.t() @ weight if len(weight) > weight.shape[1] else weight @ weight.t()


def _identity_minus(matrix: Tensor) -> Tensor:
    return torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device) - matrix


def _is_definite(matrix: Tensor) -> bool:
    return not int(torch.linalg.cholesky_ex(matrix).info)


def _has_steep_direction(energy: FarEnergy) -> bool:
    """Whether a search finds unit vectors x, y in the cone with xᵀSy > 1, so that zᵀJz < 0 for z = (x, y).

    Given y, the best x is Sy kept in the cone, and likewise y given x, so that every step ascends. The search starts
    from the first singular vectors of the bound, and from the hidden units that pull hardest alone.
    """
    bound, s, (of_x, of_y) = energy.bound(), energy.weight, energy.rectified
    first = torch.ones(1, bound.shape[1], dtype=bound.dtype, device=bound.device)
    for _ in range(_POWER):
        first = _units(_in_cone(_in_cone(first @ bound.t(), of_x) @ bound, of_y))
    pulls = _in_cone(s.t(), of_x).norm(dim=1)
    alone = torch.eye(len(pulls), dtype=s.dtype, device=s.device)[pulls.topk(min(_STARTS, len(pulls))).indices]
    y = torch.cat([first, alone])
    for _ in range(_POWER):
        x = _units(_in_cone(y @ s.t(), of_x))
        y = _units(_in_cone(x @ s, of_y))
    return bool(((x @ s) * y).sum(1).max() > 1 + energy.rounding())


def _in_cone(x: Tensor, rectified: Tensor) -> Tensor:
    return torch.where(rectified, x.clamp(min=0), x)


def _units(x: Tensor) -> Tensor:
    """Rows scaled to length 1; zeros stay zeros."""
    lengths: Tensor = x.norm(dim=1, keepdim=True).clamp(min=torch.finfo(x.dtype).tiny)
    return x / lengths


def _decays(energy: FarEnergy) -> bool | None:
    """Whether zᵀJz > 0 for all z but 0 that are ≥ 0 where rectified; None if that is not decided."""
    form, rectified = energy.form(), torch.cat(energy.rectified)
    real = ~rectified
    rest = form[rectified][:, rectified]
    if bool(real.any()):
        over_real, between = form[real][:, real], form[real][:, rectified]
        least = float(torch.linalg.eigvalsh(over_real)[0])
        if least <= energy.rounding():
            return False if least < -energy.rounding() else None
        rest = rest - between.t() @ torch.linalg.solve(over_real, between)
    return strictly_copositive(rest, energy.rounding())


def strictly_copositive(matrix: Tensor, rounding: float = 1e-12) -> bool | None:
    """Whether xᵀMx > 0 for all x ≥ 0 but 0, of a symmetric M (n, n): False if below 0, None if not decided."""
    diagonal = matrix.diag().diag()
    lowered = diagonal + (matrix - diagonal).clamp(max=0)  # xᵀMx is at least xᵀ lowered x
    shift = rounding * torch.eye(len(matrix), dtype=matrix.dtype, device=matrix.device)
    if _is_definite(matrix - shift) or _is_definite(lowered - shift):
        return True
    if len(matrix) <= _EXHAUSTIVE:
        return _by_subsets(matrix, rounding)
    return False if len(matrix) <= _SEARCHED and _has_counterexample(matrix, lowered, rounding) else None


def _has_counterexample(matrix: Tensor, lowered: Tensor, rounding: float) -> bool:
    """Whether a projected descent from the lowest eigenvectors finds x ≥ 0 with xᵀMx < 0."""
    vectors = torch.cat([torch.linalg.eigh(each).eigenvectors.t()[:_STARTS] for each in (matrix, lowered)])
    x = torch.cat([vectors.abs(), vectors.clamp(min=0), (-vectors).clamp(min=0)])
    for _ in range(_DESCENT):
        x = x[x.amax(1) > 0]
        x = x / x.norm(dim=1, keepdim=True)
        slope = x @ matrix
        if bool(((slope * x).sum(1) < -rounding).any()):
            return True
        x = (x - slope / matrix.norm()).clamp(min=0)
    return False


def _by_subsets(matrix: Tensor, rounding: float) -> bool | None:
    """Strictly copositive is a matrix without a principal part that has an eigenvector > 0 with an eigenvalue ≤ 0."""
    least = float("inf")
    for size in range(1, len(matrix) + 1):
        chosen = torch.tensor(list(combinations(range(len(matrix)), size)), dtype=torch.int64, device=matrix.device)
        values, vectors = torch.linalg.eigh(matrix[chosen[:, :, None], chosen[:, None, :]])
        positive = (vectors > 0).all(1) | (vectors < 0).all(1)
        least = min(least, float(torch.where(positive, values, torch.inf).min()))
    return None if abs(least) <= rounding else least > 0
