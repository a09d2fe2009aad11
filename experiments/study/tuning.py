"""Settings of fine-tuning to choose from, and how one is chosen: from the same list, in the same way, for every start.

A setting is written as Adam's rates for body and head with what else it has: "1e-3/1e-2 dropout 0.2/0.5 decay 1e-4"
drops a fifth of the inputs and half of the hidden units, and has a weight decay of 1e-4; "0.1 momentum 0.9 norm 4" is
stochastic gradient descent with that momentum, and bounds the norm of what leads into a unit by 4.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer

from dbn import finetune
from dbn.arguments import finite_number
from dbn.datasets import Samples
from dbn.history import History
from dbn.schedules import cosine

_WORDS = ("dropout", "decay", "momentum", "norm")


@dataclass(frozen=True)
class Setting:
    """One way to fine-tune: first rates, penalties, and the momentum of gradient descent, or None for Adam."""

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
    """ "1e-3/1e-2 dropout 0.2/0.5 decay 1e-4" as a setting; "1e-3" is one rate for body and head.

    Raises:
        ValueError: where the text says something else.
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
    """Two numbers with a stroke between them, or one that stands for both."""
    parts = value.split("/")
    try:
        numbers = [finite_number(float(part), "number") for part in parts]
    except ValueError as error:
        raise ValueError(f"setting {text!r}: {value!r} is no number to fine-tune with") from error
    if len(numbers) > most:
        raise ValueError(f"setting {text!r}: {value!r} has {len(numbers)} numbers, give at most {most}")
    return (numbers * most)[:most]


def file_name(text: str) -> str:
    """A setting as a name that every file system takes."""
    return text.replace("/", "_").replace(" ", "-")


def narrowed(settings: Sequence[str], error: Callable[[str, int], float], *, first: int, kept: int) -> list[str]:
    """The `kept` settings with the lowest mean error over the first seeds, best first."""
    return sorted(settings, key=lambda setting: fmean(error(setting, seed) for seed in range(first)))[:kept]


def batch_size(rows: int) -> int:
    """A fiftieth of the rows, 10 to 100."""
    return min(max(rows // 50, 10), 100)


def tuned(
    network: nn.Module,
    train: Samples,
    validation: Samples | None,
    setting: Setting,
    *,
    epochs: int,
    batch_size: int,
    updates: int,
    seed: int,
    device: str,
) -> History:
    """Fine-tune in the way of a setting, at rates that fall along half a cosine to zero.

    An epoch repeats its rows until it has at least so many updates, so that validation, after every epoch, does not
    cost more than learning where labels are few.
    """
    again = -(-updates * batch_size // len(train.x))
    return finetune(
        network,
        train.x.repeat(again, 1),
        train.y.repeat(again),
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=cosine(setting.body, 0.0, epochs),
        head_learning_rate=cosine(setting.head, 0.0, epochs),
        optimiser=setting.optimiser,
        weight_decay=setting.weight_decay,
        max_norm=setting.max_norm,
        validation=validation,
        device=device,
        progress=False,
        seed=seed,
    )
