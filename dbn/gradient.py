"""The two phases of learning and the gradient from both, for all units and all estimators."""

import math
from typing import NamedTuple

import torch
from torch import Generator, Tensor

from dbn.rbm import RBM
from dbn.units import Unit

#: The parameters that build the fields; all others are the units' own.
OF_FIELDS = ("weight", "visible_bias", "hidden_bias")


class Phase(NamedTuple):
    """One phase of learning: visible rows (n, V), and the field and mean of the hidden layer given them (n, H).

    `visible_field` (n, V) is given if the visible rows are conditional means: it is their field. Only units with
    parameters of their own read it. `fraction` tells which part of the phase's rows are on this process.
    """

    visible: Tensor
    hidden_field: Tensor
    hidden_mean: Tensor
    visible_field: Tensor | None = None
    fraction: float = 1.0

    def sample_hidden(self, units: Unit, generator: Generator | None) -> Tensor:
        """Draw hidden states (n, H) of these units given the visible rows."""
        mean = self.hidden_mean if units.draws_from_mean else None
        return units.sample(self.hidden_field, mean=mean, generator=generator)


class Buffers(NamedTuple):
    """Buffers that a phase may be written to; it allocates what is None."""

    visible: Tensor | None = None
    hidden_field: Tensor | None = None
    hidden_mean: Tensor | None = None


NO_BUFFERS = Buffers()


def phase(rbm: RBM, v: Tensor, *, visible_field: Tensor | None = None, buffers: Buffers = NO_BUFFERS) -> Phase:
    """The phase of learning at visible rows.

    Args:
        rbm: the RBM.
        v: visible rows (n, V).
        visible_field: (n, V), if v are the conditional means at this field.
        buffers: what field and mean are written to.

    Example:
        >>> phase(RBM(3, 2, seed=0), torch.ones(4, 3)).hidden_mean.shape
        torch.Size([4, 2])
    """
    field = rbm.hidden_field(v, out=buffers.hidden_field)
    return Phase(v, field, rbm.hidden.mean(field, out=buffers.hidden_mean), visible_field)


def mean_phase(rbm: RBM, h: Tensor, *, buffers: Buffers = NO_BUFFERS) -> Phase:
    """The phase of learning at the conditional means E[v | h] of hidden rows h (n, H)."""
    field = rbm.visible_field(h, out=buffers.visible)
    if not rbm.visible.learned_parameters():
        return phase(rbm, rbm.visible.mean(field, out=field), buffers=buffers)
    return phase(rbm, rbm.visible.mean(field), visible_field=field, buffers=buffers)


