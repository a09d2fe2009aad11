"""L1, largest norms, sparse activities and clipped gradients, each against its formula."""

import math

import pytest
import torch

from dbn import CD, DBN, PCD, NoisyReLU, ParallelTempering, train
from dbn.gradient import gradient, phase
from dbn.rbm import RBM
from dbn.training import RBMUpdate, TrainOptions
from tests.support.oracles import generator, machine, rows

RATE = 0.1


@torch.no_grad()
def step_with(rbm, x, momentum=0.0, **penalties):
    """Parameters after one step of CD of means, in which nothing is drawn, and the gradient that it followed."""
    estimator = CD(1, mean_field=True)
    positive = phase(rbm, x)
    slopes = gradient(rbm, positive, estimator.negative(rbm, positive, None))
    learner = RBMUpdate(rbm, estimator, None, None, TrainOptions(epochs=0, weight_decay=0.0, **penalties))
    before = {name: value.clone() for name, value in rbm.named_parameters()}
    learner.step(x, RATE, momentum)
    return before, slopes, learner


def lesson():
    rbm = machine("bernoulli", "bernoulli", scale=1.0, seed=2)
    return rbm, rows(rbm.visible, 10)


def test_l1_moves_weights_alone_by_their_sign():
    rbm, x = lesson()
    before, slopes, _ = step_with(rbm, x, l1=0.3)
    moved = before["weight"] + RATE * (slopes["weight"] - 0.3 * before["weight"].sign())
    torch.testing.assert_close(rbm.weight.detach(), moved)
    torch.testing.assert_close(rbm.hidden_bias.detach(), before["hidden_bias"] + RATE * slopes["hidden_bias"])


def test_no_hidden_unit_has_a_larger_norm_and_the_others_are_left():
    rbm, x = lesson()
    before, slopes, _ = step_with(rbm, x, max_norm=1.2)
    free = before["weight"] + RATE * slopes["weight"]
    norms = free.norm(dim=0)
    assert bool((norms > 1.2).any())
    assert bool((norms < 1.2).any())
    torch.testing.assert_close(rbm.weight.detach(), free * (1.2 / norms).clamp(max=1))


def test_sparsity_pulls_biases_and_weights_by_the_excess_of_activity():
    rbm, x = lesson()
    activity = rbm.mean_hidden(x).mean(0).detach()
    before, slopes, learner = step_with(rbm, x, sparsity_target=0.05, sparsity_cost=2.0)
    pull = RATE * 2.0 * (activity - 0.05)
    torch.testing.assert_close(rbm.hidden_bias.detach(), before["hidden_bias"] + RATE * slopes["hidden_bias"] - pull)
    expected = before["weight"] + RATE * slopes["weight"] - torch.outer(x.mean(0), pull)
    torch.testing.assert_close(rbm.weight.detach(), expected)
    learner.step(x, 0.0, 0.0)
    torch.testing.assert_close(learner.activity, activity.lerp(rbm.mean_hidden(x).mean(0).detach(), 0.1))


def test_sparse_training_ends_near_its_target():
    def activity(target):
        rbm, x = RBM(8, 20, seed=0), (torch.rand(500, 8, generator=generator()) < 0.5).float()
        train(rbm, x, epochs=30, sparsity_target=target, sparsity_cost=1.0, progress=False, seed=0)
        return float(rbm.mean_hidden(x).detach().mean())

    assert activity(0.1) == pytest.approx(0.1, abs=0.03)
    assert activity(None) > 0.3


@pytest.mark.parametrize("limit", [0.05, 100.0])
def test_a_clipped_gradient_keeps_its_direction_and_a_small_one_itself(limit):
    rbm, x = lesson()
    before, slopes, learner = step_with(rbm, x, clip=limit)
    norm = math.sqrt(sum(float(slope.square().sum()) for slope in slopes.values()))
    for name, value in rbm.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] + RATE * min(1, limit / norm) * slopes[name])
    first = {name: increment.clone() for name, increment in learner.velocity.items()}
    learner.step(x, 0.0, 0.5)
    for name, increment in learner.velocity.items():
        torch.testing.assert_close(increment, 0.5 * first[name])


@pytest.mark.parametrize("estimator", [CD(2), PCD(10), ParallelTempering(10, 3)], ids=str)
def test_each_composes_with_each_in_training_and_in_stacks(estimator):
    x = torch.rand(60, 6, generator=generator())
    everything = {"l1": 1e-4, "max_norm": 2.0, "sparsity_target": 0.2, "clip": 1.0, "centring": 0.01, "average_from": 1}
    stack = DBN([6, 5, 4], seed=0)
    stack.pretrain(x, epochs=2, estimator=estimator, binarise="sample", progress=False, seed=0, **everything)
    for rbm in stack.layers:
        assert all(bool(value.isfinite().all()) for value in rbm.parameters())
        assert float(rbm.weight.detach().norm(dim=0).max()) <= 2.0 + 1e-6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"l1": -1.0}, ValueError, "l1 is -1"),
        ({"max_norm": 0.0}, ValueError, "max_norm is 0"),
        ({"clip": math.nan}, ValueError, "clip is nan"),
        ({"clip": "hard"}, TypeError, "clip is 'hard'"),
        ({"sparsity_cost": -0.1}, ValueError, "sparsity_cost is -0.1"),
        ({"sparsity_target": "few"}, TypeError, "sparsity_target is 'few'"),
        ({"sparsity_target": 1.5}, ValueError, r"sparsity_target is 1.5, but Bernoulli\(4\) have means in 0..1"),
        ({"sparsity_target": math.nan}, ValueError, "sparsity_target is nan"),
    ],
)
def test_wrong_penalties_are_named_before_anything_changes(arguments, error, message):
    rbm = RBM(6, 4, seed=0)
    before = rbm.weight.detach().clone()
    with pytest.raises(error, match=message):
        train(rbm, torch.zeros(10, 6), epochs=1, progress=False, **arguments)
    with pytest.raises(error, match=message):
        DBN([6, 4, 4]).pretrain(torch.zeros(10, 6), epochs=1, progress=False, **arguments)
    assert torch.equal(rbm.weight, before)


def test_a_target_beyond_64_bits_is_the_float_that_it_is():
    machines = [RBM(6, NoisyReLU(4), seed=0) for _ in range(2)]
    for rbm, target in zip(machines, (2**70, 2.0**70), strict=True):
        train(rbm, torch.ones(20, 6), epochs=1, sparsity_target=target, sparsity_cost=1e-19, progress=False, seed=0)
    assert torch.equal(machines[0].hidden_bias, machines[1].hidden_bias)
    assert bool((machines[0].hidden_bias > 1).all())


def test_real_hidden_units_have_targets_in_their_own_range():
    rbm = RBM(6, NoisyReLU(4), seed=0)
    train(rbm, torch.rand(20, 6), epochs=1, sparsity_target=0.3, progress=False, seed=0)
    with pytest.raises(ValueError, match="sparsity_target is -1"):
        train(rbm, torch.rand(20, 6), epochs=1, sparsity_target=-1.0, progress=False)


def test_frozen_weights_stay_as_they_are():
    rbm = RBM(6, 4, weight_scale=3.0, seed=0)
    rbm.weight.requires_grad_(False)
    before = rbm.weight.clone()
    train(rbm, torch.rand(20, 6), epochs=1, max_norm=0.1, l1=0.1, sparsity_target=0.1, clip=1.0, progress=False, seed=0)
    assert torch.equal(rbm.weight, before)
