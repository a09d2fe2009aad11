"""One cell of a study: a start in an architecture with a number of labels, tuned, and then read off the test set.

Every seed draws its own labelled subset, validation rows, weights and order; all starts of a seed share them, and the
subsets of a seed are nested. A stack is pretrained once a seed on all training rows, without labels.

Tuning is the same for every start: all settings of one list with the first seeds, the best few on validation with all
seeds, and of those the lowest mean validation error. The weights are those of the best epoch on validation, and the
test set is read once, by the networks so chosen. A run that leaves the finite numbers counts as 100 % error.
"""

import shutil
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn

from dbn import DBN, DivergenceError, datasets, evaluate
from dbn.arguments import choose_device, whole_number
from dbn.checkpoint import load, save
from dbn.datasets import DataSplit, Samples
from dbn.schedules import linear
from experiments.command_line import option
from experiments.records import environment, read_json, write_json
from experiments.starts import KNOWN, one_test_set, pretrained
from experiments.tuning import file_name, narrowed, setting_of, tuned

Arm = dict[str, Any]


@dataclass(frozen=True)
class Study:
    """What all cells of a study have alike, and the budget that every start has."""

    data: str = option("mnist", "a named data set, or the path of a .npz or .csv file")
    root: str | None = option(None, "folder of the data; else DBN_DATA, else a cache folder")
    architectures: tuple[str, ...] = option(("1024", "500-500"), "sizes of the hidden layers, bottom first")
    starts: tuple[str, ...] = option(("xavier", "he", "dbn"), f"starts to compare, of {' '.join(KNOWN)}")
    seeds: int = option(5, "number of seeds")
    pretrain_epochs: int = option(30, "passes over the unlabelled rows for each layer")
    pretrain_rate: float | None = option(None, "first rate of pretraining, falling to 0; else what suits the units")
    sparsity: float | None = option(None, "mean activity that hidden units of 0 and 1 are pulled to in pretraining")
    sparsity_cost: float = option(1.0, "how hard")
    epochs: int = option(15, "passes over the labelled rows, in batches of a fiftieth of them, 10 to 100")
    updates: int = option(100, "least updates an epoch: its rows are repeated where labels are few")
    settings: tuple[str, ...] = option(("1e-3", "1e-3/1e-2"), "settings to choose from, as experiments.tuning says")
    first: int = option(2, "seeds that every setting is tried with")
    kept: int = option(2, "settings that are tried with all seeds")
    device: str = option("auto", "cpu, cuda, mps, or auto for the best there is")
    out: str | None = option(None, "folder for results and pictures, and to resume from")

    def __post_init__(self) -> None:
        for name in ("seeds", "pretrain_epochs", "epochs", "updates", "first", "kept"):
            whole_number(getattr(self, name), name)
        if not self.starts or not set(self.starts) <= set(KNOWN):
            raise ValueError(f"starts is {self.starts}: give at least one of {' '.join(KNOWN)}")
        for setting in self.settings:
            setting_of(setting)


#: What may differ between two runs in one folder: it changes no number of a cell, or is part of the cell's name.
FREE = ("out", "root", "device", "starts", "architectures", "labels", "refit")


