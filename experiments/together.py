"""Networks of several seeds fine-tuned as one batched program, each on its own rows."""

import time
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from dbn import SideBySide, finetune
from dbn.datasets import DataSplit
from dbn.history import History, Record

_AT_ONCE = 2000  # rows of each network that are judged at once


class Together:
    """The rows of several seeds side by side on a device, to fine-tune a network of each on at once.

    Args:
        splits: one a seed, with as many rows of each kind as the others.
        device: where the rows lie, and learning is done.
    """

    def __init__(self, splits: Sequence[DataSplit], device: torch.device) -> None:
        self.device = device
        self.x = torch.cat([split.train.labelled.x.to(device) for split in splits], 1)
        targets = [functional.one_hot(split.train.labelled.y.to(device), split.classes) for split in splits]
        self.y = torch.cat(targets, 1).to(self.x.dtype)
        self.validation = torch.cat([split.validation.x.to(device) for split in splits], 1)
        self.classes = torch.stack([split.validation.y.to(device) for split in splits])

    def tuned(self, networks: Sequence[nn.Sequential], **settings: Any) -> list[History]:
        """Fine-tune the network of each seed, and leave in it the numbers of its best epoch on validation.

        Settings are those of `finetune`; all networks see their rows in one order. Returns the history of each:
        validation errors by epoch, and its share of the seconds.
        """
        side = SideBySide(networks).to(self.device)
        watch = _Watch(side, self.validation, self.classes)
        finetune(side, self.x, self.y, loss=side.loss, callback=watch, progress=False, **settings)
        side.load_state_dict(watch.best)
        side.leave([network.to(self.device) for network in networks])
        for network in networks:
            network.eval()
        return watch.histories


def alike(splits: Sequence[DataSplit]) -> bool:
    """Whether the seeds have as many rows of each kind, so that they can stand side by side."""
    return len({(len(split.train.labelled.x), len(split.validation.x)) for split in splits}) == 1


class _Watch:
    """Judges every network after every epoch on its validation rows, and keeps the numbers of the best."""

    def __init__(self, side: SideBySide, x: Tensor, y: Tensor) -> None:
        self.side, self.x, self.y, self.count, self.started = side, x, y, len(y), time.perf_counter()
        self.histories = [History() for _ in y]
        self.lowest = torch.full((self.count, 2), torch.inf, dtype=torch.float64)
        self.best: dict[str, Tensor] = {}

    def __call__(self, record: Record) -> None:
        judged = self._judged()
        seconds = (time.perf_counter() - self.started) / self.count
        for history, (error, loss) in zip(self.histories, judged.tolist(), strict=True):
            found = {"epoch": record["epoch"], "seconds": seconds, "validation_error": error, "validation_loss": loss}
            history.append(found, "fine-tuning side by side")
        before = self.lowest[:, 0]
        better = (judged[:, 0] < before) | ((judged[:, 0] == before) & (judged[:, 1] < self.lowest[:, 1]))
        self.lowest[better] = judged[better]
        self._keep(better)

    @torch.no_grad()
    def _judged(self) -> Tensor:
        """Error and loss of each network: (S, 2)."""
        summed = torch.zeros(self.count, 2, dtype=torch.float64)
        self.side.eval()
        for x, y in zip(self.x.split(_AT_ONCE), self.y.split(_AT_ONCE, 1), strict=True):
            outputs = self.side.outputs_of_each(self.side(x))
            wrong = (outputs.argmax(2) != y).sum(1)
            loss = functional.cross_entropy(outputs.flatten(0, 1), y.flatten(), reduction="none").view_as(y).sum(1)
            summed += torch.stack([wrong, loss], 1).double().cpu()
        self.side.train()
        return summed / self.y.shape[1]

    def _keep(self, better: Tensor) -> None:
        """Put the numbers of some networks, as they are now, beside those kept of the others."""
        for name, value in self.side.state_dict().items():
            each = value.view(self.count, -1)
            kept = self.best.setdefault(name, value.clone()).view(self.count, -1)
            kept[better.to(value.device)] = each[better.to(value.device)]
