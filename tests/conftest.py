"""Fixtures that cost something, shared by all tests."""

import pytest

from tests.ranks import Ranks


@pytest.fixture(scope="session")
def two():
    """Two processes that work as one."""
    ranks = Ranks(2)
    yield ranks
    ranks.stop()


@pytest.fixture(scope="session")
def three():
    """Three processes, among which things cannot be split evenly."""
    ranks = Ranks(3)
    yield ranks
    ranks.stop()
