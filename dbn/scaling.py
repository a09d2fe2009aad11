"""The scale of inputs that a network knows, so that data scaled otherwise are refused instead of misjudged."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

_ATTRIBUTE = "dbn_input_scale"
_ROWS_TO_JUDGE = 100
_SHRUNK = 50


class Scale(NamedTuple):
    """Least and greatest value of the inputs, and the mean of their absolute values (0 where no rows were seen)."""

    low: float
    high: float
    magnitude: float = 0.0


def scale_of(rows: Tensor) -> Scale:
    """The scale of rows (n, …)."""
    low, high = (float(bound) for bound in torch.aminmax(rows))
    return Scale(low, high, float(rows.double().abs().mean()))


def remember_scale(model: nn.Module, scale: Scale) -> None:
    """Widen the range that the model knows; an infinite bound teaches nothing."""
    known = known_scale(model)
    if known is not None:
        scale = Scale(min(scale.low, known.low), max(scale.high, known.high), scale.magnitude or known.magnitude)
    if scale.low > -float("inf") and scale.high < float("inf"):
        setattr(model, _ATTRIBUTE, scale)


def known_scale(model: nn.Module) -> Scale | None:
    """The scale of the inputs that the model was built for or trained on, where it is known."""
    return cast(Scale | None, getattr(model, _ATTRIBUTE, None))


def scale_check(model: nn.Module) -> Callable[[Tensor, str], None]:
    """A function of rows and their name that raises a ValueError where they are scaled unlike what the model knows.

    Inputs may leave the known range by its width on either side; pixels in 0..255 leave 0..1 by 254 widths. A hundred
    rows or more whose magnitude is under a fiftieth of that of training are refused too.
    """
    known = known_scale(model)

    def check(rows: Tensor, name: str) -> None:
        if known is None:
            return
        found, width = scale_of(rows), known.high - known.low
        shrunk = len(rows) >= _ROWS_TO_JUDGE and found.magnitude < known.magnitude / _SHRUNK
        if found.low < known.low - width or found.high > known.high + width or shrunk:
            raise ValueError(
                f"{name} lies in {found.low:g}..{found.high:g}, but the model was made for inputs in "
                f"{known.low:g}..{known.high:g}: scale these as those of training (pixels in 0..255: divide by 255)"
            )

    return check
