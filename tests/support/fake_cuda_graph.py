"""A recorder that stands in for a GPU's: what is recorded is not done, and a replay makes the same calls again.

What a step reads as a plain number is kept as it was, as a GPU's graph keeps it, and what it allocates stays in place.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Generator, Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

#: What reads numbers back from a device, which a recording forbids.
READS = ("aten._local_scalar_dense.default", "aten.nonzero.default", "aten.item.default", "aten.equal.default")


class Tape(TorchDispatchMode):
    """The calls of some work, in order, with their arguments and results."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []
        self.before: dict[int, tuple[Tensor, Tensor]] = {}
        self.met: set[int] = set()
        self.made: list[Tensor] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if str(function) in READS:
            raise RuntimeError(f"{function} reads numbers back while work is recorded")
        for value in tree_leaves((args, kwargs)):
            if isinstance(value, Tensor):  # batch normalisation does not say that it writes to its running means
                self.before.setdefault(id(value), (value, value.clone()))
                self.met.add(_storage(value))
        result = function(*args, **kwargs)
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and _storage(value) not in self.met:
                self.met.add(_storage(value))
                self.made.append(value)
        self.calls.append((function, args, kwargs, result))
        return result

    @torch.no_grad()
    def undo(self) -> None:
        """As if nothing had been done: what there was is as it was, and what was made holds no numbers yet."""
        for tensor, value in reversed(self.before.values()):  # a view may have been met after its base had changed
            if not torch.equal(tensor, value):
                tensor.copy_(value)
        for tensor in self.made:
            if tensor.is_floating_point():
                tensor.fill_(float("nan"))

    @torch.no_grad()
    def replay(self) -> None:
        for function, args, kwargs, result in self.calls:
            for old, new in zip(tree_leaves(result), tree_leaves(function(*args, **kwargs)), strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def capture(work: Callable[[], None], generator: Generator, stream: object) -> Tape:
    """In place of `dbn.runtime.cuda_graph.capture`."""
    tape, drawing = Tape(), generator.get_state()
    with tape:
        work()
    tape.undo()
    generator.set_state(drawing)
    return tape


def _storage(value: Tensor) -> int:
    return value.untyped_storage().data_ptr()
