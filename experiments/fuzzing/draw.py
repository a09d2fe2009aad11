"""The seeded source that every case of the fuzz is drawn from, and what a drawn input is."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch

T = TypeVar("T")

ROWS = 12  # rows of valid data
LARGE = 1e18  # single precision holds squares of numbers below, and sums of many


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

    Attributes:
        invalid: names of the arguments that are drawn as they should not be.
    """

    def __init__(self, seed: int, case: int, folder: Path) -> None:
        self.random, self.folder = random.Random(f"{seed}/{case}"), folder
        self.generator = torch.Generator().manual_seed(self.random.randrange(2**62))
        self.files = 0
        self.invalid: set[str] = set()

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
