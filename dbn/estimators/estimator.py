"""What all estimators of the negative phase have in common."""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Generator, Tensor, nn

from dbn.gradient import NO_BUFFERS, Buffers, Phase
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.units import Unit


class Estimator(nn.Module, ABC):
    """Generators the rows at which the model's half of the gradient is taken; what a chain carries is a buffer.

    Where several processes work as one, each has a part of the chains, and their states are its own.
    """

    #: Buffers that hold states of chains, and their dimension that counts chains.
    sharded_buffers: ClassVar[Mapping[str, int]] = MappingProxyType({})
    #: Whether its part of a step can be recorded on a GPU: nothing of it is decided by numbers read back from there, or
    #: by plain numbers that change. Each class says so for itself: what derives from it may do more.
    capturable: ClassVar[bool] = False

    def check(self, rbm: RBM) -> None:
        """Raise an error if this estimator cannot serve this RBM; called before anything is changed."""
        return

    def prepare(self, rbm: RBM, generator: Generator | None) -> None:
        """Called once before training: set up whatever is carried from step to step for this RBM."""
        return

    def rows(self, batch: int) -> int:
        """Number of rows of the negative phase for a batch of this size; the trainer allocates buffers for them."""
        return batch

    def suggested_momentum(self, epoch: float) -> float:
        """The momentum that suits the estimator after this many epochs: 0.5, and 0.9 from the sixth epoch.

        Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines, section 9.
        """
        return 0.9 if epoch >= 5 else 0.5

    def suggested_learning_rate(self, rbm: RBM, epoch: float, epochs: int) -> float:
        """The learning rate that suits the RBM with `suggested_momentum`, after `epoch` of `epochs` epochs."""
        return lowest_rate(rbm)

    def chains_visible(self, rbm: RBM) -> Tensor | None:
        """States v of the persistent chains of this process (n, V), or None if there are no chains.

        For watching: the same at every call until the next step, and nothing that training draws is drawn.
        """
        return None

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *arguments: Any) -> None:
        # Chains have the shape of what they were saved with, also if none have been started here.
        for name in self._buffers:
            if prefix + name in state_dict:
                like = self._buffers[name]
                self._buffers[name] = torch.empty_like(
                    state_dict[prefix + name], device=None if like is None else like.device
                )
        super()._load_from_state_dict(state_dict, prefix, *arguments)

    @abstractmethod
    def negative(self, rbm: RBM, positive: Phase, generator: Generator | None, buffers: Buffers = NO_BUFFERS) -> Phase:
        """The negative phase of one step, given the positive phase at the data; it may be written to `room`."""


class Chained(Estimator):
    """An estimator with chains that go on from step to step, each at the RBM's own distribution.

    The chains lag behind the weights, so that they bear less than contrastive divergence: no momentum, a fifth of its
    final effective learning rate, and a rate that falls to zero, which brings the chains up to the weights.

    Source: L. Younes (1989), Parametric inference for imperfectly observed Gibbsian fields; T. Tieleman (2008),
    Training restricted Boltzmann machines using approximations to the likelihood gradient. The factors were chosen on
    validation rows by `experiments.defaults`.
    """

    chains: int

    def check(self, rbm: RBM) -> None:
        check_chains(self.chains)

    def rows(self, batch: int) -> int:
        return local_chains(self.chains)[0]

    def suggested_momentum(self, epoch: float) -> float:
        return 0.0

    def suggested_learning_rate(self, rbm: RBM, epoch: float, epochs: int) -> float:
        """Constant over the first half of the epochs, then falling in a line to zero.

        The constant is twice the rate of contrastive divergence. Where visible units are unbounded and hidden units
        are not, so that the RBM has a distribution whatever its weights, it is half of what suits the hidden units.
        """
        first = 2 * lowest_rate(rbm)
        if bounded(rbm.hidden) and not bounded(rbm.visible):
            first = rbm.hidden.suggested_learning_rate / 2 * rbm.hidden.learning_rate_factor
        return first * min(1.0, 2 - 2 * epoch / epochs)


def lowest_rate(rbm: RBM) -> float:
    """The lower of the learning rates that suit both sides of an RBM, times the factors of both."""
    rate = min(rbm.visible.suggested_learning_rate, rbm.hidden.suggested_learning_rate)
    return rate * rbm.visible.learning_rate_factor * rbm.hidden.learning_rate_factor


def bounded(units: Unit) -> bool:
    """Whether units take values in a finite range."""
    return all(map(math.isfinite, units.support))


def local_chains(chains: int) -> tuple[int, float]:
    """The number of chains of this process, and their fraction of all."""
    first, last, share = distributed.local_range(chains)
    return last - first, share


def check_chains(chains: int) -> None:
    """Raise a ValueError if there are fewer chains than processes."""
    if chains < distributed.world_size():
        raise ValueError(f"chains is {chains} for {distributed.world_size()} processes: give at least one for each")
