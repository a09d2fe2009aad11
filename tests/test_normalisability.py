"""Which machines have a distribution: the question they answer, and who refuses those that have none."""

import math
import time

import pytest
import torch

from dbn import (
    CD,
    DBN,
    RBM,
    Bernoulli,
    DivergenceError,
    Gaussian,
    Joint,
    LogPartition,
    NoisyReLU,
    Normalisability,
    ReLU,
    Unit,
    ais,
    bracket,
    exact_log_partition,
    log_likelihood,
    lower_bound,
    reverse_ais,
    score_by_ais,
    train,
)
from dbn.likelihood.bracket import verdict
from dbn.normalisability import strictly_copositive
from dbn.rbm import is_improper
from tests.support.oracles import distribution, generator, machine

QUIET = {"progress": False, "seed": 0}


def with_weight(visible, hidden, weight):
    rbm = RBM(visible, hidden, weight_scale=0).double()
    with torch.no_grad():
        rbm.weight.copy_(torch.as_tensor(weight, dtype=torch.float64))
    return rbm


def improper():
    return with_weight(Gaussian(2), Gaussian(2), [[0.9, 0.0], [0.8, 0.1]])


@pytest.mark.parametrize("scale", [0.05, 0.2, 0.3, 0.4, 0.8])
@pytest.mark.parametrize("seed", range(5))
def test_a_gaussian_machine_is_normalisable_exactly_if_its_quadratic_form_is_definite(scale, seed):
    draw = generator(seed)
    precisions = [torch.rand(count, generator=draw) + 0.5 for count in (5, 3)]
    rbm = RBM(Gaussian(5, precisions[0], learned=True), Gaussian(3, precisions[1])).double()
    with torch.no_grad():
        rbm.weight.normal_(0, scale, generator=draw)
    gamma_v, gamma_h, w = (x.detach() for x in (rbm.visible.precision.diag(), rbm.hidden.precision.diag(), rbm.weight))
    form = torch.cat([torch.cat([gamma_v, -w], 1), torch.cat([-w.t(), gamma_h], 1)])
    found = rbm.normalisable()
    assert found.verdict is bool(found) is bool((torch.linalg.eigvalsh(form) > 0).all())
    scaled = gamma_v.rsqrt().nan_to_num(posinf=0.0) @ w @ gamma_h.rsqrt().nan_to_num(posinf=0.0)
    assert found.margin == pytest.approx(1 - float(torch.linalg.matrix_norm(scaled, 2)) ** 2)
    assert is_improper(rbm) is not found.verdict


@pytest.mark.parametrize(
    ("visible", "hidden", "weight", "verdict"),
    [
        (ReLU(3), ReLU(3), torch.full((3, 3), 0.5), False),
        (ReLU(3), ReLU(3), torch.full((3, 3), -0.5), True),
        (ReLU(3), ReLU(3), torch.full((3, 3), 0.3), True),
        (ReLU(1), ReLU(1), [[1.0]], None),  # the biases decide
        (Gaussian(1), Gaussian(1), [[1.0]], None),
        (ReLU(1), ReLU(1), [[1.001]], False),
        (Gaussian(2, precision=torch.tensor([1e20, 1e4])), Gaussian(1), [[9e9], [0.0]], True),
        (Gaussian(2, precision=torch.tensor([1e20, 1e4])), Gaussian(1), [[1.1e10], [0.0]], False),
        (Gaussian(1), Gaussian(1), [[1e200]], None),
        (ReLU(1), ReLU(1), [[-50.0]], True),
        (Gaussian(1), ReLU(2), [[0.9, -0.9]], True),  # the two pull apart, and only one can be large
        (Gaussian(1), ReLU(2), [[0.9, 0.9]], False),
        (Gaussian(1), ReLU(2), [[1.1, -0.1]], False),
        (ReLU(2), Gaussian(1), [[0.9], [-0.9]], True),
        (Gaussian(1, precision=4.0), ReLU(1), [[1.9]], True),
        (Joint(Gaussian(1), ReLU(1)), Joint(ReLU(1), Gaussian(1)), [[0.3, 1.1], [0.2, 0.1]], False),
        (Joint(Gaussian(1), ReLU(1)), Joint(ReLU(1), Gaussian(1)), [[0.3, 0.1], [-9.0, 0.1]], True),
        (Joint(Bernoulli(2), Gaussian(1)), Gaussian(1), [[50.0], [-50.0], [0.9]], True),
        (Joint(Bernoulli(2), Gaussian(1)), Gaussian(1), [[0.0], [0.0], [1.1]], False),
        (Gaussian(1), Bernoulli(1), [[1000.0]], True),
        (Bernoulli(1), ReLU(1), [[1000.0]], True),
    ],
)
def test_verdicts_that_are_known(visible, hidden, weight, verdict):
    assert with_weight(visible, hidden, weight).normalisable().verdict is verdict


