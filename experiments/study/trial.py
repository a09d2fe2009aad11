"""A trial: one start in one architecture with one number of labels. It trains its runs, and keeps them in files.

Every seed draws its own labelled subset, validation rows, weights and order. All starts of a seed share them, and the
subsets of a seed are nested. A stack is pretrained once a seed on all training rows, without labels. The weights of a
run are those of its best epoch on validation. A run that diverges counts as an error of 100 %, on validation and test.
"""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dbn import DBN, DivergenceError, evaluate
from dbn.datasets import DataSplit, Samples
from dbn.runtime.checkpoint import load, save
from dbn.runtime.checks import choose_device
from experiments.study.config import StudyOptions, sizes_of, split_of
from experiments.study.initialisations import KNOWN, Initialisation, pretrained
from experiments.study.records import read_json, write_json
from experiments.study.setting import file_name, setting_of, tuned


@dataclass(frozen=True)
class Trial:
    """A start in an architecture with a number of labels, its runs, and their files.

    Args:
        study: the options that it shares with other trials.
        out: the folder of the study.
        start: the name of the start.
        architecture: sizes of hidden layers, such as "500-500".
        labels: their number, or None for all.
        settings: the settings to choose from.
        kept: how many of them are tried with all seeds.
        group: the name of the list of settings, if two trials differ in it alone.
        refit: train the chosen networks once more, on training and validation rows together, and test those. They are
            trained for this number of epochs, or for those of the study if the validation error is then lower.
    """

    study: StudyOptions
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
    def initialisation(self) -> Initialisation:
        return KNOWN[self.start]

    @property
    def epochs(self) -> int:
        return self.refit or self.study.epochs

    def split(self, seed: int) -> DataSplit:
        return split_of(self.study, self.labels, seed)

    def network(self, setting: str, seed: int) -> nn.Sequential:
        """Build the network before fine-tuning."""
        split, found = self.split(seed), setting_of(setting)
        sizes = [split.train.x.shape[1], *self.hidden, split.classes]
        stack = self.stack(seed)[0] if self.initialisation.from_stack else None
        return self.initialisation.build(sizes, stack, seed, input_dropout=found.input_dropout, dropout=found.dropout)

    def stack(self, seed: int) -> tuple[DBN, float]:
        """Pretrain the stack of this start, or load it, and return it with the seconds of its pretraining.

        Architectures that begin with the same layers share the highest stack.
        """
        study, activation = self.study, self.initialisation.activation
        higher = [one for one in study.architectures if f"{one}-".startswith(f"{self.architecture}-")]
        highest = max([*higher, self.architecture], key=len)
        return pretrained(
            self.split(seed),
            sizes_of(highest),
            epochs=study.pretrain_epochs,
            seed=seed,
            device=str(choose_device(study.device)),
            path=self.out / "stacks" / f"{highest}-{activation}-{seed}.pt",
            activation=activation,
            **study.recipe(activation),
        )

    def run(self, setting: str, seed: int) -> dict[str, Any]:
        """Train a run, or read it: validation errors in percent after every epoch, and seconds."""
        split = self.split(seed)
        return self._made("", split.train.labelled, split.validation, setting, seed, self.epochs)

    def refitted(self, setting: str, seed: int, epochs: int) -> dict[str, Any]:
        """Train a run on training and validation rows together, or read it: seconds, and no validation errors."""
        split = self.split(seed)
        rows = Samples(*map(torch.cat, zip(split.train.labelled, split.validation, strict=True)))
        return self._made(f"all-rows-{epochs}-", rows, None, setting, seed, epochs)

    def _made(
        self, kind: str, train: Samples, validation: Samples | None, setting: str, seed: int, epochs: int
    ) -> dict[str, Any]:
        path = self._path(setting, seed, kind)
        if not path.exists():
            network, budget = self.network(setting, seed), self.study.budget(len(train.x), epochs)
            record: dict[str, Any] = {"diverged": False}
            try:
                found, device = setting_of(setting), self.study.device
                history = tuned(network, train, validation, found, budget, seed=seed, device=device)
                errors = [round(100 * error, 4) for error in history["validation_error"]] if validation else []
                record |= {"validation_errors": errors, "seconds": history.last["seconds"]}
            except DivergenceError:
                record = {"diverged": True, "validation_errors": [100.0] * budget.epochs, "seconds": 0.0}
            save(path.with_suffix(".pt"), {"kind": "network", "state": network.cpu().state_dict()})
            write_json(path, record)
        return read_json(path)

    def best(self, setting: str, seed: int) -> float:
        """Return the lowest validation error of a run, in percent."""
        return float(min(self.run(setting, seed)["validation_errors"]))

    def test_error(self, setting: str, seed: int) -> float:
        """Test the network of a run, in percent."""
        return self._tested(self.run(setting, seed), self._path(setting, seed), setting, seed)

    def refitted_error(self, setting: str, seed: int, epochs: int) -> float:
        """Test the network that was trained on training and validation rows together, in percent."""
        path = self._path(setting, seed, f"all-rows-{epochs}-")
        return self._tested(self.refitted(setting, seed, epochs), path, setting, seed)

    def _tested(self, record: dict[str, Any], path: Path, setting: str, seed: int) -> float:
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
