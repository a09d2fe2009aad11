"""Runs with a full disk, with numbers that overflow, and with data larger than memory."""

import json
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dbn import DBN, RBM, DivergenceError, Gaussian, datasets, train
from experiments.benchmarking.memory import peak_bytes
from experiments.study.records import ROOT

_MB = 2**20


def full_disk(out: Path) -> dict[str, Any]:
    """Limit the size of files: the process must raise a clear error and keep an intact checkpoint."""
    out = out.resolve()
    shutil.rmtree(out, ignore_errors=True)
    found = _in_process("write_until_full", str(out))
    return {"what": "checkpoint on a full disk", "survived": int(found["whole"]), "tried": 1, "how": found["error"]}


def write_until_full(folder: str) -> dict[str, Any]:
    """Train with checkpoints until no more can be written, and resume when it can."""
    out = Path(folder)
    x = torch.rand(60, 200, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"checkpoint": out, "checkpoint_seconds": 0, "progress": False, "seed": 0}

    def forbid(record: dict[str, float]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    error = ""
    try:
        train(RBM(200, 100, seed=0), x, epochs=3, callback=forbid, **settings)
    except OSError as caught:
        error = str(caught).replace(str(out), "…")
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    left = sorted(path.name for path in out.iterdir())
    again, unbroken = RBM(200, 100, seed=0), RBM(200, 100, seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a skipped file would warn
        train(again, x, epochs=3, **settings)
    train(unbroken, x, epochs=3, progress=False, seed=0)
    whole = "could not be saved" in error and len(left) == 1 and torch.equal(again.weight, unbroken.weight)
    return {"error": f"“{error}”; the same call went on from the file before to the same bits", "whole": whole}


def diverging() -> list[dict[str, Any]]:
    """Train Gaussian units at a learning rate of 100: an error must name the layer, or the rate is halved."""
    x = torch.randn(2000, 20, generator=torch.Generator().manual_seed(0))
    settings: dict[str, Any] = {"epochs": 3, "learning_rate": [0.003, 100.0], "progress": False, "seed": 0}
    stack, error = DBN([Gaussian(20), Gaussian(16), 8], seed=0), ""
    try:
        stack.pretrain(x, **settings)
    except DivergenceError as caught:
        error = str(caught)
    finite = all(bool(value.isfinite().all()) for value in stack.parameters())
    named = int("layer 2/2" in error and "epoch 1" in error and finite)
    halved = DBN([Gaussian(20), Gaussian(16), 8], seed=0)
    histories = halved.pretrain(x, on_divergence="halve", **settings)
    ended = int(all(bool(value.isfinite().all()) for value in halved.parameters()) and len(histories[1]) == 3)
    last = f"reconstruction error {histories[1].last['reconstruction_error']:.2f}"
    return [
        {"what": "learning rate 100, raised", "survived": named, "tried": 1, "how": f"“{error}”"},
        {"what": "learning rate 100, halved", "survived": ended, "tried": 1, "how": f"finite to the end, {last}"},
    ]


def larger_than_memory(megabytes: int, limit: int, out: Path) -> dict[str, Any]:
    """Pretrain two layers for an epoch on a file of digits, and measure the peak memory of the process."""
    out = out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    path, rows = out / "digits.f32", megabytes * _MB // (4 * 784)
    _write_digits(path, rows)
    try:
        found = _in_process("pretrain_mapped", str(path), rows)
    finally:
        path.unlink()
    same = abs(found["error"] - found["error_in_memory"]) < 0.1 * found["error_in_memory"]
    how = (
        f"peak {found['peak']:.0f} MB of {limit}, {rows} rows, {found['seconds']:.0f} s; reconstruction error "
        f"{found['error']:.2f}, of as many updates from memory {found['error_in_memory']:.2f}"
    )
    survived = int(found["peak"] <= limit and same)
    return {"what": f"file of {megabytes} MB, one epoch of two layers", "survived": survived, "tried": 1, "how": how}


def _write_digits(path: Path, rows: int) -> None:
    digits = datasets.load("mnist-sample").train.x.numpy()
    with path.open("wb") as file:
        for first in range(0, rows, len(digits)):
            file.write(digits[: rows - first].tobytes())


def pretrain_mapped(path: str, rows: int) -> dict[str, Any]:
    """Pretrain on a mapped file, then for the same updates in memory; return both errors, and the first peak."""
    mapped = np.memmap(path, dtype=np.float32, mode="r", shape=(rows, 784))
    settings: dict[str, Any] = {"progress": False, "seed": 0, "learning_rate": 0.05, "momentum": 0.5}
    stack = DBN([784, 64, 32], seed=0)
    histories = stack.pretrain(mapped, epochs=1, cache_bytes=2**26, **settings)
    peak = peak_bytes() / _MB
    digits = datasets.load("mnist-sample").train.x
    epochs = max(1, round(rows / len(digits)))
    train(other := RBM(784, 64, seed=0), digits, epochs=epochs, **settings)
    return {
        "peak": peak,
        "seconds": sum(history.last["seconds"] for history in histories),
        "error": _error(stack.layers[0], digits),
        "error_in_memory": _error(other, digits),
    }


@torch.no_grad()
def _error(rbm: RBM, x: torch.Tensor) -> float:
    return float((rbm.reconstruct(x) - x).square().sum(1).mean())


_CALL = f"import json, sys, {__name__} as module; a = json.loads(sys.argv[1]); "
_CALL += "print(json.dumps(getattr(module, a[0])(*a[1:])))"


def _in_process(function: str, *arguments: Any) -> dict[str, Any]:
    """Return the value of a function of this module in a process of its own."""
    command = [sys.executable, "-c", _CALL, json.dumps([function, *arguments])]
    run = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    if run.returncode:
        raise RuntimeError(f"{function} ended with {run.returncode}: {run.stderr}")
    found: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return found
