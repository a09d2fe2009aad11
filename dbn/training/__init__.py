"""The one training loop of restricted Boltzmann machines, for all units and all estimators."""

from dbn.training.loop import run, train
from dbn.training.recipe import Recipe, check_fit, kind_of
from dbn.training.rows import open_rows, presented
from dbn.training.step import Learner, Penalties
from dbn.training.steps import Steps, replayable
from dbn.training.watching import EarlyStopping

__all__ = [
    "EarlyStopping",
    "Learner",
    "Penalties",
    "Recipe",
    "Steps",
    "check_fit",
    "kind_of",
    "open_rows",
    "presented",
    "replayable",
    "run",
    "train",
]
