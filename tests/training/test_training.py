"""The one loop does what Hinton's recipe says, to the last digit, for all units."""

import copy
from itertools import pairwise

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from dbn import CD, PCD, RBM, DivergenceError, Gaussian, History, train
from dbn.data import TensorSource
from dbn.gradient import add_gradient, phase
from dbn.schedules import linear
from dbn.training import RBMUpdate, TrainOptions
from tests.support.binary_rows import CONTAINERS, pixels
from tests.support.oracles import UNITS, generator, machine, rows

QUIET = {"progress": False, "seed": 0}
EVERY_UNIT = [*UNITS, "noisy"]
EVERY_PAIR = [(kind, "bernoulli") for kind in EVERY_UNIT] + [("bernoulli", kind) for kind in EVERY_UNIT]


@pytest.fixture(autouse=True)
def _double():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def parameters(rbm):
    return {name: value.detach().clone() for name, value in rbm.named_parameters()}


def same(one, other):
    return all(torch.equal(one[name], other[name]) for name in one)


def test_zero_weights_and_the_bias_of_the_mean_reconstruct_the_mean():
    data, rbm = pixels(), RBM(6, 4, weight_scale=0)
    history = train(rbm, data, epochs=1, learning_rate=0.0, **QUIET)
    torch.testing.assert_close(rbm.reconstruct(data), data.mean(0).expand_as(data))
    expected = (data - data.mean(0)).square().sum(1).mean()
    assert history["reconstruction_error"] == [pytest.approx(float(expected))]
    uninitialised = RBM(6, 4, weight_scale=0)
    train(uninitialised, data, epochs=1, learning_rate=0.0, initialise_bias=False, **QUIET)
    assert not torch.allclose(uninitialised.reconstruct(data), data.mean(0).expand_as(data), atol=0.05)


@pytest.mark.parametrize("kind", EVERY_UNIT)
def test_bias_of_the_mean_for_all_units(kind):
    rbm = machine(kind, "bernoulli", scale=0.0)
    data = rows(rbm.visible, 400)
    train(rbm, data, epochs=1, learning_rate=0.0, **QUIET)
    torch.testing.assert_close(rbm.visible.mean(rbm.visible_bias), data.mean(0), atol=1e-6, rtol=1e-6)


def test_visible_biases_that_are_not_zero_are_left_alone():
    rbm = RBM(6, 4, seed=0)
    with torch.no_grad():
        rbm.visible_bias[2] = -3.0
    before = parameters(rbm)
    train(rbm, pixels(), epochs=1, learning_rate=0.0, **QUIET)
    assert same(before, parameters(rbm))


class Fixed(CD):
    """A negative phase at rows that the test knows."""

    def __init__(self, v):
        super().__init__(1)
        self.v = v

    def negative(self, rbm, positive, generator, buffers):
        return phase(rbm, self.v)

    def rows(self, batch):
        return len(self.v)


def learner_from(rbm, estimator, velocity, decay=0.0):
    """An update whose velocities all start at one number."""
    learner = RBMUpdate(rbm, estimator, None, options=TrainOptions(epochs=0, weight_decay=decay))
    for value in learner.velocity.values():
        value.fill_(velocity)
    return learner


@pytest.mark.parametrize(("visible", "hidden"), EVERY_PAIR)
def test_update_is_hintons_formula(visible, hidden):
    rbm = machine(visible, hidden)
    v, dream = rows(rbm.visible, 7, seed=1), rows(rbm.visible, 5, seed=2)
    rate, momentum, decay = 0.03, 0.7, 0.01
    learner, before = learner_from(rbm, Fixed(dream), 0.02, decay), parameters(rbm)
    with torch.no_grad():
        h, dream_h = rbm.mean_hidden(v), rbm.mean_hidden(dream)
        slopes = {
            "weight": v.t() @ h / 7 - dream.t() @ dream_h / 5 - decay * rbm.weight,
            "visible_bias": v.mean(0) - dream.mean(0),
            "hidden_bias": h.mean(0) - dream_h.mean(0),
        }
    learner.step(v, rate, momentum)
    for name, slope in slopes.items():
        torch.testing.assert_close(learner.velocity[name], momentum * 0.02 + rate * slope)
    for name, value in rbm.named_parameters():
        torch.testing.assert_close(value.detach(), before[name] + learner.velocity.get(name, torch.zeros(())))


