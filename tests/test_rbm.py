"""Laws of the RBM for every pair of units, held against enumeration and quadrature of its energy."""

import pytest
import torch

from dbn.gradient import Phase, PhaseBuffers, add_gradient, gradient, phase
from dbn.rbm import RBM
from dbn.units import Bernoulli, Gaussian, NoisyReLU
from tests.support.oracles import (
    ENUMERABLE,
    ENUMERABLE_PAIRS,
    HALF_ENUMERABLE_PAIRS,
    PAIRS,
    UNITS,
    assert_distributed,
    brute_log_partition,
    distribution,
    draw,
    generator,
    log_base,
    log_integral_over_hidden,
    log_integral_over_visible,
    machine,
    measure,
    rows,
    states,
    visible_probabilities,
)

close = torch.testing.assert_close
DRAWS = 20_000


@pytest.mark.parametrize("pair", PAIRS)
def test_the_energy_is_the_formula(pair):
    rbm = machine(*pair)
    v, h = rows(rbm.visible, 5), rows(rbm.hidden, 5, seed=1)
    couplings = torch.einsum("ni,ij,nj->n", v, rbm.weight, h) + v @ rbm.visible_bias + h @ rbm.hidden_bias
    close(rbm.energy(v, h), -(log_base(rbm.visible, v) + log_base(rbm.hidden, h) + couplings))


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_free_energies_integrate_the_other_side(pair):
    rbm = machine(*pair)
    v, h = rows(rbm.visible, 4), rows(rbm.hidden, 4, seed=1)
    close(-rbm.free_energy(v), log_integral_over_hidden(rbm, v), rtol=1e-10, atol=1e-10)
    close(-rbm.hidden_free_energy(h), log_integral_over_visible(rbm, h), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_conditionals_are_those_of_the_energy(pair):
    rbm = machine(*pair)
    v, h = rows(rbm.visible, 1), rows(rbm.hidden, 1, seed=1)
    points, log_weights = measure(rbm.hidden, rbm.hidden_field(v)[0])
    p = (log_weights - rbm.energy(v.expand(len(points), -1), points)).softmax(0)
    close(rbm.mean_hidden(v)[0], p @ points, rtol=1e-9, atol=1e-10)
    points, log_weights = measure(rbm.visible, rbm.visible_field(h)[0])
    p = (log_weights - rbm.energy(points, h.expand(len(points), -1))).softmax(0)
    close(rbm.mean_visible(h)[0], p @ points, rtol=1e-9, atol=1e-10)
    close(rbm.reconstruct(v), rbm.mean_visible(rbm.mean_hidden(v)), rtol=0, atol=0)


@pytest.mark.parametrize("pair", PAIRS)
def test_the_explicit_gradient_is_that_of_the_free_energies(pair):
    rbm = machine(*pair)
    data, dream = rows(rbm.visible, 3), rows(rbm.visible, 7, seed=1)
    found = gradient(rbm, phase(rbm, data), phase(rbm, dream))
    parameters = {name: value for name, value in rbm.named_parameters() if value.requires_grad}
    ascent = rbm.free_energy(dream).mean() - rbm.free_energy(data).mean()
    expected = torch.autograd.grad(ascent, list(parameters.values()))
    assert found.keys() == parameters.keys()
    assert found.keys() >= {"weight", "visible_bias", "hidden_bias"}
    for name, slope in zip(parameters, expected, strict=True):
        close(found[name], slope, msg=lambda text, name=name: f"{name}: {text}")


@pytest.mark.parametrize("pair", PAIRS)
def test_phases_anywhere_and_in_adjoining_buffers_add_the_same_scaled_slope(pair):
    rbm = machine(*pair)
    data, dream = rows(rbm.visible, 3), rows(rbm.visible, 7, seed=1)
    parameters = {name: value for name, value in rbm.named_parameters() if value.requires_grad}
    ascent = 2.5 * (rbm.free_energy(dream).mean() - rbm.free_energy(data).mean())
    slopes = torch.autograd.grad(ascent, list(parameters.values()))
    for within in (False, True):
        buffers = PhaseBuffers(rbm, 3, 7)
        into = {name: torch.ones_like(value) for name, value in parameters.items()}
        with torch.no_grad():
            if within:
                phases = [
                    phase(rbm, part.visible.copy_(v), buffers=part)
                    for part, v in ((buffers.positive, data), (buffers.negative, dream))
                ]
                assert phases[1].hidden_mean.data_ptr() > phases[0].hidden_mean.data_ptr()
            else:
                phases = [phase(rbm, data), phase(rbm, dream)]
            add_gradient(rbm, into, *phases, buffers, scale=2.5, keep=0.5)
        for name, slope in zip(parameters, slopes, strict=True):
            close(into[name], 0.5 + slope)


def test_gradient_leaves_the_phases_alone():
    rbm = machine("bernoulli", "bernoulli")
    with torch.no_grad():
        phases = [phase(rbm, rows(rbm.visible, count)) for count in (3, 5)]
    parts = [part for phase in phases for part in phase[:3]]
    before = [part.clone() for part in parts]
    gradient(rbm, *phases)
    assert all(torch.equal(*pair) for pair in zip(before, parts, strict=True))


def test_visible_means_stand_for_the_whole_conditional_of_a_learned_precision():
    rbm = machine("learned", "bernoulli")
    field = rbm.visible_field(rows(rbm.hidden, 1))
    with torch.no_grad():
        dream = phase(rbm, rbm.visible.mean(field), visible_field=field)
        seen = dream._replace(visible_field=None)
    points, p, _ = distribution(rbm.visible, field.detach()[0])
    (expected,) = torch.autograd.grad(p.detach() @ rbm.visible.log_base(points), rbm.visible.log_precision)
    nothing = Phase(*(torch.zeros_like(part) for part in dream[:3]))
    close(-gradient(rbm, nothing, dream)["visible.log_precision"], expected)
    with pytest.raises(AssertionError):
        close(-gradient(rbm, nothing, seen)["visible.log_precision"], expected)


def test_each_phase_has_its_own_denominator():
    rbm = machine("learned", "learned")
    data, dream = phase(rbm, rows(rbm.visible, 3)), rows(rbm.visible, 7, seed=1)
    once, twice = gradient(rbm, data, phase(rbm, dream)), gradient(rbm, data, phase(rbm, dream.repeat(2, 1)))
    for name in once:
        close(once[name], twice[name])
    swapped = gradient(rbm, phase(rbm, dream), data)
    for name in once:
        close(once[name], -swapped[name])


@pytest.mark.parametrize("pair", PAIRS)
@torch.no_grad()
def test_swapping_the_layers_keeps_the_energy(pair):
    rbm, mirror = machine(*pair), machine(*reversed(pair))
    mirror.weight.copy_(rbm.weight.T)
    mirror.visible_bias.copy_(rbm.hidden_bias)
    mirror.hidden_bias.copy_(rbm.visible_bias)
    v, h = rows(rbm.visible, 5), rows(rbm.hidden, 5, seed=1)
    close(mirror.energy(h, v), rbm.energy(v, h))
    close(mirror.free_energy(h), rbm.hidden_free_energy(h))
    close(mirror.hidden_free_energy(v), rbm.free_energy(v))


@pytest.mark.parametrize("hidden", UNITS)
@torch.no_grad()
def test_flipping_a_visible_unit_moves_log_z_by_its_bias(hidden):
    rbm, flipped = machine("bernoulli", hidden), machine("bernoulli", hidden)
    flipped.weight[1].neg_()
    flipped.visible_bias[1].neg_()
    flipped.hidden_bias.add_(rbm.weight[1])
    v = states(rbm.visible)
    mirrored = v.clone()
    mirrored[:, 1] = 1 - v[:, 1]
    close(flipped.free_energy(mirrored), rbm.free_energy(v) + rbm.visible_bias[1])
    close(brute_log_partition(flipped), brute_log_partition(rbm) - rbm.visible_bias[1], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("pair", HALF_ENUMERABLE_PAIRS)
@torch.no_grad()
def test_without_weights_log_z_is_the_sum_of_both_log_partitions(pair):
    rbm = machine(*pair)
    rbm.weight.zero_()
    expected = rbm.visible.log_partition(rbm.visible_bias) + rbm.hidden.log_partition(rbm.hidden_bias)
    close(brute_log_partition(rbm), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("hidden", UNITS)
@torch.no_grad()
def test_the_conditional_of_one_unit_is_a_difference_of_free_energies(hidden):
    rbm = machine("bernoulli", hidden, scale=0.6)
    v, p = visible_probabilities(rbm)
    for i in range(3):
        flipped = v.clone()
        flipped[:, i] = 1 - v[:, i]
        partner = (flipped[:, None] == v).all(-1).double().argmax(1)
        found = (rbm.free_energy(flipped) - rbm.free_energy(v)).sigmoid()
        close(found, p / (p + p[partner]), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("form", ["cho", "hinton"])
@torch.no_grad()
def test_gaussian_conventions_are_those_of_the_papers(form):
    draw_from = generator(5)
    sigma = torch.tensor([0.5, 1.0, 2.0], dtype=torch.float64)
    b, c, weight = (torch.randn(*size, dtype=torch.float64, generator=draw_from) for size in ((3,), (2,), (3, 2)))
    divisor = sigma.square() if form == "cho" else sigma
    rbm = RBM(Gaussian(3, precision=sigma**-2), Bernoulli(2)).double()
    rbm.visible.log_precision.copy_(-2 * sigma.log())
    rbm.visible_bias.copy_(b / sigma.square())
    rbm.hidden_bias.copy_(c)
    rbm.weight.copy_(weight / divisor[:, None])
    v, h = rows(rbm.visible, 6), states(rbm.hidden)[[0, 1, 2, 3, 1, 2]]
    published = ((v - b) / sigma).square().sum(-1) / 2 - h @ c - ((v / divisor) @ weight * h).sum(-1)
    close(published - rbm.energy(v, h), ((b / sigma).square().sum() / 2).expand(6))
    close(rbm.mean_visible(h), b + h @ weight.T * (sigma if form == "hinton" else 1))
    close(rbm.mean_hidden(v), (c + (v / divisor) @ weight).sigmoid())
    sample = rbm.sample_visible(h[1:2].expand(DRAWS, -1), generator=draw_from)
    error = ((sample - rbm.mean_visible(h[1:2])) / sigma).square().mean(0) - 1
    assert bool((error.abs() < 5 * (2 / DRAWS) ** 0.5).all())


@pytest.mark.parametrize("pair", ENUMERABLE_PAIRS)
@torch.no_grad()
def test_gibbs_leaves_the_distribution_invariant_and_follows_its_transition(pair):
    rbm = machine(*pair, scale=1.5)
    v, p = visible_probabilities(rbm)
    assert_distributed(rbm.gibbs(draw(v, p, DRAWS), generator=generator(1)), v, p)
    after = _transition(rbm, v)[0]
    assert_distributed(rbm.gibbs(v[:1].expand(DRAWS, -1), generator=generator(2)), v, after)
    twice = after @ _transition(rbm, v)
    assert_distributed(rbm.gibbs(v[:1].expand(DRAWS, -1), steps=2, generator=generator(3)), v, twice)


def _transition(rbm, v):
    """T(v, v') = Σ_h p(h|v) p(v'|h), from energies alone."""
    h = states(rbm.hidden)
    energy = torch.stack([rbm.energy(row.expand(len(h), -1), h) for row in v])
    return (-energy).softmax(1) @ (-energy).T.softmax(1)


def _wrong_sign(rbm, v, draw_from):
    return rbm.sample_visible(rbm.hidden.sample(-rbm.hidden_field(v), generator=draw_from), generator=draw_from)


def _no_bias(rbm, v, draw_from):
    h = rbm.sample_hidden(v, generator=draw_from)
    return rbm.visible.sample(rbm.visible_field(h) - rbm.visible_bias, generator=draw_from)


def _hidden_means(rbm, v, draw_from):
    return rbm.sample_visible(rbm.mean_hidden(v), generator=draw_from)


def _transposed(rbm, v, draw_from):
    h = rbm.hidden.sample(rbm.hidden_bias + v @ rbm.weight.flip(1), generator=draw_from)
    return rbm.sample_visible(h, generator=draw_from)


@pytest.mark.parametrize("kernel", [_wrong_sign, _no_bias, _hidden_means, _transposed])
@pytest.mark.parametrize("pair", [("bernoulli", "bernoulli"), ("spin", "groups"), ("labels", "spin")])
@torch.no_grad()
def test_broken_kernels_fail_the_law_of_gibbs(pair, kernel):
    rbm = machine(*pair, scale=1.5)
    v, p = visible_probabilities(rbm)
    with pytest.raises(AssertionError):
        assert_distributed(kernel(rbm, draw(v, p, DRAWS), generator(1)), v, p)


@torch.no_grad()
def test_pairs_of_a_state_and_the_hidden_state_before_it_are_stationary_but_of_two_steps_ago_are_not():
    rbm = machine("bernoulli", "spin", scale=1.0)
    v, p = visible_probabilities(rbm)
    h = states(rbm.hidden)
    joint = torch.cat([v.repeat_interleave(len(h), 0), h.repeat(len(v), 1)], 1)
    p_joint = (-rbm.energy(joint[:, :3], joint[:, 3:])).softmax(0)
    before = rbm.sample_hidden(draw(v, p, DRAWS), seed=1)
    now = rbm.sample_visible(before, seed=2)
    assert_distributed(torch.cat([now, before], 1), joint, p_joint)
    assert_distributed(torch.cat([now, rbm.sample_hidden(now, seed=3)], 1), joint, p_joint)
    with pytest.raises(AssertionError):
        assert_distributed(torch.cat([rbm.gibbs(now, seed=4), before], 1), joint, p_joint)


@pytest.mark.parametrize("pair", [(name, "bernoulli") for name in UNITS if name not in ENUMERABLE])
@torch.no_grad()
def test_gibbs_on_real_units_leaves_the_hidden_distribution_invariant(pair):
    rbm = machine(*pair, scale=0.8)
    h = states(rbm.hidden)
    p = log_integral_over_visible(rbm, h).softmax(0)
    after = rbm.sample_hidden(rbm.sample_visible(draw(h, p, DRAWS), seed=1), seed=2)
    assert_distributed(after, h, p)
    with pytest.raises(AssertionError):
        assert_distributed(rbm.sample_hidden(-rbm.sample_visible(draw(h, p, DRAWS), seed=1), seed=2), h, p)


def test_samples_reproduce_and_carry_no_graph():
    rbm = machine("learned", "bernoulli")
    v, before = rows(rbm.visible, 4), torch.get_rng_state()
    for sampler in (rbm.sample_hidden, rbm.gibbs):
        first = sampler(v, seed=1)
        assert torch.equal(first, sampler(v, generator=generator(1)))
        assert not first.requires_grad
    assert not rbm.sample_visible(rows(rbm.hidden, 4), seed=0).requires_grad
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(rbm.gibbs(v, steps=0), v)
    with pytest.raises(ValueError, match="steps"):
        rbm.gibbs(v, steps=-1)
    with pytest.raises(ValueError, match="generator and seed"):
        rbm.gibbs(v, generator=generator(), seed=1)
    assert torch.equal(RBM(4, 3, seed=7).weight, RBM(4, 3, generator=generator(7)).weight)


@pytest.mark.parametrize("function", ["free_energy", "hidden_field", "mean_hidden", "sample_hidden", "gibbs"])
def test_visible_rows_of_the_wrong_width_are_refused_by_name(function):
    with pytest.raises(ValueError, match=r"^v has 4 columns.*3 units"):
        getattr(machine("bernoulli", "spin"), function)(torch.zeros(5, 4))
    with pytest.raises(ValueError, match=r"^v has shape \(3,\)"):
        getattr(machine("bernoulli", "spin"), function)(torch.zeros(3))


@pytest.mark.parametrize("function", ["hidden_free_energy", "visible_field", "mean_visible", "sample_visible"])
def test_hidden_rows_of_the_wrong_width_are_refused_by_name(function):
    with pytest.raises(ValueError, match=r"^h has 3 columns.*2 units"):
        getattr(machine("bernoulli", "spin"), function)(torch.zeros(5, 3))


def test_layers_that_are_none_are_refused_by_name():
    with pytest.raises(TypeError, match="visible"):
        RBM("3", 2)
    with pytest.raises(ValueError, match="hidden"):
        RBM(3, 0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("pair", PAIRS[:: len(UNITS) + 1])
@torch.no_grad()
def test_the_machine_computes_in_its_own_precision(pair, dtype):
    exact, rbm = machine(*pair, scale=0.1), machine(*pair, scale=0.1).to(dtype)
    v = rows(rbm.visible, 4)
    for result in (rbm.free_energy(v), rbm.mean_hidden(v), rbm.gibbs(v, seed=0), *phase(rbm, v)[1:3]):
        assert result.dtype == dtype
    close(rbm.free_energy(v).double(), exact.free_energy(v), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*UNITS, "noisy"])
@torch.no_grad()
def test_a_saved_machine_comes_back_exactly(name, dtype, tmp_path):
    rbm = machine(name, "learned").to(dtype)
    rbm.save(tmp_path / "folder" / "rbm.pt")
    again = RBM.load(tmp_path / "folder" / "rbm.pt")
    assert str(again) == str(rbm)
    for (key, value), (key_again, value_again) in zip(rbm.named_parameters(), again.named_parameters(), strict=True):
        assert (key, value.dtype, value.requires_grad) == (key_again, value_again.dtype, value_again.requires_grad)
        assert torch.equal(value, value_again)


def test_damaged_files_are_refused(tmp_path):
    (tmp_path / "rbm.pt").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="damaged"):
        RBM.load(tmp_path / "rbm.pt")


def test_only_energies_are_refused_to_noisy_rectified_units():
    rbm = RBM(Gaussian(3), NoisyReLU(2), seed=0)
    assert not rbm.has_energy
    assert all(machine(*pair).has_energy for pair in PAIRS)
    v, h = torch.ones(4, 3), torch.ones(4, 2)
    for call in (lambda: rbm.energy(v, h), lambda: rbm.free_energy(v), lambda: rbm.hidden_free_energy(h)):
        with pytest.raises(TypeError, match=r"NoisyReLU\(2\) has no energy"):
            call()
    assert rbm.gibbs(v, steps=2, seed=0).shape == (4, 3)
    assert gradient(rbm, phase(rbm, v), phase(rbm, -v))["weight"].shape == (3, 2)


@torch.no_grad()
def test_the_first_free_energy_is_that_of_independent_units():
    rbm = RBM(3, 2, weight_scale=0)
    _, p, log_mass = distribution(Bernoulli(3), torch.zeros(3, dtype=torch.float64))
    close((-rbm.free_energy(states(rbm.visible))).softmax(0).double(), p)
    close((-rbm.free_energy(torch.zeros(1, 3))).double(), (log_mass * 2 / 3)[None])


def test_gibbs_takes_rows_with_a_gradient_without_a_warning():
    v = torch.zeros(2, 4, requires_grad=True)
    assert RBM(4, 3, seed=0).gibbs(v, 0) is v
