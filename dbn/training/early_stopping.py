"""When training stops early, and the mean of its last parameters."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dbn.fit import BestWeights
from dbn.history import Record
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.runtime.checks import finite_number, whole_number


@dataclass(frozen=True)
class EarlyStopping:
    """When training ends before its last epoch, and which weights it then leaves.

    With a score, the RBM keeps the parameters of its highest score, of the averaged parameters once `average_from` has
    begun, and training stops after `patience` scores without a higher one. With `largest_gap`, training stops at the
    first epoch whose free-energy gap, mean F(validation) − mean F(training subset), is above that.

    Source: G. Hinton (2010), A practical guide to training restricted Boltzmann machines, section 6; L. Prechelt
    (1998), Early stopping, but when?

    Args:
        score: a function of the RBM whose number is to be as high as possible, such as `score_by_ais(validation)`.
        every: epochs from one score to the next.
        patience: scores without a higher one until training stops.
        largest_gap: in nats; needs `validation` in `train`.

    Raises:
        ValueError: if neither a score nor a gap is given, or a number is out of range; in training, if a score is not
            finite.

    Example:
        >>> rows = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.3).float()
        >>> from dbn import train
        >>> stopping = EarlyStopping(lambda rbm: -float(rbm.weight.norm()), patience=2)
        >>> len(train(RBM(6, 4, seed=0), rows, epochs=50, stopping=stopping, progress=False, seed=0)) < 50
        True

    The gap compares the RBM with itself and does not tell how good it is; a score on the test set would spoil it.
    """

    score: Callable[[RBM], float] | None = None
    every: int = 1
    patience: int = 5
    largest_gap: float | None = None

    def __post_init__(self) -> None:
        whole_number(self.every, "every")
        whole_number(self.patience, "patience")
        finite_number(0.0 if self.largest_gap is None else self.largest_gap, "largest_gap")
        if self.score is not None and not callable(self.score):
            raise TypeError(f"score is {self.score!r}: give a function of the RBM")
        if self.score is None and self.largest_gap is None:
            raise ValueError("EarlyStopping has neither a score nor a largest_gap: give one of them")


class Average:
    """The mean of an RBM's parameters at several moments."""

    def __init__(self, rbm: RBM) -> None:
        self.parameters, self.count = list(rbm.parameters()), 0
        self.means: list[Tensor] = []

    @torch.no_grad()
    def update(self) -> None:
        """Include the current parameters in the mean."""
        self.count += 1
        if self.count == 1:
            self.means = [value.clone() for value in self.parameters]
        for mean, value in zip(self.means, self.parameters, strict=False):
            mean.lerp_(value, 1 / self.count)

    @torch.no_grad()
    def load_into_rbm(self) -> None:
        """Set the parameters to their mean, if there is one."""
        for mean, value in zip(self.means, self.parameters, strict=False):
            value.copy_(mean)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The RBM with the mean as its parameters, if there is one, inside the block."""
        own = [value.detach().clone() for value in self.parameters]
        self.load_into_rbm()
        try:
            yield
        finally:
            with torch.no_grad():
                for value, before in zip(self.parameters, own, strict=True):
                    value.copy_(before)

    def state_dict(self) -> dict[str, Any]:
        """The mean, and the number of moments."""
        return {"count": self.count, "means": self.means}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.count = state_dict["count"]
        self.means = [value.to(self.parameters[0].device) for value in state_dict["means"]]


class Stopper:
    """Decides when to stop, by `EarlyStopping`, and keeps the best weights.

    Args:
        rbm: scored after an epoch.
        stopping: when to stop; None never stops.
    """

    def __init__(self, rbm: RBM, stopping: EarlyStopping | None) -> None:
        self.rbm, self.stopping, self.best, self.stopped = rbm, stopping, BestWeights(rbm), False

    @torch.no_grad()
    def evaluate(self, record: Record, average: Average) -> None:
        """Add the score to the record of an epoch, and decide whether to stop after it."""
        if self.stopping is None:
            return
        if self.stopping.score is not None and record["epoch"] % self.stopping.every == 0:
            with average.applied():
                score: Any = self.stopping.score(self.rbm)
                score = score.item() if isinstance(score, Tensor) and score.numel() == 1 else score
                record["score"] = finite_number(score, "score of stopping", signed=True)
                record |= distributed.broadcast_scalars({"score": record["score"]})
                self.best.update(record["score"])
        gap, largest = record.get("free_energy_gap"), self.stopping.largest_gap
        too_wide = largest is not None and gap is not None and gap > largest
        self.stopped = self.best.updates_since_best >= self.stopping.patience or too_wide

    def state_dict(self) -> dict[str, Any]:
        """The best weights, and whether training has stopped."""
        return {"stopped": self.stopped, "best": self.best.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.stopped = state_dict["stopped"]
        self.best.load_state_dict(state_dict["best"])
