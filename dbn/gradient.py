"""The gradient of the likelihood from two phases, for all units and all estimators."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from dbn.rbm import RBM, Phase, Room

#: The parameters that build the fields; all others are the units' own.
OF_FIELDS = ("weight", "visible_bias", "hidden_bias")


class Contrast:
    """The two phases of a step in buffers that adjoin, the data's rows above the model's.

    Args:
        rbm: the machine whose phases these are.
        data: number of rows of the data.
        model: number of rows of the model.
    """

    def __init__(self, rbm: RBM, data: int, model: int) -> None:
        visible, hidden = rbm.weight.shape
        buffers = [rbm.weight.new_empty(data + model, width) for width in (visible, hidden, hidden)]
        self.visible, _, self.hidden_mean = buffers
        self.above, self.below = Room(*(rows[:data] for rows in buffers)), Room(*(rows[data:] for rows in buffers))
        self.data, self.model, self.shares = data, model, (math.nan, math.nan)
        self.signs = rbm.weight.new_ones(data + model)

    def weigh(self, of_data: float, of_model: float) -> None:
        """Give each phase its own denominator, and the share of it that is here.

        The gradient has `front` before it, and in it 1 a row of the data, or 0 for rows that count nothing and are only
        there so that there are some, and −`ratio` a row of the model.
        """
        if (of_data, of_model) == self.shares:
            return
        self.shares = of_data, of_model
        self.front = of_data / self.data if of_data else 1.0
        self.ratio = of_model / (self.model * self.front)
        self.signs[: self.data] = 1.0 if of_data else 0.0
        self.signs[self.data :] = -self.ratio

    def hold(self, positive: Phase, negative: Phase) -> None:
        """Copy here what was not written here."""
        for phase, room in ((positive, self.above), (negative, self.below)):
            for values, buffer in ((phase.visible, room.visible), (phase.hidden_mean, room.hidden_mean)):
                if buffer is not None and values is not buffer:
                    buffer.copy_(values)


class Offsets(NamedTuple):
    """What the gradient of the weights is centred at: μ (V,) of the visible and λ (H,) of the hidden units."""

    visible: Tensor
    hidden: Tensor


def add_gradient(
    rbm: RBM,
    into: dict[str, Tensor],
    positive: Phase,
    negative: Phase,
    contrast: Contrast,
    scale: float,
    keep: float,
    offsets: Offsets | None = None,
) -> None:
    """`into` ← `keep` · `into` + `scale` · (mean ∂(−F)/∂θ at the data − mean ∂(−F)/∂θ at the model), for every θ there.

    ∂(−F)/∂W = v E[h|v]ᵀ, ∂(−F)/∂b = v, ∂(−F)/∂c = E[h|v] hold for every pair of units, so both phases of every
    estimator come through here, as one product of their stacked rows.

    With offsets μ, λ it is the gradient of a centred machine, in the parameters of this one:
    dW = ⟨(v − μ)(h − λ)ᵀ⟩_data − ⟨(v − μ)(h − λ)ᵀ⟩_model, db = ⟨v⟩_data − ⟨v⟩_model − dW λ,
    dc = ⟨h⟩_data − ⟨h⟩_model − dWᵀ μ. Another direction of ascent of the same likelihood, which does not depend on
    which value of a binary unit is called 1.

    Source: G. Montavon, K.-R. Müller (2012), Deep Boltzmann machines and the centering trick; J. Melchior, A. Fischer,
    L. Wiskott (2016), How to center deep Boltzmann machines.

    Args:
        rbm: the machine.
        into: parameter names, as in `rbm.named_parameters()`, to the tensors that are added to in place.
        positive: the phase at the data, divided by its own number of rows. Where it is a share of all rows, so is its
            gradient, and those of all processes add up.
        negative: the phase at the model, likewise.
        contrast: buffers for as many rows as the phases have. What it holds is used up, phases included that were
            written there.
        scale: the factor of the gradient, such as the learning rate.
        keep: the factor of what `into` held before, such as the momentum.
        offsets: the centre, or None for the plain gradient.
    """
    of_data, of_model = _own_gradient(rbm, positive), _own_gradient(rbm, negative)
    for name in of_data.keys() & into.keys():
        into[name].mul_(keep).add_(positive.share * of_data[name] - negative.share * of_model[name], alpha=scale)
    contrast.hold(positive, negative)
    contrast.weigh(positive.share, negative.share)
    v, h, share = contrast.visible, contrast.hidden_mean, scale * contrast.front
    if "visible_bias" in into:
        into["visible_bias"].addmv_(v.t(), contrast.signs, beta=keep, alpha=share)
    if "hidden_bias" in into:
        into["hidden_bias"].addmv_(h.t(), contrast.signs, beta=keep, alpha=share)
    if "weight" not in into:
        return
    if offsets is not None:
        v.sub_(offsets.visible)
        h.sub_(offsets.hidden)
    if not positive.share:
        h[: contrast.data].zero_()
    h[contrast.data :].mul_(-contrast.ratio)
    into["weight"].addmm_(v.t(), h, beta=keep, alpha=share)
    if offsets is not None:
        if "visible_bias" in into:
            into["visible_bias"].addmv_(v.t(), h @ offsets.hidden, alpha=-share)
        if "hidden_bias" in into:
            into["hidden_bias"].addmv_(h.t(), v @ offsets.visible, alpha=-share)


def _own_gradient(rbm: RBM, phase: Phase) -> dict[str, Tensor]:
    """Mean ∂log_base/∂θ of the parameters that the units have themselves, by their names in the machine."""
    sides = {
        "visible": rbm.visible.own_gradient(phase.visible, field=phase.visible_field),
        "hidden": rbm.hidden.own_gradient(phase.hidden_mean, field=phase.hidden_field),
    }
    return {f"{side}.{name}": value for side, values in sides.items() for name, value in values.items()}


@torch.no_grad()
def check_learnable(rbm: RBM, name: str = "rbm") -> None:
    """Raise a ValueError where a parameter requires a gradient, but no phase of learning gives it one."""
    free = {name for name, value in rbm.named_parameters() if value.requires_grad} - {*OF_FIELDS}
    if not free:
        return
    means = rbm.mean_phase(rbm.hidden.mean(rbm.hidden_bias)[None])
    moved = [_own_gradient(rbm, phase).keys() for phase in (means, means._replace(visible_field=None))]
    if left := sorted(free - (moved[0] & moved[1])):
        raise ValueError(
            f"{name} has the parameter {left[0]}, which requires a gradient that its units do not give: let log_base "
            "and log_partition depend on it, override own_gradient, or set requires_grad to False"
        )


@torch.no_grad()
def gradient(rbm: RBM, positive: Phase, negative: Phase) -> dict[str, Tensor]:
    """The (approximate) gradient of the mean log-likelihood: mean ∂(−F)/∂θ at the data minus that at the model.

    Source: G. Hinton (2002), Training products of experts by minimizing contrastive divergence.

    Args:
        rbm: the machine.
        positive: the phase at data rows.
        negative: the phase at the model's rows, of any number.

    Returns:
        Parameter names to gradients of the parameters' shapes.

    Example:
        >>> rbm = RBM(3, 2, seed=0)
        >>> data, dream = rbm.phase(torch.ones(4, 3)), rbm.phase(torch.zeros(5, 3))
        >>> gradient(rbm, data, dream)["visible_bias"]
        tensor([1., 1., 1.])

    Unbiased only where the negative rows are samples of the model; after CD-k they are not.
    """
    into = {name: torch.zeros_like(value) for name, value in rbm.named_parameters() if value.requires_grad}
    contrast = Contrast(rbm, len(positive.visible), len(negative.visible))
    add_gradient(rbm, into, positive, negative, contrast, scale=1.0, keep=0.0)
    return into
