"""The options of fine-tuning, each declared once."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, TypedDict

import torch
from torch.optim import Optimizer

from dbn.finetuning.evaluation import check_loss
from dbn.finetuning.target import Loss, is_torchs, unwrapped
from dbn.runtime.checks import choice, finite_number, whole_number
from dbn.runtime.options import Options, one_of, option, optional, required
from dbn.runtime.run_config import plain_function, plain_setting
from dbn.schedules import Schedule, as_schedule

Optimiser = str | Callable[..., Optimizer]


@dataclass(frozen=True, kw_only=True)
class FinetuneOptions(Options):
    """How a network is fine-tuned."""

    epochs: int = required("passes over the data.", partial(whole_number, at_least=0))
    batch_size: int = option(100, "rows per update, over all processes.", whole_number)
    learning_rate: float | Schedule = option(1e-3, "a number, or a schedule of the epoch.", as_schedule)
    head_learning_rate: float | Schedule | None = option(
        None, "the same for the last layer alone; by default that of the others.", optional(as_schedule)
    )
    optimiser: Optimiser = option(
        "adam",
        '"adam", "sgd" (momentum 0.9), or what builds a torch optimiser from parameter groups and `lr=`, '
        "such as `torch.optim.AdamW`.",
        lambda value, name: optimiser_factory(value),
    )
    weight_decay: float = option(0.0, "the optimiser's weight decay, applied to weights only.", finite_number)
    max_norm: float | None = option(
        None,
        "after every update, shrink the weights into each unit of each layer to a Euclidean norm of at most "
        "this; 3 or 4 go well with dropout (Srivastava et al. 2014).",
        optional(partial(finite_number, positive=True)),
    )
    patience: int | None = option(
        None,
        "stop after this many epochs in a row without a lower error on `validation`; a lower loss at the "
        "same error does not count.",
        optional(whole_number),
    )
    loss: Loss | None = option(
        None,
        "a function of outputs and labels, a mean over rows; by default cross-entropy for class numbers and "
        "squared error for real targets. A loss of torch is given floats in the shape and number type of "
        "the outputs, and class numbers as (n,); with `nn.BCEWithLogitsLoss` and its kin, labels of 0 and 1 "
        "are several labels a row. A function of your own is given labels as they come, floats in the "
        "number type of the outputs; integers (n,) that are class numbers, or below 0 for unlabelled rows, "
        "are still judged as classes.",
        lambda value, name: check_loss(value),
    )
    on_divergence: Literal["raise", "halve"] = option(
        "raise",
        '"raise" an error if the loss or a parameter is not finite, with the model restored as it was at '
        'the start of that epoch (or to its best weights), or "halve" the learning rates and repeat from '
        "there.",
        one_of("raise", "halve"),
    )

    @property
    def learning_rates(self) -> list[Schedule]:
        """The rates of the body and of the last layer."""
        rates = [as_schedule(self.learning_rate, "learning_rate")] * 2
        if self.head_learning_rate is not None:
            rates[1] = as_schedule(self.head_learning_rate, "head_learning_rate")
        return rates

    @property
    def draws_globally(self) -> bool:
        """Whether a loss of the user's may draw from torch's global generator."""
        return self.loss is not None and not is_torchs(unwrapped(self.loss)[0])

    def config(self) -> dict[str, Any]:
        """Every option but the optimiser as plain values, to be compared with another run's."""
        body, head = self.learning_rates
        return {
            "epochs": self.epochs,
            "learning_rate": plain_setting(body, self.epochs),
            "head_learning_rate": plain_setting(head, self.epochs),
            "on_divergence": self.on_divergence,
            "weight_decay": float(self.weight_decay),
            "max_norm": self.max_norm,
            "patience": self.patience,
            "loss": plain_function(self.loss),
        }


class FinetuneKeywords(TypedDict, total=False):
    """The types of `FinetuneOptions`, for editors and type checkers."""

    batch_size: int
    learning_rate: float | Schedule
    head_learning_rate: float | Schedule | None
    optimiser: Optimiser
    weight_decay: float
    max_norm: float | None
    patience: int | None
    loss: Loss | None
    on_divergence: Literal["raise", "halve"]


def optimiser_factory(optimiser: Optimiser) -> Callable[..., Optimizer]:
    """What builds an optimiser from parameter groups and a rate; ours keep their state on the device."""
    if callable(optimiser):
        return optimiser
    if choice(optimiser, ("adam", "sgd"), "optimiser") == "adam":
        return lambda groups, lr: torch.optim.Adam(groups, lr=lr, fused=True)
    return lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)
