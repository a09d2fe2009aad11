"""Log Z of large RBMs, by annealing from and to independent units."""

import math
from contextlib import closing
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Generator, Tensor
from tqdm import tqdm

from dbn.rbm import RBM, check_rbm
from dbn.runtime import distributed
from dbn.runtime.checks import as_generator, as_rows, as_tensor, check_finite, flag, whole_number
from dbn.runtime.cuda_graph import GraphedStep, can_capture, declares_capturable
from dbn.runtime.out_of_memory import named_where_short

_BUFFERS = 4  # of each layer's width, that a chain takes


class LogPartition(NamedTuple):
    """An estimate of log Z in nats, which `float` gives alone.

    `low` and `high` are log(Ẑ ± 3σ̂), −∞ where the lower bound is not positive; `ess` is the effective number of chains,
    (Σw)²/Σw²; `base` names the distribution that the chains start from.
    """

    value: float
    low: float
    high: float
    ess: float
    base: str
    chains: int
    temperatures: int

    def __float__(self) -> float:
        return self.value


@torch.no_grad()
def ais(
    rbm: RBM,
    *,
    chains: int = 100,
    temperatures: int | Tensor | NDArray[Any] = 10_000,
    base: str | Tensor | NDArray[Any] = "visible_bias",
    memory: int = 2**30,
    progress: bool = True,
    generator: Generator | None = None,
    seed: int | None = None,
) -> LogPartition:
    """Estimate log Z by annealed importance sampling from independent visible units to the RBM.

    Distribution β has weights βW, visible biases (1 − β)a + βb and hidden biases βc, with a the biases of the base.
    log w = Σ_k log f_k(v_{k−1})/f_{k−1}(v_{k−1}), each state drawn by a transition that leaves f_{k−1} invariant, and
    Ẑ = Z_base · mean w. The field c + Wᵀv that a weight needs is the one that the next hidden states are drawn at, so a
    temperature costs two matrix products.

    Source: R. Neal (2001), Annealed importance sampling; R. Salakhutdinov, I. Murray (2008), On the quantitative
    analysis of deep belief networks.

    Args:
        rbm: an RBM with an energy.
        chains: number of independent chains, of all processes together.
        temperatures: a number of equally spaced β after 0, or all β as a tensor that rises from 0 to 1.
        base: "visible_bias" (the RBM's own b), "zeros", or biases a (V,) such as
            `rbm.visible.field_of_mean(x.mean(0))`.
        memory: bytes that the chains may take at once; if all would take more, they run one part after another, and
            a seed then draws other numbers.
        progress: show a bar.
        generator: draws the chains; it must be on the device of the RBM.
        seed: a number to seed a generator with, instead of `generator`.

    Raises:
        TypeError: if `rbm` is no RBM, units have no energy, or parameters are in half precision.
        ValueError: if the RBM is not normalisable, for an unknown base, biases of another width, or β that do
            not rise from 0 to 1.

    Example:
        >>> estimate = ais(RBM(3, 2, weight_scale=0), chains=10, temperatures=5, progress=False, seed=0)
        >>> round(estimate.value, 4)  # exact without weights: (3 + 2) log 2
        3.4657

    Not to be trusted on its own: on average it is too low, so the model looks too good, and neither the interval nor
    the effective sample size knows of modes that no chain has found. Compare several bases.
    """
    check_rbm(rbm)
    name, biases = _base(rbm, base)
    betas, progress = ladder(temperatures), flag(progress, "progress")
    generator = as_generator(generator, seed, rbm.weight.device)
    generator = distributed.generators(generator, rbm.weight.device, advance=True).local
    first, last, _ = distributed.local_range(whole_number(chains, "chains"))
    parts = _parts(rbm, last - first, memory)
    weights = [torch.zeros(0, dtype=torch.float64, device="cpu")]
    for place, count in enumerate(parts):
        with named_where_short(chains=count, memory=memory):
            v = rbm.visible.sample(biases.expand(count, -1), generator=generator)
            weights.append(_annealed(rbm, v, biases, betas, generator, progress, _named("AIS", place, parts)).cpu())
    log_weights = distributed.all_gather_rows(torch.cat(weights))
    return _forward(log_weights, _log_partition_of_base(rbm, biases), name, len(betas) - 1)


