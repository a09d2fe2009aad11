"""Fixtures that cost something, shared by all tests, and the device that tests of devices run on."""

import pytest

from dbn.arguments import choose_device
from experiments.processes import Processes


def pytest_addoption(parser):
    parser.addoption("--device", default="cpu", help="where the tests of devices run, such as cuda; cpu by default")


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
    ranks = Processes(2)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def three():
    """Three processes, among which things cannot be split evenly."""
    ranks = Processes(3)
    yield ranks
    ranks.stop()
