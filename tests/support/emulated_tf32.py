"""Matrix products whose factors are rounded first, as a GPU's tensor cores round them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

#: The places of the factors among the arguments of a product.
FACTORS = {"mm": (0, 1), "addmm": (1, 2), "addmm_": (1, 2), "mv": (0, 1), "addmv": (1, 2), "addmv_": (1, 2)}


class Rounded(TorchDispatchMode):
    """Within it, products are of rounded factors; `count` says how many there were."""

    def __init__(self, bits: int) -> None:
        super().__init__()
        self.bits, self.count = bits, 0

    def __torch_dispatch__(self, function: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None) -> Any:
        places = FACTORS.get(function.__name__.split(".")[0], ())
        self.count += bool(places)
        args = [rounded(value, self.bits) if place in places else value for place, value in enumerate(args)]
        return function(*args, **(kwargs or {}))


def rounded(x: Tensor, bits: int) -> Tensor:
    """Single-precision numbers with so many bits after the leading one: to nearest, ties to even."""
    assert x.dtype == torch.float32
    dropped = 23 - bits
    whole = x.contiguous().view(torch.int32)
    even = (whole >> dropped) & 1
    return ((whole + (1 << (dropped - 1)) - 1 + even) & -(1 << dropped)).view(torch.float32)
