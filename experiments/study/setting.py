"""Settings of fine-tuning, as they are written on a command line.

A setting is written as Adam's rates for body and head and then its other values. "1e-3/1e-2 dropout 0.2/0.5 decay
1e-4" drops a fifth of the inputs and half of the hidden units, and has a weight decay of 1e-4. "0.1 momentum 0.9 norm
4" is stochastic gradient descent with momentum 0.9, and bounds the norm of the weights into each unit by 4.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dbn import finetune
from dbn.datasets import Samples
from dbn.history import History
from dbn.runtime.checks import finite_number
from dbn.schedules import Schedule, constant, cosine

_WORDS = ("dropout", "decay", "momentum", "norm")


@dataclass(frozen=True)
class Setting:
    """One way to fine-tune: rates, penalties, and the momentum of gradient descent; no momentum means Adam."""

    body: float
    head: float
    input_dropout: float = 0.0
    dropout: float = 0.0
    weight_decay: float = 0.0
    momentum: float | None = None
    max_norm: float | None = None

    def optimiser(self, groups: Any, lr: float) -> Optimizer:
        if self.momentum is None:
            return torch.optim.Adam(groups, lr=lr, fused=True)
        return torch.optim.SGD(groups, lr=lr, momentum=self.momentum, fused=True)


def setting_of(text: str) -> Setting:
    """Read a setting such as "1e-3/1e-2 dropout 0.2/0.5 decay 1e-4"; "1e-3" is one rate for body and head.

    Raises:
        ValueError: if the text says something else.
    """
    rates, *words = text.split() or [""]
    found = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 2 * len(found) or not found.keys() <= set(_WORDS):
        raise ValueError(f"setting {text!r}: write rates and then {', '.join(_WORDS)}, each with its number")
    single = {name: _numbers(found[name], text, most=1)[0] for name in ("decay", "momentum", "norm") if name in found}
    body, head = _numbers(rates, text)
    below, above = _numbers(found.get("dropout", "0"), text)
    if max(below, above, single.get("momentum", 0.0)) >= 1:
        raise ValueError(f"setting {text!r}: give a dropout and a momentum below 1")
    if single.get("norm") == 0:
        raise ValueError(f"setting {text!r}: give a norm above 0")
    return Setting(
        body,
        head,
        input_dropout=below,
        dropout=above,
        weight_decay=single.get("decay", 0.0),
        momentum=single.get("momentum"),
        max_norm=single.get("norm"),
    )


def _numbers(value: str, text: str, most: int = 2) -> list[float]:
    """Read two numbers with a slash between them, or one that stands for both."""
    parts = value.split("/")
    try:
        numbers = [finite_number(float(part), "number") for part in parts]
    except ValueError as error:
        raise ValueError(f"setting {text!r}: {value!r} is no number to fine-tune with") from error
    if len(numbers) > most:
        raise ValueError(f"setting {text!r}: {value!r} has {len(numbers)} numbers, give at most {most}")
    return (numbers * most)[:most]


def file_name(text: str) -> str:
    """Write a setting as a name that every file system takes."""
    return text.replace("/", "_").replace(" ", "-")


def batch_size(rows: int) -> int:
    """Return a fiftieth of the rows, 10 to 100."""
    return min(max(rows // 50, 10), 100)


@dataclass(frozen=True)
class Budget:
    """The length of a fine-tuning.

    Args:
        epochs: passes over the rows; validation follows each.
        batch_size: rows an update.
        repeats: times that an epoch repeats its rows.
        falling: whether rates fall along half a cosine to zero, or stay.
    """

    epochs: int
    batch_size: int
    repeats: int = 1
    falling: bool = True

    def rate(self, first: float) -> Schedule:
        return cosine(first, 0.0, self.epochs) if self.falling else constant(first)


def tuned(
    network: nn.Module,
    train: Samples,
    validation: Samples | None,
    setting: Setting,
    budget: Budget,
    *,
    seed: int,
    device: str,
) -> History:
    """Fine-tune by a setting within a budget, and keep the weights of the best epoch on validation."""
    return finetune(
        network,
        train.x.repeat(budget.repeats, 1),
        train.y.repeat(budget.repeats),
        epochs=budget.epochs,
        batch_size=budget.batch_size,
        learning_rate=budget.rate(setting.body),
        head_learning_rate=budget.rate(setting.head),
        optimiser=setting.optimiser,
        weight_decay=setting.weight_decay,
        max_norm=setting.max_norm,
        validation=validation,
        device=device,
        progress=False,
        seed=seed,
    )
