"""Contrastive divergence: short chains from the data."""

import torch
from torch import Generator

from dbn.estimators.estimator import Estimator, bounded
from dbn.gradient import NO_BUFFERS, Buffers, Phase, mean_phase, phase
from dbn.rbm import RBM
from dbn.runtime.checks import flag, whole_number


class CD(Estimator):
    """Contrastive divergence: k Gibbs steps from the data.

    Hidden states are sampled to reconstruct from. The last visible rows are conditional means with bounded hidden
    units, as in Hinton's recipe, and samples with ReLU and Gaussian ones; visible rows in between are samples. With
    `mean_field` nothing is drawn: both layers pass on their means.

    Means leave the variance of v out of ⟨v h⟩: with hidden means that rise by s_j per nat of field, the gradient of
    W_ij is too large by W_ij Var(v_i) s_j. Bounded units saturate. ReLU and Gaussian ones do not, and their weights
    grow without any correlation in the data.

    Source: G. Hinton (2002), Training products of experts by minimizing contrastive divergence; G. Hinton (2010),
    A practical guide to training restricted Boltzmann machines, section 3; for means, M. Welling, G. Hinton (2002),
    A new learning algorithm for mean field Boltzmann machines.

    Args:
        steps: k, the number of Gibbs steps.
        sample_visible: sample the last visible rows too; by default if the RBM has an energy and its hidden
            units are unbounded.
        mean_field: pass on means instead of samples, in every step.

    Raises:
        TypeError: if `sample_visible` or `mean_field` is no bool.
        ValueError: if `steps` is below 1, or visible rows are to be both sampled and means.

    Example:
        >>> estimator = CD(1)
        >>> rbm = RBM(4, 3, seed=0)
        >>> from dbn.gradient import phase
        >>> estimator.negative(rbm, phase(rbm, torch.ones(2, 4)), None).visible.shape
        torch.Size([2, 4])

    Its gradient is biased: it follows no function's slope, and RBMs trained by it can be poor density models.
    """

    capturable = True

    def __init__(self, steps: int = 1, *, sample_visible: bool | None = None, mean_field: bool = False) -> None:
        super().__init__()
        self.steps = whole_number(steps, "steps")
        self.sample_visible = None if sample_visible is None else flag(sample_visible, "sample_visible")
        self.mean_field = flag(mean_field, "mean_field")
        if sample_visible and mean_field:
            raise ValueError("sample_visible and mean_field are both given: choose one")

    def samples_visible(self, rbm: RBM) -> bool:
        """Whether the last visible rows of this RBM's chains are samples."""
        if self.mean_field or self.sample_visible is not None:
            return bool(self.sample_visible)
        return rbm.has_energy and not bounded(rbm.hidden)

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, buffers: Buffers = NO_BUFFERS) -> Phase:
        drawn, sampled = positive, self.samples_visible(rbm)
        for step in range(self.steps):
            h = drawn.hidden_mean if self.mean_field else drawn.sample_hidden(rbm.hidden, generator)
            if self.mean_field or (step == self.steps - 1 and not sampled):
                drawn = mean_phase(rbm, h, buffers=buffers)
                continue
            v = rbm.visible_field(h, out=buffers.visible)
            drawn = phase(rbm, rbm.visible.sample(v, generator=generator, out=v), buffers=buffers)
        return drawn._replace(fraction=positive.fraction)

    def extra_repr(self) -> str:
        sampled = "" if self.sample_visible is None else f", sample_visible={self.sample_visible}"
        return f"{self.steps}" + sampled + ", mean_field=True" * self.mean_field
