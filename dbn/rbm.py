"""The restricted Boltzmann machine: weights and biases that build fields for two layers of units."""

import copy
import math
from os import PathLike
from typing import NamedTuple, Self

import torch
from torch import Generator, Tensor, nn

from dbn import checkpoint
from dbn.arguments import as_generator, as_rows, finite_number, whole_number
from dbn.history import DivergenceError
from dbn.units import Unit, as_unit, from_config


class Phase(NamedTuple):
    """What one phase of learning knows: visible rows, and the hidden layer given them.

    `visible_is_mean` tells visible values that stand for a conditional mean from values that were seen or sampled.
    `share` tells what part of all rows of the phase they are, where other processes have the others.
    """

    visible: Tensor
    hidden_field: Tensor
    hidden_mean: Tensor
    visible_is_mean: bool = False
    share: float = 1.0


class Room(NamedTuple):
    """Buffers that a phase may be written to; what has none is allocated."""

    visible: Tensor | None = None
    hidden_field: Tensor | None = None
    hidden_mean: Tensor | None = None


ANYWHERE = Room()


class RBM(nn.Module):
    """A restricted Boltzmann machine between two layers of any units.

    −E(v, h) = log_base(v) + log_base(h) + b·v + c·h + vᵀWh, so that each layer given the other is its exponential
    family at a field: η_h = c + Wᵀv, η_v = b + Wh.

    A machine's own functions check shapes and leave values alone, for speed: rows that are not finite, or so large that
    products of two numbers are not, give answers that are not. What learns from data, or judges them, refuses them.

    Source: G. Hinton (2002), Training products of experts by minimizing contrastive divergence; M. Welling,
    M. Rosen-Zvi, G. Hinton (2005), Exponential family harmoniums.

    Args:
        visible: the visible units; a number n means Bernoulli(n).
        hidden: the hidden units, likewise.
        weight_scale: standard deviation of the first weights (Hinton 2010 advises 0.01).
        generator: draws the first weights.
        seed: likewise, as a number.

    Raises:
        TypeError: where `visible` or `hidden` is no unit and no number.
        ValueError: where a layer is empty.

    Example:
        >>> rbm = RBM(6, 4, seed=0)
        >>> rbm.sample_hidden(torch.ones(3, 6), seed=1).shape
        torch.Size([3, 4])
    """

    visible: Unit
    hidden: Unit

    def __init__(
        self,
        visible: int | Unit,
        hidden: int | Unit,
        *,
        weight_scale: float = 0.01,
        generator: Generator | None = None,
        seed: int | None = None,
    ) -> None:
        super().__init__()
        # What a machine learns of its units is its own, also where units are named for two layers or machines.
        self.visible = copy.deepcopy(as_unit(visible, "visible"))
        self.hidden = copy.deepcopy(as_unit(hidden, "hidden"))
        weight = torch.empty(self.visible.size, self.hidden.size)
        spread = finite_number(weight_scale, "weight_scale")
        weight.normal_(0, spread, generator=as_generator(generator, seed, weight.device))
        self.weight = nn.Parameter(weight)
        self.visible_bias = nn.Parameter(torch.zeros(self.visible.size))
        self.hidden_bias = nn.Parameter(torch.zeros(self.hidden.size))

    @property
    def has_energy(self) -> bool:
        """Whether both layers have an energy, and so the machine a likelihood."""
        return self.visible.has_energy and self.hidden.has_energy

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h) = −log_base(v) − log_base(h) − b·v − c·h − vᵀWh, in nats.

        Args:
            v: visible rows (n, V).
            h: hidden rows (n, H).

        Raises:
            TypeError: where a layer's units have no energy.
            ValueError: where a width is not the layer's, or the rows of v and h cannot be paired.

        Example:
            >>> RBM(2, 1, weight_scale=0).energy(torch.ones(1, 2), torch.ones(1, 1)).tolist()
            [-0.0]
        """
        v, h = self._visible_rows(v), self._hidden_rows(h)
        if len(v) != len(h) and 1 not in (len(v), len(h)):
            raise ValueError(f"h has {len(h)} rows, but v has {len(v)}: give as many of both, or one row of either")
        bases = self.visible.log_base(v) + self.hidden.log_base(h)
        return -(bases + v @ self.visible_bias + (self.hidden_field(v) * h).sum(-1))

    def free_energy(self, v: Tensor) -> Tensor:
        """F(v) = −log ∫ exp(−E(v, h)) dh = −log_base(v) − b·v − A(c + Wᵀv), in nats; p(v) = exp(−F(v))/Z.

        Args:
            v: visible rows (n, V).

        Raises:
            TypeError: where a layer's units have no energy.
            ValueError: where the width is not V.

        Example:
            >>> RBM(2, 3, weight_scale=0).free_energy(torch.ones(1, 2))
            tensor([-2.0794], grad_fn=<NegBackward0>)

        Not a log-likelihood: two machines have different Z, so their free energies cannot be compared.
        """
        v = self._visible_rows(v)
        return -(self.visible.log_base(v) + v @ self.visible_bias + self.hidden.log_partition(self.hidden_field(v)))

    def hidden_free_energy(self, h: Tensor) -> Tensor:
        """F(h) = −log ∫ exp(−E(v, h)) dv = −log_base(h) − c·h − A(b + Wh), in nats: (n, H) -> (n,)."""
        h = self._hidden_rows(h)
        return -(self.hidden.log_base(h) + h @ self.hidden_bias + self.visible.log_partition(self.visible_field(h)))

    def hidden_field(self, v: Tensor, *, out: Tensor | None = None) -> Tensor:
        """η_h = c + Wᵀv: (n, V) -> (n, H), in `out` where one is given."""
        return torch.addmm(self.hidden_bias, self._visible_rows(v), self.weight, out=out)

    def visible_field(self, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        """η_v = b + Wh: (n, H) -> (n, V), in `out` where one is given."""
        return torch.addmm(self.visible_bias, self._hidden_rows(h), self.weight.t(), out=out)

    def mean_hidden(self, v: Tensor) -> Tensor:
        """E[h | v], the mean of the hidden units at c + Wᵀv: (n, V) -> (n, H)."""
        return self.hidden.mean(self.hidden_field(v))

    def mean_visible(self, h: Tensor) -> Tensor:
        """E[v | h], the mean of the visible units at b + Wh: (n, H) -> (n, V)."""
        return self.visible.mean(self.visible_field(h))

    @torch.no_grad()
    def sample_hidden(self, v: Tensor, *, generator: Generator | None = None, seed: int | None = None) -> Tensor:
        """Draw h from p(h | v): (n, V) -> (n, H)."""
        return self.hidden.sample(self.hidden_field(v), generator=self._generator(generator, seed))

    @torch.no_grad()
    def sample_visible(self, h: Tensor, *, generator: Generator | None = None, seed: int | None = None) -> Tensor:
        """Draw v from p(v | h): (n, H) -> (n, V)."""
        return self.visible.sample(self.visible_field(h), generator=self._generator(generator, seed))

    def gibbs(
        self, v: Tensor, steps: int = 1, *, generator: Generator | None = None, seed: int | None = None
    ) -> Tensor:
        """Run block Gibbs sampling v → h → v, which leaves the machine's distribution invariant.

        Source: S. Geman, D. Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian restoration
        of images.

        Args:
            v: visible rows (n, V), one chain a row.
            steps: number of v → h → v steps; 0 returns v.
            generator: draws all samples.
            seed: likewise, as a number.

        Raises:
            ValueError: where the width is not V or `steps` is negative.
            DivergenceError: where finite rows end in others: real units with large weights have no distribution.

        Example:
            >>> RBM(4, 3, seed=0).gibbs(torch.zeros(2, 4), steps=10, seed=1).shape
            torch.Size([2, 4])

        Not a set of independent samples of the model until the chains have mixed, which machines with several
        separate modes do arbitrarily slowly.
        """
        steps, generator = whole_number(steps, "steps", at_least=0), self._generator(generator, seed)
        start = v = self._visible_rows(v)
        for _ in range(steps):
            v = self.sample_visible(self.sample_hidden(v, generator=generator), generator=generator)
        if not bool(v.isfinite().all()) and bool(start.isfinite().all()):
            raise DivergenceError(
                f"v left the finite numbers within {steps} Gibbs steps: {self.visible} and {self.hidden} have no "
                "distribution with weights this large; train with a lower learning rate, or bound one side"
            )
        return v

    def reconstruct(self, v: Tensor) -> Tensor:
        """E[v | h = E[h | v]], the mean-field reconstruction: (n, V) -> (n, V)."""
        return self.mean_visible(self.mean_hidden(v))

    def phase(self, v: Tensor, *, visible_is_mean: bool = False, room: Room = ANYWHERE) -> Phase:
        """The phase of learning at visible rows v (n, V), with field and mean in `room` where it has buffers."""
        field = self.hidden_field(v, out=room.hidden_field)
        return Phase(v, field, self.hidden.mean(field, out=room.hidden_mean), visible_is_mean)

    def save(self, path: str | PathLike[str]) -> None:
        """Write units and parameters to one file, atomically; `RBM.load` reads it without running code."""
        units = [self.visible.config(), self.hidden.config()]
        checkpoint.save(path, {"kind": "RBM", "units": units, "state": self.state_dict()})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote, onto the CPU.

        Raises:
            ValueError: where the file holds something else, or is damaged.
        """
        saved = checkpoint.load(path, kind="RBM")
        rbm = cls(*(from_config(config) for config in saved["units"]))
        rbm.to(saved["state"]["weight"].dtype).load_state_dict(saved["state"])
        return rbm

    def extra_repr(self) -> str:
        return f"{self.visible.size} visible, {self.hidden.size} hidden"

    def _visible_rows(self, v: Tensor) -> Tensor:
        return as_rows(v, self.visible.size, like=self.weight, name="v")

    def _hidden_rows(self, h: Tensor) -> Tensor:
        return as_rows(h, self.hidden.size, like=self.weight, name="h")

    def _generator(self, generator: Generator | None, seed: int | None) -> Generator | None:
        return as_generator(generator, seed, self.weight.device)


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
        "visible": rbm.visible.own_gradient(phase.visible, is_mean=phase.visible_is_mean),
        "hidden": rbm.hidden.own_gradient(phase.hidden_mean, is_mean=True),
    }
    return {f"{side}.{name}": value for side, values in sides.items() for name, value in values.items()}


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
