"""Several estimates of log Z held against each other, with a verdict."""

import math
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Generator, Tensor

from dbn.likelihood.ais import LogPartition, ais, reverse_ais
from dbn.likelihood.exact import exact_log_partition, is_gaussian
from dbn.normalisability import Normalisability
from dbn.rbm import RBM, check_rbm
from dbn.runtime import distributed
from dbn.runtime.checks import as_generator, as_rows, check_finite, whole_number

_ADEQUATE = 0.05  # of the chains, the effective number that an estimate needs to be usable
_FEWEST = 5.0  # effective chains that it needs in any case
_NARROW = 0.01  # margin of `RBM.normalisable` below which chains are not believed
_BOUNDED = Normalisability(True, math.inf)
_GAP = 2.0  # nats between forward and reverse, or between bases, beyond which something is wrong


class Bracket(NamedTuple):
    """Estimates of log Z from several bases and from the other side, in nats.

    `value` is the largest forward estimate with an adequate effective sample size, which `float` gives alone. `doubts`
    say in words what speaks against it or against others; `trusted` is False if they concern the value itself.
    """

    value: float
    forward: tuple[LogPartition, ...]
    reverse: LogPartition
    trusted: bool
    doubts: tuple[str, ...]

    def __float__(self) -> float:
        return self.value


@torch.no_grad()
def bracket(
    rbm: RBM,
    data: Tensor,
    *,
    chains: int = 100,
    temperatures: int | Tensor = 10_000,
    gibbs_steps: int = 1000,
    memory: int = 2**30,
    progress: bool = True,
    generator: Generator | None = None,
    seed: int | None = None,
) -> Bracket:
    """Estimate log Z forwards from three bases and backwards from the data, and say whether to believe it.

    Forward estimates (`ais` from the data's mean, the RBM's own visible biases and zero biases) are on average too
    low, so the largest with an adequate effective sample size is taken. The reverse one (`reverse_ais`) starts at data
    rows after many Gibbs steps and is on average too high, as far as those are samples of the RBM.

    Source: R. Neal (2001), Annealed importance sampling; R. Grosse, Z. Ghahramani, R. Adams (2015), Sandwiching the
    marginal likelihood using bidirectional Monte Carlo.

    Args:
        rbm: an RBM with an energy.
        data: visible rows (n, V), for the first base and for the first states of the reverse chains.
        chains: number of chains of each estimate.
        temperatures: as for `ais`.
        gibbs_steps: Gibbs steps from the data before the chains are annealed backwards.
        memory: as for `ais`.
        progress: show a bar an estimate.
        generator: generators everything; it must be on the device of the RBM.
        seed: a number to seed a generator with, instead of `generator`.

    Raises:
        TypeError: as `ais`.
        ValueError: as `ais`, and for data of another width or outside the support.

    Example:
        >>> rows = (torch.rand(50, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        >>> found = bracket(RBM(6, 4, seed=0), rows, temperatures=50, progress=False, seed=0)
        >>> found.trusted, found.doubts
        (True, ())

    A mode that neither the bases nor the data's chains have found is missed by all of them.
    """
    check_rbm(rbm)
    whole_number(gibbs_steps, "gibbs_steps", at_least=0)
    generator = as_generator(generator, seed, rbm.weight.device)
    rows = as_rows(data, rbm.visible.size, like=rbm.weight, name="data")
    if not len(rows):
        raise ValueError("data is empty: give at least one row")
    check_finite(rows, "data")
    rbm.visible.constrain_data(rows, "data")
    mean = rbm.visible.field_of_mean(rows.mean(0))
    settings: dict[str, Any] = {
        "temperatures": temperatures,
        "memory": memory,
        "progress": progress,
        "generator": generator,
    }
    anneal = partial(ais, rbm, chains=chains, **settings)
    forward = (anneal(base=mean)._replace(base="data_mean"), anneal(base="visible_bias"), anneal(base="zeros"))
    generators = distributed.generators(generator, rbm.weight.device)
    chosen = torch.randint(len(rows), (chains,), generator=generators.shared, device=rows.device)
    first, last, _ = distributed.local_range(chains)
    samples = distributed.all_gather_rows(rbm.gibbs(rows[chosen[first:last]], gibbs_steps, generator=generators.local))
    reverse = reverse_ais(rbm, samples, base=mean, **settings)._replace(base="data_mean")
    found = rbm.normalisable()
    exact = float(exact_log_partition(rbm)) if found and is_gaussian(rbm) else None
    return verdict(forward, reverse, normalisable=found, exact=exact)


def verdict(
    forward: tuple[LogPartition, ...],
    reverse: LogPartition,
    *,
    normalisable: Normalisability = _BOUNDED,
    exact: float | None = None,
) -> Bracket:
    """The verdict on estimates from several bases and from the other side.

    Args:
        forward: from each base.
        reverse: from the other side.
        normalisable: what is known of the RBM's distribution.
        exact: log Z itself, of RBMs of which it is known.
    """
    finite = [estimate for estimate in forward if math.isfinite(estimate.value)]
    usable = [estimate for estimate in finite if estimate.ess >= max(_FEWEST, _ADEQUATE * estimate.chains)]
    best = max(usable or finite or forward, key=lambda estimate: estimate.value)
    doubts = [
        f"log Z from {other.base} is {best.value - other.value:.1f} nats below that from {best.base}, though its "
        f"effective sample size is {other.ess:.0f} of {other.chains}: alone it would flatter the model"
        for other in usable
        if best.value - other.value > _GAP
    ]
    serious = []
    if normalisable.verdict is None:
        serious.append("it is not known whether the RBM is normalisable: see RBM.normalisable")
    elif normalisable.margin < _NARROW and exact is None:
        serious.append(
            f"the RBM is close to losing its distribution (margin {normalisable.margin:.2g}; see "
            "RBM.normalisable): chains reach its large values slowly"
        )
    if exact is not None and not abs(best.value - exact) <= _GAP:
        serious.append(f"log Z is {best.value - exact:.1f} nats from the exact log Z of this Gaussian RBM, {exact:.1f}")
    if not all(math.isfinite(estimate.value) for estimate in (*forward, reverse)):
        serious.append("an estimate is not a finite number: the chains have left the finite numbers")
    if not usable:
        serious.append(
            f"no base has an effective sample size of {_FEWEST:.0f} and of {_ADEQUATE:.0%} of the chains: use more "
            "temperatures or more chains"
        )
    gap = reverse.value - best.value
    if gap > _GAP:
        serious.append(f"reverse AIS is {gap:.1f} nats above: log Z may be too low, and the model look too good")
    if gap < -_GAP:
        serious.append(f"reverse AIS is {-gap:.1f} nats below: its chains have not reached all of the model's modes")
    return Bracket(best.value, forward, reverse, not serious, (*serious, *doubts))
