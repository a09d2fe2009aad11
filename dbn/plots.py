"""Pictures of filters, reconstructions and curves: tensors in, matplotlib figures out. Needs the extra `plots`."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_GAP = 1  # pixels between the tiles of a grid
_BANDS = {"sd": "mean ± 1 sd of runs", "range": "mean, lowest to highest"}


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
        count: at most so many hidden units, those with the largest weights.
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
    figure, (axes,) = _figure(1, width=7.2, height=6.2 * picture.shape[0] / picture.shape[1] + 0.4)
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
    figure, axes = _figure(
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


def curves(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[float]]]],
    *,
    xlabel: str,
    ylabel: str,
    highlight: str | None = None,
    log: bool = False,
    at: Sequence[float] | None = None,
    at_log: bool = True,
    linear_within: float | None = None,
    band: Literal["sd", "range"] = "sd",
) -> "Figure":
    """Means over runs with a band around each, a line a name and a panel a group, all panels on one vertical axis.

    Args:
        panels: titles of panels to names of lines to runs, each run a list of one number an epoch.
        xlabel: below the panels.
        ylabel: beside them.
        highlight: the line to draw in black.
        log: use a logarithmic vertical axis.
        at: what the numbers of a run belong to instead of epochs.
        at_log: use a logarithmic horizontal axis for those.
        linear_within: use a vertical axis that is linear within ± this and logarithmic on both sides, for errors.
        band: one standard deviation to both sides, or from the lowest run to the highest.

    Raises:
        ValueError: another band.

    Example:
        >>> figure = curves({"500 labels": {"DBN": [[0.3, 0.2], [0.4, 0.2]]}}, xlabel="epoch", ylabel="error")
    """
    if band not in _BANDS:
        raise ValueError(f"band is {band!r}: give {' or '.join(map(repr, _BANDS))}")
    figure, axes = _figure(len(panels), width=5.4 * len(panels) + 2.2, height=4.6, shared=True)
    numbers = {name: k for k, name in enumerate(dict.fromkeys(name for lines in panels.values() for name in lines))}
    drawn: dict[str, Line2D] = {}
    for place, (title, lines) in zip(axes, panels.items(), strict=True):
        for name, runs in lines.items():
            mean, low, high = _banded(torch.tensor(runs, dtype=torch.float64, device="cpu"), band, log=log)
            epochs = torch.as_tensor(range(1, len(mean) + 1) if at is None else at, device="cpu")
            style = _style(numbers[name], name == highlight)
            (line,) = place.plot(epochs, mean, label=name, marker="" if at is None else "o", markersize=4, **style)
            drawn.setdefault(name, line)
            place.fill_between(epochs, low, high, color=style["color"], alpha=0.15, linewidth=0)
        if linear_within is not None:
            place.set_yscale("symlog", linthresh=linear_within)
            place.axhline(0, color="0.4", linewidth=0.8)
        _number_axis(place, at, log=at_log)
        place.set_title(title, fontsize=10)
        place.set_xlabel(xlabel)
        place.grid(alpha=0.25)
    axes[0].set_ylabel(ylabel)
    if log:
        _log_axis(axes[0])
    several = any(len(runs) > 1 for lines in panels.values() for runs in lines.values())
    _legend(axes[-1], list(drawn.values()), _BANDS[band] if several else "")
    return figure


def _banded(values: Tensor, band: str, *, log: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Mean, lower and upper edge of runs (R, n); on a logarithmic axis the lower one stays above zero."""
    mean = values.mean(0)
    if band == "range":
        return mean, values.amin(0), values.amax(0)
    spread = values.std(0) if len(values) > 1 else torch.zeros_like(mean)
    low = mean - spread
    return mean, low.clamp(min=float(mean.min()) / 2) if log else low, mean + spread