class PhaseBuffers:
    """Adjoining buffers for the two phases of a step: the rows of the data, then those of the model.

    Args:
        rbm: whose phases these are.
        data: number of rows of the data.
        model: number of rows of the model.
    """

    def __init__(self, rbm: RBM, data: int, model: int) -> None:
        visible, hidden = rbm.weight.shape
        both = [rbm.weight.new_empty(data + model, width) for width in (visible, hidden, hidden)]
        self.visible, _, self.hidden_mean = both
        self.positive, self.negative = (
            Buffers(*(rows[:data] for rows in both)),
            Buffers(*(rows[data:] for rows in both)),
        )
        self.data, self.model, self.fractions = data, model, (math.nan, math.nan)
        self.weights = rbm.weight.new_ones(data + model)

    def set_weights(self, of_data: float, of_model: float) -> None:
        """Set the weights of the rows from the fraction of each phase that is on this process.

        A row of the data has weight 1, or 0 if it is padding, a row of the model −`ratio`; the sum is scaled by
        `front`.
        """
        if (of_data, of_model) == self.fractions:
            return
        self.fractions = of_data, of_model
        self.front = of_data / self.data if of_data else 1.0
        self.ratio = of_model / (self.model * self.front)
        self.weights[: self.data] = 1.0 if of_data else 0.0
        self.weights[self.data :] = -self.ratio

    def copy_in(self, positive: Phase, negative: Phase) -> None:
        """Copy what was not written here."""
        for one, buffers in ((positive, self.positive), (negative, self.negative)):
            for values, buffer in ((one.visible, buffers.visible), (one.hidden_mean, buffers.hidden_mean)):
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
    buffers: PhaseBuffers,
    scale: float,
    keep: float,
    offsets: Offsets | None = None,
) -> None:
    """`into` ← `keep` · `into` + `scale` · (mean ∂(−F)/∂θ at the data − mean ∂(−F)/∂θ at the model), for every θ there.

    ∂(−F)/∂W = v E[h|v]ᵀ, ∂(−F)/∂b = v, ∂(−F)/∂c = E[h|v] hold for every pair of units, so both phases of every
    estimator come through here, as one product of their stacked rows.

    With offsets μ, λ it is the gradient of a centred RBM, in the parameters of this one:
    dW = ⟨(v − μ)(h − λ)ᵀ⟩_data − ⟨(v − μ)(h − λ)ᵀ⟩_model, db = ⟨v⟩_data − ⟨v⟩_model − dW λ,
    dc = ⟨h⟩_data − ⟨h⟩_model − dWᵀ μ. Another direction of ascent of the same likelihood, which does not depend on
    which value of a binary unit is called 1.

    Source: G. Montavon, K.-R. Müller (2012), Deep Boltzmann machines and the centering trick; J. Melchior, A. Fischer,
    L. Wiskott (2016), How to center deep Boltzmann machines.

    Args:
        rbm: the RBM.
        into: parameter names, as in `rbm.named_parameters()`, to the tensors that are added to in place.
        positive: the phase at the data; its gradient is the mean over its rows. On several processes each has its
            fraction of the gradient, and all fractions add up.
        negative: the phase at the model, likewise.
        buffers: for as many rows as the phases have. Their contents are overwritten, phases included that were
            written there.
        scale: the factor of the gradient, such as the learning rate.
        keep: the factor of what `into` held before, such as the momentum.
        offsets: the centre, or None for the plain gradient.
    """
    of_data, of_model = _own_gradient(rbm, positive), _own_gradient(rbm, negative)
    for name in of_data.keys() & into.keys():
        into[name].mul_(keep).add_(positive.fraction * of_data[name] - negative.fraction * of_model[name], alpha=scale)
    buffers.copy_in(positive, negative)
    buffers.set_weights(positive.fraction, negative.fraction)
    v, h, rate = buffers.visible, buffers.hidden_mean, scale * buffers.front
    if "visible_bias" in into:
        into["visible_bias"].addmv_(v.t(), buffers.weights, beta=keep, alpha=rate)
    if "hidden_bias" in into:
        into["hidden_bias"].addmv_(h.t(), buffers.weights, beta=keep, alpha=rate)
    if "weight" not in into:
        return
    if offsets is not None:
        v.sub_(offsets.visible)
        h.sub_(offsets.hidden)
    if not positive.fraction:
        h[: buffers.data].zero_()
    h[buffers.data :].mul_(-buffers.ratio)
    into["weight"].addmm_(v.t(), h, beta=keep, alpha=rate)
    if offsets is not None:
        if "visible_bias" in into:
            into["visible_bias"].addmv_(v.t(), h @ offsets.hidden, alpha=-rate)
        if "hidden_bias" in into:
            into["hidden_bias"].addmv_(h.t(), v @ offsets.visible, alpha=-rate)


def _own_gradient(rbm: RBM, one: Phase) -> dict[str, Tensor]:
    """Mean ∂log_base/∂θ of the parameters that the units have themselves, by their names in the RBM."""
    sides = {
        "visible": rbm.visible.own_gradient(one.visible, field=one.visible_field),
        "hidden": rbm.hidden.own_gradient(one.hidden_mean, field=one.hidden_field),
    }
    return {f"{side}.{name}": value for side, values in sides.items() for name, value in values.items()}


@torch.no_grad()
def check_learnable(rbm: RBM, name: str = "rbm") -> None:
    """Raise a ValueError if a parameter requires a gradient, but no phase of learning gives it one."""
    free = {name for name, value in rbm.named_parameters() if value.requires_grad} - {*OF_FIELDS}
    if not free:
        return
    means = mean_phase(rbm, rbm.hidden.mean(rbm.hidden_bias)[None])
    moved = [_own_gradient(rbm, one).keys() for one in (means, means._replace(visible_field=None))]
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
        rbm: the RBM.
        positive: the phase at data rows.
        negative: the phase at the model's rows, of any number.

    Returns:
        Parameter names to gradients of the parameters' shapes.

    Example:
        >>> rbm = RBM(3, 2, seed=0)
        >>> data, model = phase(rbm, torch.ones(4, 3)), phase(rbm, torch.zeros(5, 3))
        >>> gradient(rbm, data, model)["visible_bias"]
        tensor([1., 1., 1.])

    Unbiased only if the negative rows are samples of the model; after CD-k they are not.
    """
    into = {name: torch.zeros_like(value) for name, value in rbm.named_parameters() if value.requires_grad}
    buffers = PhaseBuffers(rbm, len(positive.visible), len(negative.visible))
    add_gradient(rbm, into, positive, negative, buffers, scale=1.0, keep=0.0)
    return into
