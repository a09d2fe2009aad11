"""Where memory runs out, the error says what to make smaller, and all is as it was."""

import pytest
import torch
from torch import nn

from dbn import CD, DBN, PCD, ais, finetune, train
from dbn.rbm import RBM
from dbn.runtime.out_of_memory import named_where_short

X = torch.zeros(50, 12)
QUIET = {"progress": False, "seed": 0}
TOO_MANY = 10**13


class Hungry(CD):
    """A negative phase that meets the end of a GPU's memory."""

    def negative(self, rbm, positive, generator, buffers):
        raise torch.OutOfMemoryError("CUDA out of memory")


def test_too_many_chains_are_named():
    rbm = RBM(12, 5, seed=0)
    before = rbm.weight.clone()
    with pytest.raises(torch.OutOfMemoryError, match=r"batch_size = 7, estimator = PCD\(chains=10000000000000"):
        train(rbm, X, epochs=1, batch_size=7, estimator=PCD(TOO_MANY), **QUIET)
    assert torch.equal(before, rbm.weight)


def test_the_layer_is_named():
    with pytest.raises(torch.OutOfMemoryError, match="with layer = 2, batch_size = 50, estimator = Hungry"):
        DBN([12, 5, 3], seed=0).pretrain(X, epochs=1, batch_size=[10, 50], estimator=[CD(1), Hungry(1)], **QUIET)


def test_the_chains_of_annealing_are_named():
    with pytest.raises(torch.OutOfMemoryError, match=r"chains = 10000000000000, memory = 10000000000000000"):
        ais(RBM(12, 5, seed=0), chains=TOO_MANY, temperatures=2, memory=TOO_MANY * 1000, **QUIET)


def test_the_batch_of_fine_tuning_is_named():
    class Greedy(nn.Linear):
        def forward(self, x):
            return super().forward(x) if len(x) < 50 else torch.empty(TOO_MANY)

    with pytest.raises(torch.OutOfMemoryError, match=r"out of memory with batch_size = 50: give less"):
        finetune(Greedy(12, 2), X, torch.zeros(50).long(), epochs=1, batch_size=50, **QUIET)


def test_other_errors_are_left_as_they_are():
    with pytest.raises(RuntimeError, match="other"), named_where_short(chains=3):
        raise RuntimeError("other")
