"""Fixtures that cost something, shared by all tests, the device that tests of devices run on, and slow tests."""

import importlib
import os
from types import SimpleNamespace

import pytest
import torch

import dbn.finetuning.graphed_step
import dbn.runtime.cuda_graph
import dbn.training.graphed_update
from dbn.runtime.checks import choose_device
from experiments.benchmarking.rank_pool import RankPool
from tests.support import fake_cuda_graph

# Models are small here, and threads of several workers would wait for each other.
os.environ["OMP_NUM_THREADS"] = "1"  # in the processes that tests start
torch.set_num_threads(1)

_SLOW = pytest.StashKey[int]()

annealing = importlib.import_module("dbn.likelihood.ais")  # the package has a function of that name


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the tests of devices run, such as cuda; cpu by default")
    parser.addoption("--default-dtype", default="float32", help="torch's default dtype while the tests run")


def pytest_configure(config):
    config.stash[_SLOW] = 0
    torch.set_default_dtype(getattr(torch, config.getoption("--default-dtype")))


def pytest_itemcollected(item):
    """Three processes start slowly on two cores; the laws of two are enough for every run."""
    if "three" in getattr(item, "fixturenames", ()):
        item.add_marker(pytest.mark.slow)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Tests of several processes come first: one worker does them all, and the other steals from the end."""
    items.sort(key=lambda item: not {"two", "three"} & set(getattr(item, "fixturenames", ())))


def pytest_deselected(items):
    for item in items:
        item.config.stash[_SLOW] += item.get_closest_marker("slow") is not None


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):  # a worker of pytest-xdist tells the main process
        session.config.workeroutput["slow"] = session.config.stash[_SLOW]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node):
    node.config.stash[_SLOW] = max(node.config.stash[_SLOW], getattr(node, "workeroutput", {}).get("slow", 0))


def pytest_terminal_summary(terminalreporter, config):
    if count := config.stash[_SLOW]:
        terminalreporter.write_line(f"{count} slow tests left out: run them by -m slow, or all tests by -m ''")


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
        return fake_cuda_graph.capture(*arguments)

    def replay(tape, original=fake_cuda_graph.Tape.replay):
        seen.replays += 1
        original(tape)

    def turn_on():
        for module in (dbn.training.graphed_update, dbn.finetuning.graphed_step, annealing):
            monkeypatch.setattr(module, "can_capture", lambda device: True)
        monkeypatch.setattr(dbn.runtime.cuda_graph, "capture", record)
        monkeypatch.setattr(fake_cuda_graph.Tape, "replay", replay)
        return seen

    return turn_on
