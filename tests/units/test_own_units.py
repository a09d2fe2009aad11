"""Units that users write themselves: their parameters are learned or refused, and their machines saved and loaded."""

import math

import pytest
import torch
from torch import nn

import dbn
from dbn import CD, DBN, PCD, RBM, Bernoulli, Gaussian, Joint, NoisyReLU, ParallelTempering, Unit, train
from dbn.gradient import gradient, mean_phase, phase
from tests.support.oracles import generator, machine, rows

QUIET = {"progress": False, "seed": 0}


class TwoSided(Unit):
    """Two half-Gaussians with strengths and shifts of their own: exp(−γ₊x²/2 − θ₊x) right of 0, γ₋ and θ₋ left of it.

    Source: J. Tubiana, R. Monasson (2017), Emergence of compositional representations in restricted Boltzmann machines.
    """

    def __init__(self, size):
        super().__init__(size)
        self.log_gamma = nn.Parameter(torch.tensor([[0.3], [-0.2]]).repeat(1, size))
        self.theta = nn.Parameter(torch.tensor([[0.4], [0.1]]).repeat(1, size))

    def _halves(self, field):
        """Fields of |x| on both sides in standard units, and the standard deviations: two of (2, …, size)."""
        shape = (2, *(1,) * (field.dim() - 1), self.size)
        spread = (-self.log_gamma / 2).exp().view(shape)
        return (torch.stack([field, -field]) - self.theta.view(shape)) * spread, spread

    def log_partition(self, field):
        scaled, spread = self._halves(field)
        log_mass = (torch.special.erfcx(-scaled / math.sqrt(2)) * math.sqrt(math.pi / 2)).log() + spread.log()
        return log_mass.logsumexp(0).sum(-1)

    def log_base(self, x):
        gamma, right = self.log_gamma.exp(), x > 0
        strength, shift = torch.where(right, gamma[0], gamma[1]), torch.where(right, self.theta[0], self.theta[1])
        return -(strength * x.square() / 2 + shift * x.abs()).sum(-1)

    def mean(self, field, *, out=None):
        with torch.enable_grad():
            at = field.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.log_partition(at).sum(), at)
        return slope if out is None else out.copy_(slope)

    def draw(self, field, mean, generator, out):
        scaled, spread = self._halves(field)
        log_mass = (torch.special.erfcx(-scaled / math.sqrt(2))).log() + spread.log()
        right = torch.rand(field.shape, generator=generator, dtype=field.dtype) < (log_mass[0] - log_mass[1]).sigmoid()
        at, width = (torch.where(right, pair[0], pair[1]) for pair in (scaled, spread.expand_as(scaled)))
        drawn = dbn.ReLU(self.size).sample(at, generator=generator) * width * (2.0 * right - 1)
        return drawn if out is None else out.copy_(drawn)

    def field_of_mean(self, mean):
        return mean

    def activation(self):
        return nn.Identity()


class Precise(Gaussian):
    """Gaussian units whose gradient is left to autograd."""

    own_gradient = Unit.own_gradient


def visible_or_hidden(side, units):
    return machine(units, Bernoulli(3)) if side == "visible" else machine(Bernoulli(3), units)


@pytest.mark.parametrize("side", ["visible", "hidden"])
def test_the_gradient_of_several_statistics_is_that_of_the_free_energy(side):
    rbm = visible_or_hidden(side, TwoSided(2).double())
    data, dream = rows(rbm.visible, 6), rows(rbm.visible, 9, seed=1)
    parameters = dict(rbm.named_parameters())
    difference = rbm.free_energy(dream).mean() - rbm.free_energy(data).mean()
    expected = torch.autograd.grad(difference, list(parameters.values()))
    found = gradient(rbm, phase(rbm, data), phase(rbm, dream))
    assert found.keys() == parameters.keys()
    for name, slope in zip(parameters, expected, strict=True):
        torch.testing.assert_close(found[name], slope, rtol=1e-9, atol=1e-12)


def test_visible_means_stand_for_the_conditional_at_their_field():
    units = TwoSided(1).double()
    field = torch.tensor([[0.7]], dtype=torch.float64)
    found = units.own_gradient(units.mean(field), field=field)
    points = torch.linspace(-30, 30, 600_001, dtype=torch.float64)[:, None]
    p = (units.log_base(points) + field[0] * points[:, 0]).softmax(0).detach()
    expected = torch.autograd.grad(p @ units.log_base(points), [units.log_gamma, units.theta])
    torch.testing.assert_close(list(found.values()), list(expected), rtol=1e-3, atol=1e-4)
    rbm = machine(units, Bernoulli(2))
    phase = mean_phase(rbm, torch.ones(3, 2, dtype=torch.float64))
    torch.testing.assert_close(rbm.visible.mean(phase.visible_field), phase.visible)


@pytest.mark.parametrize("side", ["visible", "hidden"])
@pytest.mark.parametrize("estimator", [CD(1), CD(2, sample_visible=True), PCD(20), ParallelTempering(10, 3)], ids=str)
def test_every_parameter_of_own_units_is_learned(side, estimator):
    rbm = visible_or_hidden(side, TwoSided(2)).float()
    before = {name: value.detach().clone() for name, value in rbm.named_parameters()}
    train(rbm, rows(rbm.visible, 100).float() * 0.7, epochs=2, estimator=estimator, learning_rate=0.01, **QUIET)
    assert not [name for name, value in rbm.named_parameters() if torch.equal(value, before[name])]


@pytest.mark.parametrize("side", ["visible", "hidden"])
def test_autograd_learns_what_the_formula_learns(side):
    def trained(kind):
        rbm = visible_or_hidden(side, kind(2, precision=2.0, learned=True)).double()
        train(rbm, rows(rbm.visible, 100), epochs=3, estimator=CD(2), learning_rate=0.01, **QUIET)
        return [value.detach() for value in rbm.parameters()]

    torch.testing.assert_close(trained(Precise), trained(Gaussian), rtol=1e-9, atol=1e-12)


