"""Steps that are recorded and replayed do what plain steps do; a recorder of the CPU stands in for a GPU's."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import dbn.finetuning.steps
import dbn.recording
import dbn.training.steps
from dbn import CD, PCD, RBM, FastPCD, ParallelTempering, ais, finetune, initialise, reverse_ais, train
from dbn.likelihood import annealing
from dbn.recording import Replay
from dbn.units import Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, ReLU, Spin
from tests import recorder
from tests.machines import generator

ESTIMATORS = {
    "CD": lambda: CD(2),
    "samples": lambda: CD(1, sample_visible=True),
    "means": lambda: CD(1, mean_field=True),
    "PCD": lambda: PCD(20, steps=2),
    "PCD from data": lambda: PCD(20, start="data"),
    "fast weights": lambda: FastPCD(20),
    "tempering": lambda: ParallelTempering(20, temperatures=4),
}
LAYERS = {
    "bernoulli": lambda: (Bernoulli(12), Bernoulli(7)),
    "spin": lambda: (Spin(12), Spin(7)),
    "groups": lambda: (Categorical(12, classes=3), Categorical(6)),
    "learned": lambda: (Gaussian(12, learned=True), Bernoulli(7)),
    "noisy": lambda: (Bernoulli(12), NoisyReLU(7)),
    "joint": lambda: (Joint(Bernoulli(6), Gaussian(6)), Bernoulli(7)),
}
OPTIONS = {
    "centring": 0.01, "sparsity_target": 0.1, "l1": 1e-3, "clip": 1.0, "max_norm": 3.0, "weight_decay": 1e-2,
    "learning_rate": lambda epoch: 0.05 / (1 + epoch), "momentum": lambda epoch: min(0.5 + epoch / 10, 0.9),
}  # fmt: skip
X = (torch.rand(230, 12, generator=generator()) < 0.3).float()
Y = torch.randint(0, 4, (230,), generator=generator(1))
FULL = 4 * 5 - 3  # full batches of 50 in five epochs, but for the first three


@pytest.fixture
def recording(monkeypatch):
    """A function that turns recording on, and counts the recordings and replays since."""
    seen = SimpleNamespace(recordings=0, replays=0)

    def record(*arguments):
        seen.recordings += 1
        return recorder.record(*arguments)

    def replay(tape, original=recorder.Tape.replay):
        seen.replays += 1
        original(tape)

    def turn_on():
        for module in (dbn.training.steps, dbn.finetuning.steps, annealing):
            monkeypatch.setattr(module, "recordable", lambda device: True)
        monkeypatch.setattr(dbn.recording, "record", record)
        monkeypatch.setattr(recorder.Tape, "replay", replay)
        return seen

    return turn_on


def trained(estimator, layers=LAYERS["bernoulli"], **options):
    rbm = RBM(*layers(), seed=0).double()
    options = {"epochs": 5, "batch_size": 50, "progress": False, "seed": 1, **options}
    x = rows_of(rbm.visible)
    train(rbm, x, estimator=estimator, **options)
    return rbm


def rows_of(units):
    with torch.no_grad():
        return units.sample(torch.zeros(230, units.size, dtype=torch.float64), generator=generator())


def same(one, other, within=1e-9):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("options", [{}, OPTIONS], ids=["plain", "options"])
@pytest.mark.parametrize("name", ESTIMATORS)
def test_replayed_training_is_plain_training(name, options, recording):
    plain, estimator = trained(ESTIMATORS[name](), **options), ESTIMATORS[name]()
    seen = recording()
    same(trained(estimator, **options), plain)
    assert (seen.recordings, seen.replays) == (1, FULL)


@pytest.mark.parametrize("name", LAYERS)
def test_every_kind_of_unit_that_says_so_can_be_replayed(name, recording):
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
def test_what_derives_from_ours_is_not_recorded(estimator, layers, recording):
    seen = recording()
    trained(estimator(), layers)
    assert not seen.recordings


def test_a_setting_that_is_changed_on_the_way_is_heeded(recording):
    def grown():
        estimator = CD(1)
        return trained(estimator, callback=lambda record: setattr(estimator, "steps", 1 + int(record["epoch"] >= 2)))

    plain, seen = grown(), recording()
    same(grown(), plain)
    assert seen.recordings == 2


def test_a_run_leaves_no_recording_behind(recording, monkeypatch):
    recording()
    left = weakref.WeakSet()
    monkeypatch.setattr(recorder.Tape, "undo", lambda tape, undo=recorder.Tape.undo: (left.add(tape), undo(tape)))
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
        with dbn.training.steps._in_place(estimator):
            estimator.negative(rbm, rbm.phase(X[:5]), None)
            raise MemoryError

    with pytest.raises(MemoryError):
        broken()
    assert estimator.hidden is chains
    assert torch.equal(chains, numbers)


def test_units_that_read_numbers_back_are_not_recorded(recording):
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
    other = RBM(12, 7, seed=5)
    train(other, X, estimator=PCD(20), checkpoint=tmp_path, **options)
    torch.testing.assert_close(other.weight, whole.weight, rtol=0, atol=0)


def network():
    parts = (nn.Linear(12, 20, bias=False), nn.BatchNorm1d(20), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(20, 4))
    return initialise(nn.Sequential(nn.Dropout(0.1), *parts), "xavier_uniform", seed=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"optimiser": lambda groups, lr: torch.optim.AdamW(groups, lr=lr, fused=True), "weight_decay": 0.1},
        {"loss": nn.functional.cross_entropy},
        {"optimiser": "sgd", "max_norm": 1.0, "weight_decay": 1e-3, "head_learning_rate": lambda epoch: 0.1},
        {"learning_rate": lambda epoch: 0.01 / (1 + epoch), "head_learning_rate": 0.01, "validation": (X, Y)},
    ],
    ids=["adam", "adamw", "loss", "sgd", "schedules"],
)
def test_replayed_fine_tuning_is_plain_fine_tuning(options, recording):
    def tuned():
        model = network().double()
        return model, finetune(model, X, Y, epochs=5, batch_size=50, progress=False, seed=1, **options)

    plain, history = tuned()
    seen = recording()
    model, other = tuned()
    same(model, plain, within=1e-6)  # the rates on the device are in single precision
    assert other["loss"] == pytest.approx(history["loss"], abs=1e-6)
    assert (seen.recordings, seen.replays) == (1, FULL)


@pytest.mark.parametrize("base", ["visible_bias", "zeros"])
@pytest.mark.parametrize("name", ["bernoulli", "groups", "joint"])
def test_replayed_annealing_is_plain_annealing(name, base, recording):
    rbm = RBM(*LAYERS[name](), weight_scale=0.3, seed=0).double()
    with torch.no_grad():
        rbm.visible_bias.normal_(0, 0.3, generator=generator())
    options = {"chains": 30, "temperatures": 20, "base": base, "progress": False, "seed": 0}
    samples, plain = rows_of(rbm.visible), ais(rbm, **options)
    downwards = reverse_ais(rbm, samples, temperatures=20, progress=False, seed=0)
    seen = recording()
    assert ais(rbm, **options).value == pytest.approx(plain.value, abs=1e-9)
    assert (seen.recordings, seen.replays) == (1, 17)
    assert reverse_ais(rbm, samples, temperatures=20, progress=False, seed=0).value == pytest.approx(downwards.value)


class Ours(nn.Linear):
    """A module whose forward pass may do anything."""


@pytest.mark.parametrize(
    "options",
    [
        {"optimiser": lambda groups, lr: torch.optim.AdamW(groups, lr=lr)},
        {"loss": lambda outputs, labels: nn.functional.cross_entropy(outputs, labels)},
        {"model": nn.Sequential(Ours(12, 4))},
    ],
    ids=["optimiser", "loss", "module"],
)
def test_what_is_not_known_is_not_recorded(options, recording):
    seen, options = recording(), dict(options)
    model = options.pop("model", None) or network()
    finetune(model, X, Y, epochs=2, batch_size=50, progress=False, seed=1, **options)
    assert not seen.recordings


def test_another_dropout_is_heeded(recording):
    def tuned():
        model = network().double()
        drop = lambda record: setattr(model[4], "p", 0.0 if record["epoch"] >= 2 else 0.5)  # noqa: E731
        finetune(model, X, Y, epochs=5, batch_size=50, callback=drop, progress=False, seed=1)
        return model

    plain, seen = tuned(), recording()
    same(tuned(), plain, within=1e-6)
    assert seen.recordings == 2


@pytest.mark.parametrize("where", ["optimiser", "parameter", "instance"])
def test_what_somebody_hangs_on_is_not_recorded(where, recording):
    seen, model, calls = recording(), network(), []

    def build(groups, lr):
        optimizer = torch.optim.Adam(groups, lr=lr, fused=True)
        if where == "optimiser":
            optimizer.register_step_post_hook(lambda *_: calls.append(1))
        return optimizer

    if where == "parameter":
        model[1].weight.register_hook(lambda slope: calls.append(1))
    if where == "instance":
        model[3].forward = lambda x: (calls.append(1), x.sigmoid())[1]
    finetune(model, X, Y, epochs=2, batch_size=50, optimiser=build, progress=False, seed=1)
    assert not seen.recordings
    assert len(calls) >= 10


CHANGES = {
    "betas": lambda model, optimizer, loss: optimizer.param_groups[0].update(betas=(0.5, 0.9)),
    "loss": lambda model, optimizer, loss: setattr(loss, "label_smoothing", 0.3),
    "module": lambda model, optimizer, loss: model.__setitem__(3, nn.Tanh()),
}


@pytest.mark.parametrize("what", CHANGES)
def test_whatever_a_callback_changes_is_heeded(what, recording):
    def tuned():
        model, loss, built = network().double(), nn.CrossEntropyLoss(), []

        def build(groups, lr):
            built.append(torch.optim.Adam(groups, lr=lr, fused=True))
            return built[0]

        def change(record):
            if record["epoch"] == 2:
                CHANGES[what](model, built[0], loss)

        options = {"optimiser": build, "loss": loss, "callback": change, "progress": False, "seed": 1}
        finetune(model, X, Y, epochs=5, batch_size=50, **options)
        return model

    plain, seen = tuned(), recording()
    same(tuned(), plain, within=1e-6)
    assert seen.recordings == 2


def test_a_hook_that_a_callback_hangs_on_is_called(recording):
    seen, model, calls = recording(), network(), []

    def hang(record):
        if record["epoch"] == 2:
            model[1].weight.register_hook(lambda slope: calls.append(1))

    finetune(model, X, Y, epochs=4, batch_size=50, callback=hang, progress=False, seed=1)
    assert len(calls) == 10
    assert seen.recordings == 1


def test_a_callback_finds_the_gradients_of_the_last_step(recording):
    def norms():
        model, found = network().double(), []
        note = lambda record: found.append(float(model[1].weight.grad.norm()))  # noqa: E731
        finetune(model, X[:200], Y[:200], epochs=5, batch_size=50, callback=note, progress=False, seed=1)
        return found

    plain, seen = norms(), recording()
    assert norms() == pytest.approx(plain, rel=1e-5)
    assert seen.replays == FULL


def test_a_network_with_hooks_is_not_recorded(recording):
    seen, model, calls = recording(), network(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    finetune(model, X, Y, epochs=2, batch_size=50, progress=False, seed=1)
    assert not seen.recordings
    assert len(calls) >= 10


def replay_of(work, state, draw=None):
    return Replay(work, state, draw, torch.device("cpu"))


def called(replay, times):
    for _ in range(times):
        replay()


def test_work_is_done_once_a_call(recording):
    seen, number = recording(), torch.zeros(3)
    called(replay_of(lambda: number.add_(1), lambda: [number]), 10)
    assert number.tolist() == [10, 10, 10]
    assert seen.replays == 7


def test_work_that_cannot_be_recorded_is_done_plainly_and_said_once(recording):
    recording()
    number = torch.zeros(3)
    replay = replay_of(lambda: number.add_(1 + 0 * float(number[0])), lambda: [number])
    with pytest.warns(UserWarning, match="kernel by kernel.*reads numbers back"):
        called(replay, 4)
    called(replay, 1)
    assert number.tolist() == [5, 5, 5]


def test_a_replay_that_does_something_else_is_given_up(recording):
    recording()
    number, calls = torch.zeros(3), []

    def work():
        calls.append(1)
        number.add_(len(calls))  # recorded as the number that it is then

    replay = replay_of(work, lambda: [number])
    called(replay, 3)
    with pytest.warns(UserWarning, match="does not do what the plain run does"):
        replay()
    assert number.tolist() == [1 + 2 + 3 + 5] * 3  # the fourth call was the recording
    replay()
    assert number.tolist() == [1 + 2 + 3 + 5 + 6] * 3


def test_work_is_recorded_anew_where_a_tensor_has_moved(recording):
    recording()
    held = [torch.zeros(3)]
    replay = replay_of(lambda: held[0].add_(1), lambda: held)
    called(replay, 5)
    held[0] = held[0].clone()
    called(replay, 3)
    assert held[0].tolist() == [8, 8, 8]
    assert replay.recordings == 2


def test_tensors_that_never_stay_where_they_are_end_the_recording(recording, monkeypatch):
    recording()
    monkeypatch.setattr(dbn.recording, "_MOST", 3)
    held, moved = [torch.zeros(3)], []
    replay = replay_of(lambda: held[0].add_(1), lambda: held)

    def move_and_call():
        for _ in range(9):
            moved.append(held[0])
            held[0] = held[0].clone()
            replay()

    with pytest.warns(UserWarning, match="do not stay where they are"):
        move_and_call()
    assert held[0].tolist() == [9, 9, 9]


def test_a_recording_anew_draws_anew(recording):
    recording()
    drawn, draw = torch.zeros(2), generator(3)
    replay = replay_of(lambda: drawn.uniform_(generator=draw), lambda: [drawn], draw)
    seen = []
    for _ in range(6):
        replay()
        seen.append(drawn.tolist())
    other = generator(3)
    assert seen == [torch.zeros(2).uniform_(generator=other).tolist() for _ in range(6)]
