"""Persistent chains driven by fast weights: what they are without them, what they learn, and that they move."""

import pytest
import torch

from dbn import PCD, FastPCD, train
from dbn.gradient import gradient, phase
from dbn.rbm import RBM
from tests.support.oracles import generator, machine, rows, two_modes


def trained(estimator, seed=0):
    rbm = RBM(6, 4, seed=0)
    x = (torch.rand(60, 6, generator=generator()) < 0.3).float()
    train(rbm, x, epochs=3, batch_size=10, estimator=estimator, progress=False, seed=seed)
    return rbm.weight.detach()


def test_without_a_rate_they_are_plain_persistent_chains():
    torch.testing.assert_close(trained(FastPCD(10, rate=0.0)), trained(PCD(10)), rtol=0, atol=1e-6)
    assert not torch.allclose(trained(FastPCD(10, rate=0.1)), trained(PCD(10)), rtol=0, atol=1e-6)


@pytest.mark.parametrize("pair", [("bernoulli", "spin"), ("learned", "bernoulli"), ("labels", "mixed")])
@torch.no_grad()
def test_fast_weights_follow_the_gradient_and_fade(pair):
    rbm, estimator = machine(*pair), FastPCD(30, rate=0.2, decay=0.5)
    positive, draw = phase(rbm, rows(rbm.visible, 8)), generator()
    estimator.prepare(rbm, draw)
    first = gradient(rbm, positive, estimator.negative(rbm, positive, draw))
    torch.testing.assert_close(estimator.weight, 0.2 * first["weight"])
    second = gradient(rbm, positive, estimator.negative(rbm, positive, draw))
    for name in ("weight", "visible_bias", "hidden_bias"):
        torch.testing.assert_close(estimator.get_buffer(name), 0.1 * first[name] + 0.2 * second[name])


@torch.no_grad()
def share_that_crosses(estimator):
    """The share of chains that, started in one of two modes that the data have half and half, end in the other."""
    rbm, draw = two_modes(), generator()
    data = torch.cat([torch.zeros(50, 8), torch.ones(50, 8)]).double()
    estimator.prepare(rbm, draw)
    estimator.hidden.zero_()
    for _ in range(200):
        estimator.negative(rbm, phase(rbm, data), draw)
    return float(estimator.hidden.mean())


def test_fast_weights_push_chains_out_of_a_mode_that_plain_ones_stay_in():
    assert share_that_crosses(PCD(200)) < 0.1
    assert share_that_crosses(FastPCD(200, rate=0.1)) > 0.25


@torch.no_grad()
def test_chains_may_start_at_the_data():
    rbm = machine("bernoulli", "bernoulli", scale=0.0)
    rbm.weight.fill_(50.0)
    rbm.hidden_bias.fill_(-20.0)  # hidden units are on where a row is not empty
    draw = generator()
    for kind in (PCD, FastPCD):
        estimator = kind(40, start="data")
        estimator.prepare(rbm, draw)
        assert estimator.hidden is None
        seen = estimator.states(rbm, phase(rbm, torch.ones(5, 3).double()), draw)
        assert seen.shape == (40, 3)
        assert bool((seen == 1).all())
        assert bool((estimator.states(rbm, phase(rbm, torch.zeros(5, 3).double()), draw) == 0).all())
        estimator.negative(rbm, phase(rbm, torch.ones(5, 3).double()), draw)
        assert estimator.hidden.shape == (40, 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"rate": -1.0}, "rate is -1"), ({"decay": 1.0}, "decay is 1.0"), ({"start": "zero"}, "start is 'zero'")],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        FastPCD(**arguments)


def test_fast_weights_follow_a_machine_to_another_precision():
    rbm, estimator = RBM(6, 4, seed=0), FastPCD(10)
    for one in (rbm, rbm.double()):
        train(one, torch.rand(20, 6), epochs=1, estimator=estimator, progress=False, seed=0)
    assert estimator.weight.dtype == torch.float64