class Idle(Bernoulli):
    """Units with a parameter that their distribution does not depend on."""

    def __init__(self, size):
        super().__init__(size)
        self.idle = nn.Parameter(torch.zeros(size))


class IdleNoisy(NoisyReLU):
    def __init__(self, size):
        super().__init__(size)
        self.idle = nn.Parameter(torch.zeros(size))


@pytest.mark.parametrize(
    ("visible", "hidden", "name"),
    [
        (Idle(3), Bernoulli(2), "visible.idle"),
        (Bernoulli(3), Idle(2), "hidden.idle"),
        (Bernoulli(3), IdleNoisy(2), "hidden.idle"),
        (Joint(Joint(Gaussian(1, learned=True), Idle(1)), Bernoulli(1)), Bernoulli(2), "visible.parts.0.parts.1.idle"),
    ],
)
def test_a_parameter_that_no_gradient_moves_is_refused(visible, hidden, name):
    stack = DBN([visible, hidden], seed=0)
    rbm = stack.layers[0]
    before = {key: value.clone() for key, value in rbm.state_dict().items()}
    for work in (lambda: train(rbm, torch.ones(5, 3), epochs=1, **QUIET), lambda: stack.pretrain(torch.ones(5, 3))):
        with pytest.raises(ValueError, match=f"rbm has the parameter {name}, .*set requires_grad to False"):
            work()
    assert all(torch.equal(value, before[key]) for key, value in rbm.state_dict().items())
    rbm.get_parameter(name).requires_grad_(False)
    train(rbm, torch.ones(5, 3), epochs=1, **QUIET)


def test_a_parameter_of_the_machine_itself_is_refused_too():
    rbm = RBM(3, 2, seed=0)
    rbm.temperature = nn.Parameter(torch.ones(()))
    with pytest.raises(ValueError, match="rbm has the parameter temperature"):
        train(rbm, torch.ones(5, 3), epochs=1, **QUIET)


def test_the_same_learned_units_given_twice_learn_as_two():
    def trained(first, second):
        rbm = RBM(Joint(first, Bernoulli(1), Joint(second)), 3, seed=0).double()
        draw = generator(1)
        x = torch.randn(200, 5, dtype=torch.float64, generator=draw) * torch.tensor([0.5, 0.6, 0.0, 1.5, 1.7])
        train(rbm, x, epochs=5, learning_rate=0.02, **QUIET)
        return rbm.visible

    shared = Gaussian(2, precision=2.0, learned=True)
    once, twice = trained(Gaussian(2, 2.0, learned=True), Gaussian(2, 2.0, learned=True)), trained(shared, shared)
    for part, other in zip(once.parameters(), twice.parameters(), strict=True):
        assert torch.equal(part, other)
    narrow, wide = (float(part.log_precision.detach().mean()) for part in (twice.parts[0], twice.parts[2].parts[0]))
    assert narrow > math.log(2.0) > wide
    assert torch.equal(shared.precision.detach(), torch.full((2,), 2.0))


class Offset(Gaussian):
    """Units whose constructor has an argument of its own."""

    def __init__(self, count, shift):
        super().__init__(count)
        self.shift = shift

    def config(self):
        return {"unit": "Offset", "size": self.size, "shift": self.shift}


def test_machines_and_stacks_of_own_units_are_saved_and_loaded(tmp_path):
    stack = DBN([Joint(TwoSided(2), Offset(1, 3.0)), TwoSided(3), 2], seed=0)
    with torch.no_grad():
        for value in stack.parameters():
            value.normal_(generator=generator(0))
    stack.save(tmp_path / "stack.pt")
    stack.layers[0].save(tmp_path / "machine.pt")
    again, rbm = DBN.load(tmp_path / "stack.pt"), RBM.load(tmp_path / "machine.pt")
    assert str(again) == str(stack)
    assert again.layers[0].visible.parts[1].shift == 3.0
    for name, value in stack.state_dict().items():
        assert torch.equal(value, again.state_dict()[name])
    for name, value in rbm.state_dict().items():
        assert torch.equal(value, stack.layers[0].state_dict()[name])


def test_units_that_could_not_be_loaded_are_not_saved(tmp_path):
    class Unsaid(Gaussian):
        def __init__(self, size, shift):
            super().__init__(size)
            self.shift = shift

    class Bernoulli(dbn.Bernoulli):  # the name of the library's own
        pass

    class Forgotten(NoisyReLU):
        def __init__(self, size, shift=0.0):
            super().__init__(size)
            self.shift = shift

    cases = {Unsaid(2, 1.0): "unit Unsaid is not built from", Forgotten(2, 3.0): "has another shift: let config",
             Bernoulli(2): "a name of its own"}  # fmt: skip
    for units, message in cases.items():
        with pytest.raises(ValueError, match=message):
            RBM(3, units).save(tmp_path / "machine.pt")
    assert not list(tmp_path.iterdir())
    assert type(dbn.units.from_config({"unit": "Bernoulli", "size": 2})) is dbn.Bernoulli


def test_a_class_that_is_not_defined_is_named(tmp_path):
    class Fleeting(Gaussian):
        def config(self):
            return {"unit": "Fleeting", "size": self.size}

    RBM(3, Fleeting(2)).save(tmp_path / "machine.pt")
    del Unit.kinds["Fleeting"]
    with pytest.raises(ValueError, match=r"unit is 'Fleeting': known are .*define a class of your own before loading"):
        RBM.load(tmp_path / "machine.pt")
