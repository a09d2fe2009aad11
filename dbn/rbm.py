"""The restricted Boltzmann machine: weights and biases that build fields for two layers of units."""

import copy
import math
from os import PathLike
from typing import Any, Self

import torch
from torch import Generator, Tensor, nn

from dbn.history import DivergenceError
from dbn.normalisability import Normalisability, normalisability, surely_improper
from dbn.runtime import checkpoint
from dbn.runtime.checks import (
    as_generator,
    as_rows,
    check_finite,
    check_instance,
    check_precision,
    finite_number,
    whole_number,
)
from dbn.units import Unit, as_unit, from_config, rebuildable_config

_LARGE = 100.0  # values of a chain, from which on a look at the RBM is worth its price


class RBM(nn.Module):
    """A restricted Boltzmann machine between two layers of any units.

    −E(v, h) = log_base(v) + log_base(h) + b·v + c·h + vᵀWh, so that each layer given the other is its exponential
    family at a field: η_h = c + Wᵀv, η_v = b + Wh.

    An RBM's own functions check shapes and leave values alone, for speed: rows that are not finite, or so large that
    products of two numbers are not, give answers that are not. What learns from data, or judges them, refuses them.

    Source: G. Hinton (2002), Training products of experts by minimizing contrastive divergence; M. Welling,
    M. Rosen-Zvi, G. Hinton (2005), Exponential family harmoniums.

    Args:
        visible: the visible units; a number n means Bernoulli(n).
        hidden: the hidden units, likewise.
        weight_scale: standard deviation of the first weights (Hinton 2010 advises 0.01).
        generator: draws the first weights.
        seed: a number to seed a generator with, instead of `generator`.

    Raises:
        TypeError: if `visible` or `hidden` is no unit and no number.
        ValueError: if a layer is empty.

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
        # What an RBM learns of its units is its own, also if units are named for two layers or RBMs.
        self.visible = copy.deepcopy(as_unit(visible, "visible"))
        self.hidden = copy.deepcopy(as_unit(hidden, "hidden"))
        like = torch.empty(0, dtype=torch.get_default_dtype(), device=torch.get_default_device())
        weight = like.new_empty(self.visible.size, self.hidden.size)
        spread = finite_number(weight_scale, "weight_scale")
        weight.normal_(0, spread, generator=as_generator(generator, seed, weight.device))
        self.weight = nn.Parameter(weight)
        self.visible_bias = nn.Parameter(like.new_zeros(self.visible.size))
        self.hidden_bias = nn.Parameter(like.new_zeros(self.hidden.size))

    @property
    def has_energy(self) -> bool:
        """Whether both layers have an energy, without which there is no likelihood."""
        return self.visible.has_energy and self.hidden.has_energy

    def normalisable(self) -> Normalisability:
        """Whether Z = ∫∫ exp(−E(v, h)) dv dh is finite, without which the RBM has no distribution.

        It always is if one side is bounded. With Gaussian units on both sides it is exactly if Γ_v − W Γ_h⁻¹ Wᵀ is
        positive definite, which the margin tells in units without dimension. With ReLU units the margin is a
        sufficient condition, and the verdict looks further.

        Returns:
            The verdict and the margin; see `Normalisability`.

        Raises:
            TypeError: if a layer's units have no energy.

        Example:
            >>> from dbn import Gaussian
            >>> rbm = RBM(Gaussian(2), Gaussian(1), weight_scale=0)
            >>> rbm.normalisable()
            Normalisability(verdict=True, margin=1.0)
            >>> _ = rbm.weight.data.fill_(0.8)  # 1 − 2 · 0.8² is below 0
            >>> bool(rbm.normalisable())
            False
        """
        self.free_energy(torch.zeros_like(self.visible_bias)[None])  # units without an energy refuse, by name
        return normalisability(self.visible.tails(), self.hidden.tails(), self.weight)

    def energy(self, v: Tensor, h: Tensor) -> Tensor:
        """E(v, h) = −log_base(v) − log_base(h) − b·v − c·h − vᵀWh, in nats.

        Args:
            v: visible rows (n, V).
            h: hidden rows (n, H).

        Raises:
            TypeError: if a layer's units have no energy.
            ValueError: if a width is not the layer's, or the rows of v and h cannot be paired.

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
            TypeError: if a layer's units have no energy.
            ValueError: if the width is not V.

        Example:
            >>> RBM(2, 3, weight_scale=0).free_energy(torch.ones(1, 2))
            tensor([-2.0794], grad_fn=<NegBackward0>)

        Not a log-likelihood: two RBMs have different Z, so their free energies cannot be compared.
        """
        v = self._visible_rows(v)
        return -(self.visible.log_base(v) + v @ self.visible_bias + self.hidden.log_partition(self.hidden_field(v)))

    def hidden_free_energy(self, h: Tensor) -> Tensor:
        """F(h) = −log ∫ exp(−E(v, h)) dv = −log_base(h) − c·h − A(b + Wh), in nats: (n, H) -> (n,)."""
        h = self._hidden_rows(h)
        return -(self.hidden.log_base(h) + h @ self.hidden_bias + self.visible.log_partition(self.visible_field(h)))

    def hidden_field(self, v: Tensor, *, out: Tensor | None = None) -> Tensor:
        """η_h = c + Wᵀv: (n, V) -> (n, H), in `out` if given."""
        return torch.addmm(self.hidden_bias, self._visible_rows(v), self.weight, out=out)

    def visible_field(self, h: Tensor, *, out: Tensor | None = None) -> Tensor:
        """η_v = b + Wh: (n, H) -> (n, V), in `out` if given."""
        return torch.addmm(self.visible_bias, self._hidden_rows(h), self.weight.t(), out=out)

    def mean_hidden(self, v: Tensor) -> Tensor:
        """E[h | v], the mean of the hidden units at c + Wᵀv: (n, V) -> (n, H)."""
        return self.hidden.mean(self.hidden_field(v))

    def mean_visible(self, h: Tensor) -> Tensor:
        """E[v | h], the mean of the visible units at b + Wh: (n, H) -> (n, V)."""
        return self.visible.mean(self.visible_field(h))

    @torch.no_grad()
    def sample_hidden(self, v: Tensor, *, generator: Generator | None = None, seed: int | None = None) -> Tensor:
        """Draw h from p(h | v): (n, V) -> (n, H); a ValueError if v is not finite."""
        check_finite(v := self._visible_rows(v), "v")
        return self.hidden.sample(self.hidden_field(v), generator=self._generator(generator, seed))

    @torch.no_grad()
    def sample_visible(self, h: Tensor, *, generator: Generator | None = None, seed: int | None = None) -> Tensor:
        """Draw v from p(v | h): (n, H) -> (n, V); a ValueError if h is not finite."""
        check_finite(h := self._hidden_rows(h), "h")
        return self.visible.sample(self.visible_field(h), generator=self._generator(generator, seed))

    def gibbs(
        self, v: Tensor, steps: int = 1, *, generator: Generator | None = None, seed: int | None = None
    ) -> Tensor:
        """Run block Gibbs sampling v → h → v, which leaves the RBM's distribution invariant.

        Source: S. Geman, D. Geman (1984), Stochastic relaxation, Gibbs distributions, and the Bayesian restoration
        of images.

        Args:
            v: visible rows (n, V), one chain a row.
            steps: number of v → h → v steps; 0 returns v.
            generator: draws all samples.
            seed: a number to seed a generator with, instead of `generator`.

        Raises:
            ValueError: if the width is not V, `v` is not finite or `steps` is negative.
            DivergenceError: if the chains leave the finite numbers, or grow and the RBM is not normalisable.

        Example:
            >>> RBM(4, 3, seed=0).gibbs(torch.zeros(2, 4), steps=10, seed=1).shape
            torch.Size([2, 4])

        Not a set of independent samples of the model until the chains have mixed, which RBMs with several
        separate modes do arbitrarily slowly.
        """
        steps, generator = whole_number(steps, "steps", at_least=0), self._generator(generator, seed)
        check_finite(v := self._visible_rows(v), "v")
        with torch.no_grad():
            for _ in range(steps):
                h = self.hidden.sample(self.hidden_field(v), generator=generator)
                v = self.visible.sample(self.visible_field(h), generator=generator)
        largest = max(float(bound.abs()) for bound in torch.aminmax(v.detach())) if v.numel() else 0.0
        if not math.isfinite(largest) or (largest > _LARGE and is_improper(self)):
            raise DivergenceError(f"v grew to {largest:.3g} within {steps} Gibbs steps: {self._without_distribution()}")
        return v

    def reconstruct(self, v: Tensor) -> Tensor:
        """E[v | h = E[h | v]], the mean-field reconstruction: (n, V) -> (n, V)."""
        return self.mean_visible(self.mean_hidden(v))

    def save(self, path: str | PathLike[str]) -> None:
        """Write units and parameters to one file, atomically; `RBM.load` reads it without running code.

        Raises:
            ValueError: if units of your own could not be built again from their `config()`.
        """
        units = [rebuildable_config(self.visible, "visible"), rebuildable_config(self.hidden, "hidden")]
        checkpoint.save(path, {"kind": "RBM", "units": units, "state": self.state_dict()})

    @classmethod
    def load(cls, path: str | PathLike[str]) -> Self:
        """Read what `save` wrote, onto the CPU. Classes of units of your own must have been defined before.

        Raises:
            ValueError: if the file holds something else, is damaged, or names units that are not known.
        """
        saved = checkpoint.load(path, kind="RBM")
        with torch.device("cpu"):
            rbm = cls(*(from_config(config) for config in saved["units"]), seed=0)
        rbm.to(saved["state"]["weight"].dtype).load_state_dict(saved["state"])
        return rbm

    def extra_repr(self) -> str:
        return f"{self.visible.size} visible, {self.hidden.size} hidden"

    def _without_distribution(self) -> str:
        return (
            f"{self.visible} and {self.hidden} have no distribution with weights this large (see RBM.normalisable); "
            "train at a lower learning rate, or give bounded units such as Bernoulli on one side"
        )

    def _visible_rows(self, v: Tensor) -> Tensor:
        return as_rows(v, self.visible.size, like=self.weight, name="v")

    def _hidden_rows(self, h: Tensor) -> Tensor:
        return as_rows(h, self.hidden.size, like=self.weight, name="h")

    def _generator(self, generator: Generator | None, seed: int | None) -> Generator | None:
        return as_generator(generator, seed, self.weight.device)


def is_improper(rbm: RBM) -> bool:
    """Whether the RBM is proven not to be normalisable, as far as that is cheap."""
    return rbm.has_energy and surely_improper(rbm.visible.tails(), rbm.hidden.tails(), rbm.weight)


def check_rbm(rbm: Any, name: str = "rbm") -> None:
    """Raise an error if `rbm` has no likelihood.

    Raises:
        TypeError: if it is no RBM, its units have no energy, or its parameters are in half precision.
        ValueError: if it is known not to be normalisable.
    """
    check_instance(rbm, RBM, name, "an RBM, such as RBM(784, 20)")
    check_precision(rbm.weight, name)
    found = rbm.normalisable()
    if found.verdict is False:
        raise ValueError(
            f"{name} is not normalisable: with these weights log Z of {rbm.visible} × {rbm.hidden} is infinite (margin "
            f"{found.margin:.3g}; see RBM.normalisable): give smaller weights, by weight_scale or a lower learning "
            "rate, or bounded units such as Bernoulli on one side"
        )
