"""Dropout that draws from a generator of the run, and not from torch's global one."""

from collections.abc import Iterator
from contextlib import contextmanager
from weakref import WeakKeyDictionary

import torch
from torch import Generator, Tensor, nn

_generators: "WeakKeyDictionary[nn.Module, Generator]" = WeakKeyDictionary()


def _dropped(module: nn.Module, x: Tensor, shape: tuple[int, ...]) -> Tensor | None:
    """Inputs with whole blocks of this shape dropped and the others scaled up, in training; None elsewhere."""
    generator = _generators.get(module)
    if generator is None or not module.training:
        return None
    kept = 1 - float(module.p)  # type: ignore[arg-type]
    mask = torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(kept, generator=generator)
    return x * (mask.div_(kept) if kept else mask)


class SeededDropout(nn.Dropout):
    """`nn.Dropout` that draws from the generator of the run that trains it."""

    def forward(self, input: Tensor) -> Tensor:
        dropped = _dropped(self, input, tuple(input.shape))
        return super().forward(input) if dropped is None else dropped


class SeededDropout1d(nn.Dropout1d):
    """The same for channels of (n, channels, length)."""

    def forward(self, input: Tensor) -> Tensor:
        dropped = _dropped(self, input, (*input.shape[:-1], 1))
        return super().forward(input) if dropped is None else dropped


class SeededDropout2d(nn.Dropout2d):
    """The same for channels of (n, channels, height, width)."""

    def forward(self, input: Tensor) -> Tensor:
        dropped = _dropped(self, input, (*input.shape[:2], *(1,) * (input.dim() - 2)))
        return super().forward(input) if dropped is None else dropped


class SeededDropout3d(nn.Dropout3d):
    """The same for channels of (n, channels, depth, height, width)."""

    def forward(self, input: Tensor) -> Tensor:
        dropped = _dropped(self, input, (*input.shape[:-3], 1, 1, 1))
        return super().forward(input) if dropped is None else dropped


_SEEDED: dict[type[nn.Module], type[nn.Module]] = {
    nn.Dropout: SeededDropout,
    nn.Dropout1d: SeededDropout1d,
    nn.Dropout2d: SeededDropout2d,
    nn.Dropout3d: SeededDropout3d,
}
#: Other modules of torch that draw in training, by functions that take no generator.
_GLOBAL = (nn.AlphaDropout, nn.FeatureAlphaDropout, nn.RReLU, nn.RNNBase, nn.MultiheadAttention)


@contextmanager
def own_dropout(model: nn.Module, generator: Generator | None) -> Iterator[None]:
    """Let the dropout modules of a model draw from this generator, for as long as the block lasts.

    Their class is exchanged for one of this module's, so that nothing but the model is touched. What a module of the
    user's own draws in its `forward` comes from torch's global generator all the same.
    """
    chosen = [module for module in model.modules() if type(module) in _SEEDED] if generator is not None else []
    for module in chosen:
        module.__class__ = _SEEDED[type(module)]
        _generators[module] = generator  # type: ignore[assignment]
    try:
        yield
    finally:
        for module in chosen:
            module.__class__ = type(module).__mro__[1]
            del _generators[module]


def draws_globally(model: nn.Module) -> bool:
    """Whether a model may draw from torch's global generator although its dropout modules do not."""
    modules = list(model.modules())
    return any(isinstance(module, _GLOBAL) or not _is_known(type(module)) for module in modules)


def _is_known(kind: type[nn.Module]) -> bool:
    return kind.__module__.startswith(("torch.nn.", "dbn."))
