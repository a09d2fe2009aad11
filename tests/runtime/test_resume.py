"""A run that is broken off anywhere and called again ends in the same bits as one that is not."""

import copy
import os
import signal

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dbn import CD, DBN, PCD, EarlyStopping, FastPCD, Gaussian, ParallelTempering, finetune, train
from dbn.rbm import RBM
from dbn.runtime.checkpoint_manager import CheckpointManager
from dbn.schedules import linear
from tests.support.oracles import generator
from tests.support.selection import slow_but_for

QUIET = {"progress": False, "seed": 3}
ROWS = torch.rand(50, 6, generator=generator(1))
LABELS = (ROWS[:, 0] > 0.5).long()
OFTEN = {"checkpoint_seconds": 0}


class Broken(Exception):
    """What breaks a run off."""


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """No power fails in these tests: what is slow about saving is left out."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


@pytest.fixture(autouse=True)
def _heard():
    """Where the tests run in the background of a script, SIGINT is ignored from the start."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture
def breaking(monkeypatch):
    """A function that lets the run after it break off at its n-th save."""
    original_save = CheckpointManager.save

    def at(save):
        count = [0]

        def counted(self, picture):
            original_save(self, picture)
            count[0] += picture is not None
            if count[0] == save:
                raise Broken

        monkeypatch.setattr(CheckpointManager, "save", counted if save else original_save)

    return at


def broken_and_whole(run, folder, breaking, saves):
    """The results of a run that is broken off after every so many saves, and of an unbroken one."""
    results, attempts = None, 0
    while results is None:
        assert attempts < 100, "no attempt comes any further"
        breaking(saves)
        attempts += 1
        try:
            results = run(checkpoint=folder, **OFTEN)
        except Broken:
            continue
        finally:
            breaking(0)
    assert attempts > 3
    return results, run()


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


def unhurried(history):
    return [{name: value for name, value in record.items() if name != "seconds"} for record in history]


EVERYTHING = {"binarise": "sample", "centring": 0.01, "average_from": 1, "sparsity_target": 0.1, "clip": 1.0}
RECIPES = {
    "CD": {},
    "sampled": {"estimator": lambda: CD(2, sample_visible=True), "record_every": 2},
    "PCD and all else": {"estimator": lambda: PCD(7), **EVERYTHING},
    "PCD from the data": {"estimator": lambda: PCD(7, start="data")},
    "fast weights": {"estimator": lambda: FastPCD(7), "learning_rate": linear(0.1, 0.0, 4)},
    "tempering": {"estimator": lambda: ParallelTempering(5, 3)},
    "stopping": {"stopping": EarlyStopping(lambda rbm: -abs(float(rbm.weight.norm()) - 0.7), patience=1)},
    "halving": {"learning_rate": 1e3, "on_divergence": "halve", "visible": Gaussian(6)},
}


@pytest.mark.parametrize("saves", slow_but_for([5], [1, 5]))
@pytest.mark.parametrize("name", RECIPES)
def test_training_goes_on_to_the_same_bits(name, saves, tmp_path, breaking):
    recipe = dict(RECIPES[name])
    visible = recipe.pop("visible", 6)
    make = recipe.pop("estimator", lambda: None)

    def run(**keeping):
        rbm, estimator = RBM(visible, 4, seed=0), make()
        history = train(rbm, ROWS, epochs=4, batch_size=15, estimator=estimator, **recipe, **QUIET, **keeping)
        chains = {} if estimator is None else dict(estimator.state_dict())
        return unhurried(history), {**rbm.state_dict(), **chains}

    (history, state), (history_whole, state_whole) = broken_and_whole(run, tmp_path, breaking, saves)
    assert history == history_whole
    same(state, state_whole)


@pytest.mark.parametrize("upward", ["means", "samples"])
@pytest.mark.parametrize("saves", slow_but_for([4], [1, 4]))
def test_pretraining_goes_on_in_any_layer_to_the_same_bits(upward, saves, tmp_path, breaking):
    def run(**keeping):
        stack = DBN([6, 5, 6, 3], seed=0)
        settings = {"estimator": [CD(1), PCD(4), None], "validation": ROWS[:9], "upward": upward, "binarise": "sample"}
        histories = stack.pretrain(ROWS, epochs=[2, 3, 1], batch_size=20, **settings, **QUIET, **keeping)
        return [unhurried(history) for history in histories], stack.state_dict()

    (history, state), (history_whole, state_whole) = broken_and_whole(run, tmp_path, breaking, saves)
    assert history == history_whole
    same(state, state_whole)