@torch.no_grad()
def reverse_ais(
    rbm: RBM,
    samples: Tensor,
    *,
    temperatures: int | Tensor | NDArray[Any] = 10_000,
    base: str | Tensor | NDArray[Any] = "visible_bias",
    memory: int = 2**30,
    progress: bool = True,
    generator: Generator | None = None,
    seed: int | None = None,
) -> LogPartition:
    """Estimate log Z from above, annealing samples of the RBM back to independent visible units.

    With the distributions of `ais` passed downwards from β = 1, 1/Ẑ = mean w / Z_base is unbiased if the samples are
    exact, so that log Ẑ is on average too high: with `ais` it brackets log Z.

    Source: R. Grosse, Z. Ghahramani, R. Adams (2015), Sandwiching the marginal likelihood using bidirectional Monte
    Carlo; Y. Burda, R. Grosse, R. Salakhutdinov (2015), Accurate and conservative estimates of MRF log-likelihood using
    reverse annealing.

    Args:
        rbm: an RBM with an energy.
        samples: visible rows (n, V) from the RBM, one chain each, such as persistent chains run on for long.
        temperatures, base, memory, progress, generator, seed: as for `ais`.

    Raises:
        TypeError: as `ais`.
        ValueError: as `ais`, and for samples of another width or outside the support, or none.

    Example:
        >>> rbm = RBM(3, 2, weight_scale=0)
        >>> round(reverse_ais(rbm, torch.ones(10, 3), temperatures=5, progress=False, seed=0).value, 4)
        3.4657

    No upper bound if the samples are not the RBM's: chains that all sit in one mode make log Z too low.
    """
    check_rbm(rbm)
    name, biases = _base(rbm, base)
    betas, progress = ladder(temperatures), flag(progress, "progress")
    generator = as_generator(generator, seed, rbm.weight.device)
    rows = as_rows(samples, rbm.visible.size, like=rbm.weight, name="samples")
    if not len(rows):
        raise ValueError("samples is empty: give at least one row")
    check_finite(rows, "samples")
    rbm.visible.constrain_data(rows, "samples")
    generator = distributed.generators(generator, rbm.weight.device, advance=True).local
    first, last, _ = distributed.local_range(len(rows))
    parts = _parts(rbm, last - first, memory)
    weights = [torch.zeros(0, dtype=torch.float64, device="cpu")]
    for place, v in enumerate(torch.split(rows[first:last], parts)):
        name_of_part = _named("reverse AIS", place, parts)
        with named_where_short(chains=len(v), memory=memory):
            weights.append(_annealed(rbm, v.clone(), biases, betas[::-1], generator, progress, name_of_part).cpu())
    log_weights = distributed.all_gather_rows(torch.cat(weights))
    forward = _forward(log_weights, 0.0, name, len(betas) - 1)
    start = _log_partition_of_base(rbm, biases)
    return forward._replace(value=start - forward.value, low=start - forward.high, high=start - forward.low)


