"""Minibatches from tensors, arrays, memory maps, data sets and loaders, through one interface."""

import copy
import mmap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from torch import Generator, Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, default_collate

from dbn.arguments import as_tensor, check_finite, flattened

Check = Callable[[Tensor, str], None]
Place = Callable[[int], Tensor | None]

_ROWS_HELD = 100  # rows of a mapped file after which its pages are given back; each may bring 2 MB of neighbours


class Batch(NamedTuple):
    """Rows (n, features) on the device of the model, and their labels where the data has them."""

    x: Tensor
    y: Tensor | None = None


class Source(ABC):
    """Rows of known width that can be passed over any number of times."""

    width: int
    #: Number of rows, where it is known.
    rows: int | None
    #: Rows a batch.
    batch_size: int
    #: Whether every pass sees the same rows, so that what is computed from them may be kept.
    fixed: bool = False
    #: What a loader draws its own order from, where it was given that.
    generator: Generator | None = None

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


class TensorSource(Source):
    """Rows of a tensor, gathered by index on the device where it lies."""

    fixed = True

    def __init__(self, x: Tensor, y: Tensor | None, *, batch_size: int, like: Tensor) -> None:
        self.x, self.y = x.to(like.device), None if y is None else y.to(like.device)
        self.dtype, self.batch_size = like.dtype, batch_size
        self.rows, self.width = x.shape[:2]

    def batches(self, generator: Generator | None, place: Place | None = None, skip: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.x), generator=generator, device=self.x.device)
        return self._gathered(torch.split(order, self.batch_size)[skip:], place)

    def _gathered(self, batches: Sequence[Tensor], place: Place | None) -> Iterator[Batch]:
        for chosen in batches:
            buffer = place(len(chosen)) if place is not None and self.x.dtype == self.dtype else None
            yield self._batch(torch.index_select(self.x, 0, chosen, out=buffer), chosen)

    def in_order(self) -> Iterator[Batch]:
        for start in range(0, len(self.x), self.batch_size):
            place = slice(start, start + self.batch_size)
            yield self._batch(self.x[place], place)

    def subset(self, count: int) -> Tensor:
        return self.x[_evenly(len(self.x), count).to(self.x.device)].to(self.dtype)

    def _batch(self, rows: Tensor, place: Tensor | slice) -> Batch:
        return Batch(rows.to(self.dtype), None if self.y is None else self.y[place])


class Reader(NamedTuple):
    """What the model wants rows to be, to turn what was stored into batches it can take."""

    like: Tensor
    check: Check
    name: str
    flatten: bool

    def batch(self, x: Any, y: Any = None) -> Batch:
        """Checked rows and their labels on the device of the model."""
        rows = self.checked(as_tensor(x, self.name))
        labels = None if y is None else as_tensor(y, "labels").to(self.like.device)
        if labels is not None and not labels.is_floating_point():
            labels = labels.long()
        return Batch(rows.to(device=self.like.device, dtype=self.like.dtype), labels)

    def checked(self, x: Tensor) -> Tensor:
        """Rows in the shape that the model takes; a ValueError where it cannot take them."""
        rows = flattened(x, self.name)
        rows = rows if self.flatten else x
        check_finite(rows, self.name, self.like.dtype)
        self.check(rows, self.name)
        return rows

    def stacked(self, items: list[Any]) -> Any:
        """Items of a data set as a batch; a TypeError where they are no rows, or (row, label), of one shape."""
        try:
            return default_collate([self._owned(item) for item in items])
        except (TypeError, RuntimeError, ValueError) as error:
            raise TypeError(
                f"{self.name} yields items that cannot be stacked ({error}): yield rows of one shape, or (row, label), "
                "as tensors or NumPy arrays"
            ) from error

    def _owned(self, item: Any) -> Any:
        """The item with its arrays as tensors, read-only and big-endian ones too."""
        if isinstance(item, list | tuple):
            return [self._owned(part) for part in item]
        return as_tensor(item, self.name) if isinstance(item, np.ndarray) else item

    def batches(self, loader: DataLoader[Any]) -> Iterator[Batch]:
        """The batches of one pass: each is `x`, or `(x, y, …)` of which the first two are taken."""
        empty = True
        for item in loader:
            yield self.batch(*item[:2]) if isinstance(item, list | tuple) and item else self.batch(item)
            empty = False
        if empty:
            raise ValueError(f"{self.name} yields no batches: give a loader that can be passed over again each epoch")


