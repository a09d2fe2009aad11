"""Runs from every kind of source that are killed after every step; the same call must end in the same bits.

A kill is an exception that no handler of the library catches. It is raised between a step and the next save. The
resumed run builds RBM, rows, loader and generators anew, as a new process would.
"""

import contextlib
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, Dataset, RandomSampler, TensorDataset, WeightedRandomSampler

from dbn import CD, DBN, PCD, RBM, finetune, train
from dbn.fit import TrainingState

ROWS, COLUMNS, BATCH = 23, 6, 5
CALLS = ("train", "pretrain", "finetune")

Result = tuple[list[Tensor], list[dict[str, float]]]


class Killed(BaseException):
    """Stands for the end of a process."""


class Case(NamedTuple):
    """A call, its kind of source, and whether it has a seed and saves after every step."""

    call: str
    source: str
    seeded: bool
    often: bool


class Items(Dataset[Any]):
    """A user's data set of rows and labels."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        return self.x[place], self.y[place]


class Noisy(Items):
    """Rows that torch's global generator changes whenever they are read."""

    def __getitem__(self, place: int) -> tuple[Tensor, Tensor]:
        x, y = super().__getitem__(place)
        return torch.where(torch.rand(COLUMNS) < 0.1, 1 - x, x), y


def _rows() -> tuple[Tensor, Tensor]:
    x = (torch.rand(ROWS, COLUMNS, generator=_generator(0)) < 0.4).float()
    return x, (x[:, 0] > 0).long()


def _generator(seed: int = 7) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _loader(**settings: Any) -> Callable[[Tensor, Tensor, Path], Any]:
    return lambda x, y, folder: DataLoader(TensorDataset(x, y), BATCH, **settings)


def _mapped(x: Tensor, y: Tensor, folder: Path) -> Any:
    np.save(folder / "rows.npy", x.numpy())
    return np.load(folder / "rows.npy", mmap_mode="r")


def _batches() -> BatchSampler:
    return BatchSampler(RandomSampler(range(ROWS), generator=_generator()), BATCH, drop_last=False)


#: Kinds of sources; every call makes its own.
SOURCES: dict[str, Callable[[Tensor, Tensor, Path], Any]] = {
    "tensor": lambda x, y, folder: x,
    "memmap": _mapped,
    "Dataset": lambda x, y, folder: Items(x, y),
    "Dataset, noisy": lambda x, y, folder: Noisy(x, y),
    "loader, ordered": _loader(),
    "loader, own generator": lambda *given: _loader(shuffle=True, generator=_generator())(*given),
    "loader, global generator": _loader(shuffle=True),
    "loader, own generator, noisy": lambda x, y, folder: DataLoader(
        Noisy(x, y), BATCH, shuffle=True, generator=_generator()
    ),
    "loader, sampler with a generator": lambda *given: _loader(
        sampler=RandomSampler(range(ROWS), generator=_generator()), generator=_generator(8)
    )(*given),
    "loader, weighted sampler": lambda *given: _loader(
        sampler=WeightedRandomSampler([1.0] * ROWS, ROWS, generator=_generator())
    )(*given),
    "loader, batch sampler": lambda x, y, folder: DataLoader(TensorDataset(x, y), batch_sampler=_batches()),
    "loader, workers": lambda *given: _loader(shuffle=True, generator=_generator(), num_workers=1)(*given),
}
_ITSELF = ("tensor", "memmap")  # these hold no labels


def run(case: Case, folder: Path | None, work: Path) -> Result:
    """Make everything anew, call, and return parameters and records."""
    torch.manual_seed(99)
    x, y = _rows()
    data = SOURCES[case.source](x, y, work)
    keep: dict[str, Any] = {"checkpoint": folder, "checkpoint_seconds": 0 if case.often else 1e9, "progress": False}
    keep |= {"seed": 3} if case.seeded else {}
    if case.call == "train":
        module: nn.Module = RBM(COLUMNS, 4, seed=0)
        settings = {"estimator": PCD(4), "validation": x[:7], "centring": 0.01, "batch_size": BATCH}
        histories = [train(module, data, epochs=2, **settings, **keep)]  # type: ignore[arg-type]
    elif case.call == "pretrain":
        module = stack = DBN([COLUMNS, 5, 4, 3], seed=0)
        settings = {"estimator": [PCD(4), CD(1), PCD(3)], "validation": x[:7], "batch_size": BATCH}
        histories = stack.pretrain(data, epochs=2, upward="samples", binarise="sample", **settings, **keep)
    else:
        module = nn.Sequential(nn.Linear(COLUMNS, 5), nn.Sigmoid(), nn.Dropout(0.3), nn.Linear(5, 2))
        labelled = (data, y) if case.source in _ITSELF else (data,)
        settings = {"learning_rate": 0.01, "validation": (x[:7], y[:7]), "batch_size": BATCH}
        histories = [finetune(module, *labelled, epochs=2, **settings, **keep)]
    records = [{k: v for k, v in record.items() if k != "seconds"} for history in histories for record in history]
    return [value.detach().clone() for value in module.state_dict().values()], records


def _stepped_until(kill: float) -> Any:
    """Return a patch that kills a run after a step, and a counter of its steps."""
    original, done = TrainingState.advance, mock.Mock(count=0)

    def advance(state: TrainingState) -> None:
        done.count += 1
        if done.count == kill:
            raise Killed
        original(state)

    return mock.patch.object(TrainingState, "advance", advance), done


def kills(case: Case, stride: int, folder: Path) -> Iterator[bool]:
    """Yield for each kill whether the resumed run ends in the bits of an uninterrupted one."""
    patch, done = _stepped_until(math.inf)
    with patch:
        whole = run(case, None, folder)
    for number in range(1, done.count + 1, stride):
        kept = folder / f"kill-{number}"
        with _stepped_until(number)[0], contextlib.suppress(Killed):
            run(case, kept, folder)
        yield _same(whole, run(case, kept, folder))


def _same(one: Result, other: Result) -> bool:
    return all(map(torch.equal, one[0], other[0])) and one[1] == other[1]


def cases(sources: Sequence[str] = tuple(SOURCES)) -> list[Case]:
    """List every combination. A run without a seed resumes if the user seeds torch's global generator."""
    return [
        Case(call, source, seeded, often)
        for call in CALLS
        for source in sources
        for seeded in (True, False)
        for often in (True, False)
    ]


def killed_everywhere(stride: int) -> list[dict[str, Any]]:
    """Return a row of the table for every call: kills after every `stride` steps, from all sources.

    Files are not forced to the disk, which would take most of the time.
    """
    with mock.patch("os.fsync"):
        return _killed_everywhere(stride)


def _killed_everywhere(stride: int) -> list[dict[str, Any]]:
    rows = []
    for call in CALLS:
        found: dict[str, list[bool]] = {}
        for case in cases():
            if case.call == call:
                with tempfile.TemporaryDirectory() as folder:
                    pace = stride if "workers" not in case.source else 5 * stride
                    found.setdefault(case.source, []).extend(kills(case, pace, Path(folder)))
        every = [same for each in found.values() for same in each]
        broken = [f"{source} {each.count(False)}" for source, each in found.items() if not all(each)]
        how = f"same parameters and history from {len(found)} kinds of sources" + "; not ".join(["", *broken])
        rows.append({"what": f"{call} killed at every step", "survived": sum(every), "tried": len(every), "how": how})
    return rows
