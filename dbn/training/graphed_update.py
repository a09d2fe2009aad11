"""Updates of an RBM; on a GPU those of full batches are captured as a CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from dbn.estimators import Estimator
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.runtime.cuda_graph import TrainingStep, can_capture, declares_capturable
from dbn.runtime.run_config import plain_attributes
from dbn.training.update import RBMUpdate


def capturable(rbm: RBM, estimator: Estimator) -> bool:
    """Whether updates of this RBM can be captured: its units and this estimator declare it, and it is on a GPU."""
    here = can_capture(rbm.weight.device) and distributed.world_size() == 1
    return here and all(map(declares_capturable, (rbm.visible, rbm.hidden, estimator)))


class GraphedUpdate(TrainingStep):
    """`RBMUpdate.step`; full batches are replayed if they can be captured, all others run eagerly.

    Args:
        update: with a separate gradient if its steps are capturable.
        rows: of a full batch.
    """

    def __init__(self, update: RBMUpdate, rows: int) -> None:
        self.update, self.rows = update, rows
        super().__init__(partial(capturable, update.rbm, update.estimator), update.generator, update.rbm.weight.device)
        if self.graphed is not None:
            self.buffers = update.buffers(rows)  # referenced here, so that a graph's buffers are not freed
            assert self.buffers.positive.visible is not None
            self.visible = self.buffers.positive.visible
            self.rates: tuple[float, ...] = ()
            rates = torch.zeros(2, dtype=torch.float64, device=update.rbm.weight.device)
            self.learning_rate, self.momentum = rates.unbind()

    def __call__(self, v: Tensor, learning_rate: float, momentum: float, fraction: float = 1.0) -> None:
        """Update once from visible rows v (n, V) that are this fraction of the batch."""
        if self.graphed is None:
            self.update.step(v, learning_rate, momentum, fraction)
            return
        self._set_rates(learning_rate, momentum)
        if len(v) != self.rows:
            with _in_place(self.update.estimator):
                self.update.step(v, self.learning_rate, self.momentum, fraction)
            return
        if v is not self.visible:
            self.visible.copy_(v)
        self.graphed()

    def settings(self) -> list[dict[str, Any]]:
        """The plain numbers and strings of RBM and estimator."""
        parts = (self.update.rbm, self.update.estimator)
        return [plain_attributes(module) for part in parts for module in part.modules()]

    def tensors(self) -> list[Tensor]:
        """Parameters, velocity, rows, chains and moving means."""
        update = self.update
        chains = [value for _, _, value in _buffers_of(update.estimator)]
        centre = [] if update.centre is None else list(update.centre[0])
        activity = [] if update.activity is None else [update.activity]
        of_rbm = (*update.rbm.parameters(), *update.rbm.buffers())
        return [*of_rbm, update.flat_velocity, self.buffers.visible, *chains, *centre, *activity]

    def step_in_buffers(self) -> None:
        """One update from the rows in the buffers."""
        with _in_place(self.update.estimator):
            self.update.step(self.visible, self.learning_rate, self.momentum, buffers=self.buffers)

    def _set_rates(self, *rates: float) -> None:
        if rates != self.rates:
            self.learning_rate.fill_(rates[0])
            self.momentum.fill_(rates[1])
            self.rates = rates


@contextmanager
def _in_place(estimator: Estimator) -> Iterator[None]:
    """Copy new chain states into the captured buffers; restore the old states if the step raises."""
    before = list(_buffers_of(estimator))
    done = False
    try:
        yield
        done = True
    finally:
        for module, name, old in before:
            new = module._buffers[name]
            if new is not None and new is not old:
                module._buffers[name] = old.copy_(new) if done else old


def _buffers_of(estimator: Estimator) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in estimator.modules():
        for name, value in list(module._buffers.items()):
            if value is not None:
                yield module, name, value
