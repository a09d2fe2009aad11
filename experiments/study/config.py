"""The options of a study, which are checked before any work, and its data."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from dbn import datasets
from dbn.datasets import DataSplit
from dbn.runtime.checks import choose_device, finite_number, whole_number
from dbn.schedules import linear
from experiments.study.command_line import check_several, option
from experiments.study.initialisations import KNOWN
from experiments.study.options import DataOptions, DeviceOption, OutOption, SeedsOption
from experiments.study.records import claim
from experiments.study.setting import Budget, batch_size, setting_of


@dataclass(frozen=True)
class StudyOptions(DataOptions, SeedsOption, DeviceOption, OutOption):
    """The options that the trials of every study share, and the budget that every start has."""

    starts: tuple[str, ...] = option(("xavier", "he", "dbn"), f"starts to compare, of {' '.join(KNOWN)}")
    pretrain_epochs: int = option(30, "passes over the unlabelled rows for each layer")
    epochs: int = option(15, "passes over the labelled rows, in batches of a fiftieth of them, 10 to 100")
    updates: int = option(100, "least updates an epoch: its rows are repeated if labels are few")

    @property
    def architectures(self) -> tuple[str, ...]:
        """Sizes of the hidden layers of each network, bottom first, such as "500-500"."""
        raise NotImplementedError

    @property
    def first(self) -> int:
        """Seeds that every setting is tried with; the best settings are then tried with all seeds."""
        raise NotImplementedError

    def recipe(self, activation: str) -> dict[str, Any]:
        """Options of pretraining, other than the library's defaults, for the units of an activation."""
        raise NotImplementedError

    def budget(self, rows: int, epochs: int) -> Budget:
        """Return the length of the fine-tuning on a number of labelled rows."""
        raise NotImplementedError

    def __post_init__(self) -> None:
        for name in ("seeds", "pretrain_epochs", "epochs", "updates"):
            whole_number(getattr(self, name), name)
        check_several(self.starts, "starts", KNOWN)
        for architecture in check_several(self.architectures, "architectures"):
            sizes_of(architecture)
        choose_device(self.device)


@dataclass(frozen=True)
class Study(StudyOptions):
    """A study whose settings are tried with a few seeds first. Rates fall along half a cosine to zero."""

    pretrain_rate: float | None = option(None, "first rate of pretraining, falling to 0; else what suits the units")
    sparsity: float | None = option(None, "mean activity that hidden units of 0 and 1 are pulled to in pretraining")
    sparsity_cost: float = option(1.0, "cost of the distance from --sparsity")
    settings: tuple[str, ...] = option(("1e-3", "1e-3/1e-2"), "settings to choose from, as study.setting says")
    first: int = option(2, "seeds that every setting is tried with")
    kept: int = option(2, "settings that are tried with all seeds")

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("first", "kept"):
            whole_number(getattr(self, name), name)
        for setting in check_several(self.settings, "settings"):
            setting_of(setting)
        if self.pretrain_rate is not None:
            finite_number(self.pretrain_rate, "pretrain_rate", positive=True)
        finite_number(self.sparsity_cost, "sparsity_cost")
        if self.sparsity is not None and not 0 < self.sparsity < 1:
            raise ValueError(f"sparsity is {self.sparsity}: give a mean activity between 0 and 1")

    def recipe(self, activation: str) -> dict[str, Any]:
        """The rate and the sparsity of the options, for Bernoulli units alone."""
        if activation != "sigmoid":
            return {}
        rate = self.pretrain_rate
        recipe: dict[str, Any] = {} if rate is None else {"learning_rate": linear(rate, 0.0, self.pretrain_epochs)}
        sparse = {"sparsity_target": self.sparsity, "sparsity_cost": self.sparsity_cost}
        return recipe | (sparse if self.sparsity is not None else {})

    def budget(self, rows: int, epochs: int) -> Budget:
        """Repeat the rows within an epoch until it has enough updates, so that few labels need no more validation."""
        size = batch_size(rows)
        return Budget(epochs, size, repeats=-(-self.updates * size // rows))


#: Options that may differ between two runs in one folder. They change no number of a trial, or are part of its name.
FREE = ("out", "root", "device", "starts", "architectures", "labels", "refit")


def sizes_of(architecture: str) -> tuple[int, ...]:
    """Return "500-500" as (500, 500).

    Raises:
        ValueError: if the text says something else.
    """
    parts = architecture.split("-")
    if not all(part.isdecimal() and int(part) for part in parts):
        raise ValueError(f"architectures has {architecture!r}: write sizes of layers with dashes between, as 500-500")
    return tuple(map(int, parts))


def split_of(study: StudyOptions, labels: int | None, seed: int) -> DataSplit:
    """Load the data of a seed with a number of labels, or with all."""
    return loaded(study.data, study.root, labels, seed)


@lru_cache(maxsize=16)
def loaded(data: str, root: str | None, labels: int | None, seed: int) -> DataSplit:
    """Load the data of a seed with a number of labels; the last few are kept in memory."""
    return datasets.load(data, root=root, labels=labels, seed=seed)


def shares_test_rows(study: StudyOptions) -> bool:
    """Whether all seeds are tested on the same rows, as they are if the data set has its own test rows."""
    return split_of(study, None, 0).fixed_test


def begin(study: StudyOptions, out: Path, labels: Sequence[int | None], free: Sequence[str] = FREE) -> None:
    """Load the data with every number of labels, and make `out` the folder of this study.

    Raises:
        ValueError: as `check_labels` says, or if the folder holds another study's work; before anything is written.
    """
    check_labels(lambda count: split_of(study, count, 0), labels)
    claim(out, study, free)


def check_labels(load: Callable[[int | None], DataSplit], labels: Sequence[int | None]) -> None:
    """Load the data with every number of labels.

    Raises:
        ValueError: if a number is too small for the data, if two numbers are both all there are, or if no row has a
            label.
    """
    found: dict[int, int | None] = {}
    for count in labels:
        rows = len(load(count).train.labelled.x)
        if not rows:
            raise ValueError("data has no labels: give a file with some")
        if rows in found:
            raise ValueError(f"labels has {found[rows]} and {count}, and each keeps all {rows} there are: give one")
        found[rows] = count
