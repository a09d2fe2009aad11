"""Supervised training of any network, and its evaluation."""

from dbn.finetuning.evaluation import Evaluation, evaluate, predict
from dbn.finetuning.finetune import finetune

__all__ = ["Evaluation", "evaluate", "finetune", "predict"]
