"""The range of inputs that a network knows, so that pixels in 0..255 are refused by one that takes 0..1."""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

_ATTRIBUTE = "dbn_input_scale"
_FACTOR = 5  # times the largest magnitude of the range, up to which entries may be honest outliers
_FEWEST_ENTRIES = 100  # of training rows, to tell their range from
_ROWS_AT_ONCE = 1000
_KEEP_VALUES = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout)


class Scale(NamedTuple):
    """The range of a network's inputs: that of its visible units, or one that all of its training rows lay in."""

    low: float
    high: float
    of_units: bool = False


def scale_of_units(support: tuple[float, float]) -> Scale | None:
    """The range of visible units; None if it has no end."""
    return Scale(*support, of_units=True) if all(map(math.isfinite, support)) else None


def scale_of_training(known: Scale | None, rows: Tensor) -> Scale | None:
    """The range after training on rows (n, …): that of the units, or 0..1 or −1..1 if all rows lie there, else None."""
    if known is not None and known.of_units:
        return known
    low, high = (float(bound) for bound in torch.aminmax(rows.detach()))
    if rows.numel() < _FEWEST_ENTRIES or low == high or low < -1 or high > 1:
        return None
    return Scale(0.0 if low >= 0 else -1.0, 1.0)


def remember_scale(model: nn.Module, scale: Scale | None) -> None:
    """Let the model know the range of its inputs, or that there is none."""
    setattr(model, _ATTRIBUTE, scale)


def known_scale(model: nn.Module) -> Scale | None:
    """The range of the inputs that the model was built for or trained on, if it is known."""
    for module in _that_see_the_input(model):
        if _ATTRIBUTE in vars(module):
            return cast(Scale | None, vars(module)[_ATTRIBUTE])
    return None


def forget_scale(model: nn.Module) -> None:
    """Let the model take inputs of any range again."""
    for module in model.modules():
        vars(module).pop(_ATTRIBUTE, None)


def scale_check(known: Scale | None) -> Callable[[Tensor, str], None]:
    """A function of rows and their name that raises a ValueError if one is unmistakably out of the known range.

    Each row is judged by itself, by its entries other than 0: if the range is that of the units, by whether their
    mean magnitude is above five times the largest of the range; if it is that of training rows, by whether most of
    them are. So one outlier, or a black image, is no reason.
    """

    def check(rows: Tensor, name: str) -> None:
        if known is None or not rows.numel():
            return
        low, high = (float(bound) for bound in torch.aminmax(rows.detach()))
        limit = _FACTOR * max(abs(known.low), abs(known.high))
        if max(-low, high) > limit and _any_row_beyond(rows, limit, by_mean=known.of_units):
            raise ValueError(
                f"{name} lies in {low:g}..{high:g}, but the model was made for inputs in "
                f"{known.low:g}..{known.high:g}: scale these as those of training (pixels in 0..255: divide by 255)"
            )

    return check


def _any_row_beyond(rows: Tensor, limit: float, *, by_mean: bool) -> bool:
    parts = torch.split(rows.reshape(len(rows), -1), _ROWS_AT_ONCE)
    return any(bool(_beyond(part.float().abs(), limit, by_mean=by_mean).any()) for part in parts)


def _beyond(magnitudes: Tensor, limit: float, *, by_mean: bool) -> Tensor:
    entries = (magnitudes != 0).sum(1)
    return magnitudes.sum(1) > limit * entries if by_mean else 2 * (magnitudes > limit).sum(1) > entries


def _that_see_the_input(model: nn.Module) -> Iterator[nn.Module]:
    """The model, and the parts of it that are given its inputs as they are, as far as that is known."""
    yield model
    if isinstance(model, nn.Sequential):
        first = next((part for part in model if not isinstance(part, _KEEP_VALUES)), None)
    else:
        wrapped = [part for name, part in model.named_children() if name in ("module", "_orig_mod")]
        first = wrapped[0] if wrapped else None  # of nn.DataParallel and torch.compile
    if first is not None:
        yield from _that_see_the_input(first)
