"""Centred gradients, binary pixels, averaged weights, and rates that suit the units."""

import pytest
import torch

from dbn import CD, DBN, PCD, Bernoulli, Gaussian, Spin, exact_log_partition, log_likelihood, train
from dbn.gradient import Offsets, PhaseBuffers, add_gradient, phase
from dbn.rbm import RBM
from tests.support.oracles import PAIRS, draw, generator, machine, rows

QUIET = {"progress": False, "seed": 0}


def parameters(rbm):
    return {name: value.detach().clone() for name, value in rbm.named_parameters()}


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_the_centred_gradient_is_the_textbooks(pair):
    rbm = machine(*pair)
    data, dream = phase(rbm, rows(rbm.visible, 3)), phase(rbm, rows(rbm.visible, 5, seed=1))
    mu, lam = (
        torch.rand(units.size, generator=generator(7), dtype=torch.float64) for units in (rbm.visible, rbm.hidden)
    )
    into = {name: torch.ones_like(value) for name, value in rbm.named_parameters() if value.requires_grad}
    add_gradient(rbm, into, data, dream, PhaseBuffers(rbm, 3, 5), scale=2.0, keep=0.5, offsets=Offsets(mu, lam))

    def mean(statistic):
        return statistic(data).mean(0) - statistic(dream).mean(0)

    weight = mean(lambda p: (p.visible - mu)[:, :, None] * (p.hidden_mean - lam)[:, None, :])
    expected = {
        "weight": weight,
        "visible_bias": mean(lambda p: p.visible) - weight @ lam,
        "hidden_bias": mean(lambda p: p.hidden_mean) - weight.t() @ mu,
    }
    for name, slope in expected.items():
        torch.testing.assert_close(into[name], 0.5 + 2 * slope)


def flipped_twin(centring):
    """Machines trained on data and on the same data with 0 and 1 exchanged, mean-field so that nothing is drawn."""

    class MeanField(CD):
        def negative(self, rbm, positive, generator, buffers):
            return phase(rbm, rbm.mean_visible(positive.hidden_mean))

    data, twins = rows(machine("bernoulli", "bernoulli").visible, 200), []
    for flip in (False, True):
        rbm = machine("bernoulli", "bernoulli", seed=4)
        if flip:
            with torch.no_grad():
                rbm.hidden_bias += rbm.weight.sum(0)
                rbm.weight.neg_()
                rbm.visible_bias.neg_()
        settings = {"epochs": 5, "batch_size": 50, "learning_rate": 0.1, "weight_decay": 0.0, "initialise_bias": False}
        train(rbm, 1 - data if flip else data, estimator=MeanField(), centring=centring, **settings, **QUIET)
        twins.append(rbm)
    return float((twins[0].weight + twins[1].weight).detach().abs().max())


def test_centring_does_not_care_which_value_is_called_one():
    assert flipped_twin(0.01) < 1e-10
    assert flipped_twin(None) > 1e-3


@pytest.mark.parametrize(
    "estimator", [pytest.param(lambda: CD(5, sample_visible=True), marks=pytest.mark.slow), lambda: PCD(100)]
)
def test_centred_training_learns(estimator):
    states = torch.cartesian_prod(*[torch.tensor([0.0, 1.0], dtype=torch.float64)] * 3)
    ones = states.sum(1)
    p = (0.85**ones * 0.15 ** (3 - ones) + 0.15**ones * 0.85 ** (3 - ones)) / 2  # two prototypes and noise
    data, rbm = draw(states, p, 4000), RBM(3, 3, seed=0).double()
    settings = {"epochs": 60, "momentum": 0.5, "learning_rate": 0.1, "weight_decay": 0.0}
    train(rbm, data, estimator=estimator(), centring=0.01, **settings, **QUIET)
    assert float(p @ (p.log() - log_likelihood(rbm, states, exact_log_partition(rbm)))) < 0.01
    columns = p @ states
    independent = states @ columns.log() + (1 - states) @ (1 - columns).log()
    assert float(p @ (p.log() - independent)) > 0.05


class Watching(CD):
    """Keeps what it is shown."""

    def __init__(self):
        super().__init__(1)
        self.seen = []

    def negative(self, rbm, positive, generator, buffers):
        self.seen.append(positive.visible.clone())
        return super().negative(rbm, positive, generator, buffers)


