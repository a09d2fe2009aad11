"""Pictures of filters and reconstructions: tensors in, matplotlib figures out. Needs the extra `plots`."""

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_GAP = 1  # pixels between the tiles of a grid


def tile(images: Tensor, columns: int) -> Tensor:
    """Images (n, height, width) in one picture, row by row, with gaps that are not a number.

    Example:
        >>> tile(torch.zeros(6, 4, 4), columns=3).shape
        torch.Size([11, 16])
    """
    count, height, width = images.shape
    rows = math.ceil(count / columns)
    size = rows * (height + _GAP) + _GAP, columns * (width + _GAP) + _GAP
    picture = torch.full(size, math.nan, dtype=torch.float32, device="cpu")
    for place, image in enumerate(images):
        top, left = (place // columns) * (height + _GAP) + _GAP, (place % columns) * (width + _GAP) + _GAP
        picture[top : top + height, left : left + width] = image
    return picture


def filters(weight: Tensor, shape: tuple[int, int] | None = None, *, count: int = 100, title: str = "") -> "Figure":
    """The weights of the first hidden units, each as an image, or all weights as one matrix if there is no shape.

    Args:
        weight: (V, H), as `rbm.weight`.
        shape: height and width of a visible image.
        count: the largest number of hidden units shown; those with the largest weights are.
        title: printed above.

    Raises:
        ValueError: if the shape does not hold V pixels.

    Example:
        >>> figure = filters(torch.randn(784, 20), (28, 28))
    """
    weight = weight.detach().float().cpu()
    largest = weight.norm(dim=0).argsort(descending=True)[:count].sort().values
    chosen = weight[:, largest]
    if shape is None:
        picture = chosen.t()
    else:
        _check_shape(len(weight), shape)
        picture = tile(chosen.t().reshape(-1, *shape), columns=math.ceil(math.sqrt(len(largest))))
    limit = float(chosen.abs().quantile(0.995)) or 1.0
    figure, (axes,) = figure_of(1, width=7.2, height=6.2 * picture.shape[0] / picture.shape[1] + 0.4)
    image = axes.imshow(picture.numpy(), cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    axes.set_axis_off()
    axes.set_title(title or f"weights of {len(largest)} of {weight.shape[1]} hidden units", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.6, aspect=30, pad=0.02)
    return figure


def image_rows(rows: Mapping[str, Tensor], shape: tuple[int, int], *, title: str = "") -> "Figure":
    """Rows of images one above the other, each with its name: originals and what a stack makes of them.

    Args:
        rows: names to images (n, height · width), values in 0..1.
        shape: height and width.
        title: printed above.

    Raises:
        ValueError: if the shape does not hold the pixels.

    Example:
        >>> figure = image_rows({"data": torch.rand(8, 784), "reconstruction": torch.rand(8, 784)}, (28, 28))
    """
    count = min(len(images) for images in rows.values())
    names = 0.09 * max(map(len, rows))  # inches
    figure, axes = figure_of(
        len(rows), width=0.62 * count + names, height=0.68 * len(rows) + 0.4 * bool(title), stacked=True
    )
    figure.subplots_adjust(left=names / figure.get_figwidth(), right=0.995, bottom=0.01, hspace=0.05)
    figure.subplots_adjust(top=1 - 0.35 * bool(title) / figure.get_figheight())
    for place, (name, images) in zip(axes, rows.items(), strict=True):
        _check_shape(images.shape[1], shape)
        picture = tile(images[:count].detach().float().cpu().reshape(-1, *shape), columns=count)
        place.imshow(picture.numpy(), cmap="gray_r", vmin=0, vmax=1, interpolation="nearest")
        place.set_xticks([])
        place.set_yticks([])
        place.set_frame_on(False)
        place.set_ylabel(name, rotation=0, ha="right", va="center", fontsize=9)
    figure.suptitle(title, fontsize=10)
    return figure


def figure_of(
    panels: int, *, width: float, height: float, stacked: bool = False, shared: bool = False
) -> "tuple[Figure, list[Axes]]":
    """A figure with a number of panels, side by side or stacked, and their axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout=None if stacked else "constrained")
    grid = figure.subplots(panels if stacked else 1, 1 if stacked else panels, squeeze=False, sharey=shared)
    return figure, list(grid.flat)


def _check_shape(pixels: int, shape: tuple[int, int]) -> None:
    if math.prod(shape) != pixels:
        raise ValueError(f"shape is {shape} for {pixels} columns: give height and width whose product is {pixels}")
