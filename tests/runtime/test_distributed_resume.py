"""A run of several processes that is broken off goes on to the same bits, and by other numbers of processes too."""

import os
import random
import signal

import pytest
import torch
from torch import nn

from dbn import CD, DBN, PCD, FastPCD, ParallelTempering, distributed, finetune, initialise
from dbn.runtime.checkpoint import load
from experiments.fault_injection.kill_and_resume import equal, work
from experiments.fault_injection.kill_rank import kill_one, start
from tests.support.interruptions import Broken, breaking
from tests.support.oracles import generator
from tests.support.ranks import X, Y, furthest, numbers
from tests.support.selection import slow_but_for

QUIET = {"progress": False, "seed": 3}


def pretrained(folder, estimator, saves, every):
    """The stack, and the steps of its layers, of a run that breaks off after so many saves; 0 for none."""
    stack = DBN([12, 9, 5], seed=0).double()
    with breaking(saves):
        histories = stack.pretrain(
            X, epochs=3, estimator=estimator, checkpoint=folder, checkpoint_seconds=every, centring=0.01, **QUIET
        )
    return numbers(stack), [record["step"] for history in histories for record in history]


def tuned(folder, dropout, saves, every):
    network = nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Dropout(dropout), nn.Linear(16, 2)).double()
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(0, 0.3, generator=generator(1))
    settings = {"validation": (X[:80], Y[:80]), "optimiser": "sgd", "learning_rate": 0.1, **QUIET}
    with breaking(saves):
        history = finetune(network, X, Y, epochs=6, checkpoint=folder, checkpoint_seconds=every, **settings)
    return numbers(network), [record["loss"] for record in history]


def broken_and_whole(many, run, folder, how):
    """The result of a run that is broken off every four saves, and of one that is not."""
    for _ in range(50):
        try:
            results = many(run, folder / "broken", how, 4, 0)
        except Broken:
            continue
        return results, many(run, folder / "whole", how, 0, 60.0)
    raise AssertionError("no attempt comes any further")


@pytest.mark.parametrize(
    "estimator",
    [
        pytest.param(CD(1), marks=pytest.mark.slow),
        PCD(31),
        pytest.param(FastPCD(31), marks=pytest.mark.slow),
        ParallelTempering(31, 3),
    ],
    ids=str,
)
def test_pretraining_by_two_goes_on_to_the_same_bits(two, estimator, tmp_path):
    broken, whole = broken_and_whole(two, pretrained, tmp_path, estimator)
    for (ours, steps), (theirs, expected) in zip(broken, whole, strict=True):
        assert furthest(ours, theirs) == 0
        assert steps == expected == [5, 10, 15] * 2


@pytest.mark.parametrize("many", slow_but_for(["two"], ["two", "three"]))
def test_fine_tuning_by_several_goes_on_to_the_same_bits(many, two, three, tmp_path):
    broken, whole = broken_and_whole({"two": two, "three": three}[many], tuned, tmp_path, 0.5)
    for (ours, losses), (theirs, expected) in zip(broken, whole, strict=True):
        assert furthest(ours, theirs) == 0
        assert losses == expected


def in_turn(run, folder, how, two, three):
    """A run that is begun by two processes, gone on with by one, then by three, and ended by two."""
    for many in (two, lambda run, *arguments: [run(*arguments)], three):
        with pytest.raises(Broken):
            many(run, folder, how, 7, 0)
    return two(run, folder, how, 0, 0)


def test_pretraining_goes_on_by_other_numbers_of_processes(two, three, tmp_path):
    means = CD(1, mean_field=True)
    (ours, steps), (same, _) = in_turn(pretrained, tmp_path / "a", means, two, three)
    theirs, expected = pretrained(tmp_path / "b", means, 0, 60.0)
    assert steps == expected
    assert furthest(ours, same) == 0
    assert furthest(ours, theirs) < 1e-12


def test_fine_tuning_goes_on_by_other_numbers_of_processes(two, three, tmp_path):
    (ours, losses), (same, _) = in_turn(tuned, tmp_path / "a", 0.0, two, three)
    theirs, expected = tuned(tmp_path / "b", 0.0, 0, 60.0)
    assert losses == pytest.approx(expected, abs=1e-12)
    assert furthest(ours, same) == 0
    assert furthest(ours, theirs) < 1e-12


