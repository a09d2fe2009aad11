"""Rows of a tensor that are too many for the device: they stay where they are, and batches are sent one by one."""

from collections.abc import Iterable, Iterator
from typing import Any

import torch
from torch import Generator, Tensor

from dbn.data.source import Batch, BufferOf, Source, evenly
from dbn.runtime import distributed

_PART = 0.7  # of a GPU's free memory that rows may take


def fits(x: Tensor, device: torch.device) -> bool:
    """Whether rows find room on a device, and leave some."""
    if device.type != "cuda" or x.device == device:
        return True
    free, _ = torch.cuda.mem_get_info(device)
    free += torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)  # which torch keeps for the next
    return x.numel() * x.element_size() <= _PART * free


class StreamedSource(Source):
    """Rows that are gathered while a GPU still learns from those before, in memory that it reads by itself.

    The order is that of a `TensorSource` with the same generator.
    """

    deterministic = True

    def __init__(self, x: Tensor, y: Tensor | None, *, batch_size: int, like: Tensor) -> None:
        self.x, self.y, self.like, self.batch_size = x, y, like, batch_size
        self.rows, self.width = x.shape[:2]

    def contents(self) -> Iterable[Any]:
        return self.x, self.y

    def batches(self, generator: Generator | None, buffer_of: BufferOf | None = None, skip: int = 0) -> Iterator[Batch]:
        order = torch.randperm(len(self.x), generator=generator, device=self.like.device).to(self.x.device)
        parts = map(distributed.local_rows, torch.split(order, self.batch_size)[skip:])
        return (self._batch(chosen)._replace(fraction=fraction) for chosen, fraction in parts)

    def sequential(self) -> Iterator[Batch]:
        places = torch.arange(len(self.x), dtype=torch.int64, device=self.x.device)
        for chosen in torch.split(places, self.batch_size):
            yield self._batch(chosen)

    def representative_rows(self, count: int) -> Tensor:
        return self._batch(evenly(len(self.x), count).to(self.x.device)).x

    def _batch(self, chosen: Tensor) -> Batch:
        return Batch(
            self._sent(self.x, chosen).to(self.like.dtype), None if self.y is None else self._sent(self.y, chosen)
        )

    def _sent(self, values: Tensor, chosen: Tensor) -> Tensor:
        """Some rows on the device. Torch keeps pinned memory from being used again until they have been read."""
        pinned = self.like.device.type == "cuda" and values.device.type == "cpu"
        held = torch.empty(len(chosen), *values.shape[1:], dtype=values.dtype, device=values.device, pin_memory=pinned)
        return torch.index_select(values, 0, chosen, out=held).to(self.like.device, non_blocking=True)
