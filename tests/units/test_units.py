"""Laws of the exponential families, held against enumeration and quadrature."""

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.special import log_ndtr

from dbn.units import Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, ReLU, Spin, Unit, as_unit, from_config
from tests.support.oracles import (
    ENUMERABLE,
    UNITS,
    assert_distributed,
    assert_moments,
    distribution,
    generator,
    log_base,
    mild_field,
    moments,
    rows,
    states,
    unit,
)

EPS = torch.finfo(torch.float64).eps
WIDE = (-1000.0, -100.0, -30.0, -4.0001, -4.0, -3.9999, -1.0, 0.0, 0.5, 4.0, 14.0, 30.0, 40.0, 100.0, 1000.0)
SAMPLED = [*UNITS, "noisy"]
RECTIFIED_FIELDS = (-100.0, -30.0, -4.01, -3.99, 0.0, 5.0, 20.0)


def wide_fields(size, dtype=torch.float64):
    """All values of WIDE in every column, in different orders: (n, size)."""
    return torch.stack([torch.tensor(WIDE, dtype=dtype).roll(3 * column) for column in range(size)], 1)


@pytest.mark.parametrize("name", UNITS)
def test_the_mean_is_the_slope_of_the_log_partition(name):
    units = unit(name)
    field = wide_fields(units.size).requires_grad_()
    (slope,) = torch.autograd.grad(units.log_partition(field).sum(), field)
    # The slope of log erfcx subtracts numbers as large as the field.
    assert bool(((slope - units.mean(field)).abs() <= 8 * EPS * (field.abs() + 1) + 1e-12 * slope.abs()).all())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", UNITS)
def test_the_log_partition_is_the_same_with_a_slope_and_without(name, dtype):
    # Without one, Bernoulli units multiply a hundred factors before they take a logarithm.
    units = Bernoulli(307) if name == "bernoulli" else unit(name)
    field = wide_fields(units.size, dtype)
    with_slope = units.to(dtype).log_partition(field.clone().requires_grad_()).detach()
    allowed = torch.finfo(dtype).eps * (8 * field.abs().sum(-1) + units.size)
    assert bool(((units.log_partition(field) - with_slope).abs() <= allowed).all())


@pytest.mark.parametrize("name", SAMPLED)
def test_means_and_samples_may_be_written_over_their_field(name):
    units, field = unit(name).float(), torch.randn(9, unit(name).size, generator=generator(1))
    mean, drawn = units.mean(field), units.sample(field, generator=generator(2))
    over, beside = field.clone(), torch.empty_like(field)
    with torch.no_grad():
        assert units.mean(over, out=over) is over
    torch.testing.assert_close(over, mean, rtol=0, atol=0)
    assert units.sample(field, mean=mean, generator=generator(2), out=beside) is beside
    close_to = 0 if units.draws_from_mean else 1e-5  # rectified units find the field of the mean by bisection
    torch.testing.assert_close(beside, drawn, rtol=close_to, atol=close_to)
    over.copy_(field)
    torch.testing.assert_close(units.sample(over, generator=generator(2), out=over), drawn, rtol=0, atol=0)


