"""Contrastive divergence: short chains from the data."""

import torch
from torch import Generator

from dbn.arguments import flag, whole_number
from dbn.estimators.base import Estimator
from dbn.rbm import ANYWHERE, RBM, Phase, Room


class CD(Estimator):
    """Contrastive divergence: k Gibbs steps from the data.

    Hidden states are sampled to reconstruct from. The last visible rows are conditional means by default, as in
    Hinton's recipe, and samples with `sample_visible`; visible rows in between are samples. With `mean_field` nothing
    is drawn: both layers pass on their means.

    Source: G. Hinton (2002), Training products of experts by minimizing contrastive divergence; G. Hinton (2010),
    A practical guide to training restricted Boltzmann machines, section 3; for means, M. Welling, G. Hinton (2002),
    A new learning algorithm for mean field Boltzmann machines.

    Args:
        steps: k, the number of Gibbs steps.
        sample_visible: sample the last visible rows too.
        mean_field: pass on means instead of samples, in every step.

    Raises:
        ValueError: where `steps` is below 1, or visible rows are to be both sampled and means.

    Example:
        >>> estimator = CD(1)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.negative(rbm, rbm.phase(torch.ones(2, 4)), None).visible.shape
        torch.Size([2, 4])

    Its gradient is biased: it follows no function's slope, and machines trained by it can be poor density models.
    """

    replayable = True

    def __init__(self, steps: int = 1, *, sample_visible: bool = False, mean_field: bool = False) -> None:
        super().__init__()
        self.steps = whole_number(steps, "steps")
        self.sample_visible = flag(sample_visible, "sample_visible")
        self.mean_field = flag(mean_field, "mean_field")
        if sample_visible and mean_field:
            raise ValueError("sample_visible and mean_field are both given: choose one")

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        phase = positive
        for step in range(self.steps):
            h = phase.hidden_mean if self.mean_field else phase.sample_hidden(rbm.hidden, generator)
            if self.mean_field or (step == self.steps - 1 and not self.sample_visible):
                phase = rbm.mean_phase(h, room=room)
                continue
            v = rbm.visible_field(h, out=room.visible)
            phase = rbm.phase(rbm.visible.sample(v, generator=generator, out=v), room=room)
        return phase._replace(share=positive.share)

    def extra_repr(self) -> str:
        return f"{self.steps}, sample_visible={self.sample_visible}" + ", mean_field=True" * self.mean_field
