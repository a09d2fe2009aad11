"""What all that holds rows has in common: passes over batches, and rows that stand for all."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple, Self

import torch
from torch import Generator, Tensor

from dbn.runtime import distributed
from dbn.runtime.fingerprint import fingerprint

BufferOf = Callable[[int], Tensor | None]


class Batch(NamedTuple):
    """Rows (n, features) on the device of the model, and their labels if the data have them.

    `fraction` tells which part of the batch is on this process.
    """

    x: Tensor
    y: Tensor | None = None
    fraction: float = 1.0

    def local(self) -> "Batch":
        """This process's rows of a batch that all processes have."""
        if distributed.world_size() == 1:
            return self
        (x, fraction), y = distributed.local_rows(self.x), self.y
        return Batch(x, None if y is None else distributed.local_rows(y)[0], fraction)


class Source(ABC):
    """Rows of known width that can be passed over any number of times."""

    width: int
    #: Number of rows, if it is known.
    rows: int | None
    #: Rows a batch.
    batch_size: int
    #: Whether every pass sees the same rows, so that what is computed from them may be kept.
    deterministic: bool = False
    #: What a loader and its samplers draw from, if they were given generators.
    generators: tuple[Generator, ...] = ()
    #: Whether reading rows may draw from torch's global generator, as loaders and the user's data sets do.
    draws_globally: bool = False

    def contents(self) -> Iterable[Any]:
        """Tensors, arrays and names by which a checkpoint knows the rows again."""
        return ()

    @property
    def steps(self) -> int | None:
        """Number of batches a pass, if it is known."""
        return None if self.rows is None else -(-self.rows // self.batch_size)

    @property
    def rows_in_last_batch(self) -> int | None:
        """Number of rows of the last batch of a pass, if it is known."""
        return None if self.rows is None else self.rows % self.batch_size or min(self.batch_size, self.rows)

    def with_batch_size(self, batch_size: int) -> Self:
        """The same rows in batches of another size, if the source decides it."""
        other = copy.copy(self)
        other.batch_size = int(batch_size)
        return other

    @abstractmethod
    def batches(self, generator: Generator | None, buffer_of: BufferOf | None = None, skip: int = 0) -> Iterator[Batch]:
        """One pass over all rows in an order drawn from the generator; the last batch may be short.

        Of every batch it yields what is this process's: of several that work as one, each has its part.

        `buffer_of` returns a buffer for a number of rows. A source that gathers rows may write to it: each batch is
        then overwritten by the next. The order is drawn, and the first `skip` batches are left out, before the call
        returns.
        """

    @abstractmethod
    def sequential(self) -> Iterator[Batch]:
        """One pass over all rows, in the order in which they are stored, if they have one."""

    @abstractmethod
    def representative_rows(self, count: int) -> Tensor:
        """At most `count` rows that stand for all, the same at every call if rows can be read in any order."""


class MappedSource(Source):
    """Another source with a function applied to its rows: the layers below, encoded on the fly."""

    def __init__(
        self,
        source: Source,
        function: Callable[[Tensor], Tensor],
        width: int,
        monitor_transform: Callable[[Tensor], Tensor] | None = None,
        *,
        deterministic: bool = False,
    ) -> None:
        self.source, self.function, self.width, self.rows = source, function, width, source.rows
        self.batch_size, self.deterministic = source.batch_size, deterministic
        self.generators, self.draws_globally = source.generators, source.draws_globally
        # What `representative_rows` go through, if the function draws: monitoring must not draw what training draws.
        self.monitor_transform = monitor_transform or function

    def contents(self) -> Iterable[Any]:
        return self.source.contents()

    @property
    def steps(self) -> int | None:
        return self.source.steps

    def with_batch_size(self, batch_size: int) -> "MappedSource":
        source = self.source.with_batch_size(batch_size)
        return MappedSource(source, self.function, self.width, self.monitor_transform, deterministic=self.deterministic)

    def batches(self, generator: Generator | None, buffer_of: BufferOf | None = None, skip: int = 0) -> Iterator[Batch]:
        return (batch._replace(x=self.function(batch.x)) for batch in self.source.batches(generator, skip=skip))

    def sequential(self) -> Iterator[Batch]:
        return (batch._replace(x=self.function(batch.x)) for batch in self.source.sequential())

    def representative_rows(self, count: int) -> Tensor:
        return self.monitor_transform(self.source.representative_rows(count))


def evenly(rows: int, count: int) -> Tensor:
    """At most `count` evenly spaced indices of `rows` rows, so that rows sorted by class are represented too."""
    return torch.arange(min(rows, count), dtype=torch.int64, device="cpu") * rows // min(rows, count)


def data_config(source: Source, validation: Source | None, generator: Generator | None) -> dict[str, Any]:
    """The rows and the seed of a run, to be compared with another run's."""
    return {
        "rows": source.rows,
        "columns": source.width,
        "rows per batch": source.batch_size,
        "batches": source.steps,
        "seed": None if generator is None else generator.initial_seed(),
        "data": fingerprint(*source.contents()),
        "validation": None if validation is None else fingerprint(*validation.contents()),
    }
