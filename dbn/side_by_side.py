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


class SideBySide(nn.Sequential):
    """Networks of one shape as one network, whose rows hold a row of each, side by side: (n, S·d) -> (n, S·k).

    A step costs as many launches as a step of one network, so that on a GPU several small ones are trained in the time
    of one; `loss` is the sum of their losses, so that each learns as it would alone, from its own rows.

    Args:
        networks: S networks of linear layers, activations and dropout, alike but for their numbers. They are copied.

    Raises:
        TypeError: where that is no list, or one is no nn.Sequential, or holds another kind of module.
        ValueError: without networks, or where they are not alike.

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
        _check(networks)
        self.count = len(networks)
        layers = [_side_by_side(modules) for modules in zip(*networks, strict=True)]
        super().__init__(_Parted(len(networks)), *layers, _Joined())
        self.to(next(networks[0].parameters()).device)

    def outputs_of_each(self, outputs: Tensor) -> Tensor:
        """Outputs, or targets, of each network: (n, S·k) -> (S, n, k)."""
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
        """Copy the numbers of each network, as they are now, into networks of that shape."""
        for place, network in enumerate(networks):
            for ours, theirs in zip(self._linear(), _linear_of(network), strict=True):
                theirs.weight.copy_(ours.weight[place].t())
                theirs.bias.copy_(ours.bias.view(self.count, -1)[place])

    def _linear(self) -> Iterator["_Linear"]:
        return (module for module in self if isinstance(module, _Linear))


class _Linear(nn.Module):
    """A linear layer of each network: (S, n, d) -> (S, n, k)."""

    def __init__(self, layers: Sequence[nn.Linear]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack([layer.weight.detach().t() for layer in layers]).contiguous())
        self.bias = nn.Parameter(torch.cat([layer.bias.detach() for layer in layers]))

    def forward(self, x: Tensor) -> Tensor:
        return torch.baddbmm(self.bias.view(len(x), 1, -1), x, self.weight)

    def extra_repr(self) -> str:
        count, inputs, outputs = self.weight.shape
        return f"{count} of {inputs} to {outputs}"


class _Parted(nn.Module):
    """The rows of each network: (n, S·d) -> (S, n, d)."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        return x.reshape(len(x), self.count, -1).transpose(0, 1)


class _Joined(nn.Module):
    """Side by side again: (S, n, k) -> (n, S·k)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(0, 1).flatten(1)


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
        if not isinstance(network, nn.Sequential):
            raise TypeError(f"networks holds a {type(network).__name__}: give nn.Sequential networks")
        for module in network:
            if not isinstance(module, (nn.Linear, *_ALIKE)) or (isinstance(module, nn.Linear) and module.bias is None):
                raise TypeError(f"networks holds {module}: give linear layers with biases, activations and dropout")
    for one, other in pairwise(networks):
        if str(one) != str(other):
            raise ValueError(f"networks are not alike: one is {one}, another {other}")
    if not any(True for _ in _linear_of(networks[0])):
        raise ValueError("networks have no linear layer: there is nothing to train")