@pytest.mark.parametrize("estimator", [CD(1), CD(2, sample_visible=True), PCD(3), PCD(11)], ids=str)
def test_a_step_is_the_same_from_rows_anywhere_and_from_rows_gathered_in_place(estimator):
    learned = []
    for gathered in (False, True):
        rbm, draw_from, chains = machine("bernoulli", "spin"), generator(3), copy.deepcopy(estimator)
        chains.prepare(rbm, draw_from)
        learner = RBMUpdate(rbm, chains, draw_from, options=TrainOptions(epochs=0, weight_decay=0.01))
        for count in (7, 7, 2, 9):  # a short batch, and one that is larger than the first
            v = rows(rbm.visible, count, seed=count)
            learner.step(learner.buffers(count).positive.visible.copy_(v) if gathered else v, 0.1, 0.5)
        learned.append(parameters(rbm))
    assert same(*learned)


@pytest.mark.parametrize("kind", EVERY_UNIT)
def test_weight_decay_touches_weights_alone(kind):
    rbm = machine(kind, "learned")
    v = rows(rbm.visible, 9)
    before = parameters(rbm)
    learner_from(rbm, Fixed(v), 0.0, decay=0.2).step(v, 0.5, 0.0)
    own = {name for name in before if "log_precision" in name}
    torch.testing.assert_close(rbm.weight.detach(), before["weight"] * (1 - 0.5 * 0.2))
    for name in before.keys() - {"weight"} - own:
        torch.testing.assert_close(rbm.get_parameter(name).detach(), before[name])


class SharedDenominator:
    """The mistake of scikit-learn 1.9.1: the statistics of both phases are divided by the rows of the data."""

    def __call__(self, rbm, into, positive, negative, buffers, scale, keep, offsets):
        buffers.set_weights(positive.fraction, negative.fraction)
        buffers.ratio = 1.0
        buffers.weights[buffers.data :] = -1.0
        add_gradient(rbm, into, positive, negative, buffers, scale, keep, offsets)


def moved_by_one_row_more(estimator):
    """How far parameters after 1001 rows are from those after the same 1000, everything before the last row alike."""
    machines = RBM(6, 4, seed=0), RBM(6, 4, seed=0)
    for rbm, count in zip(machines, (1000, 1001), strict=True):
        loader = DataLoader(TensorDataset(pixels(1001)[:count]), batch_size=100)
        settings = {"learning_rate": 0.1, "momentum": 0.5, "weight_decay": 0.0, "initialise_bias": False, **QUIET}
        train(rbm, loader, epochs=1, estimator=estimator(), **settings)
    few, many = map(parameters, machines)
    return max(float((few[name] - many[name]).abs().max()) for name in few)


ESTIMATORS = [lambda: CD(1), lambda: PCD(chains=100), lambda: PCD(chains=37)]


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_one_row_more_than_full_batches_moves_parameters_by_one_step(estimator):
    # Statistics lie in 0..1, so no slope exceeds 1 and no step rate / (1 − momentum).
    assert 0 < moved_by_one_row_more(estimator) <= 0.1 / (1 - 0.5)


@pytest.mark.parametrize("estimator", ESTIMATORS[1:])
def test_a_shared_denominator_moves_them_by_many(estimator, monkeypatch):
    monkeypatch.setattr("dbn.training.update.add_gradient", SharedDenominator())
    assert moved_by_one_row_more(estimator) > 5 * 0.1 / (1 - 0.5)


@torch.no_grad()
def worst_mean(n, chains):
    """How far the enumerated visible means of a trained machine are from the data's."""
    rbm, data = RBM(6, 4, seed=0), pixels(n)
    train(rbm, data, epochs=8, estimator=PCD(chains), learning_rate=0.1, **QUIET)
    states = rbm.visible.states(torch.arange(64))
    return float(((-rbm.free_energy(states)).softmax(0) @ states - data.mean(0)).abs().max())


def test_a_short_last_batch_leaves_a_good_model(monkeypatch):
    assert worst_mean(1000, 100) < 0.15
    assert worst_mean(1001, 100) < 0.15
    assert worst_mean(1000, 30) < 0.15
    monkeypatch.setattr("dbn.training.update.add_gradient", SharedDenominator())
    assert worst_mean(1000, 100) < 0.15, "the mistake is harmless where batches are full"
    assert worst_mean(1001, 100) > 0.3


