"""Chains at several temperatures that exchange states."""

from types import MappingProxyType

import torch
from torch import Generator, Tensor

from dbn.estimators.estimator import Chained, local_chains
from dbn.gradient import NO_BUFFERS, Buffers, Phase, phase
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.runtime.checks import whole_number
from dbn.units.unit import written


class ParallelTempering(Chained):
    """Persistent chains at several temperatures that exchange states, so that the RBM's own cross between modes.

    Replica r samples the distribution with weights β_r W, hidden biases β_r c and visible biases (1 − β_r) a + β_r b,
    from independent units at β = 0 to the RBM at β = 1; a are the visible biases when the chains are started, which
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
        ValueError: if `chains` or `steps` is below 1, or `temperatures` below 2.
        TypeError: in training, if units have no energy.

    Example:
        >>> estimator = ParallelTempering(chains=7, temperatures=3)
        >>> rbm = RBM(4, 3, seed=0)
        >>> estimator.prepare(rbm, None)
        >>> from dbn.gradient import phase
        >>> estimator.negative(rbm, phase(rbm, torch.ones(2, 4)), None).visible.shape
        torch.Size([7, 4])

    `exchanges` holds the rates of exchange between neighbours: if one is near zero, the replicas on its two sides do
    not help each other, and more temperatures are wanted. Each costs as much as the RBM's own chains.
    """

    visible: Tensor | None
    betas: Tensor
    base: Tensor | None
    exchanges: Tensor
    done: Tensor
    sharded_buffers = MappingProxyType({"visible": 1})
    capturable = True

    def __init__(self, chains: int = 100, temperatures: int = 10, steps: int = 1) -> None:
        super().__init__()
        self.chains = whole_number(chains, "chains")
        self.steps = whole_number(steps, "steps")
        self.temperatures = levels = whole_number(temperatures, "temperatures", at_least=2)
        self.register_buffer("visible", None)
        self.register_buffer("base", None)
        self.register_buffer("betas", torch.linspace(0, 1, levels, dtype=torch.float32, device="cpu"))
        self.register_buffer("exchanges", torch.zeros(levels - 1, dtype=torch.float32, device="cpu"))
        self.register_buffer("done", torch.zeros((), dtype=torch.int64, device="cpu"))

    def check(self, rbm: RBM) -> None:
        super().check(rbm)
        if not rbm.has_energy:
            raise TypeError(
                f"estimator {self} needs an energy, which {rbm.visible} and {rbm.hidden} lack: use CD or PCD"
            )

    @torch.no_grad()
    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Start all replicas at independent draws from the visible biases, unless replicas of this shape go on."""
        self.check(rbm)
        shape = (len(self.betas), self.rows(0), rbm.visible.size)
        if self.visible is None or self.visible.shape != shape:
            self.base = rbm.visible_bias.detach().clone()
            self.visible = rbm.visible.sample(self.base.expand(shape), generator=generator)
        self.to(rbm.weight)

    def chains_visible(self, rbm: RBM) -> Tensor | None:
        """The states v of the replicas at β = 1 of this process (n, V); None before they have started."""
        return None if self.visible is None else self.visible[-1]

    @torch.no_grad()
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, buffers: Buffers = NO_BUFFERS) -> Phase:
        if self.visible is None or self.base is None:
            raise RuntimeError("the chains have not been started: call prepare(rbm, generator) first")
        for _ in range(self.steps):
            v = self._tempered_gibbs(rbm, self.visible, self.base, generator)
            self.visible = self._exchanged(rbm, v, self.base, generator)
        drawn = phase(rbm, written(self.visible[-1], buffers.visible), buffers=buffers)
        return drawn._replace(fraction=local_chains(self.chains)[1])

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
        turn = torch.arange(len(gain), dtype=torch.int64, device=gain.device) % 2 == self.done % 2
        exchange = (uniform.log() < gain) & turn[:, None]
        self._adapt(gain)
        other = v.clone()
        other[:-1] = torch.where(exchange[..., None], v[1:], v[:-1])
        other[1:] = torch.where(exchange[..., None], v[:-1], other[1:])
        return other

    def _adapt(self, gain: Tensor) -> None:
        """Follow the rates of exchange, and widen the gaps between β whose rate is above the mean."""
        self.done += 1
        (rates,) = distributed.weighted_means(local_chains(self.chains)[1], gain.clamp(max=0).exp().mean(1))
        self.exchanges.lerp_(rates, (1 / self.done).clamp(min=0.01).to(rates.dtype))
        pull = 1 / (10 + self.done / 10)
        gaps = self.betas.diff() * ((self.exchanges - self.exchanges.mean()) * pull).exp()
        self.betas[1:-1] = (gaps / gaps.sum()).cumsum(0)[:-1]

    def extra_repr(self) -> str:
        return f"chains={self.chains}, temperatures={self.temperatures}, steps={self.steps}"


def _fields(rbm: RBM, v: Tensor) -> Tensor:
    return torch.matmul(v, rbm.weight) + rbm.hidden_bias
