"""Machines train on the device that --device names as on the CPU, from rows of any kind."""

import copy

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dbn import CD, PCD, FastPCD, ParallelTempering, evaluate, exact_log_partition, finetune, log_likelihood, train
from dbn.rbm import RBM
from dbn.runtime.checks import choose_device
from dbn.schedules import switch
from tests.support.binary_rows import CONTAINERS
from tests.support.device_checks import (
    ESTIMATORS,
    LABELS,
    QUIET,
    ROWS,
    assert_alike,
    assert_close,
    assert_sound,
    numbers,
    on,
    same,
)
from tests.support.oracles import PAIRS, UNITS, assert_moments, generator, machine, mild_field, rows, unit
from tests.support.selection import slow_but_for

WITH_NOISY = [("noisy", kind) for kind in (*UNITS, "noisy")] + [(kind, "noisy") for kind in UNITS]
MANY_CHAINS = {
    "CD": ESTIMATORS["CD"],
    "PCD": lambda: PCD(50),
    "FastPCD": lambda: FastPCD(50),
    "tempering": lambda: ParallelTempering(50, 3),
}
TRAINABLE = [(*pair, name) for name in ESTIMATORS for pair in (*PAIRS, *(WITH_NOISY if name != "tempering" else ()))]
TRAINED = [*PAIRS, *WITH_NOISY]


def pytest_generate_tests(metafunc):
    """Every pair of units on a GPU; on the CPU, where other tests have them all, every kind of unit with itself."""
    here = metafunc.config.getoption("--device", "cpu") == "cpu"
    for names, cases in ((("visible", "hidden", "name"), TRAINABLE), (("visible", "hidden"), TRAINED)):
        if set(names) <= set(metafunc.fixturenames) and not any(metafunc.definition.iter_markers("parametrize")):
            metafunc.parametrize(names, [case for case in cases if not here or case[0] == case[1]])
            return


def test_auto_is_the_best_there_is(device):
    assert choose_device(str(device)) == device
    found = choose_device("auto")
    assert device.type in ("cpu", found.type)
    network = nn.Sequential(nn.Linear(8, 2))
    finetune(network, ROWS, LABELS, epochs=1, device="auto", **QUIET)
    assert_sound(numbers(network), found)


def test_every_pair_trains_by_every_estimator_to_the_same_bits_twice(visible, hidden, name, device):
    start, results = machine(visible, hidden, scale=0.1).float(), []
    for _ in range(2):
        rbm, estimator = copy.deepcopy(start).to(device), ESTIMATORS[name]()
        train(rbm, rows(start.visible, 20), epochs=3, batch_size=10, learning_rate=1e-3, estimator=estimator, **QUIET)
        results.append(numbers(rbm, estimator))
    assert_sound(results[0], device)
    assert same(*results)
    assert not same(numbers(rbm), numbers(start.to(device)))


def test_what_is_not_drawn_is_what_the_cpu_computes(visible, hidden, device):
    start, results = machine(visible, hidden, scale=0.1), []
    low, high = start.hidden.support
    penalties = {"sparsity_target": max(low, -1) / 2 + min(high, 1) / 2 + 0.1, "l1": 1e-3, "max_norm": 1.0, "clip": 1.0}
    for place in (device, "cpu"):
        rbm, settings = copy.deepcopy(start).to(place), {"batch_size": 30, "centring": 0.1, "average_from": 1}
        data = rows(start.visible, 30)
        history = train(
            rbm, data, epochs=3, learning_rate=1e-2, estimator=CD(mean_field=True), **settings, **penalties, **QUIET
        )
        results.append((numbers(rbm), history["reconstruction_error"]))
    (ours, errors), (theirs, errors_there) = results
    assert_close(ours, theirs, device, rtol=1e-9, atol=1e-9)
    assert errors == pytest.approx(errors_there)


