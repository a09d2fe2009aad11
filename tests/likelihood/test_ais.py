"""Annealed importance sampling against exact log Z, from every base."""

import importlib
import itertools
import math

import pytest
import torch

from dbn import Bernoulli, NoisyReLU, ais, exact_log_partition, log_likelihood, reverse_ais
from dbn.rbm import RBM
from tests.support.oracles import (
    HALF_ENUMERABLE_PAIRS,
    brute_log_partition,
    generator,
    machine,
    standard_error,
    visible_probabilities,
)

annealing = importlib.import_module("dbn.likelihood.ais")  # the package has a function of that name

CHAINS = 400


@pytest.mark.parametrize(("visible", "hidden"), HALF_ENUMERABLE_PAIRS)
def test_it_agrees_with_enumeration_for_every_pair(visible, hidden):
    rbm = machine(visible, hidden, scale=0.5 if "relu" not in (visible, hidden) else 0.3, seed=3)
    estimate = ais(rbm, chains=CHAINS, temperatures=30, progress=False, seed=0)
    assert estimate.value == pytest.approx(float(brute_log_partition(rbm)), abs=5 * standard_error(estimate))
    assert estimate.low <= estimate.value <= estimate.high
    assert 1 <= estimate.ess <= CHAINS


@pytest.mark.parametrize("base", ["visible_bias", "zeros", torch.tensor([1.0, -1.0, 0.5])])
def test_every_base_gives_the_same_partition_function(base):
    rbm = machine("bernoulli", "spin", scale=1.0, seed=1)
    estimate = ais(rbm, chains=2000, temperatures=200, base=base, progress=False, seed=0)
    assert estimate.value == pytest.approx(float(exact_log_partition(rbm)), abs=5 * standard_error(estimate))
    assert estimate.base == (base if isinstance(base, str) else "given")


@pytest.mark.parametrize(("visible", "hidden"), HALF_ENUMERABLE_PAIRS)
def test_without_weights_the_own_base_is_exact_with_no_variance(visible, hidden):
    rbm = machine(visible, hidden)
    with torch.no_grad():
        rbm.weight.zero_()
    estimate = ais(rbm, chains=20, temperatures=5, progress=False, seed=0)
    assert estimate.value == pytest.approx(float(brute_log_partition(rbm)), abs=1e-6)
    assert estimate.ess == pytest.approx(20)


def test_the_mean_weight_is_unbiased_even_at_few_temperatures_and_a_late_weight_is_not():
    rbm = machine(Bernoulli(5).double(), Bernoulli(4).double(), scale=1.5, seed=2)
    exact = float(exact_log_partition(rbm))
    estimate = ais(rbm, chains=20_000, temperatures=3, progress=False, seed=0)
    assert estimate.value == pytest.approx(exact, abs=5 * standard_error(estimate))
    late = late_weights(rbm, chains=20_000, temperatures=3)
    error = float((late - late.max()).exp().std() / (late - late.max()).exp().mean()) / math.sqrt(len(late))
    assert abs(float(late.logsumexp(0)) - math.log(len(late)) - exact) > 5 * error


@torch.no_grad()
def late_weights(rbm, chains, temperatures):
    """Broken: each weight is taken after the transition that already left its distribution."""
    betas = torch.linspace(0, 1, temperatures + 1, dtype=torch.float64).tolist()
    draw = generator()
    b = rbm.visible_bias
    v = rbm.visible.sample(b.expand(chains, -1), generator=draw)
    log_weights = rbm.visible.log_partition(b) + rbm.hidden.log_partition(torch.zeros_like(rbm.hidden_bias))
    for beta, following in itertools.pairwise(betas):
        h = rbm.hidden.sample(following * rbm.hidden_field(v), generator=draw)
        v = rbm.visible.sample(b + following * h @ rbm.weight.t(), generator=draw)
        field = rbm.hidden_field(v)
        gain = rbm.hidden.log_partition(following * field) - rbm.hidden.log_partition(beta * field)
        log_weights = log_weights + gain
    return log_weights


def test_log_likelihood_takes_the_estimate_and_a_ladder_may_be_given():
    rbm = machine("bernoulli", "bernoulli", seed=4)
    betas = torch.tensor([0.0, 0.5, 0.9, 1.0])
    estimate = ais(rbm, chains=10, temperatures=betas, progress=False, seed=0)
    assert estimate.temperatures == 3
    x = torch.ones(2, 3, dtype=torch.float64)
    assert torch.equal(log_likelihood(rbm, x, estimate), log_likelihood(rbm, x, estimate.value))


def test_little_memory_runs_the_chains_in_parts_with_the_same_answer():
    rbm = machine("bernoulli", "spin", scale=1.0, seed=1)
    exact = float(exact_log_partition(rbm))
    parts = annealing._parts(rbm, 1000, 10_000)
    assert sum(parts) == 1000
    assert len(parts) > 10
    assert 4 * parts[0] * (3 + 2) * 8 <= 10_000
    assert annealing._parts(rbm, 3, 1) == [1, 1, 1]
    few = ais(rbm, chains=1000, temperatures=50, memory=10_000, progress=False, seed=0)
    assert few.value == pytest.approx(exact, abs=5 * standard_error(few))
    assert few.chains == 1000
    samples = visible_probabilities(rbm)[0].repeat(50, 1)
    back = [reverse_ais(rbm, samples, temperatures=5, memory=m, progress=False, seed=0) for m in (2**30, 5000)]
    assert back[0].chains == back[1].chains == 400
    with pytest.raises(ValueError, match="memory is 0"):
        ais(rbm, memory=0)


def test_a_seed_decides_and_the_global_generator_is_untouched():
    rbm = machine("bernoulli", "bernoulli", scale=1.0)
    before = torch.get_rng_state()
    first, again, other = (ais(rbm, chains=10, temperatures=10, progress=False, seed=seed) for seed in (0, 0, 1))
    assert first == again != other
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"chains": 0}, "chains is 0"),
        ({"temperatures": 0}, "temperatures is 0"),
        ({"temperatures": torch.tensor([0.0, 0.5])}, "temperatures must rise from 0 to 1"),
        ({"temperatures": torch.tensor([0.0, 0.5, 0.5, 1.0])}, "temperatures must rise from 0 to 1"),
        ({"base": "mean"}, "base is 'mean'"),
        ({"base": torch.zeros(4)}, "base has shape"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ais(machine("bernoulli", "bernoulli"), progress=False, **arguments)


def test_units_without_an_energy_are_refused():
    with pytest.raises(TypeError, match="NoisyReLU"):
        ais(RBM(3, NoisyReLU(2)), chains=2, temperatures=2, progress=False)
