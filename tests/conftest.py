"""Fixtures that cost something, shared by all tests."""

import pytest

from experiments.processes import Processes


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
