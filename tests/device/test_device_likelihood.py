"""Likelihoods and chains on the device that --device names are those of the CPU."""

import copy

import pytest

from dbn import (
    EarlyStopping,
    ais,
    bracket,
    exact_log_partition,
    log_likelihood,
    lower_bound,
    pseudo_log_likelihood,
    reverse_ais,
    score_by_ais,
    train,
)
from dbn.rbm import RBM
from tests.support.device_checks import QUIET, ROWS, assert_alike, assert_close, assert_sound, numbers, on
from tests.support.oracles import (
    ENUMERABLE_PAIRS,
    HALF_ENUMERABLE_PAIRS,
    assert_distributed,
    draw,
    machine,
    rows,
    stack_of,
    standard_error,
    visible_probabilities,
)


@pytest.mark.parametrize(("visible", "hidden"), ENUMERABLE_PAIRS)
def test_chains_come_to_the_distribution_of_the_machine(visible, hidden, device):
    rbm = machine(visible, hidden, scale=0.5)
    found = copy.deepcopy(rbm).float().to(device).gibbs(rows(rbm.visible, 5000), steps=10, generator=on(device))
    assert_distributed(found.cpu().double(), *visible_probabilities(rbm))


@pytest.mark.parametrize(("visible", "hidden"), HALF_ENUMERABLE_PAIRS)
def test_exact_likelihoods_are_those_of_the_cpu(visible, hidden, device):
    rbm, results = machine(visible, hidden), []
    v, h = rows(rbm.visible, 9), rows(rbm.hidden, 9)
    for place in (device, "cpu"):
        moved = copy.deepcopy(rbm).to(place)
        log_z = exact_log_partition(moved)
        found = [log_z, log_likelihood(moved, v, log_z), moved.energy(v, h), moved.hidden_free_energy(h)]
        results.append([value.detach() for value in found])
    assert_close(*results, device, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("visible", "hidden"), ENUMERABLE_PAIRS)
def test_estimates_agree_with_enumeration_on_the_cpu(visible, hidden, device):
    rbm = machine(visible, hidden, scale=0.5, seed=3)
    exact, moved = float(exact_log_partition(rbm)), copy.deepcopy(rbm).float().to(device)
    samples = draw(*visible_probabilities(rbm), 300)
    forward = ais(moved, chains=300, temperatures=30, **QUIET)
    back = reverse_ais(moved, samples, temperatures=30, **QUIET)
    for estimate in (forward, back):
        assert estimate.value == pytest.approx(exact, abs=5 * standard_error(estimate) + 1e-5)
    states = visible_probabilities(rbm)[0]
    (ours, theirs) = (pseudo_log_likelihood(copy.deepcopy(rbm).to(place), states) for place in (device, "cpu"))
    assert_close([ours], [theirs], device, rtol=1e-10, atol=1e-10)
    some = pseudo_log_likelihood(moved, states, variables=1, seed=0)
    assert_sound([some], device)


def test_the_bracket_is_trusted_and_right(device):
    rbm = machine("bernoulli", "spin", scale=0.5)
    found = bracket(copy.deepcopy(rbm).to(device), rows(rbm.visible, 50), temperatures=100, gibbs_steps=50, **QUIET)
    assert found.trusted
    errors = map(standard_error, (*found.forward, found.reverse))
    assert found.value == pytest.approx(float(exact_log_partition(rbm)), abs=5 * max(errors))


def test_bounds_of_stacks_are_those_of_the_cpu(device):
    stack = stack_of("bernoulli", "spin", "groups")
    x, log_z = rows(stack.layers[0].visible, 5), exact_log_partition(stack.layers[-1])
    drawn_from_none = [lower_bound(stack_of("bernoulli", "spin").to(place), x, 1.0) for place in (device, "cpu")]
    assert_close(drawn_from_none[:1], drawn_from_none[1:], device)
    there = copy.deepcopy(stack).to(device)
    ours = [float(lower_bound(there, x, log_z, samples=20, seed=seed).mean()) for seed in range(20)]
    assert_alike(ours, [float(lower_bound(stack, x, log_z, samples=20, seed=seed).mean()) for seed in range(20, 40)])


def test_a_machine_stops_where_its_estimated_likelihood_falls(device):
    rbm = RBM(8, 5, seed=0).to(device)
    stopping = EarlyStopping(score_by_ais(ROWS, temperatures=20), patience=1)
    history = train(rbm, ROWS, epochs=3, batch_size=30, stopping=stopping, validation=ROWS[:20], **QUIET)
    assert_sound(numbers(rbm), device)
    assert {"score", "free_energy_gap"} <= set(history.last)
