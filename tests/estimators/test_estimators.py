"""Laws of the negative phases: unbiased where chains are long, and able to learn a known distribution."""

import pytest
import torch

from dbn.estimators import CD, PCD, Estimator, FastPCD, ParallelTempering
from dbn.gradient import Phase, gradient, phase
from dbn.training import train
from tests.support.lessons import EXAMPLES, LESSONS, centred_teacher, kl_from, lesson_machine
from tests.support.oracles import PAIRS, draw, generator, log_likelihood, machine, rows, visible_probabilities
from tests.support.selection import slow_but_for

close = torch.testing.assert_close
CHAINS, BLOCKS = 20_000, 50
#: Every pair here has an enumerable side, so that the likelihood has an exact gradient.
LEARNABLE = [("bernoulli", "bernoulli"), ("spin", "groups"), ("learned", "bernoulli"), ("labels", "mixed")]
UNBIASED = {
    "CD(60)": lambda: CD(60, sample_visible=True),
    "PCD": lambda: PCD(CHAINS),
    "PCD(3 steps)": lambda: PCD(CHAINS, steps=3),
    "tempering": lambda: ParallelTempering(CHAINS, temperatures=4),
}


class StalePairing(Estimator):
    """Broken: pairs p(h^t | v^{t−1}) with v^t, in chains that are otherwise those of persistent CD."""

    def __init__(self, chains=CHAINS):
        super().__init__()
        self.chains = chains

    def prepare(self, rbm, generator):
        self.v = rbm.visible.sample(torch.zeros(self.chains, rbm.visible.size).to(rbm.weight), generator=generator)

    def rows(self, batch):
        return self.chains

    def negative(self, rbm, positive, generator, buffers=None):
        before = phase(rbm, self.v)
        h = rbm.hidden.sample(before.hidden_field, generator=generator)
        self.v = rbm.sample_visible(h, generator=generator)
        return Phase(self.v, before.hidden_field, before.hidden_mean)


BIASED = {
    "CD-1 of means": lambda: CD(1, sample_visible=False),
    "CD-1 of samples": lambda: CD(1, sample_visible=True),
    "CD(60) that ends in means": lambda: CD(60, sample_visible=False),
    "CD(60) of means alone": lambda: CD(60, mean_field=True),
    "fast weights": lambda: FastPCD(CHAINS, rate=0.3),
    "stale pairing": StalePairing,
}


def sizable(pair):
    """An RBM whose chains mix in tens of steps, but not in one."""
    return machine(*pair, scale=0.8, seed=2)


