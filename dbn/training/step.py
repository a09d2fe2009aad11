"""One step of learning, with what it carries to the next."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

from dbn import distributed
from dbn.arguments import finite_number
from dbn.distributed import Shard
from dbn.estimators import Estimator
from dbn.gradient import Contrast, Offsets, add_gradient
from dbn.rbm import RBM, Phase

Rate = float | Tensor

_SIZES = 4  # of batches, whose buffers are kept
_MEMORY = 0.1  # rate of the moving mean of the hidden units' activity


@dataclass(frozen=True, kw_only=True)
class Penalties:
    """What holds weights and activities back, besides decay; the arguments of `train` explain them."""

    l1: float = 0.0
    max_norm: float | None = None
    sparsity_target: float | None = None
    sparsity_cost: float = 0.1
    clip: float | None = None

    def __post_init__(self) -> None:
        finite_number(self.l1, "l1")
        finite_number(self.sparsity_cost, "sparsity_cost")
        for name in ("max_norm", "clip"):
            value = getattr(self, name)
            finite_number(1.0 if value is None else value, name, positive=True)
        target = self.sparsity_target
        finite_number(0.0 if target is None else target, "sparsity_target", signed=True)


class Learner:
    """One step of learning, and what it carries to the next: increments (the momentum), chains, moving means, buffers.

    Args:
        rbm: the machine.
        estimator: the negative phase, prepared for this machine.
        generator: draws all samples; of several processes, each has its own.
        centre: moving means that the gradient is centred at, and their rate; None for the plain gradient.
        penalties: what holds weights and activities back.
        apart: keep the gradient apart from the increments, as clipping does in any case: rates may then be tensors
            without dimensions, which a recorded step reads anew at every replay.
    """

    def __init__(
        self,
        rbm: RBM,
        estimator: Estimator,
        generator: Generator | None,
        centre: tuple[Offsets, float] | None = None,
        penalties: Penalties | None = None,
        *,
        apart: bool = False,
    ) -> None:
        self.rbm, self.estimator, self.generator = rbm, estimator, generator
        self.centre, self.penalties = centre, penalties or Penalties()
        self.parameters = {name: value for name, value in rbm.named_parameters() if value.requires_grad}
        self.flat, self.increments = _in_one_piece(self.parameters, rbm.weight)
        self.gradient: dict[str, Tensor] = {}
        self.apart = apart or self.penalties.clip is not None
        if self.apart:
            self.flat_gradient, self.gradient = _in_one_piece(self.parameters, rbm.weight)
        self.activity: Tensor | None = None
        self.contrasts: dict[int, Contrast] = {}

    def place(self, rows: int) -> Tensor | None:
        """Where a batch of so many rows is best put: (rows, V)."""
        return self.contrast(rows).above.visible

    def contrast(self, rows: int) -> Contrast:
        """Buffers for a batch of so many rows; those of the last few sizes are kept."""
        if rows not in self.contrasts:
            if len(self.contrasts) == _SIZES:
                self.contrasts.pop(next(iter(self.contrasts)))
            self.contrasts[rows] = Contrast(self.rbm, rows, self.estimator.rows(rows))
        return self.contrasts[rows]

    @torch.no_grad()
    def step(
        self,
        v: Tensor,
        learning_rate: Rate,
        momentum: Rate,
        weight_decay: float,
        share: float = 1.0,
        contrast: Contrast | None = None,
    ) -> None:
        """Learn from visible rows v (n, V), wherever they are, which are such a share of a batch."""
        contrast = contrast or self.contrast(len(v))
        positive = self.rbm.phase(v, room=contrast.above)._replace(share=share)
        negative = self.estimator.negative(self.rbm, positive, self.generator, contrast.below)
        pull = self._followed(positive)
        offsets = None if self.centre is None else self.centre[0]
        if self.apart:
            add_gradient(self.rbm, self.gradient, positive, negative, contrast, 1.0, 0.0, offsets)
            self._clip(distributed.add_up(self.flat_gradient))
            self._restrain(self.gradient, pull, 1.0, weight_decay)
            self.flat.mul_(momentum).add_(self.flat_gradient.mul_(learning_rate))
        else:
            # The increments of before are the same on all processes, each of which adds its share of them.
            rate, kept = float(learning_rate), float(momentum) / distributed.world_size()
            add_gradient(self.rbm, self.increments, positive, negative, contrast, rate, kept, offsets)
            distributed.add_up(self.flat)
            self._restrain(self.increments, pull, rate, weight_decay)
        for name, parameter in self.parameters.items():
            parameter.add_(self.increments[name])
        if self.penalties.max_norm is not None and "weight" in self.parameters:
            self.rbm.weight.renorm_(2, 1, float(self.penalties.max_norm))

    def state(self) -> dict[str, Any]:
        """What is carried from step to step."""
        chains = self.estimator.of_chains
        estimator = self.estimator.state_dict()
        return {
            "increments": self.increments,
            "activity": self.activity,
            "offsets": None if self.centre is None else list(self.centre[0]),
            "estimator": {n: Shard(value, chains[n]) if n in chains else value for n, value in estimator.items()},
        }

    def put(self, state: dict[str, Any]) -> None:
        """Put back what `state` returned."""
        like = self.rbm.weight
        for name, increment in self.increments.items():
            increment.copy_(state["increments"][name])
        self.activity = None if state["activity"] is None else state["activity"].to(like.device)
        if self.centre is not None:
            for offset, value in zip(self.centre[0], state["offsets"], strict=True):
                offset.copy_(value)
        if self.apart:
            self.flat_gradient.zero_()  # 0 times what is not finite would be kept
        estimator = {n: value.value if isinstance(value, Shard) else value for n, value in state["estimator"].items()}
        _without(self.estimator, estimator.keys())
        self.estimator.load_state_dict(estimator, strict=False)
        self.estimator.to(like.device)

    def _clip(self, gradient: Tensor) -> None:
        if self.penalties.clip is not None:
            gradient.mul_((float(self.penalties.clip) / gradient.norm()).clamp(max=1))

    def _restrain(
        self, slopes: dict[str, Tensor], pull: tuple[Tensor, Tensor] | None, rate: float, weight_decay: float
    ) -> None:
        """Add the slopes of all penalties, times a rate."""
        if pull is not None:
            v, h = pull
            if "weight" in slopes:
                slopes["weight"].addr_(v, h, alpha=-rate * self.penalties.sparsity_cost)
            if "hidden_bias" in slopes:
                slopes["hidden_bias"].add_(h, alpha=-rate * self.penalties.sparsity_cost)
        if "weight" in slopes:
            slopes["weight"].add_(self.rbm.weight, alpha=-rate * weight_decay)
            if self.penalties.l1:
                slopes["weight"].add_(self.rbm.weight.sign(), alpha=-rate * self.penalties.l1)

    def _followed(self, positive: Phase) -> tuple[Tensor, Tensor] | None:
        """Move the offsets and the mean activity towards a batch's means; return what sparsity pulls at.

        These are the mean visible units of the batch, and by how much the mean activity exceeds the target.
        """
        target = self.penalties.sparsity_target
        if self.centre is None and target is None:
            return None
        v, h = distributed.means(positive.share, positive.visible.mean(0), positive.hidden_mean.mean(0))
        if self.centre is not None:
            offsets, rate = self.centre
            offsets.visible.lerp_(v, rate)
            offsets.hidden.lerp_(h, rate)
        if target is None:
            return None
        self.activity = h if self.activity is None else self.activity.lerp_(h, _MEMORY)
        return v, self.activity - float(target)  # a whole number may be too large for a tensor


def _without(module: nn.Module, names: Collection[str]) -> None:
    """Leave out the buffers that are not among these names, as before they were first filled."""
    for prefix, part in module.named_modules():
        for name in part._buffers:
            if f"{prefix}.{name}".lstrip(".") not in names:
                part._buffers[name] = None


def _in_one_piece(parameters: Mapping[str, Tensor], like: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """Zeros of the shapes of some parameters, as one vector and as parts of it by their names."""
    sizes = [value.numel() for value in parameters.values()]
    flat = like.new_zeros(sum(sizes))
    return flat, {
        name: part.view_as(parameters[name])
        for name, part in zip(parameters, torch.split(flat, sizes) if sizes else (), strict=True)
    }
