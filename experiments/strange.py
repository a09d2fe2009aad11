"""Inputs that nobody should give, and plain ones among them, drawn from a seeded source.

Every value comes with the words by which a report calls it, and with what may be expected of an answer to it.
"""

import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from dbn.units import Unit

T = TypeVar("T")

ROWS = 12  # rows of plain data
_LARGE = 1e18  # single precision holds squares of numbers below, and sums of many


class Given(NamedTuple):
    """One input: its value, and the words for it."""

    value: Any
    words: str
    #: Whether all its numbers, and sums of products of two of them, are finite in single precision.
    finite: bool = True
    #: Whether it is read while the work is under way, so that it can be refused only then.
    late: bool = False


class Draw:
    """The source of one case: a number names it, and gives the same inputs again.

    Args:
        seed: of the run.
        case: number of the case.
        folder: where files of the case may be written.
    """

    def __init__(self, seed: int, case: int, folder: Path) -> None:
        self.random, self.folder = random.Random(f"{seed}/{case}"), folder
        self.generator = torch.Generator().manual_seed(self.random.randrange(2**62))
        self.files = 0

    def one(self, values: Sequence[T]) -> T:
        """One of the values, each as likely."""
        return values[self.random.randrange(len(values))]

    def chance(self, probability: float) -> bool:
        """True so often."""
        return self.random.random() < probability

    def path(self, suffix: str) -> Path:
        """A new name in the folder of the case."""
        self.files += 1
        return self.folder / f"{self.files}{suffix}"


class BrokenError(Exception):
    """What a data set of the user's own raises."""


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
    """Items from a list in their order, so many passes and no more."""

    def __init__(self, items: Sequence[Any], passes: int = 1_000_000) -> None:
        self.items, self.passes = items, passes

    def __iter__(self) -> Iterator[Any]:
        self.passes -= 1
        for item in self.items if self.passes >= 0 else ():
            if isinstance(item, Exception):
                raise item
            yield item


def plain_rows(draw: Draw, units: Unit, rows: int = ROWS) -> np.ndarray[Any, Any]:
    """Rows that the units take, in float64: (n, size)."""
    with torch.no_grad():
        field = torch.zeros(rows, units.size, dtype=torch.float32)
        return np.asarray(units.sample(field, generator=draw.generator).double().numpy())


def strange_rows(draw: Draw, units: Unit) -> Given:
    """Rows that the units may or may not take: odd in shape, values, numbers, layout or in what holds them."""
    array, words = plain_rows(draw, units), []
    for name, probability, table in (("shape", 0.25, _SHAPES), ("values", 0.4, _VALUES), ("dtype", 0.4, _DTYPES)):
        if draw.chance(probability):
            kind = draw.one(list(table))
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array = table[kind](array)
            words.append(f"{name} {kind}")
    kind = "tensor" if draw.chance(0.4) else draw.one(list(_HOLDERS))
    try:
        given = _HOLDERS[kind](draw, array)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # torch or NumPy cannot make such a thing at all
        given = Given(array, "")
    return given._replace(words=", ".join([kind, *words]), finite=given.finite and _is_finite(array))


def _is_finite(array: np.ndarray[Any, Any]) -> bool:
    if array.dtype.kind not in "fiub":
        return False
    with np.errstate(all="ignore"):
        return bool((np.abs(array.astype(np.float64)) < _LARGE).all())


def _with(value: float, whole: bool = False) -> Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]:
    def put(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
        changed = array.astype(np.float64, copy=True)
        changed[... if whole else (Ellipsis, slice(0, 1))] = value
        return changed

    return put


_Change = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]

_SHAPES: dict[str, _Change] = {
    "no dimension": lambda x: np.array(x.flat[0]),
    "one dimension": lambda x: x[0],
    "three dimensions": lambda x: x[:, None],
    "four dimensions": lambda x: x[:, None, :, None],
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
    "nothing": lambda x: x[:0, :0],
    "one row": lambda x: x[:1],
    "one column": lambda x: x[:, :1],
    "too wide": lambda x: np.concatenate([x, x[:, :1]], 1),
    "too narrow": lambda x: x[:, 1:],
    "upside down": lambda x: x.T,
    "many rows": lambda x: np.tile(x, (9, 1)),
}

