"""Runs on the device that --device names are saved, go on to the same bits, and leave what is global alone."""

import pytest
import torch

from dbn import DBN, train
from dbn.rbm import RBM
from tests.support.device_checks import ESTIMATORS, QUIET, ROWS, assert_sound, numbers, pretrained, same, tuned
from tests.support.interruptions import Broken, breaking
from tests.support.oracles import UNITS, machine


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    """No power fails in these tests: what is slow about saving is left out."""
    monkeypatch.setattr("os.fsync", lambda handle: None)


def test_a_stack_that_is_saved_on_the_device_goes_on_as_if_it_had_stayed(device, tmp_path):
    stack = pretrained(device)
    stack.save(tmp_path / "stack.pt")
    loaded = DBN.load(tmp_path / "stack.pt")
    assert_sound(numbers(loaded), torch.device("cpu"))
    loaded.to(device)
    assert same(numbers(stack), numbers(loaded))
    for one in (stack, loaded):
        one.pretrain(ROWS, epochs=1, **QUIET)
    assert same(numbers(stack), numbers(loaded))


@pytest.mark.parametrize("kind", UNITS)
def test_machines_of_all_units_are_saved_on_the_device(kind, device, tmp_path):
    rbm = machine(kind, kind, scale=0.1).to(device)
    rbm.save(tmp_path / "machine.pt")
    loaded = RBM.load(tmp_path / "machine.pt")
    assert_sound(numbers(loaded), torch.device("cpu"))
    assert same(numbers(rbm), numbers(loaded.to(device)))


def trained_by(name):
    def run(device, **keeping):
        rbm, estimator = RBM(8, 5, seed=0).to(device), ESTIMATORS[name]()
        settings = {"centring": 0.01, "clip": 1.0, "average_from": 1, "binarise": "sample"}
        train(rbm, ROWS, epochs=3, batch_size=30, estimator=estimator, **settings, **QUIET, **keeping)
        return numbers(rbm, estimator)

    return run


RUNS = {
    **{name: trained_by(name) for name in ESTIMATORS},
    "a stack": lambda device, **keeping: numbers(pretrained(device, upward="samples", **keeping)),
    "adam": lambda device, **keeping: numbers(tuned(device, dropout=0.3, **keeping)[0]),
    "sgd": lambda device, **keeping: numbers(tuned(device, dropout=0.3, optimiser="sgd", max_norm=1.0, **keeping)[0]),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_that_is_broken_off_goes_on_to_the_same_bits(name, device, tmp_path):
    results, breaks = None, 0
    while results is None:
        try:
            with breaking(4):
                results = RUNS[name](device, checkpoint=tmp_path, checkpoint_seconds=0)
        except Broken:
            breaks += 1
            assert breaks < 50, "no attempt comes any further"
    assert breaks > 1
    assert_sound(results, device)
    assert same(results, RUNS[name](device))


def global_states(device):
    states = [torch.get_rng_state()]
    return states + ([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])


@pytest.mark.parametrize("name", RUNS)
def test_seeds_leave_the_global_generators_alone(name, device):
    before = global_states(device)
    RUNS[name](device)
    assert same(before, global_states(device))