def _parts(rbm: RBM, chains: int, memory: int) -> list[int]:
    """Numbers of chains that run at once: their states, fields, random bits and what sampling allocates."""
    row = _BUFFERS * sum(rbm.weight.shape) * rbm.weight.element_size()
    at_once = max(1, whole_number(memory, "memory") // row)
    return [min(at_once, chains - first) for first in range(0, chains, at_once)]


def _named(work: str, place: int, parts: list[int]) -> str:
    return work if len(parts) == 1 else f"{work}, part {place + 1}/{len(parts)}"


def _annealed(
    rbm: RBM,
    v: Tensor,
    biases: Tensor,
    betas: list[float],
    generator: Generator | None,
    progress: bool,
    description: str,
) -> Tensor:
    """Log weights (n,) of chains that pass from the first β to the last; v (n, V) is their state, written over."""
    slope = rbm.visible_bias.detach() - biases
    passage = _Passage(rbm, v, biases, slope if bool(slope.any()) else None, betas, generator)
    hidden = not (progress and distributed.shows_progress())
    with closing(passage):
        for place in tqdm(range(len(betas) - 1), desc=description, unit="β", disable=hidden, dynamic_ncols=True):
            passage.step(place)
    return passage.log_weights


class _Passage:
    """Chains on their way from one β to another, and their log weights so far; on a GPU each β is replayed.

    `slope` is how far the RBM's visible biases are from those of the base, or None if they are the same.
    """

    def __init__(
        self,
        rbm: RBM,
        v: Tensor,
        biases: Tensor,
        slope: Tensor | None,
        betas: list[float],
        generator: Generator | None,
    ) -> None:
        self.rbm, self.v, self.biases, self.slope, self.generator = rbm, v, biases, slope, generator
        self.field = v.new_empty(len(v), rbm.hidden.size)
        self.log_weights = torch.zeros(len(v), dtype=torch.float64, device=v.device)
        self.rungs = torch.tensor(list(pairwise(betas)), dtype=torch.float64, device="cpu")
        self.graphed: GraphedStep | None = None
        if can_capture(v.device) and declares_capturable(rbm.visible) and declares_capturable(rbm.hidden):
            self.rungs = self.rungs.to(v.device)
            self.rung = torch.zeros_like(self.rungs[0])
            self.graphed = GraphedStep(self._step_in_buffers, lambda: [self.v, self.log_weights], generator, v.device)

    def step(self, place: int) -> None:
        """Pass on to the β after that in this place."""
        if self.graphed is None:
            self._pass(*self.rungs[place].tolist())
            return
        self.rung.copy_(self.rungs[place])
        self.graphed()

    def close(self) -> None:
        """Give back what a recording holds."""
        if self.graphed is not None:
            self.graphed.close()

    def _step_in_buffers(self) -> None:
        beta, following = self.rung.unbind()
        self._pass(beta, following)

    def _pass(self, beta: float | Tensor, following: float | Tensor) -> None:
        torch.addmm(self.rbm.hidden_bias, self.v, self.rbm.weight, out=self.field)
        biases = self.biases
        if self.slope is not None:
            self.log_weights += (following - beta) * (self.v @ self.slope)
            biases = biases + following * self.slope
        self.log_weights -= self.rbm.hidden.log_partition(beta * self.field)
        self.log_weights += self.rbm.hidden.log_partition(self.field.mul_(following))
        h = self.rbm.hidden.sample(self.field, generator=self.generator, out=self.field).mul_(following)
        field = torch.addmm(biases, h, self.rbm.weight.t(), out=self.v)
        self.rbm.visible.sample(field, generator=self.generator, out=self.v)


def _log_partition_of_base(rbm: RBM, biases: Tensor) -> float:
    hidden = rbm.hidden.log_partition(torch.zeros_like(rbm.hidden_bias))
    return float(rbm.visible.log_partition(biases) + hidden)


def _base(rbm: RBM, base: str | Tensor | NDArray[Any]) -> tuple[str, Tensor]:
    if isinstance(base, Tensor | np.ndarray):
        base = as_tensor(base, "base")
        if base.shape != rbm.visible_bias.shape:
            raise ValueError(f"base has shape {tuple(base.shape)}: give one bias for each of {rbm.visible.size} units")
        biases = base.detach().to(rbm.visible_bias)
        check_finite(biases[None], "base")
        return "given", biases
    if not isinstance(base, str) or base not in ("visible_bias", "zeros"):
        raise ValueError(f'base is {base!r}: choose "visible_bias" or "zeros", or give the biases')
    own = rbm.visible_bias.detach()
    return base, own if base == "visible_bias" else torch.zeros_like(own)


def ladder(temperatures: int | Tensor | NDArray[Any]) -> list[float]:
    """All β from 0 to 1: a number of them after 0, or those that are given."""
    if not isinstance(temperatures, Tensor | np.ndarray):
        count = whole_number(temperatures, "temperatures") + 1
        return torch.linspace(0, 1, count, dtype=torch.float64, device="cpu").tolist()
    given = as_tensor(temperatures, "temperatures")
    betas: list[float] = given.double().flatten().tolist()
    rises = len(betas) > 1 and betas[0] == 0 and betas[-1] == 1 and all(a < b for a, b in pairwise(betas))
    if given.dim() != 1 or not rises:
        raise ValueError("temperatures must rise from 0 to 1: give a number of them, or such a tensor")
    return betas


def _forward(log_weights: Tensor, log_z: float, base: str, temperatures: int) -> LogPartition:
    largest = log_weights.max()
    weights = (log_weights - largest).exp()
    mean = float(weights.mean())
    spread = 3 * float(weights.std()) / math.sqrt(len(weights)) if len(weights) > 1 else math.inf
    ess = float(weights.sum().square() / weights.square().sum())
    start = log_z + float(largest)
    low = start + math.log(mean - spread) if mean > spread else -math.inf
    high = start + math.log(mean + spread) if spread < math.inf else math.inf
    return LogPartition(start + math.log(mean), low, high, ess, base, len(weights), temperatures)
