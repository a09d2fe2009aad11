"""What users pass becomes what the library computes with, or is refused by name."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dbn.runtime.checks import (
    as_generator,
    as_rows,
    as_tensor,
    check_finite,
    choose_device,
    finite_number,
    per_layer,
    whole_number,
)

CPU = torch.device("cpu")
LIKE = torch.zeros(1, dtype=torch.float64)
NUMBERS = st.one_of(
    arrays.floating_dtypes(sizes=(16, 32, 64), endianness="?"),
    arrays.integer_dtypes(endianness="?"),
    arrays.unsigned_integer_dtypes(endianness="?", sizes=(8, 16, 32)),
    arrays.boolean_dtypes(),
)
VIEWS = [lambda x: x, lambda x: x[::-1], lambda x: x[:, ::-1], lambda x: np.asfortranarray(x), lambda x: x[::2]]


@settings(deadline=None, max_examples=60, derandomize=True)
@given(NUMBERS.flatmap(lambda dtype: arrays.arrays(dtype, st.tuples(st.integers(1, 4), st.just(3)))), st.data())
def test_rows_of_any_layout_and_dtype_hold_the_arrays_numbers(array, data):
    view = data.draw(st.sampled_from(VIEWS))(array)
    view.flags.writeable = data.draw(st.booleans())
    rows = as_rows(view, 3, like=LIKE, name="x")
    assert rows.dtype == LIKE.dtype
    np.testing.assert_array_equal(rows.numpy(), view.astype(np.float64))


@pytest.mark.parametrize("shape", [(4, 6), (4, 2, 3), (4, 1, 2, 3)])
@pytest.mark.parametrize("make", [torch.ones, np.ones])
def test_dimensions_after_the_first_are_flattened(shape, make):
    assert as_rows(make(shape), 6, like=LIKE, name="x").shape == (4, 6)


def test_a_tensor_that_fits_is_not_copied():
    x = torch.zeros(2, 3, dtype=torch.float64)
    assert as_rows(x, 3, like=LIKE, name="x").data_ptr() == x.data_ptr()


@pytest.mark.parametrize(
    ("x", "error"),
    [
        ([[1, 2, 3]], TypeError),
        (None, TypeError),
        ("abc", TypeError),
        (np.array([["a", "b", "c"]]), TypeError),
        (np.array([[None, 1, 2]]), TypeError),
        (np.zeros((2, 3), dtype=complex), TypeError),
        (np.zeros((2, 3), dtype="datetime64[s]"), TypeError),
        (torch.zeros(2, 3, dtype=torch.cfloat), TypeError),
        (torch.zeros(2, 3).to_sparse(), TypeError),
        (torch.zeros(3), ValueError),
        (np.zeros(3), ValueError),
        (torch.zeros(()), ValueError),
        (torch.zeros(2, 4), ValueError),
        (torch.zeros(2, 3, 2), ValueError),
    ],
)
def test_what_is_no_row_of_numbers_is_refused_by_name(x, error):
    with pytest.raises(error, match=r"^pixels "):
        as_rows(x, 3, like=LIKE, name="pixels")


@given(arrays.arrays(np.float64, (5, 3), elements=st.sampled_from([0.0, 1.0, math.nan, math.inf, -math.inf])))
@settings(deadline=None, max_examples=40, derandomize=True)
def test_check_finite_counts_the_bad_rows(array):
    bad = int((~np.isfinite(array)).any(1).sum())
    if not bad:
        check_finite(torch.from_numpy(array), "x")
        return
    with pytest.raises(ValueError, match=f"x has NaN or infinite values in {bad} of 5 rows"):
        check_finite(torch.from_numpy(array), "x")


def test_a_seed_is_a_new_generator_and_a_generator_is_itself():
    given_one = torch.Generator()
    assert as_generator(given_one, None, CPU) is given_one
    assert as_generator(None, None, CPU) is None
    first, second = (torch.rand(3, generator=as_generator(None, 7, CPU)) for _ in range(2))
    assert torch.equal(first, second)
    assert as_generator(None, np.int64(7), CPU).initial_seed() == 7


@pytest.mark.parametrize(
    ("generator", "seed", "error", "words"),
    [
        (torch.Generator(), 1, ValueError, "generator and seed"),
        (None, -1, ValueError, "seed is -1"),
        (None, 1.5, TypeError, "seed is 1.5"),
        (None, True, TypeError, "seed is True"),
        (None, "1", TypeError, "seed is '1'"),
        (3, None, TypeError, "generator is 3"),
        (np.random.default_rng(0), None, TypeError, "generator is"),
    ],
)
def test_other_sources_of_randomness_are_refused_by_name(generator, seed, error, words):
    with pytest.raises(error, match=words):
        as_generator(generator, seed, CPU)


def test_a_generator_elsewhere_is_refused():
    with pytest.raises(ValueError, match="generator is on cpu, the module on meta"):
        as_generator(torch.Generator(), None, torch.device("meta"))


@pytest.mark.parametrize("value", [0, 1, 10**6, np.int32(3), np.uint8(3)])
def test_whole_numbers_pass(value):
    assert whole_number(value, "n", at_least=0) == value
    assert type(whole_number(value, "n", at_least=0)) is int


@pytest.mark.parametrize("value", [1.0, True, "1", None, np.float64(1), [1], math.nan])
def test_what_is_no_whole_number_is_refused(value):
    with pytest.raises(TypeError, match=r"^n is "):
        whole_number(value, "n")


@pytest.mark.parametrize(("value", "at_least"), [(0, 1), (-1, 0), (4, 5)])
def test_whole_numbers_that_are_too_small_are_refused(value, at_least):
    with pytest.raises(ValueError, match=f"^n is {value}: .* at least {at_least}"):
        whole_number(value, "n", at_least=at_least)


@given(st.floats())
@settings(deadline=None, max_examples=60, derandomize=True)
def test_finite_numbers_pass_and_no_others(value):
    for positive in (False, True):
        if math.isfinite(value) and (value > 0 or (value == 0 and not positive)):
            assert finite_number(value, "rate", positive=positive) == value
        else:
            with pytest.raises(ValueError, match=r"^rate is "):
                finite_number(value, "rate", positive=positive)


@pytest.mark.parametrize("value", ["0.1", None, True, [0.1], 1j, torch.tensor(0.1)])
def test_what_is_no_number_is_refused(value):
    with pytest.raises(TypeError, match=r"^rate is "):
        finite_number(value, "rate")


@given(st.lists(st.integers(), max_size=6), st.integers(1, 5), st.booleans())
@settings(deadline=None, max_examples=60, derandomize=True)
def test_one_value_a_layer_or_one_for_all(values, layers, as_tuple):
    assert per_layer("same", layers, "rate") == ["same"] * layers
    given_values = tuple(values) if as_tuple else values
    if len(values) == layers:
        assert per_layer(given_values, layers, "rate") == values
        return
    with pytest.raises(ValueError, match=f"rate has {len(values)} values for {layers} layers"):
        per_layer(given_values, layers, "rate")


def test_devices():
    assert choose_device("cpu") == CPU
    assert choose_device(CPU) == CPU
    assert choose_device("auto").type in ("cpu", "cuda", "mps")


def test_as_tensor_leaves_its_argument_as_it_was():
    array = np.arange(6.0)[::-1]
    array.flags.writeable = False
    as_tensor(array, "x").mul_(0)
    np.testing.assert_array_equal(array, np.arange(6.0)[::-1])
