"""The negative phase of learning: where the model's statistics come from."""

from abc import ABC, abstractmethod

import torch
from torch import Generator, Tensor, nn

from dbn.arguments import whole_number
from dbn.rbm import ANYWHERE, RBM, Phase, Room


class Estimator(nn.Module, ABC):
    """Draws the rows at which the model's half of the gradient is taken; what a chain carries is a buffer."""

    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Called once before training: set up whatever is carried from step to step for this machine."""
        return

    def rows(self, batch: int) -> int:
        """Number of rows of the negative phase of a batch of so many rows, for which the trainer makes room."""
        return batch

    @abstractmethod
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        """The negative phase of one step, given the positive phase at the data; it may be written to `room`."""


class CD(Estimator):
    """Contrastive divergence: k Gibbs steps from the data.

    Hidden states are always sampled to reconstruct from. The last visible rows are conditional means by default, as in
    Hinton's recipe, and samples with `sample_visible`; visible rows in between are samples.

    Source: G. Hinton (2002), Training products of experts by minimizing contrastive divergence; G. Hinton (2010),
    A practical guide to training restricted Boltzmann machines, section 3.

    Args:
        steps: k, the number of Gibbs steps.
        sample_visible: sample the last visible rows too.

    Raises:
        ValueError: where `steps` is below 1.

    Example:
        >>> estimator = CD(1)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.negative(rbm, rbm.phase(torch.ones(2, 4)), None).visible.shape
        torch.Size([2, 4])

    Its gradient is biased: it follows no function's slope, and machines trained by it can be poor density models.
    """

    def __init__(self, steps: int = 1, *, sample_visible: bool = False) -> None:
        super().__init__()
        self.steps = whole_number(steps, "steps")
        self.sample_visible = sample_visible

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        phase = positive
        for step in range(self.steps):
            h = rbm.hidden.sample(phase.hidden_field, mean=phase.hidden_mean, generator=generator)
            v = rbm.visible_field(h, out=room.visible)
            use_mean = step == self.steps - 1 and not self.sample_visible
            v = rbm.visible.mean(v, out=v) if use_mean else rbm.visible.sample(v, generator=generator, out=v)
            phase = rbm.phase(v, visible_is_mean=use_mean, room=room)
        return phase

    def extra_repr(self) -> str:
        return f"{self.steps}, sample_visible={self.sample_visible}"


class PCD(Estimator):
    """Persistent contrastive divergence: Gibbs chains that go on from step to step, never restarted at the data.

    The chains are hidden states, and go on where the same estimator is used again on a machine as wide. Every step
    draws v from p(v | h) and the next h from p(h | v), and the statistics pair that v with E[h | v], so that both
    belong to the same state and the same weights.

    Source: L. Younes (1989), Parametric inference for imperfectly observed Gibbsian fields; T. Tieleman (2008),
    Training restricted Boltzmann machines using approximations to the likelihood gradient.

    Args:
        chains: number of chains, independent of the batch size.
        steps: Gibbs steps between updates.

    Raises:
        ValueError: where either is below 1.

    Example:
        >>> estimator = PCD(chains=7)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.prepare(rbm, None)
        >>> estimator.negative(rbm, rbm.phase(torch.ones(2, 4)), None).visible.shape
        torch.Size([7, 4])

    The chains lag behind the weights: with too large a learning rate, or modes that Gibbs sampling does not cross, they
    are samples of no model and training can diverge from the data.
    """

    hidden: Tensor | None

    def __init__(self, chains: int = 100, steps: int = 1) -> None:
        super().__init__()
        self.chains = whole_number(chains, "chains")
        self.steps = whole_number(steps, "steps")
        self.register_buffer("hidden", None)

    @torch.no_grad()
    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Start the chains at independent draws from the visible biases, unless chains of this shape go on."""
        if self.hidden is None or self.hidden.shape != (self.chains, rbm.hidden.size):
            v = rbm.visible.sample(rbm.visible_bias.expand(self.chains, -1), generator=generator)
            self.hidden = rbm.sample_hidden(v, generator=generator)
        self.to(rbm.weight.device)

    def rows(self, batch: int) -> int:
        return self.chains

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        if self.hidden is None:
            raise RuntimeError("the chains have not been started: call prepare(rbm, generator) first")
        h = self.hidden
        for _ in range(self.steps):
            v = rbm.visible_field(h, out=room.visible)
            phase = rbm.phase(rbm.visible.sample(v, generator=generator, out=v), room=room)
            h = rbm.hidden.sample(phase.hidden_field, mean=phase.hidden_mean, generator=generator)
        self.hidden = h
        return phase

    def extra_repr(self) -> str:
        return f"chains={self.chains}, steps={self.steps}"
