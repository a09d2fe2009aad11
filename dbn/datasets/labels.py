"""Labels of any spelling as class numbers."""

from collections.abc import Sequence

import numpy as np

from dbn.datasets.table import Array

_LARGEST = 2**53  # above it a float64 no longer tells whole numbers apart


def class_numbers(found: Sequence[Array]) -> tuple[Array, tuple[str, ...]]:
    """Labels as 0..K-1 in sorted order, -1 if there is none, and what each was called.

    Labels are numbers if all of them are, else strings.
    """
    if any(y.dtype.kind in "US" for y in found):
        return _of_texts(np.concatenate([_texts(y) for y in found]))
    values = np.concatenate([_whole_numbers(y) for y in found])
    y, names = _numbered(values, values == -1)
    _check_signs(names, any((y == -1).any() for y in found))
    return y, names


def _of_texts(texts: Array) -> tuple[Array, tuple[str, ...]]:
    """The classes of strings, which are numbers if all of them spell one; "01", "1" and "1e0" spell the same."""
    spellings, place = np.unique(texts, return_inverse=True)
    numbers = [_number(spelling) for spelling in spellings.tolist()]
    missing = np.array([number == -1 or number != number for number in numbers])
    if any(number is None for number in numbers):
        return _numbered(texts, missing[place])
    values = _whole_numbers(np.array(numbers, dtype=np.float64))
    _check_spellings(spellings[~missing], values[~missing])
    y, _ = _numbered(values[place], missing[place])
    in_order = spellings[~missing][np.argsort(values[~missing])]
    names = tuple(spelling.removesuffix(".0") for spelling in in_order.tolist())  # pandas writes 1 so beside gaps
    _check_signs(names, -1 in numbers)
    return y, names


def _check_spellings(spellings: Array, values: Array) -> None:
    """Raise a ValueError if two spellings are one number, since they may be two classes."""
    for value in np.unique(values)[np.unique(values, return_counts=True)[1] > 1]:
        both = " and ".join(map(repr, spellings[values == value].tolist()))
        raise ValueError(f"labels spell the number {value} as {both}: write one class in one way, or classes as words")


def _numbered(values: Array, missing: Array) -> tuple[Array, tuple[str, ...]]:
    kept = np.unique(values[~missing])
    return np.where(missing, -1, np.searchsorted(kept, values)).astype(np.int64), tuple(map(str, kept.tolist()))


def _check_signs(names: tuple[str, ...], negative: bool) -> None:
    """Raise a ValueError if the labels are -1 and 1, which are mostly two classes."""
    if negative and names == ("1",):
        raise ValueError("found the labels -1 and 1, but -1 marks an unlabelled row: write the classes as 0 and 1")


def _texts(y: Array) -> Array:
    """Labels as strings without white space around them; whole numbers in floats lose their ".0"."""
    if y.dtype.kind in "iuf":
        y = _whole_numbers(y)
    return np.char.strip(y.astype(str))


def _number(text: str) -> float | None:
    """The number that a label spells, NaN for an empty one, or None for a word."""
    try:
        return float(text or "nan")
    except ValueError:
        return None


def _whole_numbers(y: Array) -> Array:
    """Labels as int64, -1 for NaN."""
    y = np.where(np.isnan(y), -1.0, y) if y.dtype.kind == "f" else y
    whole = y.dtype.kind in "biuf" and (y.dtype.kind != "f" or ((y == np.floor(y)) & (np.abs(y) < _LARGEST)).all())
    if not whole or (y.dtype.kind == "u" and (y > np.iinfo(np.int64).max).any()):
        raise ValueError(f"labels must be whole numbers or strings, found {y.dtype} such as {y[:3].tolist()}")
    return y.astype(np.int64)