def by_layer(
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    *,
    ticks: Mapping[str, Sequence[str]],
    highlight: str | None = None,
) -> "Figure":
    """One number a layer for each of several networks, on a logarithmic axis: how a signal grows or dies.

    Args:
        panels: titles of panels to names of networks to one number a layer; zeros are drawn at the lower edge.
        ticks: the same titles to the names of the layers.
        highlight: the network to draw in black.

    Example:
        >>> figure = by_layer({"activations": {"Xavier": [0.5, 0.4]}}, ticks={"activations": ["input", "layer 1"]})
    """
    figure, axes = _figure(len(panels), width=5.2 * len(panels) + 2.2, height=4.4)
    for place, (title, lines) in zip(axes, panels.items(), strict=True):
        floor = min((value for values in lines.values() for value in values if value > 0), default=1.0) / 10
        for number, (name, values) in enumerate(lines.items()):
            shown = [max(value, floor) for value in values]
            place.plot(
                range(len(values)), shown, marker="o", markersize=4, label=name, **_style(number, name == highlight)
            )
        place.set_yscale("log")
        if any(value == 0 for values in lines.values() for value in values):
            place.axhline(floor, color="0.6", linewidth=0.8, linestyle=":")
            place.annotate("zero", (0, floor), textcoords="offset points", xytext=(2, 3), fontsize=8, color="0.4")
        place.set_xticks(range(len(ticks[title])), ticks[title], fontsize=9)
        place.set_title(title, fontsize=10)
        place.grid(alpha=0.25)
    _legend(axes[-1], axes[-1].get_legend_handles_labels()[0])
    return figure


def costs(panels: Mapping[str, tuple[Sequence[float], Mapping[str, Sequence[float]]]], *, ylabel: str = "") -> "Figure":
    """What something costs as it grows, on logarithmic axes: the first line of each panel against the others.

    Args:
        panels: titles of panels to the numbers along the axis, and names of lines to as many costs.
        ylabel: the unit of the costs.

    Example:
        >>> figure = costs({"rows a batch": ([10, 100], {"dbn": [9.0, 2.0], "products alone": [3.0, 1.5]})})
    """
    figure, axes = _figure(len(panels), width=3.6 * len(panels) + 0.6, height=4.0)
    for place, (title, (values, lines)) in zip(axes, panels.items(), strict=True):
        for number, (name, shown) in enumerate(lines.items()):
            place.plot(values, shown, marker="o", markersize=4, label=name, **_style(number, number == 0))
        place.set_xscale("log")
        _log_axis(place)
        place.set_xticks(list(values), [f"{value:g}" for value in values], fontsize=8, rotation=45)
        place.minorticks_off()
        place.set_title(title, fontsize=9)
        place.grid(alpha=0.25)
    axes[0].set_ylabel(ylabel)
    axes[0].legend(frameon=False, fontsize=9)
    return figure


def _figure(
    panels: int, *, width: float, height: float, stacked: bool = False, shared: bool = False
) -> "tuple[Figure, list[Axes]]":
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=120, layout=None if stacked else "constrained")
    grid = figure.subplots(panels if stacked else 1, 1 if stacked else panels, squeeze=False, sharey=shared)
    return figure, list(grid.flat)


def _number_axis(axes: "Axes", at: Sequence[float] | None, *, log: bool) -> None:
    """Whole numbers from 1 along the axis, or marks at those that are given."""
    from matplotlib.ticker import MaxNLocator

    if at is None:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        return
    axes.set_xscale("log" if log else "linear")
    axes.set_xticks(list(at), [f"{value:g}" for value in at])
    axes.minorticks_off()


def _legend(axes: "Axes", lines: "Sequence[Artist]", title: str = "") -> None:
    """A legend of these lines to the right of a panel."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.01, 0.5)}
    axes.legend(handles=list(lines), title=title, frameon=False, fontsize=9, title_fontsize=8, **place)


def _log_axis(axes: "Axes") -> None:
    from matplotlib.ticker import LogLocator, StrMethodFormatter

    axes.set_yscale("log")
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(
        LogLocator(subs=(1, 2, 3, 5) if high > 5 * low else (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8))
    )
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter("")


def _style(number: int, highlighted: bool) -> dict[str, Any]:
    if highlighted:
        return {"color": "black", "linewidth": 2.4, "zorder": 5}
    return {"color": f"C{number % 10}", "linewidth": 1.4}


def _check_shape(pixels: int, shape: tuple[int, int]) -> None:
    if math.prod(shape) != pixels:
        raise ValueError(f"shape is {shape} for {pixels} columns: give height and width whose product is {pixels}")
