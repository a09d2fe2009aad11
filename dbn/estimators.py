"""The negative phase of learning: where the model's statistics come from."""

from abc import ABC, abstractmethod
from typing import Any, Literal

import torch
from torch import Generator, Tensor, nn

from dbn.arguments import choice, finite_number, flag, whole_number
from dbn.rbm import ANYWHERE, RBM, Phase, Room, gradient
from dbn.units.base import written


class Estimator(nn.Module, ABC):
    """Draws the rows at which the model's half of the gradient is taken; what a chain carries is a buffer."""

    def check(self, rbm: RBM) -> None:
        """Raise a TypeError where this estimator cannot serve this machine; called before anything is changed."""
        return

    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Called once before training: set up whatever is carried from step to step for this machine."""
        return

    def rows(self, batch: int) -> int:
        """Number of rows of the negative phase of a batch of so many rows, for which the trainer makes room."""
        return batch

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Chains have the shape of what they were saved with, also where none have been started here.
        for name in self._buffers:
            if prefix + name in state_dict:
                like = self._buffers[name]
                self._buffers[name] = torch.empty_like(
                    state_dict[prefix + name], device=None if like is None else like.device
                )
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @abstractmethod
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        """The negative phase of one step, given the positive phase at the data; it may be written to `room`."""


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
            h = phase.hidden_mean
            if not self.mean_field:
                h = rbm.hidden.sample(phase.hidden_field, mean=h, generator=generator)
            v = rbm.visible_field(h, out=room.visible)
            use_mean = self.mean_field or (step == self.steps - 1 and not self.sample_visible)
            v = rbm.visible.mean(v, out=v) if use_mean else rbm.visible.sample(v, generator=generator, out=v)
            phase = rbm.phase(v, visible_is_mean=use_mean, room=room)
        return phase

    def extra_repr(self) -> str:
        return f"{self.steps}, sample_visible={self.sample_visible}" + ", mean_field=True" * self.mean_field


class Persistent(Estimator):
    """Gibbs chains of hidden states that go on from step to step, never restarted at the data."""

    hidden: Tensor | None

    def __init__(self, chains: int, steps: int, start: Literal["noise", "data"]) -> None:
        super().__init__()
        self.chains = whole_number(chains, "chains")
        self.steps = whole_number(steps, "steps")
        self.start = choice(start, ("noise", "data"), "start")
        self.register_buffer("hidden", None)

    def rows(self, batch: int) -> int:
        return self.chains

    @torch.no_grad()
    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Start the chains, unless chains of this shape go on; at the data they start with the first batch."""
        if self.hidden is None or self.hidden.shape != (self.chains, rbm.hidden.size):
            self.hidden = None
            if self.start == "noise":
                v = rbm.visible.sample(rbm.visible_bias.expand(self.chains, -1), generator=generator)
                self.hidden = rbm.sample_hidden(v, generator=generator)
        self.to(rbm.weight)

    def states(self, rbm: RBM, positive: Phase, generator: Generator | None) -> Tensor:
        """The hidden states (chains, H) that the chains go on from."""
        if self.hidden is not None:
            return self.hidden
        if self.start == "noise":
            raise RuntimeError("the chains have not been started: call prepare(rbm, generator) first")
        field = positive.hidden_field
        chosen = torch.randint(len(field), (self.chains,), generator=generator, device=field.device)
        return rbm.hidden.sample(field[chosen], generator=generator)

    def extra_repr(self) -> str:
        return f"chains={self.chains}, steps={self.steps}"


class PCD(Persistent):
    """Persistent contrastive divergence: Gibbs chains that go on from step to step, never restarted at the data.

    The chains are hidden states, and go on where the same estimator is used again on a machine as wide. Every step
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
        ValueError: where a number is below 1, or the start is another.

    Example:
        >>> estimator = PCD(chains=7)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.prepare(rbm, None)
        >>> estimator.negative(rbm, rbm.phase(torch.ones(2, 4)), None).visible.shape
        torch.Size([7, 4])

    The chains lag behind the weights: with too large a learning rate, or modes that Gibbs sampling does not cross, they
    are samples of no model and training can diverge from the data.
    """

    def __init__(self, chains: int = 100, steps: int = 1, *, start: Literal["noise", "data"] = "noise") -> None:
        super().__init__(chains, steps, start)

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        h = self.states(rbm, positive, generator)
        for _ in range(self.steps):
            v = rbm.visible_field(h, out=room.visible)
            phase = rbm.phase(rbm.visible.sample(v, generator=generator, out=v), room=room)
            h = rbm.hidden.sample(phase.hidden_field, mean=phase.hidden_mean, generator=generator)
        self.hidden = h
        return phase


