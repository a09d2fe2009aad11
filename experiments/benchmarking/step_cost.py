"""The cost of training by batch size, width, Gibbs steps and layers, relative to the products alone."""

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path

from torch import Tensor

from dbn import CD, DBN, RBM
from experiments.benchmarking.timing import Row, Work, learning, paired, products, repeated
from experiments.study import figures

#: Training is said to be slow if it takes more than this factor of the time of its products.
LEAVES = 1.5


def growth(x: Tensor, grid: Mapping[str, Sequence[int]], rounds: int) -> Iterator[Row]:
    """Time training over its products for each number of the grid; the rest is 784→500, CD-1, batches of 100.

    Stacks have layers of the width of the visible layer. They are pretrained for one epoch, with encoding and history.

    Args:
        x: rows (n, V), which are repeated if necessary.
        grid: numbers by "rows a batch", "hidden units", "Gibbs steps" and "layers".
        rounds: rounds of each pair.
    """
    kinds: dict[str, Callable[[Tensor, int], tuple[Work, Work, int]]] = {
        "rows a batch": _batch,
        "hidden units": _width,
        "Gibbs steps": _steps,
        "layers": _layers,
    }
    for axis, values in grid.items():
        for value in values:
            ours, floor, rows = kinds[axis](x, value)
            what = f"{value} {axis}"
            row = paired(what, "growth / its products", ours, floor, rounds, x.device)
            yield row | {"axis": axis, "value": value, "rows": rows}


def draw(rows: list[Row], path: Path) -> None:
    """Draw microseconds a row by each axis, of training and of its products, and name the slow range."""
    panels = {}
    for axis in dict.fromkeys(row["axis"] for row in rows):
        found = [row for row in rows if row["axis"] == axis]
        ours, floor = ([1e6 * row["seconds"][side] / row["rows"] for row in found] for side in (0, 1))
        where = leaving([row["value"] for row in found], [row["ratio"] for row in found])
        panels[f"{axis}\n{where}"] = ([row["value"] for row in found], {"dbn": ours, "products alone": floor})
    figures.costs(panels, ylabel="µs a row").savefig(path)


def leaving(values: list[int], ratios: list[float]) -> str:
    """Describe where training takes more than LEAVES times its products."""
    above = [ratio > LEAVES for ratio in ratios]
    shown = f"{min(ratios):.2f} to {max(ratios):.2f} times the products"
    if not any(above):
        return f"{shown}, never over {LEAVES}"
    if all(above):
        return f"{shown}, always over {LEAVES}"
    turns = [
        str(b if later else a) for (a, now), (b, later) in pairwise(zip(values, above, strict=True)) if now != later
    ]
    return f"{shown}, over {LEAVES} {'up to' if above[0] else 'from'} {' and '.join(turns)}"


def _batch(x: Tensor, batch: int) -> tuple[Work, Work, int]:
    x = repeated(x, max(2048, 2 * batch) // batch * batch)
    rbm = RBM(x.shape[1], 500, seed=0).to(x.device)
    return learning(x, rbm, CD(1), batch=batch), products(x, 500, batch=batch), len(x)


def _width(x: Tensor, hidden: int) -> tuple[Work, Work, int]:
    x = repeated(x, 2000)
    return learning(x, RBM(x.shape[1], hidden, seed=0).to(x.device), CD(1)), products(x, hidden), len(x)


def _steps(x: Tensor, steps: int) -> tuple[Work, Work, int]:
    x = repeated(x, 2000)
    rbm = RBM(x.shape[1], 500, seed=0).to(x.device)
    return learning(x, rbm, CD(steps)), products(x, 500, steps=steps), len(x)


def _layers(x: Tensor, layers: int) -> tuple[Work, Work, int]:
    x = repeated(x, 6000)
    width = x.shape[1]
    floor = products(x, width)

    def ours() -> None:
        with contextlib.redirect_stderr(io.StringIO()):
            DBN([width] * (layers + 1), seed=0).to(x.device).pretrain(x, epochs=1, seed=0)

    def floors() -> None:
        for _ in range(layers):
            floor()

    return ours, floors, len(x)
