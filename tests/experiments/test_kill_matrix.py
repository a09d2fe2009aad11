"""Runs that are killed between any two steps end in the same parameters and history, whatever they are fed from."""

import os
import pickle
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from dbn import DBN, RBM, finetune, schedules, score_by_ais, train
from dbn.finetuning.dropout import SeededDropout
from experiments.fault_injection.kill_matrix import CALLS, SOURCES, Case, kills
from tests.support.selection import slow_but_for

QUIET = {"progress": False, "seed": 3}
X = (torch.rand(60, 6, generator=torch.Generator().manual_seed(0)) < 0.4).float()
Y = (X[:, 0] > 0).long()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda handle: None)


HERE = [source for source in SOURCES if "workers" not in source]
FAST = ["memmap", "loader, own generator, noisy"]


@pytest.mark.parametrize("often", slow_but_for([True], [True, False]))
@pytest.mark.parametrize("source", slow_but_for(FAST, HERE))
@pytest.mark.parametrize("call", CALLS)
def test_a_killed_run_goes_on_to_the_same_bits_and_history(call, source, often, tmp_path):
    assert all(kills(Case(call, source, seeded=True, often=often), 11, tmp_path))


@pytest.mark.parametrize("call", CALLS)
def test_a_run_without_a_seed_goes_on_where_the_user_seeds_torch(call, tmp_path):
    assert all(kills(Case(call, "loader, global generator", seeded=False, often=True), 7, tmp_path))


def test_a_run_taken_up_in_the_same_process_watches_the_same_rows(tmp_path):
    loader = DataLoader(TensorDataset(X), 10, shuffle=True, generator=torch.Generator().manual_seed(1))
    whole = train(RBM(6, 4, seed=0), loader, epochs=3, monitor_rows=10, **QUIET)
    rbm = RBM(6, 4, seed=0)
    loader = DataLoader(TensorDataset(X), 10, shuffle=True, generator=torch.Generator().manual_seed(1))
    settings = {"epochs": 3, "monitor_rows": 10, "checkpoint": tmp_path, "checkpoint_seconds": 0, **QUIET}

    def stop(record):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(rbm, loader, callback=stop, **settings)
    rbm = RBM(6, 4, seed=0)
    again = train(rbm, loader, **settings)  # the same loader, whose generator has gone on
    assert again["reconstruction_error"] == whole["reconstruction_error"]


OTHER = torch.cat([X[1:], X[:1]])


@pytest.mark.parametrize("kind", ["tensor", "array", "Dataset", "loader"])
def test_other_rows_of_the_same_shape_are_refused(kind, tmp_path):
    make = {
        "tensor": lambda x: x,
        "array": lambda x: x.numpy(),
        "Dataset": lambda x: TensorDataset(x, Y),
        "loader": lambda x: DataLoader(TensorDataset(x, Y), 10),
    }[kind]
    settings = {"epochs": 1, "checkpoint": tmp_path / "a", **QUIET}
    train(RBM(6, 4, seed=0), make(X), **settings)
    train(RBM(6, 4, seed=0), make(X), **settings)
    with pytest.raises(ValueError, match="holds a run with other data: give the same arguments"):
        train(RBM(6, 4, seed=0), make(OTHER), **settings)
    with pytest.raises(ValueError, match="holds a run with other validation"):
        train(RBM(6, 4, seed=0), make(X), validation=X[:5], **settings)
    settings["checkpoint"] = tmp_path / "b"
    DBN([6, 4, 3], seed=0).pretrain(make(X), validation=X[:5], **settings)
    with pytest.raises(ValueError, match="other data, validation"):
        DBN([6, 4, 3], seed=0).pretrain(make(OTHER), validation=X[5:10], **settings)


def test_other_first_weights_are_refused_and_the_run_s_own_are_not(tmp_path):
    settings = {"epochs": 2, "checkpoint": tmp_path, **QUIET}
    rbm = RBM(6, 4, seed=0)
    history = train(rbm, X, **settings)
    other = RBM(6, 4, seed=1)
    before = other.weight.detach().clone()
    with pytest.raises(ValueError, match=r"other first weights: .* weights made from the same seed"):
        train(other, X, **settings)
    assert torch.equal(other.weight, before)
    assert list(train(rbm, X, **settings)) == list(history)  # the trained machine itself
    assert list(train(RBM(6, 4, seed=0), X, **settings)) == list(history)
    network = nn.Sequential(nn.Linear(6, 2))
    tuning = {"epochs": 3, "learning_rate": 1.0, "validation": (X[:9], Y[:9]), "checkpoint": tmp_path / "v", **QUIET}
    history = finetune(network, X, Y, **tuning)  # which leaves the best weights, and not the last
    assert list(finetune(network, X, Y, **tuning)) == list(history)
    finetune(network, X, Y, epochs=1, checkpoint=tmp_path / "f", **QUIET)
    with pytest.raises(ValueError, match="other first weights"):
        finetune(nn.Sequential(nn.Linear(6, 2)), X, Y, epochs=1, checkpoint=tmp_path / "f", **QUIET)