class FastPCD(Persistent):
    """Persistent chains driven by fast weights beside the machine's own, which push them on to other modes.

    The chains are those of a machine with parameters θ + φ. The fast φ learn at a rate of their own from the same two
    phases as θ and decay at every step, φ ← decay · φ + rate · (∂(−F)/∂θ at the data − at the chains), so that they
    raise the energy of where the chains are. The statistics pair the chains' v with E[h | v] of the machine itself, by
    θ alone: they are its own gradient at v, at the price of one more product a step.

    Source: T. Tieleman, G. Hinton (2009), Using fast weights to improve persistent contrastive divergence.

    Args:
        chains: number of chains, independent of the batch size.
        steps: Gibbs steps between updates.
        rate: learning rate of the fast weights, constant; Tieleman and Hinton take the first one of the others.
        decay: what is left of the fast weights at the next step.
        start: as for `PCD`.

    Raises:
        ValueError: where a number is out of range, or the start is another.

    Example:
        >>> estimator = FastPCD(chains=7)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.prepare(rbm, None)
        >>> estimator.negative(rbm, rbm.phase(torch.ones(2, 4)), None).visible.shape
        torch.Size([7, 4])

    The chains sample no model, and the gradient is biased for as long as the fast weights are not small.
    """

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
        for name in _OF_FIELDS:
            self.register_buffer(name, None)

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        if self.weight is None or self.weight.shape != rbm.weight.shape:
            for name in _OF_FIELDS:
                setattr(self, name, torch.zeros_like(rbm.get_parameter(name)))
        h = self.states(rbm, positive, generator)
        weight, b, c = (rbm.get_parameter(name) + self.get_buffer(name) for name in _OF_FIELDS)
        for _ in range(self.steps):
            field = torch.addmm(b, h, weight.t(), out=room.visible)
            v = rbm.visible.sample(field, generator=generator, out=field)
            h = rbm.hidden.sample(torch.addmm(c, v, weight), generator=generator)
        self.hidden = h
        phase = rbm.phase(v, room=room)
        slopes = gradient(rbm, positive, phase)
        for name in slopes.keys() & set(_OF_FIELDS):
            self.get_buffer(name).mul_(self.decay).add_(slopes[name], alpha=self.rate)
        return phase

    def extra_repr(self) -> str:
        return f"chains={self.chains}, steps={self.steps}, rate={self.rate:g}, decay={self.decay:g}"


_OF_FIELDS = ("weight", "visible_bias", "hidden_bias")


