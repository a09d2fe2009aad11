"""Rates, momenta and reconstructions that suit units and estimator where none are given."""

import importlib

import pytest
import torch

from dbn import (
    CD,
    DBN,
    PCD,
    RBM,
    Bernoulli,
    DivergenceError,
    FastPCD,
    Gaussian,
    NoisyReLU,
    ParallelTempering,
    ReLU,
    Spin,
    train,
)
from dbn.training import RBMUpdate, TrainOptions
from tests.support.oracles import generator, rows

QUIET = {"progress": False, "seed": 0}


def rates(rbm, estimator, epochs=4, **options):
    """The learning rate and momentum of every step, as the learner is given them."""
    seen = []

    class Noted(RBMUpdate):
        def step(self, v, learning_rate, momentum, fraction):
            seen.append((learning_rate, momentum))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(importlib.import_module("dbn.training.train"), "RBMUpdate", Noted)
        train(
            rbm,
            rows(rbm.visible, 20).to(rbm.weight),
            epochs=epochs,
            batch_size=10,
            estimator=estimator,
            **options,
            **QUIET,
        )
    return seen


CHAINED = [PCD(5), FastPCD(5), ParallelTempering(5, 3)]
UNITS = {
    "bernoulli": lambda: Bernoulli(6),
    "gaussian": lambda: Gaussian(6),
    "relu": lambda: ReLU(6),
    "spin": lambda: Spin(6),
}
#: What suits CD, and the first rate that suits persistent chains.
SUITED = {
    ("bernoulli", "bernoulli"): (0.1, 0.2),
    ("bernoulli", "relu"): (0.01, 0.02),
    ("bernoulli", "gaussian"): (0.003, 0.006),
    ("gaussian", "bernoulli"): (0.003, 0.05),
    ("relu", "bernoulli"): (0.01, 0.05),
    ("gaussian", "gaussian"): (0.003, 0.006),
    ("gaussian", "spin"): (0.003 / 4, 0.05 / 4),
    ("spin", "spin"): (0.1 / 16, 0.2 / 16),
}


@pytest.mark.parametrize("estimator", [None, CD(1), *CHAINED], ids=str)
@pytest.mark.parametrize("pair", SUITED)
def test_rates_and_momenta_suit_units_and_estimator(pair, estimator):
    seen = rates(RBM(*(UNITS[side]() for side in pair)), estimator, epochs=8)
    of_cd, of_chains = SUITED[pair]
    epochs = [step / 2 for step in range(16)]
    if estimator in CHAINED:
        expected = [(of_chains * min(1, 2 - 2 * epoch / 8), 0.0) for epoch in epochs]
    else:
        expected = [(of_cd, 0.5 if epoch < 5 else 0.9) for epoch in epochs]
    torch.testing.assert_close(torch.tensor(seen), torch.tensor(expected))


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.95, lambda epoch: 0.9 if epoch >= 2 else 0.0])
@pytest.mark.parametrize("estimator", [CD(1), PCD(5)], ids=str)
def test_a_suited_rate_keeps_the_effective_rate_whatever_the_momentum(estimator, momentum):
    suited = rates(RBM(6, 4), estimator, epochs=8)
    other = rates(RBM(6, 4), estimator, epochs=8, momentum=momentum)
    effective = [[rate / (1 - kept) for rate, kept in seen] for seen in (suited, other)]
    assert effective[0] == pytest.approx(effective[1])
    assert (suited == other) == (isinstance(estimator, PCD) and momentum == 0)


def test_rates_that_are_given_are_taken_as_they_are():
    assert rates(RBM(6, 4), PCD(5), learning_rate=0.3) == [(0.3, 0.0)] * 8
    assert rates(RBM(6, 4), PCD(5), learning_rate=0.3, momentum=0.7) == [(0.3, 0.7)] * 8


def test_a_stack_trains_every_layer_as_suits_its_estimator():
    data = torch.rand(20, 6, generator=generator()).round()
    stack, alone = DBN([6, 4, 3], seed=0), RBM(6, 4, seed=0)
    alone.load_state_dict(stack.layers[0].state_dict())
    stack.pretrain(data, epochs=3, batch_size=10, estimator=[PCD(5), CD(1)], **QUIET)
    train(alone, data, epochs=3, batch_size=10, estimator=PCD(5), **QUIET)
    assert torch.equal(stack.layers[0].weight, alone.weight)


@pytest.mark.parametrize("momentum", [1.0, 1.5])
def test_no_rate_suits_a_momentum_of_one(momentum):
    with pytest.raises(ValueError, match=f"momentum is {momentum:g}, which no learning rate suits"):
        train(RBM(3, 2), torch.ones(4, 3), epochs=1, momentum=momentum, **QUIET)


def test_a_recipe_says_which_momentum_is_used():
    assert TrainOptions(epochs=7).config()["momentum"] == {**dict.fromkeys("01234", 0.5), "5": 0.9, "6": 0.9}
    assert TrainOptions(epochs=7, estimator=PCD(5)).config()["momentum"] == dict.fromkeys("0123456", 0.0)
    assert TrainOptions(epochs=7, estimator=PCD(5), momentum=0.3).config()["momentum"] == dict.fromkeys("0123456", 0.3)


@pytest.mark.parametrize("hidden", [ReLU(3), Gaussian(3)], ids=str)
def test_reconstructions_of_unbounded_units_are_samples_or_weights_grow_out_of_nothing(hidden):
    """Columns are independent, so that the best weights are zero; means leave out the variance of v, and grow."""
    data = (torch.rand(1000, 10, generator=generator()) < 0.3).float()
    norms = []
    for sampled in (None, False):
        rbm = RBM(10, hidden, seed=0)
        estimator = CD(1, sample_visible=sampled)
        norms.append(train(rbm, data, epochs=30, learning_rate=0.02, estimator=estimator, **QUIET).last["weight_norm"])
    assert norms[0] < 0.3 * norms[1]


@pytest.mark.parametrize("hidden", [Bernoulli(3), Spin(3), NoisyReLU(3)], ids=str)
def test_other_reconstructions_are_means_as_in_hintons_recipe(hidden):
    assert not CD(1).samples_visible(RBM(6, hidden))
    assert CD(1, sample_visible=True).samples_visible(RBM(6, hidden))
    assert not CD(1, mean_field=True).samples_visible(RBM(6, ReLU(3)))


@pytest.mark.slow
def test_real_units_on_both_sides_keep_a_distribution_by_the_defaults():
    """The smallest eigenvalue of γ_v − W Wᵀ stays positive; with reconstructions of means it does not."""
    draw = generator(3)
    loadings = 0.6 * torch.randn(10, 3, generator=draw)
    data = torch.randn(3000, 3, generator=draw) @ loadings.t() + torch.randn(3000, 10, generator=draw) * 0.7
    data = (data - data.mean(0)) / data.std(0)

    def trained(estimator):
        rbm = RBM(Gaussian(10, learned=True), Gaussian(3), seed=0)
        return train(rbm, data, epochs=60, estimator=estimator, **QUIET)

    for estimator in (CD(1), PCD(100)):
        assert min(trained(estimator)["normalisable_margin"]) > 0.05
    with pytest.raises(DivergenceError, match="lost its distribution"):
        trained(CD(1, sample_visible=False))
