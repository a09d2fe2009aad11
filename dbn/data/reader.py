"""What was stored, made into batches that a model can take."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, default_collate

from dbn.data.source import Batch
from dbn.runtime.checks import as_tensor, check_finite, flattened

Check = Callable[[Tensor, str], None]


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
        """Rows in the shape that the model takes; a ValueError if it cannot take them."""
        rows = flattened(x, self.name)
        rows = rows if self.flatten else x
        check_finite(rows, self.name, self.like.dtype)
        self.check(rows, self.name)
        return rows

    def stacked(self, items: list[Any]) -> Any:
        """Items of a data set as a batch; a TypeError if they are no rows, or (row, label), of one shape."""
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
