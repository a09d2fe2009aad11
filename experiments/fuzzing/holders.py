"""Containers of rows: tensors, arrays, lists, data sets and streams, valid and odd ones."""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, IterableDataset, TensorDataset

from experiments.fuzzing.draw import LARGE, Draw, Given

Holder = Callable[[Draw, np.ndarray[Any, Any]], Given]


class BrokenError(Exception):
    """The error of a user's data set."""


class Rows(Dataset[Any]):
    """Items from a list; an item that is an exception is raised."""

    def __init__(self, items: Sequence[Any]) -> None:
        self.items = items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        item = self.items[place]
        if isinstance(item, Exception):
            raise item
        return item


class Stream(IterableDataset[Any]):
    """Items from a list in their order, for a number of passes."""

    def __init__(self, items: Sequence[Any], passes: int = 1_000_000) -> None:
        self.items, self.passes = items, passes

    def __iter__(self) -> Iterator[Any]:
        self.passes -= 1
        for item in self.items if self.passes >= 0 else ():
            if isinstance(item, Exception):
                raise item
            yield item


def tensor_of(array: np.ndarray[Any, Any]) -> Tensor:
    """Convert an array to a tensor if torch has its dtype, else return a tensor that no RBM takes."""
    native = array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else array.copy()
    try:
        return torch.from_numpy(native)
    except TypeError:
        return torch.zeros(array.shape, dtype=torch.complex64)


def _of_tensor(change: Callable[[Tensor], Any]) -> Holder:
    def hold(draw: Draw, array: np.ndarray[Any, Any]) -> Given:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = change(tensor_of(array))
        narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float8_e5m2)
        return Given(value, "", not narrow or bool((value.float().abs() < LARGE).all()))

    return hold


def _of_array(change: Callable[[np.ndarray[Any, Any]], Any]) -> Holder:
    return lambda draw, array: Given(change(array.copy()), "")


def of_items(change: Callable[[list[Any]], Any], late: bool = True) -> Holder:
    """Make a data set of the rows, which is read during the work."""
    return lambda draw, array: Given(
        change(list(tensor_of(array)) if array.ndim else [tensor_of(array)]), "", True, late
    )


def _read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def _spread(tensor: Tensor) -> Tensor:
    """Return the same numbers with gaps between them."""
    wide = tensor.new_zeros(*tensor.shape, 2)
    wide[..., 0] = tensor
    return wide[..., 0]


def _with_gradient(tensor: Tensor) -> Tensor:
    return tensor.requires_grad_() if tensor.is_floating_point() else tensor


def _memmap(draw: Draw, array: np.ndarray[Any, Any]) -> Given:
    if not array.size or array.dtype.kind in "O":
        return Given(array, "")
    mapped = np.memmap(draw.path(".bin"), dtype=array.dtype, mode="w+", shape=array.shape or (1,))
    mapped[...] = array
    return Given(mapped, "", True, True)


def _memmap_read(draw: Draw, array: np.ndarray[Any, Any]) -> Given:
    given = _memmap(draw, array)
    if isinstance(given.value, np.memmap):
        given.value.flush()
        shape = given.value.shape
        read = np.memmap(draw.folder / f"{draw.files}.bin", dtype=array.dtype, mode="r", shape=shape)
        return given._replace(value=read)
    return given


def _items_of(rows: list[Any], change: Callable[[Any], Any]) -> list[Any]:
    return [change(row) for row in rows]


def labelled(rows: list[Any]) -> list[Any]:
    return [(row, place % 2) for place, row in enumerate(rows)]