@dataclass(frozen=True)
class Cell:
    """A start in an architecture with a number of labels: its runs, and where they lie.

    Args:
        study: what it has in common with others.
        out: the folder of the study.
        start: its name.
        architecture: sizes of hidden layers, such as "500-500".
        labels: their number, or None for all.
        settings: the list to choose from.
        kept: how many of them are tried with all seeds.
        group: what tells it from a cell that differs in its list alone.
        refit: train networks in the way chosen by the cell that is the same without it once more, on training and
            validation rows together, and read the test set with those. For so many epochs, or for those of the study
            where the first seeds have lower validation errors after them.
    """

    study: Study
    out: Path
    start: str
    architecture: str
    labels: int | None
    settings: tuple[str, ...]
    kept: int
    group: str = ""
    refit: int | None = None

    @property
    def name(self) -> str:
        parts = (
            self.architecture,
            "all" if self.labels is None else str(self.labels),
            self.start,
            self.group,
            "" if self.refit is None else f"refit-{self.refit}",
        )
        return "_".join(filter(None, parts))

    @property
    def path(self) -> Path:
        return self.out / "arms" / f"{self.name}.json"

    @property
    def hidden(self) -> tuple[int, ...]:
        return tuple(map(int, self.architecture.split("-")))

    @property
    def epochs(self) -> int:
        return self.refit or self.study.epochs

    def split(self, seed: int) -> DataSplit:
        return _split(self.study.data, self.study.root, self.labels, seed)

    def network(self, setting: str, seed: int) -> nn.Sequential:
        """The network before fine-tuning."""
        split, found = self.split(seed), setting_of(setting)
        sizes = [split.train.x.shape[1], *self.hidden, split.classes]
        stack = self.stack(seed)[0] if KNOWN[self.start].from_stack else None
        return KNOWN[self.start].build(sizes, stack, seed, input_dropout=found.input_dropout, dropout=found.dropout)

    def stack(self, seed: int) -> tuple[DBN, float]:
        """The pretrained stack that this start comes from, or a higher one, and the seconds that took."""
        study, activation = self.study, KNOWN[self.start].activation
        higher = [one for one in study.architectures if f"{one}-".startswith(f"{self.architecture}-")]
        highest = max([*higher, self.architecture], key=len)
        rate, sparse = study.pretrain_rate, activation == "sigmoid" and study.sparsity is not None
        recipe = {"learning_rate": None if rate is None else linear(rate, 0.0, study.pretrain_epochs)}
        penalty = {"sparsity_target": study.sparsity, "sparsity_cost": study.sparsity_cost} if sparse else {}
        return pretrained(
            self.split(seed),
            tuple(map(int, highest.split("-"))),
            epochs=study.pretrain_epochs,
            seed=seed,
            device=str(choose_device(study.device)),
            path=self.out / "stacks" / f"{highest}-{activation}-{seed}.pt",
            activation=activation,
            **(recipe if activation == "sigmoid" else {}),
            **penalty,
        )

    def run(self, setting: str, seed: int) -> dict[str, Any]:
        """Validation errors in percent after every epoch, and seconds, of one run, made where it is not there yet."""
        path = self._path(setting, seed)
        if not path.exists():
            network, split = self.network(setting, seed), self.split(seed)
            try:
                history = self._fine_tuned(network, split.train.labelled, split.validation, setting, seed, self.epochs)
                errors = [round(100 * error, 4) for error in history["validation_error"]]
                record = {"validation_errors": errors, "seconds": history.last["seconds"]}
            except DivergenceError:
                record = {"validation_errors": [100.0] * self.epochs, "seconds": 0.0}
            save(path.with_suffix(".pt"), {"kind": "network", "state": network.cpu().state_dict()})
            write_json(path, record)
        return read_json(path)

    def best(self, setting: str, seed: int) -> float:
        """The lowest validation error of a run, in percent."""
        return float(min(self.run(setting, seed)["validation_errors"]))

    def test_error(self, setting: str, seed: int) -> float:
        """Of the network of the best epoch, in percent."""
        self.run(setting, seed)
        return self._read(self._path(setting, seed), setting, seed)

    def refitted_error(self, setting: str, seed: int, epochs: int) -> float:
        """Test error of a network that was trained on training and validation rows together, in percent."""
        path = self._path(setting, seed, f"all-rows-{epochs}-")
        if not path.exists():
            network, split = self.network(setting, seed), self.split(seed)
            rows = Samples(*map(torch.cat, zip(split.train.labelled, split.validation, strict=True)))
            history = self._fine_tuned(network, rows, None, setting, seed, epochs)
            save(path.with_suffix(".pt"), {"kind": "network", "state": network.cpu().state_dict()})
            write_json(path, {"seconds": history.last["seconds"]})
        return self._read(path, setting, seed)

    def _read(self, path: Path, setting: str, seed: int) -> float:
        network = self.network(setting, seed)
        network.load_state_dict(load(path.with_suffix(".pt"), kind="network")["state"])
        return 100 * evaluate(network, *self.split(seed).test).error

    def forget(self) -> None:
        """Delete the networks and records of all runs."""
        shutil.rmtree(self.out / "runs" / self.name)

    def _path(self, setting: str, seed: int, kind: str = "") -> Path:
        return self.out / "runs" / self.name / f"{kind}{file_name(setting)}-{seed}.json"

    def _fine_tuned(
        self, network: nn.Module, train: Samples, validation: Samples | None, setting: str, seed: int, epochs: int
    ) -> Any:
        return tuned(
            network,
            train,
            validation,
            setting_of(setting),
            epochs=epochs,
            batch_size=batch_size(len(train.x)),
            updates=self.study.updates,
            seed=seed,
            device=self.study.device,
        )


