"""The gap between chains and data is about 1 for samples of the RBM, and large where a mode is lost."""

import copy

import pytest
import torch

import dbn.training.chain_gap as gap_module
from dbn import CD, PCD, RBM, Bernoulli, FastPCD, ParallelTempering, ReLU, Spin, distributed, train
from dbn.training.chain_gap import chain_gap
from tests.support.oracles import PAIRS, draw, generator, machine, rows, states

QUIET = {"progress": False, "seed": 0}
CHAINED = [PCD(20), PCD(20, start="data"), FastPCD(20), ParallelTempering(20, 3)]
ROWS = (torch.rand(200, 6, generator=generator()) < torch.linspace(0.1, 0.9, 6)).float()


def wide():
    """An RBM of sixty columns, of which ten are hardly ever on."""
    rbm = machine(Bernoulli(60).double(), Spin(4).double(), scale=0.3, seed=1)
    with torch.no_grad():
        rbm.visible_bias[:10] = -5.0
    return rbm


@torch.no_grad()
def exact(rbm, n, seed):
    """Independent draws of v: of h by enumeration, then of v given h."""
    h = states(rbm.hidden)
    return rbm.sample_visible(draw(h, (-rbm.hidden_free_energy(h)).softmax(0), n, seed), seed=seed)


def gaps_of_exact_samples(data=1000, chains=100, repeats=20):
    rbm = wide()
    return torch.stack(
        [chain_gap(rbm, exact(rbm, data, seed), exact(rbm, chains, 1000 + seed)) for seed in range(repeats)]
    )


def test_samples_of_the_machine_are_about_one_from_the_data():
    gaps = gaps_of_exact_samples()
    assert 0.9 < float(gaps.mean()) < 1.3
    assert bool(((gaps > 0.7) & (gaps < 1.5)).all())


def test_a_gap_without_the_noise_of_the_chains_is_not(monkeypatch):
    monkeypatch.setattr(gap_module, "_rms", lambda *values, rms=gap_module._rms: rms(*values[:-1], 1e9))
    assert float(gaps_of_exact_samples().min()) > 1.5


def test_a_lost_mode_is_far_from_the_data():
    """Two modes of magnetisation ±0.71: the data are at 0.00, the chains are all in one mode, and ⟨v h⟩ is the same."""
    rbm = machine(Spin(16).double(), Spin(8).double(), scale=0.0)
    with torch.no_grad():
        rbm.weight.fill_(0.2)
    sign = torch.where(torch.arange(1000) % 2 == 0, 1.0, -1.0).double()[:, None]

    def magnetised(n, sign, seed):
        return torch.where(torch.rand(n, 16, generator=generator(seed)) < 0.855, 1.0, -1.0).double() * sign

    data = magnetised(1000, sign, 0)
    assert float(chain_gap(rbm, data, magnetised(500, 1.0, 1))) > 10
    assert float(chain_gap(rbm, data, magnetised(500, sign[:500], 1))) < 2


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_columns_that_do_not_vary_are_left_out(value):
    rbm = machine("bernoulli", "bernoulli")
    constant = torch.full((50, 3), value, dtype=torch.float64)
    assert float(chain_gap(rbm, constant, constant[:20])) == 0
    other = chain_gap(rbm, constant, 1 - constant[:20])
    assert float(other) == pytest.approx(70**0.5)


@pytest.mark.parametrize("pair", PAIRS)
def test_every_machine_has_a_finite_gap(pair):
    rbm = machine(*pair)
    assert 0 <= float(chain_gap(rbm, rows(rbm.visible, 30), rows(rbm.visible, 1, seed=1))) < 31**0.5


def test_of_a_large_layer_some_hidden_units_are_looked_at():
    rbm = RBM(300, 500, seed=0)
    v = (torch.rand(400, 300, generator=generator()) < 0.2).float()
    assert 0.8 < float(chain_gap(rbm, v[:300], v[300:])) < 1.2


@pytest.mark.parametrize("estimator", CHAINED, ids=str)
def test_every_estimator_with_chains_records_it(estimator):
    history = train(RBM(6, 4, seed=0), ROWS, epochs=3, record_every=1, estimator=copy.deepcopy(estimator), **QUIET)
    assert len(history["chain_gap"]) == len(history) == 6
    assert all(0 < gap < 15 for gap in history["chain_gap"])


def test_an_estimator_without_chains_has_no_gap():
    assert "chain_gap" not in train(RBM(6, 4, seed=0), ROWS, epochs=1, estimator=CD(1), **QUIET).last


@pytest.mark.parametrize("estimator", CHAINED, ids=str)
@pytest.mark.parametrize("hidden", [4, ReLU(4)], ids=str)
def test_chain_gap_changes_no_bit_of_training_and_draws_nothing_from_it(estimator, hidden):
    trained = []
    for every in (None, 1):
        rbm, own = RBM(6, hidden, seed=0), copy.deepcopy(estimator)
        before = torch.random.get_rng_state()
        train(rbm, ROWS, epochs=3, record_every=every, estimator=own, **QUIET)
        assert torch.equal(before, torch.random.get_rng_state())
        trained.append([*rbm.parameters(), *own.buffers()])
    assert all(torch.equal(one, other) for one, other in zip(*trained, strict=True))


def test_the_bar_shows_it(capsys):
    train(RBM(6, 4), ROWS, epochs=2, estimator=PCD(5), seed=0)
    assert "chain_gap=" in capsys.readouterr().err


def sharded(data, chains):
    return float(chain_gap(wide(), data, distributed.local_rows(chains)[0]))


def test_processes_with_a_part_of_the_chains_each_find_the_gap_of_all(three):
    data, chains = exact(wide(), 300, 0), exact(wide(), 100, 1)
    one = float(chain_gap(wide(), data, chains))
    assert three(sharded, data, chains) == pytest.approx([one] * 3)
