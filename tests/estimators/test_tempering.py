"""Tempering crosses between modes that Gibbs sampling does not, and leaves every temperature invariant."""

import pytest
import torch

from dbn import PCD, NoisyReLU, ParallelTempering, train
from dbn.gradient import phase
from dbn.rbm import RBM
from tests.support.oracles import assert_distributed, draw, generator, machine, rows, two_modes, visible_probabilities


@torch.no_grad()
def prepared_at_half(estimator, rbm):
    """Started while the visible biases are zero, the field of a mean of a half."""
    bias = rbm.visible_bias.clone()
    rbm.visible_bias.zero_()
    estimator.prepare(rbm, generator(0))
    rbm.visible_bias.copy_(bias)


@torch.no_grad()
def share_above(estimator, steps=1000):
    """Share of the upper mode of two equal ones, in chains that start in the lower; the data's mean is a half."""
    rbm, draw_from, above = two_modes(), generator(1), []
    prepared_at_half(estimator, rbm)
    for name in ("visible", "hidden"):
        if getattr(estimator, name, None) is not None:
            getattr(estimator, name).zero_()
    positive = phase(rbm, torch.zeros(1, 8, dtype=torch.float64))
    for step in range(steps):
        v = estimator.negative(rbm, positive, draw_from).visible
        if step >= steps // 3:
            above.append((v.sum(1) > 4).double().mean())
    return float(torch.stack(above).mean())


class Uncoupled(ParallelTempering):
    """Broken: every exchange cancels in silence, which no test of stationarity sees."""

    def _exchanged(self, rbm, v, base, generator):
        super()._exchanged(rbm, v, base, generator)
        return v


@pytest.mark.slow
def test_tempering_finds_both_modes_and_gibbs_sampling_does_not():
    tempering = ParallelTempering(200, temperatures=8)
    assert share_above(tempering) == pytest.approx(0.5, abs=0.02)
    assert float(tempering.exchanges.min()) > 0.2
    assert share_above(PCD(200)) < 0.2
    assert share_above(Uncoupled(200, temperatures=8)) < 0.2


@torch.no_grad()
def after_one_step(estimator, rbm, n=40_000):
    """Rows of every temperature one step after exact draws from it, and the exact probabilities."""
    estimator.prepare(rbm, generator(0))
    laws = []
    for level, beta in enumerate(estimator.betas.tolist()):
        tempered = RBM(rbm.visible, rbm.hidden).double()
        tempered.weight.copy_(beta * rbm.weight)
        tempered.hidden_bias.copy_(beta * rbm.hidden_bias)
        tempered.visible_bias.copy_((1 - beta) * estimator.base + beta * rbm.visible_bias)
        laws.append(visible_probabilities(tempered))
        estimator.visible[level] = draw(*laws[-1], n, seed=level)
    estimator.negative(rbm, phase(rbm, rows(rbm.visible, 1)), generator(3))
    return [(estimator.visible[level], *law) for level, law in enumerate(laws)]


def machine_far_from_its_base(kind):
    rbm = machine(kind, "spin", scale=1.0, seed=2)
    estimator = ParallelTempering(40_000, temperatures=3, steps=2)
    prepared_at_half(estimator, rbm)
    return estimator, rbm


@pytest.mark.parametrize("kind", ["bernoulli", "spin", "groups", "labels"])
def test_every_temperature_is_left_invariant(kind):
    for found, points, p in after_one_step(*machine_far_from_its_base(kind)):
        assert_distributed(found, points, p)


def test_exchanges_that_are_always_taken_are_caught(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda shape, **_: torch.zeros(shape, dtype=torch.float64))
    found, points, p = after_one_step(*machine_far_from_its_base("bernoulli"))[-1]
    with pytest.raises(AssertionError):
        assert_distributed(found, points, p)


def test_the_ladder_moves_towards_equal_rates_of_exchange():
    rbm, estimator = machine("bernoulli", "bernoulli", scale=3.0, seed=1), ParallelTempering(500, temperatures=5)
    estimator.prepare(rbm, generator(0))
    betas = estimator.betas.clone()
    positive, spreads = phase(rbm, rows(rbm.visible, 1)), []
    for step in range(300):
        estimator.negative(rbm, positive, generator(step))
        spreads.append(float(estimator.exchanges.std()))
    assert not torch.equal(betas, estimator.betas)
    assert (float(estimator.betas[0]), float(estimator.betas[-1])) == (0.0, 1.0)
    assert bool((estimator.betas.diff() > 0).all())
    assert spreads[-1] < spreads[20]


def test_replicas_are_buffers_that_go_on():
    rbm, estimator = machine("bernoulli", "spin"), ParallelTempering(4, temperatures=3)
    with pytest.raises(RuntimeError, match="prepare"):
        estimator.negative(rbm, phase(rbm, rows(rbm.visible, 2)), None)
    train(rbm, rows(rbm.visible, 20), epochs=2, estimator=estimator, progress=False, seed=0)
    assert estimator.state_dict()["visible"].shape == (3, 4, 3)
    before = estimator.visible.clone()
    estimator.prepare(rbm, generator())
    assert torch.equal(estimator.visible, before)
    assert str(ParallelTempering(4, 3)) == "ParallelTempering(chains=4, temperatures=3, steps=1)"


@pytest.mark.parametrize(
    ("arguments", "message"), [({"temperatures": 1}, "temperatures is 1"), ({"chains": 0}, "chains is 0")]
)
def test_wrong_numbers_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        ParallelTempering(**arguments)


def test_units_without_an_energy_are_refused():
    with pytest.raises(TypeError, match="NoisyReLU"):
        ParallelTempering(4, 3).prepare(RBM(3, NoisyReLU(2)), None)
