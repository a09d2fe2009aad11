"""How good an RBM is as a probability model, and how far the number can be trusted."""

from dbn.likelihood.ais import LogPartition, ais, reverse_ais
from dbn.likelihood.bracket import Bracket, bracket
from dbn.likelihood.exact import exact_log_partition, log_partition_over
from dbn.likelihood.log_likelihood import log_likelihood, lower_bound, pseudo_log_likelihood, score_by_ais

__all__ = [
    "Bracket",
    "LogPartition",
    "ais",
    "bracket",
    "exact_log_partition",
    "log_likelihood",
    "log_partition_over",
    "lower_bound",
    "pseudo_log_likelihood",
    "reverse_ais",
    "score_by_ais",
]
