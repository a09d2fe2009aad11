"""Numbers that leave all reason: an error that says where, a machine that is put back, or a halved rate."""

import pytest
import torch
from torch import nn

from dbn import DBN, DivergenceError, Gaussian, finetune, train
from dbn.rbm import RBM
from tests.machines import generator

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


def test_another_way_out_is_refused_by_name():
    with pytest.raises(ValueError, match="on_divergence is 'pray'"):
        train(RBM(6, 5), ROWS.sigmoid(), epochs=1, on_divergence="pray")
    with pytest.raises(ValueError, match="on_divergence is 'pray'"):
        finetune(nn.Linear(6, 2), ROWS, ROWS[:, :2], epochs=1, on_divergence="pray")
