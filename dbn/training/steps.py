"""Steps of a learner as the device does them best: on a GPU, full batches by one launch each."""

from collections.abc import Iterator

import torch
from torch import Tensor

from dbn import distributed
from dbn.estimators import Estimator
from dbn.rbm import RBM
from dbn.recording import Replay, recordable
from dbn.training.step import Learner


def replayable(rbm: RBM, estimator: Estimator) -> bool:
    """Whether steps of this machine can be recorded where it is: nothing in them is read back from the device."""
    parts = (rbm.visible, rbm.hidden, estimator)
    return recordable(rbm.weight.device) and distributed.world_size() == 1 and all(part.replayable for part in parts)


class Steps:
    """The steps of a learner: those of full batches replayed, where that can be, and all others as they are.

    Args:
        learner: keeps its gradient apart from its increments where its steps are replayable.
        rows: of a full batch.
        weight_decay: of every step.
    """

    def __init__(self, learner: Learner, rows: int, weight_decay: float) -> None:
        self.learner, self.rows, self.weight_decay = learner, rows, weight_decay
        device = learner.rbm.weight.device
        self.replay: Replay | None = None
        if replayable(learner.rbm, learner.estimator):
            # Held here, so that the buffers whose places are recorded are not given back.
            self.held = learner.contrast(rows)
            self.visible = self.held.visible[:rows]
            self.rates: tuple[float, ...] = ()
            self.learning_rate, self.momentum = torch.zeros(2, dtype=torch.float64, device=device).unbind()
            self.replay = Replay(self._full, self._state, learner.generator, device)

    def __call__(self, v: Tensor, learning_rate: float, momentum: float, share: float = 1.0) -> None:
        """Learn from visible rows v (n, V), which are such a share of a batch."""
        if self.replay is None:
            self.learner.step(v, learning_rate, momentum, self.weight_decay, share)
            return
        self._set(learning_rate, momentum)
        if len(v) != self.rows:
            self.learner.step(v, self.learning_rate, self.momentum, self.weight_decay, share)
            return
        if v is not self.visible:
            self.visible.copy_(v)
        self.replay()

    def _set(self, *rates: float) -> None:
        if rates != self.rates:
            self.learning_rate.fill_(rates[0])
            self.momentum.fill_(rates[1])
            self.rates = rates

    def _full(self) -> None:
        """A step from the rows that are held, after which whatever it carries is where it was before."""
        before = dict(_buffers(self.learner.estimator))
        self.learner.step(self.visible, self.learning_rate, self.momentum, self.weight_decay)
        for (module, name), value in _buffers(self.learner.estimator):
            old = before.get((module, name))
            if old is not None and old is not value:
                module._buffers[name] = old.copy_(value)

    def _state(self) -> list[Tensor]:
        learner = self.learner
        carried = [value for _, value in _buffers(learner.estimator)]
        centre = [] if learner.centre is None else list(learner.centre[0])
        activity = [] if learner.activity is None else [learner.activity]
        return [*learner.rbm.parameters(), learner.flat, self.held.visible, *carried, *centre, *activity]


def _buffers(estimator: Estimator) -> Iterator[tuple[tuple[torch.nn.Module, str], Tensor]]:
    for module in estimator.modules():
        for name, value in list(module._buffers.items()):
            if value is not None:
                yield (module, name), value
