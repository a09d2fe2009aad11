"""Networks that are trained side by side learn what each learns alone."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

from dbn import DBN, SideBySide, evaluate, finetune, initialise
from tests.support.oracles import generator

ROWS = [torch.rand(60, 5, dtype=torch.float64, generator=generator(seed)) for seed in range(3)]
CLASSES = [torch.randint(0, 3, (60,), generator=generator(seed)) for seed in range(3)]
X = torch.cat(ROWS, 1)
TARGETS = torch.cat([functional.one_hot(y, 3).double() for y in CLASSES], 1)


def networks(activation=nn.Sigmoid):
    parts = lambda: (nn.Linear(5, 8), activation(), nn.Linear(8, 3))  # noqa: E731
    return [initialise(nn.Sequential(*parts()), "xavier_uniform", seed=seed).double() for seed in range(3)]


def test_outputs_and_losses_are_those_of_each():
    each = networks()
    both = SideBySide(each)
    outputs = both.outputs_of_each(both(X))
    for place, (network, rows) in enumerate(zip(each, ROWS, strict=True)):
        torch.testing.assert_close(outputs[place], network(rows))
    losses = [functional.cross_entropy(network(x), y) for network, x, y in zip(each, ROWS, CLASSES, strict=True)]
    torch.testing.assert_close(both.loss(both(X), TARGETS), sum(losses))


@pytest.mark.parametrize("optimiser", ["adam", "sgd"])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Sigmoid, nn.Tanh, lambda: nn.Softmax(-1)])
@pytest.mark.parametrize("max_norm", [None, 0.5])
def test_each_learns_as_it_would_alone(optimiser, activation, max_norm):
    alone = networks(activation)
    settings = {"epochs": 4, "batch_size": 7, "optimiser": optimiser, "learning_rate": 0.01, "progress": False}
    settings |= {"head_learning_rate": 0.03, "weight_decay": 1e-3, "max_norm": max_norm, "seed": 5}
    together, found = SideBySide(alone), copy.deepcopy(alone)
    finetune(together, X, TARGETS, loss=together.loss, **settings)
    together.leave(found)
    for network, other, x, y in zip(alone, found, ROWS, CLASSES, strict=True):
        finetune(network, x, y, **settings)
        for ours, theirs in zip(other.parameters(), network.parameters(), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-9)


def test_the_networks_that_were_given_are_left_alone():
    each = networks()
    before = copy.deepcopy(each)
    together = SideBySide(each)
    finetune(together, X, TARGETS, loss=together.loss, epochs=1, progress=False, seed=0)
    for network, other in zip(each, before, strict=True):
        assert all(torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True))


def test_frozen_layers_stay_as_they_are():
    each = networks()
    for network in each:
        network[0].requires_grad_(False)
    before, together = copy.deepcopy(each), SideBySide(each)
    finetune(together, X, TARGETS, loss=together.loss, epochs=2, progress=False, seed=0)
    together.leave(each)
    for network, other in zip(each, before, strict=True):
        assert torch.equal(network[0].weight, other[0].weight)
        assert not torch.equal(network[2].weight, other[2].weight)


@pytest.mark.parametrize("others", [networks()[:2], [nn.Sequential(nn.Linear(5, 3)).double()] * 3])
def test_numbers_are_left_in_networks_of_the_same_shape_alone(others):
    with pytest.raises(ValueError, match="give networks as those of"):
        SideBySide(networks()).leave(others)


def hooked():
    network = nn.Sequential(nn.Linear(2, 2))
    network[0].register_forward_hook(lambda *_: None)
    return network


def frozen():
    return nn.Sequential(nn.Linear(2, 2).requires_grad_(False))


class Other(nn.Linear):
    def forward(self, x):
        return -super().forward(x)


def test_networks_of_stacks_with_dropout_are_taken_too():
    stacks = [DBN([5, 4], seed=seed).to_mlp(3, dropout=0.5, input_dropout=0.2, seed=seed).double() for seed in range(2)]
    together = SideBySide(stacks)
    finetune(together, X[:, :10], TARGETS[:, :6], loss=together.loss, epochs=20, progress=False, seed=0)
    together.leave(stacks)
    assert evaluate(stacks[0], ROWS[0], CLASSES[0]).error < 0.7


@pytest.mark.parametrize(
    ("given", "error", "words"),
    [
        ([], ValueError, "networks is empty"),
        (3, TypeError, "networks is a int"),
        (nn.Sequential(nn.Linear(2, 2)), TypeError, "networks is a Sequential"),
        ([nn.Linear(2, 2)], TypeError, "holds a Linear"),
        ([nn.Sequential(Other(2, 2))], TypeError, "holds Other"),
        ([nn.Sequential(nn.LazyLinear(2))], TypeError, "holds LazyLinear"),
        ([nn.Sequential(nn.Linear(2, 2), nn.Softmax(1))], ValueError, r"give Softmax\(-1\)"),
        ([hooked()], ValueError, "with a hook"),
        ([nn.Sequential(nn.Linear(2, 2)), frozen()], ValueError, "not alike"),
        ([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2)).double()], ValueError, "not alike"),
        ([nn.Sequential(nn.Conv1d(1, 1, 1))], TypeError, "holds Conv1d"),
        ([nn.Sequential(nn.Linear(2, 2, bias=False))], TypeError, "with biases"),
        ([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 3))], ValueError, "not alike"),
        ([nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2), nn.ReLU())], ValueError, "not alike"),
        ([nn.Sequential(nn.ReLU())], ValueError, "no linear layer"),
    ],
)
def test_what_cannot_stand_side_by_side_is_refused(given, error, words):
    with pytest.raises(error, match=words):
        SideBySide(given)
