"""Runs that are killed at random moments, and resumed by the same call."""

import multiprocessing
import os
import random
import shutil
import signal
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dbn import CD, DBN, PCD, datasets, distributed, finetune
from dbn.schedules import linear

_STAGES = ("pretraining, layer 1", "pretraining, layer 2", "fine-tuning")


def work(folder: Path, result: Path) -> None:
    """Pretrain and fine-tune with checkpoints in a folder, or without, and write the parameters."""
    torch.set_num_threads(1)
    split = datasets.load("mnist-sample", labels=500, seed=0)
    keep: dict[str, Any] = {"checkpoint_seconds": 0.02, "progress": False, "seed": 0}
    kept = (None, None) if folder == result else (folder / "pretrain", folder / "finetune")
    stack = DBN([784, 64, 32], seed=0)
    settings: dict[str, Any] = {"estimator": [PCD(50), CD(1)], "binarise": "sample", "upward": "samples"}
    stack.pretrain(
        split.train.x[:2000], epochs=4, centring=0.01, average_from=2, checkpoint=kept[0], **settings, **keep
    )
    mlp = stack.to_mlp(10, dropout=0.2, seed=0)
    x, y = split.train.labelled
    rate = linear(1e-2, 1e-3, 20)
    validation = tuple(split.validation)[:2]
    finetune(mlp, x, y, epochs=20, batch_size=10, learning_rate=rate, validation=validation, checkpoint=kept[1], **keep)
    distributed.run_on_main(lambda: torch.save({**stack.state_dict(), **mlp.state_dict()}, result))


def killed_runs(kills: int, out: Path) -> dict[str, Any]:
    """Kill runs at random moments, resume them, and compare their parameters with those of an uninterrupted run."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    _run(out / "unbroken.pt", out / "unbroken.pt")
    started = time.perf_counter()  # of a second run: the first also waits for the fork server
    _run(out / "kept", out / "kept.pt")
    seconds = time.perf_counter() - started
    unbroken, draw = torch.load(out / "unbroken.pt"), random.Random(0)
    same, where = 0, dict.fromkeys(("before the first file", *_STAGES, "after the end"), 0)
    for number in range(kills):
        folder, result = out / str(number), out / f"{number}.pt"
        where[_killed(folder, result, draw.uniform(0.05, 1.05) * seconds)] += 1
        _run(folder, result)
        same += equal(unbroken, torch.load(result))
        shutil.rmtree(folder)
    how = "bit-identical to the unbroken run; killed " + ", ".join(f"{count} {name}" for name, count in where.items())
    return {"what": "runs killed once", "survived": same, "tried": kills, "how": how}


def _run(folder: Path, result: Path) -> None:
    process = _process(folder, result)
    process.join()
    if process.exitcode:
        raise RuntimeError(f"the run in {folder} ended with {process.exitcode}")


def _killed(folder: Path, result: Path, after: float) -> str:
    """Start a run, kill it after some seconds, and name the stage that it had reached."""
    process = _process(folder, result)
    process.join(after)
    if not process.is_alive():
        return "after the end"
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    if (folder / "finetune").exists():
        return _STAGES[2]
    if not list((folder / "pretrain").glob("*.pt")):
        return "before the first file"
    return _STAGES[int(bool(newest(folder / "pretrain")["stateful"]["stack"]["histories"]))]


def newest(folder: Path) -> dict[str, Any]:
    """Load the newest checkpoint in a folder."""
    content: dict[str, Any] = torch.load(max(folder.glob("*.pt")), weights_only=True)
    return content


def _process(folder: Path, result: Path) -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])  # torch is imported once, not once a run
    process = context.Process(target=work, args=(folder, result))
    process.start()
    return process


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    """Whether two states are the same, bit by bit."""
    return one.keys() == other.keys() and all(torch.equal(value, other[name]) for name, value in one.items())


def states_equal(states: Sequence[dict[str, Tensor]]) -> bool:
    """Whether all states are the same, bit by bit."""
    return all(equal(states[0], state) for state in states[1:])
