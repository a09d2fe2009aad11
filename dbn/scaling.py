"""The range of inputs that a network knows, so that data scaled otherwise are refused instead of misjudged."""

from collections.abc import Callable
from typing import cast

import torch
from torch import Tensor, nn

Range = tuple[float, float]

_ATTRIBUTE = "dbn_input_range"
_ROWS_TO_JUDGE = 100
_SHRUNK = 50


def remember_range(model: nn.Module, low: float, high: float) -> None:
    """Widen the range that the model knows to `low`..`high`; an infinite bound teaches nothing."""
    known = known_range(model)
    if known is not None:
        low, high = min(low, known[0]), max(high, known[1])
    if low > -float("inf") and high < float("inf"):
        setattr(model, _ATTRIBUTE, (low, high))


def known_range(model: nn.Module) -> Range | None:
    """The range of the inputs that the model was built for or trained on, where it is known."""
    return cast(Range | None, getattr(model, _ATTRIBUTE, None))


def range_check(model: nn.Module) -> Callable[[Tensor, str], None]:
    """A function of rows and their name that raises a ValueError where they are scaled unlike what the model knows.

    Inputs may leave the known range by its width on either side; pixels in 0..255 leave 0..1 by 254 widths. A hundred
    rows or more that stay within a fiftieth of the width are refused too.
    """
    known = known_range(model)

    def check(rows: Tensor, name: str) -> None:
        if known is None:
            return
        low, high = (float(bound) for bound in torch.aminmax(rows))
        width = known[1] - known[0]
        shrunk = len(rows) >= _ROWS_TO_JUDGE and high - low < width / _SHRUNK
        if low < known[0] - width or high > known[1] + width or shrunk:
            raise ValueError(
                f"{name} lies in {low:g}..{high:g}, but the model was made for inputs in {known[0]:g}..{known[1]:g}: "
                "scale these as those of training (pixels in 0..255: divide by 255)"
            )

    return check
