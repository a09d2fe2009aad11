"""Pseudo-likelihood and the variational bound of stacks, against enumeration."""

import math

import pytest
import torch

from dbn import DBN, Bernoulli, Gaussian, NoisyReLU, exact_log_partition, lower_bound, pseudo_log_likelihood
from dbn.rbm import RBM
from tests.support.oracles import ENUMERABLE_PAIRS, machine, stack_of, visible_probabilities
from tests.support.selection import slow_but_for

VARIABLES = {
    "bernoulli": [[0], [1], [2]],
    "spin": [[0], [1]],
    "categorical": [[0, 1, 2]],
    "groups": [[0, 1, 2], [3, 4, 5]],
    "labels": [[0], [1], [2, 3, 4]],
}


@pytest.mark.parametrize("pair", ENUMERABLE_PAIRS)
def test_pseudo_likelihood_is_the_sum_of_the_conditionals(pair):
    rbm = machine(*pair, scale=1.0)
    states, p = visible_probabilities(rbm)
    expected = torch.zeros(len(states), dtype=torch.float64)
    for columns in VARIABLES[pair[0]]:
        others = [column for column in range(rbm.visible.size) if column not in columns]
        alike = (states[:, None, others] == states[None, :, others]).all(-1).double()
        expected += (p / (alike @ p)).log()
    torch.testing.assert_close(pseudo_log_likelihood(rbm, states), expected)


def test_a_part_of_the_variables_estimates_all_without_bias():
    rbm = machine("labels", "bernoulli", scale=1.0)
    states, _ = visible_probabilities(rbm)
    exact = pseudo_log_likelihood(rbm, states)
    parts = torch.stack([pseudo_log_likelihood(rbm, states, variables=1, seed=seed) for seed in range(300)])
    assert len(parts.unique(dim=0)) == 3  # two columns and a group of labels
    assert bool(((parts.mean(0) - exact).abs() <= 5 * parts.std(0) / 300**0.5).all())
    torch.testing.assert_close(pseudo_log_likelihood(rbm, states, variables=3, seed=0), exact)
    with pytest.raises(ValueError, match="variables is 4, but the visible units have 3"):
        pseudo_log_likelihood(rbm, states, variables=4)


def test_probabilities_and_real_units_have_no_pseudo_likelihood():
    with pytest.raises(ValueError, match=r"x has rows that are no states of Bernoulli\(3\)"):
        pseudo_log_likelihood(machine("bernoulli", "bernoulli"), torch.tensor([[0.0, 1.0, 0.5]]))
    with pytest.raises(TypeError, match="infinitely many states"):
        pseudo_log_likelihood(machine("gaussian", "bernoulli"), torch.zeros(1, 2))
    with pytest.raises(TypeError, match="NoisyReLU"):
        pseudo_log_likelihood(RBM(3, NoisyReLU(2)), torch.zeros(1, 3))


@torch.no_grad()
def log_probability(rbm, v, h):
    """log p(v | h) and log Q(h | v) of all pairs of rows: two tensors (rows of v, rows of h)."""
    pairs = torch.cartesian_prod(torch.arange(len(v)), torch.arange(len(h)))
    v, h = v[pairs[:, 0]], h[pairs[:, 1]]
    joint = -rbm.energy(v, h)
    down, up = joint + rbm.hidden_free_energy(h), joint + rbm.free_energy(v)
    return down, up


@torch.no_grad()
def exact_and_bound(stack):
    """log p(v) of every visible state of a stack of two RBMs, and its exact variational bound."""
    low, top = stack.layers
    states = low.visible.states(torch.arange(low.visible.cardinality))
    hidden, log_p = visible_probabilities(top)[0], visible_probabilities(top)[1].log()
    down, up = (table.view(len(states), len(hidden)) for table in log_probability(low, states, hidden))
    q = up.exp()
    return states, (down + log_p).logsumexp(1), (q * (down + log_p - up)).sum(1)


@pytest.mark.parametrize("pair", slow_but_for([("labels", "bernoulli")], ENUMERABLE_PAIRS))
def test_the_bound_equals_enumeration_and_lies_below_the_likelihood(pair):
    stack = stack_of(*pair, "bernoulli")
    states, exact, bound = exact_and_bound(stack)
    assert bool((bound <= exact + 1e-12).all())
    log_z = exact_log_partition(stack.layers[-1])
    blocks = torch.stack([lower_bound(stack, states, log_z, samples=100, seed=seed) for seed in range(30)])
    error = blocks.std(0) / math.sqrt(len(blocks))
    assert bool(((blocks.mean(0) - bound).abs() <= 5 * error + 1e-9).all())


def test_a_stack_that_starts_transposed_is_its_first_machine_and_its_bound_is_tight():
    stack = DBN([Bernoulli(4), Bernoulli(3), Bernoulli(4)]).double()
    low, top = stack.layers
    low.load_state_dict(machine(low.visible, low.hidden, scale=1.0, seed=2).state_dict())
    with torch.no_grad():
        top.weight.copy_(low.weight.t())
        top.visible_bias.copy_(low.hidden_bias)
        top.hidden_bias.copy_(low.visible_bias)
    states, p = visible_probabilities(low)
    found = lower_bound(stack, states, exact_log_partition(top), samples=1, seed=0)
    torch.testing.assert_close(found, p.log(), rtol=0, atol=1e-12)


def test_real_layers_have_a_bound_too_and_deep_stacks():
    stack = stack_of("gaussian", "spin", "labels", "bernoulli", scale=0.3)
    log_z = exact_log_partition(stack.layers[-1])
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = lower_bound(stack, x, log_z, samples=200, seed=1)
    assert found.shape == (5,)
    assert bool(found.isfinite().all())
    assert torch.equal(found, lower_bound(stack, x, log_z, samples=200, seed=1))
    with pytest.raises(ValueError, match="samples is 0"):
        lower_bound(stack, x, log_z, samples=0)


def test_a_stack_of_one_machine_has_its_likelihood_as_the_bound():
    stack = DBN([Gaussian(2), Bernoulli(3)], seed=0).double()
    log_z = exact_log_partition(stack.layers[0])
    x = torch.ones(2, 2, dtype=torch.float64)
    torch.testing.assert_close(
        lower_bound(stack, x, log_z, samples=2), -stack.layers[0].free_energy(x).detach() - log_z
    )
