"""Chains that go on from step to step, driven by the RBM alone or by fast weights too."""

from types import MappingProxyType
from typing import Literal

import torch
from torch import Generator, Tensor

from dbn.estimators.estimator import Chained, local_chains
from dbn.gradient import NO_BUFFERS, OF_FIELDS, Buffers, Phase, gradient, phase
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.runtime.checks import choice, finite_number, whole_number


class Persistent(Chained):
    """Gibbs chains of hidden states that go on from step to step, never restarted at the data."""

    hidden: Tensor | None
    sharded_buffers = MappingProxyType({"hidden": 0})

    def __init__(self, chains: int, steps: int, start: Literal["noise", "data"]) -> None:
        super().__init__()
        self.chains = whole_number(chains, "chains")
        self.steps = whole_number(steps, "steps")
        self.start = choice(start, ("noise", "data"), "start")
        self.register_buffer("hidden", None)

    @torch.no_grad()
    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Start the chains, unless chains of this shape go on; at the data they start with the first batch."""
        chains, _ = local_chains(self.chains)
        if self.hidden is None or self.hidden.shape != (chains, rbm.hidden.size):
            self.hidden = None
            if self.start == "noise":
                v = rbm.visible.sample(rbm.visible_bias.expand(chains, -1), generator=generator)
                self.hidden = rbm.hidden.sample(rbm.hidden_field(v), generator=generator)
        self.to(rbm.weight)

    def states(self, rbm: RBM, positive: Phase, generator: Generator | None) -> Tensor:
        """The hidden states (chains, H) that the chains of this process go on from."""
        if self.hidden is not None:
            return self.hidden
        if self.start == "noise":
            raise RuntimeError("the chains have not been started: call prepare(rbm, generator) first")
        field = positive.hidden_field
        chosen = torch.randint(len(field), (self.rows(0),), generator=generator, device=field.device)
        return rbm.hidden.sample(field[chosen], generator=generator)

    def chains_visible(self, rbm: RBM) -> Tensor | None:
        """Draws from p(v | h) at the chains' h, with a seed of their own (n, V); None before they have started."""
        return None if self.hidden is None else rbm.sample_visible(self.hidden, seed=distributed.local_seed(0))

    def extra_repr(self) -> str:
        return f"chains={self.chains}, steps={self.steps}"


class PCD(Persistent):
    """Persistent contrastive divergence: Gibbs chains that go on from step to step, never restarted at the data.

    The chains are hidden states, and continue if the same estimator is used again on an RBM as wide. Every step
    draws v from p(v | h) and the next h from p(h | v), and the statistics pair that v with E[h | v], so that both
    belong to the same state and the same weights.

    Source: L. Younes (1989), Parametric inference for imperfectly observed Gibbsian fields; T. Tieleman (2008),
    Training restricted Boltzmann machines using approximations to the likelihood gradient.

    Args:
        chains: number of chains, independent of the batch size.
        steps: Gibbs steps between updates.
        start: start the chains at "noise", independent draws from the visible biases, or at the "data", hidden states
            drawn at rows of the first batch.

    Raises:
        ValueError: if a number is below 1, or the start is another.

    Example:
        >>> estimator = PCD(chains=7)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.prepare(rbm, None)
        >>> from dbn.gradient import phase
        >>> estimator.negative(rbm, phase(rbm, torch.ones(2, 4)), None).visible.shape
        torch.Size([7, 4])

    The chains lag behind the weights: with too large a learning rate, or modes that Gibbs sampling does not cross, they
    are samples of no model and training can diverge from the data.
    """

    capturable = True

    def __init__(self, chains: int = 100, steps: int = 1, *, start: Literal["noise", "data"] = "noise") -> None:
        super().__init__(chains, steps, start)

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, buffers: Buffers = NO_BUFFERS) -> Phase:
        h = self.states(rbm, positive, generator)
        for _ in range(self.steps):
            v = rbm.visible_field(h, out=buffers.visible)
            drawn = phase(rbm, rbm.visible.sample(v, generator=generator, out=v), buffers=buffers)
            h = drawn.sample_hidden(rbm.hidden, generator)
        self.hidden = h
        return drawn._replace(fraction=local_chains(self.chains)[1])


class FastPCD(Persistent):
    """Persistent chains driven by fast weights beside the RBM's own, which push them on to other modes.

    The chains are those of an RBM with parameters θ + φ. The fast φ learn at a rate of their own from the same two
    phases as θ and decay at every step, φ ← decay · φ + rate · (∂(−F)/∂θ at the data − at the chains), so that they
    raise the energy of where the chains are. The statistics pair the chains' v with E[h | v] of the RBM itself, by
    θ alone: they are its own gradient at v, at the price of one more product a step.

    Source: T. Tieleman, G. Hinton (2009), Using fast weights to improve persistent contrastive divergence.

    Args:
        chains: number of chains, independent of the batch size.
        steps: Gibbs steps between updates.
        rate: learning rate of the fast weights, constant; Tieleman and Hinton take the first one of the others. The
            default is that of Bernoulli units; `train` says what suits others.
        decay: what is left of the fast weights at the next step.
        start: as for `PCD`.

    Raises:
        ValueError: if a number is out of range, or the start is another.

    Example:
        >>> estimator = FastPCD(chains=7)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.prepare(rbm, None)
        >>> from dbn.gradient import phase
        >>> estimator.negative(rbm, phase(rbm, torch.ones(2, 4)), None).visible.shape
        torch.Size([7, 4])

    The chains sample no model, and the gradient is biased for as long as the fast weights are not small.
    """

    capturable = True
    weight: Tensor | None
    visible_bias: Tensor
    hidden_bias: Tensor

    def __init__(
        self,
        chains: int = 100,
        steps: int = 1,
        *,
        rate: float = 0.1,
        decay: float = 0.95,
        start: Literal["noise", "data"] = "noise",
    ) -> None:
        super().__init__(chains, steps, start)
        self.rate, self.decay = finite_number(rate, "rate"), finite_number(decay, "decay")
        if self.decay >= 1:
            raise ValueError(f"decay is {decay}: give a number below 1, or the fast weights never fade")
        for name in OF_FIELDS:
            self.register_buffer(name, None)

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, buffers: Buffers = NO_BUFFERS) -> Phase:
        if self.weight is None or self.weight.shape != rbm.weight.shape:
            for name in OF_FIELDS:
                setattr(self, name, torch.zeros_like(rbm.get_parameter(name)))
        h = self.states(rbm, positive, generator)
        weight, b, c = (rbm.get_parameter(name) + self.get_buffer(name) for name in OF_FIELDS)
        for _ in range(self.steps):
            field = torch.addmm(b, h, weight.t(), out=buffers.visible)
            v = rbm.visible.sample(field, generator=generator, out=field)
            h = rbm.hidden.sample(torch.addmm(c, v, weight), generator=generator)
        self.hidden = h
        drawn = phase(rbm, v, buffers=buffers)._replace(fraction=local_chains(self.chains)[1])
        slopes = gradient(rbm, positive, drawn)
        for name in [name for name in OF_FIELDS if name in slopes]:
            slope = distributed.all_reduce_sum(slopes[name])
            self.get_buffer(name).mul_(self.decay).add_(slope, alpha=self.rate)
        return drawn

    def extra_repr(self) -> str:
        return f"chains={self.chains}, steps={self.steps}, rate={self.rate:g}, decay={self.decay:g}"
