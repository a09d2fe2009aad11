"""What all that holds rows has in common: passes over batches, and rows that stand for all."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor

from dbn import distributed

Place = Callable[[int], Tensor | None]


class Batch(NamedTuple):
    """Rows (n, features) on the device of the model, and their labels where the data has them.

    `share` tells how much of the whole batch they are, where other processes have the others.
    """

    x: Tensor
    y: Tensor | None = None
    share: float = 1.0

    def portion(self) -> "Batch":
        """This process's part of a batch that all have whole."""
        if distributed.world_size() == 1:
            return self
        (x, share), y = distributed.rows_of(self.x), self.y
        return Batch(x, None if y is None else distributed.rows_of(y)[0], share)


class Source(ABC):
    """Rows of known width that can be passed over any number of times."""

    width: int
    #: Number of rows, where it is known.
    rows: int | None
    #: Rows a batch.
    batch_size: int
    #: Whether every pass sees the same rows, so that what is computed from them may be kept.
    fixed: bool = False
    #: What a loader and its samplers draw from, where they were given generators.
    generators: tuple[Generator, ...] = ()
    #: Whether reading rows may draw from torch's global generator, as loaders and the user's data sets do.
    draws_globally: bool = False

    def contents(self) -> Iterable[Any]:
        """Tensors, arrays and names by which a checkpoint knows the rows again."""
        return ()

    @property
    def steps(self) -> int | None:
        """Number of batches a pass, where it is known."""
        return None if self.rows is None else -(-self.rows // self.batch_size)

    def with_batch_size(self, batch_size: int) -> Self:
        """The same rows in batches of another size, where the source decides it."""
        other = copy.copy(self)
        other.batch_size = int(batch_size)
        return other

    @abstractmethod
    def batches(self, generator: Generator | None, place: Place | None = None, skip: int = 0) -> Iterator[Batch]:
        """One pass over all rows in an order drawn from the generator; the last batch may be short.

        Of every batch it yields what is this process's: of several that work as one, each has its part.

        `place` names a buffer for so many rows, which a source that gathers rows may write to: each batch is then gone
        when the next is asked for. The order is drawn, and the first `skip` batches are left out, before the call
        returns.
        """

    @abstractmethod
    def in_order(self) -> Iterator[Batch]:
        """One pass over all rows, in the order in which they are stored where they have one."""

    @abstractmethod
    def subset(self, count: int) -> Tensor:
        """At most `count` rows that stand for all, the same at every call where rows have fixed places."""


class MappedSource(Source):
    """Another source with a function applied to its rows: the layers below, encoded on the fly."""

    def __init__(
        self,
        source: Source,
        function: Callable[[Tensor], Tensor],
        width: int,
        watch: Callable[[Tensor], Tensor] | None = None,
        *,
        fixed: bool = False,
    ) -> None:
        self.source, self.function, self.width, self.rows = source, function, width, source.rows
        self.batch_size, self.fixed = source.batch_size, fixed
        self.generators, self.draws_globally = source.generators, source.draws_globally
        self.watch = watch or function  # what a subset goes through, where watching must not draw what training draws

    def contents(self) -> Iterable[Any]:
        return self.source.contents()

    @property
    def steps(self) -> int | None:
        return self.source.steps

    def with_batch_size(self, batch_size: int) -> "MappedSource":
        source = self.source.with_batch_size(batch_size)
        return MappedSource(source, self.function, self.width, self.watch, fixed=self.fixed)

    def batches(self, generator: Generator | None, place: Place | None = None, skip: int = 0) -> Iterator[Batch]:
        return (batch._replace(x=self.function(batch.x)) for batch in self.source.batches(generator, skip=skip))

    def in_order(self) -> Iterator[Batch]:
        return (batch._replace(x=self.function(batch.x)) for batch in self.source.in_order())

    def subset(self, count: int) -> Tensor:
        return self.watch(self.source.subset(count))


def evenly(rows: int, count: int) -> Tensor:
    """At most `count` places of so many rows, evenly spaced, so that rows sorted by class are represented too."""
    return torch.arange(min(rows, count), dtype=torch.int64, device="cpu") * rows // min(rows, count)
