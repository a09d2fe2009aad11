"""The seeded random source of a case, and its inputs."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")

ROWS = 12  # rows of valid data
LARGE = 1e18  # squares of smaller numbers, and sums of many, are finite in single precision


class Given(NamedTuple):
    """One input: its value, and its description."""

    value: Any
    words: str
    #: Whether all its numbers, and sums of products of two of them, are finite in single precision.
    finite: bool = True
    #: Whether it is read during the work, so that it can be refused only then.
    late: bool = False


class Draw:
    """The random source of one case. The same number gives the same inputs.

    Args:
        seed: of the run.
        case: number of the case.
        folder: where files of the case may be written.

    Attributes:
        invalid: names of the arguments with invalid values.
    """

    def __init__(self, seed: int, case: int, folder: Path) -> None:
        self.random, self.folder = random.Random(f"{seed}/{case}"), folder
        self.generator = torch.Generator().manual_seed(self.random.randrange(2**62))
        self.files = 0
        self.invalid: set[str] = set()

    def one(self, values: Sequence[T]) -> T:
        """Choose one of the values uniformly."""
        return values[self.random.randrange(len(values))]

    def chance(self, probability: float) -> bool:
        """Return True with this probability."""
        return self.random.random() < probability

    def path(self, suffix: str) -> Path:
        """Return a new path in the folder of the case."""
        self.files += 1
        return self.folder / f"{self.files}{suffix}"
