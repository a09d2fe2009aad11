"""Steps of a learner as the device does them best: on a GPU, full batches recorded once and replayed."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from dbn import distributed
from dbn.course import plain_of
from dbn.estimators import Estimator
from dbn.rbm import RBM
from dbn.recording import Replay, declared, recordable
from dbn.training.step import Learner


def replayable(rbm: RBM, estimator: Estimator) -> bool:
    """Whether steps of this machine can be recorded where it is: its units and this estimator say so themselves."""
    here = recordable(rbm.weight.device) and distributed.world_size() == 1
    return here and all(map(declared, (rbm.visible, rbm.hidden, estimator)))


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
            self.contrast = learner.contrast(rows)  # whose buffers must not go while their places are recorded
            room = self.contrast.above.visible
            assert room is not None
            self.visible = room
            self.rates: tuple[float, ...] = ()
            self.learning_rate, self.momentum = torch.zeros(2, dtype=torch.float64, device=device).unbind()
            self.settings = self._settings()
            self.replay = Replay(self._full, self._state, learner.generator, device)

    def __call__(self, v: Tensor, learning_rate: float, momentum: float, share: float = 1.0) -> None:
        """Learn from visible rows v (n, V), which are such a share of a batch."""
        if self.replay is None:
            self.learner.step(v, learning_rate, momentum, self.weight_decay, share)
            return
        self._set(learning_rate, momentum)
        if len(v) != self.rows:
            with _in_place(self.learner.estimator):
                self.learner.step(v, self.learning_rate, self.momentum, self.weight_decay, share)
            return
        if v is not self.visible:
            self.visible.copy_(v)
        self.replay()

    def look_again(self) -> None:
        """Where a setting has changed, record anew at the next full batch."""
        if self.replay is not None and self.settings != (settings := self._settings()):
            self.settings = settings
            self.replay.forget()

    def close(self) -> None:
        """Give back what a recording holds; there are no more steps."""
        if self.replay is not None:
            self.replay.close()

    def _settings(self) -> list[dict[str, Any]]:
        """The plain numbers and words of machine and estimator, which a recording keeps as they are."""
        return [plain_of(vars(one)) for part in (self.learner.rbm, self.learner.estimator) for one in part.modules()]

    def _set(self, *rates: float) -> None:
        if rates != self.rates:
            self.learning_rate.fill_(rates[0])
            self.momentum.fill_(rates[1])
            self.rates = rates

    def _full(self) -> None:
        """A step from the rows that are held."""
        with _in_place(self.learner.estimator):
            self.learner.step(
                self.visible, self.learning_rate, self.momentum, self.weight_decay, contrast=self.contrast
            )

    def _state(self) -> list[Tensor]:
        learner = self.learner
        carried = [value for _, _, value in _buffers(learner.estimator)]
        centre = [] if learner.centre is None else list(learner.centre[0])
        activity = [] if learner.activity is None else [learner.activity]
        machine = (*learner.rbm.parameters(), *learner.rbm.buffers())
        return [*machine, learner.flat, self.contrast.visible, *carried, *centre, *activity]


@contextmanager
def _in_place(estimator: Estimator) -> Iterator[None]:
    """Leave what chains carry where it was before, with the new numbers; with the old ones where a step breaks off."""
    before = list(_buffers(estimator))
    done = False
    try:
        yield
        done = True
    finally:
        for module, name, old in before:
            new = module._buffers[name]
            if new is not None and new is not old:
                module._buffers[name] = old.copy_(new) if done else old


def _buffers(estimator: Estimator) -> Iterator[tuple[nn.Module, str, Tensor]]:
    for module in estimator.modules():
        for name, value in list(module._buffers.items()):
            if value is not None:
                yield module, name, value