def test_other_batches_of_a_sampler_are_refused(tmp_path):
    def loader(size):
        sampler = RandomSampler(range(60), generator=torch.Generator().manual_seed(0))
        return DataLoader(TensorDataset(X), batch_sampler=BatchSampler(sampler, size, drop_last=False))

    settings = {"epochs": 1, "checkpoint": tmp_path, **QUIET}
    train(RBM(6, 4, seed=0), loader(40), **settings)
    with pytest.raises(ValueError, match="other rows per batch: give"):
        train(RBM(6, 4, seed=0), loader(50), **settings)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(tmp_path, monkeypatch):
    def refuse(path, content):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(Path, "write_bytes", refuse)
    rbm = RBM(6, 4, seed=0)
    before = rbm.weight.detach().clone()
    with pytest.raises(ValueError, match=r"checkpoint .* cannot be written \(Read-only file system\): give another"):
        train(rbm, X, epochs=1, checkpoint=tmp_path, **QUIET)
    assert torch.equal(rbm.weight, before)


class Failing(TensorDataset):
    """A data set that cannot be read at one moment."""

    reads = 0

    def __getitem__(self, place):
        self.reads += 1
        if self.reads == self.fails:
            raise OSError("the disk is away")
        return super().__getitem__(place)


@pytest.mark.parametrize("fails", [65, 95])  # at the first batch of an epoch, and at another
def test_a_row_that_cannot_be_read_costs_nothing(fails, tmp_path):
    def loader(fails):
        data = Failing(X)
        data.fails = fails
        return DataLoader(data, 30, shuffle=True, generator=torch.Generator().manual_seed(1))

    whole = RBM(6, 4, seed=0)
    train(whole, loader(0), epochs=3, monitor_rows=1, initialise_bias=False, **QUIET)
    settings = {"epochs": 3, "monitor_rows": 1, "initialise_bias": False, "checkpoint": tmp_path, **QUIET}
    with pytest.raises(OSError, match="the disk is away"):
        train(RBM(6, 4, seed=0), loader(fails), **settings)
    assert list(tmp_path.glob("*.pt"))
    again = RBM(6, 4, seed=0)
    train(again, loader(0), **settings)
    assert torch.equal(again.weight, whole.weight)


_IN_A_GROUP = """
import sys, torch
from torch.utils.data import DataLoader, TensorDataset
from dbn import RBM, train
x = torch.zeros(4000, 6)
loader = DataLoader(TensorDataset(x), 2, shuffle=True, generator=torch.Generator().manual_seed(0), num_workers=2)
def callback(record):
    print("begun", flush=True)
train(RBM(6, 4, seed=0), loader, epochs=50, record_every=20, monitor_rows=10, callback=callback,
      checkpoint=sys.argv[1], progress=False, seed=0)
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "killpg"), reason="needs groups of processes")
def test_a_signal_to_the_group_saves_although_the_workers_of_a_loader_die(tmp_path):
    command = [sys.executable, "-c", _IN_A_GROUP, str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    assert run.stdout is not None
    assert run.stdout.readline() == "begun\n"
    os.killpg(run.pid, signal.SIGTERM)
    _, errors = run.communicate(timeout=60)
    assert run.returncode == 128 + signal.SIGTERM, errors
    (saved,) = tmp_path.glob("*.pt")
    assert torch.load(saved, weights_only=True)["run"]["global_step"] >= 20


def in_threads(*works):
    results = [None] * len(works)

    def call(place):
        results[place] = works[place]()

    threads = [threading.Thread(target=call, args=(place,)) for place in range(len(works))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def trained(seed):
    rbm = RBM(6, 4, seed=seed)
    train(rbm, X, epochs=20, progress=False, seed=seed)
    return rbm.weight.detach()


def fresh_networks():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return [nn.Sequential(nn.Dropout1d(0.3), nn.Flatten(), nn.Linear(6, 9), nn.Dropout(0.4), nn.Linear(9, 2))
                for _ in range(2)]  # fmt: skip


def finetuned(network, seed):
    finetune(network, X.view(60, 1, 6), Y, epochs=20, progress=False, seed=seed)
    assert not any(isinstance(module, SeededDropout) for module in network.modules())
    return network[-1].weight.detach()


def test_runs_in_threads_draw_what_they_draw_alone_and_leave_the_global_generator_alone():
    machines = {seed: trained(seed) for seed in (1, 2)}
    torch.manual_seed(5)
    expected = torch.rand(3000)
    torch.manual_seed(5)
    found = in_threads(lambda: trained(1), lambda: trained(2), lambda: torch.cat([torch.rand(1) for _ in range(3000)]))
    assert torch.equal(found[0], machines[1])
    assert torch.equal(found[1], machines[2])
    assert torch.equal(found[2], expected)
    found = in_threads(*(partial(finetuned, network, seed) for seed, network in enumerate(fresh_networks())))
    before = torch.get_rng_state()
    alone = [finetuned(network, seed) for seed, network in enumerate(fresh_networks())]
    assert all(map(torch.equal, found, alone))
    assert torch.equal(torch.get_rng_state(), before)


def test_schedules_and_scores_can_be_pickled():
    made = [schedules.constant(0.1), schedules.switch(0.5, 0.9, at=5), schedules.linear(1.0, 0.0, 10.0),
            schedules.cosine(1.0, 0.0, 10.0)]  # fmt: skip
    for schedule in made:
        again = pickle.loads(pickle.dumps(schedule))
        assert again == schedule
        assert [again(epoch) for epoch in (0.0, 2.5, 11.0)] == [schedule(epoch) for epoch in (0.0, 2.5, 11.0)]
    score = score_by_ais(X, chains=5, temperatures=5)
    rbm = RBM(6, 4, seed=0)
    assert pickle.loads(pickle.dumps(score))(rbm) == score(rbm)
