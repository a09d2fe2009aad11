"""Several processes have one likelihood between them, and one answer."""

import importlib

import pytest
import torch

from dbn import (
    NoisyReLU,
    ais,
    bracket,
    exact_log_partition,
    reverse_ais,
    train,
)
from dbn.rbm import RBM
from tests.support.oracles import machine, rows
from tests.support.ranks import QUIET, X, furthest, numbers

annealing = importlib.import_module("dbn.likelihood.ais")  # the package has a function of that name


def estimates(chains, temperatures):
    rbm = machine("bernoulli", "bernoulli", scale=1.0)
    data = rows(rbm.visible, 40)
    forward = ais(rbm, chains=chains, temperatures=temperatures, **QUIET)
    backward = reverse_ais(rbm, data, temperatures=temperatures, **QUIET)
    return forward, backward, bracket(rbm, data, chains=chains, temperatures=temperatures, gibbs_steps=5, **QUIET)


def test_annealing_on_two_processes_has_all_chains_and_the_same_answer_on_both(two):
    ours, theirs = two(estimates, 501, 50)
    assert ours == theirs
    forward, backward, both = ours
    exact = float(exact_log_partition(machine("bernoulli", "bernoulli", scale=1.0)))
    assert (forward.chains, backward.chains, both.reverse.chains) == (501, 40, 501)
    assert forward.low < exact < forward.high
    alone, *_ = estimates(501, 50)
    assert alone.low < forward.value < alone.high
    assert both.trusted


def weights_and_estimate(monkeypatch_name="_annealed"):
    """The log weights of this process's chains, and what all made of theirs."""
    kept, original = [], getattr(annealing, monkeypatch_name)

    def keeping(*arguments):
        kept.append(original(*arguments))
        return kept[-1]

    setattr(annealing, monkeypatch_name, keeping)
    try:
        found = ais(machine("spin", "bernoulli", scale=1.0), chains=11, temperatures=20, **QUIET)
    finally:
        setattr(annealing, monkeypatch_name, original)
    return torch.cat(kept), found


def test_log_weights_are_merged_exactly(three):
    found = three(weights_and_estimate)
    weights = torch.cat([own for own, _ in found])
    assert [len(own) for own, _ in found] == [4, 4, 3]
    estimate = found[0][1]
    base = annealing._log_partition_of_base(rbm := machine("spin", "bernoulli", scale=1.0), rbm.visible_bias.detach())
    assert estimate.value == pytest.approx(base + float(weights.logsumexp(0)) - float(torch.tensor(11.0).log()))
    assert estimate.ess == pytest.approx(float(weights.softmax(0).square().sum().reciprocal()))


def test_more_processes_than_chains_are_no_harm(three):
    assert three(estimates, 2, 5)[2][0].chains == 2


def test_units_without_an_energy_learn_on_several_processes(two):
    ours, theirs = two(noisy)
    assert furthest(ours, theirs) == 0
    assert furthest(ours, numbers(RBM(12, NoisyReLU(5), seed=0))) > 0


def noisy():
    rbm = RBM(12, NoisyReLU(5), seed=0)
    train(rbm, X, epochs=2, **QUIET)
    return numbers(rbm)
