"""The folder of a run: whose it is, where it lies, and what is done about a damaged file in it."""

import copy
import os
import signal

import pytest
import torch
from torch import nn

from dbn import CD, DBN, PCD, EarlyStopping, Spin, finetune, train
from dbn.input_range import known_scale
from dbn.rbm import RBM
from tests.support.oracles import generator

QUIET = {"progress": False, "seed": 3}
ROWS = torch.rand(50, 6, generator=generator(1))
LABELS = (ROWS[:, 0] > 0.5).long()
OFTEN = {"checkpoint_seconds": 0}


def same(one, other):
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert torch.equal(value, other[name]), name


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 3}, "epochs"),
        ({"learning_rate": 0.01}, "learning_rate"),
        ({"momentum": 0.3}, "momentum"),
        ({"estimator": PCD(5)}, "momentum, estimator"),
        ({"seed": 4}, "seed"),
        ({"data": ROWS[:40]}, "rows"),
        ({"rbm": RBM(6, 5)}, "rbm"),
        ({"rbm": RBM(6, 4).double()}, "rbm"),
        ({"rbm": RBM(Spin(6), 4)}, "rbm"),
        ({"estimator": CD(1, mean_field=True)}, "estimator"),
        ({"stopping": EarlyStopping(largest_gap=3.0), "validation": ROWS}, "validation, stopping"),
    ],
)
def test_the_folder_of_another_run_is_refused_by_what_differs(change, named, tmp_path):
    settings = {"rbm": RBM(6, 4, seed=0), "data": ROWS, "epochs": 2, "checkpoint": tmp_path, **QUIET}
    train(**settings)
    with pytest.raises(ValueError, match=f"holds a run with other .*{named}.*: give the same arguments"):
        train(**{**settings, **change})


@pytest.mark.parametrize("folder", ["", "a\0b"], ids=repr)
def test_an_empty_name_is_not_the_folder_where_the_process_runs(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    calls = (
        lambda: train(RBM(6, 4), ROWS, epochs=1, checkpoint=folder, **QUIET),
        lambda: DBN([6, 4]).pretrain(ROWS, epochs=1, checkpoint=folder, **QUIET),
        lambda: finetune(nn.Sequential(nn.Linear(6, 2)), ROWS, LABELS, epochs=1, checkpoint=folder, **QUIET),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"^checkpoint is '.*': give the name of a folder of this run alone"):
            call()
    assert os.listdir(tmp_path) == []


def test_no_estimator_is_the_one_by_default_and_chains_that_start_elsewhere_are_others(tmp_path):
    settings = {"epochs": 1, **QUIET}
    train(RBM(6, 4, seed=0), ROWS, checkpoint=tmp_path / "a", **settings)
    train(RBM(6, 4, seed=0), ROWS, checkpoint=tmp_path / "a", estimator=CD(1), **settings)
    train(RBM(6, 4, seed=0), ROWS, checkpoint=tmp_path / "b", estimator=PCD(5), **settings)
    with pytest.raises(ValueError, match="other estimator"):
        train(RBM(6, 4, seed=0), ROWS, checkpoint=tmp_path / "b", estimator=PCD(5, start="data"), **settings)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"model": nn.Sequential(nn.Linear(6, 2), nn.Sigmoid())}, "model, first weights"),
        ({"optimiser": lambda groups, lr: torch.optim.Adam(groups, lr=lr, betas=(0.5, 0.9), eps=1e-3)}, "optimiser"),
        ({"validation": (ROWS, LABELS)}, "validation"),
        ({"on_divergence": "halve"}, "on_divergence"),
        ({"head_learning_rate": 0.1}, "head_learning_rate"),
    ],
)
def test_another_fine_tuning_is_refused_and_its_model_left(change, named, tmp_path):
    first = nn.Sequential(nn.Linear(6, 2))
    settings = {"x": ROWS, "y": LABELS, "epochs": 1, "checkpoint": tmp_path}
    finetune(copy.deepcopy(first), **settings, **QUIET)
    other = {**settings, "model": first, **change}
    with pytest.raises(ValueError, match=f"holds a run with other {named}: give"):
        finetune(**other, **QUIET)
    assert known_scale(other["model"]) is None


