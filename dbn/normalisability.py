"""Whether a machine has a distribution: whether ∫∫ exp(−E(v, h)) dv dh is finite."""

from itertools import combinations
from operator import attrgetter
from typing import NamedTuple

import torch
from torch import Tensor

from dbn.units import Tails

_EXHAUSTIVE = 12  # rectified columns up to which every subset of them is looked at
_PARTS = (attrgetter("precision"), attrgetter("nonnegative"))
_DESCENT = 200  # steps of the search for a direction in which exp(−E) does not decay


class Normalisability(NamedTuple):
    """Whether a machine is normalisable, and by how much.

    `verdict` is True where this is proven, False where the contrary is proven, None where neither is. The truth value
    of the tuple is True for a proof alone.

    `margin` is the smallest eigenvalue of Γ_v − U Γ_h⁻¹ Uᵀ over the unbounded columns. Γ are their precisions. U are
    their weights, with negative weights between two rectified units counted as 0. A margin above 0 is a proof. Without
    rectified units, a margin of 0 or below proves the contrary. The margin is infinite where a side is bounded, and NaN
    where a base measure is unknown.
    """

    verdict: bool | None
    margin: float

    def __bool__(self) -> bool:
        return self.verdict is True


class FarEnergy(NamedTuple):
    """The energy far from zero, ½ vᵀΓ_v v + ½ hᵀΓ_h h − vᵀWh over the unbounded columns, of which some are ≥ 0."""

    weight: Tensor
    precisions: tuple[Tensor, Tensor]
    rectified: tuple[Tensor, Tensor]

    def bound(self) -> Tensor:
        """Weights whose energy is nowhere above: negative ones between two rectified units count as 0."""
        both = self.rectified[0][:, None] & self.rectified[1]
        return torch.where(both, self.weight.clamp(min=0), self.weight)

    def form(self) -> Tensor:
        """J, of which the energy is ½ xᵀJx."""
        form = torch.cat(self.precisions).diag()
        count = len(self.weight)
        form[:count, count:], form[count:, :count] = -self.weight, -self.weight.t()
        return form


@torch.no_grad()
def normalisability(visible: Tails, hidden: Tails, weight: Tensor) -> Normalisability:
    """Judge a machine by the tails of its layers and its weights W (V, H).

    With real columns x and rectified columns r ≥ 0 of both sides, exp(−E) is integrable exactly if J is positive
    definite over x, and the matrix M that is left over r once x is at its least is strictly copositive: rᵀMr > 0 for
    all r ≥ 0 but 0. Copositivity is decided by eigenvalues, by a search for a counterexample, and up to 12 rectified
    columns by all their subsets.

    Source: W. Kaplan (2000), A test for copositive matrices.
    """
    if (far := far_energy(visible, hidden, weight)) is None:
        return Normalisability(True, float("inf"))
    if not all(bool(part.isfinite().all()) for part in (far.weight, *far.precisions)):
        return Normalisability(None, float("nan"))
    (gamma_v, gamma_h), bound = far.precisions, far.bound()
    margin = float(torch.linalg.eigvalsh(gamma_v.diag() - (bound / gamma_h) @ bound.t())[0])
    rectified = torch.cat(far.rectified)
    decided = margin > 0 or not bool(rectified.any())
    return Normalisability(margin > 0 if decided else _decays(far.form(), rectified), margin)


@torch.no_grad()
def surely_normalisable(visible: Tails, hidden: Tails, weight: Tensor) -> bool:
    """Whether the margin of `normalisability` is above 0, for the price of a factorisation of the smaller side."""
    if (far := far_energy(visible, hidden, weight)) is None:
        return True
    (gamma_v, gamma_h), bound = far.precisions, far.bound()
    if len(gamma_v) < len(gamma_h):
        gamma_v, gamma_h, bound = gamma_h, gamma_v, bound.t()
    schur = gamma_h.diag() - bound.t() @ (bound / gamma_v[:, None])
    return bool(schur.isfinite().all()) and _is_definite(schur)


def far_energy(visible: Tails, hidden: Tails, weight: Tensor) -> FarEnergy | None:
    """The energy far from zero of two layers with weights W (V, H); None where a side has no unbounded columns."""
    v, h = (torch.nonzero(~tails.precision.isposinf()).flatten() for tails in (visible, hidden))
    if not len(v) or not len(h):
        return None
    chosen = ((visible, v), (hidden, h))
    precisions, rectified = (
        tuple(part(tails)[columns].to(weight.device) for tails, columns in chosen) for part in _PARTS
    )
    w = weight.detach().double()[v.to(weight.device)][:, h.to(weight.device)]
    return FarEnergy(w, (precisions[0], precisions[1]), (rectified[0], rectified[1]))


def _is_definite(matrix: Tensor) -> bool:
    return not int(torch.linalg.cholesky_ex(matrix).info)


def _decays(form: Tensor, rectified: Tensor) -> bool | None:
    """Whether xᵀ form x > 0 for all x but 0 that are ≥ 0 where rectified; None where that is not decided."""
    real = ~rectified
    rest = form[rectified][:, rectified]
    if bool(real.any()):
        over_real, between = form[real][:, real], form[real][:, rectified]
        if not _is_definite(over_real):
            return False
        rest = rest - between.t() @ torch.linalg.solve(over_real, between)
    return strictly_copositive(rest)


def strictly_copositive(matrix: Tensor) -> bool | None:
    """Whether xᵀMx > 0 for all x ≥ 0 but 0, of a symmetric matrix M (n, n); None where that is not decided."""
    diagonal = matrix.diag().diag()
    lowered = diagonal + (matrix - diagonal).clamp(max=0)  # xᵀMx is at least xᵀ lowered x
    if _is_definite(matrix) or _is_definite(lowered):
        return True
    if _has_counterexample(matrix, lowered):
        return False
    return _by_subsets(matrix) if len(matrix) <= _EXHAUSTIVE else None


def _has_counterexample(matrix: Tensor, lowered: Tensor) -> bool:
    """Whether a projected descent from the eigenvectors finds x ≥ 0 with xᵀMx ≤ 0."""
    vectors = torch.cat([torch.linalg.eigh(each).eigenvectors.t() for each in (matrix, lowered)])
    x = torch.cat([vectors.abs(), vectors.clamp(min=0), (-vectors).clamp(min=0)])
    for _ in range(_DESCENT):
        x = x[x.amax(1) > 0]
        x = x / x.norm(dim=1, keepdim=True)
        slope = x @ matrix
        if bool(((slope * x).sum(1) <= 0).any()):
            return True
        x = (x - slope / matrix.norm()).clamp(min=0)
    return False


def _by_subsets(matrix: Tensor) -> bool:
    """Strictly copositive is a matrix without a principal part that has an eigenvector > 0 with an eigenvalue ≤ 0."""
    for size in range(1, len(matrix) + 1):
        chosen = torch.tensor(list(combinations(range(len(matrix)), size)), dtype=torch.int64, device=matrix.device)
        values, vectors = torch.linalg.eigh(matrix[chosen[:, :, None], chosen[:, None, :]])
        positive = (vectors > 0).all(1) | (vectors < 0).all(1)
        if bool((positive & (values <= 0)).any()):
            return False
    return True