def arm_of(cell: Cell) -> Arm:
    """What a cell has come to: from its file where it is finished, else by tuning and then reading the test set."""
    if not cell.path.exists():
        write_json(cell.path, _tuned(cell) if cell.refit is None else _refitted(cell))
        cell.forget()
    return read_json(cell.path)


def _tuned(cell: Cell) -> Arm:
    kept, tried = _searched(cell)
    return _described(cell, kept[0]) | {"kept": kept, "tried": tried}


def _refitted(cell: Cell) -> Arm:
    """The arm of the cell without a refit, with the test errors of networks that saw the validation rows too."""
    arm, split = arm_of(replace(cell, refit=None)), cell.split(0)
    setting, seeds = arm["setting"], cell.study.seeds
    epochs, validation = _refit_epochs(cell, arm)
    rows = len(split.train.labelled.x) + len(split.validation.x)
    errors = [round(cell.refitted_error(setting, seed, epochs), 4) for seed in range(seeds)]
    refitted = {"epochs": epochs, "validation_error": validation}
    return arm | {
        "labelled_rows": rows,
        "test_error": errors,
        "refit": refitted,
        "commit": environment()["commit"],
    }


def _refit_epochs(cell: Cell, arm: Arm) -> tuple[int, dict[int, list[float]]]:
    """The better of two numbers of epochs, and the first seeds' validation errors after each that was looked at."""
    first = min(cell.study.first, cell.study.seeds)
    tried = {cell.study.epochs: [curve[-1] for curve in arm["validation_curves"][:first]]}
    if cell.epochs not in tried:
        tried[cell.epochs] = [cell.run(arm["setting"], seed)["validation_errors"][-1] for seed in range(first)]
    return min(tried, key=lambda epochs: fmean(tried[epochs])), tried


def _searched(cell: Cell) -> tuple[list[str], dict[str, list[float]]]:
    """The settings that were tried with all seeds, best first, and the lowest validation errors of all."""
    seeds, first = cell.study.seeds, min(cell.study.first, cell.study.seeds)
    best_few = narrowed(cell.settings, cell.best, first=first, kept=cell.kept)
    kept = narrowed(best_few, cell.best, first=seeds, kept=len(best_few))
    tried = {one: [cell.best(one, seed) for seed in range(seeds if one in kept else first)] for one in cell.settings}
    return kept, tried


def _described(cell: Cell, chosen: str) -> Arm:
    """An arm in the format of `compare`."""
    start, setting, seeds = KNOWN[cell.start], setting_of(chosen), range(cell.study.seeds)
    rows = len(cell.split(0).train.labelled.x)
    runs = [cell.run(chosen, seed) for seed in seeds]
    arm = {
        "start": start.label,
        "activation": start.activation,
        "architecture": cell.architecture,
        "labels": cell.labels or rows,
        "labelled_rows": rows,
        "commit": environment()["commit"],
        "one_test_set": one_test_set([cell.split(seed) for seed in seeds]),
        "setting": chosen,
        "learning_rate": setting.body,
        "head_learning_rate": setting.head,
        "input_dropout": setting.input_dropout,
        "dropout": setting.dropout,
        "weight_decay": setting.weight_decay,
        "batch_size": batch_size(rows),
        "test_error": [round(cell.test_error(chosen, seed), 4) for seed in seeds],
        "validation_error": [cell.best(chosen, seed) for seed in seeds],
        "validation_curves": [run["validation_errors"] for run in runs],
        "seconds": [run["seconds"] for run in runs],
    }
    if start.from_stack:
        arm["pretrain_seconds"] = [cell.stack(seed)[1] for seed in seeds]
    return arm


def batch_size(rows: int) -> int:
    """A fiftieth of the rows, 10 to 100."""
    return min(max(rows // 50, 10), 100)


@lru_cache(maxsize=8)
def _split(data: str, root: str | None, labels: int | None, seed: int) -> DataSplit:
    return datasets.load(data, root=root, labels=labels, seed=seed)
