"""Starts for ordinary networks by name: the baselines that pretraining is compared with."""

import math
from collections.abc import Callable, Iterator

import torch
from torch import Generator, Tensor, nn

from dbn.input_range import forget_scale
from dbn.runtime.checks import as_generator, check_instance, choice, finite_number

Draw = Callable[[Tensor, Generator | None, float | None], object]


def _uniform(weight: Tensor, generator: Generator | None, scale: float | None) -> None:
    fan_in = weight[0].numel()
    bound = 1 / math.sqrt(fan_in) if scale is None else scale
    nn.init.uniform_(weight, -bound, bound, generator=generator)


def _permuted(tensor: Tensor, generator: Generator | None) -> Tensor:
    order = torch.randperm(tensor.numel(), generator=generator, device=tensor.device)
    return tensor.flatten()[order].view_as(tensor)


def _or_one(scale: float | None) -> float:
    return 1.0 if scale is None else scale


_SCHEMES: dict[str, Draw] = {
    "zeros": lambda w, g, s: nn.init.zeros_(w),
    "constant": lambda w, g, s: nn.init.constant_(w, 0.1 if s is None else s),
    "uniform": _uniform,
    "normal": lambda w, g, s: nn.init.normal_(w, 0.0, 0.01 if s is None else s, generator=g),
    "xavier_uniform": lambda w, g, s: nn.init.xavier_uniform_(w, _or_one(s), generator=g),
    "xavier_normal": lambda w, g, s: nn.init.xavier_normal_(w, _or_one(s), generator=g),
    "he_uniform": lambda w, g, s: nn.init.kaiming_uniform_(w, nonlinearity="relu", generator=g).mul_(_or_one(s)),
    "he_normal": lambda w, g, s: nn.init.kaiming_normal_(w, nonlinearity="relu", generator=g).mul_(_or_one(s)),
    "orthogonal": lambda w, g, s: nn.init.orthogonal_(w, _or_one(s), generator=g),
}

#: The names that `initialise` knows.
SCHEMES = (*_SCHEMES, "permuted")


@torch.no_grad()
def initialise(
    model: nn.Module,
    scheme: str,
    *,
    scale: float | None = None,
    generator: Generator | None = None,
    seed: int | None = None,
) -> nn.Module:
    """Start every linear and convolutional layer of a network anew, in place, by a scheme with a name.

    Biases become zero, in "zeros" like the weights, except that "permuted" shuffles them as it shuffles the weights.

    | scheme | weights | scale |
    |---|---|---|
    | "zeros" | 0 | |
    | "constant" | `scale` | 0.1 |
    | "uniform" | U(−scale, scale) | 1/√fan_in |
    | "normal" | N(0, scale²) | 0.01 |
    | "xavier_uniform", "xavier_normal" | variance 2·scale²/(fan_in + fan_out) | 1 |
    | "he_uniform", "he_normal" | variance 2·scale²/fan_in | 1 |
    | "orthogonal" | rows or columns orthonormal, times `scale` | 1 |
    | "permuted" | those that are there, shuffled within each layer | |

    Source: X. Glorot, Y. Bengio (2010), Understanding the difficulty of training deep feedforward neural networks;
    K. He et al. (2015), Delving deep into rectifiers; A. Saxe et al. (2014), Exact solutions to the nonlinear dynamics
    of learning in deep linear neural networks; for "permuted" D. Erhan et al. (2010), Why does unsupervised
    pre-training help deep learning?, section 6.3: scale without structure.

    Args:
        model: the network.
        scheme: a name of the table.
        scale: its number, if it has one.
        generator: draws the weights; it must be on the device of the model.
        seed: a number to seed a generator with, instead of `generator`.

    Returns:
        The same network.

    Raises:
        TypeError: if `model` is no network.
        ValueError: for an unknown scheme, a scale that is negative or not finite, or a network without such layers.

    Example:
        >>> initialise(nn.Linear(3, 2), "constant", scale=0.5).weight[0].tolist()
        [0.5, 0.5, 0.5]

    Zero and constant weights give every unit of a layer the same gradient for ever: they are here to show it.
    """
    check_instance(model, nn.Module, "model", "a network, such as an nn.Sequential")
    choice(scheme, SCHEMES, "scheme")
    scale = None if scale is None else finite_number(scale, "scale")
    layers = list(_layers(model))
    if not layers:
        raise ValueError("model has no linear or convolutional layer: there is nothing to initialise")
    if any(nn.parameter.is_lazy(weight) or weight.is_meta for weight, _ in layers):
        raise ValueError("model has layers without numbers, lazy or on the meta device: run a batch through it first")
    generator = as_generator(generator, seed, layers[0][0].device)
    forget_scale(model)
    for weight, bias in layers:
        if scheme == "permuted":
            weight.copy_(_permuted(weight, generator))
        elif weight.numel():
            # torch draws orthogonal weights in no half precision, and hardly anything in quarter precision
            drawn = weight if weight.element_size() >= torch.float32.itemsize else weight.float()
            _SCHEMES[scheme](drawn, generator, scale)
            weight.copy_(drawn)
        if bias is not None:
            bias.copy_(_permuted(bias, generator) if scheme == "permuted" else torch.zeros_like(bias))
    return model


def _layers(model: nn.Module) -> Iterator[tuple[Tensor, Tensor | None]]:
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d):
            yield module.weight, module.bias
