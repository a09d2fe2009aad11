"""Several processes fine-tune a network as one does."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from dbn import (
    DBN,
    distributed,
    finetune,
)
from tests.support.ranks import QUIET, X, Y, furthest, numbers


def tuned(network, optimiser, **settings):
    history = finetune(network, X, Y, optimiser=optimiser, epochs=20, validation=(X[:80], Y[:80]), **settings, **QUIET)
    return numbers(network), [{**record, "seconds": 0} for record in history]


def perceptron():
    torch.manual_seed(5 + distributed.rank())
    return nn.Sequential(nn.Linear(12, 16), nn.Tanh(), nn.Linear(16, 2))


def tuned_perceptron(optimiser, **settings):
    return tuned(perceptron(), optimiser, **settings)


@pytest.mark.parametrize("optimiser", ["sgd", "adam"])
def test_fine_tuning_by_several_is_fine_tuning_by_one(two, three, optimiser):
    settings = {"learning_rate": 0.01, "head_learning_rate": 0.02, "weight_decay": 1e-4}
    theirs, record = tuned_perceptron(optimiser, **settings)
    for many in (two, three):
        for ours, found in many(tuned_perceptron, optimiser, **settings):
            assert furthest(ours, theirs) < 1e-5
            assert found == [pytest.approx(entry, abs=1e-5) for entry in record]


class Forked(nn.Module):
    """A network with a part that its output does not come from, and batch normalisation."""

    def __init__(self):
        super().__init__()
        self.used, self.idle = perceptron(), nn.Linear(3, 3)
        self.used.insert(1, nn.BatchNorm1d(16))
        with torch.no_grad():
            self.idle.weight.zero_()

    def forward(self, x):
        return self.used(x)


def forked(rows, batch_size):
    network = Forked()
    finetune(network, X[:rows], Y[:rows], epochs=3, batch_size=batch_size, progress=False, seed=0)
    return [*numbers(network), *(value.double() for value in network.buffers())]


def test_parts_that_are_not_used_and_means_of_normalisation_are_the_same(two):
    ours, theirs = two(forked, 400, 100)
    assert furthest(ours, theirs) == 0
    with pytest.raises(ValueError, match="a batch of 2 rows leaves one of 2 processes fewer than two"):
        two(forked, 402, 100)


def seen_rows(epochs):
    """The rows that this process is shown by a loader that shuffles from the global generator."""
    torch.manual_seed(distributed.rank())
    loader = DataLoader(TensorDataset(torch.arange(40.0)[:, None].expand(40, 12) / 40, Y[:40]), 10, shuffle=True)
    seen = []
    network = perceptron()
    network.register_forward_hook(lambda module, inputs, _: seen.append(inputs[0][:, 0]) if module.training else None)
    finetune(network, loader, epochs=epochs, progress=False)
    return (torch.cat(seen) * 40).round().int().tolist()


def test_a_loader_without_a_generator_has_one_order_for_all(two):
    ours, theirs = two(seen_rows, 2)
    for epoch in (slice(0, 20), slice(20, 40)):
        assert sorted(ours[epoch] + theirs[epoch]) == list(range(40))
    assert ours[:20] != ours[20:]


def with_dropout():
    network = DBN([12, 9, 5], seed=0).to_mlp(2, dropout=0.5, input_dropout=0.2, seed=0)
    first = []
    network[0].register_forward_hook(lambda module, _, outputs: first.append(outputs == 0) if module.training else None)
    return tuned(network, "sgd", patience=2), first[0]


def test_dropout_is_drawn_by_each_and_the_network_is_the_same(two):
    ((ours, record), dropped), ((theirs, found), others) = two(with_dropout)
    assert furthest(ours, theirs) == 0
    assert found == record
    assert not torch.equal(dropped, others)


def runaway():
    with pytest.raises(RuntimeError, match="was put back to step 0"):
        tuned(perceptron(), "sgd", learning_rate=1e6, loss=lambda outputs, labels: outputs.square().mean() * 1e3)
    return distributed.rank()


def test_all_processes_see_that_one_has_diverged(two):
    assert two(runaway) == [0, 1]
