"""How much faster are several processes, and at which number do more of them stop paying?

One process and several, with one thread and one core each, alternate in the same steps of CD-1. A model is fitted to
the seconds of a step: a · rows · weights + b · weights + c on each device, α for a message between processes and β for
a byte. α and β are fitted to the time that several processes take beyond one process with their share of the rows. The
same processes are also timed without any exchange, since cores of one computer may slow each other down.

Summing gradients in a ring sends 2(p − 1) messages in sequence, each of a p-th of the gradient. The model is drawn for
many devices, each as fast as one core of this computer, joined as the processes here or by a network. It says nothing
of devices of other speeds.
"""

import os
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from dbn import CD, RBM, distributed
from dbn.runtime.checks import whole_number
from experiments.benchmarking.rank_pool import RankPool
from experiments.benchmarking.timing import Row, learning, seconds
from experiments.study import figures
from experiments.study.command_line import option, parse
from experiments.study.options import OutOption
from experiments.study.records import as_dict, environment, launch, write_json, write_text
from experiments.study.tables import aligned

VISIBLE = 784


def doubled(last: int) -> tuple[int, ...]:
    """1, 2, 4, … up to `last`."""
    return tuple(2**power for power in range(last.bit_length()) if 2**power <= last)


@dataclass(frozen=True)
class Config(OutOption):
    """Measurements, and the drawing of the model."""

    processes: tuple[int, ...] = option(doubled(max(2, os.cpu_count() or 2)), "numbers of processes to measure, from 1")
    widths: tuple[int, ...] = option((256, 512, 1024, 2048), "hidden units")
    batches: tuple[int, ...] = option((64, 256, 512, 1024), "rows a batch, of all processes together")
    rounds: int = option(7, "rounds of each, after one warm-up round")
    steps: int = option(8, "steps a round")
    devices: int = option(1024, "largest number of devices in the picture")
    drawn: tuple[int, ...] = option((256, 1024, 4096), "hidden units in the picture")
    batch: int = option(512, "rows a batch in the picture")

    def __post_init__(self) -> None:
        for name in ("processes", "widths", "batches", "drawn"):
            for value in getattr(self, name):
                whole_number(value, name)
        if self.processes[:1] != (1,) or len(self.processes) < 2:
            raise ValueError(f"--processes {self.processes}: begin with 1, which the others are compared with")


PRESETS = {
    "cores": Config(),
    "tiny": Config(processes=(1, 2), widths=(8, 16), batches=(16, 32), rounds=1, steps=2),
}


class Link(NamedTuple):
    """A link between devices: seconds a message, and bytes a second."""

    name: str
    latency: float
    bandwidth: float


#: Assumed, not measured: the vendors' numbers, less a fifth.
NETWORKS = (Link("10 Gbit/s Ethernet", 30e-6, 1e9), Link("400 Gbit/s InfiniBand", 3e-6, 40e9))


