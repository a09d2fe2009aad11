"""The state of all random numbers of a run."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import torch
from torch import Generator

from dbn.runtime.distributed import Generators, Shard, local_generator

State = dict[str, Any]


class Drawing(Protocol):
    """What may draw as it is read, as a source of rows does."""

    generators: tuple[Generator, ...]
    draws_globally: bool


class RandomState:
    """All that a run draws from, with `state_dict` and `load_state_dict`.

    Args:
        shared: generators in the same state on all processes, such as that of the order of the rows.
        local: this process's generator of samples, if it is another.
        globally: whether the run also draws from torch's global generators; otherwise it leaves them alone.
    """

    def __init__(self, shared: Sequence[Generator | None], local: Generator | None, *, globally: bool) -> None:
        self.shared, self.local, self.globally = tuple(shared), local, globally

    @classmethod
    def of_run(cls, generators: Generators, *sources: Drawing | None, globally: bool = False) -> Self:
        """The random state of a run: its own generators, those of its sources, and the global ones if needed."""
        given = [source for source in sources if source is not None]
        of_sources = [generator for source in given for generator in source.generators]
        globally = globally or generators.shared is None or any(source.draws_globally for source in given)
        local = None if generators.local is generators.shared else generators.local
        return cls([generators.shared, *of_sources], local, globally=globally)

    def state_dict(self) -> State:
        """The states of all generators; of the global ones that on the CPU and those on CUDA devices in use."""
        in_use = torch.cuda.is_available() and torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
        cuda = torch.cuda.get_rng_state_all() if in_use and self.globally else []
        return {
            "shared": [None if each is None else each.get_state() for each in self.shared],
            "local": None if self.local is None else Shard(self.local.get_state()[None]),
            "cpu": Shard(torch.get_rng_state()[None]) if self.globally else None,
            "cuda": [Shard(value[None]) for value in cuda],
        }

    def load_state_dict(self, state_dict: State) -> None:
        """Restore what `state_dict` returned; a process that had no part in it begins a new local generator."""
        for each, value in zip(self.shared, state_dict["shared"], strict=False):
            if each is not None and value is not None:
                each.set_state(value)
        if self.local is not None and state_dict["local"] is not None and len(state_dict["local"].value):
            self.local.set_state(state_dict["local"].value[0])
        elif self.local is not None and self.shared[0] is not None:
            self.local.set_state(local_generator(self.shared[0].clone_state()).get_state())
        if self.globally:
            self._load_global(state_dict)

    def _load_global(self, state_dict: State) -> None:
        if state_dict["cpu"] is not None and len(state_dict["cpu"].value):
            torch.set_rng_state(state_dict["cpu"].value[0])
        for place, kept in enumerate(state_dict["cuda"][: torch.cuda.device_count()]):
            if len(kept.value):
                torch.cuda.set_rng_state(kept.value[0], place)
