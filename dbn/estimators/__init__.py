"""The negative phase of learning: where the model's statistics come from."""

from dbn.estimators.contrastive import CD
from dbn.estimators.estimator import Estimator
from dbn.estimators.persistent import PCD, FastPCD
from dbn.estimators.tempering import ParallelTempering

__all__ = ["CD", "PCD", "Estimator", "FastPCD", "ParallelTempering"]
