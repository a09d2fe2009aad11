"""Short names of data and parameters, by which a checkpoint knows whether it belongs to a call."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

_WHOLE = 2**26  # bytes up to which every value is read
_ROWS = 1000  # evenly spaced rows that are read of what is larger
_MAX_PARTS = 1000  # tensors or data sets in a list that a data set holds
_MAX_LEVELS = 8  # of data sets in each other


def fingerprint(*parts: Any) -> str:
    """A checksum of tensors, arrays and memory maps, by their values, shapes and dtypes.

    Of what has more than 64 MiB, 1,000 evenly spaced rows are read, and a change in others is not noticed.

    Example:
        >>> fingerprint(torch.zeros(3)) == fingerprint(torch.zeros(3)), fingerprint(torch.zeros(3)) == fingerprint(None)
        (True, False)
    """
    digest = hashlib.blake2b(digest_size=16)
    for part in parts:
        for piece in _pieces(part):
            digest.update(piece)
    return digest.hexdigest()


def fingerprint_of_parameters(state: Mapping[str, Any]) -> str:
    """The checksum of a `state_dict`, as of its tensors by their names."""
    return fingerprint(*(part for name, value in sorted(state.items()) for part in (name, value)))


def contents_of_dataset(dataset: Any) -> Iterable[Any]:
    """The length of a data set, and the tensors, arrays and lists of numbers that it and the data sets in it hold.

    No item is read, since reading one may draw at random.
    """
    for part in nested_datasets(dataset):
        try:
            yield str(len(part))
        except TypeError:
            yield "no length"
        for name, value in sorted(getattr(part, "__dict__", {}).items()):
            for one in value if isinstance(value, tuple | list) and not _is_numbers(value) else [value]:
                if isinstance(one, Tensor | np.ndarray):
                    yield from (name, one)
                elif _is_numbers(one):
                    yield from (name, np.asarray(one))


def nested_datasets(dataset: Any, level: int = 0) -> Iterable[Any]:
    """A data set and those that it holds as attributes or in lists, such as the whole of a `Subset`."""
    yield dataset
    for _, value in sorted(getattr(dataset, "__dict__", {}).items()):
        for one in value[:_MAX_PARTS] if isinstance(value, tuple | list) else [value]:
            if isinstance(one, torch.utils.data.Dataset) and level < _MAX_LEVELS:
                yield from nested_datasets(one, level + 1)


def _is_numbers(value: Any) -> bool:
    """Whether a value is a list of numbers, such as the indices of a `Subset`, told by its ends."""
    return (
        isinstance(value, tuple | list | range)
        and len(value) > 0
        and all(isinstance(end, int | float | np.number) for end in (value[0], value[-1]))
    )


def _pieces(part: Any) -> Iterable[Any]:
    if not isinstance(part, Tensor | np.ndarray):
        yield repr(part).encode()
        return
    yield f"{tuple(part.shape)} {str(part.dtype).removeprefix('torch.')}".encode()
    if isinstance(part, Tensor) and (part.is_meta or part.layout != torch.strided):
        return
    size = part.element_size() * part.numel() if isinstance(part, Tensor) else part.nbytes
    if size > _WHOLE and len(part) > _ROWS:
        places = [row * len(part) // _ROWS for row in range(_ROWS)]
        part = part[torch.tensor(places, dtype=torch.int64, device=part.device) if isinstance(part, Tensor) else places]
    yield _bytes(part)


def _bytes(values: Any) -> Any:
    if isinstance(values, Tensor):
        return values.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
