"""The part of the benchmark that asks how long the same exact likelihood takes."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from dbn import RBM, Bernoulli, Categorical, exact_log_partition, log_likelihood
from experiments.benchmark import PRESETS
from experiments.benchmarking import rbms_library
from experiments.benchmarking import time_to_likelihood as race
from experiments.benchmarking.time_to_likelihood import Ours, Point, seconds_to

RESULTS = Path(__file__).parents[2] / "experiments" / "results" / "benchmark-likelihood"
TINY, CPU = PRESETS["tiny"], torch.device("cpu")


def test_seconds_to_a_likelihood_lie_on_the_line_between_the_points_around_it():
    curve = [Point(0, 0.0, -10.0), Point(10, 2.0, -6.0), Point(20, 4.0, -7.0), Point(30, 6.0, -5.0)]
    assert seconds_to(curve, -8.0) == 1.0
    assert seconds_to(curve, -6.5) == pytest.approx(1.75)  # the first time, though it is lost and reached again
    assert seconds_to(curve, -5.5) == pytest.approx(5.5)
    assert seconds_to(curve, -10.0) == 0.0
    assert seconds_to(curve, -4.9) is None
    assert seconds_to([Point(0, 0.0, -5.0), Point(10, 2.0, -5.0)], -5.0) == 0.0


def test_exact_samples_have_the_probabilities_of_the_machine():
    rbm = RBM(Categorical(6, classes=3), 3, weight_scale=1.0, seed=0)
    rows = race.exact_samples(rbm, 40_000, seed=1)
    states = rbm.visible.states(torch.arange(9))
    probability = log_likelihood(rbm, states, exact_log_partition(rbm)).exp()
    seen = (rows.double() @ states.T == 2).double().mean(0)
    assert torch.allclose(seen.sum(), torch.tensor(1.0).double())
    assert ((seen - probability).abs() < 5 * (probability * (1 - probability) / 40_000).sqrt()).all()


def test_the_same_training_under_another_name_ends_at_the_same_likelihood(monkeypatch):
    monkeypatch.setattr(race, "TRAINERS", {"again": (lambda: "1.0", Ours)})
    rows = list(race.race(TINY, CPU))
    assert [row["of"] for row in rows] == [race.OF] * 4
    for row, task in zip(rows, race.tasks(TINY), strict=True):
        assert row["what"] == f"again 1.0, {task.name}"
        assert row["likelihood"][0] == row["likelihood"][1]
        assert row["ratio_per_update"] > 0
        assert row["updates"] == 8
        for side, curve in row["curves"].items():
            assert [point["updates"] for point in curve] == [0, 4, 8], side
        for level in row["levels"]:
            theirs, ours = level["cpu_seconds"]
            assert level["ratio"] == (theirs / ours if theirs is not None and ours else None)
        assert f"{row['likelihood'][0]:.2f} / {row['likelihood'][1]:.2f} nats" in row["result"]
        json.dumps(row)
    assert [row["truth"] is None for row in rows] == [True, True, False, False]


def test_unknown_rows_are_refused():
    with pytest.raises(ValueError, match=r"--likelihood-data is \('letters',\): give at least one of digits potts"):
        list(race.tasks(replace(TINY, likelihood_data=("letters",))))


def test_our_side_makes_the_updates_of_the_recipe():
    task = next(iter(race.tasks(TINY)))
    ours = Ours(task)
    ours.update(task.updates_per_pass)
    assert ours.current_rbm() is not task.start
    assert not torch.equal(ours.current_rbm().weight, task.start.weight)
    assert len(ours.chains.hidden) == task.chains
    chains = ours.chains.hidden.clone()
    ours.update(task.updates_per_pass)
    assert not torch.equal(ours.chains.hidden, chains)


def test_an_implementation_that_is_missing_or_fails_is_skipped_with_its_reason(monkeypatch):
    def missing():
        raise ImportError("no peer here")

    def failing(task):
        raise ValueError(f"cannot train on {len(task.x)} rows")

    monkeypatch.setattr(race, "TRAINERS", {"missing": (missing, Ours), "failing": (lambda: "2.0", failing)})
    first, *others = race.race(TINY, CPU)
    assert (first["what"], first["of"]) == ("missing, time to a likelihood", "skipped")
    assert first["reason"] == "no peer here"
    assert [row["reason"] for row in others] == ["cannot train on 200 rows"] * 4


@pytest.mark.parametrize("release", ["0.5.1", "0.4"])
def test_releases_of_rbms_with_other_modules_are_refused(release, monkeypatch):
    monkeypatch.setattr(rbms_library, "version", lambda name: release)
    with pytest.raises(ImportError, match=rf"rbms is {release}, whose modules are others: install 0\.6"):
        rbms_library.installed()
    monkeypatch.setattr(rbms_library, "version", lambda name: "1.0")
    assert rbms_library.installed() == "1.0"


@pytest.mark.parametrize("kind", ["binary", "potts"])
def test_machines_of_rbms_have_our_free_energies(kind):
    pytest.importorskip("rbms", reason="rbms needs Python 3.12")
    rbm = RBM(Categorical(12, classes=3) if kind == "potts" else 12, 5, weight_scale=0.5, seed=0)
    torch.nn.init.normal_(rbm.visible_bias)
    torch.nn.init.normal_(rbm.hidden_bias)
    rows = rbm.visible.sample(torch.zeros(7, 12), generator=torch.Generator().manual_seed(0))
    if kind == "potts":
        energies = rbms_library.potts(rbm, 3).compute_energy_visibles(rbms_library.codes(rows, 3))
    else:
        parts = rbm.weight, rbm.visible_bias, rbm.hidden_bias
        energies = rbms_library.binary(*parts).compute_energy_visibles(rows)
    assert torch.allclose(energies, rbm.free_energy(rows).detach(), atol=1e-5)


@pytest.mark.parametrize("centred", [False, True])
@pytest.mark.parametrize("units", [Bernoulli(8), Categorical(12, classes=3)], ids=str)
def test_rbms_and_we_train_the_same_machine_to_the_same_likelihood(units, centred):
    pytest.importorskip("rbms", reason="rbms needs Python 3.12")
    x = race.exact_samples(RBM(units, 3, weight_scale=1.0, seed=0), 1500, seed=1)
    task = race.Task("small", RBM(units, 3, seed=2), x[:1000], x[1000:], 100, 500, centred)
    sides = [race.Rbms(task), Ours(task)]
    for side in sides:
        side.update(20 * task.updates_per_pass)
    start, theirs, ours = (race._nats(rbm, task.test) for rbm in (task.start, *(side.current_rbm() for side in sides)))
    assert min(theirs, ours) > start + 0.1
    assert abs(theirs - ours) < 0.05


@pytest.mark.parametrize("file", sorted(RESULTS.glob("*.json")), ids=lambda path: path.stem)
def test_committed_ratios_are_those_of_the_committed_curves(file):
    content = json.loads(file.read_text())
    rows = [row for row in content["rows"] if row["of"] == race.OF]
    assert len(rows) == 2 * len(content["config"]["likelihood_data"]) == len(content["rows"])
    for row in rows:
        curves = [[Point(**point) for point in row["curves"][side]] for side in ("theirs", "ours")]
        theirs, ours = (curve[-1] for curve in curves)
        assert row["ratio_per_update"] == theirs.seconds / ours.seconds
        assert row["likelihood"] == [theirs.likelihood, ours.likelihood]
        for level in row["levels"]:
            assert level["cpu_seconds"] == [seconds_to(curve, level["likelihood"]) for curve in curves]
        reached = [level["ratio"] for level in row["levels"] if level["ratio"] is not None]
        assert row["ratio"] == reached[-1]
