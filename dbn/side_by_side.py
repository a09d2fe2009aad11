"""Networks of one shape, trained as one."""

import copy
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

#: What acts on each number, or each row, by itself, whatever dimensions come before.
_ALIKE = (nn.ReLU, nn.Sigmoid, nn.Tanh, nn.Softmax, nn.Identity, nn.Dropout)
_NUMBERS = ("weight", "bias")


class SideBySide(nn.Module):
    """Networks of one shape as one network, whose rows hold a row of each, side by side: (n, S·d) -> (n, S·k).

    A step costs as many launches as a step of one network, so that on a GPU several small ones are trained in the time
    of one; `loss` is the sum of their losses, so that each learns as it would alone, from its own rows.

    Give its `loss` to `finetune`, which then judges all networks together by it on `validation=` rows; `evaluate` and
    `predict` single networks after `leave`.

    Args:
        networks: S networks of linear layers, activations and dropout, alike but for their numbers. They are copied.

    Raises:
        TypeError: where that is no list, or one is no nn.Sequential, or holds another kind of module.
        ValueError: without networks, where they are not alike, or where a module would do something else side by side.

    Example:
        >>> from dbn import finetune
        >>> networks = [nn.Sequential(nn.Linear(4, 3)) for _ in range(2)]
        >>> rows = torch.eye(4).repeat(5, 1)
        >>> classes = functional.one_hot(rows.argmax(1) % 3).float()
        >>> both = SideBySide(networks)
        >>> x, y = torch.cat([rows, 1 - rows], 1), torch.cat([classes, classes], 1)
        >>> history = finetune(both, x, y, epochs=3, loss=both.loss, progress=False, seed=0)
        >>> both.leave(networks)
        >>> both.outputs_of_each(both(x)).shape
        torch.Size([2, 20, 3])
    """

    def __init__(self, networks: Sequence[nn.Sequential]) -> None:
        super().__init__()
        _check(networks)
        self.count = len(networks)
        self.layers = nn.Sequential(*map(_side_by_side, zip(*networks, strict=True)))

    def forward(self, x: Tensor) -> Tensor:
        """Outputs (n, S·k) of rows (n, S·d)."""
        outputs: Tensor = self.layers(self.outputs_of_each(x))
        return outputs.transpose(0, 1).flatten(1)

    def outputs_of_each(self, outputs: Tensor) -> Tensor:
        """What is side by side, outputs, targets or inputs, of each network: (n, S·k) -> (S, n, k)."""
        return outputs.reshape(len(outputs), self.count, -1).transpose(0, 1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sum over networks of the mean cross-entropy over rows.

        Args:
            outputs: (n, S·k).
            targets: probabilities of classes likewise, such as ones at the right ones.
        """
        classes = outputs.shape[1] // self.count
        return self.count * functional.cross_entropy(outputs.reshape(-1, classes), targets.reshape(-1, classes))

    @torch.no_grad()
    def leave(self, networks: Sequence[nn.Sequential]) -> None:
        """Copy the numbers of each network, as they are now, into networks of that shape.

        Raises:
            ValueError: where they are of another number or shape.
        """
        _check(networks)
        if len(networks) != self.count or str(SideBySide(networks)) != str(self):
            raise ValueError(f"networks are {len(networks)} of {networks[0]}: give networks as those of {self}")
        for place, network in enumerate(networks):
            for ours, theirs in zip(_Linear.of(self.layers), _linear_of(network), strict=True):
                theirs.weight.copy_(ours.weight.view(self.count, *theirs.weight.shape)[place])
                theirs.bias.copy_(ours.bias.view(self.count, -1)[place])


class _Linear(nn.Module):
    """A linear layer of each network: (S, n, d) -> (S, n, k). A row of the weight (S·k, d) leads into a unit."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.count, first = len(layers), layers[0]
        weight, bias = (torch.cat([layer.get_parameter(name).detach() for layer in layers]) for name in _NUMBERS)
        self.weight = nn.Parameter(weight, first.weight.requires_grad)
        self.bias = nn.Parameter(bias, first.bias.requires_grad)

    @staticmethod
    def of(layers: nn.Sequential) -> Iterator["_Linear"]:
        """Those among some layers."""
        return (layer for layer in layers if isinstance(layer, _Linear))

    def forward(self, x: Tensor) -> Tensor:
        weight = self.weight.view(self.count, -1, x.shape[2])
        return torch.baddbmm(self.bias.view(self.count, 1, -1), x, weight.transpose(1, 2))

    def extra_repr(self) -> str:
        outputs, inputs = self.weight.shape
        return f"{self.count} of {inputs} to {outputs // self.count}"


def _side_by_side(modules: Sequence[Any]) -> nn.Module:
    return _Linear(modules) if isinstance(modules[0], nn.Linear) else copy.deepcopy(modules[0])


def _linear_of(network: nn.Module) -> Iterator[nn.Linear]:
    return (module for module in network.children() if isinstance(module, nn.Linear))


def _check(networks: Any) -> None:
    if not isinstance(networks, Sequence | nn.ModuleList):
        raise TypeError(f"networks is a {type(networks).__name__}: give a list of nn.Sequential networks")
    if not len(networks):
        raise ValueError("networks is empty: give at least one")
    for network in networks:
        if type(network) is not nn.Sequential:
            raise TypeError(f"networks holds a {type(network).__name__}: give nn.Sequential networks")
        for module in network:
            _check_module(module)
    for one, other in pairwise(networks):
        if _shape(one) != _shape(other):
            raise ValueError(f"networks are not alike: one is {one}, another {other}")
    if not any(True for _ in _linear_of(networks[0])):
        raise ValueError("networks have no linear layer: there is nothing to train")


def _check_module(module: nn.Module) -> None:
    known = type(module) in (nn.Linear, *_ALIKE) and {name for name, _ in module.named_parameters()} <= set(_NUMBERS)
    if not known or (isinstance(module, nn.Linear) and module.bias is None):
        raise TypeError(f"networks holds {module}: give linear layers with biases, activations and dropout")
    if isinstance(module, nn.Softmax) and module.dim != -1:
        raise ValueError(f"networks holds {module}: give Softmax(-1), which stays within a row of any dimensions")
    if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
        raise ValueError(f"networks holds {module} with a hook: take it off first, since it would not be called")


def _shape(network: nn.Sequential) -> list[Any]:
    """What networks must have in common."""
    numbers = [(value.dtype, value.device, value.requires_grad) for value in network.parameters()]
    return [str(network), *numbers]
