"""A whole source as it was read, before it is split and scaled."""

from typing import Any, NamedTuple

from numpy.typing import NDArray

Array = NDArray[Any]


class Table(NamedTuple):
    """A whole source in its own units, the test part last: x (n, features), y (n,) class numbers or -1."""

    x: Array
    y: Array
    before_test: int | None  # rows before the test part; None if the source leaves its choice to us
    class_names: tuple[str, ...]
    shape: tuple[int, ...] | None
