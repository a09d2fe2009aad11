"""Exact likelihoods, held against brute force over both layers."""

import copy
import math

import pytest
import torch

from dbn.likelihood import exact_log_partition, log_likelihood, log_partition_over
from dbn.rbm import RBM
from dbn.units import Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, ReLU, Spin
from tests.support.oracles import (
    ENUMERABLE,
    ENUMERABLE_PAIRS,
    HALF_ENUMERABLE_PAIRS,
    UNITS,
    brute_log_partition,
    machine,
    measure,
    rows,
    states,
)

close = torch.testing.assert_close


@pytest.mark.parametrize("pair", HALF_ENUMERABLE_PAIRS)
def test_log_z_is_the_sum_over_both_layers(pair):
    rbm = machine(*pair, scale=0.7)
    value = exact_log_partition(rbm)
    assert (value.shape, value.dtype, value.requires_grad) == ((), torch.float64, False)
    close(value, brute_log_partition(rbm), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pair", ENUMERABLE_PAIRS)
def test_log_z_is_the_same_from_either_side(pair):
    rbm = machine(*pair, scale=2.0)
    close(log_partition_over(rbm, "visible"), log_partition_over(rbm, "hidden"), rtol=1e-12, atol=1e-12)


def test_a_broken_free_energy_does_not_agree_from_either_side():
    rbm = machine("bernoulli", "spin")
    rbm.visible.log_partition = rbm.hidden.log_partition
    assert (log_partition_over(rbm, "visible") - log_partition_over(rbm, "hidden")).abs() > 1e-3


@pytest.mark.parametrize("chunk", [1, 3, 7, 8, 9])
def test_log_z_does_not_depend_on_how_the_states_are_cut(chunk, monkeypatch):
    rbm = machine("bernoulli", "groups")
    whole = log_partition_over(rbm, "visible")
    monkeypatch.setattr("dbn.likelihood.exact._CHUNK", chunk)
    close(log_partition_over(rbm, "visible"), whole)


@torch.no_grad()
def test_log_z_stays_finite_where_its_exponential_overflows():
    rbm = machine("bernoulli", "bernoulli")
    rbm.weight.fill_(400.0)
    expected = 9 * 400.0 + rbm.visible_bias.sum() + rbm.hidden_bias.sum()
    close(exact_log_partition(rbm), expected)


@pytest.mark.parametrize("hidden", UNITS)
@torch.no_grad()
def test_flipping_and_swapping_move_log_z_as_they_should(hidden):
    rbm, flipped, swapped = machine("bernoulli", hidden), machine("bernoulli", hidden), machine(hidden, "bernoulli")
    flipped.weight[0].neg_()
    flipped.visible_bias[0].neg_()
    flipped.hidden_bias.add_(rbm.weight[0])
    swapped.weight.copy_(rbm.weight.T)
    swapped.visible_bias.copy_(rbm.hidden_bias)
    swapped.hidden_bias.copy_(rbm.visible_bias)
    close(exact_log_partition(flipped), exact_log_partition(rbm) - rbm.visible_bias[0])
    close(exact_log_partition(swapped), exact_log_partition(rbm))


@pytest.mark.parametrize("pair", HALF_ENUMERABLE_PAIRS)
@torch.no_grad()
def test_without_weights_log_z_is_the_sum_of_both_log_partitions(pair):
    rbm = machine(*pair)
    rbm.weight.zero_()
    expected = rbm.visible.log_partition(rbm.visible_bias) + rbm.hidden.log_partition(rbm.hidden_bias)
    close(exact_log_partition(rbm), expected)


@pytest.mark.parametrize("pair", HALF_ENUMERABLE_PAIRS)
@torch.no_grad()
def test_probabilities_sum_and_densities_integrate_to_one(pair):
    rbm = machine(*pair)
    log_partition = exact_log_partition(rbm)
    if rbm.visible.cardinality is not None:
        x, log_weights = measure(rbm.visible, rbm.visible_bias)
        total = (log_weights + log_likelihood(rbm, x, log_partition)).logsumexp(0)
        close(total, torch.zeros_like(total), rtol=0, atol=1e-10)
        return
    # The density is a mixture over hidden states: its share of each component is integrated on that one's own grid.
    h = states(rbm.hidden)
    fields = rbm.visible_field(h)
    share = (-rbm.hidden_free_energy(h)).softmax(0)
    total = torch.zeros((), dtype=torch.float64)
    for place, field in enumerate(fields):
        x, log_weights = measure(rbm.visible, field)
        component = (rbm.visible.log_base(x) + x @ field - rbm.visible.log_partition(field)).exp() * share[place]
        mixture = torch.stack(
            [rbm.visible.log_base(x) + x @ f - rbm.visible.log_partition(f) + s.log()
             for f, s in zip(fields, share, strict=True)]
        ).logsumexp(0)  # fmt: skip
        density = log_likelihood(rbm, x, log_partition)
        close(density, mixture, rtol=1e-9, atol=1e-9)
        total += (log_weights.exp() * component * (density - mixture).exp()).sum()
    close(total, torch.ones_like(total), rtol=0, atol=1e-9)


def test_a_gaussian_density_integrates_to_one_on_one_grid():
    rbm = machine(Gaussian(1, precision=2.0).double(), "spin", scale=1.0)
    x = torch.linspace(-30, 30, 6001, dtype=torch.float64)[:, None]
    density = log_likelihood(rbm, x, exact_log_partition(rbm)).exp()
    close(torch.trapezoid(density, dx=0.01), torch.ones((), dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("pair", [("bernoulli", "gaussian"), ("learned", "spin"), ("relu", "groups")])
def test_the_machine_passed_is_left_as_it_was(pair):
    rbm = machine(*pair).float()
    before = copy.deepcopy(rbm.state_dict())
    x = rows(rbm.visible, 3)
    value = exact_log_partition(rbm)
    likelihood = log_likelihood(rbm, x, value)
    assert value.dtype == likelihood.dtype == torch.float64
    for name, tensor in rbm.state_dict().items():
        assert tensor.dtype == torch.float32
        assert torch.equal(tensor, before[name])
    assert all(parameter.grad is None for parameter in rbm.parameters())
    close(value, exact_log_partition(copy.deepcopy(rbm).double()), rtol=0, atol=0)
    close(likelihood, log_likelihood(rbm, x, float(value)), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("visible", "hidden"),
    [(NoisyReLU(2), Bernoulli(2)), (Bernoulli(2), NoisyReLU(2)), (Spin(40), NoisyReLU(2)), (NoisyReLU(2), Spin(2000))],
)
def test_units_without_energy_are_refused_by_name(visible, hidden):
    rbm = RBM(visible, hidden)
    with pytest.raises(TypeError, match="NoisyReLU"):
        exact_log_partition(rbm)
    with pytest.raises(TypeError, match="NoisyReLU"):
        log_likelihood(rbm, torch.ones(1, visible.size), 0.0)


@pytest.mark.parametrize("units", [ReLU(2), Joint(Gaussian(1), Bernoulli(1))])
def test_two_sides_without_end_are_refused(units):
    with pytest.raises(TypeError, match="infinitely many states"):
        exact_log_partition(RBM(Gaussian(2), units))


@pytest.mark.parametrize(
    "pair", [(Bernoulli(30), Spin(26)), (Gaussian(3), Bernoulli(2000)), (2000, Categorical(3000, 3))]
)
def test_too_many_states_are_refused(pair):
    with pytest.raises(ValueError, match=r"states.*2\*\*25"):
        exact_log_partition(RBM(*pair))


def test_a_side_without_end_is_not_enumerated():
    with pytest.raises(TypeError, match="infinitely many states"):
        log_partition_over(RBM(Gaussian(2), 3), "visible")


def test_rows_of_the_wrong_width_are_refused_by_name():
    with pytest.raises(ValueError, match=r"has 4 columns.*3 units"):
        log_likelihood(RBM(3, 2), torch.zeros(5, 4), 0.0)


def test_single_precision_rows_lose_nothing():
    rbm = machine("bernoulli", "bernoulli")
    v = states(rbm.visible)
    close(log_likelihood(rbm, v.float(), math.log(3)), log_likelihood(rbm, v, math.log(3)), rtol=0, atol=0)


@pytest.mark.parametrize("name", ENUMERABLE)
def test_the_likelihood_favours_the_states_that_the_machine_samples(name):
    rbm = machine(name, "bernoulli", scale=1.5)
    v = states(rbm.visible)
    p = log_likelihood(rbm, v, exact_log_partition(rbm)).exp()
    dreamt = rbm.gibbs(v.repeat(2000, 1), steps=20, seed=0)
    expected = p @ v
    error = ((p @ v.square() - expected.square()) / len(dreamt)).sqrt()
    assert bool(((dreamt.mean(0) - expected).abs() <= 5 * error + 1e-3).all())
