"""What is watched during training, when it stops early, and the mean of its last weights."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dbn import distributed
from dbn.arguments import finite_number, whole_number
from dbn.batches import Source
from dbn.course import finite
from dbn.estimators import Estimator
from dbn.history import Record
from dbn.normalisability import far_energy, margin_of
from dbn.rbm import RBM, is_improper
from dbn.training.chain_gap import chain_gap

_FEW = 100  # rows that the look for divergence takes
_RUNAWAY = 1e4  # nats a visible unit, beyond which no free energy of scaled data is


class Monitor:
    """The quantities of the history, on a fixed subset of the training rows and as many rows of validation.

    Args:
        rbm: the machine.
        source: where the training rows come from.
        validation: rows held back, or None.
        rows: number of rows of either.
        estimator: whose chains are held against the data; none without one.
    """

    def __init__(
        self, rbm: RBM, source: Source, validation: Source | None, rows: int, estimator: Estimator | None = None
    ) -> None:
        self.rbm, self.estimator = rbm, estimator
        self.train = source.subset(rows)
        self.validation = None if validation is None else validation.subset(rows)
        self.first = self._free_energy()

    @torch.no_grad()
    def __call__(self) -> Record:
        """The quantities as they are now, read from the device in one transfer."""
        hidden = self.rbm.mean_hidden(self.train)
        error = (self.rbm.mean_visible(hidden) - self.train).square().sum(-1).mean()
        values = {"reconstruction_error": error, "hidden_activity": hidden.mean()}
        for name in ("weight", "visible_bias", "hidden_bias"):
            values[f"{name}_norm"] = self.rbm.get_parameter(name).norm()
        values |= self._margin(error)
        if self.validation is not None and self.rbm.has_energy:
            gap = self.rbm.free_energy(self.validation).mean() - self.rbm.free_energy(self.train).mean()
            values["free_energy_gap"] = gap
        chains = None if self.estimator is None else self.estimator.chains_visible(self.rbm)
        if chains is not None:
            values["chain_gap"] = chain_gap(self.rbm, self.train, chains, hidden)
        return dict(zip(values, torch.stack(list(values.values())).tolist(), strict=True))

    def state(self) -> float:
        """The free energy at the start, beside which a later one may be runaway."""
        return self.first

    def put(self, state: float) -> None:
        """Put back what `state` returned."""
        self.first = state

    @torch.no_grad()
    def fault(self) -> str:
        """In words, how the machine has left all reason, or nothing; an error where processes have other machines."""
        distributed.check_alike(list(self.rbm.parameters()), "the machine")
        if not finite(*self.rbm.parameters()):
            return "left the finite numbers"
        if is_improper(self.rbm):
            return f"lost its distribution (RBM.normalisable has the margin {self.rbm.normalisable().margin:.3g})"
        energy = self._free_energy()
        limit = _RUNAWAY * self.rbm.visible.size + 100 * abs(self.first)
        return "" if abs(energy) <= limit else f"let the free energy run away to {energy:.3g} nats a row"

    def _margin(self, like: Tensor) -> dict[str, Tensor]:
        """The margin of `RBM.normalisable`, of machines that may have no distribution."""
        rbm = self.rbm
        energy = far_energy(rbm.visible.tails(), rbm.hidden.tails(), rbm.weight) if rbm.has_energy else None
        margin = margin_of(energy)
        return {"normalisable_margin": like.new_tensor(margin)} if math.isfinite(margin) else {}

    @torch.no_grad()
    def _free_energy(self) -> float:
        """Mean free energy of a few training rows, or 0 for units without an energy."""
        return float(self.rbm.free_energy(self.train[:_FEW]).mean()) if self.rbm.has_energy else 0.0


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
    def leave(self) -> None:
        """Leave the mean in the machine, where there is one."""
        for mean, value in zip(self.means, self.parameters, strict=False):
            value.copy_(mean)

    def state(self) -> dict[str, Any]:
        """The mean, and of how many moments it is."""
        return {"count": self.count, "means": self.means}

    def put(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.count = state["count"]
        self.means = [value.to(self.parameters[0].device) for value in state["means"]]

    @contextmanager
    def shown(self) -> Iterator[None]:
        """The machine with the mean in it, where there is one, for as long as it is looked at."""
        own = [value.detach().clone() for value in self.parameters]
        self.leave()
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
        ValueError: where neither a score nor a gap is given, or a number is out of range; in training, where a score is
            not finite.

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
        if self.score is not None and not callable(self.score):
            raise TypeError(f"score is {self.score!r}: give a function of the machine")
        if self.score is None and self.largest_gap is None:
            raise ValueError("EarlyStopping has neither a score nor a largest_gap: give one of them")


class Best:
    """Keeps the parameters of the highest score, and counts the scores since."""

    def __init__(self, rbm: RBM, stopping: EarlyStopping | None) -> None:
        self.rbm, self.stopping = rbm, stopping
        self.highest, self.waited = -math.inf, 0
        self.parameters: dict[str, Tensor] = {}
        self.stopped = False

    @torch.no_grad()
    def judge(self, record: Record, average: Average) -> None:
        """Add its score to the record of an epoch, and decide whether to stop after it."""
        if self.stopping is None:
            return
        if self.stopping.score is not None and record["epoch"] % self.stopping.every == 0:
            with average.shown():
                score: Any = self.stopping.score(self.rbm)
                score = score.item() if isinstance(score, Tensor) and score.numel() == 1 else score
                record["score"] = finite_number(score, "score of stopping", signed=True)
                record |= distributed.numbers_of_main({"score": record["score"]})
                self._see(record["score"])
        gap, largest = record.get("free_energy_gap"), self.stopping.largest_gap
        too_wide = largest is not None and gap is not None and gap > largest
        self.stopped = self.waited >= self.stopping.patience or too_wide

    def _see(self, score: float) -> None:
        self.waited += 1
        if score > self.highest:
            self.highest, self.waited = score, 0
            self.parameters = {name: value.detach().clone() for name, value in self.rbm.named_parameters()}

    @torch.no_grad()
    def leave(self) -> None:
        """Leave the best parameters in the machine, where any were scored."""
        for name, value in self.parameters.items():
            self.rbm.get_parameter(name).copy_(value)

    def state(self) -> dict[str, Any]:
        """The highest score and its parameters, and the scores since."""
        return {name: getattr(self, name) for name in ("highest", "waited", "stopped", "parameters")}

    def put(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        self.highest, self.waited, self.stopped = state["highest"], state["waited"], state["stopped"]
        self.parameters = state["parameters"]
