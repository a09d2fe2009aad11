"""Samples from 16 random bits and a shared fraction are as good as samples from 24 (float32 on a CPU)."""

import math

import pytest
import torch

from dbn import Bernoulli, Spin
from dbn.units import discrete


def draws(p: float, shape: tuple[int, int], steps: int, seed: int = 0) -> torch.Tensor:
    """Bernoulli samples (steps, rows, columns) at probability p, in float32."""
    generator, mean = torch.Generator().manual_seed(seed), torch.full(shape, p)
    units = Bernoulli(shape[1])
    return torch.stack([units.sample(mean.logit(), mean=mean, generator=generator) for _ in range(steps)])


@pytest.mark.parametrize("p", [1e-6, 1e-5, 2.0**-16, 1.5 * 2.0**-16, 1e-3, 0.3, 0.5, 0.999, 1 - 1e-5])
def test_every_probability_is_kept_also_below_one_part_in_65536(p):
    steps, cells = 400, 200 * 300
    mean = float(draws(p, (200, 300), steps).double().mean())
    # The fraction is shared by a call: its share of the variance is at most 2⁻³² / 4 a call, however many the cells.
    deviation = math.sqrt(p * (1 - p) / (steps * cells) + 2.0**-34 / steps)
    assert mean == pytest.approx(p, abs=5 * deviation + 2.0**-24)


def test_certain_events_are_certain():
    assert not bool(draws(0.0, (500, 401), 20).any())
    assert bool(draws(1.0, (500, 401), 20).all())


def test_without_the_fraction_small_probabilities_are_wrong(monkeypatch):
    monkeypatch.setattr(torch, "rand", lambda *size, generator=None: torch.tensor(0.0))
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


def test_numbers_are_uniform_and_below_one():
    u = discrete._uniform_like(torch.empty(1000, 1001), torch.Generator().manual_seed(1))
    assert 0 <= float(u.min()) < 1e-4
    assert 1 - 1e-4 < float(u.max()) < 1
    assert float(u.double().mean()) == pytest.approx(0.5, abs=5 / math.sqrt(12 * u.numel()))
    assert float(u.double().var()) == pytest.approx(1 / 12, rel=0.01)


@pytest.mark.parametrize("units", [Bernoulli(5), Spin(5)])
def test_a_seed_and_a_generator_state_give_the_same_bits_again(units):
    generator = torch.Generator().manual_seed(3)
    units.sample(torch.zeros(3, 5), generator=generator)
    state = generator.get_state()
    first = units.sample(torch.zeros(7, 5), generator=generator)
    assert torch.equal(first, units.sample(torch.zeros(7, 5), generator=torch.Generator().set_state(state)))
