"""What the fuzz gives: loaders that must be taken, a user's own units, and settings that are put back."""

import random

import pytest
import torch
from torch import nn

from dbn import CD, DBN, RBM, Bernoulli, evaluate, exact_log_partition, finetune, predict, train
from dbn.likelihood.exact import log_partition_over
from experiments import fuzz
from experiments.fuzzing import loaders
from experiments.fuzzing.arguments import VISIBLE
from experiments.fuzzing.draw import Draw
from experiments.fuzzing.own_units import Curved, Renamed, Shifted, Ternary
from experiments.fuzzing.public_api import Entry
from experiments.fuzzing.subjects import UNITS, draw_rbm, surroundings

X, Y = (torch.rand(12, 4, generator=torch.Generator().manual_seed(0)) < 0.5).float(), torch.arange(12) % 3
OWN = [Ternary(3), Curved(2), Shifted(2), Renamed(3)]


def ways():
    """Every way with one kind of data set, and every kind of data set in one way."""
    pairs = [("items", way) for way in loaders._WAYS] + [(kind, "shuffled by a generator") for kind in loaders._SETS]
    for kind, way in pairs:
        data, loader = loaders._SETS[kind], loaders._WAYS[way]
        yield f"{kind}, {way}", lambda x, y, data=data, loader=loader: loader(data(x, y), torch.Generator())
    for name, loader in loaders._OTHERS.items():
        yield name, lambda x, y, loader=loader: loader(list(x) if y is None else list(zip(x, y, strict=True)))


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in ways()])
def test_every_plain_loader_is_taken_with_and_without_labels(make):
    rbm, network = RBM(4, 3, seed=0), nn.Sequential(nn.Linear(4, 3))
    before = rbm.weight.detach().clone()
    torch.manual_seed(0)
    for y in (None, Y):
        train(rbm, make(X, y), epochs=2, estimator=CD(1), progress=False, seed=0)
        DBN([4, 3, 2], seed=0).pretrain(make(X, y), epochs=1, progress=False, seed=0)
    assert not torch.equal(rbm.weight, before)
    finetune(network, make(X, Y), epochs=2, progress=False, seed=0)
    rows = sum(len(batch[0]) for batch in make(X, Y))
    assert evaluate(network, make(X, Y)).n == rows
    assert len(predict(network, make(X, Y))) == rows


@pytest.mark.parametrize("units", OWN, ids=str)
def test_units_of_a_user_are_exponential_families(units):
    units = units.double()
    field = torch.linspace(-2, 2, 5 * units.size, dtype=torch.float64).view(5, -1).requires_grad_()
    (slope,) = torch.autograd.grad(units.log_partition(field).sum(), field)
    torch.testing.assert_close(units.mean(field), slope)
    torch.testing.assert_close(units.field_of_mean(units.mean(field)).detach(), field.detach(), atol=0.02, rtol=0)
    drawn = units.sample(field.detach().expand(20_000, 5, -1), generator=torch.Generator().manual_seed(0))
    assert bool(((drawn.mean(0) - units.mean(field)).abs() < 0.05).all())
    torch.testing.assert_close(units.activation()(field), units.mean(field))
    if units.cardinality is not None:
        states = units.states(torch.arange(units.cardinality))
        assert len(states.unique(dim=0)) == units.cardinality
        energies = units.log_base(states) + states @ field[0]
        torch.testing.assert_close(energies.logsumexp(0), units.log_partition(field[0]))


@pytest.mark.parametrize("hidden", [Ternary(3), Curved(3), Renamed(4)], ids=str)
def test_machines_of_a_users_units_have_one_partition_function(hidden):
    rbm = RBM(Curved(3), hidden, weight_scale=0.5, seed=0)
    of_visible, of_hidden = (log_partition_over(rbm, side) for side in ("visible", "hidden"))
    torch.testing.assert_close(of_visible, of_hidden)
    torch.testing.assert_close(exact_log_partition(rbm), of_hidden)


def test_units_are_nested_named_twice_and_a_users_own():
    words = [str(make()) for make in UNITS]
    assert sum("Joint(Joint" in word for word in words) >= 4
    assert {"Ternary(3)", "Curved(2)", "Shifted(2)", "Renamed(3)"} <= set(words)


def test_the_default_dtype_is_put_back(tmp_path):
    seen = set()
    for case in range(60):
        with surroundings(Draw(0, case, tmp_path)) as words:
            seen.add((torch.get_default_dtype(), "device" in words))
        assert torch.get_default_dtype() == torch.float32
    assert {dtype for dtype, _ in seen} >= {torch.float32, torch.float64}
    assert len({device for _, device in seen}) == 2
    with pytest.raises(KeyError), surroundings(Draw(0, 1, tmp_path)):
        raise KeyError
    assert torch.get_default_dtype() == torch.float32


def test_machines_come_in_every_precision(tmp_path):
    found = {draw_rbm(Draw(0, case, tmp_path)).weight.dtype for case in range(200)}
    assert found == {torch.float32, torch.float64, torch.float16, torch.bfloat16}


def test_plain_inputs_that_are_refused_are_a_finding(tmp_path, monkeypatch, capsys):
    face = Entry(lambda draw: RBM(4, 3), lambda rbm, v: rbm.free_energy(v[:, 1:]), {"v": VISIBLE})
    monkeypatch.setattr(random.Random, "randrange", lambda self, n: 0)  # never a strange one
    monkeypatch.setitem(fuzz.PUBLIC_API, "broken", face)
    with pytest.raises(ValueError, match="1 kinds of finding in 2 calls"):
        fuzz.main(["--cases", "2", "--faces", "broken", "--out", str(tmp_path)])
    assert "refuses valid inputs" in capsys.readouterr().out


def test_loaders_are_made_again_by_the_number_of_the_case(tmp_path):
    def words(case):
        return loaders.valid_loader(Draw(0, case, tmp_path), X, Y).words

    assert [words(case) for case in range(20)] == [words(case) for case in range(20)]
    assert len({words(case) for case in range(20)}) > 10


def test_bernoulli_rows_are_bool_and_bytes_too(tmp_path):
    rbm = RBM(Bernoulli(4), 2)
    found = {VISIBLE.valid(Draw(0, case, tmp_path), rbm).value.dtype for case in range(100)}
    assert found >= {torch.bool, torch.uint8, torch.int64, torch.float32, torch.float64}
