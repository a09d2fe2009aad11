"""One cell of a study: a start in an architecture with a number of labels, tuned, and then read off the test set.

Every seed draws its own labelled subset, validation rows, weights and order; all starts of a seed share them, and the
subsets of a seed are nested. A stack is pretrained once a seed on all training rows, without labels.

Tuning is the same for every start: all settings of one list with the first seeds, the best few on validation with all
seeds, and of those the lowest mean validation error. The weights are those of the best epoch on validation, and the
test set is read once, by the networks so chosen. A run that leaves the finite numbers counts as 100 % error, of
validation rows and of test rows.
"""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from dbn import DBN, DivergenceError, evaluate
from dbn.arguments import choose_device
from dbn.checkpoint import load, save
from dbn.datasets import DataSplit, Samples
from dbn.schedules import linear
from experiments.study.config import Study, sizes_of, split_of
from experiments.study.initialisations import KNOWN, pretrained
from experiments.study.records import environment, read_json, write_json
from experiments.study.tuning import batch_size, file_name, narrowed, setting_of, tuned

Arm = dict[str, Any]


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
        return sizes_of(self.architecture)

    @property
    def epochs(self) -> int:
        return self.refit or self.study.epochs

    def split(self, seed: int) -> DataSplit:
        return split_of(self.study, self.labels, seed)

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
            sizes_of(highest),
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
        split = self.split(seed)
        return self._made("", split.train.labelled, split.validation, setting, seed, self.epochs)

    def refitted(self, setting: str, seed: int, epochs: int) -> dict[str, Any]:
        """The same, but for validation errors, of one run on training and validation rows together."""
        split = self.split(seed)
        rows = Samples(*map(torch.cat, zip(split.train.labelled, split.validation, strict=True)))
        return self._made(f"all-rows-{epochs}-", rows, None, setting, seed, epochs)

    def _made(
        self, kind: str, train: Samples, validation: Samples | None, setting: str, seed: int, epochs: int
    ) -> dict[str, Any]:
        path = self._path(setting, seed, kind)
        if not path.exists():
            network, record = self.network(setting, seed), {"diverged": False}
            try:
                history = self._fine_tuned(network, train, validation, setting, seed, epochs)
                errors = [round(100 * error, 4) for error in history["validation_error"]] if validation else []
                record |= {"validation_errors": errors, "seconds": history.last["seconds"]}
            except DivergenceError:
                record = {"diverged": True, "validation_errors": [100.0] * epochs, "seconds": 0.0}
            save(path.with_suffix(".pt"), {"kind": "network", "state": network.cpu().state_dict()})
            write_json(path, record)
        return read_json(path)

    def best(self, setting: str, seed: int) -> float:
        """The lowest validation error of a run, in percent."""
        return float(min(self.run(setting, seed)["validation_errors"]))

    def test_error(self, setting: str, seed: int) -> float:
        """Of the network of the best epoch, in percent."""
        return self._read(self.run(setting, seed), self._path(setting, seed), setting, seed)

    def refitted_error(self, setting: str, seed: int, epochs: int) -> float:
        """Of the network that was trained on training and validation rows together, in percent."""
        path = self._path(setting, seed, f"all-rows-{epochs}-")
        return self._read(self.refitted(setting, seed, epochs), path, setting, seed)

    def _read(self, record: dict[str, Any], path: Path, setting: str, seed: int) -> float:
        if record["diverged"]:
            return 100.0
        network = self.network(setting, seed)
        network.load_state_dict(load(path.with_suffix(".pt"), kind="network")["state"])
        return 100 * evaluate(network, *self.split(seed).test).error

    def forget(self) -> None:
        """Delete the networks and records of all runs."""
        shutil.rmtree(self.out / "runs" / self.name, ignore_errors=True)

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
    if cell.path.exists():
        arm = read_json(cell.path)
        tqdm.write(f"{cell.path} is finished, from commit {arm['commit']}, on {arm['device']}")
    else:
        write_json(cell.path, _tuned(cell) if cell.refit is None else _refitted(cell))
    for done in (cell, replace(cell, refit=None)):
        done.forget()
    return read_json(cell.path)