@pytest.mark.parametrize(("folder", "error"), [(3, TypeError), (b"x", TypeError), ("file", ValueError)])
def test_what_is_no_folder_is_refused_before_training(folder, error, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("not a folder")
    rbm = RBM(6, 4, seed=0)
    before = rbm.weight.detach().clone()
    with pytest.raises(error, match="checkpoint "):
        train(rbm, ROWS, epochs=1, checkpoint=folder, **QUIET)
    assert torch.equal(rbm.weight, before)


def test_a_home_and_a_folder_that_is_left_are_followed(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    leave = lambda record: os.chdir(tmp_path / "elsewhere")  # noqa: E731
    train(RBM(6, 4, seed=0), ROWS, epochs=2, checkpoint="runs", callback=leave, **OFTEN, **QUIET)
    train(RBM(6, 4, seed=0), ROWS, epochs=1, checkpoint="~/home", **QUIET)
    assert len(list((tmp_path / "runs").iterdir())) == 2
    assert len(list((tmp_path / "home").iterdir())) == 1
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_folder_of_another_kind_and_wrong_seconds_are_refused(tmp_path):
    train(RBM(6, 4, seed=0), ROWS, epochs=1, checkpoint=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="holds a train, not a pretrain"):
        DBN([6, 4], seed=0).pretrain(ROWS, epochs=1, checkpoint=tmp_path, **QUIET)
    with pytest.raises(ValueError, match="checkpoint_seconds is -1"):
        train(RBM(6, 4), ROWS, epochs=1, checkpoint=tmp_path, checkpoint_seconds=-1)


def test_a_damaged_file_is_passed_over_with_a_warning(tmp_path):
    rbm, settings = RBM(6, 4, seed=0), {"epochs": 3, "checkpoint": tmp_path, **OFTEN, **QUIET}
    train(rbm, ROWS, **settings)
    older, newest = sorted(tmp_path.iterdir())
    newest.write_bytes(newest.read_bytes()[:-1000])
    (tmp_path / ".000000009.pt.1.partial").write_bytes(b"left by a run that was killed")
    again = RBM(6, 4, seed=0)
    with pytest.warns(UserWarning, match=rf"{newest.name} is damaged.*; resuming from .*{older.name}"):
        train(again, ROWS, **settings)
    same(rbm.state_dict(), again.state_dict())
    assert len(list(tmp_path.iterdir())) == 2
    for path in tmp_path.iterdir():
        path.write_bytes(b"")
    with pytest.raises(ValueError, match="holds no intact file"):
        train(again, ROWS, **settings)


def test_a_signal_while_it_looks_for_one_is_not_lost(tmp_path, monkeypatch):
    def largest(*values):
        if not sent:
            sent.append(os.kill(os.getpid(), signal.SIGTERM))
        return values

    sent = []
    monkeypatch.setattr("dbn.runtime.distributed.all_reduce_max", largest)
    with pytest.raises(SystemExit):
        train(RBM(6, 4, seed=0), ROWS, epochs=3, checkpoint=tmp_path, **QUIET)


def test_a_checkpoint_of_another_version_is_refused(tmp_path, monkeypatch):
    train(RBM(6, 4, seed=0), ROWS, epochs=1, checkpoint=tmp_path, **QUIET)
    monkeypatch.setattr("dbn.runtime.checkpoint_manager._VERSION", 5)
    with pytest.raises(ValueError, match="holds a run with other version"):
        train(RBM(6, 4, seed=0), ROWS, epochs=1, checkpoint=tmp_path, **QUIET)
