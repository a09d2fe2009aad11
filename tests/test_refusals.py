"""Models and settings that functions cannot take are refused by name, one row for each way to get them wrong."""

import math

import numpy as np
import pytest
import torch

import dbn
from dbn import (
    DBN,
    RBM,
    Gaussian,
    ais,
    bracket,
    datasets,
    exact_log_partition,
    initialise,
    log_likelihood,
    lower_bound,
    pseudo_log_likelihood,
    reverse_ais,
    schedules,
    score_by_ais,
)

QUIET = {"progress": False, "seed": 0}

MODELS = [None, "rbm", RBM, torch.nn.Linear(2, 2), DBN([2, 2])]


@pytest.mark.parametrize("model", MODELS, ids=str)
@pytest.mark.parametrize(
    "call",
    [
        exact_log_partition,
        lambda rbm: ais(rbm, **QUIET),
        lambda rbm: reverse_ais(rbm, torch.zeros(1, 2), **QUIET),
        lambda rbm: bracket(rbm, torch.zeros(1, 2), **QUIET),
        lambda rbm: log_likelihood(rbm, torch.zeros(1, 2), 0.0),
        lambda rbm: pseudo_log_likelihood(rbm, torch.zeros(1, 2)),
    ],
)
def test_what_is_no_machine_is_refused_by_name(model, call):
    with pytest.raises(TypeError, match=r"^rbm is (a|the class) .*: give an RBM"):
        call(model)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: lower_bound(RBM(2, 2), torch.zeros(1, 2), 0.0), "^stack is a RBM: give a DBN"),
        (lambda: initialise(torch.zeros(2), "zeros"), "^model is a Tensor: give a network"),
        (lambda: initialise(torch.nn.LazyLinear(2), "normal"), "^model has layers without numbers"),
        (lambda: initialise(torch.nn.Linear(2, 2, device="meta"), "normal"), "^model has layers without numbers"),
        (lambda: log_likelihood(RBM(2, 2), torch.zeros(1, 2), "3.5"), "^log_partition is '3.5': give a number"),
        (lambda: log_likelihood(RBM(2, 2), torch.zeros(1, 2), math.nan), "^log_partition is nan: give a finite"),
        (lambda: log_likelihood(RBM(2, 2), torch.zeros(1, 2), torch.zeros(2)), r"^log_partition has shape \(2,\)"),
        (lambda: ais(RBM(2, 2), temperatures=torch.tensor([0, math.nan, 1])), "^temperatures must rise"),
        (lambda: ais(RBM(2, 2), temperatures=torch.tensor([[0.0, 1.0]])), "^temperatures must rise"),
        (lambda: ais(RBM(2, 2), base=torch.tensor([0, math.inf])), "^base has NaN or infinite"),
        (lambda: ais(RBM(2, 2), base=np.array(["zeros"] * 2)), "^base is an array of dtype"),
        (lambda: ais(RBM(2, 2), progress="no"), "^progress is 'no': give True or False"),
        (lambda: bracket(RBM(2, 2), torch.zeros(1, 2), gibbs_steps=-1), "^gibbs_steps is -1"),
        (lambda: reverse_ais(RBM(2, 2), torch.full((1, 2), 3.0)), r"^samples lies in 3\.\.3"),
        (lambda: score_by_ais(torch.tensor([[math.nan]])), "^held_back has NaN"),
        (lambda: score_by_ais(torch.zeros(1, 2), chains=0), "^chains is 0"),
        (lambda: RBM(2, 2).energy(torch.zeros(2, 2), torch.zeros(3, 2)), "^h has 3 rows, but v has 2: give"),
        (lambda: RBM(2, 2, seed=2**64), r"^seed is 2\*\*63 or more: give a smaller"),
        (lambda: RBM(2, 2, weight_scale=10**400), "^weight_scale is inf: give a finite number"),
        (lambda: Gaussian(2, precision="1"), "^precision is '1': give one number above 0"),
        (lambda: Gaussian(2, precision=10**400), "^precision is 1000"),
        (lambda: Gaussian(2, learned="no"), "^learned is 'no': give True or False"),
        (lambda: DBN([2, 2]).to_mlp(2, transfer=["exact"]), r"^transfer is \['exact'\]: choose one of exact"),
        (lambda: schedules.constant("0.1"), "^value is '0.1': give a number"),
        (lambda: schedules.switch(0.1, math.nan, 3), "^after is nan: give a finite"),
        (lambda: schedules.linear(0.1, 0.0, 0), "^epochs is 0: give a finite number above 0"),
        (lambda: schedules.cosine(None, 0.0, 1), "^start is None: give a number"),
        (lambda: datasets.load(3), "^name_or_file is a int: give one of mnist-sample"),
        (lambda: datasets.load(["mnist-sample"]), "^name_or_file is a list: give one of"),
        (lambda: datasets.load("mnist-sample", root=3), "^root is a int: give the path"),
        (lambda: datasets.load("mnist-sample", label_column=3), "^label_column is a int: give the name"),
        (lambda: datasets.load("mnist-sample", standardise="no"), "^standardise is 'no': give True"),
        (lambda: datasets.load("~nobody-of-this-name/a.csv"), "^name_or_file is no path"),
        (lambda: datasets.load("a" * 5000 + ".csv"), "^name_or_file is no path"),
        (lambda: dbn.runtime.checks.choose_device("nowhere"), '^device is "nowhere", which cannot be used'),
        (lambda: dbn.runtime.checks.choose_device("cuda:99"), '^device is "cuda:99", which cannot be used'),
        (lambda: dbn.runtime.checks.choose_device("meta"), '^device is "meta", where there are no numbers'),
        (lambda: dbn.runtime.checks.choose_device(3), "^device is 3: give"),
    ],
)
def test_arguments_that_do_not_fit_are_refused_by_name(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()