class Cost(NamedTuple):
    """Seconds of a step: by row and weight, by weight, and constant; between processes by message and by byte."""

    row_weight: float
    weight: float
    anyway: float
    message: float
    byte: float

    def step(self, devices: int, weights: int, batch: float, link: Link | None = None) -> float:
        """Return the seconds of a step for a number of rows in all, with the measured link or another."""
        own = self.row_weight * batch / devices * weights + self.weight * weights + self.anyway
        message, byte = (self.message, self.byte) if link is None else (link.latency, 1 / link.bandwidth)
        return own + 2 * (devices - 1) * (message + byte * 4 * weights / devices)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measure, fit, print the tables, write `results.json` and `scaling_ranks.png`."""
    _, config = parse(PRESETS, __doc__ or "", arguments)
    out = Path(config.out)
    rows = list(measured(config))
    cost = fitted(rows)
    links = (None, *NETWORKS)
    ends = [ending(cost, config, hidden, link) for link in links for hidden in config.drawn]
    content = {"config": as_dict(config), "environment": environment(), "rows": rows, "model": cost._asdict()}
    write_json(out / "results.json", {**content, "ends": ends})
    found = text(rows, cost, ends)
    write_text(out / "table.md", found)
    print(found)
    draw(cost, config, out / "scaling_ranks.png")
    print(f"wrote {out}/results.json, table.md and scaling_ranks.png")
    return content


def measured(config: Config) -> Iterator[Row]:
    """Time a step for every width, batch and number of processes, in turn."""
    pools = {count: RankPool(count, pinned=True) for count in config.processes}
    try:
        for hidden in config.widths:
            for batch in config.batches:
                rounds = [_timed(pools, hidden, batch, config.steps) for _ in range(config.rounds + 1)][1:]
                for count, pool in pools.items():
                    took = statistics.median(times["in all", count] for times in rounds)
                    exchange = statistics.median(max(pool(exchanges, hidden)) for _ in range(config.rounds))
                    alone = [times["in all", 1] for times in rounds]
                    yield {
                        "hidden": hidden,
                        "batch": batch,
                        "processes": count,
                        "seconds": took,
                        "in_all": _speedup(alone, [times["in all", count] for times in rounds], 1),
                        "each": _speedup(alone, [times["each", count] for times in rounds], count),
                        "apart": _speedup(alone, [times["apart", count] for times in rounds], 1),
                        "exchange": exchange / took if count > 1 else 0.0,
                    }
    finally:
        for pool in pools.values():
            pool.stop()


def _timed(pools: Mapping[int, RankPool], hidden: int, batch: int, count: int) -> dict[tuple[str, int], float]:
    """Time a step with every number of processes in turn: with `batch` rows in all, with `batch` rows each, and apart.

    Apart, each has its share of the rows in all, and exchanges nothing.
    """
    found = {}
    for many, pool in pools.items():
        found["in all", many] = max(pool(steps, hidden, batch, count))
        found["each", many] = max(pool(steps, hidden, batch * many, count)) if many > 1 else found["in all", 1]
        found["apart", many] = max(pool(apart, hidden, batch // many, count)) if many > 1 else found["in all", 1]
    return found


def _speedup(alone: Sequence[float], together: Sequence[float], rows: int) -> float:
    """Return the median ratio of rows a second, of several processes over one; a step has `rows` times as many rows."""
    return statistics.median(rows * one / many for one, many in zip(alone, together, strict=True))


def steps(hidden: int, batch: int, count: int) -> float:
    """Return the mean seconds of a step, over `count` steps."""
    return seconds(_work(hidden, batch, count), torch.device("cpu")) / count


def apart(hidden: int, batch: int, count: int) -> float:
    """Return the same for a process that exchanges nothing."""
    with distributed.single_process():
        return seconds(_work(hidden, batch, count, apart=True), torch.device("cpu")) / count


@cache
def _work(hidden: int, batch: int, count: int, *, apart: bool = False) -> Any:
    x = torch.rand(batch * count, VISIBLE, generator=torch.Generator().manual_seed(0))
    return learning(x, RBM(VISIBLE, hidden, seed=0), CD(1), batch=batch)


def exchanges(hidden: int, count: int = 8) -> float:
    """Return the mean seconds of summing a gradient over all processes, over `count` sums."""
    flat = torch.zeros(_weights(hidden))
    return seconds(lambda: [distributed.all_reduce_sum(flat) for _ in range(count)], torch.device("cpu")) / count


def fitted(rows: Sequence[Row]) -> Cost:
    """Fit the model by least squared relative errors: first to one process, then to several."""
    one = [row for row in rows if row["processes"] == 1]
    on_one = _least_squares(
        [[row["batch"] * _weights(row["hidden"]), _weights(row["hidden"]), 1.0] for row in one],
        [row["seconds"] for row in one],
    )
    alone = Cost(*on_one, 0.0, 0.0)
    between, longer = [], []
    for row in rows:
        count, weights = row["processes"], _weights(row["hidden"])
        if count > 1:
            between.append([2.0 * (count - 1), 2.0 * (count - 1) / count * 4 * weights])
            longer.append(max(row["seconds"] - alone.step(1, weights, row["batch"] / count), 1e-9))
    return Cost(*on_one, *_least_squares(between, longer))


def _least_squares(terms: Sequence[Sequence[float]], values: Sequence[float]) -> list[float]:
    """Fit non-negative factors of the terms by least squared relative errors."""
    matrix = torch.tensor(terms, dtype=torch.float64) / torch.tensor(values, dtype=torch.float64)[:, None]
    kept = list(range(matrix.shape[1]))
    while True:
        scale = matrix[:, kept].abs().amax(0)
        ones = torch.ones(len(matrix), 1, dtype=torch.float64)
        factors = torch.linalg.lstsq(matrix[:, kept] / scale, ones).solution[:, 0] / scale
        if bool((factors >= 0).all()) or len(kept) == 1:
            found = dict(zip(kept, factors.clamp(min=0).tolist(), strict=True))
            return [found.get(place, 0.0) for place in range(matrix.shape[1])]
        del kept[int((factors * scale).argmin())]


def ending(cost: Cost, config: Config, hidden: int, link: Link | None) -> Row:
    """Return the number of devices with the shortest step, and the largest with at least half of the ideal speed."""
    weights, counts = _weights(hidden), doubled(config.devices)
    times = [cost.step(count, weights, config.batch, link) for count in counts]
    speedups = [times[0] / took for took in times]
    fastest = max(range(len(counts)), key=speedups.__getitem__)
    half = max(count for count, speedup in zip(counts, speedups, strict=True) if speedup >= count / 2)
    name = "this RBM" if link is None else link.name
    return {"link": name, "hidden": hidden, "half": half, "fastest": counts[fastest], "speedup": speedups[fastest]}


def draw(cost: Cost, config: Config, path: Path) -> None:
    """Draw the speed relative to one device, by devices: a panel a link, a line a width."""
    counts, panels = doubled(config.devices), {}
    for link in (None, *NETWORKS):
        lines = {"as many times as devices": [[float(count) for count in counts]]}
        for hidden in config.drawn:
            weights = _weights(hidden)
            alone = cost.step(1, weights, config.batch)
            times = [cost.step(count, weights, config.batch, link) for count in counts]
            lines[f"{VISIBLE}–{hidden}, {config.batch} rows in all"] = [[alone / took for took in times]]
        weights = _weights(config.drawn[-1])
        alone = cost.step(1, weights, config.batch)
        times = [cost.step(count, weights, config.batch * count, link) for count in counts]
        pairs = zip(counts, times, strict=True)
        lines[f"{VISIBLE}–{config.drawn[-1]}, {config.batch} rows each"] = [[alone * n / took for n, took in pairs]]
        panels["this RBM, fitted" if link is None else f"{link.name}, assumed"] = lines
    figure = figures.curves(
        panels,
        xlabel="devices, each as one core here",
        ylabel="rows a second, as a multiple of one's",
        highlight="as many times as devices",
        log=True,
        at=counts,
    )
    figure.savefig(path)


def _weights(hidden: int) -> int:
    return VISIBLE * hidden + VISIBLE + hidden


def text(rows: Sequence[Row], cost: Cost, ends: Sequence[Row]) -> str:
    """Return the measurements, the fitted model, and where more devices stop paying."""
    return "\n\n".join([_table(rows, cost), _fit(rows, cost), _ends(ends)])


def _table(rows: Sequence[Row], cost: Cost) -> str:
    head = ["hidden", "rows", "processes", "ms a step", "by the model", "exchanging"]
    head += ["× one, rows in all", "rows each", "without exchange"]
    cells = [
        [
            *(str(row[name]) for name in ("hidden", "batch", "processes")),
            f"{1e3 * row['seconds']:.2f}",
            f"{1e3 * cost.step(row['processes'], _weights(row['hidden']), row['batch']):.2f}",
            f"{row['exchange']:.0%}",
            f"{row['in_all']:.2f}",
            f"{row['each']:.2f}",
            f"{row['apart']:.2f}",
        ]
        for row in rows
    ]
    return aligned([head, *cells])


def _fit(rows: Sequence[Row], cost: Cost) -> str:
    errors = [
        abs(cost.step(row["processes"], _weights(row["hidden"]), row["batch"]) / row["seconds"] - 1) for row in rows
    ]
    return (
        f"a step takes {1e12 * cost.row_weight:.1f} ps a row and weight, {1e9 * cost.weight:.2f} ns a weight and "
        f"{1e6 * cost.anyway:.0f} µs; between processes {1e6 * cost.message:.0f} µs a message and "
        f"{1e-9 / cost.byte if cost.byte else float('inf'):.2f} GB/s; the model is off by "
        f"{statistics.median(errors):.0%} in the median and {max(errors):.0%} at most"
    )


def _ends(ends: Sequence[Row]) -> str:
    head = ["link", "hidden", "at least half used up to", "fastest with", "× one"]
    return aligned([head, *([str(e[n]) for n in list(e)[:4]] + [f"{e['speedup']:.1f}"] for e in ends)])


if __name__ == "__main__":
    launch(main)
