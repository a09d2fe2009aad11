"""What is learned by recorded steps and by plain ones, and when the two are the same."""

import torch
from torch import nn

from dbn import CD, PCD, FastPCD, ParallelTempering, initialise
from dbn.units import Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, Spin
from tests.support.oracles import generator

ESTIMATORS = {
    "CD": lambda: CD(2),
    "samples": lambda: CD(1, sample_visible=True),
    "means": lambda: CD(1, mean_field=True),
    "PCD": lambda: PCD(20, steps=2),
    "PCD from data": lambda: PCD(20, start="data"),
    "fast weights": lambda: FastPCD(20),
    "tempering": lambda: ParallelTempering(20, temperatures=4),
}
LAYERS = {
    "bernoulli": lambda: (Bernoulli(12), Bernoulli(7)),
    "spin": lambda: (Spin(12), Spin(7)),
    "groups": lambda: (Categorical(12, classes=3), Categorical(6)),
    "learned": lambda: (Gaussian(12, learned=True), Bernoulli(7)),
    "noisy": lambda: (Bernoulli(12), NoisyReLU(7)),
    "joint": lambda: (Joint(Bernoulli(6), Gaussian(6)), Bernoulli(7)),
}
X = (torch.rand(230, 12, generator=generator()) < 0.3).float()
Y = torch.randint(0, 4, (230,), generator=generator(1))
FULL = 4 * 5 - 3  # full batches of 50 in five epochs, but for the first three


def network():
    parts = (nn.Linear(12, 20, bias=False), nn.BatchNorm1d(20), nn.Sigmoid(), nn.Dropout(0.5), nn.Linear(20, 4))
    return initialise(nn.Sequential(nn.Dropout(0.1), *parts), "xavier_uniform", seed=0)


def same(one, other, within=1e-9):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=within, atol=within, msg=lambda text, name=name: f"{name}: {text}")
