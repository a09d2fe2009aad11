"""Errors that say what to make smaller if memory runs out."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch

_ON_CPU = "allocate memory"  # what torch's error says there, which has no kind of its own


@contextmanager
def named_where_short(**sizes: object) -> Iterator[None]:
    """Raise an `OutOfMemoryError` that names these sizes if memory runs out in the block, on a GPU or a CPU.

    Example:
        >>> with named_where_short(chains=10**12):
        ...     torch.empty(10**12, 784)
        Traceback (most recent call last):
        torch.OutOfMemoryError: out of memory with chains = 1000000000000: give less (...)
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and _ON_CPU not in str(error):
            raise
        found = ", ".join(f"{name} = {size}" for name, size in sizes.items())
        raise torch.OutOfMemoryError(f"out of memory with {found}: give less ({error})") from error
