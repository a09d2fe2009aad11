"""The starts that are compared, by name, and the stacks that some of them come from."""

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import nn

from dbn import DBN, Bernoulli, Gaussian, NoisyReLU, Spin, Unit, initialise
from dbn.datasets import DataSplit
from dbn.mlp import classifier
from experiments.study.records import environment, read_json, write_json

_ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh}

#: The hidden units of the stack whose up pass is a network of this activation.
HIDDEN_UNITS: dict[str, Callable[[int], Unit]] = {"relu": NoisyReLU, "sigmoid": Bernoulli, "tanh": Spin}


@dataclass(frozen=True)
class Initialisation:
    """A start: the activation of its network, and its initial weights."""

    label: str
    activation: str
    scheme: str
    scale: float | None = None
    from_stack: bool = False

    def build(
        self, sizes: list[int], stack: DBN | None, seed: int, *, input_dropout: float = 0.0, dropout: float = 0.0
    ) -> nn.Sequential:
        """Build a network of these layer sizes, from the lower layers of `stack` if the start needs one."""
        if not self.from_stack:
            network = perceptron(sizes, self.activation, input_dropout=input_dropout, dropout=dropout)
            initialise(network, self.scheme, scale=self.scale, seed=seed)
            return network
        if stack is None:
            raise ValueError(f"{self.label} starts from a pretrained stack: give one")
        layers = stack.layers[: len(sizes) - 2]
        network = classifier(layers, sizes[-1], input_dropout=input_dropout, dropout=dropout, seed=seed)
        if self.scheme == "permuted":
            initialise(network, "permuted", seed=seed)
        return network


#: The starts of `compare` by name. Those from a stack are sigmoid networks, since its units are Bernoulli.
STARTS = {
    "zeros": Initialisation("zeros", "relu", "zeros"),
    "constant": Initialisation("constant 0.1", "relu", "constant", 0.1),
    "normal-1": Initialisation("normal σ=1", "relu", "normal", 1.0),
    "normal-0.01": Initialisation("normal σ=0.01", "relu", "normal", 0.01),
    "xavier": Initialisation("Xavier", "relu", "xavier_uniform"),
    "he": Initialisation("He", "relu", "he_normal"),
    "xavier-sigmoid": Initialisation("Xavier, sigmoid", "sigmoid", "xavier_uniform"),
    "permuted": Initialisation("DBN, permuted", "sigmoid", "permuted", from_stack=True),
    "dbn": Initialisation("DBN", "sigmoid", "as pretrained", from_stack=True),
}

_SCHEMES = {
    "normal-0.01": ("normal σ=0.01", "normal"),
    "xavier": ("Xavier", "xavier_uniform"),
    "he": ("He", "he_normal"),
    "orthogonal": ("orthogonal", "orthogonal"),
}

#: Every scheme with every activation, and stacks of the units that belong to each activation.
STUDIED = {
    **{
        f"{name}-{activation}": Initialisation(f"{label}, {activation}", activation, scheme)
        for activation in _ACTIVATIONS
        for name, (label, scheme) in _SCHEMES.items()
    },
    **{
        f"dbn-{activation}": Initialisation(f"DBN, {activation}", activation, "as pretrained", from_stack=True)
        for activation in _ACTIVATIONS
    },
}

#: All starts by name. A start of `compare` has the same label in other studies.
KNOWN = STUDIED | STARTS


def perceptron(sizes: list[int], activation: str, *, input_dropout: float = 0.0, dropout: float = 0.0) -> nn.Sequential:
    """Build linear layers of these sizes with the activation between them, and optional dropout."""
    network = nn.Sequential(*([nn.Dropout(input_dropout)] if input_dropout else []))
    for inputs, outputs in pairwise(sizes[:-1]):
        network.extend([nn.Linear(inputs, outputs), _ACTIVATIONS[activation]()])
        network.extend([nn.Dropout(dropout)] if dropout else [])
    return network.append(nn.Linear(*sizes[-2:]))


def visible_units(split: DataSplit) -> Unit:
    """Choose Bernoulli units for data in 0..1, Gaussian units otherwise."""
    x = split.train.x
    in_unit_interval = bool((x >= 0).all() and (x <= 1).all())
    return Bernoulli(x.shape[1]) if in_unit_interval else Gaussian(x.shape[1])


def pretrained(
    split: DataSplit,
    hidden: tuple[int, ...],
    *,
    epochs: int,
    seed: int,
    device: str,
    path: Path,
    activation: str = "sigmoid",
    **recipe: Any,
) -> tuple[DBN, float]:
    """Pretrain a stack on all training rows, with the library's defaults but for `recipe`; return it and its seconds.

    The stack is saved at `path`, and the seconds beside it as JSON. Both are read if they are there.
    """
    log = path.with_suffix(".json")
    if path.exists() and log.exists():
        return DBN.load(path), float(read_json(log)["seconds"])
    units = [visible_units(split), *map(HIDDEN_UNITS[activation], hidden)]
    stack = DBN(units, seed=seed).to(device)
    kept = path.with_suffix("")
    histories = stack.pretrain(
        split.train.x, epochs=epochs, validation=split.validation.x, checkpoint=kept, seed=seed, **recipe
    )
    seconds = sum(history.last["seconds"] for history in histories)
    stack.cpu().save(path)
    write_json(log, {"seconds": seconds, "environment": environment(device)})
    shutil.rmtree(kept)
    return stack, seconds