_VALUES: dict[str, _Change] = {
    "NaN": lambda x: _with(np.nan)(x) if x.ndim else np.array(np.nan),
    "all NaN": _with(np.nan, whole=True),
    "infinite": lambda x: _with(np.inf)(x) if x.ndim else np.array(np.inf),
    "minus infinite": _with(-np.inf, whole=True),
    "1e30": _with(1e30, whole=True),
    "1e38": lambda x: _with(1e38)(x) if x.ndim else np.array(1e38),
    "-1e38": _with(-1e38, whole=True),
    "1e300": _with(1e300, whole=True),
    "1e-40": _with(1e-40, whole=True),
    "1e19 and -1e19": lambda x: np.where(np.arange(x.size).reshape(x.shape) % 2, 1e19, -1e19),
    "1e17 and -1e17": lambda x: np.where(np.arange(x.size).reshape(x.shape) % 2, 1e17, -1e17),
    "times 255": lambda x: x * 255,
    "minus": lambda x: -x,
    "minus zero": _with(-0.0, whole=True),
    "halves": _with(0.5, whole=True),
    "thousands": lambda x: x + 1000,
}

_DTYPES: dict[str, _Change] = {
    name: lambda x, name=name: x.astype(name)  # type: ignore[misc]
    for name in (
        *("float16", "float32", "float64", "longdouble", "int8", "uint8", "int16", "uint16", "int32", "uint32"),
        *("int64", "uint64", "bool", "complex64", "complex128", ">f4", ">f8", ">i2", "object", "str", "S3", "M8[s]"),
    )
} | {
    "objects": lambda x: np.full(x.shape, None),
    "uint64 at its end": lambda x: np.full(x.shape, 2**64 - 1, dtype="uint64"),
    "records": lambda x: np.zeros(x.shape, dtype=[("a", "f4"), ("b", "i4")]),
}


def _tensor(array: np.ndarray[Any, Any]) -> Tensor:
    """The array as a tensor where torch has such numbers, else some other tensor that machines cannot take."""
    native = array.astype(array.dtype.newbyteorder("=")) if not array.dtype.isnative else array.copy()
    try:
        return torch.from_numpy(native)
    except TypeError:
        return torch.zeros(array.shape, dtype=torch.complex64)


def _of_tensor(change: Callable[[Tensor], Any]) -> Callable[[Draw, np.ndarray[Any, Any]], Given]:
    def hold(draw: Draw, array: np.ndarray[Any, Any]) -> Given:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = change(_tensor(array))
        narrow = isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float8_e5m2)
        return Given(value, "", not narrow or bool((value.float().abs() < _LARGE).all()))

    return hold


def _of_array(change: Callable[[np.ndarray[Any, Any]], Any]) -> Callable[[Draw, np.ndarray[Any, Any]], Given]:
    return lambda draw, array: Given(change(array.copy()), "")


def _of_items(change: Callable[[list[Any]], Any], late: bool = True) -> Callable[[Draw, np.ndarray[Any, Any]], Given]:
    """A data set of the rows; what it holds is read while the work is under way."""
    return lambda draw, array: Given(change(list(_tensor(array)) if array.ndim else [_tensor(array)]), "", True, late)


def _read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


def _spread(tensor: Tensor) -> Tensor:
    """The same numbers with gaps between them."""
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


def _labelled(rows: list[Any]) -> list[Any]:
    return [(row, place % 2) for place, row in enumerate(rows)]


