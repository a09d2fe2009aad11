"""Numbers that leave all reason: an error that says where, an RBM that is put back, or a halved rate."""

import pytest
import torch
from torch import nn

from dbn import DBN, PCD, DivergenceError, FastPCD, Gaussian, NoisyReLU, finetune, train
from dbn.rbm import RBM
from tests.support.oracles import generator

QUIET = {"progress": False, "seed": 0}
ROWS = torch.randn(300, 6, generator=generator())


def test_a_stack_names_the_layer_the_epoch_and_the_step_in_under_an_epoch():
    rows = torch.randn(20_000, 6, generator=generator())
    stack = DBN([Gaussian(6), Gaussian(5), 4], seed=0)
    message = r"^layer 2/2 left the finite numbers in epoch 1, by step 100, and was put back to step 0: lower"
    with pytest.raises(DivergenceError, match=message):
        stack.pretrain(rows, epochs=2, learning_rate=[0.001, 100.0], **QUIET)
    assert all(bool(value.isfinite().all()) for value in stack.parameters())


def test_the_last_good_state_is_put_back():
    rbm, good = RBM(Gaussian(6), 5, seed=0), []
    rates = lambda epoch: 0.001 if epoch < 2 else 1e20  # noqa: E731
    with pytest.raises(DivergenceError, match="in epoch 3, by step 9, and was put back to step 6"):
        train(rbm, ROWS, epochs=9, learning_rate=rates,
              callback=lambda record: good.append(rbm.weight.detach().clone()), **QUIET)  # fmt: skip
    assert len(good) == 2
    assert torch.equal(rbm.weight.detach(), good[1])


def test_a_free_energy_that_runs_away_is_a_fault_too():
    rbm = RBM(Gaussian(6), 5, seed=0)
    with pytest.raises(DivergenceError, match=r"let the free energy run away to -?\d.*nats a row in epoch 1"):
        train(rbm, ROWS, epochs=1, learning_rate=300.0, momentum=0.0, **QUIET)
    assert float(rbm.weight.detach().abs().max()) < 1


@pytest.mark.parametrize("hidden", [5, Gaussian(5)])
def test_halving_goes_on_from_the_start_of_the_epoch_to_a_finite_end(hidden):
    rbm = RBM(Gaussian(6), hidden, seed=0)
    history = train(rbm, ROWS, epochs=4, learning_rate=100.0, on_divergence="halve", **QUIET)
    assert history["epoch"] == [1.0, 2.0, 3.0, 4.0]
    assert all(bool(value.isfinite().all()) for value in rbm.parameters())


def test_halving_ends_too():
    with pytest.raises(DivergenceError):
        train(RBM(Gaussian(6), 5, seed=0), ROWS, epochs=4, learning_rate=1e30, on_divergence="halve", **QUIET)


def test_fine_tuning_backs_up_and_halves_as_well():
    model = nn.Sequential(nn.Linear(6, 6), nn.Linear(6, 2))
    start = [value.detach().clone() for value in model.parameters()]
    settings = {"epochs": 3, "optimiser": "sgd", "learning_rate": 1e4, **QUIET}
    with pytest.raises(DivergenceError, match="fine-tuning left the finite numbers in epoch 1, by step 3"):
        finetune(model, ROWS, ROWS[:, :2], **settings)
    assert all(torch.equal(value, before) for value, before in zip(model.parameters(), start, strict=True))
    history = finetune(model, ROWS, ROWS[:, :2], on_divergence="halve", **settings)
    assert len(history) == 3
    assert all(bool(value.isfinite().all()) for value in model.parameters())


def spiking(epoch):
    return 0.1 if epoch < 1 else 1e12


@pytest.mark.parametrize("record_every", [1, None])
def test_a_record_that_is_not_finite_is_a_fault_like_any_other(record_every):
    rows, settings = ROWS.sigmoid(), {"epochs": 2, "batch_size": 20, "record_every": record_every, **QUIET}
    rbm = RBM(6, 4, seed=0)
    with pytest.raises(DivergenceError, match="in epoch 2"):
        train(rbm, rows, learning_rate=spiking, **settings)
    assert float(rbm.weight.detach().abs().max()) < 10
    history = train(RBM(6, 4, seed=0), rows, learning_rate=spiking, on_divergence="halve", **settings)
    assert history.last["epoch"] == 2
    noisy = train(RBM(6, NoisyReLU(4), seed=0), rows, learning_rate=1e10, on_divergence="halve", **settings)
    assert noisy.last["epoch"] == 2


def test_a_validation_loss_that_is_not_finite_is_a_fault_too():
    model = nn.Sequential(nn.Linear(6, 2))
    settings = {"epochs": 2, "validation": (ROWS, ROWS[:, :2]), "batch_size": 300, **QUIET}
    halved = []

    def loss(outputs, labels):
        halved.append(1)
        return (outputs - labels).square().mean() * (float("inf") if len(halved) in (3, 4) else 1)

    assert len(finetune(model, ROWS, ROWS[:, :2], loss=loss, on_divergence="halve", **settings)) == 2


@pytest.mark.parametrize("make", [lambda: PCD(10), lambda: PCD(10, start="data"), lambda: FastPCD(10, rate=0.01)])
def test_chains_that_diverged_are_put_back_too(make):
    rbm = RBM(Gaussian(6), 4, seed=0)
    history = train(rbm, ROWS, epochs=2, estimator=make(), learning_rate=50.0, on_divergence="halve", **QUIET)
    assert len(history) == 2
    fresh = make()
    with pytest.raises(DivergenceError):
        train(RBM(Gaussian(6), 4, seed=0), ROWS, epochs=2, estimator=fresh, learning_rate=1e20, **QUIET)
    assert len(train(RBM(Gaussian(6), 4, seed=0), ROWS, epochs=2, estimator=fresh, learning_rate=1e-3, **QUIET)) == 2


def test_a_clipped_gradient_that_was_not_finite_is_forgotten():
    rbm = RBM(Gaussian(6, learned=True), 4, seed=0)
    settings = {"epochs": 2, "learning_rate": 1e5, "clip": 1.0, "on_divergence": "halve", **QUIET}
    assert len(train(rbm, ROWS, **settings)) == 2


def test_another_way_out_is_refused_by_name():
    with pytest.raises(ValueError, match="on_divergence is 'pray'"):
        train(RBM(6, 5), ROWS.sigmoid(), epochs=1, on_divergence="pray")
    with pytest.raises(ValueError, match="on_divergence is 'pray'"):
        finetune(nn.Linear(6, 2), ROWS, ROWS[:, :2], epochs=1, on_divergence="pray")