def test_momentum_rises_at_the_sixth_epoch():
    def increments(epochs):
        """Increments double as a record of momentum: with the same rows in both phases only momentum moves them."""
        seen = []
        rbm, data = RBM(6, 4, seed=0), pixels(100)
        train(
            rbm, data, epochs=epochs, batch_size=100, learning_rate=lambda epoch: float(epoch == 0), weight_decay=0.0,
            callback=lambda record: seen.append(parameters(rbm)["weight"]), **QUIET,
        )  # fmt: skip
        return [(later - earlier).norm() for earlier, later in pairwise(seen)]

    steps = increments(8)  # steps[k] is the step of epoch k + 2
    ratios = [float(later / earlier) for earlier, later in pairwise(steps)]
    assert ratios == pytest.approx([0.5, 0.5, 0.5, 0.9, 0.9, 0.9])


def test_schedules_see_epochs_and_parts_of_them():
    seen = []
    train(RBM(6, 4), pixels(), epochs=2, batch_size=50, learning_rate=lambda epoch: seen.append(epoch) or 0.1, **QUIET)
    assert seen[-8:] == [0.0, 0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75]
    assert set(seen[:-8]) <= {0.0}  # asked once before anything changes
    constant, falling = RBM(6, 4, seed=0), RBM(6, 4, seed=0)
    train(constant, pixels(), epochs=2, learning_rate=0.1, **QUIET)
    train(falling, pixels(), epochs=2, learning_rate=linear(0.1, 0.1, 2), **QUIET)
    assert same(parameters(constant), parameters(falling))


@pytest.mark.parametrize(("visible", "hidden"), EVERY_PAIR)
def test_history_holds_what_it_says(visible, hidden):
    rbm = machine(visible, hidden)
    data, held_back = rows(rbm.visible, 60, seed=1), rows(rbm.visible, 40, seed=2)
    history = train(rbm, data, epochs=2, batch_size=25, learning_rate=1e-3, validation=held_back, **QUIET)
    assert history["epoch"] == [1.0, 2.0]
    assert history["step"] == [3.0, 6.0]
    assert history["seconds"] == sorted(history["seconds"])
    with torch.no_grad():
        last = {
            "reconstruction_error": (rbm.reconstruct(data) - data).square().sum(1).mean(),
            "hidden_activity": rbm.mean_hidden(data).mean(),
            "weight_norm": rbm.weight.norm(),
            "visible_bias_norm": rbm.visible_bias.norm(),
            "hidden_bias_norm": rbm.hidden_bias.norm(),
        }
        if rbm.has_energy:
            last["free_energy_gap"] = rbm.free_energy(held_back).mean() - rbm.free_energy(data).mean()
    assert set(history.last) == {*last, "epoch", "step", "seconds"}
    for name, value in last.items():
        assert history.last[name] == pytest.approx(float(value)), name


def test_there_is_no_gap_without_validation_rows():
    history = train(RBM(6, 4), pixels(), epochs=1, **QUIET)
    with pytest.raises(KeyError, match="no record has 'free_energy_gap': known are epoch, hidden_activity"):
        history["free_energy_gap"]


@pytest.mark.parametrize("every", [None, 1, 2, 3, 4, 7])
def test_records_are_made_every_given_number_of_steps_and_at_the_end_of_epochs(every):
    seen = []
    history = train(RBM(6, 4), pixels(), epochs=2, batch_size=50, record_every=every, callback=seen.append, **QUIET)
    steps = sorted({4, 8, *(() if every is None else range(every, 9, every))})
    assert history["step"] == steps
    assert history["epoch"] == [step / 4 for step in steps]
    assert seen == list(history) == history.records


def test_no_epochs_train_nothing():
    rbm = RBM(6, 4, seed=0)
    before = parameters(rbm)
    assert len(train(rbm, pixels(), epochs=0, initialise_bias=False, **QUIET)) == 0
    assert same(before, parameters(rbm))


@pytest.mark.parametrize("progress", [True, False])
def test_the_bar_is_shown_where_wanted(progress, capsys):
    train(RBM(6, 4), pixels(), epochs=1, progress=progress, description="first machine", seed=0)
    out, err = capsys.readouterr()
    assert out == ""
    assert ("first machine" in err and "2/2" in err) if progress else err == ""


