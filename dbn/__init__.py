"""Restricted Boltzmann machines, deep belief networks and greedy pretraining in PyTorch."""

from dbn import datasets, schedules
from dbn.belief_net import DBN
from dbn.estimators import CD, PCD, Estimator, FastPCD, ParallelTempering
from dbn.finetuning import Evaluation, evaluate, finetune, predict
from dbn.history import DivergenceError, History
from dbn.initialisation import initialise
from dbn.likelihood import (
    Bracket,
    LogPartition,
    ais,
    bracket,
    exact_log_partition,
    log_likelihood,
    lower_bound,
    pseudo_log_likelihood,
    reverse_ais,
    score_by_ais,
)
from dbn.normalisability import Normalisability
from dbn.rbm import RBM
from dbn.runtime import distributed
from dbn.training import EarlyStopping, train
from dbn.units import Bernoulli, Categorical, Gaussian, Joint, NoisyReLU, ReLU, Spin, Unit
from dbn.version import __version__ as __version__

__all__ = [
    "CD",
    "DBN",
    "PCD",
    "RBM",
    "Bernoulli",
    "Bracket",
    "Categorical",
    "DivergenceError",
    "EarlyStopping",
    "Estimator",
    "Evaluation",
    "FastPCD",
    "Gaussian",
    "History",
    "Joint",
    "LogPartition",
    "NoisyReLU",
    "Normalisability",
    "ParallelTempering",
    "ReLU",
    "Spin",
    "Unit",
    "ais",
    "bracket",
    "datasets",
    "distributed",
    "evaluate",
    "exact_log_partition",
    "finetune",
    "initialise",
    "log_likelihood",
    "lower_bound",
    "predict",
    "pseudo_log_likelihood",
    "reverse_ais",
    "schedules",
    "score_by_ais",
    "train",
]