def likelihoods(name, device, seeds, rate=0.2):
    """Exact mean log-likelihoods of small RBMs of several seeds, of rows in two modes."""
    x, found = two_modes(200), []
    for seed in seeds:
        rbm = RBM(6, 4, weight_scale=0.1, seed=seed).to(device)
        settings = {"epochs": 10, "batch_size": 50, "estimator": MANY_CHAINS[name](), "progress": False, "seed": seed}
        train(rbm, x, learning_rate=rate, momentum=switch(0.5, 0.9, at=5), **settings)
        found.append(float(log_likelihood(rbm, x, exact_log_partition(rbm)).mean()))
    return found


def two_modes(n):
    """Rows (n, 6) all off or all on, with a tenth of the numbers flipped."""
    common, flips = (torch.rand(n, width, generator=generator(width)) for width in (1, 6))
    return ((common < 0.5) ^ (flips < 0.1)).float()


@pytest.mark.parametrize("name", slow_but_for(["PCD"], MANY_CHAINS))
def test_machines_are_as_likely_as_those_of_the_cpu(name, device):
    theirs = likelihoods(name, "cpu", range(10, 20))
    assert_alike(likelihoods(name, device, range(10)), theirs)
    with pytest.raises(AssertionError):
        assert_alike(likelihoods(name, device, range(10), rate=0.05), theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", [*UNITS, "noisy"])
def test_units_are_drawn_with_the_moments_of_theory(name, dtype, device):
    units, field = unit(name).to(device, dtype), mild_field(unit(name).size)
    x = units.sample(field.to(device, dtype).expand(20_000, -1), generator=on(device)).detach()
    assert x.device.type == device.type
    assert_moments(unit(name), field, x.cpu())


IN_MEMORY = {
    "on the device": lambda x, path, device: x.to(device),
    "bytes": lambda x, path, device: x.to(torch.uint8),
    "bytes on the device": lambda x, path, device: x.to(device, torch.uint8),
    **{name: lambda x, path, device, name=name: CONTAINERS[name](x, path) for name in CONTAINERS},
}


@pytest.mark.parametrize("kind", IN_MEMORY)
def test_rows_in_any_container_train_alike(kind, device, tmp_path):
    machines = []
    for data in (ROWS, IN_MEMORY[kind](ROWS, tmp_path, device)):
        rbm = RBM(8, 6, seed=0).to(device)
        history = train(rbm, data, epochs=20, batch_size=20, learning_rate=0.3, validation=ROWS, **QUIET)
        assert history["reconstruction_error"][-1] < 0.9 * history["reconstruction_error"][0]
        machines.append(numbers(rbm))
    assert_sound(machines[1], device)
    assert kind in ("memmap", "dataset", "labelled", "loader") or same(*machines)


def test_labelled_rows_of_any_source_are_learnt_and_judged(device):
    sources = [
        TensorDataset(ROWS, LABELS),
        DataLoader(TensorDataset(ROWS.to(device), LABELS.to(device)), batch_size=20),
    ]
    for source in sources:
        network = nn.Sequential(nn.Linear(8, 2)).to(device)
        finetune(network, source, epochs=8, batch_size=20, learning_rate=0.05, **QUIET)
        assert_sound(numbers(network), device)
        assert evaluate(network, source).error < 0.1


def test_a_generator_of_another_device_is_refused(device):
    if device.type == "cpu":
        pytest.skip("a CPU has no other: this is a test of --device cuda")
    rbm = RBM(8, 5, seed=0).to(device)
    with pytest.raises(ValueError, match=f"generator is on cpu, the module on {device.type}"):
        train(rbm, ROWS, epochs=1, progress=False, generator=generator())


def test_too_many_chains_are_named_and_change_nothing(device):
    rbm = RBM(8, 5, seed=0).to(device)
    before = numbers(rbm)
    with pytest.raises(torch.OutOfMemoryError, match=r"estimator = PCD\(chains=10000000000000"):
        train(rbm, ROWS, epochs=1, estimator=PCD(10**13), initialise_bias=False, **QUIET)
    assert same(before, numbers(rbm))
