"""The scale of inputs that a network knows, so that data scaled otherwise are refused instead of misjudged."""

from collections.abc import Callable
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

_ATTRIBUTE = "dbn_input_scale"
_ROWS_TO_JUDGE = 100
_SHRUNK = 50
_OUTLIERS = 0.01
_MOST_OUTLIERS = 0.1


class Scale(NamedTuple):
    """Least and greatest value of the inputs, the mean of their absolute values, and of how many rows (0 for none)."""

    low: float
    high: float
    magnitude: float = 0.0
    rows: int = 0


def scale_of(rows: Tensor) -> Scale:
    """The scale of rows (n, …)."""
    low, high = (float(bound) for bound in torch.aminmax(rows))
    real = rows if rows.dtype in (torch.float32, torch.float64) else rows.float()
    return Scale(low, high, float(torch.linalg.vector_norm(real, ord=1)) / max(rows.numel(), 1), len(rows))


def widened(known: Scale | None, scale: Scale) -> Scale:
    """The scale of both, with the magnitude of the rows seen last."""
    if known is None:
        return scale
    magnitude = scale.magnitude or known.magnitude
    return Scale(min(scale.low, known.low), max(scale.high, known.high), magnitude, known.rows + scale.rows)


def remember_scale(model: nn.Module, scale: Scale) -> None:
    """Let the model know the scale of its inputs; an infinite bound teaches nothing."""
    if scale.low > -float("inf") and scale.high < float("inf"):
        setattr(model, _ATTRIBUTE, scale)


def known_scale(model: nn.Module) -> Scale | None:
    """The scale of the inputs that the model, or a part of it, was built for or trained on, where it is known."""
    return cast(Scale | None, next((vars(m)[_ATTRIBUTE] for m in model.modules() if _ATTRIBUTE in vars(m)), None))


def forget_scale(model: nn.Module) -> None:
    """Let the model take inputs of any scale again."""
    for module in model.modules():
        vars(module).pop(_ATTRIBUTE, None)


def scale_check(known: Scale | None) -> Callable[[Tensor, str], None]:
    """A function of rows and their name that raises a ValueError where they are scaled unlike what is known.

    One row in a hundred may leave the known range by more than its width; where few rows were seen in training, whose
    range says little of the tails, two over their number may, up to one in ten. Pixels in 0..255 leave 0..1 by 254
    widths, in nearly all rows. A hundred rows or more whose magnitude is under a fiftieth of that of training are
    refused too.
    """

    def check(rows: Tensor, name: str) -> None:
        if known is None:
            return
        found, width = scale_of(rows), known.high - known.low
        low, high = known.low - width, known.high + width
        shrunk = len(rows) >= _ROWS_TO_JUDGE and 0 < found.magnitude < known.magnitude / _SHRUNK
        outside = found.low < low or found.high > high
        allowed = max(_OUTLIERS, min(_MOST_OUTLIERS, 2 / known.rows)) if known.rows else _OUTLIERS
        if shrunk or (outside and _share_outside(rows, low, high) > allowed):
            raise ValueError(
                f"{name} lies in {found.low:g}..{found.high:g}, but the model was made for inputs in "
                f"{known.low:g}..{known.high:g}: scale these as those of training (pixels in 0..255: divide by 255)"
            )

    return check


def _share_outside(rows: Tensor, low: float, high: float) -> float:
    flat = rows.reshape(len(rows), -1)
    return float(((flat.amin(1) < low) | (flat.amax(1) > high)).double().mean())