@torch.no_grad()
def assert_unbiased(rbm, estimator):
    """Law of oracle 17: over 50 blocks of 400 chains, the mean gradient is the exact one within 5 standard errors."""
    data = rows(rbm.visible, 8)
    draw_from = generator(1)
    positive = phase(rbm, data.repeat(CHAINS // 8, 1))
    estimator.prepare(rbm, draw_from)
    for _ in range(1 if isinstance(estimator, CD) else 60):
        negative = estimator.negative(rbm, positive, draw_from)
    size = CHAINS // BLOCKS
    blocks = [
        gradient(
            rbm,
            positive,
            Phase(
                *(part[at : at + size] for part in negative[:3]),
                None if negative.visible_field is None else negative.visible_field[at : at + size],
            ),
        )
        for at in range(0, CHAINS, size)
    ]
    parameters = {name: value for name, value in rbm.named_parameters() if value.requires_grad}
    with torch.enable_grad():
        exact = torch.autograd.grad(log_likelihood(rbm, data), list(parameters.values()))
    for name, slope in zip(parameters, exact, strict=True):
        block = torch.stack([gradients[name] for gradients in blocks])
        assert bool(((block.mean(0) - slope).abs() <= 5 * block.std(0) / BLOCKS**0.5).all()), name


@pytest.mark.parametrize("name", slow_but_for(["CD(60)", "PCD"], UNBIASED))
@pytest.mark.parametrize("pair", LEARNABLE)
def test_long_chains_give_the_gradient_of_the_likelihood(pair, name):
    assert_unbiased(sizable(pair), UNBIASED[name]())


@pytest.mark.parametrize("name", BIASED)
@pytest.mark.parametrize("pair", LEARNABLE)
def test_short_chains_and_wrong_pairs_are_biased(pair, name):
    with pytest.raises(AssertionError):
        assert_unbiased(sizable(pair), BIASED[name]())


@pytest.mark.parametrize("pair", PAIRS)
@pytest.mark.parametrize(
    "estimator",
    [CD(1), CD(1, sample_visible=False), CD(3, sample_visible=True), CD(2, mean_field=True), PCD(7), PCD(2, steps=3),
     FastPCD(4, steps=2), ParallelTempering(5, 3, 2)],
    ids=str,
)  # fmt: skip
def test_the_negative_phase_is_a_phase_of_the_machine(pair, estimator):
    rbm = machine(*pair)
    positive, chains = phase(rbm, rows(rbm.visible, 5)), getattr(estimator, "chains", 5)
    with torch.no_grad():
        estimator.prepare(rbm, generator())
        negative = estimator.negative(rbm, positive, generator())
    assert negative.visible.shape == (chains, rbm.visible.size)
    rbm.visible.constrain_data(negative.visible, "v")
    close(negative.hidden_field, rbm.hidden_field(negative.visible).detach())
    close(negative.hidden_mean, rbm.mean_hidden(negative.visible).detach())
    of_means = isinstance(estimator, CD) and not estimator.samples_visible(rbm)
    assert (negative.visible_field is not None) == (of_means and bool(rbm.visible.learned_parameters()))
    if negative.visible_field is not None:
        close(negative.visible, rbm.visible.mean(negative.visible_field).detach())
    assert all(bool(value.isfinite().all()) for value in gradient(rbm, positive, negative).values())


def assert_learns(estimator, lesson):
    """Law of oracle 18: from exact draws, a student gets as near to the teacher as the draws themselves are.

    2n KL of the best model with d free probabilities is χ² with d degrees of freedom: mean d, variance 2d. The best
    model with independent units must be far outside, or the law would say nothing about weights.
    """
    visible, hidden, _, _ = lesson
    teacher, student, independent = centred_teacher(*lesson), *(
        lesson_machine(visible, hidden, scale, 99) for scale in (0.1, 0.0)
    )  # fmt: skip
    v, p = visible_probabilities(teacher)
    with torch.no_grad():
        independent.visible_bias.copy_(independent.visible.field_of_mean(p @ v))
    freedom = len(v) - 1
    bound = (freedom + 5 * (2 * freedom) ** 0.5) / (2 * EXAMPLES)
    assert kl_from(teacher, independent) > 30 * bound
    settings = {"epochs": 30, "weight_decay": 0.0, "momentum": 0.5, "progress": False, "seed": 0}
    x = draw(v, p, EXAMPLES)
    train(student, x, learning_rate=lambda now: 0.5 * (1 - now / 30.01), estimator=estimator, **settings)
    assert kl_from(teacher, student) < bound, "taught"


@pytest.mark.parametrize("lesson", slow_but_for(LESSONS[:1], LESSONS))
@pytest.mark.parametrize(
    "estimator",
    [
        CD(1, sample_visible=True),
        CD(5, sample_visible=True),
        PCD(100),
        PCD(100, start="data"),
        FastPCD(100, rate=0.05),
        pytest.param(ParallelTempering(100, 3), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_student_learns_the_teacher(lesson, estimator):
    assert_learns(estimator, lesson)


@pytest.mark.parametrize("lesson", slow_but_for(LESSONS[:1], LESSONS))
def test_a_student_of_stale_pairs_does_not_learn_the_teacher(lesson):
    with pytest.raises(AssertionError, match="taught"):
        assert_learns(StalePairing(100), lesson)


def test_chains_are_a_buffer_that_carries_on_for_the_same_machine_and_restarts_for_another_shape():
    rbm, estimator = machine("bernoulli", "spin"), PCD(9)
    assert "hidden" not in estimator.state_dict()
    with pytest.raises(RuntimeError, match="prepare"):
        estimator.negative(rbm, phase(rbm, rows(rbm.visible, 2)), None)
    estimator.prepare(rbm, generator())
    chains = estimator.state_dict()["hidden"]
    assert chains.shape == (9, 2)
    rbm.hidden.constrain_data(chains, "chains")
    estimator.prepare(rbm, generator(1))
    assert torch.equal(estimator.hidden, chains)
    estimator.negative(rbm, phase(rbm, rows(rbm.visible, 2)), generator(1))
    assert not torch.equal(estimator.hidden, chains)
    other = machine("bernoulli", "bernoulli")
    estimator.prepare(other, generator())
    assert estimator.hidden.shape == (9, 3)
    other.hidden.constrain_data(estimator.hidden, "chains")
    assert PCD(4).extra_repr() == "chains=4, steps=1"


def test_chains_start_apart_from_each_other():
    estimator = PCD(5000)
    rbm = machine("bernoulli", "bernoulli", scale=0.0)
    estimator.prepare(rbm, generator())
    assert bool(((estimator.hidden.mean(0) - 0.5).abs() < 5 * 0.5 / 5000**0.5).all())


def test_a_state_put_back_goes_on_where_it_was():
    rbm, first, second = machine("spin", "spin"), PCD(6), PCD(6)
    positive = phase(rbm, rows(rbm.visible, 2))
    first.prepare(rbm, generator())
    first.negative(rbm, positive, generator(1))
    second.prepare(rbm, generator(2))
    second.load_state_dict(first.state_dict())
    for left, right in zip(*(e.negative(rbm, positive, generator(3))[:3] for e in (first, second)), strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("make", [lambda: CD(2), lambda: CD(2, sample_visible=True), lambda: PCD(30)])
@pytest.mark.parametrize("pair", LEARNABLE)
def test_training_reproduces_under_a_seed_and_leaves_the_global_generator_alone(pair, make):
    def trained(seed, estimator):
        rbm = machine(*pair)
        settings = {"epochs": 2, "batch_size": 16, "learning_rate": 0.01, "progress": False}
        train(rbm, rows(rbm.visible, 50), estimator=estimator, seed=seed, **settings)
        return torch.cat([value.detach().flatten() for value in rbm.parameters()])

    before = torch.get_rng_state()
    assert torch.equal(trained(5, make()), trained(5, make()))
    assert not torch.equal(trained(5, make()), trained(6, make()))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("arguments", [{"steps": 0}, {"chains": 0}, {"chains": -1}])
def test_no_steps_and_no_chains_are_refused_by_name(arguments):
    with pytest.raises(ValueError, match=next(iter(arguments))):
        PCD(**arguments)
    with pytest.raises(ValueError, match="steps"):
        CD(0)
    with pytest.raises(ValueError, match="choose one"):
        CD(1, sample_visible=True, mean_field=True)