def shown(binarise):
    watching = Watching()
    grey = torch.full((100, 4), 0.3).index_fill_(1, torch.tensor([3]), 0.9)
    train(RBM(4, 2, seed=0), grey, epochs=40, estimator=watching, binarise=binarise, **QUIET)
    return torch.stack(watching.seen)


def test_binarise_draws_pixels_at_every_presentation_or_thresholds_them():
    drawn = shown("sample")
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    assert not torch.equal(drawn[0], drawn[1])
    torch.testing.assert_close(drawn.mean((0, 1)), torch.tensor([0.3, 0.3, 0.3, 0.9]), atol=0.04, rtol=0)
    assert shown("threshold").unique(dim=1).flatten(0, 1).unique(dim=0).tolist() == [[0.0, 0.0, 0.0, 1.0]]
    assert float(shown(None)[0, 0, 0]) == pytest.approx(0.3)


def test_stacks_binarise_too_and_monitored_rows_stay_the_same():
    grey = torch.rand(200, 6, generator=generator(0))
    stack, again = DBN([6, 4, 3], seed=0), DBN([6, 4, 3], seed=0)
    histories = stack.pretrain(grey, epochs=2, learning_rate=0.0, binarise="sample", validation=grey, **QUIET)
    assert histories[0]["free_energy_gap"] == [0.0, 0.0]
    assert len(set(histories[0]["reconstruction_error"])) == 1
    again.pretrain(grey, epochs=2, binarise="sample", centring=[0.01, None], average_from=1, **QUIET)
    assert all(bool(value.isfinite().all()) for value in again.parameters())


def test_the_mean_of_the_last_epochs_is_left_in_the_machine():
    seen = []
    rbm = RBM(6, 4, seed=0)
    data = torch.rand(200, 6, generator=generator(0))
    train(rbm, data, epochs=5, average_from=2, callback=lambda record: seen.append(parameters(rbm)), **QUIET)
    for name, value in rbm.named_parameters():
        torch.testing.assert_close(value.detach(), torch.stack([at[name] for at in seen[2:]]).mean(0))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"centring": 1.5}, ValueError, "centring is 1.5"),
        ({"binarise": "dither"}, ValueError, "binarise is 'dither'"),
        ({"average_from": -1.0}, ValueError, "average_from is -1.0"),
    ],
)
def test_wrong_options_are_named_before_anything_changes(arguments, error, message):
    rbm = RBM(3, 2, seed=0)
    before = parameters(rbm)
    with pytest.raises(error, match=message):
        train(rbm, torch.ones(4, 3), epochs=1, **QUIET, **arguments)
    assert all(torch.equal(before[name], value) for name, value in parameters(rbm).items())


def test_real_units_have_no_pixels_to_draw():
    with pytest.raises(TypeError, match='binarise is "sample", but Gaussian'):
        train(RBM(Gaussian(3), 2), torch.zeros(4, 3), epochs=1, binarise="sample", **QUIET)


def spun(rbm, sides):
    """An RBM of Bernoulli units with the hidden side, or both, written in spins s = 2h − 1 instead."""
    by = 2.0**sides
    other = RBM(Spin(6) if sides == 2 else 6, Spin(4)).double()
    with torch.no_grad():
        other.weight.copy_(rbm.weight / by)
        other.hidden_bias.copy_(rbm.hidden_bias / 2 + (rbm.weight.sum(0) / 4 if sides == 2 else 0))
        other.visible_bias.copy_((rbm.visible_bias + rbm.weight.sum(1) / 2) / (by / 2))
    return other


@pytest.mark.parametrize("sides", [1, 2])
def test_a_step_of_spins_is_that_of_units_of_0_and_1_at_the_rates_that_suit_them(sides):
    rbm = machine(Bernoulli(6), Bernoulli(4))
    data = rows(rbm.visible, 200)
    other = spun(rbm, sides)
    before, seen = rbm.weight.detach().clone(), 2 * data - 1 if sides == 2 else data
    torch.testing.assert_close(other.mean_hidden(seen), 2 * rbm.mean_hidden(data) - 1)
    settings = {"epochs": 1, "batch_size": 200, "estimator": CD(mean_field=True), "centring": 0.1, "weight_decay": 0.0}
    for one, x in ((rbm, data), (other, seen)):
        train(one, x, initialise_bias=False, **settings, **QUIET)
    assert not torch.allclose(rbm.weight, before, atol=1e-4)
    torch.testing.assert_close(2.0**sides * other.weight, rbm.weight)