def test_a_bounded_side_always_has_a_distribution_and_an_unknown_tail_no_verdict():
    assert RBM(3, Gaussian(2)).normalisable() == (True, math.inf)

    class Heavy(Gaussian):
        tails = Unit.tails

    found = RBM(Heavy(2), Gaussian(2), seed=0).normalisable()
    assert found.verdict is None
    assert not found
    assert math.isnan(found.margin)
    with pytest.raises(TypeError, match=r"NoisyReLU\(2\) has no energy"):
        RBM(Gaussian(2), NoisyReLU(2)).normalisable()


@pytest.mark.parametrize("seed", range(40))
def test_copositivity_is_that_of_a_search_over_directions(seed):
    draw, size = generator(seed), 2 + seed % 3
    matrix = torch.randn(size, size, dtype=torch.float64, generator=draw)
    matrix = (matrix + matrix.t()) / 2 + 0.8 * torch.eye(size, dtype=torch.float64)
    directions = torch.randn(200_000, size, dtype=torch.float64, generator=draw).abs()
    directions *= torch.rand(200_000, size, dtype=torch.float64, generator=draw) < 0.8
    directions = directions[directions.any(1)]
    least = float(((directions @ matrix) * directions).sum(1).div(directions.square().sum(1)).min())
    if abs(least) > 0.01:
        assert strictly_copositive(matrix) is (least > 0)


def test_a_copositive_matrix_that_is_no_sum_of_a_definite_and_a_nonnegative_one_is_recognised():
    row = torch.tensor([1.0, -1.0, 1.0, 1.0, -1.0], dtype=torch.float64)
    horn = torch.stack([row.roll(shift) for shift in range(5)])  # Horn's form, which is 0 in some directions
    assert strictly_copositive(horn + 0.01 * torch.eye(5, dtype=torch.float64)) is True
    assert strictly_copositive(horn - 0.01 * torch.eye(5, dtype=torch.float64)) is False


@pytest.mark.parametrize("sizes", [(1, 1), (2, 1), (1, 2), (2, 2)])
def test_log_z_of_gaussian_machines_is_that_of_quadrature(sizes):
    visible, hidden = (Gaussian(n, precision=torch.tensor([1.5, 0.8][:n])) for n in sizes)
    rbm = machine(visible, hidden, scale=0.3, seed=1)
    points, p, log_mass = distribution(rbm.visible, rbm.visible_bias.detach())  # ∫ exp(−F) by importance from W = 0
    change = rbm.hidden.log_partition(rbm.hidden_field(points))
    expected = log_mass + (p.log() + change).logsumexp(0)
    torch.testing.assert_close(exact_log_partition(rbm), expected.detach(), rtol=1e-9, atol=1e-9)