def _tuned(cell: Cell) -> Arm:
    kept, tried = _searched(cell)
    seeds = range(cell.study.seeds)
    return _described(cell, kept, tried) | {
        "labelled_rows": len(cell.split(0).train.labelled.x),
        "test_error": [round(cell.test_error(kept[0], seed), 4) for seed in seeds],
        "seconds": [cell.run(kept[0], seed)["seconds"] for seed in seeds],
    }


def _refitted(cell: Cell) -> Arm:
    """Choose as the cell without a refit does, and read the test set with networks that saw the validation rows too."""
    chooser, split, seeds = replace(cell, refit=None), cell.split(0), range(cell.study.seeds)
    kept, tried = _searched(chooser)
    arm = _described(chooser, kept, tried)
    epochs, validation = _refit_epochs(cell, kept[0], arm["validation_curves"])
    again = [cell.refitted(kept[0], seed, epochs) for seed in seeds]
    return arm | {
        "labelled_rows": len(split.train.labelled.x) + len(split.validation.x),
        "test_error": [round(cell.refitted_error(kept[0], seed, epochs), 4) for seed in seeds],
        "diverged": [record["diverged"] for record in again],
        "seconds": [record["seconds"] for record in again],
        "refit": {"epochs": epochs, "validation_error": validation},
    }


def _refit_epochs(cell: Cell, setting: str, curves: list[list[float]]) -> tuple[int, dict[int, list[float]]]:
    """The better of two numbers of epochs, and the first seeds' validation errors after each that was looked at."""
    first = min(cell.study.first, cell.study.seeds)
    tried = {cell.study.epochs: [curve[-1] for curve in curves[:first]]}
    if cell.epochs not in tried:
        tried[cell.epochs] = [cell.run(setting, seed)["validation_errors"][-1] for seed in range(first)]
    return min(tried, key=lambda epochs: fmean(tried[epochs])), tried


def _searched(cell: Cell) -> tuple[list[str], dict[str, list[float]]]:
    """The settings that were tried with all seeds, best first, and the lowest validation errors of all."""
    seeds, first = cell.study.seeds, min(cell.study.first, cell.study.seeds)
    best_few = narrowed(cell.settings, cell.best, first=first, kept=cell.kept)
    kept = narrowed(best_few, cell.best, first=seeds, kept=len(best_few))
    tried = {one: [cell.best(one, seed) for seed in range(seeds if one in kept else first)] for one in cell.settings}
    return kept, tried


def _described(cell: Cell, kept: list[str], tried: dict[str, list[float]]) -> Arm:
    """An arm in the format of `compare`, but for what the test set says."""
    start, setting, seeds = KNOWN[cell.start], setting_of(kept[0]), range(cell.study.seeds)
    rows = len(cell.split(0).train.labelled.x)
    arm = {
        "start": start.label,
        "activation": start.activation,
        "architecture": cell.architecture,
        "labels": cell.labels or rows,
        "commit": environment()["commit"],
        "device": choose_device(cell.study.device).type,
        "setting": kept[0],
        "learning_rate": setting.body,
        "head_learning_rate": setting.head,
        "input_dropout": setting.input_dropout,
        "dropout": setting.dropout,
        "weight_decay": setting.weight_decay,
        "batch_size": batch_size(rows),
        "validation_error": [cell.best(kept[0], seed) for seed in seeds],
        "validation_curves": [cell.run(kept[0], seed)["validation_errors"] for seed in seeds],
        "diverged": [cell.run(kept[0], seed)["diverged"] for seed in seeds],
        "kept": kept,
        "tried": tried,
    }
    if start.from_stack:
        arm["pretrain_seconds"] = [cell.stack(seed)[1] for seed in seeds]
    return arm
