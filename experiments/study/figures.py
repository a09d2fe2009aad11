"""Figures of studies: curves over runs, quantities by layer, and costs. Needs matplotlib."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from dbn.plots import figure_of

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

_BANDS = {"sd": "mean ± 1 sd of runs", "range": "mean, lowest to highest"}


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
    figure, axes = figure_of(len(panels), width=5.4 * len(panels) + 2.2, height=4.6, shared=True)
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
    figure, axes = figure_of(len(panels), width=5.2 * len(panels) + 2.2, height=4.4)
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
    figure, axes = figure_of(len(panels), width=3.6 * len(panels) + 0.6, height=4.0)
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