@pytest.mark.parametrize("kind", CONTAINERS)
def test_the_same_rows_in_any_container_train_alike(kind, tmp_path):
    data, start = pixels(400), RBM(6, 8, seed=0)
    machines = []
    for container in ("tensor", kind):
        rbm = copy.deepcopy(start)
        rows = CONTAINERS[container](data, tmp_path)
        history = train(rbm, rows, epochs=40, batch_size=20, validation=data, **QUIET)
        assert history["step"][0] == 20.0
        assert history["reconstruction_error"][-1] < 0.8 * history["reconstruction_error"][0]
        assert abs(history["free_energy_gap"][-1]) < 1e-9
        machines.append(rbm)
    errors = [float((rbm.reconstruct(data).detach() - data).square().sum(1).mean()) for rbm in machines]
    assert errors[0] == pytest.approx(errors[1], abs=0.1)
    assert not kind.startswith(("tensor", "array")) or same(*map(parameters, machines))


@pytest.mark.parametrize("estimator", [CD, PCD])
def test_divergence_is_reported_with_run_and_epoch(estimator):
    torch.set_default_dtype(torch.float32)
    data = 3 * torch.randn(500, 5, generator=generator())
    with pytest.raises(
        DivergenceError, match=r"^night run left the finite numbers in epoch 1, by step \d, and was put back to step 0"
    ):
        train(
            RBM(Gaussian(5), Gaussian(4), seed=0), data, epochs=20, estimator=estimator(), learning_rate=1e6,
            description="night run", **QUIET,
        )  # fmt: skip
    with pytest.raises(DivergenceError, match="night run"):
        train(RBM(Gaussian(5), 4, seed=0), data, epochs=20, learning_rate=1e6, description="night run", **QUIET)


@pytest.mark.parametrize("estimator", [lambda: CD(2, sample_visible=True), lambda: PCD(chains=13)])
@pytest.mark.parametrize("kind", [*UNITS, "noisy"])
def test_a_seed_decides_everything_and_the_global_generator_is_untouched(kind, estimator):
    results = []
    for seed in (3, 3, 4):
        rbm = machine(kind, "bernoulli")
        before = torch.random.get_rng_state()
        train(rbm, rows(rbm.visible, 50), epochs=2, batch_size=20, estimator=estimator(), progress=False, seed=seed)
        assert torch.equal(before, torch.random.get_rng_state())
        results.append(parameters(rbm))
    assert same(results[0], results[1])
    assert not same(results[0], results[2])


def test_a_generator_does_what_its_seed_does():
    results = []
    for randomness in ({"seed": 3}, {"generator": generator(3)}):
        rbm = RBM(6, 4, seed=0)
        train(rbm, pixels(), epochs=1, progress=False, **randomness)
        results.append(parameters(rbm))
    assert same(*results)


def test_monitoring_does_not_change_training():
    results = []
    for watched in ({}, {"record_every": 1, "validation": pixels(30, seed=9), "monitor_rows": 7}):
        rbm = RBM(6, 4, seed=0)
        train(rbm, pixels(), epochs=2, **watched, **QUIET)
        results.append(parameters(rbm))
    assert same(*results)


def test_training_stays_in_the_machines_precision():
    rbm = RBM(6, 4, seed=0).float()
    train(rbm, pixels(), epochs=1, **QUIET)
    assert {value.dtype for value in rbm.parameters()} == {torch.float32}
    assert isinstance(
        TensorSource(pixels(), None, batch_size=9, like=rbm.weight).representative_rows(3), torch.FloatTensor
    )


def test_history_is_a_list_of_records():
    history = History()
    history.append({"epoch": 1.0, "loss": 0.5})
    history.append({"epoch": 2.0, "loss": 0.25, "gap": 1.0})
    assert (len(history), history["loss"], history["gap"]) == (2, [0.5, 0.25], [1.0])
    assert history.last == history.records[-1] == {"epoch": 2.0, "loss": 0.25, "gap": 1.0}
    assert "2 records" in repr(history)
    assert "0 records" in repr(History())
    with pytest.raises(KeyError, match="known are none yet"):
        History()["loss"]
