"""How a signal propagates through a network before training: forwards as activations, backwards as gradients."""

from statistics import fmean
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from experiments.study.trial import Trial


def spreads(network: nn.Sequential, x: Tensor, y: Tensor) -> tuple[list[float], list[float]]:
    """Return the standard deviations of the activations and of the loss's gradients, a number a layer.

    Source: X. Glorot, Y. Bengio (2010), Understanding the difficulty of training deep feedforward neural networks.

    Args:
        network: linear layers with activations between them.
        x: inputs (n, features).
        y: class numbers (n,).

    Returns:
        The spread of the inputs, of each hidden layer and of the outputs; and the spread of the gradient of a row's
        cross-entropy with respect to the fields of each hidden layer and to the outputs.
    """
    activations, fields, signal = [x], [], x
    for module in network:
        signal = module(signal)
        if isinstance(module, nn.Linear):
            signal.retain_grad()
            fields.append(signal)
        else:
            activations.append(signal)
    functional.cross_entropy(signal, y, reduction="sum").backward()
    forwards = [float(values.detach().std()) for values in [*activations, signal]]
    backwards = [0.0 if field.grad is None else float(field.grad.std()) for field in fields]
    return forwards, backwards


def layer_names(hidden: int) -> tuple[list[str], list[str]]:
    """Name the layers that the numbers of `spreads` belong to, for a number of hidden layers."""
    middle = [f"hidden {number + 1}" for number in range(hidden)]
    return ["input", *middle, "output"], [*middle, "output"]


def seeded_rows(x: Tensor, y: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw at most `count` rows with their labels, without replacement."""
    chosen = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))[:count]
    return x[chosen], y[chosen]


def signal_of(trial: Trial, seeds: int) -> dict[str, Any]:
    """Return the spread of activations and of gradients in every layer of a trial, the mean over the first seeds."""
    found = []
    for seed in range(seeds):
        rows = seeded_rows(*trial.split(seed).train.labelled, count=500, seed=seed)
        found.append(spreads(trial.network(trial.settings[0], seed).eval(), *rows))
    forwards, backwards = ([fmean(layer) for layer in zip(*part, strict=True)] for part in zip(*found, strict=True))
    start = trial.initialisation
    return {"start": start.label, "activation": start.activation, "activations": forwards, "gradients": backwards}
