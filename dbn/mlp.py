"""Ordinary networks that start from what a stack of RBMs has learned."""

from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import torch
from torch import Generator, Tensor, nn

from dbn.input_range import remember_scale, scale_of_units
from dbn.rbm import RBM
from dbn.runtime.checks import as_generator, as_rows, check_finite, choice, finite_number, whole_number

Transfer = Literal["exact", "relu_rescaled", "relu_copied"]

_TRANSFERS = get_args(Transfer)


def classifier(
    layers: Sequence[RBM],
    outputs: int,
    *,
    transfer: Transfer = "exact",
    data: Any = None,
    dropout: float = 0.0,
    input_dropout: float = 0.0,
    generator: Generator | None = None,
    seed: int | None = None,
) -> nn.Sequential:
    """A feed-forward network whose body is the stack's up pass, with a new linear head for classes or targets.

    Layer k is Linear(W_kᵀ, c_k) and the activation that is the mean of its hidden units, so with `transfer="exact"`
    everything below the head computes `encode(x)`. The head is Xavier-uniform with zero biases.

    ReLU networks from sigmoid units are another function, and are to be asked for by name: "relu_rescaled" multiplies
    each layer by the number that gives its fields unit variance on `data`; "relu_copied" copies the numbers as they
    are. The clean way to a ReLU network is a stack of `NoisyReLU` or `ReLU` units, which are exact.

    Source: G. Hinton, R. Salakhutdinov (2006), Reducing the dimensionality of data with neural networks; for the
    rescaling D. Mishkin, J. Matas (2016), All you need is a good init.

    Args:
        layers: the RBMs, bottom first.
        outputs: number of classes or of real targets.
        transfer: "exact", "relu_rescaled" or "relu_copied".
        data: rows (n, V) for "relu_rescaled"; a few hundred are enough.
        dropout: probability of dropping an activation of a hidden layer. The weights are not rescaled for it, since
            `nn.Dropout` divides by the probability of keeping.
        input_dropout: the same for the inputs.
        generator: draws the head.
        seed: a number to seed a generator with, instead of `generator`.

    Raises:
        ValueError: for an unknown transfer, missing data, a dropout outside [0, 1), or fewer than 1 output.

    Example:
        >>> classifier([RBM(6, 4, seed=0)], outputs=3, seed=0)
        Sequential(
          (0): Linear(in_features=6, out_features=4, bias=True)
          (1): Sigmoid()
          (2): Linear(in_features=4, out_features=3, bias=True)
        )
    """
    whole_number(outputs, "outputs")
    choice(transfer, _TRANSFERS, "transfer")
    if transfer == "relu_rescaled" and data is None:
        raise ValueError('data is missing: transfer="relu_rescaled" needs rows to measure the fields on')
    top, like = layers[-1], layers[0].weight
    head = _linear(like.new_empty(outputs, top.hidden.size), like.new_empty(outputs))
    nn.init.xavier_uniform_(head.weight, generator=as_generator(generator, seed, like.device))
    nn.init.zeros_(head.bias)
    body = [[_linear(rbm.weight.t(), rbm.hidden_bias), rbm.hidden.activation().to(like.device)] for rbm in layers]
    if transfer != "exact":
        body = [[linear, nn.ReLU()] for linear, _ in body]
    if transfer == "relu_rescaled":
        _give_unit_variance(body, _fitting(data, layers[0]))
    network = nn.Sequential(*_dropout(input_dropout, "input_dropout"))
    for modules in body:
        network.extend([*(m for m in modules if not isinstance(m, nn.Identity)), *_dropout(dropout, "dropout")])
    network.append(head)
    remember_scale(network, scale_of_units(layers[0].visible.support))
    return network


def autoencoder(layers: Sequence[RBM]) -> nn.Sequential:
    """The stack unrolled into an encoder and a decoder with untied copies of the weights.

    Computes exactly the mean-field reconstruction: up through E[h | v] of each layer, down through E[v | h].

    Source: G. Hinton, R. Salakhutdinov (2006), Reducing the dimensionality of data with neural networks.

    Args:
        layers: the RBMs, bottom first.

    Example:
        >>> len(autoencoder([RBM(6, 4, seed=0), RBM(4, 2, seed=1)]))
        8
    """
    modules: list[nn.Module] = []
    for rbm in layers:
        modules += [_linear(rbm.weight.t(), rbm.hidden_bias), rbm.hidden.activation()]
    for rbm in reversed(layers):
        modules += [_linear(rbm.weight, rbm.visible_bias), rbm.visible.activation()]
    network = nn.Sequential(*(module for module in modules if not isinstance(module, nn.Identity)))
    remember_scale(network, scale_of_units(layers[0].visible.support))
    return network.to(layers[0].weight.device)


def _fitting(data: Any, bottom: RBM) -> Tensor:
    rows = as_rows(data, bottom.visible.size, like=bottom.weight, name="data")
    if not len(rows):
        raise ValueError("data is empty: give at least one row")
    check_finite(rows, "data")
    bottom.visible.constrain_data(rows, "data")
    return rows


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    outputs, inputs = weight.shape
    linear = nn.Linear(inputs, outputs, device="meta").to_empty(device=weight.device).to(weight.dtype)
    with torch.no_grad():
        linear.weight.copy_(weight)
        linear.bias.copy_(bias)
    return linear


@torch.no_grad()
def _give_unit_variance(body: list[list[nn.Module]], x: Tensor) -> None:
    for linear, activation in body:
        assert isinstance(linear, nn.Linear)
        scale = 1 / linear(x).std().clamp(min=1e-6)
        linear.weight.mul_(scale)
        linear.bias.mul_(scale)
        x = activation(linear(x))


def _dropout(probability: float, name: str) -> Iterator[nn.Module]:
    if not 0 <= finite_number(probability, name) < 1:
        raise ValueError(f"{name} is {probability}: give a probability of at least 0 and below 1")
    if probability:
        yield nn.Dropout(probability)
