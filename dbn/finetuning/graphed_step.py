"""Steps of supervised training; on a GPU those of full batches are captured as a CUDA graph."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Generator, Tensor, nn
from torch.optim import Optimizer

from dbn.data import Source
from dbn.finetuning.evaluation import Labelled, like_of, loss_of
from dbn.finetuning.target import Loss
from dbn.runtime import distributed
from dbn.runtime.cuda_graph import TrainingStep, can_capture
from dbn.runtime.run_config import plain_attributes, plain_values
from dbn.schedules import Schedule

_KNOWN_MODULES = ("torch.nn.", "dbn.")
_FUSED = (torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD)  # which then take their rate as a tensor
#: Of modules, of parameters and of optimisers.
_HOOKS = (
    *("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks"),
    *("_post_accumulate_grad_hooks", "_optimizer_step_pre_hooks", "_optimizer_step_post_hooks"),
)


def capturable(model: nn.Module, optimizer: Optimizer, loss: Loss, source: Source) -> bool:
    """Whether steps can be captured: they call only torch and this library, and rows are checked before."""
    here = can_capture(like_of(model).device) and distributed.world_size() == 1
    known = type(optimizer) in _FUSED and all(group.get("fused") for group in optimizer.param_groups)
    modules = [*model.modules(), *_modules_of(loss)]
    own = all(
        type(module).__module__.startswith(_KNOWN_MODULES) and "forward" not in vars(module) for module in modules
    )
    all_parts = (*modules, *model.parameters(), optimizer)
    hooked = "step" in vars(optimizer) or any(getattr(part, name, None) for part in all_parts for name in _HOOKS)
    pure = str(getattr(loss, "__module__", "")).startswith(_KNOWN_MODULES)
    return here and known and own and not hooked and pure and source.deterministic


class SupervisedStep(TrainingStep):
    """A step of supervised training; full batches are replayed if they can be captured, others run eagerly.

    Args:
        model: the network.
        network: the model, or its wrapper that averages gradients over processes.
        optimizer: each of its groups has the index of its rate in `learning_rates`.
        learning_rates: schedules of the epoch.
        data: the rows, their target and the loss.
        max_norm: Euclidean norm that bounds the weights into a unit, or None.
        generator: draws dropout, also in replays; None for torch's global one.
    """

    def __init__(
        self,
        model: nn.Module,
        network: nn.Module,
        optimizer: Optimizer,
        learning_rates: list[Schedule],
        data: Labelled,
        max_norm: float | None,
        *,
        generator: Generator | None,
    ) -> None:
        self.network, self.optimizer, self.schedules, self.max_norm = network, optimizer, learning_rates, max_norm
        self.data, source = data, data.source
        self.parameters = [value for group in optimizer.param_groups for value in group["params"]]
        device = self.parameters[0].device
        super().__init__(partial(capturable, model, optimizer, data.loss, source), generator, device)
        self.rows = None if self.graphed is None else min(source.batch_size, source.rows or source.batch_size)
        self.rates_now = [float("nan") for _ in learning_rates]
        self.rate_tensors = torch.zeros(len(learning_rates), dtype=torch.float32, device=device).unbind()  # as in Adam
        self.held: tuple[Tensor, Tensor, Tensor] | None = None
        self.gradients: list[Tensor | None] = []  # as the capture made them, which replays write to

    def __call__(self, inputs: Tensor, labels: Tensor | None, fraction: float, epoch: float, lr_scale: float) -> Tensor:
        """Update once from labelled rows that are this fraction of the batch; returns the loss."""
        self._set_rates([lr_scale * rate(epoch) for rate in self.schedules])
        if self.graphed is None or labels is None or len(inputs) != self.rows:
            return self._step(inputs, labels, fraction)
        if self.held is None:
            self.held = inputs.clone(), labels.clone(), inputs.new_zeros(())
        for buffer, value in zip(self.held[:2], (inputs, labels), strict=True):
            buffer.copy_(value)
        self.graphed()
        if self.graphed.graph is not None:
            for parameter, gradient in zip(self.parameters, self.gradients, strict=True):
                parameter.grad = gradient
        return self.held[2].clone()

    def close(self) -> None:
        """Free what a graph holds, gradients included; there are no more steps."""
        if self.graphed is not None:
            self.optimizer.zero_grad()
            self.gradients = []
        super().close()

    def settings(self) -> list[Any]:
        """The plain numbers and strings of network and optimiser."""
        modules = (*self.network.modules(), *_modules_of(self.data.loss))
        of_groups = [
            (group.get("betas"), plain_values({**group, "lr": None, "capturable": None}))
            for group in self.optimizer.param_groups
        ]
        of_modules = [(id(module), plain_attributes(module)) for module in modules]
        return [of_modules, of_groups, [value.requires_grad for value in self.parameters]]

    def tensors(self) -> list[Tensor]:
        """Parameters, buffers, the optimiser's state and the rows."""
        assert self.held is not None
        state = [value for values in self.optimizer.state.values() for value in values.values()]
        moments = [value for value in state if isinstance(value, Tensor)]
        return [*self.parameters, *self.network.buffers(), *moments, *self.held]

    def step_in_buffers(self) -> None:
        """One update from the rows in the buffers."""
        assert self.held is not None
        assert self.graphed is not None
        inputs, labels, loss = self.held
        with _marked_capturable(self.optimizer, self.graphed.capturing):
            loss.copy_(self._step(inputs, labels))
        if self.graphed.capturing:
            self.gradients = [value.grad for value in self.parameters]

    def _set_rates(self, rates: list[float]) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = rates[group["rate"]] if self.rows is None else self.rate_tensors[group["rate"]]
        if self.rows is not None and rates != self.rates_now:
            for tensor, value in zip(self.rate_tensors, rates, strict=True):
                tensor.fill_(value)
            self.rates_now = rates

    def _step(self, inputs: Tensor, labels: Tensor | None, fraction: float = 1.0) -> Tensor:
        assert labels is not None
        if not self.data.source.deterministic:
            self.data.target.check(labels, "x")
        outputs = self.network(inputs)
        # A mean over no rows is not a number.
        padded = not fraction and self.data.partly_labelled
        value = (
            outputs.sum() * 0 if padded else loss_of(outputs, self.data.target.fitted(labels, outputs), self.data.loss)
        )
        self.optimizer.zero_grad()
        torch.autograd.backward(distributed.scale_loss_for_ddp(value, fraction))
        self.optimizer.step()
        if self.max_norm is not None:
            _bound_norms(self.parameters, self.max_norm)
        return value.detach()


def _modules_of(loss: Loss) -> Iterator[nn.Module]:
    return loss.modules() if isinstance(loss, nn.Module) else iter(())


@contextmanager
def _marked_capturable(optimizer: Optimizer, capturing: bool) -> Iterator[None]:
    """Adam refuses to be captured unless it is marked so, and warns of the mark in eager steps."""
    marked = [group for group in optimizer.param_groups if capturing and "capturable" in group]
    for group in marked:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in marked:
            group["capturable"] = False


@torch.no_grad()
def _bound_norms(parameters: list[Any], largest: float) -> None:
    """Shrink the weights into a unit, a row of a weight, to a Euclidean norm of at most this."""
    for parameter in parameters:
        if parameter.dim() > 1:
            parameter.renorm_(2, 0, largest)
