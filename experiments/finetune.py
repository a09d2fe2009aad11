"""Train a classifier from a named start or a pretrained stack, and test it.

`python -m experiments.finetune seed` is the script that this project grew from, mnist_nn_xavier: 784-256-256-10, ReLU,
Xavier, Adam 1e-3, 15 epochs, batch 100, seed 777. It uses all 60,000 training images and no validation rows, as the
script did. Unlike the script it scales test inputs as training inputs.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import nn

from dbn import DBN, History, datasets, distributed, evaluate, finetune, predict
from dbn.datasets import DataSplit
from dbn.runtime.checks import choose_device
from experiments.study.command_line import option, parse
from experiments.study.initialisations import STARTS
from experiments.study.options import DataOptions, DeviceOption, OutOption
from experiments.study.records import as_dict, environment, launch, write_json


@dataclass(frozen=True)
class Config(DataOptions, DeviceOption, OutOption):
    """Data, start and options of the fine-tuning."""

    labels: int | None = option(None, "labelled training rows, balanced by class; all of them by default")
    start: str | None = option(None, f"one of {', '.join(STARTS)}; dbn if --stack is given, else xavier")
    stack: str | None = option(None, "path of a stack that experiments.pretrain saved, for --start dbn or permuted")
    hidden: tuple[int, ...] = option((256, 256), "sizes of the hidden layers; those of the stack if there is one")
    epochs: int = option(15, "passes over the labelled rows")
    batch_size: int = option(100, "rows an update")
    learning_rate: float = option(1e-3, "Adam's rate")
    head_learning_rate: float | None = option(None, "Adam's rate for the last layer; --learning-rate by default")
    validation: bool = option(True, "hold back validation rows and keep the weights of the best epoch on them")
    seed: int = option(0, "seed of the split, the start and the order")


PRESETS = {
    "sample": Config(),
    "seed": Config(data="mnist", start="xavier", validation=False, seed=777),
    "mnist": Config(data="mnist"),
    "tiny": Config(labels=100, hidden=(16,), epochs=1),
}


def main(arguments: Sequence[str] | None = None) -> float:
    """Fine-tune, print the test error and one random test digit, save the result, and return the error in percent."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    held_back = None if config.validation else 0
    split = datasets.load(config.data, root=config.root, labels=config.labels, seed=config.seed, validation=held_back)
    network = _network(config, split).to(choose_device(config.device))
    history = finetune(
        network,
        *split.train.labelled,
        epochs=config.epochs,
        batch_size=config.batch_size,
        learning_rate=config.learning_rate,
        head_learning_rate=config.head_learning_rate,
        validation=split.validation if config.validation else None,
        checkpoint=Path(config.out) / "checkpoint",
        seed=config.seed,
    )
    return distributed.run_on_main(partial(_write, config, network, history, split))


def _write(config: Config, network: nn.Module, history: History, split: DataSplit) -> float:
    result = evaluate(network, *split.test)
    print(f"test accuracy {100 * result.accuracy:.2f} %, error {100 * result.error:.2f} % of {result.n} rows")
    print(_one_prediction(network, split, config.seed))
    out = Path(config.out)
    content = {"config": as_dict(config), "environment": environment(config.device), "test": result._asdict()}
    write_json(out / "results.json", {**content, "records": history.records})
    torch.save(network.state_dict(), out / "network.pt")
    shutil.rmtree(out / "checkpoint")
    print(f"wrote {out}/results.json and network.pt")
    return 100 * result.error


def _network(config: Config, split: DataSplit) -> nn.Sequential:
    name = config.start or ("xavier" if config.stack is None else "dbn")
    if name not in STARTS:
        raise ValueError(f"--start {name}: known are {', '.join(STARTS)}")
    start = STARTS[name]
    if start.from_stack != (config.stack is not None):
        raise ValueError(f"--start {name} {'needs' if start.from_stack else 'takes no'} --stack")
    stack = None if config.stack is None else DBN.load(config.stack)
    hidden = config.hidden if stack is None else [rbm.hidden.size for rbm in stack.layers]
    return start.build([split.train.x.shape[1], *hidden, split.classes], stack, config.seed)


def _one_prediction(network: nn.Module, split: DataSplit, seed: int) -> str:
    place = int(torch.randint(len(split.test.x), (), generator=torch.Generator().manual_seed(seed)))
    label, prediction = int(split.test.y[place]), int(predict(network, split.test.x[place : place + 1]))
    names = split.class_names
    return f"test row {place}: label {names[label]}, prediction {names[prediction]}"


if __name__ == "__main__":
    launch(main)