class MemmapSource(Source):
    """Rows of a file mapped into memory: only the batch in hand is ever read, and pages are given back in between."""

    fixed = True

    def __init__(self, x: np.memmap[Any, Any], y: Tensor | None, *, batch_size: int, reader: Reader) -> None:
        self.x, self.y, self.batch_size, self.reader, self.read = x, y, batch_size, reader, 0
        self.rows, self.width = len(x), reader.batch(np.array(x[:1])).x.shape[1]

    def batches(self, generator: Generator | None, place: Place | None = None, skip: int = 0) -> Iterator[Batch]:
        device = self.reader.like.device if generator is None else generator.device
        order = torch.randperm(len(self.x), generator=generator, device=device).cpu()
        return (self._batch(np.sort(chosen.numpy())) for chosen in torch.split(order, self.batch_size)[skip:])

    def in_order(self) -> Iterator[Batch]:
        for start in range(0, len(self.x), self.batch_size):
            yield self._batch(np.arange(start, min(start + self.batch_size, len(self.x))))

    def subset(self, count: int) -> Tensor:
        return self._batch(_evenly(len(self.x), count).numpy()).x

    def _batch(self, chosen: np.ndarray[Any, Any]) -> Batch:
        parts = np.split(chosen, range(_ROWS_HELD, len(chosen), _ROWS_HELD))
        rows = [self._read(part) for part in parts]
        return self.reader.batch(
            rows[0] if len(rows) == 1 else np.concatenate(rows), None if self.y is None else self.y[chosen]
        )

    def _read(self, chosen: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        """Some rows, copied; the pages read so far then go from this process, which else grows as large as the file."""
        rows = np.array(self.x[chosen])
        self.read += len(chosen)
        if self.read >= _ROWS_HELD:
            self._give_back()
        return rows

    def _give_back(self) -> None:
        self.read, mapped = 0, getattr(self.x, "_mmap", None)
        if mapped is not None and self.x.mode != "c" and hasattr(mmap, "MADV_DONTNEED"):  # "c" has changes of its own
            mapped.madvise(mmap.MADV_DONTNEED)


class DatasetSource(Source):
    """Rows of a Dataset, stacked by a loader that is made for each pass."""

    def __init__(self, dataset: Dataset[Any], *, batch_size: int, reader: Reader) -> None:
        self.dataset, self.batch_size, self.reader = dataset, batch_size, reader
        self.streams = isinstance(dataset, IterableDataset)
        self.rows = _length(dataset)
        self.width = next(self.in_order()).x.shape[1]

    def batches(self, generator: Generator | None, place: Place | None = None, skip: int = 0) -> Iterator[Batch]:
        if self.streams:
            return _without_first(self.in_order(), skip)
        device = None if generator is None else generator.device
        seed = int(torch.randint(2**62, (), generator=generator, device=device))
        return _without_first(self._read(self.dataset, torch.Generator().manual_seed(seed), shuffle=True), skip)

    def in_order(self) -> Iterator[Batch]:
        return self._read(self.dataset, torch.Generator())

    def subset(self, count: int) -> Tensor:
        if self.streams or self.rows is None:
            return _first(self.in_order(), count)
        chosen = Subset(self.dataset, _evenly(self.rows, count).tolist())
        return torch.cat([batch.x for batch in self._read(chosen, torch.Generator())])

    def _read(self, dataset: Dataset[Any], generator: Generator, **order: Any) -> Iterator[Batch]:
        # A loader without a generator of its own draws from the global one, even to read in order.
        loader: DataLoader[Any] = DataLoader(
            dataset, self.batch_size, generator=generator, collate_fn=self.reader.stacked, **order
        )
        return self.reader.batches(loader)


class LoaderSource(Source):
    """The batches of a DataLoader, in the order in which it makes them."""

    def __init__(self, loader: DataLoader[Any], *, reader: Reader) -> None:
        self.loader, self.reader, self.batch_size = loader, reader, loader.batch_size or 1
        self.generator = loader.generator
        self.rows = _length(loader.dataset)
        self.width = next(self.in_order()).x.shape[1]

    @property
    def steps(self) -> int | None:
        return _length(self.loader)

    def with_batch_size(self, batch_size: int) -> Self:
        return self  # the loader has made its batches

    def batches(self, generator: Generator | None, place: Place | None = None, skip: int = 0) -> Iterator[Batch]:
        return _without_first(self.in_order(), skip)

    def in_order(self) -> Iterator[Batch]:
        return self.reader.batches(self.loader)

    def subset(self, count: int) -> Tensor:
        return _first(self.in_order(), count)


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
        self.batch_size, self.generator, self.fixed = source.batch_size, source.generator, fixed
        self.watch = watch or function  # what a subset goes through, where watching must not draw what training draws

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


def open_source(
    data: Any,
    labels: Any = None,
    *,
    batch_size: int,
    like: Tensor,
    check: Check | None = None,
    name: str = "data",
    flatten: bool = True,
) -> Source:
    """Whatever holds the rows, as a Source that yields minibatches on the device and in the dtype of `like`.

    Args:
        data: a tensor or array (n, …), a memory map, a Dataset or a DataLoader. Values in memory are checked here, all
            others as they are read.
        labels: labels (n,) or targets (n, k) of a tensor or an array.
        batch_size: rows a batch; a DataLoader keeps its own.
        like: a tensor with the wanted dtype and device.
        check: raises a ValueError on rows that the model cannot take.
        name: what the caller calls `data`, for the errors.
        flatten: make one dimension of all after the first.

    Raises:
        TypeError: where `data` is none of these.
        ValueError: where it is empty, not finite, refused by `check`, or not as long as `labels`.

    Example:
        >>> source = open_source(torch.zeros(250, 2, 3), batch_size=100, like=torch.zeros(1))
        >>> [tuple(batch.x.shape) for batch in source.batches(None)]
        [(100, 6), (100, 6), (50, 6)]
    """
    batch_size = int(batch_size)
    reader = Reader(like, check or (lambda x, name: None), name, flatten)
    if isinstance(data, Source):
        return data
    if isinstance(data, np.memmap) and data.ndim:
        _refuse_empty(data.size, name)
        return MemmapSource(data, _labels(labels, len(data), name), batch_size=batch_size, reader=reader)
    if isinstance(data, Tensor | np.ndarray):
        x = as_tensor(data, name).detach()
        _refuse_empty(x.numel(), name)
        x = reader.checked(x)
        return TensorSource(x, _labels(labels, len(x), name), batch_size=batch_size, like=like)
    if not isinstance(data, DataLoader | Dataset):
        raise TypeError(
            f"{name} is a {type(data).__name__}: give a tensor, a NumPy array or memmap, a Dataset or a DataLoader"
        )
    if labels is not None:
        raise TypeError(f"labels are given beside a {type(data).__name__}: let it yield (input, label) instead")
    if isinstance(data, DataLoader):
        return LoaderSource(data, reader=reader)
    _refuse_empty(_length(data), name)
    return DatasetSource(data, batch_size=batch_size, reader=reader)


def _labels(labels: Any, rows: int, name: str) -> Tensor | None:
    if labels is None:
        return None
    y = as_tensor(labels, "labels")
    found = len(y) if y.dim() else 0
    if found != rows:
        raise ValueError(f"{name} has {rows} rows and {found} labels: give one label a row")
    return y


def _without_first(batches: Iterator[Batch], skip: int) -> Iterator[Batch]:
    for _ in range(skip):
        next(batches, None)
    return batches


def _first(batches: Iterator[Batch], count: int) -> Tensor:
    parts: list[Tensor] = []
    for batch in batches:
        parts.append(batch.x[: count - sum(map(len, parts))])
        if sum(map(len, parts)) >= count:
            break
    return torch.cat(parts)


def _evenly(rows: int, count: int) -> Tensor:
    # Evenly spaced, so that rows sorted by class are represented too.
    return torch.arange(min(rows, count)) * rows // min(rows, count)


def _refuse_empty(count: int | None, name: str) -> None:
    if count == 0:
        raise ValueError(f"{name} is empty: give at least one row")


def _length(sized: Any) -> int | None:
    try:
        return len(sized)
    except TypeError:
        return None