def test_log_z_of_gaussian_machines_holds_for_joint_units_and_annealing():
    rbm = machine(Joint(Gaussian(2), Gaussian(1, precision=2.0)), Gaussian(2), scale=0.25, seed=3)
    exact = float(exact_log_partition(rbm))
    assert ais(rbm, chains=1000, temperatures=200, **QUIET).value == pytest.approx(exact, abs=0.02)
    x = torch.randn(50, 3, dtype=torch.float64, generator=generator(1))
    w = rbm.weight.detach()
    precision = torch.tensor([1.0, 1.0, 2.0], dtype=torch.float64).diag() - w @ w.t()
    mean = torch.linalg.solve(precision, (rbm.visible_bias + w @ rbm.hidden_bias).detach())
    expected = torch.distributions.MultivariateNormal(mean, precision_matrix=precision).log_prob(x)
    torch.testing.assert_close(log_likelihood(rbm, x, exact), expected, rtol=1e-6, atol=1e-6)


ROWS = torch.zeros(4, 2, dtype=torch.float64)
LIKELIHOODS = {
    "ais": lambda rbm: ais(rbm, progress=False),
    "reverse_ais": lambda rbm: reverse_ais(rbm, ROWS, progress=False),
    "bracket": lambda rbm: bracket(rbm, ROWS, progress=False),
    "exact_log_partition": exact_log_partition,
    "log_likelihood": lambda rbm: log_likelihood(rbm, ROWS, 9.59),
    "score_by_ais": lambda rbm: score_by_ais(ROWS)(rbm),
    "train": lambda rbm: train(rbm, ROWS, epochs=1, **QUIET),
}


@pytest.mark.parametrize("name", LIKELIHOODS)
@pytest.mark.parametrize("make", [improper, lambda: with_weight(ReLU(2), ReLU(2), [[0.6, 0.6], [0.6, 0.6]])])
def test_a_machine_without_a_distribution_is_refused_by_name(name, make):
    rbm = make()
    before = {key: value.clone() for key, value in rbm.state_dict().items()}
    with pytest.raises(ValueError, match=r"rbm is not normalisable: .*is infinite"):
        LIKELIHOODS[name](rbm)
    assert all(torch.equal(value, before[key]) for key, value in rbm.state_dict().items())


def test_stacks_and_chains_without_a_distribution_are_refused_too():
    rbm = improper()
    stack = DBN([Gaussian(2), Gaussian(2)]).double()
    stack.layers[0].load_state_dict(rbm.state_dict())
    with pytest.raises(ValueError, match="the top RBM of stack is not normalisable"):
        lower_bound(stack, ROWS, 1.0)
    with pytest.raises(DivergenceError, match=r"v grew to .* have no distribution with weights this large"):
        rbm.gibbs(ROWS, 40, seed=0)
    assert torch.equal(rbm.gibbs(ROWS, 0), ROWS)


def factor_data(seed=0):
    draw = generator(seed)
    loadings, noise = torch.randn(10, 3, generator=draw), 0.5 + torch.rand(10, generator=draw)
    x = torch.randn(1000, 3, generator=draw) @ loadings.t() + torch.randn(1000, 10, generator=draw) * noise.sqrt()
    return (x - x.mean(0)) / x.std(0)


def test_training_records_the_margin_and_takes_its_loss_for_divergence():
    rbm = RBM(Gaussian(10, learned=True), Gaussian(3), seed=0)
    history = train(rbm, factor_data(), epochs=3, learning_rate=0.003, momentum=0.0, **QUIET)
    assert history["normalisable_margin"][-1] == pytest.approx(rbm.normalisable().margin, rel=1e-5)
    fast = {"learning_rate": 0.03, "momentum": 0.9, "estimator": CD(1)}
    rbm = RBM(Gaussian(10, learned=True), Gaussian(3), seed=0)
    with pytest.raises(DivergenceError, match=r"training lost its distribution .*lower the learning rate"):
        train(rbm, factor_data(), epochs=30, **fast, **QUIET)
    assert rbm.normalisable()
    train(rbm := RBM(Gaussian(10, learned=True), Gaussian(3), seed=0), factor_data(), epochs=30,
          on_divergence="halve", **fast, **QUIET)  # fmt: skip
    assert rbm.normalisable()
    assert "normalisable_margin" not in train(RBM(Gaussian(10), 3, seed=0), factor_data(), epochs=1, **QUIET).last


