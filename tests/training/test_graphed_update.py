"""Steps of learning and temperatures that are recorded and replayed do what plain ones do."""

import gc
import weakref

import pytest
import torch

import dbn.finetuning.graphed_step
import dbn.runtime.cuda_graph
import dbn.training.graphed_update
from dbn import CD, PCD, RBM, ais, finetune, reverse_ais, train
from dbn.gradient import phase
from dbn.units import Bernoulli, Joint, ReLU
from tests.support import fake_cuda_graph
from tests.support.oracles import generator
from tests.support.recorded_runs import ESTIMATORS, FULL, LAYERS, X, Y, network, same

OPTIONS = {
    "centring": 0.01, "sparsity_target": 0.1, "l1": 1e-3, "clip": 1.0, "max_norm": 3.0, "weight_decay": 1e-2,
    "learning_rate": lambda epoch: 0.05 / (1 + epoch), "momentum": lambda epoch: min(0.5 + epoch / 10, 0.9),
}  # fmt: skip


def trained(estimator, layers=LAYERS["bernoulli"], **options):
    rbm = RBM(*layers(), seed=0).double()
    options = {"epochs": 5, "batch_size": 50, "progress": False, "seed": 1, **options}
    x = local_rows(rbm.visible)
    train(rbm, x, estimator=estimator, **options)
    return rbm


def local_rows(units):
    with torch.no_grad():
        return units.sample(torch.zeros(230, units.size, dtype=torch.float64), generator=generator())


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_replayed_training_equals_eager_training(name, options, recording):
    plain, estimator = trained(ESTIMATORS[name](), **options), ESTIMATORS[name]()
    seen = recording()
    same(trained(estimator, **options), plain)
    assert (seen.recordings, seen.replays) == (1, FULL)


@pytest.mark.parametrize("name", LAYERS)
def test_every_capturable_unit_can_be_replayed(name, recording):
    rates = {"learning_rate": 1e-3}
    plain = trained(PCD(20), LAYERS[name], **rates)
    seen = recording()
    same(trained(PCD(20), LAYERS[name], **rates), plain)
    assert (seen.recordings, seen.replays) == (1, FULL)


class Growing(CD):
    """k grows with the calls, which a recording would not see."""

    calls = 0

    def negative(self, *arguments, **named):
        self.calls += 1
        return super().negative(*arguments, **named)


class Counted(Bernoulli):
    """Units of somebody else."""


@pytest.mark.parametrize(
    ("estimator", "layers"),
    [
        (Growing, LAYERS["bernoulli"]),
        (CD, lambda: (Counted(12), Bernoulli(7))),
        (CD, lambda: (Joint(Bernoulli(6), Counted(6)), Bernoulli(7))),
    ],
)
def test_subclasses_of_units_and_estimators_are_not_captured(estimator, layers, recording):
    seen = recording()
    trained(estimator(), layers)
    assert not seen.recordings


def test_a_setting_changed_by_a_callback_is_captured_again(recording):
    def grown():
        estimator = CD(1)
        return trained(estimator, callback=lambda record: setattr(estimator, "steps", 1 + int(record["epoch"] >= 2)))

    plain, seen = grown(), recording()
    same(grown(), plain)
    assert seen.recordings == 2


def test_a_run_frees_its_graph(recording, monkeypatch):
    recording()
    left = weakref.WeakSet()
    monkeypatch.setattr(
        fake_cuda_graph.Tape, "undo", lambda tape, undo=fake_cuda_graph.Tape.undo: (left.add(tape), undo(tape))
    )
    gc.disable()
    try:
        rbm, model = trained(PCD(20)), network()
        ais(rbm, chains=10, temperatures=6, progress=False, seed=0)
        finetune(model, X, Y, epochs=2, batch_size=50, progress=False, seed=1)
        assert not left
    finally:
        gc.enable()
    assert all(value.grad is None for value in model.parameters())


def test_a_step_that_breaks_off_leaves_the_chains_where_they_were():
    estimator, rbm = PCD(20), RBM(12, 7, seed=0)
    estimator.prepare(rbm, None)
    chains, numbers = estimator.hidden, estimator.hidden.clone()

    def broken():
        with dbn.training.graphed_update._in_place(estimator):
            estimator.negative(rbm, phase(rbm, X[:5]), None)
            raise MemoryError

    with pytest.raises(MemoryError):
        broken()
    assert estimator.hidden is chains
    assert torch.equal(chains, numbers)


def test_units_that_read_numbers_back_are_not_captured(recording):
    seen = recording()
    trained(CD(1), lambda: (Bernoulli(12), ReLU(7)), learning_rate=1e-3)
    assert not seen.recordings


def test_replayed_training_goes_on_from_a_checkpoint_to_the_same_bits(recording, tmp_path):
    recording()
    whole, half = (RBM(12, 7, seed=0) for _ in range(2))
    options = {"epochs": 5, "batch_size": 50, "progress": False, "seed": 1, "learning_rate": 0.1}
    train(whole, X, estimator=PCD(20), **options)

    def stop(record):
        if record["epoch"] == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(half, X, estimator=PCD(20), checkpoint=tmp_path, checkpoint_seconds=0, callback=stop, **options)
    other = RBM(12, 7, seed=0)
    train(other, X, estimator=PCD(20), checkpoint=tmp_path, **options)
    torch.testing.assert_close(other.weight, whole.weight, rtol=0, atol=0)


@pytest.mark.parametrize("base", ["visible_bias", "zeros"])
@pytest.mark.parametrize("name", ["bernoulli", "groups", "joint"])
def test_replayed_annealing_is_plain_annealing(name, base, recording):
    rbm = RBM(*LAYERS[name](), weight_scale=0.3, seed=0).double()
    with torch.no_grad():
        rbm.visible_bias.normal_(0, 0.3, generator=generator())
    options = {"chains": 30, "temperatures": 20, "base": base, "progress": False, "seed": 0}
    samples, plain = local_rows(rbm.visible), ais(rbm, **options)
    downwards = reverse_ais(rbm, samples, temperatures=20, progress=False, seed=0)
    seen = recording()
    assert ais(rbm, **options).value == pytest.approx(plain.value, abs=1e-9)
    assert (seen.recordings, seen.replays) == (1, 17)
    assert reverse_ais(rbm, samples, temperatures=20, progress=False, seed=0).value == pytest.approx(downwards.value)
