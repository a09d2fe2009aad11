"""Whatever holds rows, opened as a source of batches."""

from typing import Any

import numpy as np
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from dbn.data.loaders import DatasetSource, LoaderSource, length_of
from dbn.data.reader import Check, Reader
from dbn.data.source import Source
from dbn.data.streaming import StreamedSource, fits
from dbn.data.tensors import MemmapSource, TensorSource
from dbn.runtime.checks import as_tensor


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

    A tensor is moved to the device once, in its own dtype, if it fits; otherwise its batches are sent one by one.

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
        TypeError: if `data` is none of these.
        ValueError: if it is empty, not finite, refused by `check`, or not as long as `labels`.

    Example:
        >>> import torch
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
        kind = TensorSource if fits(x, like.device) else StreamedSource
        return kind(x, _labels(labels, len(x), name), batch_size=batch_size, like=like)
    if not isinstance(data, DataLoader | Dataset):
        raise TypeError(
            f"{name} is a {type(data).__name__}: give a tensor, a NumPy array or memmap, a Dataset or a DataLoader"
        )
    if labels is not None:
        raise TypeError(f"labels are given beside a {type(data).__name__}: let it yield (input, label) instead")
    if isinstance(data, DataLoader):
        return LoaderSource(data, reader=reader)
    _refuse_empty(length_of(data), name)
    return DatasetSource(data, batch_size=batch_size, reader=reader)


def _labels(labels: Any, rows: int, name: str) -> Tensor | None:
    if labels is None:
        return None
    y = as_tensor(labels, "labels")
    found = len(y) if y.dim() else 0
    if found != rows:
        raise ValueError(f"{name} has {rows} rows and {found} labels: give one label a row")
    return y


def _refuse_empty(count: int | None, name: str) -> None:
    if count == 0:
        raise ValueError(f"{name} is empty: give at least one row")