@pytest.mark.parametrize(
    "estimator", [PCD(31), pytest.param(ParallelTempering(31, 3), marks=pytest.mark.slow)], ids=str
)
def test_all_chains_go_on_by_other_numbers_of_processes(two, three, estimator, tmp_path):
    (ours, steps), (same, _) = in_turn(pretrained, tmp_path, estimator, two, three)
    assert steps == [5, 10, 15] * 2
    assert furthest(ours, same) == 0
    newest = max(tmp_path.glob("*.pt"))
    kept = load(newest, kind="pretrain")["run"]["task"]["update"]["estimator"]
    name, dim = next(iter(estimator.sharded_buffers.items()))
    assert kept[name]["joined"].shape[dim] == 31
    assert kept[name]["dim"] == dim


def parted_and_whole():
    own = {"a": [distributed.Shard(torch.arange(3.0)[: 2 + distributed.rank()]), 5], "b": {"c": "text"}}
    whole = distributed.gather_shards(own)
    part = distributed.split_shards(whole)
    return whole["a"][0]["joined"].tolist(), part["a"][0].value.tolist(), part["a"][1], part["b"]


def test_gathered_shards_can_be_split_again(two):
    rest = (5, {"c": "text"})
    assert two(parted_and_whole) == [([0, 1, 0, 1, 2], [0, 1, 0], *rest), ([0, 1, 0, 1, 2], [1, 2], *rest)]


def failing_to_save(folder):
    def full(*_):
        raise OSError("the disk is full")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("dbn.runtime.checkpoint_manager.save", full)
        pretrained(folder, CD(1), 0, 0)


def test_a_disk_that_is_full_ends_the_run_on_all_processes(two, tmp_path):
    with pytest.raises(OSError, match="the disk is full"):
        two(failing_to_save, tmp_path)
    assert two(distributed_rank) == [0, 1]  # still in step


def distributed_rank():
    return distributed.rank()


def asked_to_stop(folder, layer, epoch):
    """A run in which the second process alone is sent a signal."""
    stack = DBN([12, 9, 5], seed=0).double()

    def callback(record):
        if distributed.rank() == 1 and (record["layer"], record["epoch"]) == (layer, epoch):
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        stack.pretrain(X, epochs=3, callback=callback, checkpoint=folder, **QUIET)
    except SystemExit as error:
        return error.code
    return None


def test_a_signal_at_the_very_end_stops_all_too(two, tmp_path):
    assert two(asked_to_stop, tmp_path, 2, 3) == [143, 143]


def unseeded(folder, saves):
    torch.rand(distributed.rank() + saves)  # the global state is another one every time
    with breaking(saves):
        model = initialise(nn.Linear(12, 2), "xavier_uniform", seed=0)
        history = finetune(model, X, Y, epochs=2, checkpoint=folder, checkpoint_seconds=0, progress=False)
    return len(history)


def test_a_run_without_a_seed_goes_on_by_other_numbers_of_processes(two, tmp_path):
    with pytest.raises(Broken):
        unseeded(tmp_path, 3)
    with pytest.raises(Broken):
        two(unseeded, tmp_path, 2)
    assert unseeded(tmp_path, 0) == 2


def test_a_signal_to_one_process_saves_and_stops_all(two, tmp_path):
    assert two(asked_to_stop, tmp_path, 1, 2) == [143, 143]
    saved = load(next(tmp_path.glob("*.pt")), kind="pretrain")
    assert len(saved["stateful"]["stack"]["histories"]) == 1
    assert 0 < saved["run"]["global_step"] < 15


@pytest.mark.slow
def test_torchrun_brings_a_run_to_its_end_when_a_process_is_killed(two, tmp_path):
    run = start(tmp_path / "killed", tmp_path / "killed.pt")
    kill_one(run, tmp_path / "killed" / "pretrain", random.Random(0))
    two(work, tmp_path / "whole", tmp_path / "whole.pt")
    _, errors = run.communicate(timeout=120)
    assert run.returncode == 0, errors
    assert "exitcode: -9" in errors
    assert equal(torch.load(tmp_path / "killed.pt"), torch.load(tmp_path / "whole.pt"))
