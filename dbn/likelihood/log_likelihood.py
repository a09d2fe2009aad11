"""How probable data are: exactly up to log Z, one unit given the others, or bounded from below in a stack."""

from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass
from typing import Any, Protocol

import numpy as np
import torch
from torch import Generator, Tensor, nn

from dbn.likelihood.ais import LogPartition, ais, ladder
from dbn.likelihood.bracket import Bracket
from dbn.likelihood.exact import in_double
from dbn.rbm import RBM, check_rbm
from dbn.runtime.checks import (
    as_generator,
    as_rows,
    as_tensor,
    check_finite,
    finite_number,
    flattened,
    whole_number,
)
from dbn.units import Unit

_CHUNK = 8192  # rows in memory in float64 at once


class Stack(Protocol):
    """Anything with RBMs, bottom first, such as a DBN."""

    @property
    def layers(self) -> Sequence[RBM]: ...


@torch.no_grad()
def log_likelihood(rbm: RBM, x: Tensor, log_partition: LogPartition | Bracket | Tensor | float) -> Tensor:
    """log p(x) = −F(x) − log Z, in nats a row; a log-density if visible units are real.

    Args:
        rbm: an RBM with an energy.
        x: visible rows (n, V).
        log_partition: log Z of this RBM as it is now, in nats.

    Returns:
        (n,), in float64.

    Raises:
        TypeError: if `rbm` is no RBM, units have no energy, or parameters are in half precision.
        ValueError: if the RBM is not normalisable, the width of x is not V, or rows lie outside the support.

    Example:
        >>> from dbn import exact_log_partition
        >>> rbm = RBM(3, 2, weight_scale=0)
        >>> log_likelihood(rbm, torch.ones(1, 3), exact_log_partition(rbm)).exp()
        tensor([0.1250], dtype=torch.float64)

    No better than log Z is: an estimate of log Z that is too low makes every row look too probable.
    """
    check_rbm(rbm)
    log_z, exact = _log_z(log_partition), in_double(rbm)
    rows = _data(exact, x)
    free_energy = torch.cat([exact.free_energy(part) for part in torch.split(rows, _CHUNK)])
    return -free_energy - log_z


@dataclass(frozen=True, eq=False)
class score_by_ais:
    """A function of an RBM that estimates its mean log-likelihood of rows held back, for `EarlyStopping`.

    Args:
        held_back: visible rows (n, V): of validation, never of the test set.
        chains, temperatures: as for `ais`, from the RBM's own visible biases.
        seed: draws the chains, the same at every call, so that scores of one run differ by the RBM and not by luck.

    Example:
        >>> round(score_by_ais(torch.ones(4, 3), temperatures=5)(RBM(3, 2, weight_scale=0)), 4)
        -2.0794

    Too high on average, as AIS is; look at the weights it chose with `bracket`.
    """

    held_back: Tensor
    _: KW_ONLY
    chains: int = 100
    temperatures: int = 1000
    seed: int = 0

    def __post_init__(self) -> None:
        whole_number(self.chains, "chains")
        ladder(self.temperatures)
        whole_number(self.seed, "seed", at_least=0)
        rows = flattened(as_tensor(self.held_back, "held_back"), "held_back")
        if not rows.numel():
            raise ValueError("held_back is empty: give at least one row")
        check_finite(rows, "held_back")
        object.__setattr__(self, "held_back", rows)

    def __call__(self, rbm: RBM) -> float:
        """The mean log-likelihood of the rows, in nats."""
        log_z = ais(rbm, chains=self.chains, temperatures=self.temperatures, progress=False, seed=self.seed)
        return float(log_likelihood(rbm, self.held_back, log_z).mean())


@torch.no_grad()
def pseudo_log_likelihood(
    rbm: RBM,
    x: Tensor,
    *,
    variables: int | None = None,
    generator: Generator | None = None,
    seed: int | None = None,
) -> Tensor:
    """Σ_i log p(x_i | all other columns), in nats a row, which needs no log Z.

    For binary units log p(x_i | x_−i) = log σ(F(x with i flipped) − F(x)); for one-hot groups likewise over all
    classes. The field of the hidden units moves with a column by its row of W, so a column costs no matrix product.

    Source: J. Besag (1975), Statistical analysis of non-lattice data.

    Args:
        rbm: an RBM with an energy whose visible units have finitely many states.
        x: visible rows (n, V), of states and not of probabilities.
        variables: sum over this number of columns (or one-hot groups) alone, drawn without replacement and the same for
            all rows, times their number over this: an unbiased estimate of the sum over all, which is the default.
        generator: draws them.
        seed: a number to seed a generator with, instead of `generator`.

    Returns:
        (n,), in float64.

    Raises:
        TypeError: if `rbm` is no RBM, units have no energy, or visible units infinitely many states.
        ValueError: if the width of x is not V, rows are not states of the visible units, or there are fewer
            variables.

    Example:
        >>> pseudo_log_likelihood(RBM(3, 2, weight_scale=0), torch.ones(1, 3)).exp()
        tensor([0.1250], dtype=torch.float64)

    Not a likelihood: it is too high by what the columns tell of each other, and can rise while the likelihood falls.
    """
    check_rbm(rbm)
    exact = in_double(rbm)
    units, rows = exact.visible, _data(exact, x)
    field, total = exact.hidden_field(rows), rows.new_zeros(len(rows))
    places = _drawn(units.variables, variables, as_generator(generator, seed, rows.device), rows.device)
    for place in places:
        columns, states = units.variable(place)
        scores, matches = [], []
        for state in states.to(rows.device):  # the base measure of finitely many states is 1
            change = state - rows[:, columns]
            moved = torch.addmm(field, change, exact.weight[columns])
            matches.append((change == 0).all(-1))
            scores.append(change @ exact.visible_bias[columns] + exact.hidden.log_partition(moved))
        own = torch.stack(matches, 1)
        if not bool(own.any(1).all()):
            raise ValueError(f"x has rows that are no states of {rbm.visible}: threshold or sample probabilities first")
        total += torch.stack(scores, 1).log_softmax(1)[own]
    return total * (units.variables / len(places))


