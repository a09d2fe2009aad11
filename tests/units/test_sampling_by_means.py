"""Samples drawn by a mean, and what an RBM is shown where probabilities are turned into states."""

import pytest
import torch

from dbn import CD, DBN, RBM, Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, ReLU, Spin, train
from tests.support.oracles import UNITS, generator, moments, unit

QUIET = {"progress": False, "seed": 0}
NESTED = {
    "pair": lambda: Joint(Bernoulli(3), Categorical(3)),
    "nested": lambda: Joint(Joint(Categorical(4, classes=2), Joint(Bernoulli(1), Spin(2))), Bernoulli(2)),
    "everything": lambda: Joint(Joint(Spin(1), Gaussian(2, precision=2.0)), Joint(ReLU(2), Joint(Categorical(3)))),
}
ALL = {**UNITS, **NESTED, "noisy": lambda: NoisyReLU(2)}
FINITE = ("bernoulli", "spin", "categorical", "groups", "labels", "pair", "nested")


def two_fields(units):
    return torch.empty(2, units.size, dtype=torch.float64).normal_(generator=generator(3)).unbind()


@pytest.mark.parametrize("name", ALL)
def test_samples_have_the_mean_that_they_are_given_whatever_the_field(name):
    units = ALL[name]().double()
    by, other = two_fields(units)
    by = by.abs() if name == "noisy" else by
    mean = units.mean(by).detach()
    drawn = units.sample(other.expand(20_000, -1), mean=mean.expand(20_000, -1), generator=generator()).detach()
    at_field = units.sample(by.expand(20_000, -1), generator=generator()).detach()
    error = (drawn.var(0) + at_field.var(0)).sqrt() / 20_000**0.5
    assert bool(((drawn.mean(0) - at_field.mean(0)).abs() <= 5 * error + 1e-12).all())
    if name in UNITS:
        _, variance, _ = moments(units, by)
        assert bool(((drawn.mean(0) - mean).abs() <= 5 * (variance / 20_000).sqrt()).all())


@pytest.mark.parametrize("name", FINITE)
def test_the_mode_is_the_most_probable_state(name):
    units = ALL[name]().double()
    states = units.states(torch.arange(units.cardinality))
    for field in two_fields(units):
        best = states[(states @ field).argmax()]
        assert torch.equal(units.mode(units.mean(field)[None])[0], best)
    units.constrain_data(units.mode(units.mean(torch.zeros(1, units.size, dtype=torch.float64))), "a tie")


class Watching(CD):
    """Contrastive divergence that keeps what it is shown."""

    def __init__(self):
        super().__init__(1)
        self.seen = []

    def negative(self, rbm, positive, generator, buffers):
        self.seen.append(positive.visible.clone())
        return super().negative(rbm, positive, generator, buffers)


@pytest.mark.parametrize("binarise", ["sample", "threshold"])
@pytest.mark.parametrize("name", FINITE)
def test_a_machine_is_shown_states_with_the_mean_of_the_data(name, binarise):
    units, watching = ALL[name](), Watching()
    means = units.mean(torch.empty(50, units.size).normal_(0, 2, generator=generator(1)))
    rbm = RBM(units, 2, seed=0)
    settings = {"epochs": 20, "batch_size": 500, "learning_rate": 0.0, **QUIET}
    history = train(rbm, means.repeat(10, 1), estimator=watching, binarise=binarise, **settings)
    seen = torch.cat(watching.seen).double()
    states = {tuple(row) for row in units.states(torch.arange(units.cardinality)).tolist()}
    assert {tuple(row) for row in seen.unique(dim=0).tolist()} <= states
    expected = (means if binarise == "sample" else units.mode(means)).double()
    assert bool(((seen.mean(0) - expected.mean(0)).abs() <= 5 * seen.std(0) / len(seen) ** 0.5 + 1e-6).all())
    assert len(set(history["reconstruction_error"])) == 1  # what is watched stands still


def test_joint_labels_start_at_the_field_of_their_own_mean():
    x = torch.tensor([0.0, 1.0, 0.1, 1.0, 0.0, 0.0]).repeat(1000, 1)
    rbm = RBM(Joint(Bernoulli(3), Categorical(3)), 2, seed=0, weight_scale=0.0)
    train(rbm, x, epochs=1, learning_rate=0.0, binarise="sample", **QUIET)
    means = rbm.visible.mean(rbm.visible_bias.detach())
    torch.testing.assert_close(means, torch.tensor([0.0, 1.0, 0.1, 1.0, 0.0, 0.0]), atol=0.03, rtol=0)


@pytest.mark.parametrize("units", [Gaussian(2), ReLU(2), Joint(Bernoulli(1), Gaussian(1))])
@pytest.mark.parametrize("binarise", ["sample", "threshold"])
def test_units_with_infinitely_many_states_are_refused(units, binarise):
    settings = {"epochs": 1, "binarise": binarise, **QUIET}
    stack = DBN([units, 2])
    for work in (lambda: train(stack.layers[0], torch.zeros(4, 2), **settings),
                 lambda: stack.pretrain(torch.zeros(4, 2), **settings)):  # fmt: skip
        with pytest.raises(TypeError, match=f'binarise is "{binarise}", but .* have infinitely many states'):
            work()
    with pytest.raises(TypeError, match="have no most probable states"):
        unit("gaussian").mode(torch.zeros(1, 2))
