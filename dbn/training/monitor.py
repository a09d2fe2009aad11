"""The quantities of the history of `train`, and what counts as divergence."""

import math
from typing import Any

import torch
from torch import Tensor

from dbn.data import Source
from dbn.estimators import Estimator
from dbn.fit import finite
from dbn.history import Record
from dbn.normalisability import far_energy, margin_of
from dbn.rbm import RBM, is_improper
from dbn.runtime import distributed
from dbn.training.chain_gap import chain_gap

_CHECKED_ROWS = 100  # whose free energy may run away
_RUNAWAY = 1e4  # nats a visible unit, beyond which no free energy of scaled data is


class Monitor:
    """The quantities of the history, on a fixed subset of the training rows and as many rows of validation.

    Args:
        rbm: the RBM.
        source: the training rows.
        validation: the validation rows, or None.
        rows: number of rows of either.
        estimator: whose chains are compared with the data; None for none.
    """

    def __init__(
        self, rbm: RBM, source: Source, validation: Source | None, rows: int, estimator: Estimator | None = None
    ) -> None:
        self.rbm, self.estimator = rbm, estimator
        self.train = source.representative_rows(rows)
        self.validation = None if validation is None else validation.representative_rows(rows)
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

    def state_dict(self) -> dict[str, Any]:
        """The free energy at the start, with which later ones are compared."""
        return {"first": self.first}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        self.first = state_dict["first"]

    @torch.no_grad()
    def divergence(self) -> str:
        """Describe the divergence; empty if training is healthy. An error if processes have different parameters."""
        distributed.check_replicated(list(self.rbm.parameters()), "the RBM")
        if not finite(*self.rbm.parameters()):
            return "left the finite numbers"
        if is_improper(self.rbm):
            margin = f"{self.rbm.normalisable().margin:.3g}"
            return f"lost its distribution (margin {margin} of RBM.normalisable; with bounded hidden units it has one)"
        energy = self._free_energy()
        limit = _RUNAWAY * self.rbm.visible.size + 100 * abs(self.first)
        return "" if abs(energy) <= limit else f"let the free energy run away to {energy:.3g} nats a row"

    def _margin(self, like: Tensor) -> dict[str, Tensor]:
        """The margin of `RBM.normalisable`, of RBMs that may have no distribution."""
        rbm = self.rbm
        energy = far_energy(rbm.visible.tails(), rbm.hidden.tails(), rbm.weight) if rbm.has_energy else None
        margin = margin_of(energy)
        return {"normalisable_margin": like.new_tensor(margin)} if math.isfinite(margin) else {}

    @torch.no_grad()
    def _free_energy(self) -> float:
        """Mean free energy of a few training rows, or 0 for units without an energy."""
        return float(self.rbm.free_energy(self.train[:_CHECKED_ROWS]).mean()) if self.rbm.has_energy else 0.0