def _drawn(count: int, wanted: int | None, generator: Generator | None, device: torch.device) -> list[int]:
    """All numbers below `count`, or as many of them as are wanted."""
    if wanted is None:
        return list(range(count))
    if whole_number(wanted, "variables") > count:
        raise ValueError(f"variables is {wanted}, but the visible units have {count}: give at most so many")
    places: list[int] = torch.randperm(count, generator=generator, device=device)[:wanted].tolist()
    return places


@torch.no_grad()
def lower_bound(
    stack: Stack,
    x: Tensor,
    log_partition: LogPartition | Bracket | Tensor | float,
    *,
    samples: int = 100,
    generator: Generator | None = None,
    seed: int | None = None,
) -> Tensor:
    """The variational lower bound on a stack's log p(x), in nats a row, estimated from samples of Q.

    log p(x) ≥ E_Q[Σ_k log p(h_{k−1} | h_k) + log p*(h_top)] − log Z_top + H(Q), with h_0 = x, Q(h_k | h_{k−1}) the
    upward conditional of the k-th RBM, p(h_{k−1} | h_k) its downward one, and p* = exp(−F) of the top RBM.

    Source: R. Salakhutdinov, I. Murray (2008), On the quantitative analysis of deep belief networks.

    Args:
        stack: a DBN, whose RBMs all have an energy.
        x: visible rows (n, V).
        log_partition: log Z of the top RBM, in nats.
        samples: samples of Q a row, whose mean is taken.
        generator: draws the samples.
        seed: a number to seed a generator with, instead of `generator`.

    Returns:
        (n,), in float64: an unbiased estimate of the bound.

    Raises:
        TypeError: if `stack` has no RBMs, or an RBM no energy.
        ValueError: if the top RBM is not normalisable, the width of x is not V, or rows lie outside the support.

    Example:
        >>> from dbn import DBN, exact_log_partition
        >>> stack = DBN([3, 2, 2], weight_scale=0)
        >>> lower_bound(stack, torch.ones(1, 3), exact_log_partition(stack.layers[-1]), seed=0).exp()
        tensor([0.1250], dtype=torch.float64)

    No better than log Z_top is, and below log p(x) by the divergence of Q from the true posterior, which may be many
    nats: a stack with a lower bound need not be the worse model.
    """
    layers = _layers_of(stack)
    check_rbm(layers[-1], "the top RBM of stack")
    log_z, (*below, top) = _log_z(log_partition), [in_double(rbm) for rbm in layers]
    bottom = below[0] if below else top
    rows = _data(bottom, x)
    generator = as_generator(generator, seed, top.weight.device)
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    for _ in range(whole_number(samples, "samples")):
        low = rows
        for rbm in below:
            field = rbm.hidden_field(low)
            high = rbm.hidden.sample(field, generator=generator)
            total += _log_probability(rbm.visible, low, rbm.visible_field(high))
            total -= _log_probability(rbm.hidden, high, field)
            low = high
        total -= top.free_energy(low)
    return total / samples - log_z


def _log_probability(units: Unit, x: Tensor, field: Tensor) -> Tensor:
    """log p(x | η) = log_base(x) + η·x − A(η): (n, size) -> (n,)."""
    return units.log_base(x) + (field * x).sum(-1) - units.log_partition(field)


def _log_z(log_partition: Any) -> float:
    """log Z as a float, or an error if it is not one finite number."""
    value = log_partition
    if isinstance(value, LogPartition | Bracket):
        value = value.value
    elif isinstance(value, Tensor | np.ndarray):
        numbers = as_tensor(value, "log_partition")
        if numbers.numel() != 1:
            raise ValueError(f"log_partition has shape {tuple(numbers.shape)}: give one number, log Z in nats")
        value = numbers.item()
    return finite_number(value, "log_partition", signed=True)


def _layers_of(stack: Stack) -> Sequence[RBM]:
    """The RBMs of a stack, or a TypeError if it has none."""
    layers = getattr(stack, "layers", ())
    if not isinstance(layers, Sequence | nn.ModuleList) or not layers or not all(isinstance(m, RBM) for m in layers):
        raise TypeError(f"stack is a {type(stack).__name__}: give a DBN, or what has RBMs as its layers")
    return layers  # type: ignore[return-value]


def _data(rbm: RBM, x: Tensor) -> Tensor:
    rows = as_rows(x, rbm.visible.size, like=rbm.weight, name="x")
    check_finite(rows, "x")
    rbm.visible.constrain_data(rows, "x")
    return rows
