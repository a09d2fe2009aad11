"""Steps of supervised training as the device does them best: on a GPU, full batches recorded once and replayed."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dbn import distributed
from dbn.arguments import choice
from dbn.batches import Source
from dbn.course import plain_of
from dbn.finetuning.evaluation import like_of, loss_of
from dbn.finetuning.task import Loss, Task
from dbn.recording import Replay, recordable
from dbn.schedules import Schedule

_OURS = ("torch.nn.", "dbn.")
#: Of modules, of parameters and of optimisers.
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_post_accumulate_grad_hooks", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
)

_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # which then take their rate as a tensor

Optimiser = str | Callable[..., Optimizer]


def replayable(model: nn.Module, optimizer: Optimizer, loss: Loss, source: Source) -> bool:
    """Whether steps of a network can be recorded: all they call is torch's or ours, and rows are checked before."""
    here = recordable(like_of(model).device) and distributed.world_size() == 1
    known = type(optimizer) in _FUSED and all(group.get("fused") for group in optimizer.param_groups)
    modules = [*model.modules(), *_modules_of(loss)]
    own = all(type(module).__module__.startswith(_OURS) and "forward" not in vars(module) for module in modules)
    all_parts = (*modules, *model.parameters(), optimizer)
    hooked = "step" in vars(optimizer) or any(getattr(part, name, None) for part in all_parts for name in _HOOKS)
    pure = str(getattr(loss, "__module__", "")).startswith(_OURS)
    return here and known and own and not hooked and pure and source.fixed


def optimiser_factory(optimiser: Optimiser) -> Callable[..., Optimizer]:
    """What builds an optimiser from parameter groups and a rate; ours keep all that they carry on the device."""
    if callable(optimiser):
        return optimiser
    if choice(optimiser, ("adam", "sgd"), "optimiser") == "adam":
        return lambda groups, lr: torch.optim.Adam(groups, lr=lr, fused=True)
    return lambda groups, lr: torch.optim.SGD(groups, lr=lr, momentum=0.9, fused=True)


class Steps:
    """The steps of supervised training: those of full batches replayed, where that can be, others as they are.

    Args:
        network: the model, or what adds its gradients up over processes.
        optimizer: with the place in `rates` of each group's rate.
        rates: learning rates by the epoch.
        task: what the labels are for.
        loss: of outputs and labels.
        largest: Euclidean norm that what leads into a unit is bound to, or None.
        source: where the rows come from.
        generator: draws dropout, also in replays; None for torch's global one.
        recorded: tells whether steps can be recorded, as `replayable` does, at the start and after every callback.
    """

    def __init__(
        self,
        network: nn.Module,
        optimizer: Optimizer,
        rates: list[Schedule],
        task: Task,
        loss: Loss,
        largest: float | None,
        source: Source,
        *,
        generator: Generator | None,
        recorded: Callable[[], bool],
    ) -> None:
        self.network, self.optimizer, self.rates, self.largest = network, optimizer, rates, largest
        self.task, self.loss = task, loss
        self.checked = source.fixed
        self.parameters = [value for group in optimizer.param_groups for value in group["params"]]
        self.recorded = recorded
        self.rows = min(source.batch_size, source.rows or source.batch_size) if recorded() else None
        self.now = [float("nan") for _ in rates]
        device = self.parameters[0].device
        self.settings = self._settings()
        self.learning_rates = torch.zeros(len(rates), dtype=torch.float32, device=device).unbind()  # as Adam reads them
        self.replay = None if self.rows is None else Replay(self._full, self._state, generator, device)
        self.held: tuple[Tensor, Tensor, Tensor] | None = None
        self.slopes: list[Tensor | None] = []  # gradients as the recording made them, which replays write to

    def __call__(self, inputs: Tensor, labels: Tensor | None, share: float, epoch: float, of_rate: float) -> Tensor:
        """Learn from labelled rows, which are such a share of a batch, by a part of the rates of that epoch."""
        self._set([of_rate * rate(epoch) for rate in self.rates])
        if self.replay is None or labels is None or len(inputs) != self.rows:
            return self._step(inputs, labels, share)
        if self.held is None:
            self.held = inputs.clone(), labels.clone(), inputs.new_zeros(())
        for buffer, value in zip(self.held[:2], (inputs, labels), strict=True):
            buffer.copy_(value)
        self.replay()
        if self.replay.graph is not None:
            for parameter, slope in zip(self.parameters, self.slopes, strict=True):
                parameter.grad = slope
        return self.held[2].clone()

    def look_again(self) -> None:
        """Where a setting has changed, record anew at the next full batch, or no more where that is now impossible."""
        if self.replay is None:
            return
        if not self.recorded():
            self.replay.stop()
        if self.settings != (settings := self._settings()):
            self.settings = settings
            self.replay.forget()

    def close(self) -> None:
        """Give back what a recording holds, gradients included; there are no more steps."""
        if self.replay is not None:
            self.optimizer.zero_grad()
            self.slopes = []
            self.replay.close()

    def _settings(self) -> list[Any]:
        """The plain numbers and words of network and optimiser, which a recording keeps as they are."""
        of_modules = [(id(one), plain_of(vars(one))) for one in (*self.network.modules(), *_modules_of(self.loss))]
        of_groups = [
            (group.get("betas"), plain_of({**group, "lr": None, "capturable": None}))
            for group in self.optimizer.param_groups
        ]
        return [of_modules, of_groups, [value.requires_grad for value in self.parameters]]

    def _set(self, now: list[float]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = now[group["rate"]] if self.rows is None else self.learning_rates[group["rate"]]
        if self.rows is not None and now != self.now:
            for tensor, value in zip(self.learning_rates, now, strict=True):
                tensor.fill_(value)
            self.now = now

    def _step(self, inputs: Tensor, labels: Tensor | None, share: float = 1.0) -> Tensor:
        assert labels is not None
        if not self.checked:
            self.task.check(labels, "x")
        outputs = self.network(inputs)
        value = loss_of(outputs, self.task.fitted(labels, outputs), self.loss)
        self.optimizer.zero_grad()
        torch.autograd.backward(distributed.weighed(value, share))
        self.optimizer.step()
        if self.largest is not None:
            _bound_norms(self.parameters, self.largest)
        return value.detach()

    def _full(self) -> None:
        assert self.held is not None
        assert self.replay is not None
        inputs, labels, loss = self.held
        with _capturable(self.optimizer, self.replay.recording):
            loss.copy_(self._step(inputs, labels))
        if self.replay.recording:
            self.slopes = [value.grad for value in self.parameters]

    def _state(self) -> list[Tensor]:
        assert self.held is not None
        return [*self.parameters, *self.network.buffers(), *self._moments(), *self.held]

    def _moments(self) -> Iterator[Tensor]:
        for values in self.optimizer.state.values():
            yield from (value for value in values.values() if isinstance(value, Tensor))


def _modules_of(loss: Loss) -> Iterator[nn.Module]:
    return loss.modules() if isinstance(loss, nn.Module) else iter(())


@contextmanager
def _capturable(optimizer: Optimizer, recording: bool) -> Iterator[None]:
    """Adam refuses to be recorded where it is not marked so, and warns of the mark in plain steps."""
    marked = [group for group in optimizer.param_groups if recording and "capturable" in group]
    for group in marked:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in marked:
            group["capturable"] = False


@torch.no_grad()
def _bound_norms(parameters: list[Any], largest: float) -> None:
    """Shrink what leads into a unit, a row of a weight, to a Euclidean norm of at most this."""
    for parameter in parameters:
        if parameter.dim() > 1:
            parameter.renorm_(2, 0, largest)