def estimate(value, ess=50.0, chains=100):
    return LogPartition(value, value - 0.1, value + 0.1, ess, "zeros", chains, 1000)


@pytest.mark.parametrize(
    ("forward", "reverse", "doubt"),
    [
        ([estimate(500.0)], estimate(math.nan), "not a finite number"),
        ([estimate(math.nan), estimate(500.0)], estimate(500.0), "not a finite number"),
        ([estimate(math.inf), estimate(500.0)], estimate(500.0), "not a finite number"),
        ([estimate(math.nan)] * 3, estimate(math.nan), "not a finite number"),
        ([estimate(500.0, ess=1.4, chains=20)], estimate(500.0), "effective sample size of 5"),
        ([estimate(500.0, ess=3.0, chains=3)], estimate(500.0), "more chains"),
    ],
)
def test_a_verdict_with_nan_or_a_handful_of_chains_is_not_trusted(forward, reverse, doubt):
    found = verdict(tuple(forward), reverse)
    assert not found.trusted
    assert any(doubt in each for each in found.doubts)


def test_twenty_even_chains_are_heard_and_an_unknown_tail_is_not_trusted():
    forward = (estimate(500.0, ess=19.0, chains=20),)
    assert verdict(forward, estimate(500.5)).trusted
    found = verdict(forward, estimate(500.5), normalisable=Normalisability(None, math.nan))
    assert (found.trusted, found.value) == (False, 500.0)
    assert "not known whether the RBM is normalisable" in found.doubts[0]


def test_a_class_with_a_base_measure_of_its_own_is_not_taken_for_a_gaussian():
    class Peaked(Gaussian):
        def log_base(self, x):
            return super().log_base(x) - x.abs().sum(-1)

    assert RBM(Peaked(1), Gaussian(1)).normalisable().verdict is None
    with pytest.raises(TypeError, match="infinitely many states"):
        exact_log_partition(RBM(Peaked(1), Gaussian(1)))


def test_machines_at_the_border_are_refused_by_name_and_not_by_linear_algebra():
    for weight in ([[1.0]], [[1.0 - 1e-16]], [[math.inf]]):
        with pytest.raises(ValueError, match=r"rbm is (too close to losing|not normalisable)"):
            exact_log_partition(with_weight(Gaussian(1), Gaussian(1), weight))


def test_a_bracket_of_a_gaussian_machine_is_held_to_its_exact_value():
    rbm = with_weight(Gaussian(1), Gaussian(1), [[math.sqrt(1 - 1e-4)]])
    torch.nn.init.constant_(rbm.visible_bias, 0.1)
    torch.nn.init.constant_(rbm.hidden_bias, 0.1)
    rows = torch.randn(50, 1, dtype=torch.float64, generator=generator(0))
    found = bracket(rbm, rows, temperatures=300, gibbs_steps=100, **QUIET)
    assert not found.trusted
    assert any("nats from the exact log Z" in doubt for doubt in found.doubts)


def test_large_machines_are_judged_in_little_time():
    rbm = RBM(ReLU(400), ReLU(250), weight_scale=1.02 / (400**0.5 + 250**0.5), seed=0)
    started = time.process_time()
    rbm.normalisable()
    rbm.gibbs(torch.ones(1, 400), 1, seed=0)
    train(rbm, torch.rand(10, 400, generator=generator(0)), epochs=1, learning_rate=0.0, **QUIET)
    assert time.process_time() - started < 10  # 103 s by a search over all directions


def test_the_cheap_check_finds_what_the_verdict_finds():
    """Weights of both signs: along the steepest direction of all, most units of a cone are off."""
    improper = 0
    for seed in range(40):
        rbm = RBM(ReLU(8), ReLU(8) if seed % 2 else Gaussian(8), weight_scale=0.2 + seed / 400, seed=seed)
        verdict = rbm.normalisable().verdict
        improper += verdict is False
        assert is_improper(rbm) is (verdict is False), seed
    assert 5 <= improper <= 35
