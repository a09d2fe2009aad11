"""What all estimators of the negative phase have in common."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

import torch
from torch import Generator, nn

from dbn import distributed
from dbn.rbm import ANYWHERE, RBM, Phase, Room


class Estimator(nn.Module, ABC):
    """Draws the rows at which the model's half of the gradient is taken; what a chain carries is a buffer.

    Where several processes work as one, each has a part of the chains, and their states are its own.
    """

    #: Buffers that hold states of chains, and their dimension that counts chains.
    of_chains: ClassVar[Mapping[str, int]] = MappingProxyType({})
    #: Whether its part of a step can be recorded on a GPU: nothing of it is decided by numbers read back from there, or
    #: by plain numbers that change. Each class says so for itself: what derives from it may do more.
    replayable: ClassVar[bool] = False

    def check(self, rbm: RBM) -> None:
        """Raise an error where this estimator cannot serve this machine; called before anything is changed."""
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


def chains_here(chains: int) -> tuple[int, float]:
    """How many of so many chains are this process's, and what share of all that is."""
    first, last, share = distributed.portion(chains)
    return last - first, share


def check_chains(chains: int) -> None:
    """Raise a ValueError where there are fewer chains than processes."""
    if chains < distributed.world_size():
        raise ValueError(f"chains is {chains} for {distributed.world_size()} processes: give at least one for each")
