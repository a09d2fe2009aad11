"""Samples from 16 random bits over a fraction of the row are as good as samples from 24 (float32 on a CPU)."""

import math

import pytest
import torch

from dbn import Bernoulli, Spin


def draws(p: float, shape: tuple[int, int], steps: int, seed: int = 0) -> torch.Tensor:
    """Bernoulli samples (steps, rows, columns) at probability p, in float32."""
    generator, mean = torch.Generator().manual_seed(seed), torch.full(shape, p)
    units = Bernoulli(shape[1])
    return torch.stack([units.sample(mean.logit(), mean=mean, generator=generator) for _ in range(steps)])


@pytest.mark.parametrize("p", [1e-6, 1e-5, 2.0**-16, 1.5 * 2.0**-16, 1e-3, 0.3, 0.5, 0.999, 1 - 1e-5])
def test_every_probability_is_kept_also_below_one_part_in_65536(p):
    steps, cells = 400, 200 * 300
    mean = float(draws(p, (200, 300), steps).double().mean())
    # The fraction is shared by a row: its share of the variance is at most 2⁻³² / 4 a row, however many the columns.
    deviation = math.sqrt(p * (1 - p) / (steps * cells) + 2.0**-34 / (steps * 200))
    assert mean == pytest.approx(p, abs=5 * deviation + 2.0**-24)


def test_certain_events_are_certain():
    assert not bool(draws(0.0, (500, 401), 20).any())
    assert bool(draws(1.0, (500, 401), 20).all())


def test_without_the_fraction_small_probabilities_are_wrong(monkeypatch):
    monkeypatch.setattr(torch.Tensor, "uniform_", lambda self, *bounds, generator: self.fill_(bounds[1]))
    assert float(draws(1e-6, (200, 300), 400).double().mean()) > 5e-6


@pytest.mark.parametrize("axis", ["rows", "columns", "steps", "neighbours in one word"])
def test_draws_are_independent(axis):
    x = 2 * draws(0.5, (120, 256), 60).double() - 1
    other = {
        "rows": lambda: x.roll(1, 1),
        "columns": lambda: x.roll(7, 2),
        "steps": lambda: x.roll(1, 0),
        "neighbours in one word": lambda: x.roll(1, 2),
    }[axis]()
    assert abs(float((x * other).mean())) < 5 / math.sqrt(x.numel())


def dispersion(steps=300):
    """Variance over mean, 1 for independent draws, of the number of rare events among 400,000 cells."""
    counts = draws(2.0**-18, (4000, 100), steps, seed=2).sum((1, 2)).double()
    return float(counts.var() / counts.mean())


def test_rare_events_come_one_by_one():
    assert dispersion() == pytest.approx(1, abs=5 * math.sqrt((2 + 1 / 1.5) / 300))


def test_a_fraction_shared_by_all_rows_makes_rare_events_come_together(monkeypatch):
    uniform = torch.Tensor.uniform_

    def shared(self, low, high, *, generator):
        return self.copy_(uniform(torch.empty(()), low, high, generator=generator))

    monkeypatch.setattr(torch.Tensor, "uniform_", shared)
    assert dispersion() > 3


@pytest.mark.parametrize("units", [Bernoulli(5), Spin(5)])
def test_a_seed_and_a_generator_state_give_the_same_bits_again(units):
    generator = torch.Generator().manual_seed(3)
    units.sample(torch.zeros(3, 5), generator=generator)
    state = generator.get_state()
    first = units.sample(torch.zeros(7, 5), generator=generator)
    assert torch.equal(first, units.sample(torch.zeros(7, 5), generator=torch.Generator().set_state(state)))