def _broken(rows: list[Any]) -> list[Any]:
    return [*rows[: len(rows) // 2], BrokenError("the disk is gone"), *rows[len(rows) // 2 :]]


def _other_order(row: Tensor) -> Any:
    array = row.numpy()
    return array.astype(array.dtype.newbyteorder(">"))


def _frozen(row: Tensor) -> Any:
    return _read_only(row.numpy().copy())


_BATCH = 5

_HOLDERS: dict[str, Callable[[Draw, np.ndarray[Any, Any]], Given]] = {
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
    "data set": _of_items(Rows),
    "tensor data set": _of_items(lambda rows: TensorDataset(torch.stack(rows)) if rows else Rows(rows)),
    "data set with labels": _of_items(lambda rows: Rows(_labelled(rows))),
    "data set of arrays": _of_items(lambda rows: Rows(_items_of(rows, lambda row: row.numpy()))),
    "data set of frozen arrays": _of_items(lambda rows: Rows(_items_of(rows, _frozen))),
    "data set of big-endian arrays": _of_items(lambda rows: Rows(_items_of(rows, _other_order))),
    "data set of lists": _of_items(lambda rows: Rows(_items_of(rows, lambda row: row.tolist()))),
    "data set of None": _of_items(lambda rows: Rows([None] * len(rows))),
    "data set of words": _of_items(lambda rows: Rows(["row"] * len(rows))),
    "data set of dictionaries": _of_items(lambda rows: Rows(_items_of(rows, lambda row: {"x": row}))),
    "data set of empty tuples": _of_items(lambda rows: Rows([()] * len(rows))),
    "data set of uneven rows": _of_items(lambda rows: Rows([*rows, torch.zeros(99)])),
    "data set that raises": _of_items(lambda rows: Rows(_broken(rows))),
    "stream": _of_items(Stream),
    "stream of one pass": _of_items(lambda rows: Stream(rows, passes=1)),
    "stream of two passes": _of_items(lambda rows: Stream(rows, passes=2)),
    "stream that raises": _of_items(lambda rows: Stream(_broken(rows))),
    "empty stream": _of_items(lambda rows: Stream([])),
    "loader": _of_items(lambda rows: DataLoader(Rows(rows), _BATCH)),
    "loader with labels": _of_items(lambda rows: DataLoader(Rows(_labelled(rows)), _BATCH)),
    "loader of rows": _of_items(lambda rows: DataLoader(Rows(rows), batch_size=None)),
    "loader that drops all": _of_items(lambda rows: DataLoader(Rows(rows), 1000, drop_last=True)),
    "loader that raises": _of_items(lambda rows: DataLoader(Rows(_broken(rows)), _BATCH)),
    "loader of a stream": _of_items(lambda rows: DataLoader(Stream(rows, passes=2), _BATCH)),
}

#: What is no number of anything, or one at the end of what numbers are.
_SCALARS: list[Any] = [
    *(-1, 0, 1.5, "3", True, False, None, float("nan"), float("inf"), -float("inf"), 1e30, 1e-40, 1j, b"1"),
    *([1], (1, 2), [], {}, {"a": 1}, object(), int, abs, Decimal("0.5"), Fraction(1, 2), ...),
    *(np.int64(2), np.float32(0.5), np.float64("nan"), np.True_, np.array(2), np.array([1, 2]), np.array("a")),
    *(torch.tensor(2), torch.tensor([0.5, 0.5]), torch.tensor(float("nan")), torch.zeros(0)),
    *([None, None], ["a", 1.5], [float("nan"), 0.1], [[1], [2]]),
]
_HUGE: list[Any] = [2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(2**63), -(2**70), -(10**400)]


def strange_number(draw: Draw, huge: bool = False) -> Given:
    """No number, or an odd one; with `huge` also whole numbers that no memory holds and no clock sees done."""
    value = draw.one(_SCALARS + _HUGE if huge else [*_SCALARS, -(2**63), -(10**400)])
    return Given(value, described(value))


def described(value: Any) -> str:
    """A value in a few words."""
    words = repr(value) if not isinstance(value, nn.Module) else f"{type(value).__name__}"
    shown = " ".join(words.split())
    return f"{shown[:60]} ({type(value).__name__})"
