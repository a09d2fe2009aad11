"""Pretrain a deep belief network on unlabelled rows and look at what it has learned."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from dbn import DBN, History, datasets, distributed, plots
from dbn.history import Record
from dbn.runtime.checks import choose_device
from experiments.study.command_line import option, parse
from experiments.study.initialisations import visible_units
from experiments.study.options import DataOptions, DeviceOption, OutOption
from experiments.study.records import as_dict, environment, launch, write_json


@dataclass(frozen=True)
class Config(DataOptions, DeviceOption, OutOption):
    """Data, layers and length of the pretraining."""

    hidden: tuple[int, ...] = option((256, 256), "sizes of the hidden layers, bottom first")
    epochs: int = option(10, "passes over the rows for each layer")
    batch_size: int = option(100, "rows an update")
    seed: int = option(0, "seed of weights, order and samples")


PRESETS = {
    "sample": Config(),
    "mnist": Config(data="mnist", hidden=(500, 500), epochs=30),
    "tiny": Config(hidden=(32, 16), epochs=1),
}


def main(arguments: Sequence[str] | None = None) -> Path:
    """Pretrain, save `stack.pt`, `log.json`, `filters.png` and `reconstructions.png`, and return the stack's path.

    The same command resumes an interrupted run.
    """
    _, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out)
    split = datasets.load(config.data, root=config.root, seed=config.seed)
    stack = DBN([visible_units(split), *config.hidden], seed=config.seed).to(choose_device(config.device))
    histories = stack.pretrain(
        split.train.x,
        epochs=config.epochs,
        batch_size=config.batch_size,
        validation=split.validation.x,
        seed=config.seed,
        checkpoint=out / "checkpoint",
    )
    distributed.run_on_main(partial(_write, config, stack.cpu(), histories, split))
    return out / "stack.pt"


def _write(config: Config, stack: DBN, histories: list[History], split: datasets.DataSplit) -> None:
    out = Path(config.out)
    records = [{"layer": place + 1.0, **record} for place, history in enumerate(histories) for record in history]
    stack.save(out / "stack.pt")
    write_json(
        out / "log.json", {"config": as_dict(config), "environment": environment(config.device), "records": records}
    )
    _draw(stack, split, out)
    for record in records:
        if record["epoch"] == config.epochs:
            print(_summary(record))
    shutil.rmtree(out / "checkpoint")
    print(f"wrote {out}/stack.pt, log.json, filters.png and reconstructions.png")


def _draw(stack: DBN, split: datasets.DataSplit, out: Path) -> None:
    shape = image_shape(split)
    plots.filters(stack.layers[0].weight, shape).savefig(out / "filters.png")
    if shape is not None:
        plots.image_rows(reconstructions(stack, split.validation.x), shape).savefig(out / "reconstructions.png")


def reconstructions(stack: DBN, x: Tensor, count: int = 12) -> dict[str, Tensor]:
    """Return some rows, their reconstructions through each depth of the stack, and samples of the stack."""
    chosen = x[torch.linspace(0, len(x) - 1, count).long()]
    rows, up = {"data": chosen}, chosen
    for depth, rbm in enumerate(stack.layers):
        up = rbm.mean_hidden(up).detach()
        down = up
        for below in reversed(stack.layers[: depth + 1]):
            down = below.mean_visible(down).detach()
        rows[f"through {depth + 1} layer" + "s" * (depth > 0)] = down
    rows["sampled, 1000 steps"] = stack.sample(count, steps=1000, mean=True, seed=0)
    return rows


def image_shape(split: datasets.DataSplit) -> tuple[int, int] | None:
    """Return height and width of the rows, or None if they are no images."""
    return None if split.shape is None else (split.shape[-2], split.shape[-1])


def _summary(record: Record) -> str:
    shown = ("reconstruction_error", "free_energy_gap", "hidden_activity", "weight_norm", "seconds")
    values = ", ".join(f"{name.replace('_', ' ')} {record[name]:.2f}" for name in shown if name in record)
    return f"layer {record['layer']:.0f}: {values}"


if __name__ == "__main__":
    launch(main)
