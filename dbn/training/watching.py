"""What is watched during training, when it stops early, and the mean of its last weights."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from dbn.arguments import finite_number, whole_number
from dbn.batches import Source
from dbn.history import Record
from dbn.rbm import RBM


class Monitor:
    """The quantities of the history, on a fixed subset of the training rows and as many rows of validation.

    Args:
        rbm: the machine.
        source: where the training rows come from.
        validation: rows held back, or None.
        rows: number of rows of either.
    """

    def __init__(self, rbm: RBM, source: Source, validation: Source | None, rows: int) -> None:
        self.rbm = rbm
        self.train = source.subset(rows)
        self.validation = None if validation is None else validation.subset(rows)

    @torch.no_grad()
    def __call__(self) -> Record:
        """The quantities as they are now, read from the device in one transfer."""
        hidden = self.rbm.mean_hidden(self.train)
        error = (self.rbm.mean_visible(hidden) - self.train).square().sum(-1).mean()
        values = {"reconstruction_error": error, "hidden_activity": hidden.mean()}
        for name in ("weight", "visible_bias", "hidden_bias"):
            values[f"{name}_norm"] = self.rbm.get_parameter(name).norm()
        if self.validation is not None and self.rbm.has_energy:
            gap = self.rbm.free_energy(self.validation).mean() - self.rbm.free_energy(self.train).mean()
            values["free_energy_gap"] = gap
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))


class Average:
    """The mean of a machine's parameters at several moments."""

    def __init__(self, rbm: RBM) -> None:
        self.parameters, self.count = list(rbm.parameters()), 0
        self.means: list[Tensor] = []

    @torch.no_grad()
    def add(self) -> None:
        """Take the parameters as they are now into the mean."""
        self.count += 1
        if self.count == 1:
            self.means = [value.clone() for value in self.parameters]
        for mean, value in zip(self.means, self.parameters, strict=False):
            mean.lerp_(value, 1 / self.count)

    @torch.no_grad()
    def put(self) -> None:
        """Leave the mean in the machine, where there is one."""
        for mean, value in zip(self.means, self.parameters, strict=False):
            value.copy_(mean)

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The machine with the mean in it, where there is one, for as long as it is looked at."""
        own = [value.detach().clone() for value in self.parameters]
        self.put()
        try:
            yield
        finally:
            with torch.no_grad():
                for value, before in zip(self.parameters, own, strict=True):
                    value.copy_(before)


@dataclass(frozen=True)
class EarlyStopping:
    """When training ends before its last epoch, and which weights it then leaves.

    With a score, the machine is left as it was at its highest score, of the averaged weights where `average_from` has
    begun, and training stops after `patience` scores without a higher one. With `largest_gap`, training stops at the
    first epoch whose free-energy gap, mean F(validation) − mean F(training subset), is above that.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines, section 6; L. Prechelt
    (1998), Early stopping, but when?

    Args:
        score: a number that is the higher the better, of the machine, such as `score_by_ais(held_back)`.
        every: epochs from one score to the next.
        patience: scores without a higher one until training stops.
        largest_gap: in nats; needs `validation` in `train`.

    Raises:
        ValueError: where neither a score nor a gap is given, or a number is out of range.

    Example:
        >>> rows = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        >>> from dbn import train
        >>> stopping = EarlyStopping(lambda rbm: -float(rbm.weight.norm()), patience=2)
        >>> len(train(RBM(6, 4, seed=0), rows, epochs=50, stopping=stopping, progress=False, seed=0)) < 50
        True

    The gap compares the machine with itself and says nothing of how good it is; a score on the test set would spoil it.
    """

    score: Callable[[RBM], float] | None = None
    every: int = 1
    patience: int = 5
    largest_gap: float | None = None

    def __post_init__(self) -> None:
        whole_number(self.every, "every")
        whole_number(self.patience, "patience")
        finite_number(0.0 if self.largest_gap is None else self.largest_gap, "largest_gap")
        if self.score is None and self.largest_gap is None:
            raise ValueError("EarlyStopping has neither a score nor a largest_gap: give one of them")


class Best:
    """Keeps the parameters of the highest score, and counts the scores since."""

    def __init__(self, rbm: RBM, stopping: EarlyStopping | None) -> None:
        self.rbm, self.stopping = rbm, stopping
        self.highest, self.waited = -math.inf, 0
        self.state: dict[str, Tensor] | None = None

    @torch.no_grad()
    def judge(self, record: Record, average: Average) -> bool:
        """Whether to stop after the epoch of this record, to which its score is added."""
        if self.stopping is None:
            return False
        if self.stopping.score is not None and record["epoch"] % self.stopping.every == 0:
            with average.shown():
                record["score"] = float(self.stopping.score(self.rbm))
                self._see(record["score"])
        gap, largest = record.get("free_energy_gap"), self.stopping.largest_gap
        return self.waited >= self.stopping.patience or (largest is not None and gap is not None and gap > largest)

    def _see(self, score: float) -> None:
        self.waited += 1
        if score > self.highest:
            self.highest, self.waited = score, 0
            self.state = {name: value.detach().clone() for name, value in self.rbm.named_parameters()}

    @torch.no_grad()
    def put(self) -> None:
        """Leave the best parameters in the machine, where any were scored."""
        for name, value in (self.state or {}).items():
            self.rbm.get_parameter(name).copy_(value)
