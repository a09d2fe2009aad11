"""Fixtures that cost something, shared by all tests, and the device that tests of devices run on."""

import importlib
from types import SimpleNamespace

import pytest
import torch

import dbn.finetuning.graphed_step
import dbn.runtime.cuda_graph
import dbn.training.graphed_update
from dbn.runtime.checks import choose_device
from experiments.benchmarking.rank_pool import RankPool
from tests import recorder

annealing = importlib.import_module("dbn.likelihood.ais")  # the package has a function of that name


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the tests of devices run, such as cuda; cpu by default")
    parser.addoption("--default-dtype", default="float32", help="torch's default dtype while the tests run")


def pytest_configure(config):
    torch.set_default_dtype(getattr(torch, config.getoption("--default-dtype")))


@pytest.fixture(scope="session")
def device(request):
    """The device that --device names; what needs it is skipped where it is not there."""
    name = request.config.getoption("--device")
    try:
        return choose_device(name)
    except ValueError as error:
        return pytest.skip(f"--device {name}: {error}")


@pytest.fixture(scope="session")
def two():
    """Two processes that work as one."""
    ranks = RankPool(2)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def three():
    """Three processes, among which things cannot be split evenly."""
    ranks = RankPool(3)
    yield ranks
    ranks.stop()


@pytest.fixture
def recording(monkeypatch):
    """A function that turns recording on, by a recorder of the CPU, and counts the recordings and replays since."""
    seen = SimpleNamespace(recordings=0, replays=0)

    def record(*arguments):
        seen.recordings += 1
        return recorder.record(*arguments)

    def replay(tape, original=recorder.Tape.replay):
        seen.replays += 1
        original(tape)

    def turn_on():
        for module in (dbn.training.graphed_update, dbn.finetuning.graphed_step, annealing):
            monkeypatch.setattr(module, "can_capture", lambda device: True)
        monkeypatch.setattr(dbn.runtime.cuda_graph, "capture", record)
        monkeypatch.setattr(recorder.Tape, "replay", replay)
        return seen

    return turn_on
