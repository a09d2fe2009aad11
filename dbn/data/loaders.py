"""Rows that are read one by one or come in batches: data sets and loaders."""

from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any, Self

import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, DistributedSampler, IterableDataset, Subset

from dbn.data.reader import Reader
from dbn.data.source import Batch, BufferOf, Source, evenly
from dbn.runtime import distributed
from dbn.runtime.fingerprint import contents_of_dataset, nested_datasets


class DatasetSource(Source):
    """Rows of a Dataset, stacked by a loader that is made for each pass."""

    draws_globally = True

    def __init__(self, dataset: Dataset[Any], *, batch_size: int, reader: Reader) -> None:
        self.dataset, self.batch_size, self.reader = dataset, batch_size, reader
        self.streams = isinstance(dataset, IterableDataset)
        self.generators = _generators_in(nested_datasets(dataset))
        self.rows = length_of(dataset)
        self.width = next(self.sequential()).x.shape[1]

    def contents(self) -> Iterable[Any]:
        return contents_of_dataset(self.dataset)

    def batches(self, generator: Generator | None, buffer_of: BufferOf | None = None, skip: int = 0) -> Iterator[Batch]:
        if self.streams or self.rows is None:
            return _local(self.sequential(), skip)
        device = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        order = torch.randperm(self.rows, generator=torch.Generator().manual_seed(seed), device="cpu")
        parts = [distributed.local_rows(chosen) for chosen in torch.split(order, self.batch_size)[skip:]]
        if not parts:
            return iter(())
        read = self._read(self.dataset, batch_sampler=[chosen.tolist() for chosen, _ in parts])
        return (batch._replace(fraction=fraction) for batch, (_, fraction) in zip(read, parts, strict=True))

    def sequential(self) -> Iterator[Batch]:
        return self._read(self.dataset, batch_size=self.batch_size)

    def representative_rows(self, count: int) -> Tensor:
        if self.streams or self.rows is None:
            return _first(self.sequential(), count)
        chosen = Subset(self.dataset, evenly(self.rows, count).tolist())
        return torch.cat([batch.x for batch in self._read(chosen, batch_size=self.batch_size)])

    def _read(self, dataset: Dataset[Any], **batches: Any) -> Iterator[Batch]:
        # A loader without a generator of its own draws from the global one, even to read in order.
        loader: DataLoader[Any] = DataLoader(
            dataset, generator=torch.Generator(), collate_fn=self.reader.stacked, **batches
        )
        return self.reader.batches(loader)


class LoaderSource(Source):
    """The batches of a DataLoader, in the order in which it makes them."""

    draws_globally = True

    def __init__(self, loader: DataLoader[Any], *, reader: Reader) -> None:
        if isinstance(loader.sampler, DistributedSampler):
            raise ValueError(
                f"{reader.name} has a DistributedSampler: give the same loader on every process without it, since the "
                "batches are split among them here"
            )
        self.loader, self.reader = loader, reader
        self.batch_size = loader.batch_size or getattr(loader.batch_sampler, "batch_size", None) or 1
        self.generators = _generators_of(loader)
        self.rows = length_of(loader.dataset)
        self.width = next(self.sequential()).x.shape[1]

    @property
    def steps(self) -> int | None:
        return length_of(self.loader)

    @property
    def rows_in_last_batch(self) -> int | None:
        return None  # samplers may leave rows out

    def with_batch_size(self, batch_size: int) -> Self:
        return self  # the loader has made its batches

    def contents(self) -> Iterable[Any]:
        yield from contents_of_dataset(self.loader.dataset)
        for holder in _samplers_of(self.loader):
            yield type(holder).__qualname__
            if isinstance(holder, list | tuple | range):
                yield holder
            values = getattr(holder, "__dict__", {}).values()
            yield from (value for value in values if isinstance(value, Tensor))
        yield from (str(generator.initial_seed()) for generator in self.generators)

    def batches(self, generator: Generator | None, buffer_of: BufferOf | None = None, skip: int = 0) -> Iterator[Batch]:
        if distributed.world_size() == 1 or self.generators:
            return _local(self.sequential(), skip)
        # Its order is drawn from torch's global generator, whose state is each process's own.
        device = "cpu" if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            batches = self.sequential()
            first = next(batches)
        return _local(chain([first], batches), skip)

    def sequential(self) -> Iterator[Batch]:
        return self.reader.batches(self.loader)

    def representative_rows(self, count: int) -> Tensor:
        return _first(self.sequential(), count)


def _samplers_of(loader: DataLoader[Any]) -> list[Any]:
    samplers = [loader.sampler, loader.batch_sampler, getattr(loader.batch_sampler, "sampler", None)]
    return [sampler for sampler in samplers if sampler is not None]


def _generators_of(loader: DataLoader[Any]) -> tuple[Generator, ...]:
    """The generators that a loader, its samplers and its data sets hold as attributes."""
    return _generators_in([loader, *_samplers_of(loader), *nested_datasets(loader.dataset)])


def _generators_in(holders: Iterable[Any]) -> tuple[Generator, ...]:
    values = (value for holder in holders for value in getattr(holder, "__dict__", {}).values())
    found = [value for value in values if isinstance(value, Generator)]
    return tuple({id(generator): generator for generator in found}.values())


def _local(batches: Iterator[Batch], skip: int) -> Iterator[Batch]:
    """This process's parts of batches, without the first ones."""
    for _ in range(skip):
        next(batches, None)
    return map(Batch.local, batches)


def _first(batches: Iterator[Batch], count: int) -> Tensor:
    parts: list[Tensor] = []
    for batch in batches:
        parts.append(batch.x[: count - sum(map(len, parts))])
        if sum(map(len, parts)) >= count:
            break
    return torch.cat(parts)


def length_of(sized: Any) -> int | None:
    """How many there are, if that is known."""
    try:
        return len(sized)
    except TypeError:
        return None
