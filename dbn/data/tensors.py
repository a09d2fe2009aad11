"""Rows in a tensor, or in a file mapped into memory."""

import mmap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor

from dbn.data.reader import Reader
from dbn.data.source import Batch, BufferOf, Source, evenly
from dbn.runtime import distributed

_ROWS_HELD = 100  # rows of a mapped file after which its pages are given back; each may bring 2 MB of neighbours


class TensorSource(Source):
    """Rows of a tensor, gathered by index on the device where it lies."""

    deterministic = True

    def __init__(self, x: Tensor, y: Tensor | None, *, batch_size: int, like: Tensor) -> None:
        self.x, self.y = x.to(like.device), None if y is None else y.to(like.device)
        self.dtype, self.batch_size = like.dtype, batch_size
        self.rows, self.width = x.shape[:2]

    def contents(self) -> Iterable[Any]:
        return self.x, self.y

    def batches(self, generator: Generator | None, buffer_of: BufferOf | None = None, skip: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.x), generator=generator, device=self.x.device)
        return self._gathered(torch.split(order, self.batch_size)[skip:], buffer_of)

    def _gathered(self, batches: Sequence[Tensor], buffer_of: BufferOf | None) -> Iterator[Batch]:
        for chosen, fraction in map(distributed.local_rows, batches):
            buffer = buffer_of(len(chosen)) if buffer_of is not None and self.x.dtype == self.dtype else None
            yield self._batch(torch.index_select(self.x, 0, chosen, out=buffer), chosen, fraction)

    def sequential(self) -> Iterator[Batch]:
        for start in range(0, len(self.x), self.batch_size):
            chosen = slice(start, start + self.batch_size)
            yield self._batch(self.x[chosen], chosen)

    def representative_rows(self, count: int) -> Tensor:
        return self.x[evenly(len(self.x), count).to(self.x.device)].to(self.dtype)

    def _batch(self, rows: Tensor, chosen: Tensor | slice, fraction: float = 1.0) -> Batch:
        return Batch(rows.to(self.dtype), None if self.y is None else self.y[chosen], fraction)


class MemmapSource(Source):
    """Rows of a file mapped into memory: only the batch in hand is ever read, and pages are given back in between."""

    deterministic = True

    def __init__(self, x: np.memmap[Any, Any], y: Tensor | None, *, batch_size: int, reader: Reader) -> None:
        self.x, self.y, self.batch_size, self.reader, self.read = x, y, batch_size, reader, 0
        self.rows, self.width = len(x), reader.batch(np.array(x[:1])).x.shape[1]

    def contents(self) -> Iterable[Any]:
        return self.x, self.y

    def batches(self, generator: Generator | None, buffer_of: BufferOf | None = None, skip: int = 0) -> Iterator[Batch]:
        device = self.reader.like.device if generator is None else generator.device
        order = torch.randperm(len(self.x), generator=generator, device=device).cpu()
        parts = map(distributed.local_rows, torch.split(order, self.batch_size)[skip:])
        return (self._batch(np.sort(chosen.numpy()))._replace(fraction=fraction) for chosen, fraction in parts)

    def sequential(self) -> Iterator[Batch]:
        for start in range(0, len(self.x), self.batch_size):
            yield self._batch(np.arange(start, min(start + self.batch_size, len(self.x))))

    def representative_rows(self, count: int) -> Tensor:
        return self._batch(evenly(len(self.x), count).numpy()).x

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
