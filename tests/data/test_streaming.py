"""Rows that do not fit on the device are seen as those that do."""

import pytest
import torch

import dbn.data.opening
from dbn import DBN, finetune
from dbn.data import StreamedSource, TensorSource, open_source
from dbn.data.streaming import fits
from tests.support.oracles import generator

X = (torch.rand(103, 6, generator=generator()) < 0.4).float()
Y = torch.arange(103) % 3
QUIET = {"progress": False, "seed": 0}


@pytest.fixture
def full(monkeypatch):
    """A device without room for any rows."""
    monkeypatch.setattr(dbn.data.opening, "fits", lambda x, device: False)


def both(x=X, y=Y):
    return (kind(x, y, batch_size=20, like=torch.zeros(1)) for kind in (TensorSource, StreamedSource))


def test_what_has_no_room_is_streamed(full):
    assert isinstance(open_source(X, batch_size=9, like=torch.zeros(1)), StreamedSource)


def test_rows_already_on_the_device_always_fit():
    assert fits(X, torch.device("cpu"))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.uint8])
@pytest.mark.parametrize("skip", [0, 2, 6])
def test_batches_are_those_of_rows_on_the_device(dtype, skip):
    one, other = (list(source.batches(generator(1), skip=skip)) for source in both(X.to(dtype)))
    assert len(one) == len(other) == 6 - skip
    for a, b in zip(one, other, strict=True):
        assert a.x.dtype == b.x.dtype == torch.float32
        assert torch.equal(a.x, b.x)
        assert torch.equal(a.y, b.y)


def test_stored_order_and_subset_are_those_of_rows_on_the_device():
    one, other = both(y=None)
    assert all(torch.equal(a.x, b.x) for a, b in zip(one.sequential(), other.sequential(), strict=True))
    assert torch.equal(one.representative_rows(7), other.representative_rows(7))
    assert next(other.sequential()).y is None


def test_training_on_streamed_rows_comes_to_the_same_bits(monkeypatch):
    def learned():
        stack = DBN([6, 5, 4], seed=0)
        stack.pretrain(X, epochs=2, batch_size=20, **QUIET)
        mlp = stack.to_mlp(outputs=3, seed=0)
        finetune(mlp, X, Y, epochs=2, batch_size=20, validation=(X, Y), **QUIET)
        return list(mlp.parameters())

    plain = learned()
    monkeypatch.setattr(dbn.data.opening, "fits", lambda x, device: False)
    assert all(torch.equal(a, b) for a, b in zip(learned(), plain, strict=True))
