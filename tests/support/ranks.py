"""Rows and settings of runs by several processes, and how far two results lie apart."""

import torch

from dbn import CD
from tests.support.oracles import generator

X = torch.rand(402, 12, generator=generator(1))
Y = (X[:, :4].sum(1) > 2).long()
QUIET = {"progress": False, "seed": 3}
MEANS = CD(1, mean_field=True)


def numbers(module):
    return [value.detach().clone() for value in module.parameters()]


def furthest(ours, theirs):
    return max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
