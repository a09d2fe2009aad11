"""Training of restricted Boltzmann machines, for all units and all estimators."""

from dbn.training.early_stopping import EarlyStopping
from dbn.training.graphed_update import GraphedUpdate, capturable
from dbn.training.train import Run, TrainingData, open_training_data, train, train_rbm
from dbn.training.train_options import PerLayer, TrainKeywords, TrainOptions, check_trainable, rbm_config
from dbn.training.training_data import open_rows, presented
from dbn.training.update import RBMUpdate

__all__ = [
    "EarlyStopping",
    "GraphedUpdate",
    "PerLayer",
    "RBMUpdate",
    "Run",
    "TrainKeywords",
    "TrainOptions",
    "TrainingData",
    "capturable",
    "check_trainable",
    "open_rows",
    "open_training_data",
    "presented",
    "rbm_config",
    "train",
    "train_rbm",
]
