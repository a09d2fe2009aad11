"""Several processes learn machines and stacks as one does."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from dbn import (
    CD,
    DBN,
    PCD,
    EarlyStopping,
    FastPCD,
    Gaussian,
    ParallelTempering,
    datasets,
    distributed,
    score_by_ais,
    train,
)
from dbn.rbm import RBM
from tests.support.lessons import EXAMPLES, LESSONS, centred_teacher, kl_from, lesson_machine
from tests.support.oracles import draw, generator, machine, visible_probabilities
from tests.support.ranks import MEANS, QUIET, X, Y, furthest, numbers
from tests.support.selection import slow_but_for


def container(kind, folder):
    if kind == "memmap":
        path = folder / "x.npy"
        if distributed.is_main():
            np.save(path, X.numpy())
        distributed.all_gather_object(None)
        return np.load(path, mmap_mode="r")
    dataset = TensorDataset(X, Y)
    loader = DataLoader(dataset, 100, shuffle=True, generator=generator(7))
    return {"tensor": X, "dataset": dataset, "loader": loader}[kind]


RECIPES = {
    "plain": {},
    "centred": {"centring": 0.1},
    "held back": {"l1": 1e-3, "max_norm": 0.5, "sparsity_target": 0.2, "sparsity_cost": 1.0},
    "clipped": {"clip": 0.05, "centring": 0.1},
    "averaged": {"average_from": 10},
}


def by_means(kind, folder, recipe, **units):
    """100 updates of means in float64, of which every fifth has two rows alone."""
    rbm = RBM(units.get("visible", 12), units.get("hidden", 8), seed=0).double()
    history = train(
        rbm, container(kind, folder), epochs=20, validation=X[:50], estimator=MEANS, **RECIPES[recipe], **QUIET
    )
    return numbers(rbm), [{**record, "seconds": 0} for record in history]


def assert_as_one(many, one, within=1e-12):
    (ours, record), (theirs, other) = many[0], one
    assert record[-1]["step"] == other[-1]["step"] == 100
    assert furthest(ours, theirs) < within
    assert all(furthest(ours, parameters) == 0 and records == record for parameters, records in many)
    for mine, its in zip(record, other, strict=True):
        assert mine == pytest.approx(its, abs=100 * within)


@pytest.mark.parametrize("recipe", slow_but_for(["plain", "clipped"], RECIPES))
def test_two_processes_with_half_the_batch_learn_as_one(two, recipe, tmp_path):
    assert_as_one(two(by_means, "tensor", tmp_path, recipe), by_means("tensor", tmp_path, recipe))


def in_single(_=None):
    """100 updates of means in float32, on digits."""
    rbm, x = RBM(784, 64, seed=0), datasets.load("mnist-sample", seed=0).train.x[:2000]
    history = train(rbm, x, epochs=5, estimator=MEANS, learning_rate=0.01, **QUIET)
    return numbers(rbm), history.last


def test_in_single_precision_two_processes_differ_by_rounding(two):
    (ours, record), _ = two(in_single)
    theirs, other = in_single()
    assert record["step"] == other["step"] == 100
    assert 0 < furthest(ours, theirs) < 1e-6


@pytest.mark.parametrize("recipe", slow_but_for(["centred", "held back", "averaged"], RECIPES))
def test_three_processes_learn_as_one_although_one_may_have_no_row(three, recipe, tmp_path):
    assert_as_one(three(by_means, "tensor", tmp_path, recipe), by_means("tensor", tmp_path, recipe))


@pytest.mark.parametrize("kind", slow_but_for(["loader"], ["memmap", "dataset", "loader"]))
def test_every_container_is_split(three, kind, tmp_path):
    assert_as_one(three(by_means, kind, tmp_path, "plain"), by_means(kind, tmp_path, "plain"))


def test_precisions_are_learned_as_one(three, tmp_path):
    units = {"visible": Gaussian(12, precision=torch.full((12,), 2.0), learned=True)}
    assert_as_one(three(by_means, "tensor", tmp_path, "plain", **units), by_means("tensor", tmp_path, "plain", **units))


def test_a_sampler_of_parts_is_refused():
    sampler = DistributedSampler(TensorDataset(X), num_replicas=2, rank=0)
    with pytest.raises(ValueError, match="data has a DistributedSampler: give the same loader on every process"):
        train(RBM(12, 3), DataLoader(TensorDataset(X), 100, sampler=sampler), epochs=1)


ESTIMATORS = {
    "CD": CD(1),
    "PCD": PCD(31),
    "PCD from data": PCD(31, start="data"),
    "FastPCD": FastPCD(31, rate=0.05),
    "tempering": ParallelTempering(31, 3),
}


def stacked(estimator):
    """A stack that is drawn anew on every process, so that all but the first must give theirs up."""
    torch.manual_seed(distributed.rank())
    stack = DBN([12, 9, 5])
    settings = {"epochs": 3, "estimator": ESTIMATORS[estimator], "progress": False, "binarise": "sample"}
    stopping = EarlyStopping(score_by_ais(X, chains=8, temperatures=20), patience=1)
    histories = stack.pretrain(X, validation=X[:99], centring=0.01, upward="samples", stopping=[None, None], **settings)
    train(stack.layers[0], X, stopping=stopping, **settings)
    return numbers(stack), [[{**record, "seconds": 0} for record in history] for history in histories]


@pytest.mark.parametrize("estimator", slow_but_for(["PCD", "tempering"], ESTIMATORS))
def test_samples_leave_all_processes_with_the_same_stack(three, estimator):
    (first, records), *others = three(stacked, estimator)
    for parameters, found in others:
        assert furthest(first, parameters) == 0
        assert found == records


def chains_of(estimator):
    train(machine("bernoulli", "spin"), torch.ones(9, 3), epochs=1, estimator=estimator, **QUIET)
    return estimator.state_dict()["hidden"]


def test_every_process_has_chains_of_its_own_and_none_has_none(three):
    parts = three(chains_of, PCD(100))
    assert [len(part) for part in parts] == [34, 33, 33]
    assert not torch.equal(parts[1], parts[2])
    with pytest.raises(ValueError, match="chains is 2 for 3 processes: give at least one for each"):
        three(chains_of, PCD(2))


def taught(seed):
    """KL of a student from its teacher, in nats."""
    lesson = LESSONS[0]
    teacher, student = centred_teacher(*lesson), lesson_machine(*lesson[:2], 0.1, 99)
    v, p = visible_probabilities(teacher)
    settings = {"epochs": 8, "weight_decay": 0.0, "momentum": 0.5, "progress": False, "seed": seed}
    x = draw(v, p, EXAMPLES)
    train(student, x, learning_rate=lambda now: 0.5 * (1 - now / 8.01), estimator=PCD(100), **settings)
    return kl_from(teacher, student)


@pytest.mark.slow
def test_students_of_two_processes_are_as_near_to_the_teacher(two):
    """Of 5 seeds each; the difference of the means within 3 standard errors."""
    both = torch.tensor([two(taught, seed)[0] for seed in range(5)])
    one = torch.tensor([taught(seed) for seed in range(5)])
    error = ((both.var() + one.var()) / 5).sqrt()
    assert float((both.mean() - one.mean()).abs()) < 3 * float(error)
    assert not torch.equal(both, one)


def wrongly(settings):
    train(RBM(12, 8, seed=0), X, **{**settings[distributed.rank()], **QUIET})


def test_processes_with_other_arguments_do_not_wait_for_each_other(two):
    with pytest.raises(ValueError, match="the processes have other batch_size, batches, epochs, rows per batch"):
        two(wrongly, [{"epochs": 1}, {"epochs": 2, "batch_size": 7}])


@pytest.mark.parametrize("what", ["checkpoint", "validation", "checkpoint_seconds"])
def test_what_the_main_process_alone_is_given_is_refused(two, what, tmp_path):
    with pytest.raises(ValueError, match=f"the processes have other {what}"):
        two(given_to_one, tmp_path, what)


def given_to_one(folder, what):
    given = {"checkpoint": folder, "validation": X[:9], "checkpoint_seconds": 5.0}
    settings = {name: value for name, value in given.items() if name != what or distributed.is_main()}
    train(RBM(12, 8, seed=0), X, epochs=1, **settings, **QUIET)
