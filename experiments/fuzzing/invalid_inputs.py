"""Invalid rows and numbers, and valid ones among them, drawn from a seeded source.

Every value comes with a description for the report, and with the expectation of a finite answer.
"""

import copy
import warnings
from collections.abc import Callable
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import torch
from torch import nn

from dbn.units import Unit
from experiments.fuzzing.draw import LARGE, ROWS, Draw, Given
from experiments.fuzzing.holders import HOLDERS
from experiments.fuzzing.loaders import ODD_LOADERS

_ALL = HOLDERS | ODD_LOADERS


@torch.no_grad()
def valid_rows(draw: Draw, units: Unit, rows: int = ROWS) -> np.ndarray[Any, Any]:
    """Draw rows that the units take, in float64: (n, size)."""
    field = torch.zeros(rows, units.size, dtype=torch.float64)
    return np.asarray(copy.deepcopy(units).double().sample(field, generator=draw.generator).numpy())


def invalid_rows(draw: Draw, units: Unit) -> Given:
    """Draw rows that the units may refuse: odd in shape, values, dtype, layout or container."""
    array, words = valid_rows(draw, units), []
    for name, probability, table in (("shape", 0.25, _SHAPES), ("values", 0.4, _VALUES), ("dtype", 0.4, _DTYPES)):
        if draw.chance(probability):
            kind = draw.one(list(table))
            with np.errstate(all="ignore"), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                array = table[kind](array)
            words.append(f"{name} {kind}")
    kind = "tensor" if draw.chance(0.4) else draw.one(list(_ALL))
    try:
        given = _ALL[kind](draw, array)
    except (RuntimeError, TypeError, ValueError, AttributeError):  # torch or NumPy cannot make such a thing at all
        given = Given(array, "")
    return given._replace(words=", ".join([kind, *words]), finite=given.finite and _is_finite(array))


def _is_finite(array: np.ndarray[Any, Any]) -> bool:
    if array.dtype.kind not in "fiub":
        return False
    with np.errstate(all="ignore"):
        return bool((np.abs(array.astype(np.float64)) < LARGE).all())


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


#: Values that are no numbers, and extreme numbers.
_SCALARS: list[Any] = [
    *(-1, 0, 1.5, "3", True, False, None, float("nan"), float("inf"), -float("inf"), 1e30, 1e-40, 1j, b"1"),
    *([1], (1, 2), [], {}, {"a": 1}, object(), int, abs, Decimal("0.5"), Fraction(1, 2), ...),
    *(np.int64(2), np.float32(0.5), np.float64("nan"), np.True_, np.array(2), np.array([1, 2]), np.array("a")),
    *(torch.tensor(2), torch.tensor([0.5, 0.5]), torch.tensor(float("nan")), torch.zeros(0)),
    *([None, None], ["a", 1.5], [float("nan"), 0.1], [[1], [2]]),
]
_HUGE: list[Any] = [2**31, 2**63 - 1, 2**63, 2**64, 10**400, -(2**63), -(2**70), -(10**400)]


def invalid_number(draw: Draw, huge: bool = False) -> Given:
    """Choose no number or an odd one; with `huge` also whole numbers beyond any memory or time."""
    value = draw.one(_SCALARS + _HUGE if huge else [*_SCALARS, -(2**63), -(10**400)])
    return Given(value, described(value))


def described(value: Any) -> str:
    """Describe a value in a few words."""
    words = repr(value) if not isinstance(value, nn.Module) else f"{type(value).__name__}"
    shown = " ".join(words.split())
    return f"{shown[:60]} ({type(value).__name__})"
