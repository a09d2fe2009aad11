"""One update of an RBM's parameters, with what it carries to the next."""

from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dbn.estimators import Estimator
from dbn.gradient import Offsets, Phase, PhaseBuffers, add_gradient, phase
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.runtime.distributed import Shard
from dbn.training.train_options import TrainOptions

Rate = float | Tensor

_BUFFERS_KEPT = 4  # batch sizes
_ACTIVITY_RATE = 0.1  # of the moving mean of the hidden units' activity


class RBMUpdate:
    """The update of an RBM: gradient, momentum, penalties, and the moving means and chains that it carries.

    Args:
        rbm: updated in place.
        estimator: the negative phase, prepared for this RBM.
        generator: draws all samples; each process has its own.
        centre: moving means that the gradient is centred at, and their rate; None for the plain gradient.
        options: weight decay, penalties and clipping.
        separate_gradient: store the gradient separately from the velocity, as clipping does in any case. CUDA graphs
            need it: their rates are 0-d tensors, which every replay reads anew.
    """

    def __init__(
        self,
        rbm: RBM,
        estimator: Estimator,
        generator: Generator | None,
        centre: tuple[Offsets, float] | None = None,
        options: TrainOptions | None = None,
        *,
        separate_gradient: bool = False,
    ) -> None:
        self.rbm, self.estimator, self.generator = rbm, estimator, generator
        self.centre, self.options = centre, options or TrainOptions(epochs=0, weight_decay=0.0)
        self.parameters = {name: value for name, value in rbm.named_parameters() if value.requires_grad}
        self.flat_velocity, self.velocity = _views_of_one_vector(self.parameters, rbm.weight)
        self.gradient: dict[str, Tensor] = {}
        self.separate_gradient = separate_gradient or self.options.clip is not None
        if self.separate_gradient:
            self.flat_gradient, self.gradient = _views_of_one_vector(self.parameters, rbm.weight)
        self.activity: Tensor | None = None
        self._buffers: dict[int, PhaseBuffers] = {}

    def buffers(self, rows: int) -> PhaseBuffers:
        """Buffers for a batch of this size; those of the last few sizes are kept."""
        if rows not in self._buffers:
            if len(self._buffers) == _BUFFERS_KEPT:
                self._buffers.pop(next(iter(self._buffers)))
            self._buffers[rows] = PhaseBuffers(self.rbm, rows, self.estimator.rows(rows))
        return self._buffers[rows]

    @torch.no_grad()
    def step(
        self,
        v: Tensor,
        learning_rate: Rate,
        momentum: Rate,
        fraction: float = 1.0,
        buffers: PhaseBuffers | None = None,
    ) -> None:
        """Update once from visible rows v (n, V), on any device, that are this fraction of the batch."""
        buffers = buffers or self.buffers(len(v))
        positive = phase(self.rbm, v, buffers=buffers.positive)._replace(fraction=fraction)
        negative = self.estimator.negative(self.rbm, positive, self.generator, buffers.negative)
        excess = self._update_running_means(positive)
        offsets = None if self.centre is None else self.centre[0]
        if self.separate_gradient:
            add_gradient(self.rbm, self.gradient, positive, negative, buffers, 1.0, 0.0, offsets)
            self._clip(distributed.all_reduce_sum(self.flat_gradient))
            self._add_penalties(self.gradient, excess, 1.0)
            self.flat_velocity.mul_(momentum).add_(self.flat_gradient.mul_(learning_rate))
        else:
            # The velocity of before is the same on all processes, each of which adds its fraction of it.
            rate, kept = float(learning_rate), float(momentum) / distributed.world_size()
            add_gradient(self.rbm, self.velocity, positive, negative, buffers, rate, kept, offsets)
            distributed.all_reduce_sum(self.flat_velocity)
            self._add_penalties(self.velocity, excess, rate)
        for name, parameter in self.parameters.items():
            parameter.add_(self.velocity[name])
        if self.options.max_norm is not None and "weight" in self.parameters:
            self.rbm.weight.renorm_(2, 1, float(self.options.max_norm))

    def state_dict(self) -> dict[str, Any]:
        """What is carried from step to step."""
        chains = self.estimator.sharded_buffers
        estimator = self.estimator.state_dict()
        return {
            "velocity": self.velocity,
            "activity": self.activity,
            "offsets": None if self.centre is None else list(self.centre[0]),
            "estimator": {n: Shard(value, chains[n]) if n in chains else value for n, value in estimator.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Restore what `state_dict` returned."""
        like = self.rbm.weight
        for name, velocity in self.velocity.items():
            velocity.copy_(state_dict["velocity"][name])
        self.activity = None if state_dict["activity"] is None else state_dict["activity"].to(like.device)
        if self.centre is not None:
            for offset, value in zip(self.centre[0], state_dict["offsets"], strict=True):
                offset.copy_(value)
        if self.separate_gradient:
            self.flat_gradient.zero_()  # 0 times what is not finite would be kept
        values = state_dict["estimator"].items()
        estimator = {name: value.value if isinstance(value, Shard) else value for name, value in values}
        _drop_other_buffers(self.estimator, estimator.keys())
        self.estimator.load_state_dict(estimator, strict=False)
        self.estimator.to(like.device)

    def _clip(self, gradient: Tensor) -> None:
        if self.options.clip is not None:
            gradient.mul_((float(self.options.clip) / gradient.norm()).clamp(max=1))

    def _add_penalties(self, slopes: dict[str, Tensor], excess: tuple[Tensor, Tensor] | None, rate: float) -> None:
        """Add the slopes of weight decay and all penalties, times a rate."""
        options = self.options
        if excess is not None:
            v, h = excess
            if "weight" in slopes:
                slopes["weight"].addr_(v, h, alpha=-rate * options.sparsity_cost)
            if "hidden_bias" in slopes:
                slopes["hidden_bias"].add_(h, alpha=-rate * options.sparsity_cost)
        if "weight" in slopes:
            slopes["weight"].add_(self.rbm.weight, alpha=-rate * options.weight_decay)
            if options.l1:
                slopes["weight"].add_(self.rbm.weight.sign(), alpha=-rate * options.l1)

    def _update_running_means(self, positive: Phase) -> tuple[Tensor, Tensor] | None:
        """Move the offsets and the mean activity towards the batch's means.

        Returns the batch's mean visible units and the excess of the mean activity over the target, which sparsity
        needs; None without a target.
        """
        target = self.options.sparsity_target
        if self.centre is None and target is None:
            return None
        v, h = distributed.weighted_means(positive.fraction, positive.visible.mean(0), positive.hidden_mean.mean(0))
        if self.centre is not None:
            offsets, rate = self.centre
            offsets.visible.lerp_(v, rate)
            offsets.hidden.lerp_(h, rate)
        if target is None:
            return None
        self.activity = h if self.activity is None else self.activity.lerp_(h, _ACTIVITY_RATE)
        return v, self.activity - float(target)  # a whole number may be too large for a tensor


def _drop_other_buffers(module: nn.Module, names: Collection[str]) -> None:
    """Set the buffers that are not among these names to None, as before they were first filled."""
    for prefix, part in module.named_modules():
        for name in part._buffers:
            if f"{prefix}.{name}".lstrip(".") not in names:
                part._buffers[name] = None


def _views_of_one_vector(parameters: Mapping[str, Tensor], like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Zeros in the shapes of some parameters: one vector, and names to views of it."""
    sizes = [value.numel() for value in parameters.values()]
    flat = like.new_zeros(sum(sizes))
    return flat, {
        name: part.view_as(parameters[name])
        for name, part in zip(parameters, torch.split(flat, sizes) if sizes else (), strict=True)
    }