def test_transposed_starts_go_on_too(tmp_path, breaking):
    def run(**keeping):
        stack = DBN([6, 5, 6], seed=0)
        stack.pretrain(ROWS, epochs=2, start="transposed", upward="samples", **QUIET, **keeping)
        return stack.state_dict()

    same(*broken_and_whole(run, tmp_path, breaking, 1))


class Shaky(TensorDataset):
    """Rows with noise from torch's global generator."""

    def __getitem__(self, place):
        x, y = super().__getitem__(place)
        return x + 0.01 * torch.randn(x.shape), y


SOURCES = {
    "tensor": lambda: (ROWS, LABELS),
    "data set": lambda: (TensorDataset(ROWS, LABELS), None),
    "shaky": lambda: (Shaky(ROWS, LABELS), None),
    "shuffling loader": lambda: (
        DataLoader(
            TensorDataset(ROWS, LABELS), batch_size=15, shuffle=True, generator=torch.Generator().manual_seed(2)
        ),
        None,
    ),
    "loader": lambda: (DataLoader(TensorDataset(ROWS, LABELS), batch_size=15), None),
}


@pytest.mark.parametrize("optimiser", ["adam", "sgd", torch.optim.AdamW])
@pytest.mark.parametrize("saves", slow_but_for([5], [1, 5]))
def test_finetuning_goes_on_to_the_same_bits(optimiser, saves, tmp_path, breaking):
    def run(**keeping):
        model = DBN([6, 5, 4], seed=0).to_mlp(2, dropout=0.3, seed=0)
        settings = {
            "optimiser": optimiser,
            "validation": (ROWS, LABELS),
            "head_learning_rate": 0.01,
            "weight_decay": 0.1,
            "max_norm": 1.0,
        }
        history = finetune(model, ROWS, LABELS, epochs=4, batch_size=15, **settings, **QUIET, **keeping)
        return unhurried(history), model.state_dict()

    (history, state), (history_whole, state_whole) = broken_and_whole(run, tmp_path, breaking, saves)
    assert history == history_whole
    same(state, state_whole)


@pytest.mark.parametrize("name", SOURCES)
def test_rows_of_any_source_go_on_where_they_were(name, tmp_path, breaking):
    def run(**keeping):
        torch.manual_seed(5)
        model = nn.Sequential(nn.Linear(6, 2))
        nn.init.zeros_(model[0].weight)
        x, y = SOURCES[name]()
        finetune(model, x, y, epochs=3, batch_size=15, progress=False, **keeping)
        return model.state_dict()

    same(*broken_and_whole(run, tmp_path, breaking, 2))


def test_a_finished_run_is_given_back_without_a_step(tmp_path):
    def run():
        seen, stack = [], DBN([6, 5, 4], seed=0)
        histories = stack.pretrain(ROWS, epochs=2, checkpoint=tmp_path, callback=seen.append, **QUIET)
        return seen, histories, stack

    (first, histories, stack), (second, again, stack_again) = run(), run()
    assert (len(first), second) == (4, [])
    assert [list(history) for history in histories] == [list(history) for history in again]
    same(stack.state_dict(), stack_again.state_dict())
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize(("number", "error"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)])
def test_a_signal_saves_and_stops_and_leaves_the_handlers_as_they_were(number, error, tmp_path):
    before, model = signal.getsignal(number), nn.Sequential(nn.Linear(6, 2))
    seen = []

    def interrupt(record):
        seen.append(record["epoch"])
        if record["epoch"] == 2:
            os.kill(os.getpid(), number)

    settings = {"epochs": 4, "checkpoint": tmp_path, "callback": interrupt, **QUIET}
    with pytest.raises(error):
        finetune(model, ROWS, LABELS, **settings)
    assert signal.getsignal(number) == before
    finetune(model, ROWS, LABELS, **settings)
    assert seen == [1, 2, 3, 4]


