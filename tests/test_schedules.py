"""Schedules are pure functions of the epoch with known ends."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dbn.estimators import CD
from dbn.schedules import as_schedule, constant, cosine, linear, switch

RATES = st.floats(0, 10)
DECAYS = pytest.mark.parametrize("decay", [linear, cosine])


@DECAYS
@given(start=RATES, end=RATES, epochs=st.floats(0.5, 100), place=st.floats(0, 1), after=st.floats(0, 100))
@settings(deadline=None, max_examples=50, derandomize=True)
def test_a_decay_goes_from_start_to_end_and_stays_there(decay, start, end, epochs, place, after):
    schedule = decay(start, end, epochs)
    assert schedule(0.0) == pytest.approx(start, abs=1e-9)
    assert schedule(epochs + after) == pytest.approx(end, abs=1e-9)
    assert min(start, end) - 1e-9 <= schedule(place * epochs) <= max(start, end) + 1e-9
    further = schedule(place * epochs + (1 - place) * epochs / 2)
    assert (further - schedule(place * epochs)) * (end - start) >= -1e-9, "a decay never turns back"


@DECAYS
def test_halfway_is_the_mean(decay):
    assert decay(0.4, 0.2, 6)(3) == pytest.approx(0.3)


def test_a_quarter_tells_the_cosine_from_the_line():
    assert linear(1.0, 0.0, 4)(1) == pytest.approx(0.75)
    assert cosine(1.0, 0.0, 4)(1) == pytest.approx((1 + 0.5**0.5) / 2)


@pytest.mark.parametrize(("epoch", "value"), [(0.0, 0.5), (4.999, 0.5), (5.0, 0.9), (5.5, 0.9), (100.0, 0.9)])
def test_hintons_momentum_rises_with_the_sixth_epoch(epoch, value):
    assert switch(0.5, 0.9, at=5)(epoch) == CD(1).suggested_momentum(epoch) == value


@pytest.mark.parametrize("epoch", [0.0, 3.7, 1e6])
def test_a_number_is_a_constant_schedule_and_a_schedule_is_itself(epoch):
    assert as_schedule(0.1, "rate")(epoch) == constant(0.1)(epoch) == 0.1
    line = linear(1, 0, 5)
    assert as_schedule(line, "rate")(epoch) == line(epoch)


def test_every_number_of_a_schedule_is_checked():
    for wrong, error in ((lambda epoch: None, TypeError), (lambda epoch: -1.0, ValueError), (len, TypeError)):
        with pytest.raises(error, match=r"^rate "):
            as_schedule(wrong, "rate")
    later = as_schedule(lambda epoch: 0.1 - epoch, "rate")
    assert later(0.05) == 0.05
    with pytest.raises(ValueError, match=r"rate is -0\.9"):
        later(1.0)


@pytest.mark.parametrize(
    ("value", "error"), [(-0.1, ValueError), (float("nan"), ValueError), (float("inf"), ValueError), ("0.1", TypeError)]
)
def test_what_is_neither_is_refused_by_name(value, error):
    with pytest.raises(error, match=r"^rate is "):
        as_schedule(value, "rate")
