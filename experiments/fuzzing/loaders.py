"""DataLoaders of many kinds: valid ones, which every function must take, and odd ones."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    RandomSampler,
    StackDataset,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from experiments.fuzzing.draw import Draw, Given
from experiments.fuzzing.holders import Holder, Rows, Stream, broken, labelled, of_items

_BATCH = 5

Data = Dataset[Any]
Loader = DataLoader[Any]


def _real(rows: Tensor) -> Tensor:
    """Convert rows to float32, of complex numbers the real part, without torch's warning of it."""
    return (rows.real if rows.is_complex() else rows).float()


def _of_arrays(items: Sequence[Any]) -> Any:
    """Collate rows, or rows and labels, to NumPy arrays."""
    if isinstance(items[0], tuple | list):
        return tuple(np.stack([np.asarray(item[place]) for item in items]) for place in range(len(items[0])))
    return np.stack([item.numpy() for item in items])


def _stacked(kind: type, items: Sequence[Any]) -> Any:
    """Stack rows, or rows and labels, in a list or a tuple."""
    if isinstance(items[0], tuple | list):
        parts = zip(*items, strict=True)
        return kind(torch.stack([torch.as_tensor(value) for value in part]) for part in parts)
    return kind([torch.stack(list(items))])


#: Ways to iterate over a data set of n items, with a generator.
_WAYS: dict[str, Callable[[Any, torch.Generator], Loader]] = {
    "in order": lambda data, g: DataLoader(data, _BATCH),
    "shuffled": lambda data, g: DataLoader(data, _BATCH, shuffle=True),
    "shuffled by a generator": lambda data, g: DataLoader(data, _BATCH, shuffle=True, generator=g),
    "without the last": lambda data, g: DataLoader(data, _BATCH, shuffle=True, drop_last=True),
    "row by row": lambda data, g: DataLoader(data, 1),
    "all at once": lambda data, g: DataLoader(data, 1000),
    "without workers": lambda data, g: DataLoader(data, _BATCH, num_workers=0, pin_memory=False, timeout=0),
    "a batch sampler": lambda data, g: DataLoader(
        data, batch_sampler=BatchSampler(RandomSampler(data, generator=g), _BATCH, drop_last=False)
    ),
    "a list of batches": lambda data, g: DataLoader(data, batch_sampler=[[0, 1, 2], [3], [4, 5, 6, 7]]),
    "weighted": lambda data, g: DataLoader(
        data, _BATCH, sampler=WeightedRandomSampler(torch.linspace(0.1, 1, len(data)).tolist(), len(data), generator=g)
    ),
    "weighted, by the global generator": lambda data, g: DataLoader(
        data, _BATCH, sampler=WeightedRandomSampler([1.0] * len(data), 7)
    ),
    "with replacement": lambda data, g: DataLoader(
        data, _BATCH, sampler=RandomSampler(data, replacement=True, num_samples=8, generator=g)
    ),
    "a subset": lambda data, g: DataLoader(
        data, _BATCH, sampler=SubsetRandomSampler(list(range(0, len(data), 2)), generator=g)
    ),
    "a list of places": lambda data, g: DataLoader(data, 2, sampler=[0, 3, 5, 3]),
    "as arrays": lambda data, g: DataLoader(data, _BATCH, collate_fn=_of_arrays),
    "as tuples": lambda data, g: DataLoader(data, _BATCH, collate_fn=lambda items: _stacked(tuple, items)),
    "as lists": lambda data, g: DataLoader(data, _BATCH, collate_fn=lambda items: _stacked(list, items)),
}  # fmt: skip

#: Data sets of rows, by their rows and labels; None for no labels.
_SETS: dict[str, Callable[[Tensor, Tensor | None], Data]] = {
    "items": lambda x, y: Rows(list(x) if y is None else list(zip(x, y, strict=True))),
    "tensors": lambda x, y: TensorDataset(x) if y is None else TensorDataset(x, y),
    "a subset": lambda x, y: Subset(_SETS["items"](x, y), range(len(x))),
    "two sets": lambda x, y: ConcatDataset(
        [_SETS["items"](part, label) for part, label in zip(_halves(x), _halves(y), strict=True)]
    ),
    "a stack": lambda x, y: Rows(list(x)) if y is None else StackDataset(Rows(list(x)), Rows(list(y))),
    "three parts": lambda x, y: TensorDataset(x, torch.arange(len(x)) if y is None else y, torch.ones(len(x))),
}

