"""Which cases of a law are tried at every run of the tests."""

from collections.abc import Iterable
from typing import Any

import pytest


def slow_but_for(fast: Iterable[Any], cases: Iterable[Any]) -> list[Any]:
    """All cases of one parameter, of which those not in `fast` are marked slow."""
    fast, cases = list(fast), list(cases)
    assert all(case in cases for case in fast), "a fast case that is none"
    return [case if case in fast else pytest.param(case, marks=pytest.mark.slow) for case in cases]