@pytest.mark.parametrize("name", UNITS)
def test_the_slope_of_the_mean_is_the_variance(name):
    units = unit(name)
    field = wide_fields(units.size).requires_grad_()
    for function in (units.mean, units.activation()):
        jacobian = torch.stack([torch.autograd.functional.jacobian(function, row).diag() for row in field])
        variance = torch.stack([moments(units, row)[1] for row in field.detach()])
        torch.testing.assert_close(jacobian, variance, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", SAMPLED)
def test_values_and_slopes_are_finite_at_any_field(name, dtype):
    units = unit(name).to(dtype)
    functions = [units.mean, units.activation().to(dtype)] + ([units.log_partition] if units.has_energy else [])
    for function in functions:
        field = wide_fields(units.size, dtype).requires_grad_()
        value = function(field)
        (slope,) = torch.autograd.grad(value.sum(), field)
        assert bool(value.isfinite().all())
        assert bool(slope.isfinite().all())
    assert bool(units.sample(field.detach(), generator=generator()).isfinite().all())


@pytest.mark.parametrize("name", SAMPLED)
def test_the_activation_computes_the_mean(name):
    units = unit(name)
    field = wide_fields(units.size)
    torch.testing.assert_close(units.activation()(field), units.mean(field), rtol=4 * EPS, atol=0)
    torch.testing.assert_close(units.activation()(field[0]), units.mean(field[0]), rtol=4 * EPS, atol=0)


@pytest.mark.parametrize("name", UNITS)
def test_log_partition_and_mean_are_integrals_over_the_base_measure(name):
    units = unit(name)
    for field in [mild_field(units.size), *wide_fields(units.size)]:
        points, p, log_mass = distribution(units, field)
        torch.testing.assert_close(units.log_base(points), log_base(units, points))
        torch.testing.assert_close(units.log_partition(field).detach(), log_mass, rtol=1e-12, atol=1e-10)
        torch.testing.assert_close(units.mean(field).detach(), p @ points, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", UNITS)
def test_batch_dimensions_are_kept(name):
    units = unit(name)
    field = mild_field(6 * units.size).reshape(2, 3, units.size)
    assert units.log_partition(field).shape == units.log_base(field).shape == (2, 3)
    assert units.mean(field).shape == units.sample(field, generator=generator()).shape == field.shape
    torch.testing.assert_close(units.log_partition(field)[1, 2], units.log_partition(field[1, 2]))


@pytest.mark.parametrize("name", SAMPLED)
def test_rows_are_independent_draws_with_the_moments_of_theory(name):
    units, field = unit(name), mild_field(unit(name).size)
    batch = field.expand(20_000, -1)
    assert_moments(units, field, units.sample(batch, generator=generator()).detach())
    known = units.sample(batch, mean=units.mean(batch), generator=generator())
    close_to = 0 if units.draws_from_mean else 1e-9
    torch.testing.assert_close(known, units.sample(batch, generator=generator()), rtol=close_to, atol=close_to)


@pytest.mark.parametrize("name", SAMPLED)
def test_noise_shared_by_the_batch_breaks_the_law(name):
    units, field = unit(name), mild_field(unit(name).size)
    with pytest.raises(AssertionError):
        assert_moments(units, field, units.sample(field[None], generator=generator()).expand(20_000, -1).detach())


def test_noise_shared_by_the_columns_breaks_the_law():
    units, field = unit("bernoulli"), mild_field(3)
    threshold = torch.rand(20_000, 1, dtype=torch.float64, generator=generator())
    with pytest.raises(AssertionError, match="columns"):
        assert_moments(units, field, (threshold < units.mean(field)).double())


def test_noise_after_the_rectification_breaks_the_law():
    units, field = unit("noisy"), mild_field(2)
    noise = torch.randn(20_000, 2, dtype=torch.float64, generator=generator())
    with pytest.raises(AssertionError, match="mean"):
        assert_moments(units, field, field.relu() + field.sigmoid().sqrt() * noise)


@pytest.mark.parametrize("name", ENUMERABLE)
def test_samples_are_distributed_as_enumerated(name):
    units, field = unit(name), 2 * mild_field(unit(name).size)
    points, p, _ = distribution(units, field)
    assert_distributed(units.sample(field.expand(20_000, -1), generator=generator()), points, p)
    with pytest.raises(AssertionError):
        assert_distributed(units.sample(-field.expand(20_000, -1), generator=generator()), points, p)


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_reproduce_and_leave_the_global_generator_alone(name):
    units, field = unit(name), mild_field(unit(name).size).expand(50, -1)
    before = torch.get_rng_state()
    first, again, other = (units.sample(field, generator=generator(seed)) for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(before, torch.get_rng_state())


def assert_truncated_normal(x, field):
    """Law of oracle 9: x in the support, the moments within 5 standard errors, the distribution by Kolmogorov."""
    assert bool(x.isfinite().all()), "infinite"
    assert bool((x >= 0).all()), "outside"
    assert float((x == 0).double().mean()) < 1e-4, "on the border, which has no mass"
    assert_moments(ReLU(1), torch.tensor([field]), x)
    rank = 1 - np.exp(log_ndtr(field - x[:, 0].double().numpy()) - log_ndtr(field))
    assert scipy.stats.kstest(rank, "uniform").pvalue > 1e-6, "distribution"


@pytest.mark.parametrize("field", RECTIFIED_FIELDS)
def test_rectified_samples_hold_in_single_precision_however_far_the_tail(field):
    batch = torch.full((100_000, 1), field)
    assert_truncated_normal(ReLU(1).sample(batch, generator=generator()), field)


def _inversion_from_below(field, uniform):
    below = torch.special.ndtr(-field)
    return field + torch.special.ndtri(below + uniform * (1 - below))


def _inversion_from_above(field, uniform):
    return field - torch.special.ndtri(uniform * torch.special.ndtr(field))


@pytest.mark.parametrize("sampler", [_inversion_from_below, _inversion_from_above])
@pytest.mark.parametrize("field", [-100.0, -30.0])
def test_inverting_the_distribution_in_single_precision_breaks_the_law(field, sampler):
    batch = torch.full((100_000, 1), field)
    with pytest.raises(AssertionError):
        assert_truncated_normal(sampler(batch, torch.rand(batch.shape, generator=generator())), field)


def test_mixed_fields_use_the_right_sampler_cell_by_cell():
    fields = torch.tensor(RECTIFIED_FIELDS)
    x = ReLU(len(fields)).sample(fields.expand(50_000, -1), generator=generator())
    for column, field in enumerate(RECTIFIED_FIELDS):
        assert_truncated_normal(x[:, column : column + 1], field)


@pytest.mark.parametrize("name", SAMPLED)
def test_the_field_of_a_mean_has_that_mean(name):
    units = unit(name)
    fields = torch.stack([mild_field(units.size, seed) for seed in range(20)])
    mean = units.mean(fields if name != "noisy" else fields.abs())
    torch.testing.assert_close(units.mean(units.field_of_mean(mean)), mean, rtol=1e-9, atol=1e-12)
    low, high = max(units.support[0], -2.0), min(units.support[1], 50.0)
    for border in (low, high):
        assert bool(units.field_of_mean(torch.full((1, units.size), border, dtype=torch.float64)).isfinite().all())


THREE_PARTS = Joint(Bernoulli(1), Bernoulli(3), Categorical(4, classes=2))


@pytest.mark.parametrize("units", [*map(unit, ENUMERABLE), THREE_PARTS], ids=str)
def test_the_numbers_name_every_state_once(units):
    found = units.states(torch.arange(units.cardinality))
    assert found.dtype == torch.float64
    assert {tuple(row) for row in found.tolist()} == {tuple(row) for row in states(units).tolist()}
    assert len(found) == len(states(units))
    assert torch.equal(units.states(torch.tensor([2, 0])), found[[2, 0]])


@pytest.mark.parametrize("name", [name for name in SAMPLED if name not in ENUMERABLE])
def test_real_units_have_no_states(name):
    assert unit(name).cardinality is None
    with pytest.raises(TypeError, match="infinitely many"):
        unit(name).states(torch.arange(2))


def test_states_beyond_64_bits_are_refused():
    with pytest.raises(ValueError, match=r"2\*\*64"):
        Bernoulli(64).states(torch.arange(2))


@pytest.mark.parametrize("name", SAMPLED)
def test_samples_and_means_are_data(name):
    units = unit(name)
    units.constrain_data(rows(units, 50), "data")
    units.constrain_data(units.mean(rows(units, 50)).detach(), "data")


@pytest.mark.parametrize(
    ("units", "row", "message"),
    [
        (Bernoulli(2), [0.0, 255.0], "data lies in 0..255.*pixels in 0..255: divide by 255, or use Gaussian"),
        (Bernoulli(2), [-1.0, 1.0], "data lies in -1..1.*rescale"),
        (Spin(2), [-2.0, 0.0], "data lies in -2..0.*rescale"),
        (Categorical(2), [0.5, 0.4], "data has groups of 2 columns that do not sum to 1"),
        (Categorical(4, classes=2), [1.0, 0.0, 1.0, 1.0], "do not sum to 1"),
        (Categorical(2), [2.0, -1.0], "data lies in -1..2"),
        (ReLU(2), [-0.1, 3.0], "data lies in -0.1..3.*0..inf"),
        (NoisyReLU(2), [-0.1, 3.0], "data lies in -0.1..3"),
        (Joint(Gaussian(1), Bernoulli(1)), [-5.0, 200.0], r"data\[:, 1:2\] lies in 200..200.*divide by 255"),
        (Joint(Bernoulli(1), Categorical(2)), [1.0, 1.0, 1.0], r"data\[:, 1:3\] has groups"),
    ],
)
def test_what_is_no_data_is_refused_with_advice(units, row, message):
    with pytest.raises(ValueError, match=message):
        units.constrain_data(torch.tensor([row, row]), "data")


@pytest.mark.parametrize("name", SAMPLED)
def test_the_configuration_rebuilds_the_units(name):
    units = unit(name)
    again = from_config(units.config()).double()
    again.load_state_dict(units.state_dict())
    assert (type(again), again.config(), str(again)) == (type(units), units.config(), str(units))
    assert [p.requires_grad for p in again.parameters()] == [p.requires_grad for p in units.parameters()]
    field = mild_field(units.size)
    torch.testing.assert_close(again.mean(field), units.mean(field), rtol=0, atol=0)


def test_unknown_configurations_and_sizes_are_refused():
    with pytest.raises(ValueError, match="'Poisson'"):
        from_config({"unit": "Poisson", "size": 3})
    for size in (0, -1, 2.0, True):
        with pytest.raises(ValueError, match="size"):
            Bernoulli(size)
    with pytest.raises(ValueError, match="classes"):
        Categorical(5, classes=2)
    for precision in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="precision"):
            Gaussian(2, precision=precision)
    with pytest.raises(ValueError, match="parts"):
        Joint()
    with pytest.raises(TypeError, match="parts"):
        Joint(3)
    with pytest.raises(TypeError, match="visible"):
        as_unit("3", "visible")
    with pytest.raises(ValueError, match="visible"):
        as_unit(0, "visible")


@pytest.mark.parametrize("units", [NoisyReLU(2), Joint(Bernoulli(1), NoisyReLU(1))])
def test_noisy_rectified_units_refuse_likelihoods_by_name(units):
    assert not units.has_energy
    for function in (units.log_partition, units.log_base):
        with pytest.raises(TypeError, match=r"NoisyReLU\(\d\) has no energy"):
            function(torch.zeros(1, 2))


@pytest.mark.parametrize("name", UNITS)
def test_the_own_gradient_is_the_slope_of_the_base_measure(name):
    units, field = unit(name), mild_field(unit(name).size)
    learned = {key: value for key, value in units.named_parameters() if value.requires_grad}
    assert bool(learned) == (name in ("learned", "mixed"))
    x = rows(units, 7)
    found, of_mean = units.own_gradient(x), units.own_gradient(units.mean(field)[None], field=field[None])
    assert found.keys() == of_mean.keys() == learned.keys()
    points, p, _ = distribution(units, field)
    for key, parameter in learned.items():
        (slope,) = torch.autograd.grad(units.log_base(x).mean(), parameter)
        torch.testing.assert_close(found[key], slope)
        (expected,) = torch.autograd.grad(p.detach() @ units.log_base(points), parameter)
        torch.testing.assert_close(of_mean[key], expected)
    by_autograd = Unit.own_gradient(units, x), Unit.own_gradient(units, units.mean(field)[None], field=field[None])
    torch.testing.assert_close(by_autograd, (found, of_mean))