#: Loaders that make batches in other ways.
_OTHERS: dict[str, Callable[[list[Any]], Loader]] = {
    "a stream": lambda items: DataLoader(Stream(items), _BATCH),
    "a stream without the last": lambda items: DataLoader(Stream(items), _BATCH, drop_last=True),
    "two streams": lambda items: DataLoader(ChainDataset([Stream(items[:6]), Stream(items[6:])]), _BATCH),
    "tensors, batch after batch": lambda items: DataLoader(
        TensorDataset(*_stacked(list, items)), sampler=BatchSampler(range(len(items)), _BATCH, False), batch_size=None
    ),
    "a stream of batches": lambda items: DataLoader(Stream([_stacked(list, items)] * 2), batch_size=None),
}


def valid_loader(draw: Draw, x: Tensor, y: Tensor | None = None) -> Given:
    """Make a loader of rows (n, V), and of their labels, that must be taken."""
    if draw.chance(0.2):
        name = draw.one(list(_OTHERS))
        return Given(_OTHERS[name](list(x) if y is None else list(zip(x, y, strict=True))), f"loader of {name}")
    kind, way = draw.one(list(_SETS)), draw.one(list(_WAYS))
    generator = torch.Generator().manual_seed(draw.random.randrange(2**31))
    loader = _WAYS[way](_SETS[kind](x, y), generator)
    return Given(loader, f"loader of {kind}, {way}, {'no' if y is None else y.dtype} labels, {x.dtype}")


def _halves(values: Tensor | None) -> list[Any]:
    return [None, None] if values is None else [values[:5], values[5:]]


def _of_batches(change: Callable[[list[Any]], Any]) -> Holder:
    """A loader whose batches are made in an odd way."""
    return of_items(lambda rows: DataLoader(Rows(rows), _BATCH, collate_fn=change))


def _distributed(rows: list[Any]) -> Loader:
    return DataLoader(Rows(rows), _BATCH, sampler=DistributedSampler(Rows(rows), num_replicas=2, rank=0))


#: Odd loaders by name, beside valid ones of odd rows.
ODD_LOADERS: dict[str, Holder] = {
    "loader": of_items(lambda rows: DataLoader(Rows(rows), _BATCH)),
    "loader with labels": of_items(lambda rows: DataLoader(Rows(labelled(rows)), _BATCH)),
    "loader of rows": of_items(lambda rows: DataLoader(Rows(rows), batch_size=None)),
    "loader that drops all": of_items(lambda rows: DataLoader(Rows(rows), 1000, drop_last=True)),
    "loader that raises": of_items(lambda rows: DataLoader(Rows(broken(rows)), _BATCH)),
    "loader of a stream": of_items(lambda rows: DataLoader(Stream(rows, passes=2), _BATCH)),
    "loader of one pass": of_items(lambda rows: DataLoader(Stream(rows, passes=1), _BATCH)),
    "loader of an empty stream": of_items(lambda rows: DataLoader(Stream([]), _BATCH)),
    "loader of no places": of_items(lambda rows: DataLoader(Rows(rows), _BATCH, sampler=[])),
    "loader of places that are not there": of_items(lambda rows: DataLoader(Rows(rows), _BATCH, sampler=[0, 99])),
    "loader of several processes": of_items(_distributed),
    "loader of uneven rows": of_items(lambda rows: DataLoader(Rows([*rows, torch.zeros(99)]), _BATCH)),
    "loader of uneven batches": of_items(lambda rows: DataLoader(Stream([torch.stack(rows), 3]), batch_size=None)),
    "loader of lists of rows": _of_batches(list),
    "loader of dictionaries": _of_batches(lambda rows: {"x": torch.stack(rows)}),
    "loader of None": _of_batches(lambda rows: None),
    "loader of numbers": _of_batches(len),
    "loader of words": _of_batches(lambda rows: ["row"] * len(rows)),
    "loader of empty tuples": _of_batches(lambda rows: ()),
    "loader of labels first": _of_batches(lambda rows: (torch.arange(len(rows)), torch.stack(rows))),
    "loader of sparse batches": _of_batches(lambda rows: torch.stack(rows).to_sparse()),
    "loader of meta batches": _of_batches(lambda rows: torch.stack(rows).to("meta")),
    "loader of batches without rows": _of_batches(lambda rows: torch.stack(rows)[:0]),
    "loader of batches with a gradient": _of_batches(lambda rows: _real(torch.stack(rows)).requires_grad_()),
    "loader that is used up": of_items(lambda rows: iter(DataLoader(Rows(rows), _BATCH))),
    "list of loaders": of_items(lambda rows: [DataLoader(Rows(rows), _BATCH)]),
}
