"""What all cells of a study have alike: its options, checked before any work, and its data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from dbn import datasets, distributed
from dbn.arguments import choose_device, finite_number, whole_number
from dbn.datasets import DataSplit
from experiments.study.command_line import check_several, option
from experiments.study.initialisations import KNOWN
from experiments.study.records import claim
from experiments.study.tuning import setting_of


@dataclass(frozen=True)
class Study:
    """What all cells of a study have alike, and the budget that every start has."""

    data: str = option("mnist", "a named data set, or the path of a .npz or .csv file")
    root: str | None = option(None, "folder of the data; else DBN_DATA, else a cache folder")
    starts: tuple[str, ...] = option(("xavier", "he", "dbn"), f"starts to compare, of {' '.join(KNOWN)}")
    seeds: int = option(5, "number of seeds")
    pretrain_epochs: int = option(30, "passes over the unlabelled rows for each layer")
    pretrain_rate: float | None = option(None, "first rate of pretraining, falling to 0; else what suits the units")
    sparsity: float | None = option(None, "mean activity that hidden units of 0 and 1 are pulled to in pretraining")
    sparsity_cost: float = option(1.0, "how hard")
    epochs: int = option(15, "passes over the labelled rows, in batches of a fiftieth of them, 10 to 100")
    updates: int = option(100, "least updates an epoch: its rows are repeated where labels are few")
    settings: tuple[str, ...] = option(("1e-3", "1e-3/1e-2"), "settings to choose from, as study.tuning says")
    first: int = option(2, "seeds that every setting is tried with")
    kept: int = option(2, "settings that are tried with all seeds")
    device: str = option("auto", "cpu, cuda, mps, or auto for the best there is")
    out: str | None = option(None, "folder for results and pictures, and to resume from")

    @property
    def architectures(self) -> tuple[str, ...]:
        """Sizes of the hidden layers of each network, bottom first, such as "500-500"."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for name in ("seeds", "pretrain_epochs", "epochs", "updates", "first", "kept"):
            whole_number(getattr(self, name), name)
        check_several(self.starts, "starts", KNOWN)
        for architecture in check_several(self.architectures, "architectures"):
            sizes_of(architecture)
        for setting in check_several(self.settings, "settings"):
            setting_of(setting)
        if self.pretrain_rate is not None:
            finite_number(self.pretrain_rate, "pretrain_rate", positive=True)
        finite_number(self.sparsity_cost, "sparsity_cost")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is {self.sparsity}: give a mean activity between 0 and 1")
        choose_device(self.device)


#: What may differ between two runs in one folder: it changes no number of a cell, or is part of the cell's name.
FREE = ("out", "root", "device", "starts", "architectures", "labels", "refit")


def sizes_of(architecture: str) -> tuple[int, ...]:
    """ "500-500" as (500, 500).

    Raises:
        ValueError: where the text says something else.
    """
    parts = architecture.split("-")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"architectures has {architecture!r}: write sizes of layers with strokes between, as 500-500")
    return tuple(map(int, parts))


def split_of(study: Study, labels: int | None, seed: int) -> DataSplit:
    """The data of a seed with so many labels, or with all."""
    return loaded(study.data, study.root, labels, seed)


@lru_cache(maxsize=16)
def loaded(data: str, root: str | None, labels: int | None, seed: int) -> DataSplit:
    """The data of a seed with so many labels; the last few are kept in memory."""
    return datasets.load(data, root=root, labels=labels, seed=seed)


def shares_test_rows(study: Study) -> bool:
    """Whether all seeds are judged on the same rows, as where a data set has its own test rows."""
    return split_of(study, None, 0).fixed_test


def begin(study: Study, out: Path, labels: Sequence[int | None], free: Sequence[str] = FREE) -> None:
    """Load the data with every number of labels, and make `out` the folder of this study.

    Raises:
        ValueError: as `check_labels` says, or where the folder holds another study's work, or several processes run;
            before anything is written.
    """
    if distributed.world_size() > 1:
        raise ValueError(f"{distributed.world_size()} processes run this study, which is one's work: start one")
    check_labels(lambda count: split_of(study, count, 0), labels)
    claim(out, study, free)


def check_labels(load: Callable[[int | None], DataSplit], labels: Sequence[int | None]) -> None:
    """Load the data with every number of labels.

    Raises:
        ValueError: where they cannot be so few, where two of the numbers are all there are, or where there are none.
    """
    found: dict[int, int | None] = {}
    for count in labels:
        rows = len(load(count).train.labelled.x)
        if not rows:
            raise ValueError("data has no rows with labels: give a file that says some")
        if rows in found:
            raise ValueError(f"labels has {found[rows]} and {count}, and each keeps all {rows} there are: give one")
        found[rows] = count
