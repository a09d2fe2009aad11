"""Paired timings, and the bare matrix products that a training step is compared with."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from dbn import RBM, Estimator
from dbn.training import GraphedUpdate, RBMUpdate, capturable, open_rows

Row = dict[str, Any]
Work = Callable[[], object]


def paired(what: str, of: str, first: Work, second: Work, rounds: int, device: torch.device, **more: Any) -> Row:
    """Time two pieces of work in turn, after one warm-up round, and return the ratio of their seconds."""
    times = [(seconds(first, device), seconds(second, device)) for _ in range(rounds + 1)][1:]
    ratios = sorted(a / b for a, b in times)
    low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    medians = [statistics.median(column) for column in zip(*times, strict=True)]
    return {"what": what, "of": of, "ratio": middle, "quartiles": [low, high], "seconds": medians, **more}


def skipped(what: str, reason: object) -> Row:
    """Return the row of something that could not be measured."""
    return {"what": what, "of": "skipped", "reason": str(reason)}


def repeated(x: Tensor, rows: int) -> Tensor:
    """Repeat the rows of x up to a number of rows: (n, …) -> (rows, …)."""
    return x.repeat(-(-rows // len(x)), *[1] * (x.dim() - 1))[:rows]


def seconds(work: Work, device: torch.device) -> float:
    """Return the wall-clock seconds of one call, including the device's queue."""
    _wait(device)
    started = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started


def products(x: Tensor, hidden: int, *, batch: int = 100, steps: int = 1) -> Work:
    """Return the 1 + 2·steps forward and two outer products of an epoch of CD steps, into preallocated buffers."""
    batch = min(batch, len(x))
    w, up = torch.randn(x.shape[1], hidden, device=x.device), torch.empty(batch, hidden, device=x.device)
    down, outer = torch.empty(batch, x.shape[1], device=x.device), torch.empty_like(w)

    def work() -> None:
        for v in torch.split(x, batch)[: len(x) // batch]:
            torch.mm(v, w, out=up)
            for _ in range(steps):
                torch.mm(up, w.t(), out=down)
                torch.mm(down, w, out=up)
            torch.mm(v.t(), up, out=outer)
            torch.mm(down.t(), up, out=outer)

    return work


def learning(x: Tensor, rbm: RBM, estimator: Estimator, *, batch: int = 100) -> Work:
    """Return an epoch of the library's steps alone, with default momentum and decay."""
    source, generator = open_rows(rbm, x, batch), torch.Generator(x.device).manual_seed(0)
    estimator.prepare(rbm, generator)
    learner = RBMUpdate(rbm, estimator, generator, separate_gradient=capturable(rbm, estimator))
    step = GraphedUpdate(learner, batch)

    def work() -> None:
        for v, *_ in source.batches(generator, (lambda rows: learner.buffers(rows).positive.visible)):
            step(v, 0.1, estimator.suggested_momentum(0.0))

    return work


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