def broken(rows: list[Any]) -> list[Any]:
    return [*rows[: len(rows) // 2], BrokenError("the disk is gone"), *rows[len(rows) // 2 :]]


def _other_order(row: Tensor) -> Any:
    array = row.numpy()
    return array.astype(array.dtype.newbyteorder(">"))


def _frozen(row: Tensor) -> Any:
    return _read_only(row.numpy().copy())


#: Containers by name.
HOLDERS: dict[str, Holder] = {
    "tensor": _of_tensor(lambda x: x),
    "float tensor": _of_tensor(lambda x: x if x.is_complex() else x.float()),
    "bfloat16 tensor": _of_tensor(lambda x: x if x.is_complex() else x.bfloat16()),
    "float8 tensor": _of_tensor(lambda x: x if x.is_complex() else x.to(torch.float8_e5m2)),
    "tensor with gaps": _of_tensor(_spread),
    "transposed tensor": _of_tensor(lambda x: x.mT.contiguous().mT if x.dim() > 1 else x),
    "expanded tensor": _of_tensor(lambda x: x[:1].expand(7, *x.shape[1:]) if x.dim() and len(x) else x),
    "tensor with a gradient": _of_tensor(_with_gradient),
    "parameter": _of_tensor(lambda x: nn.Parameter(x, requires_grad=False)),
    "sparse tensor": _of_tensor(lambda x: x.to_sparse()),
    "meta tensor": _of_tensor(lambda x: x.to("meta")),
    "quantised tensor": _of_tensor(
        lambda x: x if x.is_complex() else torch.quantize_per_tensor(x.float().nan_to_num(), 0.1, 0, torch.qint8)
    ),
    "tensor of inference": _of_tensor(lambda x: torch.inference_mode()(x.clone)()),
    "array": _of_array(lambda x: x),
    "Fortran array": _of_array(np.asfortranarray),
    "reversed array": _of_array(lambda x: x[::-1] if x.ndim else x),
    "mirrored array": _of_array(lambda x: x[..., ::-1] if x.ndim else x),
    "every second row": _of_array(lambda x: x[::2] if x.ndim else x),
    "broadcast array": _of_array(lambda x: np.broadcast_to(x[:1], (7, *x.shape[1:])) if x.ndim and len(x) else x),
    "read-only array": _of_array(_read_only),
    "masked array": _of_array(lambda x: np.ma.masked_array(x, mask=np.zeros(x.shape, dtype=bool))),
    "memmap": _memmap,
    "read-only memmap": _memmap_read,
    "list": _of_array(lambda x: x.tolist()),
    "list of tensors": _of_tensor(lambda x: list(x) if x.dim() else [x]),
    "tuple of arrays": _of_array(lambda x: tuple(x) if x.ndim else (x,)),
    "iterator": _of_array(lambda x: iter(x) if x.ndim else iter([x])),
    "None": lambda draw, array: Given(None, ""),
    "word": lambda draw, array: Given("rows.csv", ""),
    "number": lambda draw, array: Given(3, ""),
    "class": lambda draw, array: Given(Tensor, ""),
    "data set": of_items(Rows),
    "tensor data set": of_items(lambda rows: TensorDataset(torch.stack(rows)) if rows else Rows(rows)),
    "data set with labels": of_items(lambda rows: Rows(labelled(rows))),
    "data set of arrays": of_items(lambda rows: Rows(_items_of(rows, lambda row: row.numpy()))),
    "data set of frozen arrays": of_items(lambda rows: Rows(_items_of(rows, _frozen))),
    "data set of big-endian arrays": of_items(lambda rows: Rows(_items_of(rows, _other_order))),
    "data set of lists": of_items(lambda rows: Rows(_items_of(rows, lambda row: row.tolist()))),
    "data set of None": of_items(lambda rows: Rows([None] * len(rows))),
    "data set of words": of_items(lambda rows: Rows(["row"] * len(rows))),
    "data set of dictionaries": of_items(lambda rows: Rows(_items_of(rows, lambda row: {"x": row}))),
    "data set of empty tuples": of_items(lambda rows: Rows([()] * len(rows))),
    "data set of uneven rows": of_items(lambda rows: Rows([*rows, torch.zeros(99)])),
    "data set that raises": of_items(lambda rows: Rows(broken(rows))),
    "stream": of_items(Stream),
    "stream of one pass": of_items(lambda rows: Stream(rows, passes=1)),
    "stream of two passes": of_items(lambda rows: Stream(rows, passes=2)),
    "stream that raises": of_items(lambda rows: Stream(broken(rows))),
    "empty stream": of_items(lambda rows: Stream([])),
}