class ParallelTempering(Estimator):
    """Persistent chains at several temperatures that exchange states, so that the machine's own cross between modes.

    Replica r samples the distribution with weights β_r W, hidden biases β_r c and visible biases (1 − β_r) a + β_r b,
    from independent units at β = 0 to the machine at β = 1; a are the visible biases when the chains are started, which
    training sets to the field of the data's mean. After every Gibbs step, neighbours exchange states with probability
    min(1, exp Δ), and the spacing of β is moved, ever less, towards equal rates of exchange. The statistics are those
    of β = 1.

    Source: G. Desjardins, A. Courville, Y. Bengio, P. Vincent, O. Delalleau (2010), Tempered Markov chain Monte Carlo
    for training of restricted Boltzmann machines.

    Args:
        chains: number of chains at every temperature.
        temperatures: number of temperatures, both ends included.
        steps: Gibbs steps between updates, each followed by exchanges.

    Raises:
        ValueError: where `chains` or `steps` is below 1, or `temperatures` below 2.
        TypeError: in training, where units have no energy.

    Example:
        >>> estimator = ParallelTempering(chains=7, temperatures=3)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.prepare(rbm, None)
        >>> estimator.negative(rbm, rbm.phase(torch.ones(2, 4)), None).visible.shape
        torch.Size([7, 4])

    `exchanges` holds the rates of exchange between neighbours: where one is near zero, the replicas on its two sides do
    not help each other, and more temperatures are wanted. Each costs as much as the machine's own chains.
    """

    visible: Tensor | None
    betas: Tensor
    base: Tensor | None
    exchanges: Tensor
    done: Tensor

    def __init__(self, chains: int = 100, temperatures: int = 10, steps: int = 1) -> None:
        super().__init__()
        self.chains = whole_number(chains, "chains")
        self.steps = whole_number(steps, "steps")
        levels = whole_number(temperatures, "temperatures", at_least=2)
        self.register_buffer("visible", None)
        self.register_buffer("base", None)
        self.register_buffer("betas", torch.linspace(0, 1, levels))
        self.register_buffer("exchanges", torch.zeros(levels - 1))
        self.register_buffer("done", torch.zeros((), dtype=torch.int64))

    def rows(self, batch: int) -> int:
        return self.chains

    def check(self, rbm: RBM) -> None:
        if not rbm.has_energy:
            raise TypeError(
                f"estimator {self} needs an energy, which {rbm.visible} and {rbm.hidden} lack: use CD or PCD"
            )

    @torch.no_grad()
    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Start all replicas at independent draws from the visible biases, unless replicas of this shape go on."""
        self.check(rbm)
        shape = (len(self.betas), self.chains, rbm.visible.size)
        if self.visible is None or self.visible.shape != shape:
            self.base = rbm.visible_bias.detach().clone()
            self.visible = rbm.visible.sample(self.base.expand(shape), generator=generator)
        self.to(rbm.weight)

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, room: Room = ANYWHERE) -> Phase:
        if self.visible is None or self.base is None:
            raise RuntimeError("the chains have not been started: call prepare(rbm, generator) first")
        for _ in range(self.steps):
            v = self._tempered_gibbs(rbm, self.visible, self.base, generator)
            self.visible = self._exchanged(rbm, v, self.base, generator)
        return rbm.phase(written(self.visible[-1], room.visible), room=room)

    def _tempered_gibbs(self, rbm: RBM, v: Tensor, base: Tensor, generator: Generator | None) -> Tensor:
        beta = self.betas[:, None, None]
        h = rbm.hidden.sample(beta * _fields(rbm, v), generator=generator)
        field = base + beta * (rbm.visible_bias - base + h @ rbm.weight.t())
        return rbm.visible.sample(field, generator=generator)

    def _exchanged(self, rbm: RBM, v: Tensor, base: Tensor, generator: Generator | None) -> Tensor:
        """The states after neighbours 0–1, 2–3, …, or 1–2, 3–4, … in the next turn, have exchanged theirs.

        Δ = g_r(v_{r+1}) + g_{r+1}(v_r) − g_r(v_r) − g_{r+1}(v_{r+1}), with g_r(v) what log f_r(v) has of β_r.
        """
        fields, slope = _fields(rbm, v), v @ (rbm.visible_bias - base)

        def g(beta: Tensor, at: slice) -> Tensor:
            return beta * slope[at] + rbm.hidden.log_partition(beta[..., None] * fields[at])

        low, high = self.betas[:-1, None], self.betas[1:, None]
        below, above = slice(None, -1), slice(1, None)
        gain = g(low, above) + g(high, below) - g(low, below) - g(high, above)
        uniform = torch.rand(gain.shape, generator=generator, device=gain.device, dtype=gain.dtype)
        exchange = uniform.log() < gain
        exchange[1 - int(self.done) % 2 :: 2] = False
        self._adapt(gain)
        other = v.clone()
        other[:-1] = torch.where(exchange[..., None], v[1:], v[:-1])
        other[1:] = torch.where(exchange[..., None], v[:-1], other[1:])
        return other

    def _adapt(self, gain: Tensor) -> None:
        """Follow the rates of exchange, and widen the gaps between β whose rate is above the mean."""
        self.done += 1
        self.exchanges.lerp_(gain.clamp(max=0).exp().mean(1), max(0.01, 1 / int(self.done)))
        pull = 1 / (10 + int(self.done) / 10)
        gaps = self.betas.diff() * ((self.exchanges - self.exchanges.mean()) * pull).exp()
        self.betas[1:-1] = (gaps / gaps.sum()).cumsum(0)[:-1]

    def extra_repr(self) -> str:
        return f"chains={self.chains}, temperatures={len(self.betas)}, steps={self.steps}"


def _fields(rbm: RBM, v: Tensor) -> Tensor:
    return torch.matmul(v, rbm.weight) + rbm.hidden_bias
