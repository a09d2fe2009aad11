"""A file is whole or untouched, gives back what was saved, and never runs code."""

import os
import pickle
import random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import dbn
from dbn import DBN, RBM, Bernoulli
from dbn.runtime import checkpoint
from tests.support.oracles import UNITS, machine

OBJECTS = {"kind": "numbers", "values": torch.arange(5), "nested": {"list": [1, 2.5, "three"], "none": None}}
RAN: list[str] = []


def run(word):
    RAN.append(word)


class Explosive:
    def __reduce__(self):
        return run, ("boom",)


def test_what_is_saved_comes_back(tmp_path):
    checkpoint.save(tmp_path / "new" / "folder" / "a.pt", OBJECTS)
    back = checkpoint.load(tmp_path / "new" / "folder" / "a.pt", kind="numbers")
    assert torch.equal(back.pop("values"), OBJECTS["values"])
    assert back == {
        "format": checkpoint.FORMAT, "version": dbn.__version__, "kind": "numbers", "nested": OBJECTS["nested"]
    }  # fmt: skip
    assert os.listdir(tmp_path / "new" / "folder") == ["a.pt"]


@pytest.mark.parametrize("path", ["", ".", "/", "a\0b", None, 3, True, b"a.pt", torch.tensor(2), ...], ids=repr)
def test_what_is_no_path_of_a_file_is_refused_by_name(path, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for call in (lambda: RBM(3, 2).save(path), lambda: RBM.load(path), lambda: DBN([3, 2]).save(path)):
        with pytest.raises((TypeError, ValueError), match=r"^path is .*: give the path of a file"):
            call()
    assert os.listdir(tmp_path) == []


def test_a_folder_is_not_called_the_file_before(tmp_path):
    with pytest.raises(OSError, match=rf"{tmp_path} could not be saved") as caught:
        RBM(3, 2).save(tmp_path)
    assert "the file before it is whole" not in str(caught.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("fails", ["torch.save", "os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_the_old_file_whole(fails, tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    checkpoint.save(path, OBJECTS)
    before = path.read_bytes()

    def fail(*arguments, **keywords):
        raise OSError("disk full")

    monkeypatch.setattr(fails, fail)
    with pytest.raises(OSError, match="disk full"):
        checkpoint.save(path, {"kind": "numbers", "values": torch.zeros(9)})
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.pt"]


def test_what_cannot_be_written_leaves_the_old_file_whole(tmp_path):
    checkpoint.save(tmp_path / "a.pt", OBJECTS)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        checkpoint.save(tmp_path / "a.pt", {"kind": "numbers", "function": lambda: None})
    assert checkpoint.load(tmp_path / "a.pt", kind="numbers")["nested"] == OBJECTS["nested"]
    assert os.listdir(tmp_path) == ["a.pt"]


@pytest.mark.parametrize("keep", [0, 1, 10, 100, 500, -1])
def test_a_truncated_file_is_refused(keep, tmp_path):
    checkpoint.save(tmp_path / "a.pt", OBJECTS)
    (tmp_path / "b.pt").write_bytes((tmp_path / "a.pt").read_bytes()[:keep])
    with pytest.raises(ValueError, match=r"b\.pt"):
        checkpoint.load(tmp_path / "b.pt", kind="numbers")


@given(st.binary(max_size=60))
@settings(
    deadline=None, max_examples=100, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_noise_is_refused(tmp_path, noise):
    (tmp_path / "noise.pt").write_bytes(noise)
    with pytest.raises(ValueError, match=r"noise\.pt"):
        checkpoint.load(tmp_path / "noise.pt", kind="numbers")


@pytest.mark.parametrize("write", [torch.save, lambda thing, path: path.write_bytes(pickle.dumps(thing, protocol=2))])
def test_code_in_a_file_is_refused_and_not_run(write, tmp_path):
    path = tmp_path / "evil.pt"
    write({"format": 1, "kind": "numbers", "values": Explosive()}, path)
    with pytest.raises(ValueError, match=r"evil\.pt"):
        checkpoint.load(path, kind="numbers")
    assert RAN == []
    torch.load(path, weights_only=False) if write is torch.save else pickle.loads(path.read_bytes())
    assert RAN.pop() == "boom", "the file must be one that runs code where it is let"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"format": checkpoint.FORMAT, "kind": "numbers"}, "no checksum that fits"),
        ({"format": checkpoint.FORMAT + 1, "kind": "numbers"}, "update dbn"),
        ({"format": "new", "kind": "numbers"}, "update dbn"),
        ({"kind": "numbers"}, "was not written by dbn"),
        ([1, 2], "was not written by dbn"),
    ],
)
def test_a_newer_format_or_a_file_of_others_is_refused(content, words, tmp_path):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(ValueError, match=words):
        checkpoint.load(tmp_path / "a.pt", kind="numbers")


@pytest.mark.parametrize(("content", "words"), [({"kind": "other"}, "holds a other, not a numbers"), ({}, "a None")])
def test_another_kind_is_refused(content, words, tmp_path):
    checkpoint.save(tmp_path / "a.pt", content)
    with pytest.raises(ValueError, match=words):
        checkpoint.load(tmp_path / "a.pt", kind="numbers")


def test_every_flipped_bit_is_noticed(tmp_path):
    checkpoint.save(tmp_path / "a.pt", OBJECTS)
    whole = (tmp_path / "a.pt").read_bytes()
    places = random.Random(0).sample(range(8 * len(whole)), 300)
    for place in places:
        content = bytearray(whole)
        content[place // 8] ^= 1 << place % 8
        (tmp_path / "b.pt").write_bytes(content)
        with pytest.raises(checkpoint.DamagedError, match=r"b\.pt"):
            checkpoint.load(tmp_path / "b.pt", kind="numbers")


def test_code_is_named(tmp_path):
    torch.save({"format": checkpoint.FORMAT, "kind": "numbers", "values": Explosive()}, tmp_path / "evil.pt")
    with pytest.raises(
        checkpoint.DamagedError, match=r"holds code \(tests\.runtime\.test_checkpoint\.run\), which was not run"
    ):
        checkpoint.load(tmp_path / "evil.pt", kind="numbers")


def test_plain_torch_reads_it_back(tmp_path):
    checkpoint.save(tmp_path / "a.pt", OBJECTS)
    assert torch.equal(torch.load(tmp_path / "a.pt", weights_only=True)["values"], OBJECTS["values"])


def test_no_file_is_said_to_be_missing(tmp_path):
    with pytest.raises(FileNotFoundError):
        checkpoint.load(tmp_path / "none.pt", kind="numbers")


def same_state(one, other):
    mine, theirs = one.state_dict(), other.state_dict()
    return mine.keys() == theirs.keys() and all(
        torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [*UNITS, "noisy"])
def test_machines_and_stacks_of_all_units_come_back_bit_exact(kind, dtype, tmp_path):
    rbm = machine(kind, "labels").to(dtype)
    rbm.save(tmp_path / "rbm.pt")
    back = RBM.load(tmp_path / "rbm.pt")
    assert same_state(rbm, back)
    assert str(back) == str(rbm)
    assert back.visible.config() == rbm.visible.config()
    stack = DBN([rbm.visible, Bernoulli(3), rbm.visible], seed=0).to(dtype)
    stack.save(tmp_path / "dbn.pt")
    assert same_state(stack, DBN.load(tmp_path / "dbn.pt"))
    trainable = [name for name, value in stack.named_parameters() if value.requires_grad]
    assert trainable == [
        name for name, value in DBN.load(tmp_path / "dbn.pt").named_parameters() if value.requires_grad
    ]
    with pytest.raises(ValueError, match="holds a RBM, not a DBN"):
        DBN.load(tmp_path / "rbm.pt")
    with pytest.raises(ValueError, match="holds a DBN, not a RBM"):
        RBM.load(tmp_path / "dbn.pt")
