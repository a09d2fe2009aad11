"""Forward and reverse AIS bracket the exact log Z, and the verdict says when they do not agree."""

import importlib
import math

import pytest
import torch

from dbn import CD, RBM, LogPartition, ais, bracket, datasets, exact_log_partition, reverse_ais, train
from dbn.likelihood.bracket import verdict
from tests.support.oracles import (
    ENUMERABLE,
    ENUMERABLE_PAIRS,
    brute_log_partition,
    generator,
    machine,
    rows,
    two_modes,
    visible_probabilities,
)
from tests.support.selection import slow_but_for

annealing = importlib.import_module("dbn.likelihood.ais")  # the package has a function of that name


def exact_samples(rbm, n):
    """Visible rows drawn by enumeration."""
    states, p = visible_probabilities(rbm)
    return states[torch.multinomial(p, n, replacement=True, generator=generator(5))]


def log_weights(rbm, v, betas, seed=0):
    own = rbm.visible_bias.detach()
    with torch.no_grad():
        return annealing._annealed(rbm, v, own, betas, generator(seed), False, "")


@pytest.mark.parametrize("pair", ENUMERABLE_PAIRS)
def test_single_chains_are_too_low_forwards_and_too_high_backwards_on_average(pair):
    rbm, chains = machine(*pair, scale=1.0, seed=3), 4000
    exact, own = float(brute_log_partition(rbm)), rbm.visible_bias.detach()
    start = annealing._log_partition_of_base(rbm, own)
    betas = [0.0, 0.3, 0.6, 1.0]
    with torch.no_grad():
        v = rbm.visible.sample(own.expand(chains, -1), generator=generator(1))
    forward = start + log_weights(rbm, v, betas)
    backward = start - log_weights(rbm, exact_samples(rbm, chains), betas[::-1])
    slack = 5 * float(forward.std() + backward.std()) / math.sqrt(chains)
    assert float(forward.mean()) <= exact + slack
    assert float(backward.mean()) >= exact - slack
    assert float(backward.mean() - forward.mean()) > 0


@pytest.mark.parametrize("pair", slow_but_for(zip(ENUMERABLE, reversed(ENUMERABLE), strict=True), ENUMERABLE_PAIRS))
def test_both_are_within_a_twentieth_of_a_nat_on_trained_machines(pair):
    rbm = machine(*pair, scale=0.3, seed=1)
    settings = {"epochs": 20, "learning_rate": 0.1, "progress": False, "seed": 0}
    train(rbm, rows(rbm.visible, 200)[:150], **settings)
    exact = float(exact_log_partition(rbm))
    assert ais(rbm, chains=1000, temperatures=100, progress=False, seed=0).value == pytest.approx(exact, abs=0.05)
    reverse = reverse_ais(rbm, exact_samples(rbm, 1000), temperatures=100, progress=False, seed=0)
    assert reverse.value == pytest.approx(exact, abs=0.05)
    assert reverse.low <= reverse.value <= reverse.high
    found = bracket(rbm, rows(rbm.visible, 50), chains=500, temperatures=100, gibbs_steps=100, progress=False, seed=0)
    assert found.value == float(found) == pytest.approx(exact, abs=0.1)
    assert (found.trusted, found.doubts) == (True, ())


def test_chains_in_one_of_two_modes_make_the_reverse_estimate_too_low():
    rbm = two_modes()
    exact = float(exact_log_partition(rbm))
    low = torch.zeros(500, 8, dtype=torch.float64)
    stuck = reverse_ais(rbm, low, temperatures=200, progress=False, seed=0)
    assert stuck.value < exact - 0.4
    assert reverse_ais(rbm, exact_samples(rbm, 500), temperatures=200, progress=False, seed=0).value > exact - 0.1


def estimate(value, ess=50.0, base="zeros"):
    return LogPartition(value, value - 0.1, value + 0.1, ess, base, 100, 1000)


def test_the_largest_estimate_that_is_heard_counts():
    found = verdict((estimate(10.0), estimate(10.5), estimate(99.0, ess=1.2)), estimate(10.7))
    assert (found.value, found.trusted, found.doubts) == (10.5, True, ())


@pytest.mark.parametrize(
    ("forward", "reverse", "trusted", "doubt"),
    [
        ([estimate(460.0, base="data_mean"), estimate(505.0)], 505.5, True, "45.0 nats below that from zeros, though"),
        ([estimate(500.0), estimate(500.5)], 510.0, False, "9.5 nats above"),
        ([estimate(500.0), estimate(500.5)], 490.0, False, "10.5 nats below"),
        ([estimate(500.0, ess=2.0)], 500.0, False, "use more temperatures or more chains"),
    ],
)
def test_the_verdict_names_what_disagrees(forward, reverse, trusted, doubt):
    found = verdict(tuple(forward), estimate(reverse))
    assert found.trusted is trusted
    assert doubt in found.doubts[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"samples": torch.zeros(3, 9)}, "samples has 9 columns"), ({"temperatures": 0}, "temperatures is 0")],
)
def test_wrong_arguments_are_named(arguments, message):
    rbm = machine("bernoulli", "bernoulli")
    with pytest.raises(ValueError, match=message):
        reverse_ais(rbm, **{"samples": torch.zeros(3, 3), "progress": False, **arguments})


def test_samples_and_data_are_left_as_they_are():
    rbm = machine("bernoulli", "spin")
    data = rows(rbm.visible, 20)
    before = data.clone()
    reverse_ais(rbm, data, temperatures=5, progress=False, seed=0)
    bracket(rbm, data, chains=20, temperatures=5, gibbs_steps=2, progress=False, seed=0)
    assert torch.equal(data, before)
    with pytest.raises(ValueError, match="data lies in"):
        bracket(rbm, data + 5, progress=False)


@pytest.mark.slow
def test_the_verdict_reports_bases_that_agree_tens_of_nats_too_low():
    pixels = datasets.load("mnist-sample").train.x
    rbm, estimator = RBM(784, 256, seed=0), CD(1, sample_visible=True)
    train(rbm, pixels, epochs=60, estimator=estimator, initialise_bias=False, progress=False, seed=0)
    binary = (pixels > 0.5).float()
    found = bracket(rbm, binary, temperatures=1000, gibbs_steps=300, progress=False, seed=0)
    of = {estimate.base: estimate for estimate in found.forward}
    assert abs(of["visible_bias"].value - of["zeros"].value) < 1
    assert min(of["visible_bias"].ess, of["zeros"].ess) > 40
    assert found.value == of["data_mean"].value > of["zeros"].value + 30
    for base in ("visible_bias", "zeros"):
        assert any(f"log Z from {base} is" in doubt and "flatter the model" in doubt for doubt in found.doubts)