def test_a_second_signal_stops_at_once(tmp_path):
    def interrupt(record):
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second signal must have stopped this")

    with pytest.raises(KeyboardInterrupt):
        train(RBM(6, 4, seed=0), ROWS, epochs=2, callback=interrupt, checkpoint=tmp_path, **QUIET)


def test_without_a_folder_signals_are_left_alone():
    def interrupt(record):
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler

    train(RBM(6, 4, seed=0), ROWS, epochs=1, callback=interrupt, **QUIET)


def test_numbers_of_numpy_are_numbers(tmp_path):
    settings = {"epochs": np.int64(2), "batch_size": np.int64(20), "learning_rate": np.float32(0.1), "seed": 0}
    settings |= {"weight_decay": np.float64(2e-4), "sparsity_target": np.float32(0.1), "progress": False}
    settings |= {"stopping": EarlyStopping(largest_gap=np.float64(99.0), patience=np.int64(4)), "validation": ROWS}
    runs = [train(RBM(6, 4, seed=0), ROWS, checkpoint=tmp_path, **settings) for _ in range(2)]
    assert list(runs[0]) == list(runs[1])

    def sgd(groups, lr):
        return torch.optim.SGD(groups, lr=lr, momentum=np.float64(0.9))

    first = nn.Sequential(nn.Linear(6, 2))
    for _ in range(2):
        model = copy.deepcopy(first)
        finetune(model, ROWS, LABELS, epochs=1, batch_size=np.int64(20), optimiser=sgd, checkpoint=tmp_path / "f")


def test_schedules_are_evaluated_inside_the_run_only(tmp_path):
    train(RBM(6, 4), ROWS, epochs=2, learning_rate=lambda epoch: [0.1, 0.05][int(epoch)], checkpoint=tmp_path, **QUIET)
    model, rate = nn.Sequential(nn.Linear(6, 2)), lambda epoch: 1e-3 * (1 - epoch / 2)
    finetune(model, ROWS, LABELS, epochs=2, learning_rate=rate, checkpoint=tmp_path / "f", **QUIET)


def test_machines_that_had_not_begun_go_on_from_where_they_were(tmp_path, breaking):
    whole = DBN([6, 5, 4], seed=0)
    whole.pretrain(ROWS, epochs=2, **QUIET)
    stack = DBN([6, 5, 4], seed=0)
    breaking(1)
    with pytest.raises(Broken):
        stack.pretrain(ROWS, epochs=2, checkpoint=tmp_path, **OFTEN, **QUIET)
    breaking(0)
    with pytest.raises(ValueError, match=r"other first weights: .* weights made from the same seed"):
        DBN([6, 5, 4], seed=1).pretrain(ROWS, epochs=2, checkpoint=tmp_path, **OFTEN, **QUIET)
    stack = DBN([6, 5, 4], seed=0)
    stack.pretrain(ROWS, epochs=2, checkpoint=tmp_path, **OFTEN, **QUIET)
    same(stack.state_dict(), whole.state_dict())


def test_a_run_that_draws_by_itself_leaves_the_global_state_alone(tmp_path):
    train(RBM(6, 4, seed=0), ROWS, epochs=1, checkpoint=tmp_path, **QUIET)
    torch.manual_seed(8)
    before = torch.get_rng_state()
    train(RBM(6, 4, seed=0), ROWS, epochs=1, checkpoint=tmp_path, **QUIET)
    DBN([6, 4, 3], seed=0).pretrain(ROWS, epochs=1, checkpoint=tmp_path / "b", **QUIET)
    assert torch.equal(before, torch.get_rng_state())


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        train(RBM(6, 4, seed=0), ROWS, epochs=2, checkpoint=tmp_path,
              callback=lambda record: os.kill(os.getpid(), signal.SIGINT), **QUIET)  # fmt: skip
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_chains_load_into_an_estimator_that_has_not_begun():
    for kind in (lambda: PCD(7), lambda: FastPCD(7), lambda: ParallelTempering(5, 3)):
        begun, fresh = kind(), kind()
        train(RBM(6, 4, seed=0), ROWS, epochs=1, estimator=begun, **QUIET)
        fresh.load_state_dict(begun.state_dict())
        same(begun.state_dict(), fresh.state_dict())
